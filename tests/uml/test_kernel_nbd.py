"""Real kernel NBD devices: tests/uml/nbd_guest, run inside user-mode Linux."""

from pathlib import Path

import kernel
import pytest

LIMIT_S = 400.0


@pytest.mark.uml
@pytest.mark.timeout(450)
def test_kernel_nbd(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"    | {line}", flush=True)

    files = sorted((kernel.HERE / "nbd_guest").glob("guest_*.py"))
    try:
        report = kernel.run(files, tmp_path, say, LIMIT_S, kernel.HERE / "guest_nbd_init.py")
    except kernel.NoKernelError as error:
        pytest.fail(str(error), pytrace=False)
    assert report.outcomes, report.output[-4000:]
    bad = [f"{outcome.name}: {outcome.detail}" for outcome in report.outcomes if not outcome.passed]
    assert not bad, "\n".join(bad)
