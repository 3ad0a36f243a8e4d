"""Real kernel NFS and SMB: every tests/uml/guest/guest_*.py, run inside a kernel that can mount them.

To add one, put a file of ordinary tests there; its name must begin with `guest_`, or with `guest_smb_` to
run beside a Samba server. Each file gets a kernel of its own, which costs three seconds and lets several
run side by side.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import kernel
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "takeover"))
import cinder_share

FILES = sorted(path.name for path in kernel.GUEST_TESTS.glob("guest_*.py"))

LIMIT_S = 560.0
"""An idle machine needs less than a minute for the longest."""


@pytest.mark.uml
@pytest.mark.timeout(600)
@pytest.mark.parametrize("guest_file", FILES)
def test_inside(guest_file: str, record_property: Callable[[str, object], None]) -> None:
    kind = "smb" if guest_file.startswith("guest_smb_") else "nfs"
    try:
        with kernel.scratch() as scratch:
            if guest_file == "guest_takeover.py":
                cinder_share.write_small(scratch / "cinder")
            report = kernel.run([kernel.GUEST_TESTS / guest_file], scratch, _say, LIMIT_S, kind)
    except kernel.NoKernelError as error:
        pytest.fail(str(error), pytrace=False)
    assert report.outcomes, f"nothing in {guest_file} ran; the output was:\n{report.output[-4000:]}"
    bad = [f"{outcome.name}: {outcome.detail}" for outcome in report.outcomes if not outcome.passed]
    assert not bad, "\n".join(bad)
    record_property("summary", f"{guest_file}: {len(report.outcomes)} passed on {report.kernel}")


def _say(line: str) -> None:
    """Let people follow who run this file by hand with `-s`."""
    print(f"    | {line}", file=sys.stderr, flush=True)
