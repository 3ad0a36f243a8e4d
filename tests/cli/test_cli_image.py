"""`breezeblock image …` as a person or a script runs it."""

import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

MIB = 1 << 20
COMMAND = [sys.executable, "-c", "from breezeblock.cli import main; main()", "image"]


def run(*arguments: object, data: bytes = b"", code: int = 0) -> bytes:
    """Run one command; standard output, if it ends with `code`."""
    done = subprocess.run(
        [*COMMAND, *(str(one) for one in arguments)], input=data, capture_output=True, check=False
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("image_format", ["vhdx"])
def test_a_chain_from_the_first_command_to_the_last(tmp_path: Path, image_format: str) -> None:
    base, child, top = (tmp_path / f"{name}.{image_format}" for name in ("base", "child", "top"))
    data = os.urandom(3000)
    run("create", "--format", image_format, "--size", "10GiB", base)
    run("create", "--parent", base, child)
    run("write", child, "--offset", 777, data=data)
    run("create", "--parent", child, top)
    assert run("read", top, "--offset", 777, "--length", len(data)) == data
    layers = json.loads(run("info", top, "--json"))
    assert [one["name"] for one in layers] == [top.name, child.name, base.name]
    assert {one["virtual_bytes"] for one in layers} == {10 << 30}
    drawn = run("info", top).decode().splitlines()
    assert [line.lstrip(" └─").split()[0] for line in drawn] == [top.name, child.name, base.name]
    assert run("check", top, "--json") == b"[]\n"
    assert json.loads(run("repair", top, "--json")) == []
    mapped = json.loads(run("map", top, "--json"))
    assert sum(one["length"] for one in mapped) == 10 << 30
    assert {one["depth"] for one in mapped if not one["zero"]} == {1}
    assert b"zeros" in run("map", top)
    run("merge", child)
    run("reparent", top, "--parent", base)
    child.unlink()
    run("resize", top, "--size", "11GiB")
    run("merge", top, "--replace", "--into", base.name)
    run("merge", top, "--replace", "--into", base.name)
    assert not base.exists()
    run("create", "--parent", top, base)
    run("flatten", base)
    run("convert", base, tmp_path / "out.raw", "--format", "raw")
    with (tmp_path / "out.raw").open("rb") as file:
        file.seek(777)
        assert file.read(len(data)) == data
    assert json.loads(run("compare", base, tmp_path / "out.raw", "--json"))["equal"] is True
    run("write", base, data=b"!")
    answer = json.loads(run("compare", base, tmp_path / "out.raw", "--json", code=6))
    assert answer == {"equal": False, "first_difference": 0}


def test_exit_codes_say_what_is_wrong(tmp_path: Path) -> None:
    one = tmp_path / "one.vhd"
    run("create", "--format", "vhd", "--size", "1MiB", one)
    run("create", "--format", "vhd", "--size", "1MiB", one, code=4)
    run("create", "--format", "vhd", "--size", "2041GiB", tmp_path / "x", code=4)
    run("create", "--format", "vmdk", "--size", "1GiB", tmp_path / "x", code=4)
    run("create", tmp_path / "x", code=2)
    run("info", tmp_path / "nothing", code=3)
    child = tmp_path / "child.vhd"
    run("create", "--parent", one, child)
    one.rename(tmp_path / "away.vhd")
    assert run("info", child, code=1).startswith(b"child.vhd  (vhd, 1 MiB")
    (tmp_path / "away.vhd").rename(one)
    run("resize", one, "--size", "1B", code=4)
    run("merge", one, code=4)
    one.write_bytes(one.read_bytes()[:-512])
    assert b"footer" in run("check", one, code=6)
    assert b"footer" in run("repair", one)
    run("check", one)
    one.write_bytes(b"conectix" + bytes(504))
    run("info", one, "--format", "vhd", code=1)


def test_output_into_a_pipe_that_closes_is_no_failure(tmp_path: Path) -> None:
    one = tmp_path / "one.raw"
    one.write_bytes(os.urandom(4 * MIB))
    argv = [sys.executable, "-c", "from breezeblock.cli import main; main()", "image", "read", str(one)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_and_nowhere_else(tmp_path: Path, *, terminal: bool) -> None:
    source, target = tmp_path / "source.raw", tmp_path / "target.vhdx"
    source.write_bytes(os.urandom(9 * MIB))
    arguments = ["convert", source, target, "--format", "vhdx"]
    ours, theirs = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    ) as command:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # as a terminal says that its other end is closed
            while piece := os.read(ours, 1 << 16):
                said += piece
        os.close(ours)
    assert command.returncode == 0, said
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    shown = [int(number) for number in re.findall(r"(\d+)%", text)]
    assert ("Converting" in text and shown and shown == sorted(shown)) if terminal else text == ""
