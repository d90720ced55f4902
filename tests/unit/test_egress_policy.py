"""What passes by its name, protocol and port."""

from __future__ import annotations

import pytest

from terpd.egress.policy import Allowed, decide
from terpd.model.network import Decision, NetworkPolicy, Protocol, Reason

ALLOWED = Allowed.parse(["pypi.example", "http://Deb.example."])
P, R = Protocol, Reason


def test_a_templates_package_hosts_are_allowed_over_plain_http_too() -> None:
    allowed = ALLOWED.with_package_hosts(["mirror.example", "10.0.0.1"])
    for protocol, port in ((P.HTTP, 80), (P.TLS, 443)):
        assert decide(NetworkPolicy(), allowed, protocol, "mirror.example", port)[0] is Decision.ALLOWED
    assert decide(NetworkPolicy(), allowed, P.TLS, "pypi.example", 443)[0] is Decision.ALLOWED
    assert decide(NetworkPolicy(), allowed, P.HTTP, "pypi.example", 80)[0] is Decision.BLOCKED


@pytest.mark.parametrize(
    ("protocol", "name", "port", "reason"),
    [
        (P.TLS, "pypi.example", 443, R.ALLOWED_NAME),
        (P.TLS, "files.pypi.example", 443, R.ALLOWED_NAME),
        (P.CONNECT, "pypi.example", 443, R.ALLOWED_NAME),
        (P.TLS, "deb.example", 443, R.ALLOWED_NAME),
        (P.HTTP, "deb.example", 80, R.ALLOWED_NAME),
        (P.HTTP, "security.deb.example", 80, R.ALLOWED_NAME),
        (P.DNS, "pypi.example", 53, R.ALLOWED_NAME),
        (P.TLS, "pypi.example", 8443, R.PORT_NOT_ALLOWED),
        (P.TLS, "deb.example", 80, R.PORT_NOT_ALLOWED),
        (P.CONNECT, "pypi.example", 22, R.PORT_NOT_ALLOWED),
        (P.HTTP, "pypi.example", 80, R.PORT_NOT_ALLOWED),
        (P.HTTP, "deb.example", 8080, R.PORT_NOT_ALLOWED),
        (P.HTTP, "pypi.example", 443, R.PORT_NOT_ALLOWED),
        (P.TLS, "evil.example", 443, R.NAME_NOT_ALLOWED),
        (P.DNS, "evil.example", 53, R.NAME_NOT_ALLOWED),
        (P.TLS, None, 443, R.NO_NAME),
        (P.HTTP, None, 80, R.NO_NAME),
        (P.TCP, "pypi.example", 443, R.PROTOCOL_NOT_ALLOWED),
        (P.TCP, None, 22, R.PROTOCOL_NOT_ALLOWED),
    ],
)
def test_each_mode_decides(protocol: Protocol, name: str | None, port: int, reason: Reason) -> None:
    allowed = reason is R.ALLOWED_NAME
    restricted, report, open_ = NetworkPolicy(), NetworkPolicy(report_only=True), NetworkPolicy(open=True)
    assert decide(restricted, ALLOWED, protocol, name, port) == (
        Decision.ALLOWED if allowed else Decision.BLOCKED,
        reason,
    )
    assert decide(report, ALLOWED, protocol, name, port) == (Decision.ALLOWED if allowed else Decision.REPORTED, reason)
    assert decide(open_, ALLOWED, protocol, name, port) == (Decision.ALLOWED, R.OPEN_MODE)
