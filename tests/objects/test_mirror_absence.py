"""Endpoints that have nothing any more, and those that were taken away."""

import asyncio

import pytest
from mirrors_lab import Lab, run

from breezeblock.errors import BreezeblockError, CorruptError, NotFoundError
from breezeblock.objects.stores.port import judged


def absent(verb: str) -> BreezeblockError | None:
    return NotFoundError("no such file") if verb == "get" else None


@pytest.mark.parametrize("seed", range(4))
def test_damage_on_one_side_and_an_unmounted_other_is_damage_and_no_absence(seed: int) -> None:
    def judge(data: bytes) -> bytes:
        if data != b"value":
            raise CorruptError("k is damaged")
        return data

    async def main() -> None:
        lab = Lab(2, seed=seed)
        await lab.mirrors.open()
        await lab.mirrors.settled()
        await lab.mirrors.put("k", b"value")
        await asyncio.sleep(5)
        lab.ends["e0"].taint = lambda data: data[::-1]
        lab.ends["e1"].shows, lab.ends["e1"].before = False, absent
        with pytest.raises(CorruptError):
            await judged(lab.mirrors, "k", judge)
        lab.ends["e1"].shows = True
        while lab.states()[1] != "up":  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(1)
        with pytest.raises(NotFoundError):  # now it shows the pool, and says that the object is gone
            await judged(lab.mirrors, "k", judge)
        await lab.mirrors.close()

    run(main())


def test_an_endpoint_that_was_taken_away_is_not_looked_after_any_more() -> None:
    async def main() -> None:
        lab = Lab(2)
        await lab.mirrors.open()
        await lab.mirrors.settled()
        await asyncio.sleep(5)
        lab.ends["e1"].shows, lab.ends["e1"].before = False, absent
        asking = [asyncio.ensure_future(lab.mirrors.get(f"k{number}")) for number in range(8)]
        await asyncio.sleep(0.001)
        assert lab.counts("get")[1], "some of them are on their way"
        lab.mirrors.remove("e1")
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, NotFoundError) for one in found)
        await asyncio.sleep(1000)
        asked = len(lab.ends["e1"].asked)
        await asyncio.sleep(1000)
        assert len(lab.ends["e1"].asked) == asked
        assert lab.made.count("e1") == 1
        await lab.mirrors.close()

    run(main())
