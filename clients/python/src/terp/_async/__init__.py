"""The client. One of two twins: tools/sync.py generates the synchronous one from the asynchronous one."""
