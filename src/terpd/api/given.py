"""What routes are given: the use cases, the pace, and ids taken from the path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from terpd.api.auth import may_read, may_see_metrics, may_write
from terpd.api.pace import Pace
from terpd.control.keys import Caller
from terpd.control.services import Services
from terpd.model.errors import ExecNotFound, SandboxNotFound, SnapshotNotFound, VolumeNotFound, WebhookNotFound
from terpd.model.ids import (
    ExecId,
    SandboxId,
    StateId,
    VolumeId,
    WebhookId,
    parse_exec_id,
    parse_sandbox_id,
    parse_state_id,
    parse_volume_id,
    parse_webhook_id,
)


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _pace(request: Request) -> Pace:
    pace: Pace = request.app.state.pace
    return pace


async def _sandbox_id(sandbox_id: Annotated[str, Path(description="`sbx_` and a ULID")]) -> SandboxId:
    parsed = parse_sandbox_id(sandbox_id)
    if parsed is None:
        raise SandboxNotFound(f"There is no such sandbox: {sandbox_id[:64]}")
    return parsed


async def _snapshot_id(snapshot_id: Annotated[str, Path(description="`snap_` and a ULID")]) -> StateId:
    parsed = parse_state_id(snapshot_id)
    if parsed is None:
        raise SnapshotNotFound(f"There is no such snapshot: {snapshot_id[:64]}")
    return parsed


async def _exec_id(command_id: Annotated[str, Path(description="`cmd_` and a ULID")]) -> ExecId:
    parsed = parse_exec_id(command_id)
    if parsed is None:
        raise ExecNotFound(f"There is no such command: {command_id[:64]}")
    return parsed


async def _webhook_id(webhook_id: Annotated[str, Path(description="`wh_` and a ULID")]) -> WebhookId:
    parsed = parse_webhook_id(webhook_id)
    if parsed is None:
        raise WebhookNotFound(f"There is no such webhook: {webhook_id[:64]}")
    return parsed


async def _volume_id(volume_id: Annotated[str, Path(description="`vol_` and a ULID")]) -> VolumeId:
    parsed = parse_volume_id(volume_id)
    if parsed is None:
        raise VolumeNotFound(f"There is no such volume: {volume_id[:64]}")
    return parsed


GivenServices = Annotated[Services, Depends(_services)]
GivenPace = Annotated[Pace, Depends(_pace)]
GivenSandboxId = Annotated[SandboxId, Depends(_sandbox_id)]
GivenSnapshotId = Annotated[StateId, Depends(_snapshot_id)]
GivenExecId = Annotated[ExecId, Depends(_exec_id)]
GivenVolumeId = Annotated[VolumeId, Depends(_volume_id)]
GivenWebhookId = Annotated[WebhookId, Depends(_webhook_id)]
Reader = Annotated[Caller, Depends(may_read)]
Writer = Annotated[Caller, Depends(may_write)]
Operator = Annotated[Caller, Depends(may_see_metrics)]
