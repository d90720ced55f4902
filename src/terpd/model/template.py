"""Templates as the control plane sees them: names, and which (template, size) pairs can be started here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """
    A template whose image is built on this node.

    `warm_sizes` names the sizes that have a snapshot already; another size makes its first create wait for one boot.
    """

    name: str
    description: str
    digest: str
    size_bytes: int
    warm_sizes: Sequence[str]
