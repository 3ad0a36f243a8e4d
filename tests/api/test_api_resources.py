"""Metadata, types, quotas, pools, services, operations: what each answers, with its codes."""

import hashlib
import uuid

import msgspec
import pytest
import sqlalchemy as sa
from api_world import QUOTA, Client, World

from breezeblock.backends.contract import Endpoint, Health
from breezeblock.catalog import heartbeats, operations, quotas, tables
from breezeblock.catalog.clock import ordered_id


@pytest.mark.parametrize("kind", ["volume", "snapshot"])
def test_metadata_of_its_own(world: World, member: Client, kind: str) -> None:
    volume_id = world.volume(metadata='{"a":"1"}')
    resource = volume_id if kind == "volume" else world.snapshot(volume_id, metadata='{"a":"1"}')
    path = f"/{kind}s/{resource}/metadata"
    assert member.get(path).json() == {"metadata": {"a": "1"}}
    merged = member.post(path, {"metadata": {"b": "2"}})
    assert (merged.status_code, merged.json()) == (200, {"metadata": {"a": "1", "b": "2"}})
    replaced = member.put(path, {"metadata": {"c": "3"}})
    assert (replaced.status_code, replaced.json()) == (200, {"metadata": {"c": "3"}})
    assert member.get(f"{path}/c").json() == {"meta": {"c": "3"}}
    assert member.put(f"{path}/c", {"meta": {"c": "4"}}).json() == {"meta": {"c": "4"}}
    assert member.put(f"{path}/c", {"meta": {"d": "4"}}).status_code == 400
    assert member.put(f"{path}/c", {"meta": {"c": "4", "d": "5"}}).status_code == 400
    assert member.get(f"{path}/none").status_code == 404
    assert member.delete(f"{path}/none").status_code == 404
    deleted = member.delete(f"{path}/c")
    assert (deleted.status_code, deleted.content) == (200, b"")
    assert member.get(path).json() == {"metadata": {}}
    key = "sl/ash & space"
    assert member.put(f"{path}/sl%2Fash%20&%20space", {"meta": {key: "x"}}).status_code == 200
    assert member.get(f"/{kind}s/{resource}").json()[kind]["metadata"] == {key: "x"}
    assert member.get(f"/{kind}s/{resource}").json()[kind]["updated_at"]


def test_lost_updates_of_metadata_are_refused_by_etag(world: World, member: Client) -> None:
    path = f"/volumes/{world.volume(metadata='{}')}/metadata"
    first = member.get(path)
    assert first.headers["ETag"] == f'"{hashlib.md5(first.content).hexdigest()}"'  # noqa: S324 - an ETag
    tag = {"If-Match": first.headers["ETag"]}
    changed = member.post(path, {"metadata": {"a": "1"}}, headers=tag)
    assert changed.status_code == 200
    refused = member.put(path, {"metadata": {"a": "2"}}, headers=tag)
    assert refused.status_code == 412
    assert member.get(path).json() == {"metadata": {"a": "1"}}
    tag = {"If-Match": changed.headers["ETag"]}
    assert member.put(path, {"metadata": {"a": "2"}}, headers=tag).status_code == 200
    assert member.put(path, {"metadata": {"a": "3"}}, headers={"If-Match": "*"}).status_code == 200
    old = member.at("3.14")
    assert "ETag" not in old.get(path).headers
    assert old.put(path, {"metadata": {"a": "4"}}, headers={"If-Match": "x"}).status_code == 200


def test_image_metadata(world: World, member: Client) -> None:
    path = f"/volumes/{world.volume()}/action"
    answer = member.post(path, {"os-set_image_metadata": {"metadata": {"a": "1", "b": "2"}}})
    assert (answer.status_code, answer.json()) == (200, {"metadata": {"a": "1", "b": "2"}})
    answer = member.post(path, {"os-unset_image_metadata": {"key": "a"}})
    assert (answer.status_code, answer.content) == (200, b"")
    assert member.post(path, {"os-unset_image_metadata": {"key": "a"}}).status_code == 404
    assert member.post(path, {"os-show_image_metadata": None}).json() == {"metadata": {"b": "2"}}


