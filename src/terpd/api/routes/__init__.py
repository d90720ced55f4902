"""One file per resource: which call is which use case."""
