"""Cases: the files namespace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
from orkestr import APIError, AuthError, OrkestrError, Sandbox, SandboxNotFound

from expect import raises

_MIB = 1 << 20


def _refused(call: object) -> OrkestrError:
    """A write outside the roots is refused: 400 or 403, as the server chooses, and says so."""
    try:
        call()  # type: ignore[operator]
    except (APIError, AuthError) as error:
        assert error.status_code in (400, 403, 422), error
        return error
    raise AssertionError("the write was to be refused")


def text_and_bytes_round_trip(sandbox: Sandbox) -> None:
    """What is written is read again byte for byte, by the client and by programs inside."""
    every_byte = bytes(range(256)) * 300
    sandbox.files.write_bytes("/workspace/round/every.bin", every_byte)
    assert sandbox.files.read_bytes("/workspace/round/every.bin") == every_byte
    sandbox.files.write("/workspace/round/text", "grüße\r\n漢字\n")
    assert sandbox.files.read("/workspace/round/text") == "grüße\r\n漢字\n"
    assert sandbox.exec("cat round/text").stdout == "grüße\r\n漢字\n"
    assert sandbox.exec("wc -c < round/every.bin").stdout == f"{len(every_byte)}\n"


def empty_file(sandbox: Sandbox) -> None:
    """An empty file is a file."""
    sandbox.files.write("/tmp/empty", "")
    assert sandbox.files.read_bytes("/tmp/empty") == b""
    assert sandbox.files.stat("/tmp/empty").size == 0
    assert sandbox.files.exists("/tmp/empty")


def write_replaces(sandbox: Sandbox) -> None:
    """Writing again replaces the whole content."""
    sandbox.files.write("/tmp/twice", "a long first text")
    sandbox.files.write("/tmp/twice", "short")
    assert sandbox.files.read("/tmp/twice") == "short"


def mode_is_set(sandbox: Sandbox) -> None:
    """The mode asked for is the mode it has; the default is 0644."""
    sandbox.files.write("/workspace/run.sh", "#!/bin/sh\necho ran\n", mode=0o755)
    assert sandbox.exec("./run.sh").stdout == "ran\n"
    assert sandbox.files.stat("/workspace/run.sh").mode == 0o755
    sandbox.files.write("/workspace/plain", "")
    assert sandbox.files.stat("/workspace/plain").mode == 0o644


def strange_names(sandbox: Sandbox) -> None:
    """Names with spaces, quotes, unicode and URL characters are names."""
    for name in ("with space", "grüße-漢字-🦀", "a&b=c?d#e%20f+g", "quote'\"", "-rf", "new\nline", "[x]{y}"):
        path = f"/workspace/names/{name}"
        sandbox.files.write(path, name)
        assert sandbox.files.read(path) == name
        assert name in {entry.name for entry in sandbox.files.list("/workspace/names")}
        sandbox.files.delete(path)
        assert not sandbox.files.exists(path)


def list_describes_entries(sandbox: Sandbox) -> None:
    """Each entry has its name, kind, size, mode and time; an empty directory has none."""
    sandbox.files.mkdir("/workspace/listed/sub")
    sandbox.files.write("/workspace/listed/file", "12345", mode=0o600)
    entries = {entry.name: entry for entry in sandbox.files.list("/workspace/listed")}
    assert set(entries) == {"sub", "file"}
    assert entries["sub"].is_dir
    file = entries["file"]
    assert (file.is_dir, file.size, file.mode) == (False, 5, 0o600)
    assert abs(file.modified_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert sandbox.files.list("/workspace/listed/sub") == []
    assert any(entry.name == "passwd" for entry in sandbox.files.list("/etc"))


def stat_of_what_is_and_is_not(sandbox: Sandbox) -> None:
    """Stat answers for files, directories and the absent, which is no error."""
    sandbox.files.write("/tmp/stat/file", "123")
    file = sandbox.files.stat("/tmp/stat/file")
    assert (file.path, file.exists, file.is_dir, file.size) == ("/tmp/stat/file", True, False, 3)
    assert file.modified_at is not None
    directory = sandbox.files.stat("/tmp/stat")
    assert (directory.exists, directory.is_dir) == (True, True)
    absent = sandbox.files.stat("/tmp/stat/nothing")
    assert (absent.exists, absent.is_dir, absent.size) == (False, False, 0)
    assert not sandbox.files.exists("/no/such/place")


def mkdir_with_and_without_parents(sandbox: Sandbox) -> None:
    """With parents it is mkdir -p; without them a missing or existing one is an error."""
    sandbox.files.mkdir("/workspace/deep/er/est")
    sandbox.files.mkdir("/workspace/deep/er/est")
    assert sandbox.files.stat("/workspace/deep/er/est").is_dir
    sandbox.files.mkdir("/workspace/deep/other", parents=False)
    for path in ("/workspace/deep/no/parent", "/workspace/deep/other"):
        try:
            sandbox.files.mkdir(path, parents=False)
        except OrkestrError as error:
            assert error.status_code in (400, 404, 409)
        else:
            raise AssertionError(f"mkdir {path} was to fail")


def move_files_and_directories(sandbox: Sandbox) -> None:
    """Move renames files and whole directories; a missing source is not found."""
    sandbox.files.write("/workspace/from/a", "a")
    sandbox.files.move("/workspace/from/a", "/workspace/from/b")
    assert not sandbox.files.exists("/workspace/from/a")
    sandbox.files.move("/workspace/from", "/tmp/moved/to")
    assert sandbox.files.read("/tmp/moved/to/b") == "a"
    raises(SandboxNotFound, lambda: sandbox.files.move("/workspace/nothing", "/workspace/something"))


def delete_refuses_directories(sandbox: Sandbox) -> None:
    """Delete removes a file and no directory; a missing file is not found."""
    sandbox.files.write("/workspace/kept/file", "")
    try:
        sandbox.files.delete("/workspace/kept")
    except OrkestrError as error:
        assert error.status_code in (400, 409, 422)
    else:
        raise AssertionError("a directory was to be refused")
    sandbox.files.delete("/workspace/kept/file")
    assert sandbox.files.stat("/workspace/kept").is_dir
    raises(SandboxNotFound, lambda: sandbox.files.delete("/workspace/kept/file"))


def missing_and_wrong_kinds(sandbox: Sandbox) -> None:
    """Reading what is not there is not found; the client tells files and directories apart itself."""
    assert raises(SandboxNotFound, lambda: sandbox.files.read("/workspace/absent")).status_code == 404
    raises(SandboxNotFound, lambda: sandbox.files.list("/absent"))
    assert "is a directory" in str(raises(OrkestrError, lambda: sandbox.files.read("/etc")))
    assert "is a file" in str(raises(OrkestrError, lambda: sandbox.files.list("/etc/passwd")))


def read_anywhere_write_in_roots(sandbox: Sandbox) -> None:
    """Any file can be read; writes, moves, mkdirs and removals outside the roots are refused and change nothing."""
    assert sandbox.files.read("/etc/debian_version").startswith("12")
    before = sandbox.exec("ls -la /etc /usr | cksum").stdout
    _refused(lambda: sandbox.files.write("/etc/evil", "x"))
    _refused(lambda: sandbox.files.write("/workspace/../etc/evil", "x"))
    _refused(lambda: sandbox.files.mkdir("/usr/evil"))
    _refused(lambda: sandbox.files.delete("/etc/passwd"))
    sandbox.files.write("/tmp/mine", "x")
    _refused(lambda: sandbox.files.move("/tmp/mine", "/etc/evil"))
    _refused(lambda: sandbox.files.move("/etc/passwd", "/tmp/passwd"))
    assert sandbox.exec("ls -la /etc /usr | cksum").stdout == before


def symlinks_do_not_lead_out(sandbox: Sandbox) -> None:
    """A link planted by a guest program does not widen what may be written."""
    sandbox.exec("ln -sfn /etc /workspace/link; ln -sfn /etc/passwd /workspace/file-link")
    _refused(lambda: sandbox.files.write("/workspace/link/evil", "x"))
    assert not sandbox.files.exists("/etc/evil")
    before = sandbox.files.read("/etc/passwd")
    try:
        sandbox.files.write("/workspace/file-link", "x")
    except OrkestrError as error:
        assert error.status_code in (400, 403, 422)
    assert sandbox.files.read("/etc/passwd") == before


def bad_paths_are_refused(sandbox: Sandbox) -> None:
    """Relative, empty, over-long and NUL-carrying paths are the caller's mistake."""
    for path in ("relative", "", "/tmp/" + "x" * 5000, "/tmp/a\0b"):
        for call in (sandbox.files.read, sandbox.files.stat, sandbox.files.mkdir):
            error = raises(APIError, lambda call=call, path=path: call(path))
            assert error.status_code in (400, 422), (path, error)


