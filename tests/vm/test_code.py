"""Code in persistent kernels, in real machines."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator

import pytest
from support.server import Server
from terp import Sandbox
from terp.errors import TerpError
from terp.models import CodeDone, CodeText, Execution, Result

pytestmark = pytest.mark.vm

DIES = "import os\nos._exit(3)"
_ENDED = "for n in $(seq 100); do pgrep -s {} -r D,R,S,T || exit 0; sleep 0.1; done; exit 1"  # a session has ended


@pytest.fixture(scope="module")
def sandbox(server: Server) -> Iterator[Sandbox]:
    with server.create("code-interpreter", env={"GREETING": "hello 'you'"}, timeout=3600) as sandbox:
        yield sandbox


def test_state_lasts_from_cell_to_cell(sandbox: Sandbox) -> None:
    """The first cell needs no set-up; variables, imports and functions are there in the next."""
    first = sandbox.run_code("import math\nx = 20\ndef twice(n): return 2 * n\n1 + 1")
    second = sandbox.run_code("twice(x) + math.floor(2.5)")

    assert (first.text, second.text) == ("2", "42")
    assert [result.is_main for result in first.results] == [True]
    assert second.execution_count == first.execution_count + 1
    assert second.context_id == "default"


def test_names_are_the_users_alone(sandbox: Sandbox) -> None:
    """What warmed the kernel up left no names behind."""
    context = sandbox.create_code_context()
    names = "sorted(name for name in globals() if not name.startswith('_'))"

    assert (
        context.run_code(names).text
        == sandbox.run_code("sorted({'In', 'Out', 'exit', 'get_ipython', 'open', 'quit'} & set(globals()))").text
    )
    context.remove()


def test_the_environment_of_the_sandbox(sandbox: Sandbox) -> None:
    """Kernels that were started before there was a sandbox have its variables; so have those changed later."""
    get = "import os; (os.environ['GREETING'], os.environ.get('LATER'))"
    assert sandbox.run_code(get).text == repr(("hello 'you'", None))

    sandbox.env.set({"LATER": "set"})

    assert sandbox.run_code(get).text == repr(("hello 'you'", "set"))
    assert sandbox.run_code("echo $LATER", language="bash").stdout == "set\n"


def test_an_exception_is_data(sandbox: Sandbox) -> None:
    """With its lines, without colours; what came before it stays."""
    execution = sandbox.run_code("kept = 5\nprint('before')\nkept / 0")

    assert execution.error is not None
    assert (execution.error.name, execution.error.value) == ("ZeroDivisionError", "division by zero")
    assert any("kept / 0" in line for line in execution.error.traceback)
    assert "\x1b" not in "".join(execution.error.traceback)
    assert execution.stdout == "before\n"
    assert sandbox.run_code("kept").text == "5"


def test_output_comes_as_it_is_written(sandbox: Sandbox) -> None:
    """In order, apart by stream, that of child processes too; and before the code has ended."""
    code = (
        "import subprocess, sys, time\nprint('one', flush=True)\ntime.sleep(1)\nprint('two', file=sys.stderr)\n"
        "subprocess.run(['echo', 'three'])\ndisplay('shown')\n'last'"
    )

    events = list(sandbox.run_code_stream(code))

    texts = {
        stream: "".join(e.text for e in events if isinstance(e, CodeText) and e.stream == stream)
        for stream in ("stdout", "stderr")
    }
    assert texts == {"stdout": "one\nthree\n", "stderr": "two\n"}
    assert events[0] == CodeText("stdout", "one\n")
    assert [(e.text, e.is_main) for e in events if isinstance(e, Result)] == [("'shown'", False), ("'last'", True)]
    assert isinstance(events[-1], CodeDone)


def test_a_figure_is_an_image_and_data(sandbox: Sandbox) -> None:
    """A PNG that decodes, and the chart's numbers, with axes and legend."""
    execution = sandbox.run_code(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], [2, 4, 8], label='growth')\nplt.title('Up')\n"
        "plt.xlabel('day')\nplt.legend()\nplt.show()\nplt.bar(['a', 'b'], [3, 4])\nplt.show()"
    )

    line, bars = execution.results
    assert line.type == "image_png"
    width, height, pixels = _decode_png(line.png)
    assert (width > 100, height > 100) == (True, True)
    assert len(pixels) == height * (1 + width * 4)
    assert line.chart["type"] == "line"
    assert (line.chart["title"], line.chart["x"]["label"]) == ("Up", "day")
    assert line.chart["series"] == [{"label": "growth", "points": [[1, 2], [2, 4], [3, 8]]}]
    assert bars.chart["type"] == "bar"
    assert [(bar["label"], bar["value"]) for bar in bars.chart["series"][0]["bars"]] == [("a", 3), ("b", 4)]


