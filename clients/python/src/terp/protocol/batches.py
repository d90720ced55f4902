"""How many files become how few requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MAX_ROWS = 64  # the server's cap
MAX_BATCH_BYTES = 8 * 1024 * 1024  # before base64; the server takes 16 MiB a file in JSON, and so much is no gain


def plan_batches(files: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    """
    Yield the files in their order, in batches that the server takes.

    A file larger than a batch comes alone; the caller sends a batch of one as a plain write, which has no size cap.
    """
    batch: dict[str, bytes] = {}
    size = 0
    for path, content in files.items():
        if batch and (len(batch) == MAX_ROWS or size + len(content) > MAX_BATCH_BYTES):
            yield batch
            batch, size = {}, 0
        batch[path] = content
        size += len(content)
    if batch:
        yield batch
