"""The tools that Claude was taught."""

from __future__ import annotations

import anthropic
import pytest
from support.scripted_model import ScriptedModel, anthropic_turn

from terp.integrations.anthropic import SandboxTools
from terp.integrations.claude import BASH, EDITOR

CONTEXT = {
    "context_id": "default-bash",
    "language": "bash",
    "cwd": "/workspace",
    "created_at": "2026-01-01T00:00:00Z",
    "last_used_at": None,
    "executions": 4,
    "alive": True,
}
DONE = {"kind": "done", "execution_count": 1, "context_id": "default-bash", "duration_ms": 3, "truncated": []}
FAILED = {"name": "ExitCode", "value": "exit code 3", "traceback": []}


@pytest.fixture
def holds(server):
    """Let the file that is edited have this text."""

    def reply(text: str) -> None:
        entry = {"name": "x.sh", "path": "/workspace/x.sh", "is_dir": False, "size": 1, "mode": 0o755}
        server.reply(body={**entry, "exists": True, "modified_at": "2026-01-01T00:00:00Z"})
        server.reply(content=text.encode())

    return reply


def test_they_are_offered_by_name(server, sandbox) -> None:
    server.exec({"kind": "stream", "stream": "stdout", "text": "hi\n"}, DONE)
    tools = SandboxTools(sandbox, ["bash", "str_replace_based_edit_tool", "run_code"])
    with (
        ScriptedModel(anthropic_turn(("bash", {"command": "echo hi"}))) as model,
        anthropic.Anthropic(api_key="k", base_url=model.url, max_retries=0) as client,
    ):
        message = client.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "go"}], tools=tools.definitions
        )

    result = tools.dispatch(message.content[0])

    assert model.asked[0]["tools"][:2] == [
        {"type": "bash_20250124", "name": "bash"},
        {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
    ]
    assert result["content"] == [{"type": "text", "text": "hi"}]
    assert server.sent()["language"] == "bash"


def test_the_shell_says_how_a_command_ended(server, sandbox) -> None:
    server.exec({"kind": "stream", "stream": "stderr", "text": "oh\n"}, {**DONE, "error": FAILED})

    assert BASH.call(sandbox, {"command": "false"}).text == "oh\n[exit code 3]"


def test_the_shell_is_restarted(server, sandbox) -> None:
    server.reply(body={"contexts": [{**CONTEXT, "context_id": "default"}, CONTEXT]})
    server.reply(body=CONTEXT)

    output = BASH.call(sandbox, {"restart": True})

    assert not output.is_error
    assert server.calls[-1].endswith("/code/contexts/default-bash/restart")


def test_a_file_is_viewed_with_its_lines(sandbox, holds) -> None:
    holds("a\nb\x0c\nc\n")

    output = EDITOR.call(sandbox, {"command": "view", "path": "/workspace/x.sh", "view_range": [2, -1]})

    assert output.text == "     2\tb\x0c\n     3\tc"


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        ("a b c", {"command": "str_replace", "old_str": "b", "new_str": "B"}, "a B c"),
        ("a b c", {"command": "str_replace", "old_str": " b"}, "a c"),
        ("a\nc\n", {"command": "insert", "insert_line": 1, "insert_text": "b\n"}, "a\nb\nc\n"),
        ("a\nb", {"command": "insert", "insert_line": 2, "insert_text": "c"}, "a\nb\nc"),
        ("", {"command": "insert", "insert_line": 0, "insert_text": "a"}, "a\n"),
    ],
)
def test_a_part_of_a_file_is_changed_and_its_mode_kept(server, sandbox, holds, before, edit, after) -> None:
    holds(before)
    server.reply(204)

    output = EDITOR.call(sandbox, {"path": "/workspace/x.sh", **edit})

    assert not output.is_error
    assert server.requests[-1].content.decode() == after
    assert server.requests[-1].url.params["mode"] == str(0o755)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"command": "str_replace", "old_str": "a"}, "old_str must be there once, and is there 2 times"),
        ({"command": "str_replace"}, "old_str is missing"),
        ({"command": "insert", "insert_line": 5, "insert_text": ""}, "insert_text and insert_line are needed"),
        ({"command": "view", "view_range": [4, 5]}, "view_range must be within 1 and 1"),
    ],
)
def test_what_cannot_be_done_is_told(sandbox, holds, edit, told) -> None:
    holds("a a\n")

    output = EDITOR.call(sandbox, {"path": "/workspace/x.sh", **edit})

    assert output.is_error
    assert output.text.startswith(told)


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        (BASH, {}, "command is missing"),
        (BASH, {"restart": 1}, "restart must be a boolean"),
        (EDITOR, {"command": "undo", "path": "/x"}, "command must be one of view, create, str_replace, insert"),
        (EDITOR, {"command": "view", "path": "/x", "view_range": [1]}, "view_range must be 2 integers"),
        (EDITOR, {"command": "create", "path": "/x"}, "file_text is missing"),
    ],
)
def test_wrong_arguments_are_not_sent(server, sandbox, tool, arguments, told) -> None:
    output = tool.call(sandbox, arguments)

    assert output.is_error
    assert output.text.startswith(told)
    assert len(server.requests) == 1  # the create
