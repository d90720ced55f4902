"""The command line. It uses the public SDK and nothing else; data goes to stdout, messages to stderr."""
