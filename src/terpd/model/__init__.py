"""The nouns of the platform, their rules and the ports others implement: no I/O, no clock, no framework."""
