"""One boot for all in-guest test files that were asked for; their output is shown as it comes."""

from pathlib import Path

import kernel
import pytest

LIMIT_S = 280.0


@pytest.fixture(scope="session")
def guest_report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> kernel.Report:
    wanted = {
        str(item.callspec.params["guest_file"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and "guest_file" in getattr(item, "fixturenames", ())
    }
    files = sorted(kernel.GUEST_TESTS / name for name in wanted)
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
        return kernel.run(files, scratch, say, LIMIT_S)
    except kernel.NoKernelError as error:
        pytest.fail(str(error), pytrace=False)