TYPE = {"id", "name", "description", "is_public", "extra_specs", "os-volume-type-access:is_public"}


def test_types(world: World, member: Client, admin: Client) -> None:
    name = f"fast-{uuid.uuid4()}"
    body = {
        "name": name,
        "description": "d",
        "extra_specs": {"volume_backend_name": "disk", "multiattach": "no"},
    }
    made = admin.post("/types", {"volume_type": body})
    assert made.status_code == 200
    assert set(made.json()["volume_type"]) == TYPE
    type_id = made.json()["volume_type"]["id"]
    assert admin.post("/types", {"volume_type": {"name": name}}).status_code == 409
    assert "conflictingRequest" in admin.post("/types", {"volume_type": {"name": name}}).json()
    seen = member.get(f"/types/{type_id}").json()["volume_type"]
    assert set(seen) == TYPE
    assert seen["extra_specs"] == {"multiattach": "no"}  # how storage is built is not a user's affair
    seen = admin.get(f"/types/{type_id}").json()["volume_type"]
    assert set(seen) == TYPE | {"qos_specs_id"}
    assert seen["extra_specs"] == body["extra_specs"]
    assert name in [t["name"] for t in member.get("/types").json()["volume_types"]]
    assert member.get("/types/default").json()["volume_type"]["name"] == "__DEFAULT__"
    changed = admin.put(f"/types/{type_id}", {"volume_type": {"description": "new"}})
    assert set(changed.json()["volume_type"]) == TYPE - {"os-volume-type-access:is_public"}
    assert changed.json()["volume_type"]["description"] == "new"
    assert admin.put(f"/types/{type_id}", {"volume_type": {}}).status_code == 400
    assert admin.put(f"/types/{type_id}", {"volume_type": {"name": "__DEFAULT__"}}).status_code == 409
    using = world.volume(volume_type_id=type_id)
    assert member.get(f"/volumes/{using}").json()["volume"]["volume_type"] == name
    assert admin.delete(f"/types/{type_id}").status_code == 400
    default = admin.get("/types/default").json()["volume_type"]["id"]
    assert admin.delete(f"/types/{default}").status_code == 400
    unused = admin.post("/types", {"volume_type": {"name": f"x-{uuid.uuid4()}"}}).json()["volume_type"]["id"]
    deleted = admin.delete(f"/types/{unused}")
    assert (deleted.status_code, deleted.content) == (202, b"")
    assert admin.get(f"/types/{unused}").status_code == 404


def test_extra_specs(admin: Client) -> None:
    type_id = admin.post("/types", {"volume_type": {"name": str(uuid.uuid4())}}).json()["volume_type"]["id"]
    path = f"/types/{type_id}/extra_specs"
    assert admin.post(path, {"extra_specs": {"a": "1"}}).json() == {"extra_specs": {"a": "1"}}
    assert admin.post(path, {"extra_specs": {"breezeblock:format": "raw"}}).status_code == 200
    assert admin.get(path).json() == {"extra_specs": {"a": "1", "breezeblock:format": "raw"}}
    assert admin.get(f"{path}/a").json() == {"a": "1"}
    assert admin.put(f"{path}/a", {"a": "2"}).json() == {"a": "2"}
    assert admin.put(f"{path}/a", {"b": "2"}).status_code == 400
    assert admin.put(f"{path}/a", {"a": "2", "b": "2"}).status_code == 400
    assert admin.post(path, {"extra_specs": {"key/slash": "1"}}).status_code == 400
    assert admin.delete(f"{path}/a").status_code == 202
    assert admin.delete(f"{path}/a").status_code == 404
    assert admin.get(f"{path}/a").status_code == 404
    found = admin.get("/types", params={"extra_specs": "{'breezeblock:format':'raw'}"}).json()["volume_types"]
    assert type_id in [t["id"] for t in found]


