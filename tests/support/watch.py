"""A bystander: a sandbox that must not notice what goes on beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from terp import Sandbox


@contextmanager
def unaffected(sandbox: Sandbox) -> Iterator[None]:
    """Use *sandbox* again and again during the block, and once after it: each answer must be right."""
    stop = threading.Event()
    wrong: list[object] = []
    answers = 0

    def use() -> None:
        nonlocal answers
        while not stop.wait(0.2):
            try:
                answer = sandbox.exec("echo bystander", timeout=60).stdout
            except Exception as error:  # noqa: BLE001  it is what the test is about
                wrong.append(error)
                return
            if answer != "bystander\n":
                wrong.append(answer)
            answers += 1

    thread = threading.Thread(target=use)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not wrong, wrong
    assert sandbox.exec("echo after").stdout == "after\n"
