"""What clients get wrong, and what they are told."""

import json
import uuid
from typing import Any

import pytest
import requests
from api_world import Client, World, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from breezeblock.api import ApiSettings
from breezeblock.service.core import Service


def bad(answer: requests.Response, *words: str, status: int = 400) -> None:
    assert answer.status_code == status, answer.text
    (fault,) = answer.json().values()
    assert set(fault) >= {"code", "message"}
    assert fault["code"] == status
    for word in words:
        assert word in fault["message"]


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, ["size", "0", "between 1 and 2147483647"]),
        (-1, ["size", "-1"]),
        (2**31, ["size", "2147483647"]),
        (2**63, ["size", "2147483647"]),
        (2**64, ["size"]),
        ("0", ["size"]),
        ("-3", ["size"]),
        ("one", ["size", "whole number"]),
        ("1.5", ["size"]),
        (1.5, ["size", "whole number"]),
        (True, ["size", "whole number"]),
        ([], ["size"]),
        ({}, ["size"]),
        ("", ["size"]),
        ("٣", ["size"]),
        (None, ["size", "required"]),
    ],
)
def test_sizes_that_are_none(member: Client, size: Any, words: list[str]) -> None:
    for version in ("3.0", "3.71"):
        bad(member.at(version).post("/volumes", {"volume": {"size": size}}), *words)


def test_a_size_in_decimal_text_is_one(member: Client) -> None:
    answer = member.post("/volumes", {"volume": {"size": "2"}})
    assert answer.status_code == 202
    assert answer.json()["volume"]["size"] == 2


def test_larger_than_any_pool_names_each_pools_reason(member: Client) -> None:
    bad(member.post("/volumes", {"volume": {"size": 200_000}}), "No valid backend", "200000", "disk#pool")


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "\x1b[31mred", "tab\there", "\x7f", "a\u2028b", "\x85x"])
@pytest.mark.parametrize("path", ["volume", "snapshot", "type"])
def test_names_with_control_characters(
    world: World, member: Client, admin: Client, name: str, path: str
) -> None:
    volume_id = world.volume()
    if path == "volume":
        answers = [
            member.post("/volumes", {"volume": {"size": 1, "name": name}}),
            member.put(f"/volumes/{volume_id}", {"volume": {"name": name}}),
        ]
    elif path == "snapshot":
        snapshot_id = world.snapshot(volume_id)
        answers = [
            member.post("/snapshots", {"snapshot": {"volume_id": volume_id, "name": name}}),
            member.put(f"/snapshots/{snapshot_id}", {"snapshot": {"name": name}}),
        ]
    else:
        answers = [admin.post("/types", {"volume_type": {"name": name}})]
    for answer in answers:
        if name.strip() == name:
            bad(answer)
            assert any(word in answer.json()["badRequest"]["message"] for word in ("name", "NUL"))


def test_texts_have_limits(member: Client) -> None:
    for field in ("name", "description"):
        bad(member.post("/volumes", {"volume": {"size": 1, field: "x" * 256}}), field, "255")
        bad(member.post("/volumes", {"volume": {"size": 1, field: 7}}), field)
        answer = member.post("/volumes", {"volume": {"size": 1, field: f"  {'x' * 255}  "}})
        assert answer.status_code == 202
    bad(member.post("/volumes", {"volume": {"size": 1, "description": "bell\a"}}), "description", "Control")


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        "x",
        1,
        {"k": 1},
        {"k": None},
        {"k": ["v"]},
        {"": "v"},
        {"k" * 256: "v"},
        {"k": "v" * 256},
        {"a\nb": "v"},
        {"k": "\x01"},
        {" ": "v"},
    ],
)
def test_metadata_that_is_none(member: Client, world: World, metadata: Any) -> None:
    bad(member.post("/volumes", {"volume": {"size": 1, "metadata": metadata}}), "metadata")
    volume_id = world.volume()
    bad(member.post(f"/volumes/{volume_id}/metadata", {"metadata": metadata}), "metadata")
    bad(member.put(f"/volumes/{volume_id}/metadata", {"metadata": metadata}), "metadata")


