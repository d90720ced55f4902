"""Previews: what a guest serves on its ports, under a host name of its own, for callers without an API key."""
