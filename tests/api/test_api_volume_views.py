"""The exact keys of every object: clients' schemas forbid one too many."""

from typing import Any

import pytest
from api_world import Client, World

BASE = {
    "id", "name", "description", "status", "size", "availability_zone", "created_at", "updated_at",
    "volume_type", "snapshot_id", "source_volid", "metadata", "links", "user_id", "bootable", "encrypted",
    "replication_status", "consistencygroup_id", "multiattach", "attachments",
}  # fmt: skip
EXTENDED = {"os-vol-tenant-attr:tenant_id"}
ADMIN = {
    "migration_status", "os-vol-host-attr:host", "os-vol-mig-status-attr:migstat",
    "os-vol-mig-status-attr:name_id",
}  # fmt: skip
SINCE = {
    13: {"group_id"},
    48: {"service_uuid", "shared_targets"},
    63: {"volume_type_id"},
    65: {"consumes_quota"},
}
ADMIN_SINCE = {21: {"provider_id"}, 61: {"cluster_name"}}


def expected(minor: int, *, admin: bool, extended: bool = True) -> set[str]:
    keys = BASE | set().union(*(found for since, found in SINCE.items() if minor >= since))
    if extended:
        keys |= EXTENDED
    if admin:
        keys |= set().union(*(found for since, found in ADMIN_SINCE.items() if minor >= since))
        keys |= ADMIN if extended else {"migration_status"}
        if not extended:
            keys -= {"cluster_name"}
    return keys


@pytest.mark.parametrize("minor", [0, 12, 13, 20, 21, 47, 48, 60, 61, 62, 63, 64, 65, 71])
def test_volume_keys_by_version_and_role(world: World, member: Client, admin: Client, minor: int) -> None:
    volume_id = world.volume()
    for client, is_admin in ((member, False), (admin, True)):
        at = client.at(f"3.{minor}")
        shown = at.get(f"/volumes/{volume_id}").json()["volume"]
        assert set(shown) == expected(minor, admin=is_admin)
        (listed,) = at.get("/volumes/detail").json()["volumes"]
        assert listed == shown
        (brief,) = at.get("/volumes").json()["volumes"]
        assert set(brief) == {"id", "name", "links"}
        updated = at.put(f"/volumes/{volume_id}", {"volume": {"name": "n"}})
        assert updated.status_code == 200
        assert set(updated.json()["volume"]) == expected(minor, admin=is_admin, extended=False)


def test_types_of_values(world: World, member: Client, admin: Client) -> None:
    volume_id = world.volume(metadata='{"k":"v"}', bootable=True, virtual_bytes=3 * 2**30)
    shown = admin.get(f"/volumes/{volume_id}").json()["volume"]
    assert shown["bootable"] == "true"
    assert shown["encrypted"] is False
    assert shown["multiattach"] is False
    assert shown["size"] == 3
    assert shown["metadata"] == {"k": "v"}
    assert shown["volume_type"] == "__DEFAULT__"
    assert shown["os-vol-host-attr:host"] == "test@disk#pool"
    assert shown["os-vol-tenant-attr:tenant_id"] == world.project_id
    assert len(shown["created_at"]) == len("2026-01-01T00:00:00.000000")
    assert shown["updated_at"] is None
    links = {link["rel"]: link["href"] for link in shown["links"]}
    assert links["self"] == f"{world.server.url}/v3/{world.project_id}/volumes/{volume_id}"
    assert links["bookmark"] == f"{world.server.url}/{world.project_id}/volumes/{volume_id}"


def test_a_part_of_a_gibibyte_counts_as_one(world: World, member: Client) -> None:
    volume_id = world.volume(virtual_bytes=2**30 + 512)
    assert member.get(f"/volumes/{volume_id}").json()["volume"]["size"] == 2


def test_attachments_of_a_volume(world: World, member: Client, admin: Client) -> None:
    volume_id = world.volume(status="in-use")
    attachment_id = world.attachment(volume_id)
    world.attachment(volume_id, status="reserved", attached_at=None)
    (mine,) = member.get(f"/volumes/{volume_id}").json()["volume"]["attachments"]
    assert set(mine) == {
        "id", "attachment_id", "volume_id", "server_id", "host_name", "device", "attached_at",
    }  # fmt: skip
    assert (mine["id"], mine["attachment_id"]) == (volume_id, attachment_id)
    assert mine["host_name"] is None
    (seen,) = admin.get("/volumes/detail").json()["volumes"]
    assert seen["attachments"][0]["host_name"] == "compute1"


def test_image_metadata_is_shown_where_there_is_some(world: World, member: Client) -> None:
    volume_id = world.volume(image_metadata='{"image_id":"i"}')
    shown = member.get(f"/volumes/{volume_id}").json()["volume"]
    assert shown["volume_image_metadata"] == {"image_id": "i"}


