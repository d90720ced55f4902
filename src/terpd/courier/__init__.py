"""Outgoing HTTP of the server itself: posts to addresses that tenants name."""
