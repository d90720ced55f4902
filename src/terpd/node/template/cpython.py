"""
A CPython for the root file system, copied from one that this host has or that uv can fetch.

Debian 12 itself has only 3.11. A prefix built on the same or an older Debian (pyenv, python-build-standalone) runs from
/usr/local once the traces of its old place are gone.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from terpd.node.template.chroot import run_in
from terpd.node.template.command import BuildFailed, run

_ASK = (
    "import json, platform, sys; print(json.dumps([sys.base_prefix, '%d.%d' % sys.version_info[:2], "
    "platform.python_version(), ' '.join(platform.python_build()), sys.implementation.name]))"
)
# What each interpreter runs when it starts. In the standard library it is found in virtual environments too.
START_HOOK = Path(__file__).with_name("guest_sitecustomize.py")
# Parts of the standard library nobody can use in a guest, or that need libraries we do not install.
_UNUSED = ("test", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3/tests", "site-packages", "__pycache__")
_UNUSED_EXTENSIONS = ("_tkinter*.so", "nis*.so", "_test*.so", "xxlimited*.so", "_xx*.so")
_CHECK = (
    "import bz2, ctypes, curses, decimal, hashlib, lzma, multiprocessing, readline, sqlite3, ssl, uuid, zlib, venv; "
    "import sys; assert sys.base_prefix == '/usr/local', sys.base_prefix"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython on this host. `build` tells two builds of one version apart."""

    prefix: Path
    series: str
    version: str
    build: str

    @property
    def executable(self) -> Path:
        return self.prefix / "bin" / f"python{self.series}"


def ensure_interpreter(series: str) -> Interpreter:
    """
    Return a CPython *series* ("3.12") whose prefix can be copied; fetched with uv when the host has none.

    Raises:
        BuildFailed: There is none and it cannot be fetched; says what to install.
    """
    found = find_interpreter(series)
    if found is not None:
        return found
    try:
        run([find_uv(), "python", "install", "--no-progress", series], timeout_s=900)
        path = run([find_uv(), "python", "find", "--managed-python", "--no-project", series], timeout_s=60)
    except BuildFailed as error:
        raise BuildFailed(
            f"This host has no CPython {series} that can be copied, and `uv python install {series}` did not deliver "
            f"one. Install it with pyenv or under /usr/local or /opt, then build again. uv said: {error.detail}"
        ) from error
    interpreter = _ask(Path(path.decode().strip()), series)
    if interpreter is None:
        raise BuildFailed(f"uv's CPython {series} does not run on this host: {path.decode().strip()}")
    return interpreter


def find_interpreter(series: str) -> Interpreter | None:
    """Look at this process's own interpreter, PATH, pyenv, /usr/local and /opt, in this order."""
    asked = (_ask(candidate, series) for candidate in _candidates(series))
    return next((interpreter for interpreter in asked if interpreter is not None), None)


def find_uv() -> str:
    """The uv beside this interpreter (as `make setup` installs it), else the one on PATH."""
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.is_file() else "uv"


def _candidates(series: str) -> Iterator[Path]:
    name = f"python{series}"
    yield Path(sys.base_prefix) / "bin" / name
    on_path = shutil.which(name)
    if on_path is not None:
        yield Path(on_path)
    versions = re.compile(rf"{re.escape(series)}\.(\d+)")
    pyenv = [path for path in (Path.home() / ".pyenv/versions").glob(f"{series}.*") if versions.fullmatch(path.name)]
    yield from (
        path / "bin" / name for path in sorted(pyenv, key=lambda path: int(path.name.split(".")[2]), reverse=True)
    )
    yield Path("/usr/local/bin") / name
    yield from sorted(Path("/opt").glob(f"*/bin/{name}"))


def _ask(executable: Path, series: str) -> Interpreter | None:
    """
    Let a candidate tell about itself. None when it is no CPython *series*, or one that a distribution has spread over
    /usr, which has no prefix to copy.
    """
    if not executable.is_file():
        return None
    try:
        prefix, its_series, version, build, name = json.loads(run([executable, "-I", "-c", _ASK], timeout_s=30))
    except (BuildFailed, ValueError):  # e.g. a pyenv shim for a version that is not selected
        return None
    interpreter = Interpreter(Path(prefix), its_series, version, build)
    usable = name == "cpython" and its_series == series and prefix != "/usr" and interpreter.executable.is_file()
    return interpreter if usable else None


