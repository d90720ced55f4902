"""The HTTP API as values: requests to send, replies to read, when to send again. No I/O, no clock."""
