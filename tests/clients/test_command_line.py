"""The `breezeblock` command against a running service."""

import json
import signal
import subprocess
import time
from typing import Any

import pytest
from deployed import BIN, Deployed, until

from breezeblock.cli.exits import Exit

pytestmark = pytest.mark.clients

ADMIN = ("--cloud", "breezeblock-admin")


def _json(service: Deployed, *arguments: str) -> Any:
    return json.loads(service.call("breezeblock", *arguments, "--json").stdout)


def test_a_life_by_the_command(service: Deployed) -> None:
    made = _json(service, "volume", "create", "a", "--size", "1GiB")
    assert (made["status"], made["size"]) == ("available", 1)
    service.call("breezeblock", "snapshot", "create", "a", "s", "--property", "why=because")
    service.call("breezeblock", "volume", "create", "b", "--snapshot", "s")
    service.call("breezeblock", "volume", "create", "c", "--source", "a", "--type", "__DEFAULT__")
    service.call("breezeblock", "volume", "extend", "a", "2")
    service.call("breezeblock", "volume", "revert", "a", "s")
    service.call(
        "breezeblock", "volume", "set", "a", "--name", "a2", "--property", "k=v", "--read-only", "--bootable"
    )
    shown = _json(service, "volume", "show", made["id"])
    assert (shown["name"], shown["size"], shown["bootable"]) == ("a2", 2, "true")
    assert shown["metadata"]["k"] == "v"
    service.call("breezeblock", "volume", "unset", "a2", "--property", "k")
    assert "k" not in _json(service, "volume", "show", "a2")["metadata"]
    listed = _json(service, "volume", "list")
    assert {item["name"] for item in listed} == {"a2", "b", "c"}
    table = service.call("breezeblock", "volume", "list").stdout
    assert all(item["id"] in table for item in listed)
    refused = service.call("breezeblock", "volume", "delete", "a2", check=False)
    assert (refused.returncode, "snapshots" in refused.stderr) == (Exit.REFUSED, True)
    service.call("breezeblock", "snapshot", "delete", "s")
    service.call("breezeblock", "volume", "delete", "a2", "b", "c")
    assert service.call("breezeblock", "volume", "list").stdout == ""
    kinds = [item["kind"] for item in _json(service, "operation", "list")]
    assert {"create_volume", "extend_volume", "revert_volume", "delete_snapshot"} <= set(kinds)
    assert service.call("breezeblock", "doctor").returncode == Exit.OK


def test_names_that_several_have_are_refused(service: Deployed) -> None:
    ids = [_json(service, "volume", "create", "same", "--size", "1")["id"] for _ in range(2)]
    ended = service.call("breezeblock", "volume", "delete", "same", check=False)
    assert ended.returncode == Exit.REFUSED
    assert all(id_ in ended.stderr for id_ in ids)
    service.call("breezeblock", "volume", "delete", *ids)
    missing = service.call("breezeblock", "volume", "show", "same", check=False)
    assert missing.returncode == Exit.NOT_FOUND


def test_a_failed_operation_is_exit_code_1_with_the_reason(service: Deployed) -> None:
    made = _json(service, "volume", "create", "x", "--size", "1")
    file = service.pool / f"volume-{made['id']}"
    file.rename(service.pool / "aside")
    try:
        ended = service.call("breezeblock", "volume", "extend", "x", "2", check=False)
        assert ended.returncode == Exit.FAILED
        assert f"Volume {made['id']}" in ended.stderr
        told = ended.stderr.partition("failed: ")[2].strip()
        assert told
        shown = service.call("breezeblock", "volume", "show", "x").stdout
        assert "error_extending" in shown
        assert told in shown
        found = service.call("breezeblock", "doctor", "--json", check=False)
        assert found.returncode == Exit.FINDINGS
        assert any(made["id"] in item["subject"] for item in json.loads(found.stdout)["findings"])
    finally:
        (service.pool / "aside").rename(file)
    service.call(
        "breezeblock",
        "volume",
        "set",
        "x",
        "--status",
        "available",
        "--cloud",
        "breezeblock-admin",
        check=False,
    )
    service.call("breezeblock", "volume", "delete", "x")


def test_what_a_member_may_not_is_refused_with_a_hint(service: Deployed) -> None:
    ended = service.call("breezeblock", "pool", "list", check=False)
    assert (ended.returncode, "breezeblock-admin" in ended.stderr) == (Exit.REFUSED, True)
    pool = next(one for one in _json(service, "pool", "list", *ADMIN) if one["name"].endswith("#local"))
    assert pool["capabilities"]["free_capacity_gb"] > 0


def test_types_by_the_command(service: Deployed) -> None:
    service.call("breezeblock", "type", "create", "gold", "--property", "volume_backend_name=local", *ADMIN)
    service.call("breezeblock", "type", "set", "gold", "--property", "breezeblock:format=qcow2", *ADMIN)
    shown = _json(service, "type", "show", "gold", *ADMIN)
    assert shown["extra_specs"] == {"volume_backend_name": "local", "breezeblock:format": "qcow2"}
    assert "gold" in service.call("breezeblock", "type", "list").stdout
    service.call("breezeblock", "type", "delete", "gold", *ADMIN)
    assert service.call("breezeblock", "type", "show", "gold", check=False).returncode == Exit.NOT_FOUND


def test_no_wait_and_watch(service: Deployed) -> None:
    made = service.call("breezeblock", "volume", "create", "y", "--size", "1", "--no-wait", "--json")
    volume = json.loads(made.stdout)
    assert volume["status"] in {"creating", "available"}
    listed = service.call("breezeblock", "operation", "list", "--volume", volume["id"], "--json")
    (operation,) = json.loads(listed.stdout)
    ended = _json(service, "operation", "watch", operation["id"])
    assert ended["state"] == "done"
    late = service.call("breezeblock", "operation", "cancel", operation["id"], check=False)
    assert late.returncode == Exit.REFUSED
    service.call("breezeblock", "volume", "delete", "y")


def test_a_wrong_password_is_refused_and_not_repeated(service: Deployed) -> None:
    environ = {
        "PATH": service.environ["PATH"],
        "OS_AUTH_URL": f"http://127.0.0.1:{service.port}/identity",
        "OS_USERNAME": "demo",
        "OS_PASSWORD": "s3cret-and-wrong",
        "OS_PROJECT_NAME": "demo",
    }
    ended = subprocess.run(
        [BIN / "breezeblock", "volume", "list"], env=environ, capture_output=True, text=True, check=False
    )
    assert ended.returncode == Exit.REFUSED
    assert "s3cret" not in ended.stderr
    assert "authentication" in ended.stderr


def test_ctrl_c_ends_the_waiting_and_not_the_operation(service: Deployed) -> None:
    """The service is stopped for a moment, so that there is something to wait for."""
    made = _json(service, "volume", "create", "z", "--size", "1")
    waiting = subprocess.Popen(
        [BIN / "breezeblock", "volume", "extend", "z", "2"],
        cwd=service.data,
        env=service.environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    service.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    waiting.send_signal(signal.SIGINT)
    service.process.send_signal(signal.SIGCONT)
    assert waiting.wait(timeout=30) in {Exit.INTERRUPTED, Exit.OK, -signal.SIGINT}
    assert waiting.stderr is not None
    assert "Traceback" not in waiting.stderr.read()

    def status() -> str:
        shown = service.call("breezeblock", "volume", "show", made["id"], "--json")
        return str(json.loads(shown.stdout)["status"])

    until(lambda: status() == "available", "the volume is at rest")
    service.call("breezeblock", "volume", "delete", "z")