def test_a_table_is_html_and_text(sandbox: Sandbox) -> None:
    execution = sandbox.run_code("import pandas as pd\npd.DataFrame({'price': [1.5, 2.5]})")

    (table,) = execution.results
    assert table.type == "html"
    assert "<td>1.5</td>" in table.html
    assert "price" in table.text


def test_rich_forms(sandbox: Sandbox) -> None:
    """Markdown, LaTeX, SVG and JSON come through as what they are."""
    execution = sandbox.run_code(
        "from IPython.display import JSON, SVG, Latex, Markdown\n"
        "display(Markdown('# m'), Latex('$x$'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'), JSON({'a': [1]}))"
    )

    markdown, latex, svg, tree = execution.results
    assert (markdown.markdown, latex.latex, tree.json, tree.type) == ("# m", "$x$", {"a": [1]}, "json")
    assert svg.svg.startswith("<svg")


def test_a_timeout_interrupts_and_keeps_what_is_there(sandbox: Sandbox) -> None:
    """The cell ends, the variables stay. So for bash and JavaScript, in a loop and in an await."""
    sandbox.run_code("before = 1")
    endless = {
        "python": ["while True: pass", "import time; time.sleep(600)"],
        "bash": ["kept=1; while :; do :; done", "sleep 600"],
        "javascript": ["while (true) {}", "await new Promise(() => {})"],
    }

    for language, cells in endless.items():
        for cell in cells:
            execution = sandbox.run_code(cell, language=language, timeout=2)
            assert (execution.interrupted, execution.restarted) == (True, False), (language, cell, execution)
            assert execution.error is not None

    assert sandbox.run_code("before").text == "1"
    assert sandbox.run_code("echo $kept", language="bash").stdout == "1\n"


def test_a_kernel_that_dies_is_found_out_and_replaced(sandbox: Sandbox) -> None:
    """At once in the middle of a run, and between two; the run that finds it says so."""
    context = sandbox.create_code_context()
    context.run_code("gone = 1")

    died = context.run_code(DIES, timeout=300)
    after = context.run_code("'gone' in globals(), __import__('os').getpid()")
    sandbox.exec(f"kill -9 {after.text.strip('()').split(', ')[1]}").check()
    found = context.run_code("1")

    assert died.restarted
    assert died.error is not None
    assert after.text.startswith("(False,")
    assert not after.restarted
    assert (found.restarted, found.text) == (True, "1")
    context.remove()


def test_nothing_of_a_bash_context_outlives_its_kernel(sandbox: Sandbox) -> None:
    """Not when it is restarted in an endless loop, nor when its kernel is killed. One without its bash is replaced."""
    context = sandbox.create_code_context(language="bash")
    loop = "echo $$ >/tmp/shell; bash -c 'while :; do :; done'"
    executions: list[Execution] = []
    running = threading.Thread(target=lambda: executions.append(context.run_code(loop, timeout=300)))
    running.start()
    looping = sandbox.exec("until [ -s /tmp/shell ]; do sleep 0.1; done; cat /tmp/shell").check().stdout.strip()

    context.restart()
    running.join()
    after_restart = sandbox.exec(_ENDED.format(looping))
    shell = context.run_code("echo $$").stdout.strip()
    sandbox.exec(f"kill -9 {shell}").check()
    found = context.run_code("echo $$", timeout=120)
    shell = context.run_code("echo $$").stdout.strip()
    sandbox.exec(f"kill -9 $(ps -o ppid= -p {shell})").check()
    after_death = sandbox.exec(_ENDED.format(shell))

    assert executions[0].restarted
    assert (after_restart.exit_code, after_death.exit_code) == (0, 0), (after_restart, after_death)
    assert (found.restarted, found.interrupted) == (True, False)
    context.remove()


