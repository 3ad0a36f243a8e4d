"""What the pages say about the code is what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from breezeblock.cli.root import app

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_generated_parts_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "tools" / "reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, f"run tools/reference.py: {run.stdout}{run.stderr}"


def _commands(command: object, path: str) -> list[tuple[str, object]]:
    children = getattr(command, "commands", None)
    if children is None:
        return [(path, command)]
    return [found for name, child in children.items() for found in _commands(child, f"{path} {name}")]


COMMANDS = _commands(typer.main.get_command(app), "breezeblock")


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_and_option_says_what_it_is_for(path: str, command: object) -> None:
    assert getattr(command, "help", None), path
    for parameter in getattr(command, "params"):  # noqa: B009 - typer does not export the class
        assert parameter.help, f"{path}: {parameter.name}"
    assert f"### `{path}" in (ROOT / "docs" / "command.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_commands_in_pages_exist(page: Path) -> None:
    known = {path.removeprefix("breezeblock ") for path, _ in COMMANDS}
    groups = {path.split()[0] for path in known}
    for words in re.findall(r"(?m)^(?:.*/)?breezeblock ((?:[a-z]+(?:-[a-z]+)* ?)+)", page.read_text()):
        first, *rest = words.split()
        if first in groups:
            assert first in known or " ".join([first, *rest][:2]) in known, words
