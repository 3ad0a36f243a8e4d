"""Real kernel NFS and SMB: every tests/uml/guest/guest_*.py, run inside a kernel that can mount them.

To add one, put a file of ordinary tests there; its name must begin with `guest_`, or with `guest_smb_` to
run beside a Samba server.
"""

from pathlib import Path

import kernel
import pytest

FILES = sorted(path.name for path in kernel.GUEST_TESTS.glob("guest_*.py"))

LIMIT_S = 560.0
"""An idle machine with two cores needs about two minutes for each kind of server."""


def kind(guest_file: str) -> str:
    return "smb" if guest_file.startswith("guest_smb_") else "nfs"


@pytest.fixture(scope="module")
def reports() -> dict[str, kernel.Report]:
    """What ran inside, per kind of server: one boot for each."""
    return {}


@pytest.fixture
def guest_report(
    guest_file: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    reports: dict[str, kernel.Report],
) -> kernel.Report:
    of_kind = kind(guest_file)
    if of_kind in reports:
        return reports[of_kind]
    wanted = {
        str(item.callspec.params["guest_file"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "guest_file" in getattr(item, "fixturenames", ())
    }
    files = sorted(kernel.GUEST_TESTS / name for name in wanted if kind(name) == of_kind)
    capture = request.config.pluginmanager.getplugin("capturemanager")
    reporter = request.config.pluginmanager.getplugin("terminalreporter")
    assert capture is not None

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            if reporter is None:
                print(line, flush=True)
            else:
                reporter.ensure_newline()
                reporter.write_line(f"    | {line}")

    scratch: Path = tmp_path_factory.mktemp("kernel")
    try:
        reports[of_kind] = kernel.run(files, scratch, say, LIMIT_S, of_kind)
    except kernel.NoKernelError as error:
        pytest.fail(str(error), pytrace=False)
    return reports[of_kind]


@pytest.mark.uml
@pytest.mark.timeout(600)
@pytest.mark.parametrize("guest_file", FILES)
def test_inside(guest_file: str, guest_report: kernel.Report) -> None:
    mine = [outcome for outcome in guest_report.outcomes if outcome.file == guest_file.removesuffix(".py")]
    assert mine, f"nothing in {guest_file} ran; the output was:\n{guest_report.output[-4000:]}"
    bad = [f"{outcome.name}: {outcome.detail}" for outcome in mine if not outcome.passed]
    assert not bad, "\n".join(bad)
