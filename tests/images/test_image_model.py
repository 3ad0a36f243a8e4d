"""Random verbs on random chains, against plain byte arrays."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import oracles
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from breezeblock import images
from sevenzip import seven_zip

KIB, MIB = 1 << 10, 1 << 20
LIMIT_BYTES = 12 * MIB
FUZZ = int(os.environ.get("FUZZ_EXAMPLES", "0"))


class Chain(RuleBasedStateMachine):
    """`paths` and what each must read as, the lowest first."""

    format: ClassVar[str]
    unit: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="images-model-"))
        self.made = 0
        self.paths: list[Path] = []
        self.contents: list[bytearray] = []

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def _new(self) -> Path:
        self.made += 1
        return self.directory / f"{self.made}.{self.format}"

    @initialize(units=st.integers(1, 4 * MIB // 1024))
    def make(self, units: int) -> None:
        self.paths, self.contents = [self._new()], [bytearray(units * 1024)]
        images.create(self.paths[0], self.format, units * 1024)

    @rule(
        at=st.floats(0, 1), length=st.integers(1, 300 * KIB), byte=st.integers(0, 255), aligned=st.booleans()
    )
    def write(self, at: float, length: int, byte: int, aligned: bool) -> None:
        model = self.contents[-1]
        offset = int(at * (len(model) - 1))
        if aligned:
            offset = offset // 4096 * 4096
        data = (bytes([byte]) * length)[: len(model) - offset]
        pieces = [data[: len(data) // 3], data[len(data) // 3 :]]
        assert images.write(self.paths[-1], offset, pieces) == len(data)
        model[offset : offset + len(data)] = data

    @rule()
    @precondition(lambda self: len(self.paths) < 6)
    def snapshot(self) -> None:
        path = self._new()
        images.create_child(path, self.paths[-1])
        self.paths.append(path)
        self.contents.append(bytearray(self.contents[-1]))

    @rule(which=st.integers(1, 5), replace=st.booleans())
    @precondition(lambda self: len(self.paths) > 1)
    def merge(self, which: int, replace: bool) -> None:
        which = min(which, len(self.paths) - 1)
        child, parent = self.paths[which], self.paths[which - 1]
        if replace:
            assert images.merge(child, replace_child=True) == child
            assert not parent.exists()
            del self.paths[which - 1], self.contents[which - 1]
            return
        assert images.merge(child) == parent
        if which + 1 < len(self.paths):
            images.reparent(self.paths[which + 1], parent)
        child.unlink()
        del self.paths[which], self.contents[which - 1]

    @rule(more=st.integers(1, 3000))
    @precondition(lambda self: len(self.contents[-1]) < LIMIT_BYTES)
    def grow(self, more: int) -> None:
        size = len(self.contents[-1]) + more * 1024
        images.grow(self.paths[-1], size)
        layers = self.contents[-1:] if self.format == "qcow2" else self.contents
        for content in layers:
            content.extend(bytes(size - len(content)))

    @rule()
    def flatten(self) -> None:
        images.flatten(self.paths[-1])
        del self.paths[:-1], self.contents[:-1]

    @invariant()
    def every_layer_reads_as_its_model(self) -> None:
        for path, content in zip(self.paths, self.contents, strict=True):
            assert b"".join(images.read(path, 0, len(content))) == content
            assert images.info(path).virtual_bytes == len(content)

    @invariant()
    def others_read_it_too(self) -> None:
        if self.made and self.made % 3 == 0:
            self.judge()

    def judge(self) -> None:
        if self.format == "qcow2":
            assert oracles.qemu(self.paths[-1], "qcow2") == self.contents[-1]
        else:
            assert seven_zip(self.paths[-1]) == self.contents[-1]
            assert images.check(self.paths[-1]) == []


@pytest.mark.parametrize("image_format", ["vhd", "vhdx", "qcow2"])
def test_random_verbs(image_format: str) -> None:
    machine = type("Machine", (Chain,), {"format": image_format})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=FUZZ // 20 or 25,
            stateful_step_count=16,
            deadline=None,
            derandomize=not FUZZ,
            suppress_health_check=list(HealthCheck),
        ),
    )
