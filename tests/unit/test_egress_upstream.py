"""Settings of the gateway that make no sense are told when they are read."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from terpd.egress.upstream import Upstream


@pytest.mark.parametrize(
    "settings",
    [
        {"resolvers": ["dns.example"]},
        {"allow_addresses": ["10.0.0.1/8"]},
        {"default_domains": ["*.example"]},
        {"max_connections": 0},
        {"proxy": "proxy.example:8080"},
        {"proxy": "https://proxy.example"},
        {"proxy": "http://proxy.example:99999"},
        {"proxy": "http://proxy.example/path"},
    ],
)
def test_what_makes_no_sense_is_refused(settings: Mapping[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Upstream(**settings)  # type: ignore[arg-type]


def test_a_proxys_password_is_neither_shown_nor_told() -> None:
    assert "secret" not in repr(Upstream(proxy="http://user:secret@proxy.example:8080"))
    with pytest.raises(ValueError, match="upstream proxy") as refused:
        Upstream(proxy="socks5://user:secret@proxy.example")
    assert "secret" not in str(refused.value)
