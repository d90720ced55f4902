"""Cases: code in persistent kernels."""

from __future__ import annotations

from orkestr import CodeExecution, InterpreterUnavailable, Sandbox, SandboxNotFound

from expect import raises


def state_and_results(interpreter: Sandbox) -> None:
    """Variables last; the value of the last expression is a result; exceptions are data in a result."""
    first = interpreter.run_code("import sys\nx = 20\nprint('out')\nprint('err', file=sys.stderr)\nx + 1")
    assert (first.text, first.stdout, first.stderr, first.error) == ("21", "out\n", "err\n", None)
    assert (first.context_id, first.interrupted, first.restarted, first.truncated) == ("default", False, False, [])
    failed = interpreter.run_code("x / 0")
    assert failed.error is not None
    assert (failed.error.name, failed.error.value) == ("ZeroDivisionError", "division by zero")
    assert any("ZeroDivisionError" in line for line in failed.error.traceback)
    again = interpreter.run_code("x")
    assert (again.text, again.execution_count) == ("20", (first.execution_count or 0) + 2)
    assert interpreter.run_code("echo $((6 * 7))", language="bash").stdout == "42\n"


def rich_results(interpreter: Sandbox) -> None:
    """A table has HTML and text, a figure is a PNG."""
    table = interpreter.run_code("import pandas as pd\npd.DataFrame({'a': [1]})").results[-1]
    assert table.type == "html"
    assert table.html is not None
    assert "<table" in table.html
    assert table.text
    figure = interpreter.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()").results[0]
    assert figure.type == "image_png"
    assert (figure.png_bytes() or b"")[:8] == b"\x89PNG\r\n\x1a\n"
    assert figure.chart is not None


def timeout_interrupts(interpreter: Sandbox) -> None:
    """A timeout is no error of the call: the code is interrupted and what the kernel holds stays."""
    interpreter.run_code("kept = 1")
    execution = interpreter.run_code("import time\ntime.sleep(600)", timeout_seconds=2)
    assert (execution.interrupted, execution.restarted) == (True, False)
    assert interpreter.run_code("kept").text == "1"


def streams(interpreter: Sandbox) -> None:
    """Events come as things happen; the last one is what a buffered call would have returned."""
    events = list(interpreter.run_code_stream("print('a')\ndisplay(1)\nraise KeyError('k')"))
    assert [event.kind for event in events] == ["stream", "result", "error", "done"]
    assert (events[0].stream, events[0].text) == ("stdout", "a\n")
    execution = events[-1].execution
    assert isinstance(execution, CodeExecution)
    assert (execution.stdout, [result.text for result in execution.results]) == ("a\n", ["1"])
    assert execution.error is not None
    assert execution.error.name == "KeyError"


def contexts(interpreter: Sandbox) -> None:
    """Each has its own names and directory; a restart empties it, and after its removal it is not there."""
    context = interpreter.create_code_context(cwd="/tmp")
    assert (context.language, context.cwd, context.alive) == ("python", "/tmp", True)
    assert context.created_at is not None
    interpreter.run_code("mine = 1")
    context.run_code("own = 1")
    assert context.run_code("import os\n'mine' in globals(), os.getcwd()").text == "(False, '/tmp')"
    listed = {one.id: one for one in interpreter.code_contexts()}
    assert {"default", context.id} <= set(listed)
    assert listed[context.id].executions == 2
    assert context.restart() is context
    assert context.run_code("'own' in globals()").text == "False"
    context.remove()
    assert context.id not in {one.id for one in interpreter.code_contexts()}
    assert raises(SandboxNotFound, lambda: context.run_code("1")).status_code == 404


def died_and_restarted(interpreter: Sandbox) -> None:
    """A kernel that dies is told of and replaced."""
    died = interpreter.run_code("import os\nos._exit(1)")
    assert died.restarted
    assert died.error is not None
    assert interpreter.run_code("'os' in globals()").text == "False"


def kernels_outlive_a_pause(interpreter: Sandbox) -> None:
    """Variables are there after a pause and a resume."""
    interpreter.run_code("before = {'a': [1]}")
    interpreter.pause()
    assert Sandbox.resume(interpreter.id).run_code("before").text == "{'a': [1]}"


def other_templates_have_none(sandbox: Sandbox) -> None:
    """Buffered, streamed and for contexts it is an error of its own."""
    for call in (
        lambda: sandbox.run_code("1"),
        lambda: list(sandbox.run_code_stream("1")),
        sandbox.create_code_context,
        sandbox.code_contexts,
    ):
        error = raises(InterpreterUnavailable, call)
        assert "code-interpreter" in str(error)
