"""Random lives of VHDX chains, through the public verbs, against plain bytes."""

import shutil
import tempfile
from pathlib import Path

import vhdx_judges as judges
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from vhdx_judges import MIB, pattern, splice

from breezeblock import images
from breezeblock.images import vhdx
from breezeblock.images.file import opened
from breezeblock.images.layer import Options
from sevenzip import seven_zip

UNIT = 8192
"""Sizes are multiples of it: 7-Zip refuses an odd number of sectors."""
BLOCKS = st.sampled_from([MIB, 2 * MIB])


class Chains(RuleBasedStateMachine):
    """`layers` are the files from the leaf down, each with what it must read as."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="vhdx-model-"))
        self.layers: list[tuple[Path, bytearray]] = []
        self.count = 0
        self.sector = 512

    def teardown(self) -> None:
        paths = [path for path, _ in self.layers]
        try:
            if paths:
                expected = bytes(self.layers[0][1])
                assert seven_zip(paths[0]) == expected
                if len(paths) == 1 and self.sector == 512:
                    assert judges.qemu(paths[0]) == expected
        finally:
            shutil.rmtree(self.directory)

    def name(self) -> Path:
        self.count += 1
        return self.directory / f"{self.count}.vhdx"

    @initialize(
        units=st.integers(1, 500), block=BLOCKS, fixed=st.booleans(), sector=st.sampled_from([512, 4096])
    )
    def create(self, units: int, block: int, sector: int, *, fixed: bool) -> None:
        path, self.sector = self.name(), sector
        images.create(
            path, "vhdx", units * UNIT, Options(fixed=fixed, block_bytes=block, sector_bytes=sector)
        )
        self.layers.append((path, bytearray(units * UNIT)))

    @rule(at=st.floats(0, 1), length=st.sampled_from([1, 511, 512, 1536, 4096, 70000, MIB, 2 * MIB + 512]))
    def write(self, at: float, length: int) -> None:
        path, content = self.layers[0]
        length = min(length, len(content))
        offset = int((len(content) - length) * at)
        self.count += 1
        images.write(path, offset, [pattern(self.count, length)])
        splice(content, offset, pattern(self.count, length))

    @rule(at=st.floats(0, 1), sectors=st.sampled_from([1, 3, 9, 256, 2048, 6000]))
    def zero(self, at: float, sectors: int) -> None:
        path, content = self.layers[0]
        length = min(sectors, len(content) // self.sector) * self.sector
        offset = int((len(content) - length) * at) // self.sector * self.sector
        with opened(path, write=True) as file:
            layer = vhdx.open_layer(file)
            layer.zero(offset, length)
            layer.commit()
        splice(content, offset, length)

    @precondition(lambda self: len(self.layers) < 6)
    @rule(block=BLOCKS)
    def snapshot(self, block: int) -> None:
        path = self.name()
        images.create_child(path, self.layers[0][0], options=Options(block_bytes=block))
        self.layers.insert(0, (path, bytearray(self.layers[0][1])))

    @precondition(lambda self: len(self.layers) > 1)
    @rule(where=st.floats(0, 0.999))
    def merge(self, where: float) -> None:
        """Into the parent, then re-link the child's child."""
        at = int(where * (len(self.layers) - 1))
        child, content = self.layers[at]
        parent = self.layers[at + 1][0]
        assert images.merge(child) == parent
        if at:
            images.reparent(self.layers[at - 1][0], parent)
        child.unlink()
        self.layers[at : at + 2] = [(parent, content)]

    @precondition(lambda self: len(self.layers) > 1)
    @rule(where=st.floats(0, 0.999))
    def merge_and_replace(self, where: float) -> None:
        at = int(where * (len(self.layers) - 1))
        child, content = self.layers[at]
        parent = self.layers[at + 1][0]
        assert images.merge(child, replace_child=True) == child
        assert not parent.exists()
        self.layers[at : at + 2] = [(child, content)]

    @rule(units=st.sampled_from([1, 100, 300]))
    def grow(self, units: int) -> None:
        path, content = self.layers[0]
        if len(content) > 8 * MIB:
            return
        size = len(content) + units * UNIT
        images.grow(path, size)
        # Every layer of the chain grows, by zeros.
        for _, each in self.layers:
            each.extend(bytes(max(0, size - len(each))))

    @precondition(lambda self: len(self.layers) > 1)
    @rule()
    def flatten(self) -> None:
        path, content = self.layers[0]
        images.flatten(path)
        self.layers = [(path, content)]

    @invariant()
    def all_read_right(self) -> None:
        for number, (path, content) in enumerate(self.layers):
            chain = [one for one, _ in self.layers[number:]]
            assert judges.ours(*chain) == bytes(content), path
            with opened(path) as file:
                problems = vhdx.open_layer(file).check()
                assert [one for one in problems if not one.repairable] == []


TestChains = Chains.TestCase
TestChains.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
