# Generated from tests/_async/test_files.py by tools/sync.py: change that one.
"""Files: whole, streamed, many."""

from __future__ import annotations

import base64
import io

import httpx
import pytest

from terp import (
    ConnectionFailed,
    FileNotFound,
    InvalidRequest,
    NotPermitted,
    PartialWrite,
    Sandbox,
    StateConflict,
    Terp,
    TooLarge,
)
from terp._sync import files as files_module

BASE = "/v1/sandboxes/sbx_01JG0000000000000000000000/files"


@pytest.fixture
def files(server):
    with Terp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(200, server.sandbox)
        sandbox = Sandbox.get("sbx_1", client=client)
        server.requests.clear()
        yield sandbox.files


@pytest.mark.parametrize(
    ("content", "written"),
    [
        ("häh", "häh".encode()),
        (b"\xff\x00", b"\xff\x00"),
        (b"", b""),
        (io.BytesIO(b"file"), b"file"),
        (io.StringIO("téxt"), "téxt".encode()),
    ],
)
def test_write_takes_text_bytes_and_files(server, files, content, written):
    """What arrives are the bytes, with path and mode in the query."""
    server.reply(200, {"path": "/workspace/a b", "size": len(written)})

    files.write("/workspace/a b", content, mode=0o755)

    assert server.calls == [f"PUT {BASE}/content?path=/workspace/a%20b&mode=493"]
    assert server.requests[0].content == written


def test_write_is_repeated_when_the_content_is_at_hand(server, files):
    """Writing the same twice is writing it once."""
    server.fail(httpx.WriteError("reset"))
    server.reply(200, {})

    files.write("/tmp/a", "x")

    assert [request.content for request in server.requests] == [b"x", b"x"]


def test_stream_is_not_repeated(server, files):
    """A file object that was half read cannot be sent anew."""
    server.fail(httpx.WriteError("reset"))

    with pytest.raises(ConnectionFailed):
        files.write("/tmp/a", io.BytesIO(b"x"))


def test_write_stream_passes_the_source_s_own_error_on(server, files):
    """Even one that looks like ours: a download that is passed on fails as a download."""

    def source():
        yield b"some"
        raise httpx.ReadError("of the caller's own download")

    with pytest.raises(httpx.ReadError, match="own download"):
        files.write_stream("/tmp/a", source())


def test_write_many_packs_small_files(server, files):
    """65 small files are one batch and one plain write."""
    server.reply(200, {"results": []})
    server.reply(200, {})

    files.write_many({f"/tmp/{number}": str(number) for number in range(65)}, mode=0o600)

    rows = server.sent(0)["files"]
    assert len(rows) == 64
    assert rows[63] == {"path": "/tmp/63", "content": base64.b64encode(b"63").decode(), "mode": 0o600}
    assert server.calls[1] == f"PUT {BASE}/content?path=/tmp/64&mode=384"


def test_write_many_says_which_failed(server, files):
    """One bad file keeps none of the others from being written, in a batch or alone."""
    error = {"code": "not_permitted", "detail": "not there"}
    rows = [{"path": "/etc/a", "bytes_written": None, "error": error}]
    server.reply(200, {"results": [*rows, {"path": "/tmp/b", "bytes_written": 1, "error": None}]})
    server.reply(422, {"code": "not_permitted", "detail": "nor there"})

    with pytest.raises(PartialWrite, match="not there") as caught:
        files.write_many({"/etc/a": "", "/tmp/b": "b", "/etc/big": b"x" * (8 << 20)})

    assert sorted(caught.value.failed) == ["/etc/a", "/etc/big"]
    assert all(isinstance(error, NotPermitted) for error in caught.value.failed.values())


def test_write_many_stops_when_the_sandbox_is_gone(server, files):
    """What concerns no single file is no partial success."""
    server.reply(409, {"code": "state_conflict", "detail": "terminated"})

    with pytest.raises(StateConflict):
        files.write_many({"/tmp/a": "a"})


def test_read_gives_text_bytes_and_chunks(server, files):
    """The same content in three ways."""
    for _ in range(3):
        server.reply(content="häh".encode())

    assert files.read("/tmp/a") == "häh"
    assert files.read_bytes("/tmp/a") == "häh".encode()
    assert b"".join([chunk for chunk in files.read_stream("/tmp/a")]) == "häh".encode()
    assert set(server.calls) == {f"GET {BASE}/content?path=/tmp/a"}


def test_read_of_other_bytes_says_what_to_do(server, files):
    """No UnicodeDecodeError comes out."""
    server.reply(content=b"\xff")

    with pytest.raises(InvalidRequest, match="read_bytes"):
        files.read("/tmp/a")


def test_read_has_a_limit(server, files, monkeypatch):
    """A file without end does not fill the caller's memory."""
    monkeypatch.setattr(files_module, "MAX_READ_BYTES", 3)
    server.reply(content=b"four")

    with pytest.raises(TooLarge, match="read_stream"):
        files.read_bytes("/tmp/a")


def test_missing_file(server, files):
    """The status of a stream is read before its first chunk is given."""
    server.reply(404, {"code": "file_not_found", "detail": "no such"})

    with pytest.raises(FileNotFound):
        files.read_bytes("/tmp/a")


def test_list(server, files):
    """Paths are put together from the directory and the names."""
    row = {"name": "a", "is_dir": False, "size": 3, "mode": 420, "modified_at": "2026-01-01T00:00:00.123Z"}
    server.reply(200, {"is_dir": True, "entries": [row]})
    server.reply(200, {"is_dir": False, "content": ""})

    (found,) = files.list("/tmp")
    with pytest.raises(InvalidRequest, match="no directory"):
        files.list("/tmp/a")

    assert (found.path, found.size, found.mode, found.is_symlink) == ("/tmp/a", 3, 0o644, False)
    assert server.calls[0] == f"GET {BASE}?path=/tmp"


def test_stat_and_exists(server, files):
    """A path that is not there is a value for one and an error for the other."""
    absent = {"path": "/tmp/a", "exists": False, "is_dir": False, "size": 0, "mode": None, "modified_at": None}
    there = {"path": "/tmp/d/", "exists": True, "is_dir": True, "size": 1, "mode": 493}
    server.reply(200, absent)
    server.reply(200, absent)
    server.reply(200, {**there, "modified_at": "2026-01-01T00:00:00Z"})

    assert not files.exists("/tmp/a")
    with pytest.raises(FileNotFound, match="/tmp/a"):
        files.stat("/tmp/a")
    found = files.stat("/tmp/d/")

    assert (found.name, found.is_dir) == ("d", True)


def test_mkdir_move_remove(server, files):
    """Each is one request."""
    for _ in range(3):
        server.reply(204)

    files.mkdir("/tmp/d", parents=False)
    assert server.sent() == {"path": "/tmp/d", "parents": False}
    files.move("/tmp/a", "/tmp/b")
    assert server.sent() == {"source": "/tmp/a", "destination": "/tmp/b"}
    files.remove("/tmp/b")

    assert server.calls == [f"POST {BASE}/mkdir", f"POST {BASE}/move", f"DELETE {BASE}?path=/tmp/b"]


def test_half_a_surrogate_in_a_path_is_an_invalid_request(server, files):
    """No UnicodeEncodeError comes out."""
    with pytest.raises(InvalidRequest, match="surrogate"):
        files.read("/tmp/\ud800")
