"""How secrets of disks pass through memory: to one machine's monitor alone, and not for long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from terpd.node.vmm.secret_files import SecretFiles

SECRETS = [b"first", b"second"]
UID = 865_010 if os.geteuid() == 0 else os.geteuid()


def test_each_is_readable_for_the_machines_uid_while_it_is_shown(tmp_path: Path) -> None:
    """Nobody but that uid opens it, and nobody lists them."""
    with SecretFiles("x", tmpfs=tmp_path).shown("m_1", UID, SECRETS) as paths:
        assert [path.read_bytes() for path in paths] == SECRETS
        assert [path.name for path in paths] == ["k0", "k1"]
        assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in paths} == {(UID, 0o400)}
        directory = paths[0].parent
        assert [each.stat().st_mode & 0o777 for each in (directory, directory.parent)] == [0o711, 0o711]


def test_starts_do_not_disturb_each_other(tmp_path: Path) -> None:
    """The first that is done leaves what the other needs."""
    files = SecretFiles("x", tmpfs=tmp_path)
    with files.shown("m_1", UID, SECRETS) as first:
        with files.shown("m_2", UID, SECRETS[:1]):
            pass
        assert [path.read_bytes() for path in first] == SECRETS


def test_afterwards_not_even_who_holds_a_file_open_finds_it(tmp_path: Path) -> None:
    """A jail goes on showing the file to its monitor when the name is gone."""
    with SecretFiles("x", tmpfs=tmp_path).shown("m_1", UID, SECRETS) as paths:
        held = paths[0].open("rb")

    assert held.read() == b""
    held.close()
    assert not (tmp_path / "terp-x").exists()


def test_they_go_also_when_the_start_fails(tmp_path: Path) -> None:
    """Or is cancelled."""
    with pytest.raises(KeyboardInterrupt), SecretFiles("x", tmpfs=tmp_path).shown("m_1", UID, SECRETS):
        raise KeyboardInterrupt

    assert not (tmp_path / "terp-x").exists()


def test_what_a_dead_daemon_left_is_swept(tmp_path: Path) -> None:
    """Of this instance, and of no other."""
    left = SecretFiles("x", tmpfs=tmp_path).shown("m_1", UID, SECRETS)
    (path, _) = left.__enter__()
    held = path.open("rb")
    with SecretFiles("y", tmpfs=tmp_path).shown("m_1", UID, SECRETS) as others:
        SecretFiles("x", tmpfs=tmp_path).sweep()
        SecretFiles("x", tmpfs=tmp_path).sweep()

        assert held.read() == b""
        held.close()
        assert [each.read_bytes() for each in others] == SECRETS
    assert not (tmp_path / "terp-x").exists()


@pytest.mark.parametrize("kind", ["link", "open", "file"])
def test_a_directory_that_somebody_else_may_have_made_is_refused(tmp_path: Path, kind: str) -> None:
    """
    Anybody can make one in /dev/shm, and who owns it can put other files in the place of ours; nor is anything removed
    through it.
    """
    directory = tmp_path / "terp-x"
    (tmp_path / "elsewhere/m_1").mkdir(parents=True)
    (tmp_path / "elsewhere/m_1/k0").write_bytes(b"not ours")
    if kind == "link":
        directory.symlink_to(tmp_path / "elsewhere")
    elif kind == "open":
        directory.mkdir()
        directory.chmod(0o777)
    else:
        directory.touch()
        directory.chmod(0o711)

    with pytest.raises(PermissionError), SecretFiles("x", tmpfs=tmp_path).shown("m_1", UID, SECRETS):
        raise AssertionError
    SecretFiles("x", tmpfs=tmp_path).sweep()
    assert (tmp_path / "elsewhere/m_1/k0").read_bytes() == b"not ours"
