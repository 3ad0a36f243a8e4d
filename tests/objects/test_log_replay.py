"""A real program's writes, trims and flushes, recorded and played again: cut the power behind every one."""

import asyncio
import os
import random
from pathlib import Path

import pytest
from log_lab import Cut, Disk, let_go, reopened
from nbd_lab import serving, tool
from replay_lab import Change, Recorder, Replay, play, prefix

LENGTH = 1 << 20
EACH = 1 if os.environ.get("BREEZEBLOCK_CRASH_SCALE") else 2
"""One cut in two is tried; with the variable, all."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    directory = tmp_path_factory.mktemp("recorded")
    device = Recorder(LENGTH)
    with serving({"": device}, directory) as served:
        work = (
            "fio",
            "--ioengine=nbd",
            f"--uri={served.uri()}",
            f"--size={LENGTH}",
            f"--aux-path={directory}",
        )
        tool(
            *(*work, "--name=journal", "--rw=write", "--bsrange=512-16k", "--bs_unaligned=0", "--fsync=4"),
            *("--io_size=512k", f"--output={directory / 'log'}", f"--aux-path={directory}"),
            *("--name=pages", "--rw=randwrite", "--bs=4k", "--iodepth=8", "--fsync=7", "--io_size=512k"),
        )
        tool("qemu-io", "-f", "raw", "-c", "write -z 8k 100k", "-c", "write -f -P 1 9k 70k", served.uri())
    return device.seen


@pytest.mark.parametrize("kept", ["journal", "store", "journal lost"])
def test_behind_every_write_and_flush_a_crash_leaves_a_prefix(
    recorded: list[Change], kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len([one for one in recorded if one.kind == "flush"]) > 20
    assert len(recorded) > 150
    disk, work, cuts = Disk(monkeypatch), Replay(random.Random(kept), LENGTH), list[Cut]()
    journal = tmp_path / "journal" if kept != "store" else None

    async def run() -> None:
        await play(
            recorded, work, journal, disk, lambda at: at % EACH == 0, lambda _, left: cuts.append(left)
        )
        for number, left in enumerate(cuts):
            device, seen = await reopened(left, tmp_path / f"after-{number}" if kept == "journal" else None)
            await let_go(device)
            prefix(work, left, seen, flushed=kept != "journal lost")

    asyncio.run(run())
    assert len(cuts) >= len(recorded) // EACH
    assert cuts[-1].least > 50