def test_too_much_metadata(member: Client, world: World) -> None:
    volume_id = world.volume()
    many = {f"k{number}": "v" for number in range(129)}
    bad(member.put(f"/volumes/{volume_id}/metadata", {"metadata": many}), "129", "128")


def test_unknown_keys_are_refused_from_3_53_on(member: Client, world: World) -> None:
    body = {"volume": {"size": 1, "colour": "red"}}
    assert member.at("3.52").post("/volumes", body).status_code == 202
    bad(member.at("3.53").post("/volumes", body), "Additional properties", "'colour'")
    body = {"volume": {"size": 1}, "extra": {}}
    assert member.at("3.52").post("/volumes", body).status_code == 202
    bad(member.at("3.53").post("/volumes", body), "'extra'")
    volume_id = world.volume()
    update = {"volume": {"name": "n", "size": 5}}
    assert member.at("3.52").put(f"/volumes/{volume_id}", update).status_code == 200
    bad(member.at("3.53").put(f"/volumes/{volume_id}", update), "'size'")
    hints = {"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": {"same_host": []}}
    assert member.post("/volumes", hints).status_code == 202


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"volume"',
        b"1",
        b"{",
        b"nonsense",
        b'{"volume": {"size": 1}',
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"a":' * 20_000,
        b'{"volume":{"size":1e999}}',
        b'{"volume":{"name":"\\ud800","size":1}}',
        b"NaN",
        b'{"volume":{"name":"a\\u0000","size":1}}',
        b'{"volume": []}',
        b'{"volume": null}',
        b'{"volum": {}}',
    ],
)
@pytest.mark.parametrize("path", ["/volumes", "/snapshots", "/attachments"])
def test_bodies_that_are_no_object(member: Client, raw: bytes, path: str) -> None:
    bad(member.call("POST", path, data=raw, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b'{"a":1,"b":2}', b'{"os-nothing":{}}', b'{"os-extend":1}']
)
def test_actions_that_are_none(member: Client, world: World, raw: bytes) -> None:
    volume_id = world.volume()
    snapshot_id = world.snapshot(volume_id)
    for path in (f"/volumes/{volume_id}/action", f"/snapshots/{snapshot_id}/action"):
        bad(member.call("POST", path, data=raw, headers={"Content-Type": "application/json"}))


def test_bodies_over_the_limit(member: Client, service: Service) -> None:
    body = {"volume": {"size": 1, "description": "x" * 120_000}}
    answer = member.post("/volumes", body)
    bad(answer, "Request is too large.", status=413)
    assert "overLimit" in answer.json()

    def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 4096

    answer = member.call("POST", "/volumes", data=pieces())  # chunked: no length to look at
    bad(answer, "Request is too large.", status=413)
    with serving(service, settings=ApiSettings(max_body_bytes=2048)) as small:
        member.server = small
        bad(member.post("/volumes", {"volume": {"size": 1, "description": "x" * 2048}}), status=413)


def test_other_media_types(member: Client) -> None:
    for kind in ("text/plain", "application/xml", "application/x-www-form-urlencoded"):
        answer = member.call(
            "POST", "/volumes", data=b'{"volume":{"size":1}}', headers={"Content-Type": kind}
        )
        bad(answer, status=415)
        assert "badMediaType" in answer.json()
    answer = member.call("POST", "/volumes", data=b'{"volume":{"size":1}}')
    assert answer.status_code == 202


