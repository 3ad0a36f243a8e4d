"""Snapshots of volumes in use, where the back end can take them."""

from pathlib import Path

import msgspec
import pytest
from running import ME, Running, running

from breezeblock.backends.contract import Backend, Capabilities
from breezeblock.backends.proxy import Proxy
from breezeblock.errors import ConflictError
from breezeblock.service import attachments, snapshots, volumes


class Online(Proxy):
    def capabilities(self) -> Capabilities:
        return msgspec.structs.replace(self._backend.capabilities(), online_snapshots=True)


def attached(run: Running) -> tuple[str, str]:
    volume = run.volume()
    new = attachments.NewAttachment(volume_id=volume, connector={"host": "a"})
    attachment = attachments.create(run.service, ME, new)
    attachments.complete(run.service, ME, attachment)
    return volume, attachment


def take(run: Running, volume: str, *, force: bool) -> str:
    return snapshots.create(run.service, ME, snapshots.NewSnapshot(volume_id=volume, force=force))


def test_an_attached_volume_is_snapshotted_and_stays_attached(tmp_path: Path) -> None:
    def decorate(backend: Backend) -> Backend:
        return Online(backend)

    with running(tmp_path, decorate=decorate) as run:
        volume, attachment = attached(run)
        with pytest.raises(ConflictError, match="must be available, but"):
            take(run, volume, force=False)
        snapshot = take(run, volume, force=True)
        assert run.until_snapshot(snapshot, "available", "error") == "available"
        assert volumes.get(run.service, ME, volume).status == "in-use"
        snapshots.delete(run.service, ME, snapshot)
        assert run.until_snapshot(snapshot, "gone", "error_deleting") == "gone"
        attachments.delete(run.service, ME, attachment)
        assert run.until_volume(volume, "available") == "available"


def test_other_back_ends_refuse_it(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        volume, _attachment = attached(run)
        with pytest.raises(ConflictError, match="must be available, but"):
            take(run, volume, force=True)
