"""The courier against real sockets, and against addresses that it must not dial."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.receivers import Receiver, receiving
from support.until import until

from terpd.courier import courier
from terpd.courier.courier import PublicCourier
from terpd.courier.target import parse
from terpd.egress.upstream import Upstream
from terpd.model.errors import InvalidRequest
from terpd.model.ports import Posted

BODY = b'{"a":1}'


_made: list[PublicCourier] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while _made:
        _made.pop().close()


def make(upstream: Upstream | None = None, **options: Any) -> PublicCourier:
    courier = PublicCourier(upstream or Upstream(), **options)
    _made.append(courier)
    return courier


def anywhere(trust: ssl.SSLContext | None = None) -> PublicCourier:
    return make(trust=trust, anywhere=True)


class Names:
    """In place of the resolver: what a name leads to, one answer after the other, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)

    def close(self) -> None:
        pass

    async def resolve(self, name: str, lookups: asyncio.Semaphore) -> list[object]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ipaddress.ip_address(each) for each in answer]


def courier_with(*answers: Sequence[str]) -> PublicCourier:
    made = make()
    made._dialer._resolver.close()
    made._dialer._resolver = Names(*answers)  # type: ignore[assignment]
    return made


# ---- what is posted, and what comes of it ----


async def test_posts_as_given() -> None:
    """One request, with a length and the headers, to the path and query of the address."""
    async with receiving() as receiver:
        assert await anywhere().post(receiver.url, BODY, {"X-Orkestr-Event": "sandbox.created"}) == Posted(200)
    (received,) = receiver.requests
    assert received.head.startswith("POST /hook?a=b HTTP/1.1\r\n")
    assert received.body == BODY
    assert received.headers["host"] == f"localhost:{receiver.port}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["x-orkestr-event"] == "sandbox.created"


@pytest.mark.parametrize("status", [204, 301, 404, 500])
async def test_any_answer_is_its_status(status: int) -> None:
    """A redirect is one, and is not followed."""
    async with receiving() as elsewhere:
        answer = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with receiving(answer) as receiver:
            assert await anywhere().post(receiver.url, BODY, {}) == Posted(status)
        assert elsewhere.requests == []


async def test_informational_answers_are_passed_over() -> None:
    """The final one counts."""
    async with receiving(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n") as receiver:
        assert await anywhere().post(receiver.url, BODY, {}) == Posted(202)


async def _for_ever(piece: bytes, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(piece)
        await writer.drain()


async def test_huge_answer() -> None:
    """Its status is known, and no more than some KiB of the rest are read."""
    sent = 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with receiving(script=script) as receiver:
        assert await anywhere().post(receiver.url, BODY, {}) == Posted(200)
        assert sent < 64 << 20  # what the kernel took on its way


@pytest.mark.parametrize("piece", [b"HTTP/1.1 100 Continue\r\n\r\n", b"X: " + b"y" * 1000, b"\0" * 1000])
async def test_answer_without_end(piece: bytes) -> None:
    """A head that does not end is no answer."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _for_ever(piece, writer)

    async with receiving(script=script) as receiver:
        posted = await anywhere().post(receiver.url, BODY, {})
    assert posted.status is None
    assert "HTTP/1.1" in (posted.error or "")


async def test_slow_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for so long and no longer, however many bytes trickle."""
    monkeypatch.setattr(courier, "TIMEOUT_S", 0.3)

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    async with receiving(script=script) as receiver:
        posted = await anywhere().post(receiver.url, BODY, {})
    assert posted.status is None
    assert "did not answer" in (posted.error or "")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 2"])
async def test_hangs_up(answer: bytes) -> None:
    """No answer, or none that can be read."""
    async with receiving(answer) as receiver:
        posted = await anywhere().post(receiver.url, BODY, {})
    assert posted.status is None
    assert "hung up" in (posted.error or "")


async def test_nobody_listens() -> None:
    """Says so, without an address."""
    async with receiving() as receiver:
        pass
    posted = await anywhere().post(receiver.url, BODY, {})
    assert posted == Posted(error="The host cannot be reached")


# ---- TLS ----


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for `localhost`, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return server, ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))


async def test_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """The server is verified for the name that was given."""
    server, trust = tls
    async with receiving(tls=server) as receiver:
        assert await anywhere(trust).post(receiver.url, BODY, {}) == Posted(200)
        assert receiver.requests[0].body == BODY


