"""What all frameworks share: arguments, answers, bounds."""

from __future__ import annotations

import base64
import json

import pytest

from terp.integrations.tools import GET_PREVIEW_URL, LIST_FILES, READ_FILE, RUN_CODE, RUN_SHELL, WRITE_FILE


def test_run_shell_answers_with_output_and_exit_code(server, sandbox) -> None:
    server.exec(server.started, server.chunk(b"hi\n"), server.chunk(b"oh\n", "stderr"), server.exited(3))

    output = RUN_SHELL.call(sandbox, {"command": "x", "env": None})

    assert not output.is_error  # a failing command is a value
    assert json.loads(output.text) == {
        "exit_code": 3,
        "stdout": "hi\n",
        "stderr": "oh\n",
        "duration_ms": 18,
        "timed_out": False,
    }
    assert server.sent()["timeout_seconds"] == 60


async def test_long_output_is_shortened_and_kept_in_a_file(server, async_sandbox) -> None:
    whole = b"a" * 20_000 + b"b" * 20_000
    server.exec(server.started, server.chunk(whole), server.exited())
    server.reply(204)

    output = await RUN_SHELL.call_async(async_sandbox, {"command": "x"})

    shown = json.loads(output.text)
    assert len(shown["stdout"]) < 31_000
    assert "10000 characters left out; all of it is in /tmp/terp/" in shown["stdout"]
    assert server.requests[-1].content == whole
    assert shown["full_stdout"] == server.requests[-1].url.params["path"]
    assert "full_stderr" not in shown


async def test_a_full_disk_does_not_hide_the_output(server, async_sandbox) -> None:
    server.exec(server.started, server.chunk(b"a" * 40_000), server.exited())
    server.reply(422, {"code": "invalid_request", "message": "no space"})

    output = await RUN_SHELL.call_async(async_sandbox, {"command": "x"})

    assert not output.is_error
    assert "10000 characters left out …" in json.loads(output.text)["stdout"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_command_that_runs_into_its_timeout_shows_what_it_wrote(
    server, sandbox, async_sandbox, asynchronous
) -> None:
    timed_out = {"kind": "error", "code": "exec_timeout", "message": "too slow"}
    server.exec(server.started, server.chunk(b"half"), timed_out)
    arguments = {"command": "x", "timeout_seconds": 2}

    if asynchronous:
        output = await RUN_SHELL.call_async(async_sandbox, arguments)
    else:
        output = RUN_SHELL.call(sandbox, arguments)

    shown = json.loads(output.text)
    assert (shown["stdout"], shown["exit_code"], shown["timed_out"]) == ("half", 124, True)


def test_errors_are_told_with_their_code(server, sandbox) -> None:
    server.reply(409, {"code": "state_conflict", "message": "It is paused; resume it"})

    output = RUN_SHELL.call(sandbox, {"command": "x"})

    assert output.is_error
    assert output.text == "It is paused; resume it (state_conflict)"


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        (RUN_SHELL, {}, "command is missing: A line for bash"),
        (RUN_SHELL, [], "The arguments must be an object"),
        (RUN_SHELL, {"command": 5}, "command must be a string of Unicode text"),
        (RUN_SHELL, {"command": "\ud800"}, "command must be a string of Unicode text"),
        (RUN_SHELL, {"command": "x", "timeout_seconds": True}, "timeout_seconds must be an integer of at least 1"),
        (RUN_SHELL, {"command": "x", "timeout_seconds": 0}, "timeout_seconds must be an integer of at least 1"),
        (RUN_SHELL, {"command": "x", "env": {"A": 1}}, "env must be an object of strings"),
        (RUN_SHELL, {"command": "x", "shell": "sh"}, "No such argument: shell. There are command, cwd"),
        (RUN_CODE, {"code": "1", "language": "perl"}, "language must be one of python, javascript, bash"),
        (GET_PREVIEW_URL, {"port": 70000}, "port must be an integer of at least 1 and at most 65535"),
        (WRITE_FILE, {"path": "/tmp/a", "content": "?", "encoding": "base64"}, "content is not valid base64"),
    ],
)
def test_wrong_arguments_are_told_and_not_sent(server, sandbox, tool, arguments, told) -> None:
    output = tool.call(sandbox, arguments)

    assert output.is_error
    assert output.text.startswith(told)
    assert len(server.requests) == 1  # the create


def test_code_shows_its_images(sandbox, plotted) -> None:
    plotted()

    output = RUN_CODE.call(sandbox, {"code": "plot()"})

    assert output.images == (b"\x89PNG\r\n",)
    assert json.loads(output.text)["context_id"] == "default"


def test_a_file_is_read_in_parts_that_cut_no_character(server, sandbox) -> None:
    server.reply(content="aäb".encode())
    server.reply(content="aäb".encode())
    server.reply(content=b"\xff\x00")

    first = json.loads(READ_FILE.call(sandbox, {"path": "/tmp/x", "limit": 2}).text)
    rest = json.loads(READ_FILE.call(sandbox, {"path": "/tmp/x", "offset": first["next_offset"]}).text)
    binary = json.loads(READ_FILE.call(sandbox, {"path": "/tmp/x"}).text)

    assert (first["content"], first["next_offset"], first["size"]) == ("a", 1, 4)
    assert rest["content"] == "äb"
    assert "next_offset" not in rest
    assert (binary["encoding"], base64.b64decode(binary["content"])) == ("base64", b"\xff\x00")


def test_files_are_written_as_text_or_base64(server, sandbox) -> None:
    server.reply(204)
    server.reply(204)

    WRITE_FILE.call(sandbox, {"path": "/tmp/x", "content": "ä"})
    output = WRITE_FILE.call(sandbox, {"path": "/tmp/y", "content": "AAE=", "encoding": "base64"})

    assert [request.content for request in server.requests[1:]] == ["ä".encode(), b"\x00\x01"]
    assert json.loads(output.text) == {"path": "/tmp/y", "bytes_written": 2}


def test_directories_are_listed_by_name_and_bounded(server, sandbox) -> None:
    entry = {"is_dir": False, "size": 1, "mode": 420, "modified_at": "2026-01-01T00:00:00Z"}
    server.reply(body={"is_dir": True, "entries": [{**entry, "name": f"{index:04}"} for index in reversed(range(600))]})

    shown = json.loads(LIST_FILES.call(sandbox, {}).text)

    assert [each["name"] for each in shown["entries"]] == [f"{index:04}" for index in range(500)]
    assert shown["more"] == 100
