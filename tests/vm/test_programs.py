"""What is in the templates: real interpreters and package tools that work without a network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.server import Server
from support.wheel import make_wheel
from terp import Sandbox

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def python(server: Server) -> Iterator[Sandbox]:
    with server.create("python-3.12-bare") as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def node(server: Server) -> Iterator[Sandbox]:
    with server.create("node-22") as sandbox:
        yield sandbox


def test_the_readme_program(python: Sandbox) -> None:
    """The first program that the README shows prints what it says there."""
    python.files.write("/workspace/main.py", "print(sum(range(1_000_000)))")

    result = python.exec("python /workspace/main.py")

    assert result.stdout == "499999500000\n"
    assert result.duration_ms > 0


def test_it_is_cpython_3_12(python: Sandbox) -> None:
    """`python` and `python3` are CPython 3.12, with the standard library's C parts."""
    program = "import sys, ssl, sqlite3, lzma, bz2, ctypes, zlib; print(sys.implementation.name, *sys.version_info[:2])"

    for interpreter in ("python", "python3"):
        assert python.exec([interpreter, "-c", program]).check().stdout == "cpython 3 12\n"


def test_pip_installs_without_network(python: Sandbox) -> None:
    """Pip is there, and installs a wheel that was written into the sandbox."""
    wheel = make_wheel("greeting", "1.0", "def greet(): return 'hello from a wheel'\n")
    python.files.write("/workspace/greeting-1.0-py3-none-any.whl", wheel)

    python.exec("pip --version; pip install --no-index ./greeting-1.0-py3-none-any.whl", timeout=240).check()

    assert python.exec("python -c 'import greeting; print(greeting.greet())'").stdout == "hello from a wheel\n"


def test_venv_works(python: Sandbox) -> None:
    """A virtual environment can be made and runs its own interpreter."""
    python.exec("python -m venv --without-pip /tmp/env", timeout=120).check()

    assert python.exec("/tmp/env/bin/python -c 'import sys; print(sys.prefix)'").stdout == "/tmp/env\n"


def test_it_is_node_22(node: Sandbox) -> None:
    """`node` is Node 22 and runs a program."""
    assert node.exec("node --version").check().stdout.startswith("v22.")

    program = "console.log([...Array(5).keys()].map(n => n * n).join())"
    assert node.exec(["node", "-e", program]).check().stdout == "0,1,4,9,16\n"


def test_npm_works_without_network(node: Sandbox) -> None:
    """Npm makes a package, installs a local one into it and runs its script."""
    node.files.write("/workspace/local/package.json", '{"name": "local", "version": "1.0.0"}')
    node.files.write("/workspace/local/index.js", "module.exports = 'from a local package'")
    node.files.write("/workspace/app/main.js", "console.log(require('local'))")

    node.exec("npm install --offline --no-audit ../local", cwd="/workspace/app", timeout=240).check()

    assert node.exec("node main.js", cwd="/workspace/app").check().stdout == "from a local package\n"


def test_it_is_debian_12(shared: Sandbox) -> None:
    """The base system says that it is Debian 12, and its shell tools are there."""
    assert 'VERSION_ID="12"' in shared.files.read("/etc/os-release")
    shared.exec("for tool in bash git curl tar gzip sed awk ps; do command -v $tool || exit 1; done").check()


def test_package_tools_work_without_network(shared: Sandbox) -> None:
    """Dpkg and apt know what is installed; a package built in the sandbox can be installed with apt-get and removed."""
    assert "ok installed" in shared.exec("dpkg -s bash", timeout=120).check().stdout
    assert "Installed:" in shared.exec("apt-cache policy bash", timeout=120).check().stdout
    control = (
        "Package: hello-terp\nVersion: 1.0\nArchitecture: all\nMaintainer: Test <test@example.com>\nDescription: x\n"
    )
    shared.files.write("/tmp/pkg/DEBIAN/control", control)
    shared.files.write("/tmp/pkg/usr/share/hello-terp", "installed\n")

    shared.exec("dpkg-deb --build /tmp/pkg /tmp/hello.deb", timeout=120).check()
    shared.exec("apt-get install -y /tmp/hello.deb", timeout=240).check()

    assert shared.files.read("/usr/share/hello-terp") == "installed\n"
    shared.exec("apt-get remove -y hello-terp", timeout=240).check()
    assert not shared.files.exists("/usr/share/hello-terp")
