"""The HTTP face: translates requests to use cases and their outcomes to JSON, SSE and streams."""

from terpd.api.app import create_app

__all__ = ["create_app"]
