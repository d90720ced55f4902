"""Decisions without I/O: which server, send again or not, how many files at once, which error."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

import terp
from terp import (
    CapacityUnavailable,
    CommandFailed,
    ConnectionFailed,
    ExecResult,
    InvalidRequest,
    LimitExceeded,
    PartialWrite,
    RequestTimeout,
    Secret,
    TerpError,
    Unauthenticated,
    Unavailable,
)
from terp.protocol.batches import MAX_BATCH_BYTES, MAX_ROWS, plan_batches
from terp.protocol.reading import read_error
from terp.protocol.request import Repeat
from terp.protocol.requests import Life, Reach, create, preview_url
from terp.protocol.retry import plan_retry
from terp.protocol.settings import resolve_settings

FULL = CapacityUnavailable("full")
FULL_FOR_5_S = CapacityUnavailable("full", retry_after=5)
FULL_FOR_LONG = CapacityUnavailable("full", retry_after=500)
LOST = ConnectionFailed("lost")
UNSENT = ConnectionFailed("refused")
UNSENT.sent = False
SILENT = RequestTimeout("silent")
AWAY = Unavailable("away", retry_after=2)


@pytest.mark.parametrize(
    ("repeat", "error", "failures", "waited_s", "delay"),
    [
        (Repeat.IF_LOST_OR_SILENT, FULL, 1, 0, 2),
        (Repeat.IF_LOST_OR_SILENT, FULL, 3, 6, 8),
        (Repeat.IF_LOST_OR_SILENT, FULL, 9, 0, 30),
        (Repeat.IF_LOST_OR_SILENT, FULL_FOR_5_S, 7, 0, 5),
        (Repeat.IF_LOST_OR_SILENT, FULL_FOR_5_S, 1, 55, 5),
        (Repeat.IF_LOST_OR_SILENT, FULL_FOR_5_S, 1, 56, None),
        (Repeat.IF_LOST_OR_SILENT, FULL_FOR_LONG, 1, 0, 30),
        (Repeat.IF_LOST_OR_SILENT, FULL_FOR_5_S, 31, 0, None),
        (Repeat.IF_LOST, FULL, 1, 0, 2),
        (Repeat.IF_UNSENT, FULL, 1, 0, 2),
        (Repeat.IF_LOST_OR_SILENT, SILENT, 1, 0, 0.1),
        (Repeat.IF_LOST, SILENT, 1, 0, None),
        (Repeat.IF_LOST, LOST, 1, 0, 0.1),
        (Repeat.IF_LOST, LOST, 3, 0, 0.4),
        (Repeat.IF_LOST, LOST, 4, 0, None),
        (Repeat.IF_LOST, AWAY, 1, 0, 2),
        (Repeat.IF_UNSENT, AWAY, 1, 0, None),
        (Repeat.IF_UNSENT, LOST, 1, 0, None),
        (Repeat.IF_UNSENT, UNSENT, 1, 0, 0.1),
        (Repeat.IF_UNSENT, UNSENT, 4, 0, None),
        (Repeat.IF_LOST_OR_SILENT, LimitExceeded("much", retry_after=1), 1, 0, None),
    ],
)
def test_when_to_send_again(
    repeat: Repeat, error: TerpError, failures: int, waited_s: float, delay: float | None
) -> None:
    """Only what cannot do harm twice, only what may help, and within the budget."""
    planned = plan_retry(repeat, error, failures=failures, waited_s=waited_s, wait_for_capacity_s=60)

    assert planned == (None if delay is None else pytest.approx(delay))


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 2 * MAX_BATCH_BYTES), max_size=200))
def test_batches_hold_all_files_and_stay_within_the_server_s_caps(sizes: dict[str, int]) -> None:
    """Every file is in one batch, in order; a batch over the size cap has one file."""
    files = {path: _Sized(size) for path, size in sizes.items()}

    batches = list(plan_batches(files))  # type: ignore[arg-type]

    assert [path for batch in batches for path in batch] == list(files)
    for batch in batches:
        assert 1 <= len(batch) <= MAX_ROWS
        assert len(batch) == 1 or sum(map(len, batch.values())) <= MAX_BATCH_BYTES


class _Sized:
    """As long as it says, without the bytes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b'{"code": "template_not_found", "detail": "x"}', "TemplateNotFound"),
        (200, b'{"code": "exec_timeout", "detail": "x"}', "ExecTimeout"),
        (404, b'{"code": "from_the_future", "detail": "x"}', "NotFound"),
        (422, b'{"detail": [{"loc": []}]}', "InvalidRequest"),
        (418, b"", "InvalidRequest"),
        (405, b'{"code": "method_not_allowed", "detail": "x"}', "InvalidRequest"),
        (401, b"[]", "Unauthenticated"),
        (502, b"<html>", "Unavailable"),
        (500, b"\xff", "Internal"),
        (599, b"{}", "Internal"),
        (307, b"", "BadReply"),
    ],
)
def test_errors_are_classified_by_code_then_by_status(status: int, body: bytes, kind: str) -> None:
    """Any reply becomes one of our errors, with a text."""
    error = read_error(status, {"retry-after": "soon", "x-request-id": "r"}, body)

    assert type(error) is getattr(terp, kind)
    assert error.detail
    assert (error.status, error.request_id, error.retry_after) == (status, "r", None)


