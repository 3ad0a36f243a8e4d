"""Random lives of a volume against a plain bytearray."""

import shutil
import tempfile
from pathlib import Path

import pytest
from chainlab import KIB, MIB, Volume, attempt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from breezeblock import chains

SECTORS = st.integers(0, 4 * MIB // 512 - 1)
EXTRA = st.sampled_from([0, 512, MIB])
LENGTHS = st.sampled_from([512, 4 * KIB, 63 * KIB + 512, 64 * KIB, 200 * KIB, MIB])


class Life(RuleBasedStateMachine):
    image_format = "raw"

    @initialize(sectors=st.integers(1, 3 * MIB // 512))
    def begin(self, sectors: int) -> None:
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
        self.volume = Volume(self.directory, self.image_format, sectors * 512).create()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.volume.verify()
            shutil.rmtree(self.directory)

    @rule(sector=SECTORS, length=LENGTHS, byte=st.integers(1, 255))
    def write(self, sector: int, length: int, byte: int) -> None:
        self.volume.write(sector * 512, length, byte)

    @rule(sector=SECTORS, length=LENGTHS, unmap=st.booleans())
    def write_zeros(self, sector: int, length: int, unmap: bool) -> None:
        self.volume.write_zeros(sector * 512, length, unmap=unmap)

    @precondition(lambda self: len(self.volume.snapshots) < 5)
    @rule()
    def snapshot(self) -> None:
        self.volume.snapshot()

    @precondition(lambda self: self.volume.snapshots)
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        self.volume.delete_snapshot(data.draw(st.sampled_from(list(self.volume.snapshots))))
        self.volume.verify()

    @precondition(lambda self: self.volume.snapshots)
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        self.volume.revert(data.draw(st.sampled_from(list(self.volume.snapshots))))
        self.volume.verify()

    @precondition(lambda self: len(self.volume.model) < 4 * MIB)
    @rule(sectors=st.sampled_from([1, 127, 128, 1000]))
    def extend(self, sectors: int) -> None:
        self.volume.extend(len(self.volume.model) + sectors * 512)

    @rule(data=st.data(), result_format=st.sampled_from(chains.FORMATS), more=st.sampled_from([0, 512, MIB]))
    def copy(self, data: st.DataObject, result_format: str, more: int) -> None:
        chosen = data.draw(st.sampled_from([None, *self.volume.snapshots]))
        expected = self.volume.snapshots[chosen] if chosen else bytes(self.volume.model)
        result = Volume(self.directory, result_format, len(expected) + more)
        chains.copy(
            self.directory,
            result.naming,
            self.volume.id,
            chosen,
            self.directory,
            result.id,
            len(expected) + more,
            attempt(),
            source_format=self.image_format,
            source_bytes=len(expected),
            source_naming=self.volume.naming,
            format=result_format,
        )
        result.model[: len(expected)] = expected
        result.verify()
        chains.delete(self.directory, result.naming, result.id, attempt())


class Qcow2Life(Life):
    image_format = "qcow2"


class VhdLife(Life):
    image_format = "vhd"


class VhdxLife(Life):
    image_format = "vhdx"


@pytest.mark.parametrize("machine", [Life, Qcow2Life, VhdLife, VhdxLife])
def test_a_volume_lives_like_a_bytearray(machine: type[Life]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=14,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
