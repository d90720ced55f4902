"""
Credentials' values on real connections: real clients that trust the sandbox's CA, real TLS servers, both on loopback.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import requests
from support.intercepted import Front
from support.tls_servers import BIG_BYTES, ApiServer, ScriptedServer, read_head, receive_all

from terpd.egress.authority import make_authority
from terpd.egress.gateway import intercept as intercept_module
from terpd.egress.gateway import intercept_exchange
from terpd.model.network import Credential, Reason

NAME = "api.example.test"
VALUE = "sk-live-0123456789abcdef"
PLACEHOLDER = "terp-secret-api"
KEY_VALUE = "key-ABCDEFGHIJ"
OTHER_VALUE = "of-another-host"
CREDENTIALS = (
    Credential("api", (NAME,), "authorization", PLACEHOLDER, VALUE),
    Credential("key", ("x.example.test", NAME), "x-api-key", "terp-secret-key", KEY_VALUE),
    Credential("other", ("other.example.test",), "authorization", "terp-secret-other", OTHER_VALUE),
)
HOST = f"Host: {NAME}\r\n".encode()
BEARER = f"Authorization: Bearer {PLACEHOLDER}\r\n".encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def front() -> Iterator[Front]:
    front = Front(NAME, CREDENTIALS)
    yield front
    front.close()


@pytest.fixture
def api(front: Front) -> Iterator[ApiServer]:
    server = ApiServer(front.server_context())
    front.server_port = server.port
    yield server
    server.close()


Scripted = Callable[[Callable[[ssl.SSLSocket], None]], ScriptedServer]


@pytest.fixture
def scripted(front: Front) -> Iterator[Scripted]:
    """A server that does what the test says."""
    servers = []

    def start(script: Callable[[ssl.SSLSocket], None]) -> ScriptedServer:
        server = ScriptedServer(front.server_context(), script)
        front.server_port = server.port
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def url(front: Front, monkeypatch: pytest.MonkeyPatch) -> str:
    """For clients in this process, who find the gateway where they look for the host."""
    real = socket.getaddrinfo

    def resolve(host: str | bytes | None, *args: object, **options: object) -> object:
        asked = host.decode() if isinstance(host, bytes) else host
        return real("127.0.0.1" if asked == NAME else host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return f"https://{NAME}:{front.port}"


@pytest.fixture
def client(front: Front, url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {PLACEHOLDER}"}
    with httpx.Client(base_url=url, verify=front.guest_context(), headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def ca(front: Front, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(front.authority.certificate)
    return path


def received(server: ApiServer) -> dict[str, str]:
    """The headers of the request that came next, by lower-case name."""
    _, fields = server.heads.get(timeout=60)
    assert len({name.lower() for name, _ in fields}) == len(fields)
    return {name.lower(): value for name, value in fields}


def recorded(conn_heads: list[bytes], answer: bytes = OK) -> Callable[[ssl.SSLSocket], None]:
    """A script that keeps heads and answers each of them."""

    def script(conn: ssl.SSLSocket) -> None:
        while head := read_head(conn):
            conn_heads.append(head)
            conn.sendall(answer)

    return script


# ---- what clients do -------------------------------------------------------------------------------


def test_httpx_gets_the_value_put_in_and_keeps_its_connection(
    front: Front, api: ApiServer, client: httpx.Client
) -> None:
    for _ in range(3):
        assert client.get("/").status_code == 200
        assert received(api)["authorization"] == f"Bearer {VALUE}"
    client.close()

    ended = front.ended()
    assert front.dialled == 1
    assert ended.credential == "api"
    assert ended.reason is None
    assert ended.bytes_out > 1000
    assert ended.bytes_in > 1000


def test_requests_uploads_by_length_and_in_chunks(front: Front, api: ApiServer, url: str, ca: Path) -> None:
    body = os.urandom(3 * 1024 * 1024)
    pieces = (body[at : at + 70_000] for at in range(0, len(body), 70_000))
    with requests.Session() as session:
        session.trust_env = False  # else REQUESTS_CA_BUNDLE wins
        session.verify = str(ca)
        session.headers["X-Api-Key"] = "terp-secret-key"

        whole = session.post(f"{url}/upload", data=body, timeout=60).json()
        chunked = session.put(f"{url}/upload", data=pieces, timeout=60).json()

    expected = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert whole == chunked == expected
    assert received(api)["x-api-key"] == received(api)["x-api-key"] == KEY_VALUE
    assert front.ended().credential == "key"  # the answers are gone, which kept the connection open


def test_curl_uploads_with_100_continue_and_downloads(front: Front, api: ApiServer, ca: Path, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(os.urandom(2 * 1024 * 1024))
    curl = ["curl", "-sS", "--cacert", ca, "--resolve", f"{NAME}:{front.port}:127.0.0.1", "-H", "Expect: 100-continue"]
    url = f"https://{NAME}:{front.port}"

    uploaded = subprocess.run([*curl, "-T", body, f"{url}/upload"], capture_output=True, check=True)
    downloaded = subprocess.run([*curl, "-u", f"user:{PLACEHOLDER}", f"{url}/big"], capture_output=True, check=True)

    assert json.loads(uploaded.stdout)["sha256"] == hashlib.sha256(body.read_bytes()).hexdigest()
    assert received(api)["expect"] == "100-continue"
    assert hashlib.sha256(downloaded.stdout).digest() == hashlib.sha256(bytes(range(256)) * (BIG_BYTES // 256)).digest()
    assert received(api)["authorization"] == "Basic " + base64.b64encode(f"user:{VALUE}".encode()).decode()


def test_a_client_that_prefers_http_2_gets_http_1(front: Front, api: ApiServer, ca: Path) -> None:
    asked = ("--http2", "--cacert", ca, "--resolve", f"{NAME}:{front.port}:127.0.0.1", f"https://{NAME}:{front.port}/")
    version = subprocess.run(
        ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", *asked],
        capture_output=True,
        check=True,
    )

    assert version.stdout == b"1.1 200"


def test_head_and_bodiless_answers(api: ApiServer, client: httpx.Client) -> None:
    head = client.head("/big")

    assert head.headers["content-length"] == str(BIG_BYTES)
    assert client.delete("/").status_code == 200  # on the same connection: nothing was taken for a body


def test_events_arrive_one_by_one(front: Front, scripted: Scripted) -> None:
    seen: list[bytes] = []

    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            conn.sendall(b"9\r\ndata: %d\n\n\r\n" % number)
            seen.append(conn.recv(100))  # only who has had this event sends on
        conn.sendall(b"0\r\n\r\n")

    scripted(script)
    with front.connect() as guest:
        guest.sendall(b"POST /events HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n")
        for number in range(3):
            data = b""
            while b"\n\n" not in data:
                data += guest.recv(4096)
            assert b"data: %d" % number in data
            guest.sendall(b"go%d" % number)
        while not data.endswith(b"0\r\n\r\n"):
            data += guest.recv(4096)

    assert front.ended().reason is None
    assert b"".join(seen) == b"go0go1go2"


def test_a_websocket_is_tunnelled(front: Front, api: ApiServer) -> None:
    with front.connect() as guest:
        guest.sendall(
            b"GET /socket HTTP/1.1\r\n" + HOST + BEARER + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly"
        )
        data = b""
        while not data.endswith(b"helloearly"):
            data += guest.recv(4096)
        guest.sendall(b"\x81\x05later")
        later = guest.recv(4096)

    assert data.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in data  # RFC 6455, 1.3
    assert later == b"\x81\x05later"
    assert received(api)["authorization"] == f"Bearer {VALUE}"
    assert front.ended().credential == "api"


def test_another_upgrade_is_not_asked_for(api: ApiServer, client: httpx.Client) -> None:
    client.get("/", headers={"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"})

    assert not {"upgrade", "http2-settings", "connection"} & received(api).keys()


def test_a_redirect_is_the_guests_to_follow(front: Front, api: ApiServer, client: httpx.Client) -> None:
    moved = client.get("/moved")

    assert moved.headers["location"] == "https://elsewhere.test/next"
    assert moved.request.headers["authorization"] == f"Bearer {PLACEHOLDER}"
    assert front.dialled == 1


def test_an_answer_before_the_body_is_complete_arrives(front: Front, scripted: Scripted) -> None:
    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")

    scripted(script)
    answer = front.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 100_000)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"large")


def test_a_slow_guest_slows_the_server_down(front: Front, scripted: Scripted) -> None:
    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        conn.settimeout(2)
        for _ in range(1000):
            conn.sendall(bytes(1_000_000))

    server = scripted(script)
    with front.connect() as guest:
        guest.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        error = server.errors.get(timeout=120)  # while the guest reads nothing

    assert isinstance(error, TimeoutError)


def test_a_server_that_closes_between_requests_closes_the_guests_connection(front: Front, scripted: Scripted) -> None:
    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        conn.sendall(OK)

    scripted(script)

    assert front.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n").endswith(b"ok")
    assert front.ended().reason is None


def test_an_answer_that_is_cut_off_looks_cut_off(front: Front, scripted: Scripted) -> None:
    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome of it")  # its end would be the goodbye
        conn.shutdown(socket.SHUT_RDWR)

    scripted(script)
    with front.connect() as guest:
        guest.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        with pytest.raises(ssl.SSLEOFError):
            receive_all(guest)


def test_interim_answers_pass_and_an_old_client_gets_none(front: Front, scripted: Scripted) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    scripted(recorded([], hints + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))

    new = front.send(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
    old = front.send(b"GET / HTTP/1.0\r\n" + HOST + b"\r\n")

    assert new.startswith(b"HTTP/1.1 103 ")
    assert b"Link: </style.css>" in new
    assert old.startswith(b"HTTP/1.1 200 ")
    assert old.endswith(b"\r\n\r\nok")


# ---- where the value goes, and where not -----------------------------------------------------------


def test_it_goes_into_its_own_header_only(front: Front, scripted: Scripted) -> None:
    heads: list[bytes] = []
    scripted(recorded(heads))
    front.send(
        b"POST /?key=terp-secret-api HTTP/1.1\r\nConnection: close\r\n"
        + HOST
        + BEARER
        + b"X-Other: terp-secret-api\r\n"
        b"X-Api-Key: terp-secret-api\r\nCookie: a=terp-secret-key\r\nContent-Length: 15\r\n\r\nterp-secret-api"
    )

    assert heads[0].count(VALUE.encode()) == 1
    assert f"Authorization: Bearer {VALUE}\r\n".encode() in heads[0]
    assert KEY_VALUE.encode() not in heads[0]


@pytest.mark.parametrize(
    "fields",
    [
        b"Authorization: Bearer terp-\r\nAuthorization: secret-api\r\n",
        b"Authorization: Bearer TERP-SECRET-API\r\n",
        b"Authorization: Basic !!terp-secret\r\n",
        b"Authorization: Bearer terp-secret-other\r\n",  # for another host
        b"Authorization: Bearer dGVycC1zZWNyZXQtYXBp\r\n",  # only Basic is looked into
        b"Proxy-Authorization: Bearer terp-secret-api\r\n",
        b"Authorization: Bearer terp-secret-api\r\nConnection: authorization\r\n",  # it is not for the server
    ],
)
def test_what_is_not_the_placeholder_in_its_header_stays(front: Front, scripted: Scripted, fields: bytes) -> None:
    heads: list[bytes] = []
    scripted(recorded(heads))

    front.send(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + fields + b"\r\n")

    assert VALUE.encode() not in heads[0]
    assert OTHER_VALUE.encode() not in heads[0]
    assert front.ended().credential is None


def test_trailers_are_dropped(front: Front, scripted: Scripted) -> None:
    heads: list[bytes] = []

    def script(conn: ssl.SSLSocket) -> None:
        data = read_head(conn)
        while not data.endswith(b"0\r\n\r\n"):
            data += conn.recv(4096)
        heads.append(data)
        conn.sendall(OK)

    scripted(script)
    front.send(
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n2\r\nab\r\n0\r\n" + BEARER + b"\r\n",
    )

    assert b"uthorization" not in heads[0]


def test_an_answer_does_not_bring_it_in(front: Front, api: ApiServer, client: httpx.Client) -> None:
    answer = client.get("/reflect", headers={"Accept-Encoding": "gzip"})

    assert received(api)["accept-encoding"] == "identity"
    assert answer.headers["x-key"] == PLACEHOLDER
    assert answer.headers["x-said"] == f"<{PLACEHOLDER}>"
    assert answer.json() == {"error": f"the key {'*' * len(VALUE)} is wrong"}


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_value_in_pieces_is_found(front: Front, scripted: Scripted, framing: str) -> None:
    pieces = [b"a" + VALUE[:9].encode(), VALUE[9:20].encode(), VALUE[20:].encode() + b"b " + VALUE[:12].encode()]
    head = {"length": b"Content-Length: %d\r\n" % sum(map(len, pieces)), "chunked": b"Transfer-Encoding: chunked\r\n"}

    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + head.get(framing, b"") + b"\r\n")
        for piece in pieces:
            conn.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece)
        conn.sendall(b"0\r\n\r\n" if framing == "chunked" else b"")

    scripted(script)
    with httpx.Client(verify=front.guest_context(), timeout=60) as client:
        url = f"https://127.0.0.1:{front.port}/"
        answer = client.get(url, headers={"Host": NAME}, extensions={"sni_hostname": NAME})

    assert answer.text == "a" + "*" * len(VALUE) + "b " + VALUE[:12]


def test_a_base64_pair_that_comes_back_is_the_guests_own_again(front: Front, scripted: Scripted) -> None:
    def script(conn: ssl.SSLSocket) -> None:
        head = read_head(conn)
        said = head.split(b"Basic ")[1].split(b"\r\n")[0]
        conn.sendall(b"HTTP/1.1 200 " + said + b"\r\nX-Said: " + said + b"\r\nContent-Length: 0\r\n\r\n")

    scripted(script)
    own = base64.b64encode(f"user:{PLACEHOLDER}".encode())
    answer = front.send(b"GET / HTTP/1.1\r\nAuthorization: Basic " + own + b"\r\n" + HOST + b"\r\n")

    assert answer.count(own) == 2


def test_many_placeholders_do_not_blow_a_request_up(front: Front, scripted: Scripted) -> None:
    heads: list[bytes] = []
    scripted(recorded(heads))

    answer = front.send(b"GET / HTTP/1.1\r\nAuthorization: " + b"terp-secret-api " * 3000 + b"\r\n" + HOST + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert not heads


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "", " padded ", "nul\0", "tab\t"])
def test_a_value_that_would_end_its_header_is_refused_without_saying_it(value: str) -> None:
    front = Front(NAME, [Credential("bad", (NAME,), "authorization", PLACEHOLDER, value)])
    try:
        with pytest.raises((ConnectionError, ssl.SSLError)), front.connect():
            pass
        with pytest.raises(ValueError, match="credential bad has") as refused:
            front.ended()
    finally:
        front.close()
    assert not value.strip() or value not in str(refused.value)


def test_nothing_is_logged(api: ApiServer, client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.get("/reflect")

    assert VALUE not in caplog.text


# ---- attacks of a guest ----------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = {
    "both lengths": (HOST + b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"),
    "two lengths": (HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n", b"123456"),
    "the same length twice": (HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n", b"12345"),
    "a list of lengths": (HOST + b"Content-Length: 5, 5\r\n", b"12345"),
    "a signed length": (HOST + b"Content-Length: +5\r\n", b"12345"),
    "two codings": (HOST + CHUNKED + b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n"),
    "an unknown coding": (HOST + b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "a hidden coding": (HOST + b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"),
    "a folded line": (HOST + b"X-A: 1\r\n Authorization: terp-secret-api\r\n", b""),
    "a bare LF": (HOST + b"X-A: 1\nAuthorization: terp-secret-api\r\n", b""),
    "a bare CR": (HOST + b"X-A: 1\rAuthorization: terp-secret-api\r\n", b""),
    "a space before the colon": (HOST + b"Content-Length : 5\r\n", b"12345"),
    "a NUL": (HOST + b"X-A: \0\r\n", b""),
    "a line without a name": (HOST + b": 1\r\n", b""),
    "a chunk's size that is none": (HOST + CHUNKED, b"5;\n\r\n12345\r\nzz\r\n"),
    "a chunk that is too long": (HOST + CHUNKED, b"2\r\nabcd\r\n0\r\n\r\n"),
    "a negative chunk": (HOST + CHUNKED, b"-2\r\nab\r\n0\r\n\r\n"),
    "two hosts": (HOST + b"Host: other.example.test\r\n", b""),
    "the same host twice": (HOST + HOST, b""),
    "another host": (b"Host: other.example.test\r\n", b""),
    "a host and more": (b"Host: api.example.test.evil.test\r\n", b""),
    "a user in the host": (b"Host: api.example.test@other.example.test\r\n", b""),
    "no host": (b"", b""),
}


@pytest.mark.parametrize(("fields", "body"), SMUGGLED.values(), ids=SMUGGLED)
def test_what_two_parsers_could_read_in_two_ways_is_refused(
    front: Front, scripted: Scripted, fields: bytes, body: bytes
) -> None:
    sent_on: list[bytes] = []

    def script(conn: ssl.SSLSocket) -> None:  # answers nothing
        with contextlib.suppress(OSError):
            while data := conn.recv(4096):
                sent_on.append(data)

    server = scripted(script)

    answer = front.send(b"POST / HTTP/1.1\r\n" + BEARER + fields + b"\r\n" + body)

    assert answer[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 421"}
    assert answer.count(b"Content-Length:") == 1
    assert front.ended().reason in {Reason.MALFORMED, Reason.NAME_MISMATCH}
    server.close()
    assert b"".join(sent_on).count(b"HTTP/1.1") == (1 if CHUNKED in fields and front.dialled else 0)
    assert not b"".join(sent_on).endswith(b"0\r\n\r\n")  # as a whole


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET https://other.example.test/ HTTP/1.1", b"400"),
        (b"GET http://other.example.test/ HTTP/1.1", b"421"),
        (b"GET http://api.example.test/ HTTP/1.1", b"400"),
        (b"CONNECT api.example.test:443 HTTP/1.1", b"400"),
        (b"TRACE / HTTP/1.1", b"400"),  # the server would send the request back
        (b"GET / HTTP/1.1 HTTP/1.1", b"400"),
        (b"GET /\xe4 HTTP/1.1", b"400"),
        (b"GET / HTTP/0.9", b"400"),
        (b"GET  / HTTP/1.1", b"400"),
        (b"", b"400"),
    ],
)
def test_other_requests_are_refused_and_nothing_is_dialled(front: Front, line: bytes, status: bytes) -> None:
    answer = front.send(line + b"\r\n" + HOST + BEARER + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert front.dialled == 0
    assert front.ended().credential is None


def test_http_2_without_asking_is_refused(front: Front) -> None:
    assert front.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").startswith(b"HTTP/1.1 505 ")
    assert front.ended().reason is Reason.PROTOCOL_NOT_ALLOWED


def test_a_second_request_for_another_host_is_refused(front: Front, scripted: Scripted) -> None:
    heads: list[bytes] = []
    scripted(recorded(heads))

    answer = front.send(
        b"GET /1 HTTP/1.1\r\n"
        + HOST
        + BEARER
        + b"\r\nGET /2 HTTP/1.1\r\nHost: other.example.test\r\n"
        + BEARER
        + b"\r\n"
    )

    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert b"HTTP/1.1 421 " in answer
    assert len(heads) == 1
    assert front.ended().reason is Reason.NAME_MISMATCH


def test_pipelined_requests_are_served_one_after_the_other(front: Front, scripted: Scripted) -> None:
    heads: list[bytes] = []
    scripted(recorded(heads))
    one = b"POST /%d HTTP/1.1\r\n" + HOST + BEARER + b"Content-Length: 0\r\n\r\n"

    answer = front.send(
        b"".join(one % number for number in range(5)) + b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    )

    assert answer.count(b"HTTP/1.1 200 ") == 6
    assert [head.split(b" ")[1] for head in heads] == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/"]
    assert all(head.count(b"HTTP/1.1") == 1 for head in heads)


def test_a_body_is_not_taken_for_a_request(front: Front, scripted: Scripted) -> None:
    inner = b"GET /inner HTTP/1.1\r\nHost: api.example.test\r\n" + BEARER + b"\r\n"
    bodies: list[bytes] = []

    def script(conn: ssl.SSLSocket) -> None:
        data = read_head(conn)
        while not data.endswith(inner):
            data += conn.recv(4096)
        bodies.append(data)
        conn.sendall(OK)

    scripted(script)
    front.send(b"POST / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(inner) + inner)

    assert VALUE.encode() not in bodies[0]


def test_a_head_is_bounded(front: Front) -> None:
    answer = front.send(b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 70_000 + b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert front.dialled == 0


def test_a_head_has_to_come_in_time(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intercept_module, "_HEAD_S", 0.2)

    answer = front.send(b"GET / HTTP/1.1\r\nHost:")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert front.ended().reason is Reason.TIMED_OUT


def test_a_handshake_has_to_come_in_time(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intercept_module, "_HANDSHAKE_S", 0.2)

    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as guest:
        guest.sendall(b"\x16\x03\x01\x02\x00")
        assert guest.recv(100) == b""

    assert front.ended().reason is Reason.TIMED_OUT


def test_a_client_certificate_is_ignored(front: Front, api: ApiServer, tmp_path: Path) -> None:
    own = make_authority("guest's own")
    (tmp_path / "own.pem").write_bytes(own.certificate + own.key)
    context = front.guest_context()
    context.load_cert_chain(tmp_path / "own.pem")

    with front.connect(context) as guest:
        guest.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        assert receive_all(guest).startswith(b"HTTP/1.1 200 ")


def test_renegotiation_is_refused(front: Front, api: ApiServer, ca: Path) -> None:
    told = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{front.port}", "-servername", NAME, "-CAfile", ca, "-tls1_2"],
        input=b"R\n",
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert b"Verify return code: 0 (ok)" in told.stdout
    assert b"no renegotiation" in told.stderr


def test_a_program_that_does_not_trust_the_sandboxs_ca_is_on_record(front: Front) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        front.connect(ssl.create_default_context())

    assert front.ended().reason is Reason.CERTIFICATE_REFUSED


def test_what_is_not_tls_ends(front: Front) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as guest:
        guest.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            while guest.recv(100):
                pass

    assert front.ended().reason is Reason.MALFORMED


# ---- servers ---------------------------------------------------------------------------------------


def test_a_server_with_another_name_gets_nothing(front: Front) -> None:
    heads: list[bytes] = []
    server = ScriptedServer(front.server_context("other.example.test"), recorded(heads))
    front.server_port = server.port

    answer = front.send(b"GET / HTTP/1.1\r\n" + HOST + BEARER + b"\r\n")

    server.close()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"does not trust the certificate of api.example.test" in answer
    assert front.ended().reason is Reason.SERVER_UNVERIFIED
    assert not heads


def test_a_server_of_an_unknown_authority_gets_nothing(front: Front) -> None:
    heads: list[bytes] = []
    impostor = Front(NAME, ())  # another world
    server = ScriptedServer(impostor.server_context(), recorded(heads))
    front.server_port = server.port

    answer = front.send(b"GET / HTTP/1.1\r\n" + HOST + BEARER + b"\r\n")

    server.close()
    impostor.close()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert front.ended().reason is Reason.SERVER_UNVERIFIED
    assert not heads


def test_a_server_that_is_not_there_is_told_of_and_raised(front: Front) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        front.server_port = gone.getsockname()[1]

    answer = front.send(b"GET / HTTP/1.1\r\n" + HOST + BEARER + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 502 ")
    with pytest.raises(ConnectionRefusedError):
        front.ended()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",  # nobody asked
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 300_000 + b"\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_is_told_of(front: Front, scripted: Scripted, answer: bytes) -> None:
    scripted(recorded([], answer))

    told = front.send(b"GET / HTTP/1.1\r\n" + HOST + BEARER + b"\r\n")

    assert told.startswith(b"HTTP/1.1 502 ")
    assert front.ended().reason is Reason.MALFORMED


def test_a_server_that_stays_silent_is_not_waited_for_without_end(
    front: Front, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intercept_exchange, "_SILENT_S", 0.1)

    def script(conn: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError):
            receive_all(conn)

    scripted(script)

    answer = front.send(b"GET / HTTP/1.1\r\n" + HOST + BEARER + b"\r\n")

    assert answer.startswith(b"HTTP/1.1 504 ")
    assert front.ended().reason is Reason.TIMED_OUT


def test_bytes_after_an_answer_are_no_answer_to_the_next_request(front: Front, scripted: Scripted) -> None:
    scripted(recorded([], OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))

    answer = front.send(b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\n" + HOST + b"\r\n")

    assert answer.count(b"Content-Length:") == 1
    assert b"evil" not in answer


def test_a_guest_that_goes_away_ends_the_request(front: Front, scripted: Scripted) -> None:
    ends: list[bytes] = []

    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        with contextlib.suppress(OSError):
            ends.append(conn.recv(100))

    server = scripted(script)
    with front.connect() as guest:
        guest.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    front.ended()
    server.close()

    assert ends in ([], [b""])


def test_a_connection_that_is_cancelled_ends_on_both_sides_and_was_counted(front: Front, scripted: Scripted) -> None:
    def script(conn: ssl.SSLSocket) -> None:
        read_head(conn)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        receive_all(conn)

    server = scripted(script)
    with front.connect() as guest:
        guest.sendall(b"GET / HTTP/1.1\r\n" + HOST + BEARER + b"\r\n")
        data = b""
        while not data.endswith(b"some"):
            data += guest.recv(4096)
        front.cancel()
        with contextlib.suppress(OSError):
            receive_all(guest)
    ended = front.ended()
    server.close()

    assert ended.credential == "api"
    assert ended.bytes_in > len(data)


def test_a_server_is_always_verified(front: Front) -> None:
    front.trust = ssl.create_default_context()
    front.trust.check_hostname = False

    with pytest.raises((ConnectionError, ssl.SSLError)), front.connect():
        pass
    with pytest.raises(ValueError, match="verified"):
        front.ended()