def test_create_answers_202_with_the_plain_view(member: Client) -> None:
    answer = member.post(
        "/volumes",
        {"volume": {"size": 2, "name": "  padded  ", "description": "two\nlines", "metadata": {"a": "b"}}},
    )
    assert answer.status_code == 202
    made = answer.json()["volume"]
    assert set(made) == expected(71, admin=False, extended=False)
    assert (made["name"], made["description"], made["size"]) == ("padded", "two\nlines", 2)
    assert made["status"] == "creating"
    assert made["metadata"] == {"a": "b"}
    assert made["user_id"] == member.user_id


def test_strangers_see_nothing(world: World, member: Client) -> None:
    volume_id = world.volume()
    snapshot_id = world.snapshot(volume_id)
    attachment_id = world.attachment(volume_id)
    message_id = world.message()
    stranger = world.client("member", project_id=world.project())
    for path in (
        f"/volumes/{volume_id}", f"/snapshots/{snapshot_id}", f"/attachments/{attachment_id}",
        f"/messages/{message_id}", f"/volumes/{volume_id}/metadata",
    ):  # fmt: skip
        assert member.get(path).status_code == 200
        answer = stranger.get(path)
        assert answer.status_code == 404
        assert answer.json()["itemNotFound"]["code"] == 404
    for path, key in (("/volumes/detail", "volumes"), ("/snapshots", "snapshots"), ("/messages", "messages")):
        assert stranger.get(path).json()[key] == []
        assert stranger.get(f"{path}?all_tenants=1").json()[key] == []
    refused: list[Any] = [
        stranger.put(f"/volumes/{volume_id}", {"volume": {"name": "x"}}),
        stranger.delete(f"/volumes/{volume_id}"),
        stranger.post(f"/volumes/{volume_id}/metadata", {"metadata": {"a": "b"}}),
        stranger.delete(f"/snapshots/{snapshot_id}"),
    ]
    assert [answer.status_code for answer in refused] == [404] * 4


SNAPSHOT = {
    "id",
    "name",
    "description",
    "volume_id",
    "status",
    "size",
    "created_at",
    "updated_at",
    "metadata",
}
SNAPSHOT_SINCE = {14: "group_snapshot_id", 41: "user_id", 65: "consumes_quota"}


@pytest.mark.parametrize("minor", [0, 13, 14, 40, 41, 64, 65, 71])
def test_snapshot_keys_by_version(world: World, member: Client, minor: int) -> None:
    snapshot_id = world.snapshot(world.volume())
    at = member.at(f"3.{minor}")
    plain = SNAPSHOT | {key for since, key in SNAPSHOT_SINCE.items() if minor >= since}
    extended = plain | {
        "os-extended-snapshot-attributes:progress", "os-extended-snapshot-attributes:project_id",
    }  # fmt: skip
    shown = at.get(f"/snapshots/{snapshot_id}").json()["snapshot"]
    assert set(shown) == extended
    assert shown["os-extended-snapshot-attributes:progress"] == "100%"
    assert at.get("/snapshots/detail").json()["snapshots"] == [shown]
    (listed,) = at.get("/snapshots").json()["snapshots"]
    assert set(listed) == SNAPSHOT
    updated = at.put(f"/snapshots/{snapshot_id}", {"snapshot": {"description": "d"}})
    assert set(updated.json()["snapshot"]) == plain


def test_attachment_keys_and_flat_connection_info(world: World, member: Client) -> None:
    volume_id = world.volume(status="in-use")
    attachment_id = world.attachment(volume_id)
    shown = member.get(f"/attachments/{attachment_id}").json()["attachment"]
    assert set(shown) == {
        "id", "status", "instance", "volume_id", "attached_at", "detached_at", "attach_mode",
        "connection_info",
    }  # fmt: skip
    assert shown["detached_at"] == ""
    info = shown["connection_info"]
    assert info["driver_volume_type"] == "nfs"
    assert (info["export"], info["name"], info["format"]) == ("h:/e", "volume-1", "raw")
    assert info["attachment_id"] == attachment_id
    assert info["access_mode"] == "rw"
    assert "data" not in info
    (listed,) = member.get("/attachments").json()["attachments"]
    assert set(listed) == {"id", "status", "instance", "volume_id"}
    (detailed,) = member.get("/attachments/detail").json()["attachments"]
    assert detailed == shown
    reserved = world.attachment(volume_id, status="reserved", connection_info=None, attached_at=None)
    shown = member.get(f"/attachments/{reserved}").json()["attachment"]
    assert (shown["connection_info"], shown["attached_at"]) == ({}, "")


def test_message_keys(world: World, member: Client) -> None:
    message_id = world.message()
    shown = member.get(f"/messages/{message_id}").json()["message"]
    assert set(shown) == {
        "id", "event_id", "user_message", "message_level", "resource_type", "resource_uuid", "request_id",
        "created_at", "guaranteed_until", "links",
    }  # fmt: skip
    assert member.get("/messages").json()["messages"] == [shown]
    assert member.delete(f"/messages/{message_id}").status_code == 204
    assert member.get(f"/messages/{message_id}").status_code == 404


def test_expired_messages_are_gone(world: World, member: Client) -> None:
    message_id = world.message(expires_at="2020-01-01T00:00:00.000000")
    assert member.get(f"/messages/{message_id}").status_code == 404
    assert member.get("/messages").json()["messages"] == []