def test_private_types(world: World, member: Client, admin: Client) -> None:
    body = {"name": str(uuid.uuid4()), "os-volume-type-access:is_public": False}
    made = admin.post("/types", {"volume_type": body}).json()["volume_type"]
    assert made["is_public"] is False
    stranger = world.client("member", project_id=world.project())
    path = f"/types/{made['id']}"
    assert stranger.get(path).status_code == 404
    assert stranger.post("/volumes", {"volume": {"size": 1, "volume_type": made["id"]}}).status_code == 404
    assert made["id"] not in [t["id"] for t in stranger.get("/types").json()["volume_types"]]
    assert made["id"] not in [t["id"] for t in admin.get("/types").json()["volume_types"]]
    for query in ("is_public=None", "is_public=false"):
        assert made["id"] in [t["id"] for t in admin.get(f"/types?{query}").json()["volume_types"]]
    grant = {"addProjectAccess": {"project": stranger.project_id}}
    assert admin.post(f"{path}/action", grant).status_code == 202
    assert admin.post(f"{path}/action", grant).status_code == 409
    assert stranger.get(path).status_code == 200
    listed = admin.get(f"{path}/os-volume-type-access").json()["volume_type_access"]
    assert {"volume_type_id": made["id"], "project_id": stranger.project_id} in listed
    withdraw = {"removeProjectAccess": {"project": stranger.project_id}}
    assert admin.post(f"{path}/action", withdraw).status_code == 202
    assert admin.post(f"{path}/action", withdraw).status_code == 404
    assert stranger.get(path).status_code == 404
    default = admin.get("/types/default").json()["volume_type"]["id"]
    assert admin.get(f"/types/{default}/os-volume-type-access").status_code == 404
    assert admin.post(f"/types/{default}/action", grant).status_code == 400


def test_quota_sets(world: World, member: Client, admin: Client) -> None:
    project_id = world.project_id
    path = f"/os-quota-sets/{project_id}"
    shown = member.get(path).json()["quota_set"]
    assert shown["id"] == project_id
    assert set(shown) >= {
        "id",
        *QUOTA,
        "volumes___DEFAULT__",
        "gigabytes___DEFAULT__",
        "snapshots___DEFAULT__",
    }
    assert shown["volumes"] == QUOTA["volumes"]
    with world.database.write() as connection:
        quotas.take(connection, project_id, {"volumes": 2, "gigabytes": 7}, QUOTA)
    used = member.get(f"{path}?usage=True").json()["quota_set"]
    assert used["gigabytes"] == {"limit": QUOTA["gigabytes"], "in_use": 7, "reserved": 0}
    updated = admin.put(path, {"quota_set": {"volumes": "2", "gigabytes___DEFAULT__": 9}})
    assert updated.status_code == 200
    assert "id" not in updated.json()["quota_set"]
    assert updated.json()["quota_set"]["gigabytes___DEFAULT__"] == 9
    absolute = member.get("/limits").json()["limits"]["absolute"]
    assert (absolute["maxTotalVolumes"], absolute["totalVolumesUsed"], absolute["totalGigabytesUsed"]) == (
        2,
        2,
        7,
    )
    assert set(absolute) == {
        "maxTotalVolumes", "maxTotalVolumeGigabytes", "maxTotalSnapshots", "maxTotalBackups",
        "maxTotalBackupGigabytes", "totalVolumesUsed", "totalGigabytesUsed", "totalSnapshotsUsed",
        "totalBackupsUsed", "totalBackupGigabytesUsed",
    }  # fmt: skip
    over = member.post("/volumes", {"volume": {"size": 1}})
    assert over.status_code == 413
    assert over.json()["overLimit"]["code"] == 413
    assert over.headers["Retry-After"] == "0"
    assert over.json()["overLimit"]["retryAfter"] == "0"
    other = admin.get(f"/limits?project_id={world.project()}").json()["limits"]["absolute"]
    assert other["totalVolumesUsed"] == 0
    for wrong in ({"volumes": -2}, {"volumes": "x"}, {"wheels": 4}, {"volumes": True}, {"volumes": 2**31}):
        assert admin.put(path, {"quota_set": wrong}).status_code == 400
    assert admin.delete(path).status_code == 200
    assert member.get(path).json()["quota_set"]["volumes"] == QUOTA["volumes"]
    defaults = member.get(f"{path}/defaults").json()["quota_set"]
    assert (defaults["id"], defaults["volumes"]) == (project_id, QUOTA["volumes"])


