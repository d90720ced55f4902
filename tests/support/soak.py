"""
Random life with random death: sandboxes are paused, resumed, forked, used and terminated while the server is killed.

A model knows what every sandbox must hold: its files, the bytes a program keeps in memory, a counter that never goes
back. An operation that the server did not survive may have happened or not, and nothing in between.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
from terp import Sandbox, TerpError

from support.consistency import assert_consistent
from support.keeper import Kept, assert_kept, start_keeper
from support.server import Server
from support.wait import eventually

_TEMPLATE = "python-3.12-bare"
_LEASE_S = 7200
_MOST = 4  # sandboxes at the same time
_LONGEST_OPERATION_S = 1.5  # kills fall before, into and behind it


@dataclass
class Subject:
    """What one sandbox must hold. `maybe` is content that an interrupted write may have left in place of the old."""

    id: str
    kept: Kept
    files: dict[str, str] = field(default_factory=dict)
    maybe: dict[str, str] = field(default_factory=dict)

    def child(self, sandbox_id: str) -> Subject:
        return Subject(sandbox_id, self.kept, dict(self.files), dict(self.maybe))


class Soak:
    """
    Args:
        server: Started, without --dev.
        seed: Equal seeds draw the same operations; what the kills hit differs.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._subjects: dict[str, Subject] = {}
        self._interrupted = False
        self._writes = 0
        self.log: list[str] = []

    def run(self, cycles: int, *, kill_share: float) -> None:
        """*kill_share* of the operations are interrupted by a SIGKILL of the server."""
        for _ in range(cycles):
            operation = self._draw()
            self._interrupted = self._random.random() < kill_share
            self.log.append(f"{operation.__name__.strip('_')}{' killed' if self._interrupted else ''}")
            operation()
            self._check()

    def end(self) -> None:
        """Terminate everything; afterwards nothing may be stored or run."""
        for sandbox in self._server.list():
            sandbox.terminate()
        assert assert_consistent(self._server) == set()
        artifacts = self._server.data_dir / "artifacts"

        def stored() -> list[str]:
            return [str(path) for path in artifacts.rglob("*") if path.is_file()]

        eventually(lambda: not stored(), what="saved states of terminated sandboxes are removed")

    # ---- operations ------------------------------------------------------------------------------

    def _draw(self) -> Callable[[], None]:
        if not self._subjects:
            return self._create
        choices = [self._pause, self._pause, self._resume, self._write, self._use]
        choices += [self._create, self._fork] if len(self._subjects) < _MOST else [self._terminate]
        return self._random.choice(choices)

    def _pick(self) -> Subject:
        return self._subjects[self._random.choice(sorted(self._subjects))]

    def _create(self) -> None:
        """Never interrupted: what it must hold is known only afterwards (another test kills creates)."""
        self._interrupted = False
        sandbox = self._server.create(_TEMPLATE, timeout=_LEASE_S, auto_resume=True)
        self._subjects[sandbox.id] = Subject(sandbox.id, start_keeper(sandbox))

    def _pause(self) -> None:
        subject = self._pick()
        with self._maybe_killed():
            self._attempt(lambda: self._server.get(subject.id).pause(), allowed="state_conflict")

    def _resume(self) -> None:
        subject = self._pick()
        with self._maybe_killed():
            self._attempt(lambda: self._server.get(subject.id).resume(), allowed="state_conflict")

    def _write(self) -> None:
        """Resumes a paused one by itself."""
        subject = self._pick()
        self._writes += 1
        path, content = f"/workspace/file-{self._random.randrange(3)}", f"content {self._writes} " * 2000
        with self._maybe_killed():
            done = self._attempt(lambda: self._server.get(subject.id).files.write(path, content))
        if done:
            subject.files[path] = content
            subject.maybe.pop(path, None)
        else:
            subject.maybe[path] = content

    def _use(self) -> None:
        subject = self._pick()
        with self._maybe_killed():
            self._attempt(lambda: self._server.get(subject.id).exec("sync; sha256sum /etc/passwd").check())

    def _fork(self) -> None:
        subject = self._pick()
        self._attempt(lambda: self._server.get(subject.id).exec("true"))  # resumed, if it was paused
        known = {sandbox.id for sandbox in self._server.list()}
        children: list[Sandbox] = []

        def fork() -> None:
            count = self._random.choice([1, 2])
            children.extend(self._server.get(subject.id).fork(count, timeout=_LEASE_S, auto_resume=True))

        with self._maybe_killed():
            self._attempt(fork)
        for child in children:
            self._subjects[child.id] = subject.child(child.id)
        # A fork whose answer was lost may have made its children all the same.
        running = {sandbox.id for sandbox in self._server.list() if sandbox.status == "running"}
        for sandbox_id in running - known - self._subjects.keys():
            self._subjects[sandbox_id] = subject.child(sandbox_id)

    def _terminate(self) -> None:
        subject = self._pick()
        with self._maybe_killed():
            self._attempt(lambda: self._server.get(subject.id).terminate())
        self._server.get(subject.id).terminate()
        del self._subjects[subject.id]

    # ---- inside ----------------------------------------------------------------------------------

    def _attempt(self, act: Callable[[], object], *, allowed: str = "") -> bool:
        """Returns whether it was done. Only an interrupted operation may fail, or one that is refused as *allowed*."""
        try:
            act()
        except (TerpError, httpx.TransportError) as error:
            if not self._interrupted and getattr(error, "code", None) != allowed:
                raise
            return False
        return True

    @contextlib.contextmanager
    def _maybe_killed(self) -> Iterator[None]:
        """Kill the server at a random moment of the block, and start it again after it."""
        if not self._interrupted:
            yield
            return
        delay_s = self._random.uniform(0.0, _LONGEST_OPERATION_S)

        def strike() -> None:
            time.sleep(delay_s)
            self._server.kill()

        thread = threading.Thread(target=strike)
        thread.start()
        yield
        thread.join()
        self._server.start()

    def _check(self) -> None:
        """Everything that should be there is, whole, and nothing else."""
        assert_consistent(self._server)
        statuses = {sandbox.id: sandbox.status for sandbox in self._server.list()}
        for subject in self._subjects.values():
            assert statuses[subject.id] in {"running", "paused"}, f"{subject.id} was lost: {self.log[-5:]}"
        unknown = {sandbox_id for sandbox_id, status in statuses.items() if status in {"running", "paused"}}
        assert unknown <= self._subjects.keys()
        looked_at = self._pick() if self._subjects else None
        for subject in self._subjects.values():
            # Looking resumes: those that are paused mostly stay so, else none would ever be paused for long.
            if statuses[subject.id] == "running" or subject is looked_at:
                self._look_into(subject)

    def _look_into(self, subject: Subject) -> None:
        sandbox = self._server.get(subject.id)
        subject.kept = assert_kept(sandbox, subject.kept)
        for path in subject.files.keys() | subject.maybe.keys():
            found = sandbox.files.read(path) if sandbox.files.exists(path) else None
            assert found in (subject.files.get(path), subject.maybe.get(path)), f"{path} in {subject.id}"
            if found is not None:
                subject.files[path] = found
        subject.maybe.clear()
