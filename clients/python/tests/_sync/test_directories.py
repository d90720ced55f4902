# Generated from tests/_async/test_directories.py by tools/sync.py: change that one.
"""Whole directories, changes in them, and addresses of files."""

from __future__ import annotations

import io
import os
import tarfile

import pytest

from terp import BadReply, FileNotFound, Sandbox, Terp, TooLarge


@pytest.fixture
def files(server):
    with Terp(api_key="k", base_url="http://server.test", transport=server.transport) as client:
        server.reply(201, server.sandbox)
        yield Sandbox.create(client=client).files


def archive(*members):
    """Each a name with content, or a member as tarfile has it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            if isinstance(content, bytes):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = content
                tar.addfile(member)
    return out.getvalue()


def test_directory_comes_as_it_is(server, files, tmp_path):
    """Files, directories, links, modes; what was there before is replaced."""
    target = tmp_path / "new" / "out"
    target.mkdir(parents=True)
    (target / "a.txt").write_bytes(b"old")
    content = archive(
        ("sub", (tarfile.DIRTYPE, "")),
        ("sub/b", b"b" * 100_000),
        ("a.txt", b"new"),
        ("link", (tarfile.SYMTYPE, "sub/b")),
    )
    server.reply(content=content)

    transfer = files.download_dir("/workspace/out", target)

    assert server.calls[-1].endswith("/files/archive?path=/workspace/out")
    assert (target / "a.txt").read_bytes() == b"new"
    assert (target / "link").read_bytes() == b"b" * 100_000
    assert (target / "link").is_symlink()
    assert (transfer.files, transfer.size, transfer.skipped) == (4, 100_003, ())


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", b"x")],
        [("up", (tarfile.SYMTYPE, "..")), ("up/evil", b"x")],
        [("abs", (tarfile.SYMTYPE, "/")), ("abs/tmp/evil", b"x")],
        [("here", (tarfile.SYMTYPE, ".")), ("here/up", (tarfile.SYMTYPE, "..")), ("here/up/evil", b"x")],
        [("hard", (tarfile.LNKTYPE, "../secret"))],
        [("device", (tarfile.CHRTYPE, ""))],
        [("pipe", (tarfile.FIFOTYPE, ""))],
    ],
)
def test_hostile_archive_stays_inside(server, files, tmp_path, members):
    """Nothing is written, linked or made outside; what was left out is told, the rest arrives."""
    (tmp_path / "secret").write_bytes(b"secret")
    server.reply(content=archive(*members, ("good", b"good")))

    transfer = files.download_dir("/workspace", tmp_path / "out")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "secret"]
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert (tmp_path / "out" / "good").read_bytes() == b"good"
    for path in (tmp_path / "out").rglob("*"):
        assert path.resolve().is_relative_to(tmp_path / "out")
    assert transfer.files >= 1


def test_archive_does_not_write_through_a_link(server, files, tmp_path):
    """A link that was there before is replaced, its target left alone."""
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "mine")
    server.reply(content=archive(("a", b"theirs")))

    files.download_dir("/workspace", tmp_path / "out")

    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_endless_archive_is_refused(server, files, tmp_path):
    """A guest decides what it sends; the caller, how much."""
    server.reply(content=archive(("a", bytes(1 << 20))))

    with pytest.raises(TooLarge):
        files.download_dir("/workspace", tmp_path, max_bytes=1 << 19)


def test_no_archive_is_a_bad_reply(server, files, tmp_path):
    """Also one that is cut off, or has a name that would fill the memory."""
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    for content in (b"x" * 1024, archive(("a", bytes(5000)))[:2000], long_name.tobuf(tarfile.GNU_FORMAT)):
        server.reply(content=content)
        with pytest.raises(BadReply):
            files.download_dir("/workspace", tmp_path)


def test_missing_directory(server, files, tmp_path):
    """Says so before anything is written."""
    server.reply(404, {"detail": "no such", "code": "file_not_found"})

    with pytest.raises(FileNotFound):
        files.download_dir("/nowhere", tmp_path / "new")

    assert not (tmp_path / "new").exists()


def test_directory_goes_as_it_is(server, files, tmp_path):
    """Empty directories and links included, owners and pipes not."""
    (tmp_path / "sub" / "empty").mkdir(parents=True)
    (tmp_path / "sub" / "ä.txt").write_bytes(b"x" * 300_000)
    (tmp_path / "run.sh").write_bytes(b"")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    server.reply(204)
    server.reply(200, {"files": 5, "bytes": 300_000})

    transfer = files.upload_dir(tmp_path, "/workspace/in")

    assert (transfer.files, transfer.size, transfer.skipped) == (5, 300_000, ("pipe",))
    assert server.sent(-2) == {"path": "/workspace/in", "parents": True}
    with tarfile.open(fileobj=io.BytesIO(server.requests[-1].content)) as tar:
        found = {member.name: member for member in tar}
        assert tar.extractfile("sub/ä.txt").read() == b"x" * 300_000
    assert set(found) == {"sub", "sub/empty", "sub/ä.txt", "run.sh", "link"}
    assert (found["run.sh"].mode, found["run.sh"].uid, found["run.sh"].uname) == (0o755, 0, "")
    assert found["link"].linkname == "/etc/hostname"


def test_upload_of_what_is_no_directory(server, files, tmp_path):
    """Local errors come out as they are."""
    server.reply(204)

    with pytest.raises(FileNotFoundError):
        files.upload_dir(tmp_path / "missing", "/workspace")


def test_changes_are_told_until_the_directory_is_gone(server, files):
    """A kind that is not known here is nothing to tell, unless it says where."""
    moved = {"kind": "moved", "path": "/workspace/b", "is_dir": False, "moved_from": "/workspace/a"}
    server.exec(
        {"kind": "ready"}, {"kind": "created", "path": "/workspace/a", "is_dir": False}, moved, {"kind": "newer"}
    )

    changes = [change for change in files.watch("/workspace", recursive=False)]

    seen = [(change.kind, change.path, change.moved_from) for change in changes]
    assert seen == [
        ("ready", "", None),
        ("created", "/workspace/a", None),
        ("moved", "/workspace/b", "/workspace/a"),
    ]
    assert server.calls[-1].endswith("/files/watch?path=/workspace&recursive=false")


def test_watch_failures_are_raised(server, files):
    """Before and within the stream."""
    server.exec({"kind": "error", "code": "file_not_found", "message": "removed"})
    server.exec([])

    with pytest.raises(FileNotFound):
        for _ in files.watch("/workspace"):
            pass
    with pytest.raises(BadReply):
        for _ in files.watch("/workspace"):
            pass


def test_addresses(server, files):
    """Whoever has one can use it: no repr shows it."""
    reply = {"url": "http://server.test/v1/files/token", "path": "/workspace/a", "expires_at": "2026-01-01T00:10:00Z"}
    server.reply(200, {**reply, "method": "GET"})
    server.reply(200, {**reply, "method": "PUT"})

    download = files.presign_download("/workspace/a", expires_in=60)
    upload = files.presign_upload("/workspace/a")

    assert (download.method, upload.method) == ("GET", "PUT")
    assert "token" not in repr(download)
    assert [server.sent(index) for index in (-2, -1)] == [
        {"path": "/workspace/a", "expires_in": 60},
        {"path": "/workspace/a", "expires_in": 600},
    ]
