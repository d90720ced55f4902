"""The one way out: namespaces that hold a machine's network device, and the gateway that decides each connection."""