def test_quota_classes(world: World, admin: Client) -> None:
    path = "/os-quota-class-sets/default"
    assert admin.get(path).json()["quota_class_set"]["id"] == "default"
    updated = admin.put(path, {"quota_class_set": {"backups": 11}}).json()["quota_class_set"]
    assert updated["backups"] == 11
    assert admin.get(f"/os-quota-sets/{world.project_id}").json()["quota_set"]["backups"] == 11
    assert admin.put(path, {"quota_class_set": {"backups": QUOTA["backups"]}}).status_code == 200


def test_pools(world: World, admin: Client) -> None:
    assert admin.get("/scheduler-stats/get_pools").json() == {"pools": [{"name": "test@disk#pool"}]}
    (pool,) = admin.get("/scheduler-stats/get_pools?detail=True").json()["pools"]
    assert pool["name"] == "test@disk#pool"
    can = pool["capabilities"]
    assert all(isinstance(value, str | int | float | bool) for value in can.values())
    assert (can["total_capacity_gb"], can["free_capacity_gb"]) == (1000, 900)
    assert (can["storage_protocol"], can["volume_backend_name"], can["backend_state"]) == (
        "file",
        "disk",
        "up",
    )
    assert can["reason"] == ""
    later = ("deepest_chain", "unmerged_images", "unmerged_gb", "full_in_hours", "chain_full_in_hours")
    assert can["deepest_chain"] in {0, 1}, "other tests may have left volumes"
    assert [can[key] for key in later[1:]] == [0, 0, "unknown", "unknown"]
    assert "endpoints" not in pool
    counted = {"requests": 1, "asked": 9, "failed": 2, "bytes_read": 5, "bytes_written": 6}
    way = Endpoint(url="https://a", state="up", trouble="", connections=3, read_ms=1.5, write_ms=2, **counted)
    told = Health(
        deepest_chain=21,
        unmerged_images=4,
        unmerged_bytes=3 << 29,
        full_in_s=90e3,
        chain_full_in_s=7.2e3,
        endpoints=(way,),
    )
    with world.database.write() as connection:
        connection.execute(sa.update(tables.pools).values(health=msgspec.json.encode(told).decode()))
    (pool,) = admin.get("/scheduler-stats/get_pools?detail=True").json()["pools"]
    assert [pool["capabilities"][key] for key in later] == [21, 4, 1.5, 25, 2]
    assert pool["endpoints"] == [msgspec.to_builtins(way)]
    assert admin.get("/scheduler-stats/get_pools?name=other").json() == {"pools": []}


def test_services(world: World, admin: Client) -> None:
    with world.database.write() as connection:
        heartbeats.beat(connection, "here", "breezeblock-worker", "nova")  # it reported the pool
        heartbeats.beat(connection, "here", "breezeblock-api", "nova")
    volume_host = admin.get(f"/volumes/{world.volume()}").json()["volume"]["os-vol-host-attr:host"]
    at, name = volume_host.partition("#")[0], volume_host.partition("@")[0]
    for host in (at, name):
        (found,) = admin.get(f"/os-services?host={host}&binary=cinder-volume").json()["services"]
        assert (found["binary"], found["host"], found["zone"]) == ("cinder-volume", at, "nova")
        assert (found["state"], found["status"], found["backend_state"]) == ("up", "enabled", "up")
    assert "cluster" not in admin.at("3.6").get(f"/os-services?host={at}").json()["services"][0]
    assert {s["binary"] for s in admin.get("/os-services").json()["services"]} == {
        "cinder-volume",
        "cinder-scheduler",
    }
    assert admin.get("/os-services?host=nowhere").json() == {"services": []}
    world.set_heartbeat("here", "2020-01-01T00:00:00.000000")
    (found,) = admin.get(f"/os-services?host={at}").json()["services"]
    assert found["state"] == "down"