def one_shot_cap(sandbox: Sandbox) -> None:
    """16 MiB can be written and read at once; one byte more is refused with the limit named, also for reads."""
    content = bytes(16 * _MIB)
    sandbox.files.write_bytes("/tmp/cap", content)
    assert sandbox.files.read_bytes("/tmp/cap") == content
    error = raises(APIError, lambda: sandbox.files.write_bytes("/tmp/cap", content + b"x"))
    assert error.status_code == 413
    sandbox.exec("printf x >> /tmp/cap")
    assert raises(APIError, lambda: sandbox.files.read_bytes("/tmp/cap")).status_code == 413
    sandbox.exec("rm /tmp/cap")


def batch_writes_what_it_can(sandbox: Sandbox) -> None:
    """Each row of a batch stands for itself: bad ones carry a code, good ones are written."""
    rows = sandbox.files.write_batch(
        [
            ("/workspace/batch/one.txt", "eins"),
            ("/etc/evil", "x"),
            ("/workspace/batch/two.bin", b"\x00\xff"),
            ("relative", "x"),
        ],
        mode=0o640,
    )
    assert [row.path for row in rows] == [
        "/workspace/batch/one.txt",
        "/etc/evil",
        "/workspace/batch/two.bin",
        "relative",
    ]
    assert [row.bytes_written for row in rows] == [4, None, 2, None]
    assert [bool(row.error) for row in rows] == [False, True, False, True]
    assert rows[1].error == "not_permitted"
    assert sandbox.files.read("/workspace/batch/one.txt") == "eins"
    assert sandbox.files.stat("/workspace/batch/two.bin").mode == 0o640


