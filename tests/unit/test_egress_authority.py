"""A sandbox's authority and its certificates, as a verifier sees them."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from terpd.egress.authority import certificate_for, make_authority
from terpd.egress.base import Authority

HOST = "api.example.test"
STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN  # Python 3.13's defaults: what is missing is refused


def shake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Connect both in memory; raises what the client finds wrong."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, server_hostname=name)
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (client_end, server_end):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client_end, server_end


def client_of(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.verify_flags |= STRICT
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def certificate_of(client_end: ssl.SSLObject) -> x509.Certificate:
    der = client_end.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_the_authority_signs_servers_only_for_a_year_from_a_day_ago() -> None:
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)

    certificate = x509.load_pem_x509_certificate(make_authority("sandbox 01").certificate)

    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert certificate.not_valid_before_utc <= before - dt.timedelta(days=1) + dt.timedelta(minutes=5)
    assert certificate.not_valid_after_utc >= before + dt.timedelta(days=365)
    assert certificate.subject.rfc4514_string() == "CN=sandbox 01"


def test_a_name_of_any_length_makes_an_authority() -> None:
    subject = x509.load_pem_x509_certificate(make_authority("n" * 300).certificate).subject

    assert subject.rfc4514_string() == "CN=" + "n" * 64


def test_its_guest_trusts_the_host_under_strict_rules_and_speaks_http_1_with_it() -> None:
    authority = make_authority("sandbox")

    client_end, server_end = shake(certificate_for(authority, HOST), client_of(authority), HOST)

    leaf = certificate_of(client_end)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    assert client_end.selected_alpn_protocol() == "http/1.1"
    assert server_end.version() == "TLSv1.3"


def test_the_longest_name_has_a_certificate() -> None:
    host = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 61))
    authority = make_authority("sandbox")

    client_end, _ = shake(certificate_for(authority, host), client_of(authority), host)

    assert client_end.getpeercert() is not None


def test_no_other_guest_and_no_other_name_is_served() -> None:
    authority, other = make_authority("sandbox"), make_authority("sandbox")
    context = certificate_for(authority, HOST)

    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get|self-signed|signature"):
        shake(context, client_of(other), HOST)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        shake(context, client_of(authority), "other.example.test")


@pytest.mark.filterwarnings("ignore:.*TLSVersion.TLSv1.* is deprecated:DeprecationWarning")
def test_old_tls_is_refused() -> None:
    authority = make_authority("sandbox")
    client = client_of(authority)
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = ssl.TLSVersion.TLSv1
    client.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        shake(certificate_for(authority, HOST), client, HOST)


def test_renegotiation_and_resumption_are_off_and_no_client_certificate_is_asked_for() -> None:
    context = certificate_for(make_authority("sandbox"), HOST)

    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_TICKET
    assert context.verify_mode is ssl.CERT_NONE


def test_a_hosts_context_is_made_once_per_authority() -> None:
    authority, other = make_authority("sandbox"), make_authority("sandbox")

    assert certificate_for(authority, HOST) is certificate_for(authority, HOST)
    assert certificate_for(authority, HOST) is not certificate_for(other, HOST)
    assert certificate_for.cache_info().maxsize


def test_keys_leave_no_file_and_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    descriptors = set(Path("/proc/self/fd").iterdir())

    certificate_for(make_authority("sandbox"), "files.example.test")

    assert not list(tmp_path.iterdir())
    assert len(set(Path("/proc/self/fd").iterdir())) == len(descriptors)


def test_no_representation_says_a_key() -> None:
    authority = make_authority("sandbox")

    assert b"PRIVATE KEY" in authority.key
    assert "PRIVATE" not in repr(authority)