def test_sources_and_what_cannot_be_one(member: Client, world: World) -> None:
    volume_id = world.volume()
    missing = "6a3b3f0a-0000-4000-8000-000000000000"
    for field in ("snapshot_id", "source_volid"):
        bad(member.post("/volumes", {"volume": {"size": 1, field: "no-uuid"}}), field, "UUID")
        bad(member.post("/volumes", {"volume": {"size": 1, field: missing}}), missing, status=404)
        bad(member.post("/volumes", {"volume": {"size": 1, field: 7}}), field)
    both = {"size": 1, "snapshot_id": world.snapshot(volume_id), "source_volid": volume_id}
    bad(member.post("/volumes", {"volume": both}))
    for field in ("imageRef", "backup_id", "group_id", "consistencygroup_id"):
        bad(member.post("/volumes", {"volume": {"size": 1, field: missing}}), field)
    bad(member.post("/volumes", {"volume": {"size": 1, "multiattach": True}}), "multiattach")
    bad(member.post("/volumes", {"volume": {"size": 1, "volume_type": "nope"}}), "nope", status=404)
    bad(member.post("/volumes", {"volume": {"size": 1, "availability_zone": "mars"}}), "mars")
    large = world.volume(virtual_bytes=3 << 30)
    bad(member.post("/volumes", {"volume": {"size": 1, "source_volid": large}}), "3")
    bad(member.post("/volumes", {"volume": {"size": 1}, "OS-SCH-HNT:scheduler_hints": 1}), "scheduler_hints")


def test_updates_of_nothing(member: Client, world: World) -> None:
    volume_id = world.volume()
    wrong: list[Any] = [
        {},
        {"volume": {}},
        {"volume": {"name": 5}},
        {"volume": "x"},
        {"snapshot": {"name": "x"}},
    ]
    for body in wrong:
        bad(member.put(f"/volumes/{volume_id}", body))
    snapshot_id = world.snapshot(volume_id)
    wrong = [{}, {"snapshot": {}}, {"snapshot": {"name": 5}}]
    for body in wrong:
        bad(member.put(f"/snapshots/{snapshot_id}", body))


def test_a_snapshot_of_no_volume(member: Client) -> None:
    bad(member.post("/snapshots", {"snapshot": {"name": "s"}}), "volume_id")
    bad(member.post("/snapshots", {"snapshot": {"volume_id": None}}), status=404)
    bad(member.post("/snapshots", {"snapshot": {"volume_id": "no-uuid"}}), "volume_id")


def test_force_of_a_snapshot_from_3_66_on(member: Client, world: World) -> None:
    volume_id = world.volume()
    body: dict[str, dict[str, Any]] = {"snapshot": {"volume_id": volume_id, "force": False}}
    bad(member.at("3.66").post("/snapshots", body), "force")
    assert member.at("3.65").post("/snapshots", body).status_code == 202
    body["snapshot"]["force"] = "True"
    assert member.at("3.66").post("/snapshots", body).status_code in {202, 400}
    body["snapshot"]["force"] = "maybe"
    bad(member.at("3.0").post("/snapshots", body), "force")


def test_a_reader_changes_nothing(reader: Client, world: World) -> None:
    volume_id = world.volume()
    assert reader.get(f"/volumes/{volume_id}").status_code == 200
    for answer in (
        reader.post("/volumes", {"volume": {"size": 1}}),
        reader.put(f"/volumes/{volume_id}", {"volume": {"name": "x"}}),
        reader.delete(f"/volumes/{volume_id}"),
        reader.post(f"/volumes/{volume_id}/action", {"os-extend": {"new_size": 2}}),
    ):
        bad(answer, status=403)
        assert "forbidden" in answer.json()


