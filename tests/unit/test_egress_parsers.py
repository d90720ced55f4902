"""What guests send first: read whole or in pieces, and never anything else than read or refused."""

from __future__ import annotations

import socket

import dns.message
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.world import client_hello

from terpd.egress.gateway import dns as our_dns
from terpd.egress.gateway import http
from terpd.egress.gateway.synthetic import NETWORK, SyntheticNames
from terpd.egress.gateway.tls import HelloReader, Malformed

HELLO = client_hello("name.example")
GREASE = 0x0A0A


def _hello(extensions: bytes, *, record: int = 65536) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(extensions).to_bytes(2) + extensions
    message = b"\x01" + len(body).to_bytes(3) + body
    pieces = [message[at : at + record] for at in range(0, len(message), record)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


def _extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + len(body).to_bytes(2) + body


def _sni(name: bytes, kind: int = 0) -> bytes:
    entry = bytes((kind,)) + len(name).to_bytes(2) + name
    return _extension(0, len(entry).to_bytes(2) + entry)


def _read(data: bytes, step: int = 65536) -> HelloReader | None:
    reader = HelloReader()
    for at in range(0, len(data), step):
        if reader.feed(data[at : at + step]):
            return reader
    return None


# ---- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 65536])
@pytest.mark.parametrize(
    ("hello", "name"),
    [
        (HELLO, b"name.example"),
        (client_hello(None), None),
        (_hello(_extension(GREASE, b"") + _sni(b"x.example") + _extension(GREASE, b"\0")), b"x.example"),
        (_hello(_sni(b"outer.example") + _extension(0xFE0D, bytes(200))), b"outer.example"),
        (_hello(_sni(b"x.example"), record=16), b"x.example"),
        (_hello(_sni(b"x.example"), record=1), b"x.example"),
        (_hello(b""), None),
    ],
)
def test_the_server_name_is_read_from_any_pieces(hello: bytes, name: bytes | None, step: int) -> None:
    reader = _read(hello, step)
    assert reader is not None
    assert reader.name == name


@pytest.mark.parametrize(
    "hello",
    [
        _hello(_sni(b"a.example") + _sni(b"b.example")),
        _hello(_sni(b"")),
        _hello(_sni(b"x.example", kind=1)),
        _hello(_extension(0, b"\0\x20\0\0\x01x")),
        _hello(_extension(0, b"")),
        _hello(b"\0\0\xff\xff"),
        b"\x16\x03\x01\0\0",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x02\x01\0\x05",
        b"\x17\x03\x01\0\x05",
        b"\x16\x03\x01\0\x04\x02\0\0\0",
        b"\x16\x03\x01\0\x04\x01\xff\xff\xff",
    ],
)
def test_what_is_no_hello_is_refused(hello: bytes) -> None:
    with pytest.raises(Malformed):
        _read(hello)


@given(st.binary(max_size=2000), st.integers(1, 300))
@example(HELLO, 3)
def test_any_bytes_are_read_or_refused(data: bytes, step: int) -> None:
    for sent in (data, b"\x16\x03\x01" + data, b"\x16\x03\x01" + len(data).to_bytes(2) + b"\x01" + data):
        try:
            _read(sent, step)
        except Malformed:
            continue


@given(st.integers(0, len(HELLO) - 1), st.binary(min_size=1, max_size=4))
def test_a_hello_with_other_bytes_is_read_or_refused(at: int, other: bytes) -> None:
    try:
        _read(HELLO[:at] + other + HELLO[at + len(other) :])
    except Malformed:
        return


def test_a_hello_that_never_ends_is_refused_soon() -> None:
    with pytest.raises(Malformed):
        HelloReader().feed(b"\x16\x03\x01\x40\x00\x01\x00\x80\x01" + bytes(16 * 1024 - 4))


# ---- HTTP ------------------------------------------------------------------------------------------


def _head(*lines: bytes) -> bytes:
    return b"\r\n".join((*lines, b"", b""))


@pytest.mark.parametrize(
    ("head", "host", "port", "target", "absolute"),
    [
        (_head(b"GET / HTTP/1.1", b"Host: a.example"), b"a.example", None, b"/", False),
        (_head(b"GET / HTTP/1.1", b"hOST:a.example:81 "), b"a.example", 81, b"/", False),
        (_head(b"GET / HTTP/1.0"), None, None, b"/", False),
        (_head(b"GET / HTTP/1.1", b"Host:"), None, None, b"/", False),
        (_head(b"GET http://a.example/x?y HTTP/1.1", b"Host: A.example:80"), b"a.example", None, b"/x?y", True),
        (_head(b"GET HTTP://a.example?y HTTP/1.1"), b"a.example", None, b"/?y", True),
        (_head(b"GET http://a.example HTTP/1.1"), b"a.example", None, b"/", True),
        (_head(b"GET / HTTP/1.1", b"Host: [::1]:80"), b"[::1]", 80, b"/", False),
        (_head(b"CONNECT a.example:443 HTTP/1.1", b"Host: b.example"), b"a.example", 443, b"a.example:443", True),
        (_head(b"OPTIONS * HTTP/1.1", b"Host: a.example"), b"a.example", None, b"*", False),
    ],
)
def test_the_host_of_a_request_is_read(
    head: bytes,
    host: bytes | None,
    port: int | None,
    target: bytes,
    absolute: bool,  # noqa: FBT001
) -> None:
    read = http.parse(head)
    assert (read.host, read.port, read.target, read.absolute) == (host, port, target, absolute)


@pytest.mark.parametrize(
    "lines",
    [
        (b"GET / HTTP/1.1", b"Host: a.example", b"Host: a.example"),
        (b"GET http://b.example/ HTTP/1.1", b"Host: a.example"),
        (b"GET http://a.example:81/ HTTP/1.1", b"Host: a.example"),
    ],
)
def test_two_hosts_are_a_mismatch(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(http.HostMismatch):
        http.parse(_head(*lines))


@pytest.mark.parametrize(
    "lines",
    [
        (b"GET /",),
        (b"GET  / HTTP/1.1",),
        (b"GET / HTTP/1.1 ",),
        (b"get / HTTP/1.1",),
        (b"GET / HTTP/2.0",),
        (b"GET /\x00 HTTP/1.1",),
        (b"GET ftp://a.example/ HTTP/1.1",),
        (b"GET https://a.example/ HTTP/1.1",),
        (b"GET http://u@a.example/ HTTP/1.1",),
        (b"CONNECT a.example:0 HTTP/1.1",),
        (b"CONNECT a.example:65536 HTTP/1.1",),
        (b"GET / HTTP/1.1", b"Host: a.example, b.example/"),
        (b"GET / HTTP/1.1", b"Host : a.example"),
        (b"GET / HTTP/1.1", b" Host: a.example"),
        (b"GET / HTTP/1.1", b"Host: a.example", b"\tfolded"),
        (b"GET / HTTP/1.1", b"Host: a.example\nX: y"),
        (b"GET / HTTP/1.1", b"Host: a.example\rX: y"),
        (b"GET / HTTP/1.1", b"Host: a.example\0"),
        (b"GET / HTTP/1.1", b"Host\0: a.example"),
        (b"GET / HTTP/1.1", b"no colon"),
        (b"POST / HTTP/1.1", b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        (b"POST / HTTP/1.1", b"Content-Length: 1", b"Content-Length: 1"),
        (b"POST / HTTP/1.1", b"Content-Length: +1"),
        (b"POST / HTTP/1.1", b"Content-Length: 1, 1"),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: gzip, chunked"),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: xchunked"),
        (b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"),
        (b"GET / HTTP/1.1", *([b"X: y"] * 300)),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(lines: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed):
        http.parse(_head(*lines))


@given(st.binary(max_size=500))
def test_any_head_is_read_or_refused(data: bytes) -> None:
    for head in (data, b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n", b"GET " + data + b" HTTP/1.1\r\n\r\n"):
        try:
            http.parse(head)
        except Malformed:
            continue


def test_the_only_request_of_a_connection_says_so() -> None:
    head = http.parse(
        _head(
            b"GET http://a.example/x HTTP/1.1",
            b"Host: a.example",
            b"Connection: keep-alive, upgrade",
            b"Upgrade: websocket",
            b"Proxy-Authorization: Basic eDp5",
            b"Accept: */*",
        )
    )
    assert head.closing() == _head(b"GET /x HTTP/1.1", b"Host: a.example", b"Accept: */*", b"Connection: close")


@pytest.mark.parametrize("step", [1, 5, 65536])
@pytest.mark.parametrize(
    ("length", "body"),
    [
        (0, b""),
        (4, b"body"),
        (None, b"0\r\n\r\n"),
        (None, b"4\r\nbody\r\n0\r\n\r\n"),
        (None, b"A;x=y\r\n0123456789\r\n1\r\n\n\r\n0\r\nTrailer: x\r\n\r\n"),
    ],
)
def test_no_more_than_the_body_passes(length: int | None, body: bytes, step: int) -> None:
    reader = http.Body(length)
    data, taken = body + b"GET /2 HTTP/1.1\r\n\r\n", b""
    for at in range(0, len(data), step):
        piece = data[at : at + step]
        taken += piece[: reader.take(piece)]
    assert taken == body
    assert reader.done


@pytest.mark.parametrize(
    "body", [b"4\nbody\r\n", b"g\r\n", b"-1\r\n", b"0x4\r\nbody", b" 4\r\nbody", b"1" * 300, b"4 \r\nbody"]
)
def test_chunks_that_could_be_read_in_two_ways_are_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        http.Body(None).take(body)


@given(st.binary(max_size=300))
def test_any_chunks_are_read_or_refused(data: bytes) -> None:
    try:
        assert 0 <= http.Body(None).take(data) <= len(data)
    except Malformed:
        return


# ---- DNS -------------------------------------------------------------------------------------------


@given(st.binary(max_size=600))
@example(dns.message.make_query("a.example", "A").to_wire())
def test_any_question_is_read_or_refused(data: bytes) -> None:
    for message in (data, b"\0\x01\x01\0\0\x01\0\0\0\0\0\0" + data):
        try:
            question = our_dns.parse(message)
        except Malformed:
            continue
        assert our_dns.answer(question, our_dns.NXDOMAIN)[:2] == message[:2]


def test_an_answer_is_one_to_the_question() -> None:
    query = dns.message.make_query("A.example", "A", use_edns=True)
    question = our_dns.parse(query.to_wire())

    answer = dns.message.from_wire(our_dns.answer(question, our_dns.NOERROR, socket.inet_aton("198.18.64.1")))

    assert query.is_response(answer)
    assert [each.to_text() for each in answer.answer] == ["A.example. 30 IN A 198.18.64.1"]


@pytest.mark.parametrize(
    "message",
    [
        dns.message.make_response(dns.message.make_query("a.example", "A")).to_wire(),
        b"\0\x01\x01\0\0\x02\0\0\0\0\0\0" + b"\x01a\0\0\x01\0\x01" * 2,
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0" + b"\xc0\x0c\0\x01\0\x01",
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0" + b"\x3f" * 1000,
        b"\0\x01\x01\0\0\x01\0\0\0\0\0\0" + b"\x03a.b\0\0\x01\0\x01",
        bytes(12),
    ],
)
def test_what_is_no_question_is_refused(message: bytes) -> None:
    with pytest.raises(Malformed):
        our_dns.parse(message)


# ---- synthetic addresses ---------------------------------------------------------------------------


def test_a_name_keeps_its_address_and_shares_it_with_none() -> None:
    names = SyntheticNames()
    addresses = {name: names.address(name) for name in (f"n{number}.example" for number in range(4000))}
    assert len(set(addresses.values())) == 4000
    assert all(address in NETWORK for address in addresses.values())
    assert all(names.name(str(address)) == name for name, address in addresses.items())
    assert SyntheticNames().address("n0.example") == addresses["n0.example"]


def test_names_that_nobody_uses_are_forgotten_first() -> None:
    names = SyntheticNames()
    kept, lost = str(names.address("kept.example")), str(names.address("lost.example"))
    for number in range(4095):
        names.name(kept)
        names.address(f"n{number}.example")
    assert names.name(kept) == "kept.example"
    assert names.name(lost) != "lost.example"
    assert names.name("8.8.8.8") is None
