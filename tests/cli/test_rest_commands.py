"""`breezeblock rest`: the old control surface, over two endpoints of one store."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from breezeblock import config, vault
from breezeblock.app import attaching
from breezeblock.cli import run
from breezeblock.cli.exits import Exit
from cdmi_process import PASSWORD, USER, cdmi_server
from rest_place import configure, short_place


class Control:
    """What a script does: calls, and reads what is printed."""

    def __init__(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self._capsys = place, capsys

    def __call__(self, verb: str, *words: str, code: int = Exit.OK) -> str:
        ended = run(["rest", verb, *words, "--config", str(self.place / "breezeblock.toml")])
        said = self._capsys.readouterr()
        assert ended == code, (verb, words, ended, said)
        return said.out

    def json(self, verb: str) -> Any:
        return json.loads(self(verb, "--json"))


@pytest.fixture
def servers() -> Iterator[tuple[Path, str, str]]:
    with short_place() as place:
        (place / "objects").mkdir()
        with cdmi_server(place / "objects") as one, cdmi_server(place / "objects") as two:
            yield place, one, two


def test_the_old_control_surface(servers: tuple[Path, str, str], capsys: pytest.CaptureFixture[str]) -> None:
    place, one, two = servers
    configure(place, store="cdmi", urls=[f"{one}/here"], user=USER, secret="cdmi")
    vault.at(place / "state").set("cdmi", PASSWORD)
    control = Control(place, capsys)
    here = ("--no-device", "--state", str(place / "records"))

    control("create", "one", "1M")
    control("create", "two.img", "8192")
    assert control("volumes") == "one\ntwo.img\n"
    assert [(found["name"], found["length"]) for found in control.json("volumes")] == [
        ("one", 1 << 20),
        ("two.img", 8192),
    ]
    control("create", "one", "1M", code=Exit.REFUSED)
    control("create", "three", "1000", code=Exit.REFUSED)
    for name in ("../x", "a/b", ".", "", "ü", "a b", "x" * 201, "volume-x"):
        control("create", name, "1M", code=Exit.REFUSED)
    control("extend", "one", "1M", code=Exit.REFUSED)
    control("extend", "none", "2M", code=Exit.NOT_FOUND)
    control("attach", "none", *here, code=Exit.NOT_FOUND)

    uri = control("attach", "one", *here).strip()
    written = ["qemu-io", "-f", "raw", "-c", "write -P 9 0 64k", "-c", "flush", uri]
    subprocess.run(written, check=True, capture_output=True, timeout=60)
    control("destroy", "one", "--yes", code=Exit.REFUSED)
    control("extend", "one", "2M")
    assert {found["name"]: found["length"] for found in control.json("volumes")}["one"] == 2 << 20

    control("add-urls", f"{two}/elsewhere", code=Exit.REFUSED)
    control("add-urls", f"{two}/here")
    control("add-urls", f"{two}/here/")  # the same
    control("add-urls", "http://192.0.2.1/here", code=Exit.REFUSED)  # the password would be readable
    assert "192.0.2.1" not in (place / "state" / "pools" / "rest.gold.urls").read_text()
    found = control.json("status")
    assert {e["url"]: e["state"] for e in found["endpoints"]} == {
        f"{one}/here": "up",
        f"{two}/here": "up",
    }
    (attached,) = found["attached"]
    assert (attached["length"], attached["failed"]) == (2 << 20, "")
    assert {e["url"] for e in attached["mirrors"]["endpoints"]} == {f"{one}/here", f"{two}/here"}
    os.kill(attached["pid"], signal.SIGKILL)
    loaded = config.load(place / "breezeblock.toml", {})
    for _ in range(100):  # as `nbd keep` does: until its successor answers
        if not attaching.connector(loaded, place / "records").restore():
            break
        time.sleep(0.05)
    (attached,) = control.json("status")["attached"]
    assert {e["url"] for e in attached["mirrors"]["endpoints"]} == {f"{one}/here", f"{two}/here"}
    control("remove-urls", f"{one}/here", code=Exit.REFUSED)
    control("remove-urls", f"{two}/here")
    control("remove-urls", f"{two}/here", code=Exit.NOT_FOUND)
    assert PASSWORD not in control("status")

    (place / "objects").rename(place / "away")
    (one_way,) = control.json("status")["endpoints"]
    assert (one_way["state"], one_way["url"]) == ("down", f"{one}/here"), "told all the same"
    (place / "away").rename(place / "objects")
    control("detach", "one", *here)
    assert control.json("status")["attached"] == []
    control("destroy", "one", "--yes")
    control("destroy", "one", "--yes", code=Exit.NOT_FOUND)
    assert control("volumes") == "two.img\n"
    for _ in range(2):
        control("collect")
    control("volumes", "--pool", "silver", code=Exit.USAGE)
