"""
Every public call of the client once, with how it ends: the published surface against what this server offers.

What a call needs, such as a volume, is made for it and removed again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orkestr
from orkestr import BackgroundCommand, CodeContext, OrkestrError, Sandbox, Snapshot, Volume, Webhook

_ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def _command(sbx: Sandbox) -> BackgroundCommand:
    command = sbx.exec("true", background=True)
    assert isinstance(command, BackgroundCommand)
    return command


def _with_kernels(act: Callable[[Sandbox], object]) -> None:
    with Sandbox.create(template="code-interpreter") as sbx:
        act(sbx)


def _create(**options: Any) -> None:
    Sandbox.create(template="debian-12", **options).terminate()


def _with_network(act: Callable[[Sandbox], object]) -> None:
    with Sandbox.create(template="debian-12", network="restricted", preview_auth=True) as sbx:
        act(sbx)


def _volume() -> str:
    return Volume.create(f"call {uuid4()}", size_gb=0.25).id


def _with_volume(act: Callable[[str], object]) -> None:
    volume_id = _volume()
    act(volume_id)
    Volume.delete(volume_id)


def _paused() -> Sandbox:
    sbx = Sandbox.create(template="debian-12")
    sbx.pause()
    return sbx


def _create_from_snapshot(sbx: Sandbox) -> None:
    snap = sbx.snapshot()
    Sandbox.create(snapshot=snap.id).terminate()
    Snapshot.delete(snap.id)


def _webhook() -> str:
    """Nobody listens there, so nothing that happens in these tests leaves this host."""
    return Webhook.create("http://127.0.0.1:9/hook", event_types=["volume.moved"]).id


CALLS: dict[str, Callable[[Sandbox], object]] = {
    "Sandbox.create": lambda _: _create(),
    "Sandbox.create(network=restricted)": lambda _: _create(network="restricted"),
    "Sandbox.create(network=open)": lambda _: _create(network="open"),
    "Sandbox.create(allow_domains)": lambda _: _create(network="restricted", allow_domains=["example.com"]),
    "Sandbox.create(on_timeout=pause)": lambda _: _create(on_timeout="pause"),
    "Sandbox.create(auto_resume)": lambda _: _create(auto_resume=True),
    "Sandbox.create(preview_auth)": lambda _: _create(preview_auth=True),
    "Sandbox.create(volume)": lambda _: _with_volume(lambda volume_id: _create(volume=volume_id)),
    "Sandbox.create(snapshot)": _create_from_snapshot,
    "Sandbox.get": lambda sbx: Sandbox.get(sbx.id),
    "Sandbox.limits": lambda _: Sandbox.limits(),
    "Sandbox.list": lambda _: Sandbox.list(),
    "Sandbox.refresh": lambda sbx: sbx.refresh(),
    "Sandbox.set_timeout": lambda sbx: sbx.set_timeout(600),
    "Sandbox.terminate": lambda _: Sandbox.create(template="debian-12").terminate(),
    "Sandbox.pause": lambda _: _paused().terminate(),
    "Sandbox.resume": lambda _: Sandbox.resume(_paused().id).terminate(),
    "Sandbox.snapshot": lambda sbx: Snapshot.delete(sbx.snapshot("name").id),
    "Sandbox.metrics": lambda sbx: sbx.metrics(),
    "Sandbox.get_host": lambda _: _with_network(lambda sbx: sbx.get_host(3000)),
    "Sandbox.preview_url": lambda _: _with_network(lambda sbx: sbx.preview_url(3000)),
    "Sandbox.exec": lambda sbx: sbx.exec("true"),
    "Sandbox.exec(background)": lambda sbx: sbx.exec("true", background=True),
    "Sandbox.exec_stream": lambda sbx: list(sbx.exec_stream("true")),
    "Sandbox.commands": lambda sbx: sbx.commands(),
    "Sandbox.run_code": lambda _: _with_kernels(lambda sbx: sbx.run_code("1")),
    "Sandbox.run_code_stream": lambda _: _with_kernels(lambda sbx: list(sbx.run_code_stream("1"))),
    "Sandbox.create_code_context": lambda _: _with_kernels(lambda sbx: sbx.create_code_context()),
    "Sandbox.code_contexts": lambda _: _with_kernels(lambda sbx: sbx.code_contexts()),
    "Files.write": lambda sbx: sbx.files.write("/tmp/call", "x"),
    "Files.write_bytes": lambda sbx: sbx.files.write_bytes("/tmp/call", b"x"),
    "Files.read": lambda sbx: sbx.files.read("/tmp/call"),
    "Files.read_bytes": lambda sbx: sbx.files.read_bytes("/tmp/call"),
    "Files.list": lambda sbx: sbx.files.list("/tmp"),
    "Files.mkdir": lambda sbx: sbx.files.mkdir("/tmp/call-dir"),
    "Files.move": lambda sbx: sbx.files.move("/tmp/call", "/tmp/called"),
    "Files.stat": lambda sbx: sbx.files.stat("/tmp/called"),
    "Files.exists": lambda sbx: sbx.files.exists("/tmp/called"),
    "Files.write_batch": lambda sbx: sbx.files.write_batch({"/tmp/called": "x"}),
    "Files.delete": lambda sbx: sbx.files.delete("/tmp/called"),
    "Files.presign_download": lambda sbx: sbx.files.presign_download("/tmp/called"),
    "Files.presign_upload": lambda sbx: sbx.files.presign_upload("/tmp/called"),
    "BackgroundCommand.refresh": lambda sbx: _command(sbx).refresh(),
    "BackgroundCommand.wait": lambda sbx: _command(sbx).wait(timeout=60),
    "BackgroundCommand.kill": lambda sbx: _command(sbx).kill(),
    "BackgroundCommand.logs": lambda sbx: _command(sbx).logs(),
    "BackgroundCommand.stream": lambda sbx: list(_command(sbx).stream()),
    "CodeContext.run_code": lambda _: _with_kernels(lambda sbx: sbx.create_code_context().run_code("1")),
    "CodeContext.restart": lambda _: _with_kernels(lambda sbx: sbx.create_code_context().restart()),
    "CodeContext.remove": lambda _: _with_kernels(lambda sbx: sbx.create_code_context().remove()),
    "Snapshot.list": lambda _: Snapshot.list(),
    "Snapshot.get": lambda sbx: Snapshot.delete(Snapshot.get(sbx.snapshot().id).id),
    "Snapshot.delete": lambda _: Snapshot.delete(f"snap_{_ULID}"),
    "Volume.create": lambda _: Volume.delete(_volume()),
    "Volume.update": lambda _: _with_volume(lambda volume_id: Volume.update(volume_id, max_lifetime_days=1)),
    "Volume.move": lambda _: _with_volume(lambda volume_id: Volume.move(volume_id, "local")),
    "Volume.list": lambda _: Volume.list(),
    "Volume.delete": lambda _: Volume.delete(_volume()),
    "Webhook.create": lambda _: Webhook.delete(_webhook()),
    "Webhook.list": lambda _: Webhook.list(),
    "Webhook.enable": lambda _: Webhook.delete(Webhook.enable(_webhook()).id),
    "Webhook.delete": lambda _: Webhook.delete(_webhook()),
}


def outcomes(fresh: Sandbox) -> dict[str, dict[str, Any]]:
    """Make every call; say of each whether it worked, or which exception with which status it raised."""
    results: dict[str, dict[str, Any]] = {}
    for name, call in CALLS.items():
        try:
            call(fresh)
        except Exception as error:  # noqa: BLE001  a crash of the client is an outcome too
            results[name] = {
                "error": type(error).__name__,
                "clear": isinstance(error, OrkestrError) and bool(getattr(error, "detail", None)),
                "status": getattr(error, "status_code", None),
                "text": str(error),
            }
        else:
            results[name] = {"error": None}
    return results


def surface() -> list[str]:
    """The public calls that the installed client has, Agents apart: they belong to another product."""
    classes = (Sandbox, orkestr.sandbox.Files, BackgroundCommand, CodeContext, Snapshot, Volume, Webhook)
    return [
        f"{cls.__name__}.{name}"
        for cls in classes
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") and (inspect.isfunction(member) or inspect.ismethod(member))
    ]
