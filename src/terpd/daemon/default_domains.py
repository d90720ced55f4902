"""
What `restricted` allows when nobody says otherwise: where code comes from, and model APIs, with all names below each.

Hosts of packages are not here: a template's own pip, npm and apt configuration names those.
"""

from __future__ import annotations

from collections.abc import Sequence

DEFAULT_DOMAINS: Sequence[str] = (
    "github.com",
    "githubusercontent.com",
    "gitlab.com",
    "api.mistral.ai",
    "codestral.mistral.ai",
    "api.aleph-alpha.com",
    "api.scaleway.ai",
    "openai.inference.de-txl.ionos.com",
    "api.openai.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
)
