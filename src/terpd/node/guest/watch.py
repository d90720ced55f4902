"""What changes among a guest's files, as it is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from terpd.model.guest import MAX_PATH_BYTES, FileChange, FileEvent
from terpd.node.guest import agent_pb2 as wire
from terpd.node.guest.ask import ANSWER_S, PING, STALL_S, Silence, ask, opened, received
from terpd.node.guest.channel import Channel
from terpd.node.guest.faults import bad_reply
from terpd.node.guest.files import check_path

QUIET_S = 30.0  # nothing may change for as long as it likes; the guest has to answer a ping this often

_MAX_EVENT_PATH_BYTES = 3 * (MAX_PATH_BYTES + 256)  # a name in a path of full length, should no byte have been UTF-8
_CHANGES: Mapping[int, FileChange] = {
    wire.FileEvent.CREATED: FileChange.CREATED,
    wire.FileEvent.MODIFIED: FileChange.MODIFIED,
    wire.FileEvent.REMOVED: FileChange.REMOVED,
    wire.FileEvent.MOVED: FileChange.MOVED,
    wire.FileEvent.OVERFLOW: FileChange.OVERFLOW,
}


async def watch(channel: Channel, path: str, *, recursive: bool) -> AsyncGenerator[FileEvent, None]:
    """As `Node.watch_files`; it ends when what is watched is gone."""
    check_path(path)
    request = wire.Request(file_watch=wire.FileWatch(path=path, recursive=recursive))
    ready = False
    async with opened(channel, request, timeout_s=STALL_S) as call:
        while True:
            try:
                item = await received(call, timeout_s=QUIET_S, subject=path)
            except Silence:
                await ask(channel, PING, timeout_s=ANSWER_S)
                continue
            if item is None:
                return
            assert isinstance(item, wire.Reply)
            if ready:
                yield _event(item.file_event, path)
                continue
            if item.file_event.kind != wire.FileEvent.READY:
                raise bad_reply("file_watch", f"kind {item.file_event.kind} before it watched")
            ready = True
            yield FileEvent(FileChange.READY, path, item.file_event.is_dir)


def _event(event: wire.FileEvent, path: str) -> FileEvent:
    change = _CHANGES.get(event.kind)
    if change is None:
        raise bad_reply("file_watch", f"kind {event.kind}")
    if change is FileChange.OVERFLOW:
        return FileEvent(change, path, is_dir=False)
    for name in (event.path, event.moved_from) if event.moved_from else (event.path,):
        if not name.startswith("/") or "\0" in name or len(name.encode()) > _MAX_EVENT_PATH_BYTES:
            raise bad_reply("file_watch", f"a path of {len(name)} characters that no file has")
    if event.moved_from and change is not FileChange.MOVED:
        raise bad_reply("file_watch", f"{change} from another path")
    return FileEvent(change, event.path, event.is_dir, event.moved_from or None)
