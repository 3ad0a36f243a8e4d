"""The transcript in docs/backends/smb.md, replayed as it stands there against a real Samba."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import sevenzip

pytestmark = pytest.mark.clients

PAGE = Path(__file__).parent.parent.parent / "docs" / "backends" / "smb.md"
NEEDED = {"smbd": "samba", "smbclient": "smbclient", sevenzip.PROGRAM: "7zip"}
END = "--- end of command"


def commands() -> list[tuple[str, list[str]]]:
    """Return each command with the lines that it must print."""
    text = PAGE.read_text()
    part = text[text.index("<!-- transcript -->") : text.index("<!-- end of transcript -->")]
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", part, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line.startswith("> "):
                command, said = found[-1]
                found[-1] = (f"{command}\n{line[2:]}", said)
            else:
                found[-1][1].append(line)
    return found


@contextmanager
def shell(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run one shell that all commands are given to, and end what it started."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OS_", "BREEZEBLOCK"))}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}:/usr/sbin:/sbin"
    process = subprocess.Popen(
        ["bash"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory,
        env=environ,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        pid_file = directory / "private" / "smbd.pid"
        if pid_file.exists():
            with suppress(ProcessLookupError):
                os.killpg(int(pid_file.read_text()), signal.SIGTERM)
        process.wait(30)


def given(process: "subprocess.Popen[str]", command: str) -> tuple[list[str], int]:
    """Give one command and return what it printed, and its status."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f'{command}\necho "{END} $?"\n')
    process.stdin.flush()
    lines: list[str] = []
    for line in process.stdout:
        if line.startswith(END):
            return lines, int(line.rpartition(" ")[2])
        lines.append(line.rstrip("\n"))
    raise AssertionError(f"the shell ended in {command!r}: {lines}")


def test_the_transcript(tmp_path: Path) -> None:
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    assert not missing, f"apt-get install {' '.join(missing)}"
    steps = commands()
    assert len(steps) > 30
    with shell(tmp_path) as process:
        for command, expected in steps:
            said, status = given(process, command)
            log = tmp_path / "smbd.log"
            assert status == 0, (command, said, log.read_text()[-2000:] if log.exists() else "")
            left = iter(said)
            for line in expected:
                pattern = ".*".join(re.escape(part) for part in line.split("..."))
                assert any(re.fullmatch(pattern, one) for one in left), (command, line, said)
            if command == "ls share":
                assert said == []
        # The password is where it must be and nowhere else: not in what the service or the command wrote.
        for path in [*(tmp_path / "state").rglob("*"), tmp_path / "serve.log", tmp_path / "made.txt"]:
            if path.is_file() and not path.is_symlink():
                assert b"Of-The-Filer" not in path.read_bytes()
