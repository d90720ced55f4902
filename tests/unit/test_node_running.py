"""A running machine's driver against a scripted monitor, honest or not. What real ones do: tests/vm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.until import until

from terpd.node.jail.process import Process
from terpd.node.vmm.base import Layer, VmmFailed
from terpd.node.vmm.qmp import Qmp
from terpd.node.vmm.running import MAX_DEVICES_BYTES, QemuVm


class Monitor:
    """
    The far end of a QMP connection: keeps what it is told, and answers from `answers`.

    An answer is a value, an exception (its text is the refusal) or a function of the arguments that makes one.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.fds: list[int] = []
        self.answers: dict[str, Any] = {
            "query-chardev": [{"label": "a0", "filename": "disconnected:unix:/x"}],
            "query-block": [{"inserted": {"node-name": "l1"}}],
            "query-named-block-nodes": [{"node-name": name} for name in ("t", "f", "l0", "f0", "l1", "f1")],
            "query-jobs": [],
        }

    def names(self) -> list[str]:
        return [name for name, _ in self.told if not name.startswith("q")]

    def serve(self) -> None:
        """Until the other side closes."""
        decoder, text = json.JSONDecoder(), ""
        while True:
            data, fds, _, _ = socket.recv_fds(self._sock, 65_536, 4)
            self.fds += fds
            text += data.decode()
            while text:
                try:
                    command, end = decoder.raw_decode(text)
                except ValueError:
                    break
                text = text[end:]
                self._answer(command["execute"], command.get("arguments", {}))
            if not data:
                return

    def _answer(self, name: str, arguments: dict[str, Any]) -> None:
        self.told.append((name, arguments))
        answer = self.answers.get(name, {})
        if callable(answer):
            answer = answer(arguments)
        reply = {"error": {"desc": str(answer)}} if isinstance(answer, Exception) else {"return": answer}
        with contextlib.suppress(BrokenPipeError):
            self._sock.sendall(json.dumps(reply).encode() + b"\r\n")


