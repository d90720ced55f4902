"""Certificate authorities that the host trusts beyond Debian's own, carried into a template."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from terpd.node.template.chroot import run_in

DEFAULT_AUTHORITIES = Path("/usr/local/share/ca-certificates")  # where Debian's update-ca-certificates looks
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# pip, requests, npm and Node bring lists of their own and would not see the host's authorities otherwise.
ENVIRONMENT: Mapping[str, str] = {
    "SSL_CERT_FILE": _BUNDLE,
    "REQUESTS_CA_BUNDLE": _BUNDLE,
    "CURL_CA_BUNDLE": _BUNDLE,
    "PIP_CERT": _BUNDLE,
    "NODE_EXTRA_CA_CERTS": _BUNDLE,
}


def authorities(directory: Path) -> Sequence[Path]:
    """The certificate files there, sorted; only `.crt`, as for update-ca-certificates."""
    return sorted(path for path in directory.rglob("*.crt") if path.is_file()) if directory.is_dir() else []


def fingerprint(directory: Path) -> str:
    """Changes whenever a template must be rebuilt to trust what the host trusts."""
    digest = hashlib.sha256()
    for path in authorities(directory):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def install(tree: Path, directory: Path) -> int:
    """Make *tree* trust the authorities in *directory*; returns how many. Raises BuildFailed."""
    target = tree / "usr/local/share/ca-certificates"
    target.mkdir(parents=True, exist_ok=True)
    found = authorities(directory)
    for path in found:
        copy = target / path.name
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o644)
    run_in(tree, ["update-ca-certificates", "--fresh"])
    return len(found)
