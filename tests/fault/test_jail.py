"""What a monitor that was taken over finds in its jail: programs run in QEMU's place, and QEMU itself."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.frames import UDP, ethernet, ip, udp
from support.wait import eventually

from terpd.daemon.node import LAUNCHER
from terpd.egress.namespaces import NamespaceHelper
from terpd.model.network import GUEST_ADDRESS
from terpd.node.jail.cgroup import CgroupTree, Limits
from terpd.node.jail.launch import Bind, ErrorText, JailSpec, LaunchFailed, launch
from terpd.node.jail.process import Process, scan
from terpd.node.jail.root import JailRoot, prepare_root

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="starts jails as root does")

_SOURCE = Path(__file__).parents[1] / "support/jail_probe.c"
_UID = 865_000  # of the default range, far from where a server begins
_NOBODY = 65_534
_SHM_KEY = 0x7E59
_IPC_CREAT, _IPC_RMID = 0o1000, 0  # linux/ipc.h


@pytest.fixture(scope="module")
def room() -> Iterator[Path]:
    """A root with the probe in it, readable to all: pytest's own directories are closed to other uids."""
    with tempfile.TemporaryDirectory(prefix="terp-jail-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        root = directory / "root"
        for each in ("m", "usr/bin"):
            (root / each).mkdir(parents=True)
        (root / "usr/firmware").touch()
        subprocess.run(["cc", "-static", "-O1", "-o", root / "usr/bin/probe", _SOURCE], check=True)
        (directory / "shared").write_text("shared")
        # Open to all, so that it is the jail that refuses and not a mode.
        for path in (directory / "shared", root, *root.rglob("*")):
            path.chmod(0o777)
        (directory / "own").touch(mode=0o700)
        os.chown(directory / "own", _UID, _UID)
        yield directory


@pytest.fixture(scope="session")
def qemu_root(tmp_path_factory: pytest.TempPathFactory) -> JailRoot:
    return prepare_root(tmp_path_factory.mktemp("home"))


@pytest.fixture
async def started() -> AsyncIterator[list[int]]:
    """Pids to end after the test, whatever became of it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            process = Process.of(pid)
            process.kill()
            await process.wait()


def _spec(room: Path, *arguments: str, **options: object) -> JailSpec:
    chosen: dict[str, object] = {"name": "m-1", "root": room / "root", "uid": _UID, "gid": _UID} | options
    return JailSpec(argv=["/usr/bin/probe", *arguments], **chosen)  # type: ignore[arg-type]  # options of each test


def _report(text: str) -> dict[str, str]:
    return {what: result for what, _, result in (line.partition(" ") for line in text.splitlines())}


@pytest.fixture(scope="module")
def attempts(room: Path) -> Iterator[dict[str, str]]:
    """What the probe reports of one run, with things of the host's beside it that it must not find."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0terp-jail-test-{port}")
        abstract.listen()
        libc = ctypes.CDLL(None, use_errno=True)
        segment = libc.shmget(_SHM_KEY, 1, _IPC_CREAT | 0o666)
        assert segment >= 0
        stack.callback(libc.shmctl, segment, _IPC_RMID, None)
        read, write = os.pipe()
        leaked = os.open("/etc/passwd", os.O_RDONLY)
        os.set_inheritable(leaked, True)
        stack.callback(os.close, leaked)
        error_text = stack.enter_context(ErrorText())
        spec = _spec(
            room,
            *(str(write), str(port), str(os.getpid()), str(_SHM_KEY)),
            binds=[Bind(room / "shared", "/m/shared"), Bind(room / "own", "/m/own", writable=True)],
            fds=[write],
            stderr=error_text.fd,
        )
        asyncio.run(launch(spec, launcher=LAUNCHER))
        os.close(write)
        with os.fdopen(read) as pipe:
            report = _report(pipe.read())
        report["write"], report["stderr"] = str(write), error_text.text()
        yield report


def test_has_no_rights(attempts: dict[str, str]) -> None:
    """It is a uid of its own without groups, capabilities, environment or a way to new rights."""
    assert attempts["uids"] == attempts["gids"] == f"{_UID},{_UID},{_UID}"
    assert attempts["groups"] == "0"
    assert (attempts["capabilities"], attempts["bounding"], attempts["no_new_privs"]) == ("0", "0", "1")
    assert (attempts["setuid_root"], attempts["setgroups"]) == ("EINVAL", "EPERM")
    assert (attempts["environment"], attempts["core"], attempts["nproc"]) == ("0", "0", "256")
    assert (attempts["pid"], attempts["session"], attempts["hostname"]) == ("1", "1", "m-1")
    assert (attempts["umask"], attempts["sigpipe_default"]) == (str(0o077), "1")


def test_finds_its_own_files_only(attempts: dict[str, str], room: Path) -> None:
    """It reads what is shared, writes its own disk, executes neither, and there is nothing else."""
    assert set(attempts["root"].split(",")) == {"m", "usr", ""}
    assert attempts["above"] == attempts["root"]
    assert set(attempts["files"].split(",")) == {"shared", "own", ""}
    assert (attempts["read_shared"], attempts["write_shared"]) == ("6", "EROFS")
    assert (attempts["write_own"], (room / "own").read_text()) == ("done", "mine")
    assert attempts["exec_own"] == "EACCES"
    assert {attempts[each] for each in ("create_root", "create_files", "write_firmware")} <= {"EROFS"}
    assert attempts["mknod"] in {"EROFS", "EPERM"}
    assert {attempts[each] for each in ("open_proc", "open_dev", "open_sys")} == {"ENOENT"}


def test_holds_only_the_given_descriptors(attempts: dict[str, str]) -> None:
    """Standard streams and what the spec names: not even a descriptor that the daemon leaked."""
    assert attempts["fds"] == f"0,1,2,{attempts['write']},"
    assert attempts["stderr"] == "last words"


def test_has_no_way_out(attempts: dict[str, str]) -> None:
    """No namespace, mount, process, network or shared memory of the host's is within reach."""
    assert attempts["user_namespace"] == "ENOSPC"
    refused = ("mount_namespace", "network_namespace", "mount", "remount", "unmount", "chroot", "sethostname")
    assert {each: attempts[each] for each in refused} == dict.fromkeys(refused, "EPERM")
    assert {attempts[each] for each in ("kill_all", "kill_host", "ptrace_host")} == {"ESRCH"}
    assert attempts["shared_memory"] == "ENOENT"
    assert attempts["interfaces"] == "lo,"
    assert (attempts["connect_host"], attempts["raw_socket"]) == ("ENETUNREACH", "EPERM")
    assert attempts["connect_abstract"] == "ECONNREFUSED"


async def test_a_network_device_leads_to_its_own_namespace_only(room: Path) -> None:
    """
    With the TAP in hand the monitor sends what any guest may send, through the same filter, and gets no further.

    It is no way into the namespace behind it, where the gateway's sockets are, nor to a device elsewhere.
    """
    namespaces = NamespaceHelper()
    sockets = await namespaces.create()
    read, write = os.pipe()
    frames = [
        ethernet(ip(udp(content, to, 53), to, protocol=UDP, source=source))
        for content, to, source in (
            (b"spoofed", "192.0.2.1", "198.18.0.6"),
            (b"loopback", "127.0.0.1", GUEST_ADDRESS),
            (b"as a guest", "192.0.2.1", GUEST_ADDRESS),
        )
    ]
    try:
        spec = _spec(
            room, str(write), str(sockets.tap), ",".join(each.hex() for each in frames), fds=[write, sockets.tap]
        )
        await launch(spec, launcher=LAUNCHER)
        os.close(write)
        with os.fdopen(read) as pipe:
            lines = pipe.read().splitlines()
        with socket.socket(fileno=os.dup(sockets.dns_udp)) as listener:
            listener.setblocking(False)
            received = listener.recv(100)
            with pytest.raises(BlockingIOError):
                listener.recv(100)
    finally:
        await namespaces.close(sockets)
        await namespaces.aclose()

    report = _report("\n".join(lines))
    assert received == b"as a guest"
    assert lines.count("frame done") == len(frames)
    assert (report["its_namespace"], report["its_device_namespace"]) == ("EPERM", "EPERM")
    assert (report["enter"], report["another_device"]) == ("EINVAL", "EEXIST")
    assert report["more_tun"] == "ENOENT"
    assert (report["interfaces"], report["gateway"]) == ("lo,", "ENETUNREACH")


@pytest.mark.parametrize(
    ("options", "step"),
    [
        ({"argv": ["/usr/bin/nothing"]}, "start the program: exec /usr/bin/nothing: No such file"),
        ({"root": Path("/nowhere")}, "open root /nowhere: No such file"),
        ({"binds": [Bind(Path("/nowhere"), "/m/x")]}, "open /nowhere: No such file"),
        ({"binds": [Bind(Path("/etc"), "/m/x")]}, "open /etc: not a regular file"),
        ({"binds": [Bind(Path("/dev/null"), "/m/x")]}, "open /dev/null: not a regular file"),
        ({"binds": [Bind(Path("/proc/self/exe"), "/m/x")]}, "open /proc/self/exe"),
        ({"binds": [Bind(Path("/etc/passwd"), "/m/x"), Bind(Path("/etc/group"), "/m/x")]}, "make mount point /m/x"),
        ({"binds": [Bind(Path("/etc/passwd"), "/etc/passwd")]}, "below /m/ only"),
        ({"uid": 0}, "--uid must be from 1"),
        ({"name": "a/b"}, "--name must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_failure_names_its_step(room: Path, options: dict[str, object], step: str) -> None:
    """A launch that fails says where, and nothing runs."""
    chosen = {"name": "m-1", "root": room / "root", "argv": ["/usr/bin/probe", "stay"], "uid": _UID, "gid": _UID}

    with pytest.raises(LaunchFailed, match=step.replace("/", r"\/")):
        await launch(JailSpec(**(chosen | options)), launcher=LAUNCHER)  # type: ignore[arg-type]

    assert _processes_of(_UID) == []


def test_program_never_runs_untold(room: Path) -> None:
    """When its pid cannot be printed, because the daemon died, the program does not start."""
    read, write = os.pipe()
    os.close(read)
    command = [LAUNCHER, "--name", "m", "--root", room / "root", "--uid", str(_UID), "--gid", str(_UID)]

    ended = subprocess.run(
        [*command, "--", "/usr/bin/probe", "stay"],
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)

    assert ended.returncode == 1
    assert b"print the pid: Broken pipe" in ended.stderr
    eventually(lambda: not _processes_of(_UID), what="the program is gone")


async def test_launcher_killed_after_telling(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher that dies after it told the pid, however that happens, takes the program with it."""
    launcher = tmp_path / "launcher"
    launcher.write_text("#!/bin/sh\nsleep infinity <&- >&- 2>&- &\necho $!\nkill -9 $$\n")
    launcher.chmod(0o755)
    told: list[int] = []
    end = Process.kill

    def recorded(process: Process) -> None:
        told.append(process.pid)
        end(process)

    monkeypatch.setattr(Process, "kill", recorded)
    with pytest.raises(LaunchFailed, match="ended with -9"):
        await launch(_spec(room, "stay"), launcher=launcher)

    (pid,) = told
    eventually(lambda: not Path(f"/proc/{pid}").exists() or not Process.of(pid).alive(), what="the program is gone")


def test_without_root(room: Path) -> None:
    """A user's launcher makes the same room under the user's own uid."""
    read, write = os.pipe()
    command = [LAUNCHER, "--name", "m", "--root", room / "root", "--fd", str(write), "--ro", room / "shared", "shared"]

    ended = subprocess.run(
        [*command, "--", "/usr/bin/probe", str(write), "9", "1", "1"],
        user=_NOBODY,
        group=_NOBODY,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        pass_fds=[write],
        check=False,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        report = _report(pipe.read())

    assert ended.returncode == 0, ended.stderr
    assert report["uids"] == f"{_NOBODY},{_NOBODY},{_NOBODY}"
    assert (report["capabilities"], report["bounding"], report["user_namespace"]) == ("0", "0", "ENOSPC")
    assert (report["root"].count(","), report["files"], report["interfaces"]) == (2, "shared,", "lo,")


async def test_cgroup_holds_it(room: Path, started: list[int]) -> None:
    """The program is in its cgroup when the launch returns; killing the cgroup ends it; removing leaves nothing."""
    tree = CgroupTree("jailtest")
    cgroup = tree.create("m_1", Limits(cpu_cores=0.5, memory_bytes=256 << 20, pids=16))
    try:
        pid = await launch(_spec(room, "stay", cgroup=cgroup), launcher=LAUNCHER)
        started.append(pid)
        process = Process.of(pid)

        members = [(each / "cgroup.procs").read_text().split() for each in cgroup.directories]
        cgroup.kill()
        await process.wait()

        assert members == [[str(pid)]] * len(members)
        assert not process.alive()
        assert tree.list() == ["m_1"]
    finally:
        cgroup.remove()
        left = tree.list()
        tree.discard()
    assert left == []


async def test_qemu_in_the_jail(qemu_root: JailRoot, room: Path, started: list[int]) -> None:
    """QEMU needs nothing but the prepared root: it opens its machine and answers, filtered and without rights."""
    ours, theirs = socket.socketpair()
    with ours, ErrorText() as error_text:
        argv = [
            "/usr/bin/qemu-system-x86_64",
            *("-name", "terp-jailtest-m_1"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-S"),
            *("-M", "microvm,pit=off,pic=off,memory-backend=m0", "-bios", "qboot.rom", "-cpu", "max", "-accel", "tcg"),
            *("-m", "64M", "-object", "memory-backend-ram,id=m0,size=64M"),
            *("-device", "virtio-serial-device,max_ports=2"),
            *("-chardev", "ringbuf,id=s0", "-serial", "chardev:s0"),
            *("-blockdev", "driver=file,node-name=d0,filename=/m/disk", "-device", "virtio-blk-device,drive=d0"),
            *("-chardev", f"socket,id=q0,fd={theirs.fileno()}", "-mon", "chardev=q0,mode=control"),
            *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        ]
        disk = room / "disk"
        disk.write_bytes(bytes(1 << 20))
        os.chown(disk, _UID, _UID)
        spec = JailSpec(
            name="m-1",
            root=qemu_root.path,
            argv=argv,
            binds=[Bind(disk, "/m/disk", writable=True)],
            fds=[theirs.fileno()],
            uid=_UID,
            gid=_UID,
            stderr=error_text.fd,
        )

        pid = await launch(spec, launcher=LAUNCHER)
        started.append(pid)
        theirs.close()
        ours.settimeout(30)
        greeting = ours.recv(4096)
        found = scan("terp-jailtest-")
        status = _status(pid)

        assert b'"QMP"' in greeting, error_text.text()
        assert found == [("terp-jailtest-m_1", Process.of(pid))]
        assert status["Uid"].split() == [str(_UID)] * 4
        assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == (
            *("0" * 16, "0" * 16),
            *("1", "2"),
        )
        assert not _namespaces(pid) & _namespaces(os.getpid())


def test_root_is_made_once(tmp_path: Path) -> None:
    """A second preparation finds the first one's root; everything in it is readable to all and writable to none."""
    umask = os.umask(0o077)
    try:
        first, second = prepare_root(tmp_path), prepare_root(tmp_path)
    finally:
        os.umask(umask)

    assert first == second
    modes = {stat.S_IMODE(path.stat().st_mode) for path in first.path.rglob("*") if path.is_file()}
    assert modes <= {0o444, 0o555}
    assert {stat.S_IMODE(path.stat().st_mode) for path in first.path.rglob("*") if path.is_dir()} == {0o755}


def test_root_notices_another_qemu(tmp_path: Path) -> None:
    """When QEMU was replaced on the host, the next preparation makes a new root and leaves the old one alone."""
    qemu = tmp_path / "qemu-system-x86_64"
    shutil.copy("/usr/bin/qemu-system-x86_64", qemu)
    first = prepare_root(tmp_path / "home", qemu)
    with qemu.open("ab") as file:
        file.write(b"\0")

    second = prepare_root(tmp_path / "home", qemu)

    assert first.digest != second.digest
    assert first.path.is_dir()


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def _namespaces(pid: int) -> set[str]:
    names = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
    return {str(Path(f"/proc/{pid}/ns/{name}").readlink()) for name in names}


def _processes_of(uid: int) -> list[str]:
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if directory.stat().st_uid == uid and Process.of(int(directory.name)).alive():
                found.append(directory.name)
    return found