def test_a_hypervisor_reports_on_a_snapshot(world: World, member: Client, admin: Client) -> None:
    snapshot_id = world.snapshot(world.volume(), status="creating", progress="0%")
    path = f"/snapshots/{snapshot_id}/action"

    def report(client: Client, status: str, **more: str) -> int:
        return client.post(path, {"os-update_snapshot_status": {"status": status, **more}}).status_code

    assert report(world.client("reader"), "creating", progress="80%") == 403
    assert report(member, "creating", progress="80%") == 202
    shown = admin.get(f"/snapshots/{snapshot_id}").json()["snapshot"]
    assert shown["os-extended-snapshot-attributes:progress"] == "80%"
    assert report(admin, "creating", progress="180%") == 400
    assert report(admin, "deleting") == 400
    assert report(admin, "available") == 202
    assert report(admin, "available") == 400
    world.set("snapshots", snapshot_id, status="creating", op_id="an operation of ours")
    assert report(admin, "available") == 400


def test_readonly_is_shown_among_the_metadata(world: World, member: Client) -> None:
    volume_id = world.volume(metadata='{"k":"v"}', readonly=True)
    assert member.get(f"/volumes/{volume_id}").json()["volume"]["metadata"] == {"k": "v", "readonly": "True"}
    assert member.get(f"/volumes/{volume_id}/metadata").json() == {"metadata": {"k": "v"}}


def test_the_rest(member: Client) -> None:
    assert member.get("/os-availability-zone").json() == {
        "availabilityZoneInfo": [{"zoneName": "nova", "zoneState": {"available": True}}]
    }
    for extension in member.get("/extensions").json()["extensions"]:
        assert set(extension) == {"alias", "name", "description", "updated", "links"}
    (found,) = member.get("/resource_filters?resource=snapshot").json()["resource_filters"]
    assert found["resource"] == "snapshot"
    assert "volume_id" in found["filters"]


def test_operations(world: World, member: Client) -> None:
    operation_id, volume_id = ordered_id(), world.volume()
    with world.database.write() as connection:
        operations.enqueue(
            connection, id=operation_id, kind="clone_volume", lane=volume_id, backend="disk",
            resource_type="volume", resource_id=volume_id, volume_id=volume_id, project_id=world.project_id,
            user_id=member.user_id, request_id="req-x",
        )  # fmt: skip
    world.set("operations", operation_id, state="running", progress_done=256, progress_total=1024)
    shown = member.get(f"/operations/{operation_id}").json()["operation"]
    assert (shown["state"], shown["progress"], shown["kind"]) == ("running", 25, "clone_volume")
    assert (shown["resource_type"], shown["resource_id"], shown["error"]) == ("volume", volume_id, None)
    assert member.get(f"/operations?state=running&volume_id={volume_id}").json()["operations"] == [shown]
    assert member.get("/operations?state=done").json()["operations"] == []
    assert member.get("/operations?state=odd").status_code == 400
    assert member.get("/operations?colour=red").status_code == 400
    cancel = {"cancel": None}
    assert member.post(f"/operations/{operation_id}/action", cancel).status_code == 202
    assert member.get(f"/operations/{operation_id}").json()["operation"]["cancel_requested"] is True
    assert member.post(f"/operations/{operation_id}/action", {"stop": None}).status_code == 400
    world.set("operations", operation_id, state="done")
    assert member.post(f"/operations/{operation_id}/action", cancel).status_code == 400
    assert member.get(f"/operations/{operation_id}").json()["operation"]["progress"] == 100
    stranger = world.client("member", project_id=world.project())
    assert stranger.get(f"/operations/{operation_id}").status_code == 404
    assert stranger.post(f"/operations/{operation_id}/action", cancel).status_code == 404
    assert stranger.get("/operations").json()["operations"] == []


def test_what_is_unknown_inside_stays_inside(
    world: World, member: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume_id = world.volume(metadata="{not json")
    answer = member.get(f"/volumes/{volume_id}/metadata")
    assert answer.status_code == 500
    assert answer.json()["computeFault"]["code"] == 500
    assert "json" not in answer.text.lower()
    world.set("volumes", volume_id, metadata="{}")
