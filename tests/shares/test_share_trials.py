"""The trials of `share check`: all good on this machine's file system, and each finds what it is for."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from breezeblock.app import share_check
from breezeblock.cli.root import app
from breezeblock.shares import trial
from breezeblock.shares.trial import TRIALS, Trial, judge
from breezeblock.shares.views import Views


@pytest.mark.parametrize("one", TRIALS, ids=lambda one: one.name)
def test_good_here(one: Trial, tmp_path: Path) -> None:
    verdict = judge(one, Views(tmp_path, tmp_path, apart=False))
    assert verdict.outcome == "good" or not one.needed, verdict
    assert verdict.seen


def named(name: str) -> Trial:
    return next(one for one in TRIALS if one.name == name)


def test_two_directories_are_not_one(tmp_path: Path) -> None:
    # The worst cache there can be: what one side does, the other never sees.
    for side in ("here", "there"):
        (tmp_path / side).mkdir()
    views = Views(tmp_path / "here", tmp_path / "there", apart=True)
    for name in ("exclusive creation", "close-to-open", "names at once", "locks", "atomic replacement"):
        verdict = judge(named(name), views)
        assert (verdict.outcome, bool(verdict.cost)) == ("broken", True), verdict


REAL_UTIME = os.utime
FAULTS: list[tuple[str, str, Callable[..., Any]]] = [
    ("fsync", "os.fsync", lambda *_: fail(errno.EIO)),
    ("hard links", "os.link", lambda *_, **__: fail(errno.EPERM)),
    ("clock", "os.utime", lambda path, **_: REAL_UTIME(path, (0, 0))),
    ("permissions", "os.fchmod", lambda *_: None),
    ("holes are told", "os.lseek", lambda _fd, offset, how: 0 if how == os.SEEK_DATA else 64 << 20),
    ("large files", "os.ftruncate", lambda *_: fail(errno.EFBIG)),
]


def fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(("name", "call", "instead"), FAULTS, ids=[name for name, *_ in FAULTS])
def test_each_finds_what_it_is_for(
    name: str, call: str, instead: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(call, instead)
        verdict = judge(named(name), Views(tmp_path, tmp_path, apart=False))
    finally:
        os.umask(before)
    assert verdict.outcome == ("broken" if named(name).needed else "lacking"), verdict
    assert verdict.cost == named(name).cost


def test_what_hangs_is_left_behind(tmp_path: Path) -> None:
    stuck = threading.Event()
    hanging = Trial("hanging", lambda _views: str(stuck.wait(60)), "Everything.")
    verdict = judge(hanging, Views(tmp_path, tmp_path, apart=False), patience_s=0.05)
    assert (verdict.outcome, verdict.seen) == ("broken", "no answer within 0.05 s")
    stuck.set()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke(app, ["share", "check", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert "atomic replacement" in run.output
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    config = tmp_path / "breezeblock.toml"
    (tmp_path / "pool").mkdir()
    config.write_text(f'[backends.here]\nkind = "local"\npath = "{tmp_path}/pool"\n')
    run = CliRunner().invoke(app, ["share", "check", "here", "--config", str(config), "--json"])
    assert run.exit_code == 0, run.output
    assert f'"place": "{tmp_path}/pool"' in run.output
    broken = Trial("hopeless", lambda _views: fail(errno.EIO), "Everything.")  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(trial, "TRIALS", (broken,))
    assert CliRunner().invoke(app, ["share", "check", str(tmp_path)]).exit_code == 6


def test_no_password_is_taken_from_the_arguments() -> None:
    options = "username=u,password=TOPSECRET"
    run = CliRunner().invoke(app, ["share", "check", "//127.0.0.1/volumes", "-o", options])
    assert run.exit_code != 0
    assert "secret=NAME" in str(run.exception) + run.output
    assert "TOPSECRET" not in str(run.exception) + run.output


def test_a_share_of_this_very_machine_is_tried_in_its_directory(tmp_path: Path) -> None:
    (tmp_path / "volumes").mkdir()
    samba = tmp_path / "smb.conf"
    samba.write_text(f"[volumes]\npath = {tmp_path}/volumes\n")
    share = "//localhost/volumes -o username=u,secret=kept"
    section = {"kind": "smb", "shares": [share], "samba_config": str(samba)}
    (checked,) = share_check.check("filer", {"filer": section}, tmp_path)
    assert checked.place == f"{tmp_path}/volumes"
    assert not checked.broken


def test_a_client_may_remember_for_a_moment_that_a_name_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux's client for SMB does; longer than that is a fault."""
    looks: dict[str, int] = {}
    real = Path.exists

    def late(path: Path, **options: Any) -> bool:
        looks[path.name] = looks.get(path.name, 0) + 1
        return looks[path.name] > 3 and real(path, **options)

    monkeypatch.setattr(Path, "exists", late)
    assert judge(named("names at once"), Views(tmp_path, tmp_path, apart=True)).outcome == "broken"
    for path in tmp_path.iterdir():
        path.unlink()
    looks.clear()
    verdict = judge(named("names at once"), Views(tmp_path, tmp_path, apart=True, absent_s=30.0))
    assert verdict.outcome == "good", verdict