@pytest.mark.parametrize(
    ("base_url", "environ", "resolved"),
    [
        (None, {}, "http://127.0.0.1:7070"),
        (None, {"TERP_BASE_URL": "https://terp.test/x/"}, "https://terp.test/x"),
        ("http://[::1]:1", {"TERP_BASE_URL": "https://terp.test"}, "http://[::1]:1"),
    ],
)
def test_which_server(base_url: str | None, environ: Mapping[str, str], resolved: str) -> None:
    """The argument, else the environment, else this machine."""
    assert resolve_settings("k", base_url, environ).base_url == resolved


@pytest.mark.parametrize("url", ["terp.test", "ftp://terp.test", "http://", "http://a:b", "http://[::1", "http://a?b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """Before anything is sent, and with an example."""
    with pytest.raises(InvalidRequest, match="must look like"):
        resolve_settings("k", url, {})


@pytest.mark.parametrize("key", ["a b", "k\n", "ключ"])
def test_what_is_no_key_is_refused_and_not_repeated(key: str) -> None:
    """A key is a secret: it stays out of messages."""
    with pytest.raises(InvalidRequest) as caught:
        resolve_settings(None, None, {"TERP_API_KEY": key})

    assert key not in str(caught.value)


def test_no_key() -> None:
    """The message says how to get one."""
    with pytest.raises(Unauthenticated, match="terpd key create"):
        resolve_settings(None, None, {"TERP_API_KEY": ""})


def test_secrets_stay_out_of_representations() -> None:
    """A traceback with local variables shows neither key nor env nor a credential's value."""
    life = Life(1, "kill", auto_resume=False, env={"A": "s3cret"}, metadata={})
    secret = Secret("A", "example.com", "s3cret")
    reach = Reach(None, None, None, [secret], preview_auth=True)
    request = create(template="t", snapshot=None, size="s", life=life, reach=reach)

    assert "s3cret" in str(request.body)
    assert "s3cret" not in repr((request, life, reach, secret))
    assert "s3cret" not in repr(resolve_settings("s3cret", None, {}))


@pytest.mark.parametrize(
    ("base_url", "token", "url"),
    [
        ("http://127.0.0.1:7070", None, "http://80-x.localhost:7070/"),
        ("https://terp.test/api", "a/b", "https://80-x.localhost/?terp_preview_token=a%2Fb"),
    ],
)
def test_preview_url(base_url: str, token: str | None, url: str) -> None:
    """Scheme and port are the API's, host and path are not."""
    assert preview_url(base_url, "80-x.localhost", token) == url


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost", True),
        ("http://[::1]:1", True),
        ("https://127.0.0.1", False),
        ("http://terp.test", False),
    ],
)
def test_loopback(url: str, loopback: bool) -> None:  # noqa: FBT001
    """Only there TLS and proxies do not matter."""
    assert resolve_settings("k", url, {}).is_loopback is loopback


@pytest.mark.parametrize(
    "error",
    [
        TerpError("x", code="c", status=400, request_id="r", fields={"a": 1}),
        CommandFailed(ExecResult("", "no", 2, 1)),
        PartialWrite({"/a": InvalidRequest("x")}),
    ],
)
def test_errors_survive_a_process_boundary(error: TerpError) -> None:
    """A pool of processes passes them on; one that cannot be unpickled breaks the pool."""
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert (copy.detail, copy.code, copy.fields) == (error.detail, error.code, error.fields)
