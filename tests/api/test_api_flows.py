"""Whole lives of volumes through HTTP, with a worker and a memory back end behind it."""

import time
import uuid
from collections.abc import Iterator

import pytest
import requests
from api_world import Client, World, serving
from running import Running, running

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def alive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, World]]:
    with running(tmp_path_factory.mktemp("alive")) as found, serving(found.service) as server:
        yield found, World(found.database, server)


@pytest.fixture
def user(alive: tuple[Running, World]) -> Client:
    world = alive[1]
    return world.client("member", project_id=world.project())


@pytest.fixture
def operator(alive: tuple[Running, World], user: Client) -> Client:
    return alive[1].client("admin", project_id=user.project_id)


def until(client: Client, kind: str, resource_id: str, *wanted: str) -> str:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        answer = client.get(f"/{kind}s/{resource_id}")
        status = "gone" if answer.status_code == 404 else answer.json()[kind]["status"]
        if status in wanted:
            return str(status)
        time.sleep(0.005)
    raise AssertionError(f"{kind} is still {status}")


def made(client: Client, kind: str, **fields: object) -> str:
    answer = client.post(f"/{kind}s", {kind: fields})
    assert answer.status_code == 202, answer.text
    assert answer.json()[kind]["status"] == "creating"
    resource_id: str = answer.json()[kind]["id"]
    assert until(client, kind, resource_id, "available", "error") == "available"
    return resource_id


def act(client: Client, volume_id: str, name: str, argument: object = None) -> requests.Response:
    return client.post(f"/volumes/{volume_id}/action", {name: argument})


def quota(client: Client, resource: str) -> int:
    answer = client.get(f"/os-quota-sets/{client.project_id}?usage=true")
    used: int = answer.json()["quota_set"][resource]["in_use"]
    return used


def test_a_volumes_life(user: Client) -> None:
    volume_id = made(user, "volume", size=1, name="a")
    snapshot_id = made(user, "snapshot", volume_id=volume_id, name="s")
    from_snapshot = made(user, "volume", snapshot_id=snapshot_id, size=None)
    clone = made(user, "volume", source_volid=volume_id, size=2)
    assert user.get(f"/volumes/{clone}").json()["volume"]["size"] == 2
    assert user.get(f"/volumes/{clone}").json()["volume"]["source_volid"] == volume_id
    assert act(user, volume_id, "os-extend", {"new_size": 3}).status_code == 202
    until(user, "volume", volume_id, "available")
    assert user.get(f"/volumes/{volume_id}").json()["volume"]["size"] == 3
    assert (quota(user, "volumes"), quota(user, "gigabytes")) == (3, 3 + 1 + 1 + 2)
    assert act(user, volume_id, "os-extend", {"new_size": 3}).status_code == 400
    assert user.delete(f"/volumes/{volume_id}").status_code == 400  # it has a snapshot
    assert user.delete(f"/snapshots/{snapshot_id}").status_code == 202
    until(user, "snapshot", snapshot_id, "gone")
    for each in (volume_id, from_snapshot, clone):
        assert user.delete(f"/volumes/{each}").status_code == 202
        until(user, "volume", each, "gone")
    assert (quota(user, "volumes"), quota(user, "gigabytes"), quota(user, "snapshots")) == (0, 0, 0)


def test_cascade_and_revert(user: Client) -> None:
    volume_id = made(user, "volume", size=1)
    snapshot_id = made(user, "snapshot", volume_id=volume_id)
    revert = {"snapshot_id": snapshot_id}
    assert act(user.at("3.39"), volume_id, "revert", revert).status_code == 400
    assert act(user, volume_id, "revert", {"snapshot_id": str(uuid.uuid4())}).status_code == 404
    assert act(user, volume_id, "revert", revert).status_code == 202
    until(user, "volume", volume_id, "available")
    assert until(user, "snapshot", snapshot_id, "available") == "available"
    assert user.delete(f"/volumes/{volume_id}?cascade=true").status_code == 202
    until(user, "volume", volume_id, "gone")
    assert until(user, "snapshot", snapshot_id, "gone") == "gone"


def test_flags_and_states(user: Client, operator: Client) -> None:
    volume_id = made(user, "volume", size=1)
    assert act(user, volume_id, "os-set_bootable", {"bootable": "True"}).status_code == 200
    assert user.get(f"/volumes/{volume_id}").json()["volume"]["bootable"] == "true"
    assert act(user, volume_id, "os-update_readonly_flag", {"readonly": True}).status_code == 202
    assert act(operator, volume_id, "os-reset_status", {"status": "error"}).status_code == 202
    assert user.get(f"/volumes/{volume_id}").json()["volume"]["status"] == "error"
    assert act(operator, volume_id, "os-reset_status", {"status": "purple"}).status_code == 400
    assert act(operator, volume_id, "os-reset_status", {}).status_code == 400
    assert act(user, volume_id, "os-extend", {"new_size": 2}).status_code == 400
    assert act(operator, volume_id, "os-reset_status", {"status": "deleting"}).status_code == 202
    assert act(operator, volume_id, "os-force_delete").status_code == 202
    until(user, "volume", volume_id, "gone")