@pytest.fixture
async def running() -> AsyncIterator[tuple[QemuVm, Monitor]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    monitor = Monitor(theirs)
    vm = QemuVm(Process(1, 0), Path("agent.sock"), await Qmp.connect(ours))
    serving = asyncio.create_task(asyncio.to_thread(monitor.serve))
    yield vm, monitor
    await vm.close()
    await serving
    theirs.close()
    for fd in monitor.fds:
        os.close(fd)


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    path = tmp_path / "layer.qcow2"
    path.write_bytes(b"empty")
    return Layer(path, bytes(range(32)))


async def test_it_stops_only_when_nobody_talks_to_the_agent(running: tuple[QemuVm, Monitor]) -> None:
    """The guest must be told that the host hung up while it still can be told."""
    vm, monitor = running
    names = iter(["unix:/x,server=on <-> x", "unix:/x,server=on <-> x", "disconnected:unix:/x"])
    monitor.answers["query-chardev"] = lambda _: [{"label": "q0"}, {"label": "a0", "filename": next(names)}]

    await vm.stop()

    assert [name for name, _ in monitor.told[1:]] == ["query-chardev"] * 3 + ["stop"]


async def test_the_device_state_comes_through_a_descriptor_for_writing(running: tuple[QemuVm, Monitor]) -> None:
    """QEMU writes it into memory of ours, and keeps no way to it."""
    vm, monitor = running

    def save(arguments: dict[str, Any]) -> object:
        assert arguments == {"filename": "/dev/fdset/1", "live": False}
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.read(monitor.fds[0], 1)
        os.write(monitor.fds[0], b"state")
        return {}

    monitor.answers["xen-save-devices-state"] = save

    assert await vm.devices() == b"state"
    await vm.is_running()
    assert monitor.names() == ["add-fd", "xen-save-devices-state", "remove-fd"]


async def test_an_endless_device_state_is_refused(running: tuple[QemuVm, Monitor]) -> None:
    """A monitor that its guest took over may write what it likes."""
    vm, monitor = running
    monitor.answers["xen-save-devices-state"] = lambda _: os.ftruncate(monitor.fds[0], MAX_DEVICES_BYTES + 1)

    with pytest.raises(VmmFailed, match="more than"):
        await vm.devices()


async def test_a_refused_save_leaves_no_descriptor(running: tuple[QemuVm, Monitor]) -> None:
    """Another may be tried."""
    vm, monitor = running
    monitor.answers["xen-save-devices-state"] = OSError("no")

    with pytest.raises(VmmFailed, match="no"):
        await vm.devices()
    await vm.is_running()

    assert monitor.names()[-1] == "remove-fd"


async def test_a_new_layer_lies_on_the_top_one(running: tuple[QemuVm, Monitor], layer: Layer) -> None:
    """It opens with its own secret; its file can be written now, and read when it is frozen one day."""
    vm, monitor = running

    await vm.push_layer(layer)

    assert monitor.names() == ["add-fd", "add-fd", "object-add", "blockdev-add", "blockdev-add", "blockdev-snapshot"]
    told = dict(monitor.told)
    assert told["object-add"] == {"qom-type": "secret", "id": "k2", "data": bytes(range(32)).hex()}
    assert told["blockdev-snapshot"] == {"node": "l1", "overlay": "l2"}
    assert told["blockdev-add"]["backing"] is None  # else QEMU opens what the header names
    assert told["blockdev-add"]["file"] == "f2"
    assert [os.get_blocking(fd) and os.pread(fd, 5, 0) for fd in monitor.fds] == [b"empty"] * 2
    os.pwrite(monitor.fds[0], b"E", 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(monitor.fds[1], b"E", 0)


async def test_names_that_a_dead_daemon_left_are_not_used_again(running: tuple[QemuVm, Monitor], layer: Layer) -> None:
    """It died before the snapshot: QEMU has a layer, or the file of one, that is not in the chain."""
    vm, monitor = running
    monitor.answers["query-named-block-nodes"] += [{"node-name": name} for name in ("l2", "f2", "f3")]

    await vm.push_layer(layer)

    assert dict(monitor.told)["blockdev-snapshot"] == {"node": "l1", "overlay": "l4"}


@pytest.mark.parametrize("refused", ["object-add", "blockdev-add", "blockdev-snapshot"])
async def test_a_layer_that_is_refused_is_forgotten(
    running: tuple[QemuVm, Monitor], layer: Layer, refused: str
) -> None:
    """So that the capture can be tried again; the guest goes on in the layer it had."""
    vm, monitor = running
    monitor.answers[refused] = OSError("no such luck")

    with pytest.raises(VmmFailed, match="no such luck") as caught:
        await vm.push_layer(layer)

    assert monitor.names()[-4:] == ["blockdev-del", "blockdev-del", "object-del", "remove-fd"]
    assert layer.passphrase.decode() not in str(caught.value)


async def test_flattening_copies_what_is_right_under_the_top(running: tuple[QemuVm, Monitor]) -> None:
    """The layers copied are forgotten, secrets and files too; those below stay."""
    vm, monitor = running
    chain = ["l0", "l1", "l2", "l5"]
    monitor.answers["query-block"] = [{"inserted": {"node-name": "l5"}}]
    monitor.answers["query-named-block-nodes"] = lambda _: [{"node-name": name} for name in chain]
    states = iter(["running", "running", "concluded"])
    monitor.answers["query-jobs"] = lambda _: [{"id": "flatten", "status": next(states)}]

    def forget(arguments: dict[str, Any]) -> object:
        if arguments["node-name"] in chain:
            chain.remove(arguments["node-name"])
        return {}

    monitor.answers["blockdev-del"] = forget
    flattening = asyncio.create_task(vm.flatten(2))
    while sum(name == "query-jobs" for name, _ in monitor.told) < 3:
        monitor._sock.sendall(b'{"event": "JOB_STATUS_CHANGE"}\n')
        await asyncio.sleep(0.01)
    await flattening

    stream = dict(monitor.told)["block-stream"]
    assert (stream["device"], stream["base-node"], stream["backing-file"]) == ("l5", "l0", "base.qcow2")
    assert chain == ["l0", "l5"]
    assert [arguments["id"] for name, arguments in monitor.told if name == "object-del"] == ["k2", "k1"]


async def test_a_flattening_that_is_cancelled_ends_in_the_monitor_too(running: tuple[QemuVm, Monitor]) -> None:
    """Also if the monitor has not even said that it began."""
    vm, monitor = running
    jobs: list[dict[str, str]] = []

    def begin(arguments: dict[str, Any]) -> object:
        asyncio.run_coroutine_threadsafe(_cancel(), loop).result()
        jobs.append({"id": "flatten", "status": "running"})
        return {}

    async def _cancel() -> None:
        flattening.cancel()

    def end(arguments: dict[str, Any]) -> object:
        jobs[0] = {"id": "flatten", "status": "concluded", "error": "Operation canceled"}
        return {}

    monitor.answers |= {"block-stream": begin, "job-cancel": end, "query-jobs": lambda _: jobs}
    monitor.answers["job-dismiss"] = lambda _: jobs.clear() or {}
    loop = asyncio.get_running_loop()
    flattening = asyncio.create_task(vm.flatten(1))
    with pytest.raises(asyncio.CancelledError):
        await flattening

    assert monitor.names() == ["block-stream", "job-cancel", "job-dismiss"]


async def test_a_flattening_that_is_cancelled_too_late_is_done(running: tuple[QemuVm, Monitor]) -> None:
    """Who cancelled it must know that the layers are not in the chain any more."""
    vm, monitor = running
    nodes = ["l0", "l1"]
    jobs = [{"id": "flatten", "status": "running"}]

    def too_late(arguments: dict[str, Any]) -> object:
        jobs[0] = {"id": "flatten", "status": "concluded"}
        return OSError("it has concluded")

    def forget(arguments: dict[str, Any]) -> object:
        nodes[:] = ["l1"]
        return {}

    monitor.answers |= {"query-jobs": lambda _: jobs, "job-cancel": too_late, "blockdev-del": forget}
    monitor.answers["job-dismiss"] = lambda _: jobs.clear() or {}
    monitor.answers["query-named-block-nodes"] = lambda _: [{"node-name": name} for name in nodes]
    flattening = asyncio.create_task(vm.flatten(1))
    await until(lambda: "query-jobs" in dict(monitor.told))
    flattening.cancel()
    await flattening

    assert nodes == ["l1"]


async def test_a_flattening_that_fails_is_told(running: tuple[QemuVm, Monitor]) -> None:
    """The disk may be full; the layers stay where they are."""
    vm, monitor = running
    monitor.answers["query-jobs"] = [{"id": "flatten", "status": "concluded", "error": "No space left on device"}]

    with pytest.raises(VmmFailed, match="No space left"):
        await vm.flatten(1)

    assert "blockdev-del" not in monitor.names()


async def test_layers_that_stay_in_the_chain_are_still_needed(running: tuple[QemuVm, Monitor]) -> None:
    """Whatever QEMU says of its job: who removed their files would destroy a disk."""
    vm, monitor = running
    monitor.answers["query-jobs"] = [{"id": "flatten", "status": "concluded"}]

    with pytest.raises(VmmFailed, match="still needs"):
        await vm.flatten(1)


@pytest.mark.parametrize("below", [0, 2])
async def test_no_more_is_flattened_than_there_is(running: tuple[QemuVm, Monitor], below: int) -> None:
    """Never into the template's disk."""
    vm, monitor = running

    with pytest.raises(VmmFailed, match="cannot be flattened"):
        await vm.flatten(below)

    assert "block-stream" not in monitor.names()


@pytest.mark.parametrize(
    "nonsense", [None, 7, "text", {}, [], [None], [{"inserted": []}], [{"node-name": {}}]], ids=str
)
async def test_nonsense_about_the_disk_is_a_failure(
    running: tuple[QemuVm, Monitor], layer: Layer, nonsense: object
) -> None:
    """And never another exception."""
    vm, monitor = running
    for query in ("query-block", "query-chardev"):
        monitor.answers[query] = nonsense

    with pytest.raises(VmmFailed):
        await vm.push_layer(layer)
    with pytest.raises(VmmFailed):
        await vm.stop()
    monitor.answers["query-status"] = nonsense
    assert not await vm.is_running()
