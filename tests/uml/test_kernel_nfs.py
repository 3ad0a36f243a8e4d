"""Real kernel NFS: every tests/uml/guest/guest_*.py, run inside a kernel that can mount it.

To add one, put a file of ordinary tests there; its name must begin with `guest_`.
"""

import kernel
import pytest

FILES = sorted(path.name for path in kernel.GUEST_TESTS.glob("guest_*.py"))


@pytest.mark.uml
@pytest.mark.timeout(300)
@pytest.mark.parametrize("guest_file", FILES)
def test_inside(guest_file: str, guest_report: kernel.Report) -> None:
    mine = [outcome for outcome in guest_report.outcomes if outcome.file == guest_file.removesuffix(".py")]
    assert mine, f"nothing in {guest_file} ran; the output was:\n{guest_report.output[-4000:]}"
    bad = [f"{outcome.name}: {outcome.detail}" for outcome in mine if not outcome.passed]
    assert not bad, "\n".join(bad)
