"""What a guest says of a run: what is taken for true, what is cut, and what is a fault of the guest."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from terpd.model.code import (
    MAX_RESULT_BYTES,
    MAX_RESULTS,
    MAX_RESULTS_BYTES,
    MAX_TEXT_BYTES,
    CodeDone,
    CodeError,
    CodeResult,
    CodeText,
    Language,
    ResultType,
)
from terpd.model.errors import ContextNotFound, GuestFault
from terpd.model.guest import OutputStream
from terpd.node.guest import code_lines, kernels
from terpd.node.guest.code_lines import RunLines

DONE = {"context_id": "default", "execution_count": 1, "duration_ms": 5, "interrupted": False, "restarted": False}
PNG = base64.b64encode(b"\x89PNG").decode()
CONTEXT = {"id": "default", "language": "python", "cwd": "/", "created_at": 0, "last_used_at": None, "executions": 0}


def told(*lines: Mapping[str, Any]) -> list[Any]:
    run = RunLines()
    return [run.take({"n": number, **line}) for number, line in enumerate(lines)]


def test_a_run_becomes_events() -> None:
    """Each line is an event; the error is told again at the end."""
    error = {"name": "ValueError", "value": "no", "traceback": ["a", "b"]}

    events = told(
        {"started": True},
        {"stream": "stdout", "text": "hi\n"},
        {"result": {"type": "text", "text": "2", "is_main": True}},
        {"error": error},
        {"done": {**DONE, "interrupted": True, "truncated": ["stdout"]}},
    )

    raised = CodeError("ValueError", "no", ("a", "b"))
    assert events == [
        None,
        CodeText(OutputStream.STDOUT, "hi\n"),
        CodeResult(ResultType.TEXT, text="2", is_main=True),
        raised,
        CodeDone("default", 1, 5, raised, interrupted=True, truncated=("stdout",)),
    ]


def test_the_type_is_the_richest_form() -> None:
    """It is found out here, whatever the guest says; forms that are not known are left out."""
    forms: dict[str, Any] = {"type": "rich", "text": "t", "other": "x"}
    types = []
    for name, value in (("json", [1]), ("html", "<b>"), ("chart", {"type": "line"}), ("png", PNG)):
        forms[name] = value
        types.append(told({"result": forms})[0].type)

    assert types == [ResultType.JSON, ResultType.HTML, ResultType.CHART, ResultType.IMAGE_PNG]


@pytest.mark.parametrize(
    "line",
    [
        {"stream": "stdin", "text": "x"},
        {"stream": ["stdout"], "text": "x"},
        {"stream": "stdout", "text": 5},
        {"result": "text"},
        {"result": {"text": {"a": 1}}},
        {"result": {"png": "no base64!"}},
        {"result": {"png": 7}},
        {"result": {"json": "text"}},
        {"result": {"chart": [1]}},
        {"error": {"name": None, "value": ""}},
        {"error": {"name": "A", "value": "", "traceback": [1]}},
        {"done": {**DONE, "context_id": "../etc"}},
        {"done": {**DONE, "context_id": None}},
        {"done": {**DONE, "execution_count": -1}},
        {"done": {**DONE, "execution_count": True}},
        {"done": {**DONE, "duration_ms": 2**60}},
        {"done": {**DONE, "duration_ms": 1.5}},
        {"done": []},
    ],
)
def test_lies_are_faults(line: Mapping[str, Any]) -> None:
    with pytest.raises(GuestFault):
        told(line)


@pytest.mark.parametrize("number", [1, -1, "0", 0.0, True, [0]])
def test_lines_come_in_their_order(number: object) -> None:
    """A line left out or repeated would be output that is lost or comes twice."""
    with pytest.raises(GuestFault):
        RunLines().take({"n": number, "started": True})


def test_what_is_beyond_the_caps_is_cut_and_named() -> None:
    """Also when the guest does not keep to them."""
    text = {"stream": "stdout", "text": "é" * (MAX_TEXT_BYTES // 2)}
    run = told(text, text, *({"result": {"text": "x"}} for _ in range(MAX_RESULTS + 5)), {"done": DONE})

    assert sum(len(event.text.encode()) for event in run if isinstance(event, CodeText)) == MAX_TEXT_BYTES
    assert sum(isinstance(event, CodeResult) for event in run) == MAX_RESULTS
    assert set(run[-1].truncated) == {"stdout", "results"}


def test_results_have_a_bound_together() -> None:
    large = {"result": {"html": "x" * (MAX_RESULT_BYTES - 10)}}
    count = MAX_RESULTS_BYTES // MAX_RESULT_BYTES

    *events, done = told(*([large] * (count + 2)), {"result": {"html": "x" * (MAX_RESULT_BYTES + 1)}}, {"done": DONE})

    assert sum(event is not None for event in events) == count
    assert done.truncated == ("results",)


def test_one_error_counts_and_is_bounded() -> None:
    events = told(
        {"error": {"name": "A" * 9999, "value": "v" * 99999, "traceback": ["t" * 99999, "u"]}},
        {"error": {"name": "B", "value": "", "traceback": []}},
        {"done": {**DONE, "truncated": ["stdout", "nonsense", 5]}},
    )

    assert len(events[0].name) <= 256
    assert len(events[0].value) + sum(map(len, events[0].traceback)) <= 2 * code_lines.MAX_ERROR_CHARS
    assert events[1] is None
    assert events[2].error is events[0]
    assert events[2].truncated == ("stdout",)


def test_contexts() -> None:
    (context,) = code_lines.contexts([{**CONTEXT, "alive": True}])

    assert (context.id, context.language, context.alive) == ("default", Language.PYTHON, True)


@pytest.mark.parametrize(
    "row",
    [{**CONTEXT, "language": "perl"}, {**CONTEXT, "created_at": 1e300}, {**CONTEXT, "id": "a b"}, {}, None, "default"],
)
def test_contexts_that_cannot_be(row: object) -> None:
    with pytest.raises(GuestFault):
        code_lines.contexts([row])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no json",
        b"[1]",
        b'{"n": NaN}',
        b'{"n": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"n": ' + b"1" * 10_000 + b"}",
        b"\xff\xfe",
    ],
)
def test_lines_that_are_no_objects_are_faults(raw: bytes) -> None:
    with pytest.raises(GuestFault):
        kernels.decode(raw)


def test_halves_of_surrogate_pairs_become_text() -> None:
    """They have no encoding: an answer that held one could not be sent."""
    line = kernels.decode(b'{"stream": "stdout", "text": "\\ud800x", "\\udc00": ["\\ude00"]}')

    assert str(line).encode()
    assert line["text"] == "?x"


def test_refusals_are_errors_with_their_words_quoted() -> None:
    with pytest.raises(ContextNotFound, match=r'"no such\\n'):
        kernels.decode(b'{"refused": {"code": "context_not_found", "message": "no such\\nthing"}}')
    with pytest.raises(GuestFault):
        kernels.decode(b'{"refused": {"code": ["?"], "message": 5}}')
