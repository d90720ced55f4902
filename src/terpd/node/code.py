"""Code in the kernels of a machine's guest, across the sessions that it is reached by."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from weakref import WeakKeyDictionary

from terpd.model.code import CodeDone, CodeEvent, CodeRequest
from terpd.model.errors import GuestFault, InterpreterUnavailable, NotFound, TerpError
from terpd.node import reading
from terpd.node.guest import kernels
from terpd.node.guest.client import GuestClient
from terpd.node.guest.code_lines import RunLines
from terpd.node.machine import Machine

# From the end of the timeout to the last line: three interrupts, then the kernel is killed. Slow under emulation.
_GRACE_S = 60.0
_LONGEST_WAIT_S = 24 * 3600.0  # for runs before it in the same context, whose timeouts end them


class Code:
    """Of the machines of one node. Remembers which of them have told their kernels the environment of commands."""

    def __init__(self) -> None:
        self._version: WeakKeyDictionary[Machine, int] = WeakKeyDictionary()  # of the environment, 0 at first
        self._told: WeakKeyDictionary[Machine, int] = WeakKeyDictionary()

    def forget_environment(self, machine: Machine) -> None:
        """It has changed, or may have: the next run tells it again."""
        self._version[machine] = self._version.get(machine, 0) + 1

    async def run(self, machine: Machine, request: CodeRequest) -> AsyncGenerator[CodeEvent, None]:
        """As `Node.run_code`."""
        version = self._version.get(machine, 0)  # what is read from here on is of this one, or newer
        run = _Run(machine, request, with_env=self._told.get(machine) != version)
        await run.begin()
        self._told[machine] = version
        while not run.over:
            try:
                async with aclosing(run.events()) as events:
                    async for event in events:
                        yield event
            except GuestFault as fault:
                await run.go_on(fault)

    @staticmethod
    async def ask(machine: Machine, guest: GuestClient, call: kernels.Line) -> kernels.Line:
        """One call of one answer. Raises as `kernels.ask`, but InterpreterUnavailable where there are no kernels."""
        try:
            return await kernels.ask(guest, call)
        except NotFound as error:
            raise _explained(machine, error) from error


class _Run:
    """
    Attributes:
        over: Its last event was yielded.
    """

    def __init__(self, machine: Machine, request: CodeRequest, *, with_env: bool) -> None:
        self.over = False
        self._machine = machine
        self._request = request
        self._with_env = with_env
        self._id = f"run_{secrets.token_hex(8)}"
        self._told = RunLines()
        self._deadline = _Deadline(request.timeout_s)
        self._guest: GuestClient | None = None  # whom it was last asked of
        self._first: kernels.Line = {}
        self._lines: AsyncGenerator[kernels.Line, None]

    async def begin(self) -> None:
        """Hand the code to the kernels. Raises as `Node.run_code`."""
        await self._ask(lambda guest: kernels.begin(guest, self._id, self._request, with_env=self._with_env))

    async def events(self) -> AsyncGenerator[CodeEvent, None]:
        """What comes in this session."""
        async with aclosing(self._lines):
            line = self._first
            while not self.over:
                if "started" in line and "n" in line:
                    self._deadline.start()
                event = self._told.take(line)
                self.over = isinstance(event, CodeDone)
                if event is not None:
                    yield event
                if not self.over:
                    line = await self._deadline.next(self._lines)

    async def go_on(self, fault: GuestFault) -> None:
        """Be told the rest in the next session. Raises *fault* if the session was not lost; StateConflict: held."""
        assert self._guest is not None
        await reading.cut(self._machine.gate, self._guest, fault)
        try:
            await self._ask(lambda guest: kernels.attach(guest, self._id, self._told.last))
        except kernels.RunForgotten:
            if self._told.last >= 0:
                raise
            await self.begin()  # the session broke before the kernels heard of it

    async def _ask(self, ask: Callable[[GuestClient], AsyncGenerator[kernels.Line, None]]) -> None:
        machine = self._machine
        try:
            answer = await reading.begin(machine.gate, machine.link, self._guest, ask)
        except NotFound as error:
            raise _explained(machine, error) from error
        except StopAsyncIteration as error:
            raise GuestFault("The sandbox's kernels did not answer") from error
        self._guest, self._first, self._lines = answer


class _Deadline:
    """
    Who reads slowly holds the lines back, and that is no fault of the guest: the time he takes does not count.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + _LONGEST_WAIT_S
        self._starts_left = 2  # a second one after a kernel that had died before it began
        self._given_at: float | None = None

    def start(self) -> None:
        if self._starts_left:
            self._starts_left -= 1
            self._at = self._loop.time() + self._timeout_s

    async def next(self, lines: AsyncGenerator[kernels.Line, None]) -> kernels.Line:
        """Raises GuestFault: nothing came in time, or the lines ended before the last."""
        if self._given_at is not None:
            self._at += self._loop.time() - self._given_at
        try:
            async with asyncio.timeout_at(self._at + _GRACE_S):
                return await anext(lines)
        except TimeoutError:
            raise GuestFault("The guest did not report the end of the code in time") from None
        except StopAsyncIteration:
            raise GuestFault("The program that keeps the sandbox's kernels stopped reporting on the code") from None
        finally:
            self._given_at = self._loop.time()


def _explained(machine: Machine, error: NotFound) -> TerpError:
    """What it means that nobody listens, or that there is no such context."""
    if type(error) is not NotFound:
        return error
    return InterpreterUnavailable(
        f"There are no code kernels in this sandbox, which was created from {machine.record.template}: create it from"
        " the template code-interpreter, or from one built on that. If it was, their program has been killed"
    )
