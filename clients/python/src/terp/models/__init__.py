"""What comes back, as frozen values. Times are aware UTC, sizes in bytes unless the name says otherwise."""

from terp.models.account import DayUsage, Delivery, Metrics, MetricsSample, Usage, VolumeInfo, WebhookInfo
from terp.models.code import CodeContextInfo, CodeDone, CodeError, CodeEvent, CodeText, Execution, Result
from terp.models.commands import CommandInfo, ExecEvent, ExecResult, Exited, LogPage, PtyInfo, Started, Stderr, Stdout
from terp.models.files import FileEvent, FileInfo, Presigned, Transfer
from terp.models.sandboxes import (
    Connection,
    DeletionReceipt,
    Limits,
    Paused,
    SandboxInfo,
    Secret,
    SizeInfo,
    SnapshotInfo,
    Traffic,
)

__all__ = [
    "CodeContextInfo",
    "CodeDone",
    "CodeError",
    "CodeEvent",
    "CodeText",
    "CommandInfo",
    "Connection",
    "DayUsage",
    "DeletionReceipt",
    "Delivery",
    "ExecEvent",
    "ExecResult",
    "Execution",
    "Exited",
    "FileEvent",
    "FileInfo",
    "Limits",
    "LogPage",
    "Metrics",
    "MetricsSample",
    "Paused",
    "Presigned",
    "PtyInfo",
    "Result",
    "SandboxInfo",
    "Secret",
    "SizeInfo",
    "SnapshotInfo",
    "Started",
    "Stderr",
    "Stdout",
    "Traffic",
    "Transfer",
    "Usage",
    "VolumeInfo",
    "WebhookInfo",
]