def batch_bounds(sandbox: Sandbox) -> None:
    """64 files are a batch, 65 are refused; none is fine."""
    rows = sandbox.files.write_batch({f"/tmp/many/{n}": str(n) for n in range(64)})
    assert [row.error for row in rows] == [None] * 64
    assert len(sandbox.files.list("/tmp/many")) == 64
    error = raises(APIError, lambda: sandbox.files.write_batch({f"/tmp/more/{n}": "" for n in range(65)}))
    assert error.status_code in (400, 413, 422)
    assert not sandbox.files.exists("/tmp/more")


def presigned_urls_move_files(sandbox: Sandbox) -> None:
    """Whoever has the URLs writes and reads by plain HTTP, again and again, above the cap of one-shot calls."""
    content = bytes(range(256)) * (80 << 10)
    up = sandbox.files.presign_upload("/workspace/signed/large.bin")
    assert (up.method, up.path) == ("PUT", "/workspace/signed/large.bin")
    with httpx.Client(trust_env=False, timeout=120) as anyone:
        for _ in range(2):
            assert anyone.put(up.url, content=content).is_success
        down = sandbox.files.presign_download("/workspace/signed/large.bin", expires_in=3600)
        assert down.method == "GET"
        for _ in range(2):
            answer = anyone.get(down.url)
            assert answer.is_success
            assert answer.content == content
        assert anyone.put(down.url, content=b"x").status_code in (401, 403)
        assert anyone.get(down.url[:-1]).status_code in (401, 403)
    stat = sandbox.files.stat("/workspace/signed/large.bin")
    assert (stat.size, stat.mode) == (len(content), 0o644)
    soon = datetime.now(UTC) + timedelta(seconds=600)
    assert abs(up.expires_at - soon) < timedelta(seconds=120)


def presigned_urls_follow_the_files(sandbox: Sandbox) -> None:
    """A URL names a path: what is there when it is used counts, and 404 when nothing is."""
    down = sandbox.files.presign_download("/tmp/later")
    with httpx.Client(trust_env=False, timeout=60) as anyone:
        assert anyone.get(down.url).status_code == 404
        sandbox.files.write("/tmp/later", "there")
        assert anyone.get(down.url).text == "there"


def presigned_bounds(sandbox: Sandbox) -> None:
    """60 to 3600 seconds, absolute paths, and the write roots for uploads."""
    for seconds in (59, 3601):
        error = raises(APIError, lambda: sandbox.files.presign_download("/tmp/x", expires_in=seconds))  # noqa: B023
        assert error.status_code in (400, 422)
    _refused(lambda: sandbox.files.presign_upload("/etc/evil"))
    assert raises(APIError, lambda: sandbox.files.presign_download("relative")).status_code in (400, 422)


def presigned_urls_need_a_length(sandbox: Sandbox) -> None:
    """An upload in chunks without Content-Length is refused, and changes nothing."""
    up = sandbox.files.presign_upload("/tmp/chunked")
    with httpx.Client(trust_env=False, timeout=60) as anyone:
        assert anyone.put(up.url, content=iter([b"x"])).status_code == 411
    assert not sandbox.files.exists("/tmp/chunked")
