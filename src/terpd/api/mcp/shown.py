"""What tools answer with. Field names are those of the REST API where it has the same thing."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import BaseModel, Field

from terpd.model.network import EgressRecord
from terpd.model.sandbox import Sandbox


class SandboxShown(BaseModel):
    id: str = Field(description="Names it in all other tools")
    status: str = Field(description="starting, running, pausing, paused, resuming, terminated or failed")
    template: str
    size: str
    network: str
    created_at: dt.datetime
    expires_at: dt.datetime = Field(description="When it ends, or is paused, by itself")
    metadata: dict[str, str] = {}

    @classmethod
    def of(cls, sandbox: Sandbox) -> SandboxShown:
        return cls(
            id=sandbox.id,
            status=str(sandbox.status),
            template=sandbox.template,
            size=sandbox.size.name,
            network=str(sandbox.network),
            created_at=sandbox.created_at,
            expires_at=sandbox.expires_at,
            metadata=dict(sandbox.metadata),
        )


class SandboxesShown(BaseModel):
    sandboxes: list[SandboxShown]
    more: bool = Field(description="There are further ones; filter by status or metadata")


class ShellShown(BaseModel):
    exit_code: int = Field(description="0 for success; 124 when it ran into its timeout; 128 + signal when killed")
    stdout: str
    stderr: str
    duration_ms: int
    timed_out: bool = False
    full_stdout: str | None = Field(None, description="A file with all of it, where stdout here was shortened")
    full_stderr: str | None = Field(None, description="A file with all of it, where stderr here was shortened")


class CodeShown(BaseModel):
    """Images and texts of the results are beside it, as content."""

    stdout: str
    stderr: str
    results: list[str] = Field(description="What the cell showed, as text, in order")
    error: str | None = Field(description="What the code raised, with its traceback")
    context_id: str
    execution_count: int | None
    duration_ms: int
    interrupted: bool = Field(description="It ran into its timeout; variables are kept")
    restarted: bool = Field(description="The kernel had died; variables are lost")
    truncated: list[str] = Field(description="What was cut for its size: print less, or write it to a file")


class FileShown(BaseModel):
    path: str
    encoding: Literal["utf-8", "base64"]
    content: str
    size: int = Field(description="Of the whole file, in bytes")
    next_offset: int | None = Field(description="Read on from there; null at the end")


class EntryShown(BaseModel):
    name: str
    is_dir: bool
    size: int
    modified_at: dt.datetime


class DirectoryShown(BaseModel):
    path: str
    entries: list[EntryShown]
    more: int = Field(description="Entries that are not shown")


class WrittenShown(BaseModel):
    path: str
    bytes_written: int


class PausedShown(BaseModel):
    id: str
    stored_bytes: int


class ForkedShown(BaseModel):
    sandboxes: list[SandboxShown]


class TerminatedShown(BaseModel):
    id: str
    terminated: bool = True


class PreviewShown(BaseModel):
    url: str = Field(description="For HTTP and WebSockets; who has it sees what listens on that port")


class ConnectionShown(BaseModel):
    at: dt.datetime
    protocol: str
    name: str | None
    port: int
    decision: str = Field(description="allowed, reported, blocked or failed")
    reason: str
    bytes_out: int
    bytes_in: int

    @classmethod
    def of(cls, record: EgressRecord) -> ConnectionShown:
        return cls(
            at=record.at,
            protocol=str(record.protocol),
            name=record.name,
            port=record.port,
            decision=str(record.decision),
            reason=str(record.reason),
            bytes_out=record.bytes_out,
            bytes_in=record.bytes_in,
        )


class EgressShown(BaseModel):
    connections: list[ConnectionShown] = Field(description="Newest first; a connection appears when it is over")
