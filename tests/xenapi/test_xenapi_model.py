"""The table of calls, and the simulator, held against the published data model where its path is given."""

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from xenserver import roles
from xenserver.calls import load
from xenserver.fields import CLASSES

from breezeblock.xenapi import records
from breezeblock.xenapi.failures import _KINDS
from breezeblock.xenapi.methods import ASYNC, METHODS

VARIABLE = "BREEZEBLOCK_XENAPI_MODEL"
"""Path of xenapi.json as the XAPI project publishes it; it is not ours to ship."""


def test_calls_made_as_tasks_are_in_the_table() -> None:
    assert METHODS.keys() >= ASYNC


def test_the_simulator_knows_every_call() -> None:
    implicit = (
        "get_record",
        "get_by_uuid",
        "get_by_name_label",
        "get_all_records",
        "set_other",
        "add_to_other",
        "remove_from_other",
    )
    for name in METHODS:
        cls, _, verb = name.partition(".")
        assert name in load() or (cls in CLASSES and verb.startswith(implicit)), name


if VARIABLE in os.environ:
    MODEL: dict[str, dict[str, Any]] = {
        item["name"]: item for item in json.loads(Path(os.environ[VARIABLE]).read_text())
    }

    @pytest.mark.parametrize("name", METHODS)
    def test_call_is_as_published(name: str) -> None:
        cls, _, verb = name.partition(".")
        message = next(item for item in MODEL[cls]["messages"] if item["name"] == verb)
        session, *params = message["params"]
        assert session["type"] == "session ref"
        types, result = METHODS[name]
        assert [kind.rstrip("?") for kind in types] == [param["type"] for param in params][: len(types)]
        assert message["result"][0] == result
        assert {error["name"] for error in message["errors"]} <= _KINDS.keys()
        assert message["lifecycle"]["state"] in {"Published_s", "Prototyped_s"}, message["lifecycle"]["state"]

    READ: dict[str, type[msgspec.Struct]] = {
        "pool": records.Pool,
        "host": records.Host,
        "SM": records.Sm,
        "SR": records.Sr,
        "PBD": records.Pbd,
        "VDI": records.Vdi,
        "VBD": records.Vbd,
        "vdi_nbd_server_info": records.NbdExport,
        "VM": records.Vm,
        "probe_result": records.Probed,
        "task": records.Task,
    }

    def test_volumes_need_no_more_than_the_role_the_page_names() -> None:
        optional = {"VDI.revert", "VDI.pool_migrate"}  # without the role a clone takes the disk's place
        for name in METHODS:
            cls, _, verb = name.partition(".")
            message = next(item for item in MODEL[cls]["messages"] if item["name"] == verb)
            least = "pool-operator" if cls in {"SR", "PBD", "secret"} or name in optional else "vm-admin"
            assert least in message["roles"], name

    @pytest.mark.parametrize("cls", READ)
    def test_fields_that_are_read_exist(cls: str) -> None:
        published = {field["name"] for field in MODEL[cls]["fields"]}
        assert set(READ[cls].__struct_fields__) <= published

    @pytest.mark.parametrize("cls", CLASSES)
    def test_simulated_records_have_every_field(cls: str) -> None:
        published = {field["name"] for field in MODEL[cls]["fields"]}
        assert set(CLASSES[cls]) == published

    def test_simulated_roles_are_as_published() -> None:
        for name in {*load(), *METHODS}:
            cls, _, verb = name.partition(".")
            messages = MODEL[cls]["messages"] if cls in MODEL else ()
            message = next((item for item in messages if item["name"] == verb), None)
            if message and message["roles"]:
                published = min(roles.ROLES.index(role) for role in message["roles"] if role in roles.ROLES)
                assert roles.least(name) == roles.ROLES[published], name

    def test_simulated_calls_exist() -> None:
        for name in load():
            cls, _, verb = name.partition(".")
            if cls in MODEL:
                assert any(item["name"] == verb for item in MODEL[cls]["messages"]), name
