"""Cut the power at any moment: what comes back is a prefix of the writes, with all that was flushed."""

import asyncio
import hashlib
import os
import random
from pathlib import Path

import pytest
from log_lab import LENGTH, VOLUME, Cut, Disk, SlowStore, Workload, content, cut, let_go, reopened

from breezeblock.objects.log import volumes

RUNS, CUTS = (17 if os.environ.get("BREEZEBLOCK_CRASH_SCALE") else 10), 20


async def crashes(seed: int, journal: Path | None, disk: Disk) -> tuple[Workload, list[Cut]]:
    """Work for a while, and return what crashes at random moments would have left."""
    dice = random.Random(seed)
    store, work, found = SlowStore(dice), Workload(dice), list[Cut]()
    await volumes.create(store, VOLUME, LENGTH)
    device = await volumes.attach(store, VOLUME, journal, volumes.Memory(age_s=3600))
    for number in range(120):
        task = asyncio.ensure_future(work.step(device))
        while not task.done():
            if dice.random() < 0.02:
                found.append(cut(store, work, disk.left(journal, dice), dice))
            await asyncio.sleep(0)
        await task
        if number % 40 == 39 and dice.random() < 0.5:
            await device.writer.checkpoint()
        if dice.random() < 0.3:
            found.append(cut(store, work, disk.left(journal, dice), dice))
    await let_go(device)
    return work, dice.sample(found, min(CUTS, len(found)))


async def prefix(work: Workload, left: Cut, journal: Path | None) -> int:
    """Return which prefix of the writes came back; fail if none did, or one that is too short."""
    device, seen = await reopened(left, journal)
    digest = hashlib.sha256(seen).digest()
    found = [n for n, state in enumerate(work.states[: left.most + 1]) if state == digest]
    assert found, "what came back is no prefix of what was written"
    assert max(found) >= left.least, "something flushed was lost"
    await device.close()
    again, seen_again = await reopened(Cut(device.store.objects, {}, 0, 0), None)  # type: ignore[attr-defined]
    assert seen_again == seen
    await again.close()
    return max(found)


@pytest.mark.parametrize("with_journal", [True, False])
@pytest.mark.parametrize("seed", range(RUNS))
def test_a_crash_leaves_a_prefix_with_everything_flushed(
    seed: int, with_journal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def run() -> list[int]:
        work, cuts = await crashes(seed, tmp_path / "journal" if with_journal else None, disk)
        return [
            await prefix(work, left, tmp_path / f"after-{number}" if with_journal else None)
            for number, left in enumerate(cuts)
        ]

    assert len(asyncio.run(run())) == CUTS


@pytest.mark.parametrize("seed", range(RUNS))
def test_without_its_journal_a_volume_rolls_back_to_a_prefix(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def run() -> None:
        work, cuts = await crashes(seed + 1000, tmp_path / "journal", disk)
        assert len(cuts) == CUTS
        for left in cuts:
            await prefix(work, Cut(left.objects, {}, 0, left.most), None)

    asyncio.run(run())


def test_what_comes_back_can_be_written_and_crash_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)

    async def run() -> None:
        dice = random.Random(5)
        work, cuts = await crashes(5, tmp_path / "journal", disk)
        left = cuts[-1]
        for round_ in range(5):
            device, seen = await reopened(left, tmp_path / f"round-{round_}")
            work = Workload(dice, bytearray(seen))
            for _ in range(30):
                await work.step(device)
            await device.flush()  # type: ignore[misc]
            assert await content(device) == work.model
            files = {path.name: path.read_bytes() for path in (tmp_path / f"round-{round_}").glob("*.log")}
            left = Cut(dict(device.store.objects), files, 0, 0)  # type: ignore[attr-defined]
            await let_go(device)
            device, seen = await reopened(left, tmp_path / f"round-{round_}-again")
            assert seen == work.model
            await device.close()
            left = Cut(dict(device.store.objects), {}, 0, 0)  # type: ignore[attr-defined]

    asyncio.run(run())
