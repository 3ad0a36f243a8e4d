"""The commands that README shows work as they stand there."""

import re
import shlex
from pathlib import Path

import pytest
from deployed import Deployed

pytestmark = pytest.mark.clients

README = Path(__file__).parent.parent.parent / "README.md"


def test_the_commands_of_the_readme_work(service: Deployed) -> None:
    block = re.search(
        r"<!-- run by tests/clients/test_readme.py -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL
    )
    assert block
    lines = [line for line in block[1].splitlines() if line]
    assert len(lines) > 5
    for line in lines:
        service.call(*shlex.split(line))


def test_what_quickstart_prints_works_as_printed(service: Deployed) -> None:
    printed = (service.data.parent / f"{service.data.name}.log").read_text()
    commands = [line.strip() for line in printed.splitlines() if line.startswith("  OS_CLIENT_CONFIG_FILE=")]
    assert len(commands) == 3
    for command in commands:
        assignment, program, *arguments = shlex.split(command)
        assert assignment == f"OS_CLIENT_CONFIG_FILE={service.data}/clouds.yaml"
        service.call(Path(program).name, *arguments)
    service.call("breezeblock", "volume", "delete", "--cascade", "a")
