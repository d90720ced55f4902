"""The Terp server: sandboxes for AI agents, each a real virtual machine behind one API call."""

__version__ = "0.1.0"
