"""Tools that run something. For `tools`, which says what they take."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping
from typing import Any

from terp.errors import ExecKilled, ExecTimeout, TerpError
from terp.integrations.shown import MAX_IMAGES, SHOWN_CHARS, Output, output, shortened
from terp.models import Execution

_TIMED_OUT = 124
_SIGKILL = 9


def run_shell(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    timeout: int = given["timeout_seconds"]
    try:
        result = yield sandbox.exec(given["command"], cwd=given["cwd"], env=given["env"], timeout=timeout)
    except ExecTimeout as error:
        result, exit_code, duration_ms, timed_out = error, _TIMED_OUT, timeout * 1000, True
    except ExecKilled as error:
        result, exit_code, duration_ms, timed_out = error, 128 + (error.signal or _SIGKILL), None, False
    else:
        exit_code, duration_ms, timed_out = result.exit_code, result.duration_ms, False
    texts, files = {}, {}
    for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        path = None
        if len(text) > SHOWN_CHARS:
            # Where the rest is: a file that read_file pages through, or grep looks into.
            path = f"/tmp/terp/{uuid.uuid4().hex}.{name}"
            try:
                yield sandbox.files.write(path, text)
            except TerpError:  # its disk is full, or it has ended: what there is to show is shown
                path = None
        texts[name], files[f"full_{name}"] = shortened(text, path), path
    return output({"exit_code": exit_code, **texts, "duration_ms": duration_ms, "timed_out": timed_out, **files})


def run_code(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    done: Execution = yield sandbox.run_code(
        given["code"], language=given["language"], context=given["context_id"], timeout=given["timeout_seconds"]
    )
    texts = [each.text or each.markdown or each.latex or each.html or "" for each in done.results]
    images = tuple(each.png for each in done.results if each.png is not None)
    cut = [name for name, text in (("stdout", done.stdout), ("stderr", done.stderr)) if len(text) > SHOWN_CHARS]
    if len(images) > MAX_IMAGES:
        cut.append("images")
    error = None
    if done.error is not None:
        error = "\n".join(done.error.traceback) or f"{done.error.name}: {done.error.value}"
    return output(
        {
            "stdout": shortened(done.stdout),
            "stderr": shortened(done.stderr),
            "results": [shortened(text) for text in texts if text],
            "error": None if error is None else shortened(error),
            "context_id": done.context_id,
            "execution_count": done.execution_count,
            "duration_ms": done.duration_ms,
            "interrupted": done.interrupted,
            "restarted": done.restarted,
            "truncated": list(dict.fromkeys([*done.truncated, *cut])),
        },
        images[:MAX_IMAGES],
    )


def get_preview_url(sandbox: Any, given: Mapping[str, Any]) -> Generator[Any, Any, Output]:
    return output({"url": (yield sandbox.preview_url(given["port"]))})
