"""Envelope encryption: the server's key wraps data keys, a data key encrypts what one sandbox or snapshot owns."""