async def test_certificate_of_another_or_of_nobody(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Nothing is sent."""
    server, trust = tls
    async with receiving(tls=server) as receiver:
        unknown = await anywhere().post(receiver.url, BODY, {})
        other = await anywhere(trust).post(receiver.url.replace("localhost", "127.0.0.1"), BODY, {})
    for posted in (unknown, other):
        assert posted.status is None
        assert "certificate is not trusted" in (posted.error or "")
    assert receiver.requests == []


async def test_no_tls_there() -> None:
    """Https is not spoken to a server without."""
    async with receiving() as receiver:
        posted = await anywhere().post(receiver.url.replace("http:", "https:"), BODY, {})
    assert posted.status is None
    assert receiver.requests == []


# ---- where it may post to ----

FORBIDDEN = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",  # shared by carriers
    "127.0.0.1",
    "127.9.9.9",
    "168.63.129.16",  # metadata of a cloud
    "169.254.169.254",
    "172.16.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "2002:7f00:1::",  # 6to4 of it
    "fd00:ec2::254",  # metadata of a cloud
    "fe80::1",
    "fe80::1%1",
    "ff02::1",
]


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_addresses_that_are_not_public(address: str) -> None:
    """Refused at creation and at delivery, given as such or by a name."""
    literal = f"[{address}]" if ":" in address else address
    for url, names in ((f"http://{literal}/", make()), ("http://a.test/", courier_with([address]))):
        with pytest.raises(InvalidRequest, match="no public address"):
            await names.check(url)
        assert await names.post(url, BODY, {}) == Posted(error="The host has no public address")


async def test_name_that_changes_its_address() -> None:
    """Public when the webhook is made, private when it is used: what is dialled is what was checked then."""
    async with receiving() as receiver:
        made = courier_with(["93.184.215.14"], ["127.0.0.1"])
        url = receiver.url.replace("localhost", "rebinding.test")
        await made.check(url)
        assert await made.post(url, BODY, {}) == Posted(error="The host has no public address")
    assert receiver.requests == []


async def test_name_with_public_and_private_addresses() -> None:
    """Only the public ones are dialled."""
    async with receiving() as receiver:
        made = courier_with(["127.0.0.1", "203.0.113.1"])
        posted = await made.post(receiver.url.replace("localhost", "both.test"), BODY, {})
    assert posted == Posted(error="The host has no public address")
    assert receiver.requests == []


async def test_name_without_address() -> None:
    """Refused at creation; at delivery a failure like others."""
    made = courier_with([])
    with pytest.raises(InvalidRequest, match="has no address"):
        await made.check("https://nowhere.test/")
    assert (await made.post("https://nowhere.test/", BODY, {})).error == "The host's name has no address"


async def test_exceptions_of_the_operator() -> None:
    """What sandboxes may reach by `allow_addresses`, webhooks may."""
    async with receiving() as receiver:
        made = make(Upstream(allow_addresses=("127.0.0.1/32",)))
        assert await made.post(receiver.url.replace("localhost", "127.0.0.1"), BODY, {}) == Posted(200)


async def test_through_a_proxy() -> None:
    """By CONNECT; the name is resolved there, and an address is judged here."""

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 Established\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n" + BODY)
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with receiving(script=tunnel) as proxy:
        made = make(Upstream(proxy=f"http://127.0.0.1:{proxy.port}"))
        await made.check("http://only-known-there.test/")
        assert await made.post("http://only-known-there.test/", BODY, {}) == Posted(201)
        assert proxy.requests[0].head.startswith("CONNECT only-known-there.test:80 HTTP/1.1")
        assert (await made.post("http://10.0.0.1/", BODY, {})).error == "The host has no public address"
        assert len(proxy.requests) == 1


# ---- addresses ----


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://@example.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:x/",
        "http://exa mple.com/",
        "http://example.com/\r\nX: y",
        "http://example.com\\@127.0.0.1/",
        "http://[::1/",
        "http://[nonsense]/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://b\u00fccher.example/",
        "http://-x.example/",
        "http://example.com/" + "a" * 2048,
    ],
)
async def test_what_is_no_address(url: str) -> None:
    """Refused before anything is looked up."""
    made = anywhere()
    with pytest.raises(InvalidRequest, match="url"):
        await made.check(url)
    assert (await made.post(url, BODY, {})).status is None


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://Example.COM", "example.com", "/"),
        ("http://example.com:80/a?b=c#d", "example.com", "/a?b=c"),
        ("https://example.com.:8443/%20", "example.com:8443", "/%20"),
        ("http://[2606:4700::1111]:81/?", "[2606:4700::1111]:81", "/"),
    ],
)
def test_what_is_an_address(url: str, authority: str, path: str) -> None:
    """As it goes into a request."""
    target = parse(url)
    assert (target.authority, target.path) == (authority, path)


async def test_slow_names_take_few_places() -> None:
    """Of one name so many look-ups at a time; another one does not wait for them."""
    made = courier_with(["127.0.0.1"])
    asked: list[str] = []
    gate = asyncio.Event()

    class Slow(Names):
        async def resolve(self, name: str, lookups: asyncio.Semaphore) -> list[object]:
            async with lookups:
                asked.append(name)
                if name == "slow.test":
                    await gate.wait()
            return []

    made._dialer._resolver = Slow()  # type: ignore[assignment]
    slow = [asyncio.create_task(made.post("http://slow.test/", BODY, {})) for _ in range(5)]
    await until(lambda: len(asked) == 2)
    await made.post("http://other.test/", BODY, {})
    assert sorted(asked) == ["other.test", "slow.test", "slow.test"]
    gate.set()
    await asyncio.gather(*slow)


def test_receiver_is_what_it_says() -> None:
    """The address that tests use names its port."""
    assert Receiver(port=7).url == "http://localhost:7/hook?a=b"
