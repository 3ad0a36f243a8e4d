"""Real kernel NBD devices: tests/uml/nbd_guest, run inside user-mode Linux."""

import os
import sys
from collections.abc import Callable

import kernel
import pytest

FILES = sorted((kernel.HERE / "nbd_guest").glob("guest_*.py"))
LIMIT_S = 600.0 if "BREEZEBLOCK_CHAOS_THIN" not in os.environ else 7200.0
"""An idle machine needs a minute and a half; for all of guest_thin.py, half an hour."""


@pytest.mark.uml
@pytest.mark.timeout(LIMIT_S + 50)
def test_kernel_nbd(record_property: Callable[[str, object], None]) -> None:
    def say(line: str) -> None:
        print(f"    | {line}", file=sys.stderr, flush=True)

    try:
        with kernel.scratch() as scratch:
            report = kernel.run(FILES, scratch, say, LIMIT_S, "nbd")
    except kernel.NoKernelError as error:
        pytest.fail(str(error), pytrace=False)
    assert report.outcomes, report.output[-4000:]
    bad = [f"{outcome.name}: {outcome.detail}" for outcome in report.outcomes if not outcome.passed]
    assert not bad, "\n".join(bad)
    stalls = [line for line in report.output.splitlines() if "longest stall" in line]
    record_property("summary", f"kernel NBD: {len(report.outcomes)} passed; {'; '.join(stalls)}")
