"""Where numbers of the layout *log* end: the largest volume, the longest life, and what claims more."""

import asyncio
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_lab import PAGE, soon

from breezeblock.errors import CorruptError
from breezeblock.objects.log import format as form
from breezeblock.objects.log import volumes
from breezeblock.objects.stores.memory import MemoryStore

ONE = "1" * 32
ROOT = form.Root(
    volume=ONE, epoch=1, number=1, length=1 << 50, sources=[ONE], own=0, leaves={}, tails=[], next=17
)
SEGMENT = form.Segment(
    volume=ONE,
    number=9,
    epoch=1,
    length=1 << 20,
    last=3,
    resume=10,
    pages=4,
    extents=[],
    sums=bytes(16),
    chunks=(100,),
)


def test_the_root_of_the_largest_volume_with_all_ancestors_can_be_read() -> None:
    last = (1 << 50) // form.LEAF_BYTES
    root = msgspec.structs.replace(
        ROOT,
        sources=[f"{number:032x}" for number in range(form.MAX_SOURCES - 1)] + [ONE],
        own=form.MAX_SOURCES - 1,
        leaves={number: (form.MAX_SOURCES - 1, (1 << 63) + number) for number in range(last)},
    )
    body = form.pack_root(root)
    assert len(body) < form.MAX_ROOT_BYTES
    assert len(form.unpack_root(body, "root").leaves) == last


@pytest.mark.parametrize(
    "change",
    [{"own": 1}, {"own": -1}, {"leaves": {0: (1, 5)}}, {"leaves": {0: (-1, 5)}}, {"tails": [(7, 0, 1)]}],
)
def test_a_root_that_names_sources_that_it_does_not_have_is_damaged(change: dict[str, object]) -> None:
    body = form.pack_root(msgspec.structs.replace(ROOT, **change))
    with pytest.raises(CorruptError):
        form.unpack_root(body, "root")


@settings(max_examples=20, deadline=None)
@given(length=st.integers(4 * PAGE + 1, (1 << 64) - 1))
def test_a_chunk_that_claims_to_be_longer_than_it_can_be_takes_no_memory(length: int) -> None:
    frame = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", length) + b"\x01\x00\x00"
    with pytest.raises(CorruptError):
        form.open_chunk(SEGMENT, 0, frame)


def test_a_writer_that_has_stored_millions_of_leaves_writes_over_none_of_them() -> None:
    async def run() -> None:
        store = MemoryStore()
        await volumes.create(store, ONE, 1 << 20)
        device = await volumes.attach(store, ONE, memory=volumes.Memory(age_s=3600))
        writer, refs = device.writer, set[int]()
        # An odd epoch, as every second writer has.
        writer.epoch |= 1
        for before in (0, (1 << 24) - 2, (1 << 25) - 2):
            writer._leaves = before
            new = [writer._new_ref() for _ in range(4)]
            assert not refs.intersection(new)
            assert new == sorted(new)
            refs.update(new)
        await soon(device.close())

    asyncio.run(run())
