"""One run of the helper, seen from the process that started it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
from collections.abc import Sequence

from terpd.egress.netd import wire

_START_TIMEOUT_S = 20.0  # an interpreter's start, on a host with much else to do
_ANSWER_TIMEOUT_S = 20.0  # milliseconds usually; the kernel may be busy removing links
_END_TIMEOUT_S = 5.0  # of a process that was killed
_MODULE = "terpd.egress.netd"


class HelperLost(Exception):
    """It ended, or did not answer in time. What it was about to make is gone with it."""


class Refused(Exception):
    """It says no, for a reason that may be shown. `kind` is one of wire's."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class HelperProcess:
    """Made by `start`. One request at a time; a request that was given up leaves no descriptor behind."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self._process = process
        self._sock = sock
        self._ids = itertools.count(wire.HELLO_ID + 1)
        self._waiting: dict[int, asyncio.Future[wire.Message]] = {}
        self._loop = asyncio.get_running_loop()
        self.lost = False
        self._loop.add_reader(sock, self._receive)

    @classmethod
    async def start(cls) -> HelperProcess:
        """
        Return one that is ready.

        Raises:
            Refused: It cannot work on this host.
            HelperLost: It ended or was silent.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            # In a session of its own, so that Ctrl-C at a terminal is terpd's alone; -I, so that nothing in the
            # environment or the working directory is imported as root.
            command = [sys.executable, "-I", "-m", _MODULE]
            process = subprocess.Popen(command, stdin=theirs.fileno(), env={}, cwd="/", start_new_session=True)
        helper = cls(process, ours)
        try:
            helper._made(await helper._answer(wire.HELLO_ID, _START_TIMEOUT_S), makes=0)
        except BaseException:
            await helper.end()
            raise
        return helper

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, body: wire.Body, fds: Sequence[int], *, makes: int) -> Sequence[int]:
        """
        Return the *makes* descriptors of the answer.

        Raises:
            Refused
            HelperLost: `end` is to be called.
        """
        number = next(self._ids)
        try:
            wire.send(self._sock, {"id": number, **body}, fds)
        except OSError as error:  # it ended, or its queue is full since it hangs
            self._lose()
            raise HelperLost(f"it takes no request: {error.strerror}") from error
        return self._made(await self._answer(number, _ANSWER_TIMEOUT_S), makes=makes)

    async def end(self) -> None:
        """Kill it, and wait for its end; not for long, since a system call of the kernel's may hold it. Repeatable."""
        self._lose()
        self._sock.close()
        self._process.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.to_thread(self._process.wait)), _END_TIMEOUT_S)

    async def _answer(self, number: int, timeout_s: float) -> wire.Message:
        if self.lost:
            raise HelperLost("it has ended")
        waiting: asyncio.Future[wire.Message] = self._loop.create_future()
        self._waiting[number] = waiting
        try:
            await asyncio.wait([waiting], timeout=timeout_s)
        except BaseException:
            # The answer may have come in the same moment, and then its descriptors are nobody's.
            if waiting.done() and not waiting.exception():
                wire.close_all(waiting.result().fds)
            raise
        finally:
            del self._waiting[number]
        if not waiting.done():
            self._lose()
            raise HelperLost(f"it did not answer within {timeout_s:.0f} s")
        return waiting.result()

    @staticmethod
    def _made(message: wire.Message, *, makes: int) -> Sequence[int]:
        error = message.body.get("error")
        if isinstance(error, dict):
            wire.close_all(message.fds)
            raise Refused(str(error.get("kind")), str(error.get("text")))
        if len(message.fds) != makes:
            wire.close_all(message.fds)
            raise HelperLost(f"it answered with {len(message.fds)} descriptors and not {makes}")
        return message.fds

    def _receive(self) -> None:
        try:
            message = wire.receive(self._sock)
        except BlockingIOError:
            return
        except (OSError, wire.Malformed):
            message = None
        if message is None:
            self._lose()
            return
        number = message.body.get("id")
        waiting = self._waiting.get(number) if isinstance(number, int) else None
        if waiting is None or waiting.done():  # given up meanwhile
            wire.close_all(message.fds)
        else:
            waiting.set_result(message)

    def _lose(self) -> None:
        if not self.lost:
            self.lost = True
            self._loop.remove_reader(self._sock)
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(HelperLost("it ended"))
