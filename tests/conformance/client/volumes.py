"""Cases: volumes, which outlive the sandboxes that write to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import uuid4

from orkestr import APIError, Sandbox, SandboxNotFound, SandboxNotReady, Volume

from expect import eventually, raises


@contextmanager
def _volume(**options: object) -> Iterator[Volume]:
    volume = Volume.create(f"conformance {uuid4()}", size_gb=0.25, **options)
    try:
        yield volume
    finally:
        Volume.delete(volume.id)


def volume_describes_itself() -> None:
    """All fields are there, in the answer of the create and in the list."""
    with _volume(max_lifetime_hours=2) as volume:
        assert volume.id.startswith("vol_")
        assert volume.name.startswith("conformance ")
        assert (volume.size_mb, volume.status) == (256, "available")
        assert volume.region
        assert (volume.max_lifetime_days, volume.max_lifetime_hours) == (None, 2)
        assert datetime.fromisoformat(str(volume.expires_at)).tzinfo
        assert volume in Volume.list()
        again = raises(SandboxNotReady, lambda: Volume.create(volume.name))
        assert again.status_code == 409


def contents_survive_termination() -> None:
    """What one sandbox wrote under /persist is there for the next one, by the volume's name or its id."""
    with _volume() as volume:
        with Sandbox.create(template="debian-12", volume=volume.name) as sbx:
            assert sbx.volume == volume.name
            sbx.files.write("/persist/kept", "kept")
            assert sbx.exec("findmnt -n /persist").exit_code == 0
        with Sandbox.create(template="debian-12", volume=volume.id) as sbx:
            assert sbx.volume == volume.name
            assert sbx.files.read("/persist/kept") == "kept"


def first_reference_makes_it() -> None:
    """A create that names a volume there is not makes one of 10 GB; an id that is nobody's is not found."""
    name = f"first {uuid4()}"
    Sandbox.create(template="debian-12", volume=name).terminate()
    (volume,) = [each for each in Volume.list() if each.name == name]
    assert volume.size_mb == 10240
    Volume.delete(volume.id)
    assert name not in [each.name for each in Volume.list()]
    raises(SandboxNotFound, lambda: Sandbox.create(template="debian-12", volume=volume.id))


def one_sandbox_at_a_time() -> None:
    """While a sandbox holds it, paused or not: no other one, no move, no delete, each a 409 that says why."""
    with _volume() as volume, Sandbox.create(template="debian-12", volume=volume.name) as sbx:
        (held,) = [each for each in Volume.list() if each.id == volume.id]
        assert (held.status, held.attached_sandbox_id) == ("attached", sbx.id)
        refusals = (
            lambda: Sandbox.create(template="debian-12", volume=volume.name),
            lambda: Volume.move(volume.id, str(volume.region)),
            lambda: Volume.delete(volume.id),
        )
        for _ in range(2):
            for call in refusals:
                error = raises(SandboxNotReady, call)
                assert error.status_code == 409
                assert sbx.id in str(error.detail)
            if sbx.refresh().status == "running":
                sbx.pause()
        sbx.terminate()
        with Sandbox.create(template="debian-12", volume=volume.name) as other:
            assert other.status == "running"


def lifetime_counts_from_creation() -> None:
    """Each unit takes the other's place; None clears; what is out of range is refused."""
    with _volume(max_lifetime_hours=1) as volume:
        first = datetime.fromisoformat(str(volume.expires_at))
        longer = Volume.update(volume.id, max_lifetime_days=1)
        assert (longer.max_lifetime_days, longer.max_lifetime_hours) == (1, None)
        second = datetime.fromisoformat(str(longer.expires_at))
        assert second - first == timedelta(hours=23)
        cleared = Volume.update(volume.id, max_lifetime_days=None)
        assert (cleared.max_lifetime_days, cleared.expires_at) == (None, None)
        for wrong in (0, 3651):
            raises(APIError, lambda wrong=wrong: Volume.update(volume.id, max_lifetime_days=wrong))
        raises(APIError, lambda: Volume.update(volume.id, max_lifetime_hours=25))


def moved_contents_reappear() -> None:
    """A move takes it out of its node; the next sandbox has all of it. A region that is none is refused."""
    with _volume() as volume:
        with Sandbox.create(template="debian-12", volume=volume.name) as sbx:
            sbx.files.write("/persist/moved", "along")
        moved = eventually(lambda: Volume.move(volume.id, str(volume.region)))
        assert (moved.id, moved.region, moved.attached_sandbox_id) == (volume.id, volume.region, None)
        error = raises(APIError, lambda: Volume.move(volume.id, "moon"))
        assert 400 <= error.status_code < 500
        with Sandbox.create(template="debian-12", volume=volume.name) as sbx:
            assert sbx.files.read("/persist/moved") == "along"


def it_comes_through_a_pause() -> None:
    """Pause and resume with a volume; a snapshot of such a sandbox is refused with a clear text."""
    with _volume() as volume, Sandbox.create(template="debian-12", volume=volume.name) as sbx:
        sbx.files.write("/persist/before", "before")
        error = raises(APIError, sbx.snapshot)
        assert "volume" in str(error.detail)
        sbx.pause()
        again = Sandbox.resume(sbx.id)
        assert again.volume == volume.name
        assert again.files.read("/persist/before") == "before"
        again.terminate()


def delete_is_idempotent() -> None:
    """And what is deleted is not found."""
    volume = Volume.create(f"conformance {uuid4()}")
    for _ in range(2):
        Volume.delete(volume.id)
    error = raises(SandboxNotFound, lambda: Volume.update(volume.id, max_lifetime_days=1))
    assert error.status_code == 404
