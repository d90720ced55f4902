"""The Model Context Protocol: the same use cases as the REST API, as tools for agents."""
