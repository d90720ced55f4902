"""What sessions of the OpenAI Agents SDK are made as and found again by. For `openai_sandbox`, which see."""

from __future__ import annotations

from typing import Literal

from agents.sandbox.session import BaseSandboxClientOptions, SandboxSessionState
from pydantic import Field


class TerpSandboxClientOptions(BaseSandboxClientOptions):
    """
    What machines are made as: arguments of `AsyncSandbox.create`.

    Attributes:
        from_snapshot: A snapshot of Terp's to start from, instead of a template.
        timeout: Seconds until the machine ends by itself, should nobody end it.
        env: The environment of every command. Kept in the session's state.
        pause_on_exit: Pause the machine at the end of a run and when its time is up, instead of ending it.
        exposed_ports: Those that `resolve_exposed_port` gives addresses of. Not with network `off`.
    """

    type: Literal["terp"] = "terp"
    template: str | None = None
    from_snapshot: str | None = None
    size: str | None = None
    network: str | None = None
    allow_domains: tuple[str, ...] | None = None
    timeout: int = 600
    env: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)
    volume: str | None = None
    pause_on_exit: bool = False
    exposed_ports: tuple[int, ...] = ()


class TerpSandboxSessionState(SandboxSessionState):
    """What a session is found again by."""

    type: Literal["terp"] = "terp"
    sandbox_id: str
    options: TerpSandboxClientOptions = Field(default_factory=TerpSandboxClientOptions)
