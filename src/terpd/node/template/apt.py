"""The Debian repositories that this host's own apt uses, so that a template uses the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from terpd.node.template.command import BuildFailed, run


@dataclass(frozen=True, slots=True)
class Repository:
    """One line of a sources list."""

    uri: str
    release: str
    components: tuple[str, ...]

    def line(self) -> str:
        return f"deb {self.uri} {self.release} {' '.join(self.components)}"


def repositories(suite: str) -> Sequence[Repository]:
    """
    Return the host's repositories of a Debian release, its updates and its security fixes.

    Addresses come without user names and passwords: they would end up readable in every sandbox.

    Raises:
        BuildFailed: The host's apt knows none for this release.
    """
    form = "$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)"
    listed = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], timeout_s=60).decode()
    found = parse(listed, suite)
    if not any(repository.release == suite for repository in found):
        raise BuildFailed(f"apt on this host knows no source for Debian {suite}: add one, then run apt-get update")
    return found


def parse(listed: str, suite: str) -> Sequence[Repository]:
    """Group apt's lines of (address, release, component), separated by tabs; other releases are left out."""
    wanted = (suite, f"{suite}-updates", f"{suite}-security")
    grouped: dict[tuple[str, str], list[str]] = {}
    for line in listed.splitlines():
        uri, release, component = line.split("\t")
        if release in wanted:
            components = grouped.setdefault((_bare(uri), release), [])
            if component not in components:
                components.append(component)
    found = [Repository(uri, release, tuple(components)) for (uri, release), components in grouped.items()]
    return sorted(found, key=lambda repository: (wanted.index(repository.release), repository.uri))


def _bare(uri: str) -> str:
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