def test_contexts_are_apart_and_run_side_by_side(sandbox: Sandbox) -> None:
    """Each has its own names and directory; a run in one does not wait for another's. The server lists them."""
    sandbox.exec("mkdir -p /tmp/there").check()
    other = sandbox.create_code_context(cwd="/tmp/there")
    sandbox.run_code("mine = 1")

    assert other.run_code("import os; 'mine' in globals(), os.getcwd()").text == "(False, '/tmp/there')"
    meeting = (
        "import os, time\nopen('/tmp/{}', 'w').close()\nwhile not os.path.exists('/tmp/{}'): time.sleep(0.05)\n'met'"
    )
    texts: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: texts.append(other.run_code(meeting.format("b", "a")).text)),
        threading.Thread(target=lambda: texts.append(sandbox.run_code(meeting.format("a", "b")).text)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["'met'", "'met'"]
    assert {context.id for context in sandbox.code_contexts()} >= {"default", other.id}

    other.restart()
    assert other.run_code("'meeting' in globals(), 'os' in globals()").text == "(False, False)"
    other.remove()
    with pytest.raises(TerpError) as refused:
        other.run_code("1")
    assert refused.value.code == "context_not_found"


def test_javascript(sandbox: Sandbox) -> None:
    """Node: state, top-level await, values as JSON, console by stream, errors as data."""
    first = sandbox.run_code(
        "const a = await Promise.resolve(20); console.log('out'); console.error('err'); ({ a })", language="javascript"
    )
    second = sandbox.run_code("a + 22", language="javascript")
    failed = sandbox.run_code("null.x", language="javascript")

    assert (first.stdout, first.stderr, first.results[0].json) == ("out\n", "err\n", {"a": 20})
    assert second.text == "42"
    assert failed.error is not None
    assert failed.error.name == "TypeError"


def test_bash(sandbox: Sandbox) -> None:
    """Variables and the directory last; what a command fails with is an error; `exit` ends the kernel."""
    sandbox.run_code("a=3; cd /tmp; greet() { echo hi $1; }", language="bash")
    second = sandbox.run_code("greet $a; pwd; echo err >&2; false", language="bash")
    ended = sandbox.run_code("exit 4", language="bash", timeout=300)

    assert (second.stdout, second.stderr) == ("hi 3\n/tmp\n", "err\n")
    assert second.error is not None
    assert second.error.value == "exit code 1"
    assert ended.restarted


def test_floods_are_cut(sandbox: Sandbox) -> None:
    """Caps say what they cut; the kernel goes on."""
    execution = sandbox.run_code(
        "import base64, os\nprint('x' * 3_000_000)\nfor n in range(70): display(n)\n", timeout=300
    )
    large = sandbox.run_code("'y' * 9_000_000", timeout=300)

    assert set(execution.truncated) == {"stdout", "results"}
    assert len(execution.stdout) == 1024 * 1024
    assert len(execution.results) == 64
    assert large.truncated == ("text",)
    assert sandbox.run_code("'fine'").text == "'fine'"


def test_other_templates_have_no_kernels(server: Server) -> None:
    """And the error says which one has."""
    with server.create("debian-12") as bare, pytest.raises(TerpError) as refused:
        bare.run_code("1")

    assert refused.value.code == "interpreter_unavailable"
    assert "code-interpreter" in str(refused.value)


def test_variables_outlive_a_pause_and_forks_go_their_own_way(server: Server, sandbox: Sandbox) -> None:
    """A paused kernel goes on where it was; children of a fork have its variables and draw other random numbers."""
    sandbox.run_code("import random, numpy, uuid\nrandom.seed(1); numpy.random.seed(1)\nsaved = {'a': 1}")
    draw = "saved, random.random(), numpy.random.random(), uuid.uuid4()"

    sandbox.pause()
    sandbox.resume()
    assert sandbox.run_code("saved").text == "{'a': 1}"

    children = sandbox.fork(2)
    try:
        drawn = [child.run_code(draw).text for child in children]
    finally:
        for child in children:
            child.terminate()
    numbers = [text.split(",") for text in drawn]
    assert [each[0] for each in numbers] == ["({'a': 1}"] * 2
    assert not set(numbers[0][1:]) & set(numbers[1][1:])


def test_a_run_goes_on_over_a_snapshot(sandbox: Sandbox) -> None:
    """Nothing of it is lost, and nothing comes twice."""
    lines: list[str] = []
    code = "import time\nfor n in range(40):\n    print(n, flush=True)\n    time.sleep(0.2)\n'end'"
    running = threading.Thread(target=lambda: lines.append(sandbox.run_code(code, timeout=300).stdout))
    running.start()

    snapshot = sandbox.snapshot()
    running.join()

    snapshot.delete()
    assert lines == ["".join(f"{n}\n" for n in range(40))]


def _decode_png(data: bytes) -> tuple[int, int, bytes]:
    """Width, height, and the filtered rows of an image with 8 bits and four channels."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    pixels, place, width, height = b"", 8, 0, 0
    while place < len(data):
        (length,), kind = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        body = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", body)
            assert form[:2] == [8, 6]
        elif kind == b"IDAT":
            pixels += body
        place += 12 + length
    return width, height, zlib.decompress(pixels)
