"""What docs/images.md shows is run as it stands there."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from breezeblock import images

PAGE = (Path(__file__).parents[2] / "docs" / "images.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.py").write_text(block("python"))
    runpy.run_path("script.py")
    told = capfd.readouterr().out.splitlines()
    assert told[0] == "b'hello'"
    assert [line.split()[0] for line in told[1:]] == ["child.vhdx", "base.vhdx"]


def test_every_verb_is_told_of() -> None:
    verbs = {name for name in images.__all__ if name.islower()}
    assert set(re.findall(r"`([a-z_]+)\(", PAGE)) == verbs


def test_the_commands(tmp_path: Path) -> None:
    """Each as it is written, one after the other: any exit code but 0 ends it."""
    data = os.urandom(100)
    (tmp_path / "data").write_bytes(data)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run = subprocess.run(
        ["sh", "-e", "-c", block("sh")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "back").read_bytes() == data
    assert "└─ base.vhdx" in run.stdout, "info draws the chain"
    assert "They are equal." in run.stderr