def install(tree: Path, interpreter: Interpreter) -> None:
    """
    Copy *interpreter* to /usr/local of *tree*, with a pip of its own and nothing of the host's packages.

    Raises:
        BuildFailed: It does not run there, for instance because it was built for a newer C library.
    """
    local = tree / "usr/local"
    library = local / "lib" / f"python{interpreter.series}"
    _copy(interpreter, local)
    _trim(local, library)
    _relocate(local, interpreter)
    shutil.copyfile(START_HOOK, library / "sitecustomize.py")
    run_in(tree, ["ldconfig"])
    python = f"/usr/local/bin/python{interpreter.series}"
    run_in(tree, [python, "-I", "-c", _CHECK])
    run_in(tree, [python, "-m", "ensurepip", "--default-pip"])
    byte_compile(tree, interpreter.series)


def byte_compile(tree: Path, series: str) -> None:
    """Compile all modules: the guest would else do it at each first import, at the price of a second and more."""
    python = f"/usr/local/bin/python{series}"
    # Exit code 1 tells of files that are not meant to compile (templates, old syntax); packages ship such.
    script = f"{python} -m compileall -q -j 2 -x '/tests?/|/lib2to3/' /usr/local/lib/python{series} || [ $? -eq 1 ]"
    run_in(tree, ["sh", "-c", script], timeout_s=1800)


def _copy(interpreter: Interpreter, local: Path) -> None:
    series, prefix = interpreter.series, interpreter.prefix
    parts = [
        Path("bin") / f"python{series}",
        Path("lib") / f"python{series}",
        Path("include") / f"python{series}",
        *(path.relative_to(prefix) for path in prefix.glob(f"lib/libpython{series}*.so*")),
        *(path.relative_to(prefix) for path in prefix.glob(f"lib/pkgconfig/python-{series}*.pc")),
    ]
    for part in parts:
        target = local / part
        target.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "--archive", "--no-preserve=ownership", prefix / part, target], timeout_s=300)
    for name in ("python3", "python"):
        link = local / "bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(f"python{series}")


def _trim(local: Path, library: Path) -> None:
    doomed = [library / name for name in _UNUSED]
    doomed += [path for form in _UNUSED_EXTENSIONS for path in (library / "lib-dynload").glob(form)]
    doomed += [*library.rglob("__pycache__"), *library.glob("config-*/libpython*.a"), *library.glob("*/tests")]
    for path in doomed:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (library / "site-packages").mkdir()
    binaries = [*local.glob("lib/libpython*.so*"), *local.glob("bin/python3.*"), *library.rglob("*.so")]
    _strip([path for path in binaries if path.is_file() and not path.is_symlink()])


def _strip(binaries: Sequence[Path]) -> None:
    """
    Take the debugging information out, nine tenths of a build from source.

    Only where there is some: what was stripped and rearranged by its makers, strip would damage or refuse.
    """
    shown = run(["readelf", "--section-headers", "--wide", *binaries], timeout_s=60).decode()
    parts = re.split(r"^File: (.*)$", shown, flags=re.MULTILINE)[1:]
    large = [path for path, sections in zip(parts[::2], parts[1::2], strict=True) if ".debug_info" in sections]
    if large:
        run(["strip", "--strip-unneeded", *large], timeout_s=120)


def _relocate(local: Path, interpreter: Interpreter) -> None:
    """Replace the old prefix in the texts that name it: sysconfig's data, Makefile, pkg-config files."""
    old = str(interpreter.prefix).encode()
    for path in (*local.rglob("*.py"), *local.rglob("*.pc"), *local.rglob("Makefile"), *local.rglob("*.json")):
        content = path.read_bytes()
        if old in content:
            path.write_bytes(content.replace(old, b"/usr/local"))
