"""What can be said of the namespace helper without making a namespace."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from terpd.egress.netd import netlink, rules, wire
from terpd.egress.netd.serve import refusal

_FDS = Path("/proc/self/fd")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_message_and_descriptors_arrive(pair: tuple[socket.socket, socket.socket]) -> None:
    """What is received is the receiver's own, and no child's."""
    ours, theirs = pair

    wire.send(ours, {"id": 7}, [theirs.fileno()])
    message = wire.receive(theirs)

    assert message is not None
    (fd,) = message.fds
    assert message.body == {"id": 7}
    assert os.path.sameopenfile(fd, theirs.fileno())
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_the_end_is_no_message(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.close()

    assert wire.receive(theirs) is None


@pytest.mark.parametrize(
    ("content", "descriptors"),
    [(b"{", 0), (b"{}", wire.MAX_DESCRIPTORS + 1), (b" " * (wire.MAX_MESSAGE_BYTES + 1), 1), (b"7", 2), (b"\xff", 1)],
    ids=["cut", "too many descriptors", "too long", "no object", "no text"],
)
def test_malformed_leaves_no_descriptor(
    pair: tuple[socket.socket, socket.socket], content: bytes, descriptors: int
) -> None:
    ours, theirs = pair
    before = len(list(_FDS.iterdir()))
    socket.send_fds(ours, [content], [ours.fileno()] * descriptors)

    with pytest.raises(wire.Malformed):
        wire.receive(theirs)

    assert len(list(_FDS.iterdir())) == before


@pytest.mark.parametrize(
    ("error", "kind", "advice"),
    [
        (OSError(errno.EPERM, "Operation not permitted"), wire.REFUSED, "as root"),
        (OSError(errno.ENOENT, "No such file or directory", "/dev/net/tun"), wire.REFUSED, "/dev/net/tun"),
        (OSError(errno.ENOSPC, "No space left on device"), wire.REFUSED, "user.max_net_namespaces"),
        (OSError(errno.EMFILE, "Too many open files"), wire.REFUSED, "LimitNOFILE"),
        (OSError(errno.EIO, "Input/output error"), wire.REFUSED, "Input/output error"),
        (OSError(errno.EADDRINUSE, "Address already in use"), wire.BUSY, "former gateway"),
        (rules.RulesRefused("install nftables"), wire.REFUSED, "install nftables"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_refusals_say_what_to_do(error: OSError | rules.RulesRefused, kind: str, advice: str) -> None:
    found = refusal(error)

    assert found["kind"] == kind
    assert advice in found["text"]


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_LIBRARY", "libnftables-that-is-not.so.1")
    rules.load_library.cache_clear()

    with pytest.raises(rules.RulesRefused, match="install nftables"):
        rules.load_library()


def test_attributes_are_padded() -> None:
    """Lengths count what is there, and all is aligned to four bytes: a MAC has six bytes, and two of padding."""
    _, body = netlink.link_up(7, "02:fc:00:00:00:01")

    assert len(body) == 16 + 12
    assert body[16:] == b"\x0a\x00\x01\x00\x02\xfc\x00\x00\x00\x01\x00\x00"
