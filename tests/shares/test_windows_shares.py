"""Reaching shares as Windows does, tested through the seam: the script is replaced, what asks it is not."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from breezeblock.errors import UnavailableError
from breezeblock.shares import windows
from breezeblock.shares.login import Login

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Windows:
    """What of Windows matters here: who may see which share, what is mapped, what this machine serves."""

    passwords: dict[str, str] = field(default_factory=lambda: {r"\\filer\volumes": "right"})
    mapped: dict[str, str] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __call__(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(question["do"])
        remote = str(question["remote"]).casefold()
        share = "\\".join(remote.split("\\")[:4])
        match question["do"]:
            case "look":
                return {"works": share in self.mapped and self.mapped[share] == self.passwords.get(share)}
            case "local":
                return {"path": self.own[share]} if share in self.own else {}
            case "map":
                assert share == remote, "only shares can be mapped, not directories in them"
                self.mapped[share] = question.get("password", "")
                return {}
            case _:
                self.mapped.pop(share, None)
                return {}


def way(world: Windows) -> windows.UncWay:
    return windows.UncWay("//Filer/Volumes/sub", lambda: Login("u", "DOM", "right"), ask=world)


def test_a_share_is_mapped_once_and_reached_by_its_unc_name() -> None:
    world = Windows()
    share = way(world)
    for _ in range(2):
        assert PureWindowsPath(share.path()) == PureWindowsPath(r"\\filer\volumes\SUB")
    assert world.asked == ["local", "look", "map", "look", "look"]


def test_a_mapping_that_is_lost_is_made_again_and_a_new_password_taken() -> None:
    world = Windows()
    passwords = ["right"]
    share = windows.UncWay("//filer/volumes", lambda: Login("u", "", passwords[-1]), ask=world)
    share.path()
    world.mapped.clear()
    share.path()
    world.passwords[r"\\filer\volumes"] = "newer"
    with pytest.raises(UnavailableError, match="cannot be seen"):
        share.path()
    passwords.append("newer")
    share.path()
    share.let_go()
    assert world.mapped == {}


def test_a_share_of_this_machine_is_reached_by_its_directory_and_never_mapped() -> None:
    world = Windows(own={r"\\filer\volumes": "D:\\Volumes\\"})
    share = way(world)
    assert str(share.path()) == r"D:\Volumes\sub"
    share.let_go()
    assert world.asked == ["local"]


def test_names_that_are_one_to_windows() -> None:
    assert windows.same("//Filer/Volumes/X", r"\\filer\VOLUMES\x")
    assert not windows.same("//filer/a", "//filer/b")
    assert windows.root("//filer/volumes/a/b") == r"\\filer\volumes"


ECHO = """
import json, sys
question = json.load(sys.stdin)
print(json.dumps({"ok": question["do"] != "fail", "error": "no", "value": {"argv": sys.argv, **question}}))
"""


def test_the_script_gets_its_question_on_standard_input_only() -> None:
    ask = windows.script((sys.executable, "-c", ECHO))
    answer = ask({"do": "map", "password": "HIDDEN-ö"})
    assert answer["password"] == "HIDDEN-ö"
    assert "HIDDEN" not in " ".join(answer["argv"])
    with pytest.raises(UnavailableError, match="Windows refused to fail the share: no"):
        ask({"do": "fail"})
    with pytest.raises(UnavailableError, match="cannot be started"):
        windows.script(("/no/such/powershell",))({"do": "look"})
    with pytest.raises(UnavailableError, match="no answer"):
        windows.script((sys.executable, "-c", "print('nonsense')"))({"do": "look"})
    with pytest.raises(UnavailableError, match="did not answer within"):
        windows.script((sys.executable, "-c", "import time; time.sleep(60)"), 0.2)({"do": "look"})


def test_its_types_hold_on_windows() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--platform", "win32", "--follow-imports", "silent"),
            *(str(ROOT / "src/breezeblock/shares" / name) for name in ("windows.py", "space.py", "login.py")),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout
