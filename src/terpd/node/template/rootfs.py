"""The root file system that a recipe with a Debian suite starts from, and what Terp's guests expect in any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from terpd.node.template.apt import Repository
from terpd.node.template.chroot import ISOLATED, run_in
from terpd.node.template.command import run
from terpd.node.template.kernel import Kernel

# Of use to everybody: what CPython's and Node's native parts load, modprobe, ps, ip, and what an agent reaches for.
# Measured together with the excludes below: see docs of the templates for sizes.
PACKAGES = (
    *("ca-certificates", "libssl3", "libffi8", "libsqlite3-0", "libreadline8", "libncursesw6", "libbz2-1.0"),
    *("liblzma5", "libuuid1", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libcrypt1"),
    *("kmod", "procps", "iproute2", "netbase", "curl", "git", "xz-utils", "less"),
)

# Also holds for what a user installs later, since mmdebstrap keeps these options in the guest's dpkg configuration.
DPKG_OPTIONS = (
    *("path-exclude=/usr/share/man/*", "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright"),
    *("path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*"),
)

_ENVIRONMENT_FILE = "etc/terp/env"


def bootstrap(tree: Path, suite: str, repositories: Sequence[Repository], packages: Sequence[str]) -> None:
    """
    Make *tree* a minimal Debian with *packages* besides ours.

    Raises:
        BuildFailed: A repository does not answer, or a package does not exist.
    """
    lines = "".join(f"{repository.line()}\n" for repository in repositories)
    included = ",".join(dict.fromkeys((*PACKAGES, *packages)))
    run(
        [
            *(*ISOLATED, "--mount-proc", "--"),  # a builder killed midway leaves neither mounts nor processes
            *("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory"),
            *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
            f"--include={included}",
            *(suite, tree, "-"),
        ],
        timeout_s=1800,
        stdin=lines.encode(),
        env={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    (tree / "etc/apt/sources.list").write_text(lines)
    for own in (tree / "etc/apt/sources.list.d").iterdir():  # mmdebstrap's name for the same lines
        own.unlink()


def prepare(tree: Path, kernel: Kernel) -> None:
    """Give a bare system what machines need, and take away what would be the same in every sandbox or is the host's."""
    for name in ("workspace", "persist"):
        (tree / name).mkdir(mode=0o755, exist_ok=True)
    etc = tree / "etc"
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    # mmdebstrap copies these two of the host; the agent writes its own when a machine wakes.
    _replace(etc / "resolv.conf", "")
    _replace(etc / "hostname", "sandbox\n")
    _replace(etc / "machine-id", "")
    for identity in (tree / "var/lib/dbus/machine-id", *etc.glob("ssh/ssh_host_*")):
        identity.unlink(missing_ok=True)
    modules = tree / "lib/modules"
    modules.mkdir(parents=True, exist_ok=True)
    run(["cp", "--recursive", kernel.modules, modules], timeout_s=120)
    run_in(tree, ["depmod", kernel.version])


def write_environment(tree: Path, environment: Mapping[str, str]) -> None:
    """
    Write what every process of a guest starts with.

    One NAME=value a line, the value taken as it stands up to the end of the line: no quotes, no expansion.
    """
    path = tree / _ENVIRONMENT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}={value}\n" for name, value in sorted(environment.items())))


def _replace(path: Path, content: str) -> None:
    # It may be a symlink that leads out of the tree.
    path.unlink(missing_ok=True)
    path.write_text(content)
    path.chmod(0o644)
