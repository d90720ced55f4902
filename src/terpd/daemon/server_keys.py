"""The server's keys: from TERP_KEY or the key file, which is made when it is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from terpd.daemon.config import PREFIX, Config, ConfigError
from terpd.model.ports import Store
from terpd.sealing.keyring import BadKey, KeyRing, new_server_key, wrapped_with

log = structlog.get_logger()

VARIABLE = f"{PREFIX}KEY"
_MODE = 0o600


def load_keys(config: Config, environ: Mapping[str, str] | None = None) -> KeyRing:
    """
    Read the server's keys; where there are none, make one.

    Raises:
        ConfigError: A line is no key, or the file can be neither read nor made. Never quotes a key.
    """
    text = (os.environ if environ is None else environ).get(VARIABLE)
    file = config.server_key_file
    try:
        if text is not None:
            return KeyRing.parse(text)
        if not file.exists():
            _make(file)
        return KeyRing.parse(file.read_text(encoding="ascii"))
    except (BadKey, UnicodeDecodeError) as error:
        source = VARIABLE if text is not None else str(file)
        why = error if isinstance(error, BadKey) else "it holds more than base64"
        raise ConfigError(f"The server's key is wrong: {source}: {why}") from error
    except OSError as error:
        raise ConfigError(f"The server's key cannot be read or made: {file}: {error.strerror}") from error


async def warn_of_missing(store: Store, keys: KeyRing, node_id: str) -> None:
    """Log which server keys wrap data keys of this node and are not at hand: what those encrypt cannot be used."""
    sealed = [sandbox.sealed_key for sandbox in await store.live_sandboxes(node_id)]
    sealed += [snapshot.sealed_key for snapshot in await store.snapshots_on_node(node_id)]
    wrapping = [wrapped_with(key) for key in sealed if key is not None]
    for missing in sorted(set(wrapping) - keys.ids):
        log.warning("server_key_missing", server_key_id=missing, sealed_keys=wrapping.count(missing))


def _make(file: Path) -> None:
    """Write a new key so that it is whole or not there; if somebody else was faster, that one counts."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as out:
            out.write(f"{new_server_key()}\n")
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(temporary, file)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    log.warning("server_key_made", file=str(file), advice="back it up: without it saved states are lost")
