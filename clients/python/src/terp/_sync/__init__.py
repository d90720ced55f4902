# Generated from src/terp/_async/__init__.py by tools/sync.py: change that one.
"""The client. One of two twins: tools/sync.py generates the synchronous one from the asynchronous one."""
