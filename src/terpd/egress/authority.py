"""
A sandbox's own certificate authority, and the certificates that the gateway shows its guest in a real host's place.

An authority is trusted by one guest alone and signs for the hosts of that sandbox's credentials. Everything is kept in
memory: a key that gets lost can be replaced, a key on a disk can be found.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from terpd.egress.base import Authority

_BEFORE = dt.timedelta(days=1)  # a guest's clock may be behind
_LIFETIME = dt.timedelta(days=365)
_CACHED_CONTEXTS = 512  # over all sandboxes: 26 KiB each; making one takes 1-5 ms
_MAX_COMMON_NAME = 64  # X.520


def make_authority(name: str) -> Authority:
    """
    A CA that signs certificates of servers only (path length 0), valid from a day ago for a year.

    Args:
        name: Shown by programs that list certificates; cut to 64 characters.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_COMMON_NAME])])
    certificate = (
        _builder(subject, subject, key.public_key(), now - _BEFORE, now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(_certificate_pem(certificate), _key_pem(key))


@lru_cache(maxsize=_CACHED_CONTEXTS)
def certificate_for(authority: Authority, host: str) -> ssl.SSLContext:
    """
    What a server named *host* needs to be trusted by the guest: TLS 1.2 or newer, HTTP/1.1 only, no renegotiation, and
    no question for the client's certificate.

    Args:
        host: As it stands in the SNI: ASCII, at most 253 characters.

    Raises:
        ValueError, TypeError: *host* or the authority is malformed.
    """
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("an authority's key is an EC key")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "Terp egress gateway")]
    )  # `host` may be too long for it
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), issuer.not_valid_before_utc, issuer.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _load(context, _certificate_pem(certificate) + authority.certificate + _key_pem(key))
    return context


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    begin: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """`load_cert_chain` reads files only: this one is a name for anonymous memory, gone when its descriptor is."""
    descriptor = os.memfd_create("certificate")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
