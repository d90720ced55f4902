"""A machine's network on this host."""