def test_attachments(user: Client) -> None:
    volume_id = made(user, "volume", size=1)
    instance_id = str(uuid.uuid4())
    reserved = user.post(
        "/attachments", {"attachment": {"volume_uuid": volume_id, "instance_uuid": instance_id}}
    )
    assert reserved.status_code == 200
    attachment = reserved.json()["attachment"]
    assert (attachment["status"], attachment["connection_info"]) == ("reserved", {})
    assert until(user, "volume", volume_id, "reserved") == "reserved"
    path = f"/attachments/{attachment['id']}"
    connected = user.put(path, {"attachment": {"connector": {"host": "compute1", "ip": "192.0.2.1"}}})
    assert connected.status_code == 200
    info = connected.json()["attachment"]["connection_info"]
    assert info["driver_volume_type"]
    assert info["attachment_id"] == attachment["id"]
    assert user.post(f"{path}/action", {"os-complete": None}).status_code == 204
    shown = user.get(f"/volumes/{volume_id}").json()["volume"]
    assert shown["status"] == "in-use"
    (attached,) = shown["attachments"]
    assert (attached["server_id"], attached["attachment_id"]) == (instance_id, attachment["id"])
    again = user.post("/attachments", {"attachment": {"volume_uuid": volume_id, "connector": {"host": "h"}}})
    assert again.status_code == 400
    assert user.delete(f"/volumes/{volume_id}").status_code == 400
    gone = user.delete(path)
    assert (gone.status_code, gone.json()) == (200, {"attachments": []})
    until(user, "volume", volume_id, "available")
    at_once = {"volume_uuid": volume_id, "connector": {"host": "h"}, "mode": "ro"}
    both = user.post("/attachments", {"attachment": at_once}).json()["attachment"]
    assert both["attach_mode"] == "ro"
    assert both["connection_info"]["access_mode"] == "ro"
    assert user.delete(f"/attachments/{both['id']}").status_code == 200


def test_attaching_the_old_way(user: Client) -> None:
    volume_id = made(user, "volume", size=1)
    assert act(user, volume_id, "os-reserve").status_code == 202
    assert user.get(f"/volumes/{volume_id}").json()["volume"]["status"] == "attaching"
    assert act(user, volume_id, "os-reserve").status_code == 400
    assert act(user, volume_id, "os-unreserve").status_code == 202
    assert act(user, volume_id, "os-reserve").status_code == 202
    connector = {"connector": {"host": "compute1"}}
    answer = act(user, volume_id, "os-initialize_connection", connector)
    assert answer.status_code == 200
    assert set(answer.json()["connection_info"]) >= {"driver_volume_type", "data"}
    attach = {"instance_uuid": str(uuid.uuid4()), "mountpoint": "/dev/vdb", "mode": "rw"}
    assert act(user, volume_id, "os-attach", attach).status_code == 202
    assert act(user, volume_id, "os-attach", {"mountpoint": "/dev/vdb"}).status_code == 400
    until(user, "volume", volume_id, "in-use")
    assert act(user, volume_id, "os-begin_detaching").status_code == 202
    until(user, "volume", volume_id, "detaching")
    assert act(user, volume_id, "os-roll_detaching").status_code == 202
    assert act(user, volume_id, "os-begin_detaching").status_code == 202
    assert act(user, volume_id, "os-terminate_connection", connector).status_code == 202
    assert act(user, volume_id, "os-detach", {}).status_code == 202
    until(user, "volume", volume_id, "available")
    assert user.get("/attachments").json() == {"attachments": []}


def test_types_decide_where_a_volume_may_go(user: Client, operator: Client) -> None:
    body = {"name": str(uuid.uuid4()), "extra_specs": {"volume_backend_name": "elsewhere"}}
    type_id = operator.post("/types", {"volume_type": body}).json()["volume_type"]["id"]
    refused = user.post("/volumes", {"volume": {"size": 1, "volume_type": type_id}})
    assert refused.status_code == 400
    assert "elsewhere" in refused.json()["badRequest"]["message"]
    assert quota(user, "volumes") == 0
    changed = operator.put(
        f"/types/{type_id}/extra_specs/volume_backend_name", {"volume_backend_name": "memory"}
    )
    assert changed.status_code == 200
    volume_id = made(user, "volume", size=1, volume_type=body["name"])
    assert user.get(f"/volumes/{volume_id}").json()["volume"]["volume_type_id"] == type_id
    usage = user.get(f"/os-quota-sets/{user.project_id}?usage=true").json()["quota_set"]
    assert usage[f"volumes_{body['name']}"]["in_use"] == 1


def test_what_was_done_can_be_read_afterwards(user: Client) -> None:
    answer = user.post("/volumes", {"volume": {"size": 1}})
    volume_id = answer.json()["volume"]["id"]
    until(user, "volume", volume_id, "available")
    (operation,) = user.get(f"/operations?volume_id={volume_id}").json()["operations"]
    assert (operation["kind"], operation["state"], operation["progress"]) == ("create_volume", "done", 100)
    assert operation["request_id"] == answer.headers["x-openstack-request-id"]


def test_a_snapshot_of_a_volume_in_use_is_refused_for_now(user: Client) -> None:
    volume_id = made(user, "volume", size=1)
    user.post("/attachments", {"attachment": {"volume_uuid": volume_id, "connector": {"host": "h"}}})
    answer = user.post("/snapshots", {"snapshot": {"volume_id": volume_id, "force": True}})
    assert answer.status_code == 400
    assert answer.json()["badRequest"]["code"] == 400