def test_what_only_admins_may(member: Client, world: World) -> None:
    volume_id = world.volume()
    snapshot_id = world.snapshot(volume_id)
    for answer in (
        member.post(f"/volumes/{volume_id}/action", {"os-reset_status": {"status": "error"}}),
        member.post(f"/volumes/{volume_id}/action", {"os-force_delete": {}}),
        member.post(f"/volumes/{volume_id}/action", {"os-force_detach": {}}),
        member.post(f"/snapshots/{snapshot_id}/action", {"os-reset_status": {"status": "error"}}),
        member.post(f"/snapshots/{snapshot_id}/action", {"os-force_delete": None}),
        member.delete(f"/volumes/{volume_id}?force=true"),
        member.post("/types", {"volume_type": {"name": "x"}}),
        member.put(f"/os-quota-sets/{world.project_id}", {"quota_set": {"volumes": 1}}),
        member.get("/os-services"),
        member.get("/scheduler-stats/get_pools"),
        member.get(f"/os-quota-sets/{world.project()}"),
        member.get("/os-quota-class-sets/default"),
    ):
        bad(answer, status=403)


def test_query_strings_that_are_none(member: Client) -> None:
    for query in ("name=%00", "%ff=1", "&".join(f"k{n}=v" for n in range(200)), f"name={'x' * 20_000}"):
        bad(member.get(f"/volumes?{query}"))


def test_ids_that_are_none(member: Client) -> None:
    for bad_id in ("no-uuid", "%00", "%ff%fe", "..%2f..%2fetc", "'; DROP TABLE volumes; --", "x" * 300):
        for path in ("/volumes", "/snapshots", "/attachments", "/types", "/messages", "/operations"):
            bad(member.get(f"{path}/{bad_id}"), status=404)


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=30),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=20), inner, max_size=4)
    ),
    max_leaves=8,
)  # fmt: skip
KEYS = ["name", "description", "size", "metadata", "volume_type", "snapshot_id", "source_volid", "volume_id",
        "force", "availability_zone", "multiattach", "status", "new_size", "bootable", "readonly",
        "connector", "mode", "instance_uuid", "volume_uuid", "attachment_id", "extra_specs", "key", "project",
        "is_public"]  # fmt: skip
MEMBERS = ["volume", "snapshot", "attachment", "volume_type", "quota_set", "metadata", "meta", "extra_specs",
           "os-extend", "os-reset_status", "os-set_bootable", "os-update_readonly_flag", "os-attach",
           "os-set_image_metadata", "os-unset_image_metadata", "addProjectAccess", "revert", "os-reserve",
           "os-detach", "cancel"]  # fmt: skip
BODIES = st.one_of(
    st.dictionaries(
        st.sampled_from(MEMBERS),
        st.one_of(ANYTHING, st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5)),
        min_size=1,
        max_size=2,
    ),
    ANYTHING,
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    target=st.sampled_from(
        ["POST /volumes", "PUT /volumes/{v}", "POST /volumes/{v}/action", "POST /volumes/{v}/metadata",
         "PUT /volumes/{v}/metadata", "PUT /volumes/{v}/metadata/k", "POST /snapshots", "PUT /snapshots/{s}",
         "POST /snapshots/{s}/action", "POST /attachments", "POST /types", "POST /types/{t}/extra_specs",
         "PUT /types/{t}/extra_specs/k", "PUT /os-quota-sets/p", "PUT /os-quota-class-sets/default",
         "POST /types/{t}/action", "PUT /types/{t}", "PUT /os-services/disable-log-reason"]
    ),
    body=BODIES,
    minor=st.integers(0, 71),
)  # fmt: skip
def test_no_body_breaks_the_service(world: World, admin: Client, target: str, body: Any, minor: int) -> None:
    volume_id = world.volume()
    snapshot_id = world.snapshot(volume_id)
    type_id = admin.post("/types", {"volume_type": {"name": str(uuid.uuid4())}}).json()["volume_type"]["id"]
    method, path = target.split()
    client = admin.at(f"3.{minor}")
    data = json.dumps(body).encode()
    answer = client.call(
        method,
        path.format(v=volume_id, s=snapshot_id, t=type_id),
        data=data,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code in {200, 202, 400, 404, 409, 413}, (target, body, answer.text)
