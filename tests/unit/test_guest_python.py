"""The hook that a template's Python runs when it starts: what it renews, and that nobody notices it otherwise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from terpd.node.template.cpython import START_HOOK


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A directory that stands for the standard library, with the hook."""
    directory = tmp_path / "library"
    directory.mkdir()
    shutil.copyfile(START_HOOK, directory / "sitecustomize.py")
    return directory


def python(program: str, *path: Path) -> str:
    """What *program* prints in an interpreter that looks into *path* first."""
    environ = {"PYTHONPATH": ":".join(str(entry) for entry in path)}
    argv = [sys.executable, "-c", program]
    run = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


NUMPY_LIKE = """
import random, sys, threading, types
own = random.Random(7)
own._bit_generator = types.SimpleNamespace(lock=threading.Lock())
sys.modules['numpy.random.mtrand'] = types.SimpleNamespace(_rand=own)
"""
TELL = "import os; os.kill(os.getpid(), 63)\n"


@pytest.mark.parametrize(
    ("prepare", "draw"),
    [
        ("import random; random.seed(7)", "random.random()"),
        ("import random; random.seed(7); random.gauss()", "random.gauss()"),
        ("import uuid; uuid._node = 5; uuid._generate_time_safe = lambda: (bytes(16), 0)", "uuid.uuid1().node"),
        (
            NUMPY_LIKE,
            "own.random()",
        ),
    ],
)
def test_what_all_of_a_program_shares_is_renewed(library: Path, prepare: str, draw: str) -> None:
    """Two programs with the same state draw differently once they were told, and only then."""
    untold = {python(f"{prepare}\nprint({draw})", library) for _ in range(2)}
    told = {python(f"{prepare}\n{TELL}print({draw})", library) for _ in range(2)}

    assert len(untold) == 1
    assert len(told) == 2
    assert not told & untold


def test_a_program_s_own_generators_are_left_alone(library: Path) -> None:
    """Who seeded one has a reason for it."""
    program = "import random; own = random.Random(7)\n{}print(own.random())"
    assert python(program.format(TELL), library) == python(program.format(""), library)


def test_nothing_is_imported_for_it(library: Path, tmp_path: Path) -> None:
    """An interpreter has the modules that it would have without the hook, also after it was told."""
    program = "{}import sys; print(sorted(sys.modules))"
    (empty := tmp_path / "empty").mkdir()
    (empty / "sitecustomize.py").touch()
    assert python(program.format(TELL), library) == python(program.format("import os\n"), empty)


def test_what_holds_a_lock_is_not_waited_for_for_ever(library: Path) -> None:
    """A program that is told in the middle of a draw goes on with it."""
    program = (
        "import sys, types, threading\nlock = threading.Lock()\n"
        "rand = types.SimpleNamespace(_bit_generator=types.SimpleNamespace(lock=lock), seed=lock.acquire)\n"
        "sys.modules['numpy.random.mtrand'] = types.SimpleNamespace(_rand=rand)\n"
        f"lock.acquire()\n{TELL}print('went on')"
    )
    assert python(program, library) == "went on\n"


def test_a_module_that_is_not_what_it_seems_does_no_harm(library: Path) -> None:
    """A program may call its own module random."""
    program = f"import sys, types; sys.modules['random'] = types.ModuleType('random')\n{TELL}print('went on')"
    assert python(program, library) == "went on\n"


def test_calls_go_on_behind_it(library: Path) -> None:
    """A read that is interrupted by it returns what it waited for."""
    program = (
        "import os, threading, time\nhere, there = os.pipe()\n"
        "def tell():\n    time.sleep(0.1)\n    os.kill(os.getpid(), 63)\n"
        "    time.sleep(0.1)\n    os.write(there, b'x')\n"
        "threading.Thread(target=tell).start()\nprint(os.read(here, 1))"
    )
    assert python(program, library) == "b'x'\n"


def test_the_next_sitecustomize_runs_as_without_it(library: Path, tmp_path: Path) -> None:
    """A user's own one, in a directory that comes later, is found, and is what `import sitecustomize` gives."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import sys; sys.found = __file__; NAME = 'own'")
    program = "import sys, sitecustomize; print(sys.found, sitecustomize.NAME, sitecustomize.__file__)"
    assert python(program, library, own) == python(program, own)
    assert python("import signal; print(signal.getsignal(63) is signal.SIG_DFL)", library, own) == "False\n"


def test_a_failing_sitecustomize_fails_as_without_it(library: Path, tmp_path: Path) -> None:
    """Its error is reported and the interpreter starts."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("raise RuntimeError('broken')")
    outcomes = [
        subprocess.run([sys.executable, "-c", "print(1)"], env={"PYTHONPATH": path}, capture_output=True, check=True)
        for path in (f"{library}:{own}", f"{own}")
    ]
    assert outcomes[0].stdout == outcomes[1].stdout == b"1\n"
    assert outcomes[0].stderr == outcomes[1].stderr != b""


def test_an_interpreter_within_another_starts(library: Path) -> None:
    """Where no handler may be installed, there is none, and nobody is told."""
    program = "import _xxsubinterpreters as sub; print(sub.run_string(sub.create(), 'import sitecustomize'))"
    if sys.version_info >= (3, 13):
        program = program.replace("_xxsubinterpreters", "_interpreters")
    assert python(program, library) == "None\n"


def test_a_waiting_main_thread_renews_for_the_others(library: Path) -> None:
    """A program whose main thread only waits for the one that draws is renewed as well."""
    program = """
import os, random, threading, time
untold = random.Random(7)
random.seed(7)
def draw():
    os.kill(os.getpid(), 63)
    ends_at = time.monotonic() + 30
    while random.random() == untold.random() and time.monotonic() < ends_at:
        time.sleep(0.01)
    print(time.monotonic() < ends_at)
threading.Thread(target=draw).start()
"""
    assert python(program, library) == "True\n"
