"""Trees of files in a real guest: presigned URLs, archives, and what changes."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.server import Server
from terp import Sandbox

pytestmark = pytest.mark.vm

_LARGE_BYTES = 64 << 20


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=120) as client:
        yield client


@pytest.fixture
def anyone() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=120) as client:
        yield client


def files(sandbox: Sandbox, rest: str) -> str:
    return f"/v1/sandboxes/{sandbox.id}/files/{rest}"


def test_presigned_files_of_any_size(shared: Sandbox, http: httpx.Client, anyone: httpx.Client) -> None:
    """64 MiB go in and out unchanged without a key, a part of them too; a snapshot meanwhile does no harm."""
    content = random.Random(1).randbytes(_LARGE_BYTES)
    expected = hashlib.sha256(content).hexdigest()
    body = {"path": "/workspace/signed/large.bin"}
    up = http.post(files(shared, "presign-upload"), json=body).raise_for_status().json()["url"]
    down = http.post(files(shared, "presign-download"), json=body).raise_for_status().json()["url"]

    assert anyone.put(up, content=content).raise_for_status().json()["size"] == _LARGE_BYTES
    assert shared.exec("sha256sum signed/large.bin", timeout=120).stdout.split()[0] == expected

    digest, taken = hashlib.sha256(), False
    with anyone.stream("GET", down) as answer:
        assert answer.headers["content-length"] == str(_LARGE_BYTES)
        for chunk in answer.iter_raw():
            digest.update(chunk)
            if not taken:
                taken = True
                snapshot = http.post(f"/v1/sandboxes/{shared.id}/snapshots", json={}).raise_for_status().json()["id"]
    assert digest.hexdigest() == expected
    http.delete(f"/v1/sandboxes/snapshots/{snapshot}").raise_for_status()

    part = anyone.get(down, headers={"range": f"bytes={_LARGE_BYTES - 1000}-"})
    assert (part.status_code, part.content) == (206, content[-1000:])
    shared.files.remove("/workspace/signed/large.bin")


def test_files_that_say_no_size(shared: Sandbox, http: httpx.Client, anyone: httpx.Client) -> None:
    """A file of /proc has content though its size is 0."""
    answer = http.post(files(shared, "presign-download"), json={"path": "/proc/version"})
    found = anyone.get(answer.json()["url"])
    assert found.text == shared.exec("cat /proc/version").stdout
    assert found.headers["content-length"] == str(len(found.content))


def test_a_tree_comes_back_as_it_was(shared: Sandbox, http: httpx.Client) -> None:
    """Files, modes, times, links and long names, out of one directory and into another."""
    name = "n" * 120
    made = (
        f"mkdir -p tree/deep/{name} && cd tree && echo one > deep/{name}/file && head -c 3000000 /dev/urandom > big"
        " && chmod 750 big && ln -s deep link && ln -s /nowhere dangling && touch -d @1000000000 deep"
    )
    shared.exec(made).check()
    archive = http.get(files(shared, "archive"), params={"path": "/workspace/tree"}).raise_for_status().content
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: member for member in tar}
    assert set(members) == {"deep", f"deep/{name}", f"deep/{name}/file", "big", "link", "dangling"}
    assert (members["big"].mode, members["big"].size, members["link"].linkname) == (0o750, 3_000_000, "deep")
    assert members["deep"].mtime == 1_000_000_000

    answer = http.put(files(shared, "archive"), params={"path": "/tmp/back/tree"}, content=archive)
    assert answer.raise_for_status().json() == {"files": 6, "bytes": 3_000_004}
    listing = r"find . -printf '%p %m %l %s %T@\n' | sed 's/\.[0-9]*$//' | grep -v '^. ' | sort; sha256sum big"
    before, after = (shared.exec(f"cd {top} && {listing}").check().stdout for top in ("tree", "/tmp/back/tree"))
    without_directories = [line for line in before.splitlines() if " 4096 " not in line]
    assert without_directories == [line for line in after.splitlines() if " 4096 " not in line]


@pytest.mark.parametrize("target", ["/etc", "../../etc"])
def test_a_hostile_archive_does_not_lead_out(shared: Sandbox, http: httpx.Client, target: str) -> None:
    """A link and a file behind it: the link is made, and nothing is written through it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, target
        tar.addfile(link)
        evil = tarfile.TarInfo("link/evil")
        evil.size = 4
        tar.addfile(evil, io.BytesIO(b"evil"))
    answer = http.put(files(shared, "archive"), params={"path": "/workspace/hostile"}, content=raw.getvalue())
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert not shared.files.exists("/etc/evil")


class Watcher:
    """Events of a directory, read by a thread of its own."""

    def __init__(self, http: httpx.Client, sandbox: Sandbox, path: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._came = threading.Condition()
        self._answer = http.stream("GET", files(sandbox, "watch"), params={"path": path, "recursive": "true"})
        self.reading = threading.Thread(target=self._read, daemon=True)
        self.reading.start()

    def _read(self) -> None:
        with self._answer as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    with self._came:
                        self.events.append(json.loads(line.removeprefix("data: ")))
                        self._came.notify_all()

    def expect(self, kind: str, path: str) -> dict[str, Any]:
        def found() -> dict[str, Any] | None:
            matching = (event for event in self.events if (event["kind"], event.get("path")) == (kind, path))
            return next(matching, None)

        with self._came:
            assert self._came.wait_for(lambda: found() is not None, timeout=60), (kind, path, self.events)
            event = found()
        assert event is not None
        return event


def test_changes_are_seen(shared: Sandbox, http: httpx.Client) -> None:
    """What commands and calls do is told, in directories that come later too and across a snapshot, to the end."""
    shared.files.mkdir("/workspace/watched")
    watcher = Watcher(http, shared, "/workspace/watched")
    watcher.expect("ready", "/workspace/watched")
    shared.exec("cd watched && echo 1 > a && echo 2 >> a && mkdir -p new/deep && mv a new/b && rm new/b").check()
    watcher.expect("created", "/workspace/watched/a")
    watcher.expect("modified", "/workspace/watched/a")
    assert watcher.expect("created", "/workspace/watched/new/deep")["is_dir"]
    moved = watcher.expect("moved", "/workspace/watched/new/b")
    assert moved["moved_from"] == "/workspace/watched/a"
    watcher.expect("removed", "/workspace/watched/new/b")
    shared.files.write("/workspace/watched/new/written", "x")
    watcher.expect("created", "/workspace/watched/new/written")
    assert not any("/." in event["path"] for event in watcher.events)

    snapshot = http.post(f"/v1/sandboxes/{shared.id}/snapshots", json={}).raise_for_status().json()["id"]
    watcher.expect("overflow", "/workspace/watched")
    shared.files.write("/workspace/watched/after", "x")
    watcher.expect("created", "/workspace/watched/after")
    http.delete(f"/v1/sandboxes/snapshots/{snapshot}").raise_for_status()

    shared.exec("rm -r watched").check()
    watcher.expect("removed", "/workspace/watched")
    watcher.reading.join(timeout=60)
    assert not watcher.reading.is_alive(), "what is gone is not watched any more"
