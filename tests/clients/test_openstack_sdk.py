"""The life of a volume by openstacksdk, the library under Terraform-like tools, Ansible and the client."""

from collections.abc import Iterator
from typing import Any

import openstack
import openstack.config
import pytest
from deployed import Deployed, until
from openstack import exceptions

# What the library says of its own future versions is not about us.
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

CONNECTOR = {
    "host": "hypervisor",
    "ip": "192.0.2.7",
    "initiator": "iqn.1993-08.org.debian:01:abc",
    "multipath": False,
}


def _connect(service: Deployed, cloud: str) -> Any:
    file = str(service.data / "clouds.yaml")
    config = openstack.config.OpenStackConfig(config_files=[file], secure_files=[], load_envvars=False)
    return openstack.connection.Connection(config=config.get_one(cloud))


@pytest.fixture(scope="module")
def demo(service: Deployed) -> Iterator[Any]:
    with _connect(service, "breezeblock") as connection:
        yield connection.block_storage


@pytest.fixture(scope="module")
def admin(service: Deployed) -> Iterator[Any]:
    with _connect(service, "breezeblock-admin") as connection:
        yield connection.block_storage


@pytest.fixture
def volume(demo: Any) -> Iterator[Any]:
    made = demo.create_volume(size=1, name="sdk", metadata={"a": "1"})
    made = demo.wait_for_status(made, "available", interval=0.1, wait=30)
    yield made
    demo.delete_volume(made, ignore_missing=True)
    demo.wait_for_delete(made, interval=0.1, wait=30)


def test_the_whole_life(demo: Any, service: Deployed) -> None:
    made = demo.create_volume(size=1, name="life", description="d", metadata={"a": "1"})
    made = demo.wait_for_status(made, "available", interval=0.1, wait=30)
    assert (made.size, made.name, made.metadata, made.volume_type) == (1, "life", {"a": "1"}, "__DEFAULT__")
    assert made.is_bootable is False
    snapshots = []
    for name in ("one", "two"):
        taken = demo.create_snapshot(volume_id=made.id, name=name)
        snapshots.append(demo.wait_for_status(taken, "available", interval=0.1, wait=30))
    copy = demo.create_volume(size=2, name="copy", snapshot_id=snapshots[0].id)
    clone = demo.create_volume(size=1, name="clone", source_volume_id=made.id)
    copy = demo.wait_for_status(copy, "available", interval=0.1, wait=30)
    clone = demo.wait_for_status(clone, "available", interval=0.1, wait=30)
    assert (copy.size, copy.snapshot_id, clone.source_volume_id) == (2, snapshots[0].id, made.id)
    demo.extend_volume(made, 3)
    until(lambda: demo.get_volume(made.id).status == "available", "extended")
    assert demo.get_volume(made.id).size == 3
    # Cinder reverts to the newest only; any will do here.
    demo.revert_volume_to_snapshot(made, snapshots[0])
    until(lambda: demo.get_volume(made.id).status == "available", "reverted")
    assert {found.status for found in demo.snapshots()} == {"available"}
    demo.set_volume_metadata(made, b="2")
    assert demo.get_volume(made.id).metadata == {"a": "1", "b": "2"}
    demo.delete_volume_metadata(demo.get_volume(made.id), keys=["a"])
    assert demo.get_volume(made.id).metadata == {"b": "2"}
    demo.update_volume(made, name="renamed")
    assert demo.find_volume("renamed").id == made.id
    with pytest.raises(exceptions.BadRequestException):
        demo.delete_volume(made)  # it has snapshots
    demo.delete_snapshot(snapshots[0])
    demo.wait_for_delete(snapshots[0], interval=0.1, wait=30)
    demo.delete_volume(made, cascade=True)
    demo.delete_volume(copy)
    demo.delete_volume(clone)
    for gone in (made, copy, clone):
        demo.wait_for_delete(gone, interval=0.1, wait=30)
    assert list(demo.volumes()) == []
    assert list(demo.snapshots()) == []
    assert list(service.pool.iterdir()) == []


def test_an_attachment_from_reservation_to_end(demo: Any, admin: Any, volume: Any, service: Deployed) -> None:
    reserved = demo.create_attachment(volume, instance="11111111-2222-4333-8444-555555555555")
    assert demo.get_volume(volume.id).status == "reserved"
    with pytest.raises(exceptions.BadRequestException):
        demo.delete_volume(volume)
    connected = demo.update_attachment(reserved, connector=CONNECTOR)
    assert connected.connection_info["driver_volume_type"] == "local"
    path = connected.connection_info["device_path"]
    assert path == str(service.pool / f"volume-{volume.id}")
    assert demo.get_volume(volume.id).status == "attaching"
    demo.complete_attachment(reserved)
    attached = demo.get_volume(volume.id)
    assert (attached.status, attached.attachments[0]["attachment_id"]) == ("in-use", reserved.id)
    # Which host has it is an administrator's business, as in Cinder.
    assert attached.attachments[0]["host_name"] is None
    assert admin.get_volume(volume.id).attachments[0]["host_name"] == "hypervisor"
    assert [found.id for found in demo.attachments()] == [reserved.id]
    demo.delete_attachment(reserved)
    until(lambda: demo.get_volume(volume.id).status == "available", "detached")
    assert list(demo.attachments()) == []


def test_types_choose_the_format(demo: Any, admin: Any, service: Deployed) -> None:
    made = admin.create_type(name="overlay", description="d")
    admin.update_type_extra_specs(made, **{"volume_backend_name": "local", "breezeblock:format": "qcow2"})
    assert admin.get_type(made).extra_specs["breezeblock:format"] == "qcow2"
    volume = demo.create_volume(size=1, name="typed", volume_type="overlay")
    volume = demo.wait_for_status(volume, "available", interval=0.1, wait=30)
    assert volume.volume_type == "overlay"
    assert (service.pool / f"volume-{volume.id}").read_bytes()[:4] == b"QFI\xfb"
    demo.delete_volume(volume)
    demo.wait_for_delete(volume, interval=0.1, wait=30)
    admin.delete_type(made)
    assert {found.name for found in admin.types()} == {"__DEFAULT__", "rest"}


def test_limits_and_quotas_count_what_is_there(demo: Any, admin: Any, volume: Any) -> None:
    project = demo.get_project_id()
    absolute = demo.get_limits().absolute
    assert (absolute.total_volumes_used, absolute.total_gigabytes_used) == (1, 1)
    usage = admin.get_quota_set(project, usage=True)
    assert (usage.usage["volumes"], usage.usage["gigabytes"]) == (1, 1)
    admin.update_quota_set(project, volumes=1)
    try:
        with pytest.raises(exceptions.HttpException) as caught:
            demo.create_volume(size=1, name="one too many")
        assert caught.value.status_code == 413
    finally:
        admin.revert_quota_set(project)
    assert admin.get_quota_set(project).volumes == admin.get_quota_set_defaults(project).volumes


def test_pools_services_zones(admin: Any) -> None:
    pools = {pool.name: pool.capabilities["storage_protocol"] for pool in admin.backend_pools()}
    assert pools == {"breezeblock@local#local": "file", "breezeblock@rest#rest": "nbd"}
    assert {found.state for found in admin.services()} == {"up"}
    assert [zone.name for zone in admin.availability_zones()] == ["nova"]


def test_why_an_operation_failed_is_a_message(demo: Any, service: Deployed) -> None:
    volume = demo.create_volume(size=1, name="doomed")
    volume = demo.wait_for_status(volume, "available", interval=0.1, wait=30)
    file = service.pool / f"volume-{volume.id}"
    file.rename(service.pool / "aside")
    try:
        demo.extend_volume(volume, 2)
        until(lambda: demo.get_volume(volume.id).status == "error_extending", "the extension failed")
        messages = demo.get(f"/messages?resource_uuid={volume.id}", microversion="3.71").json()["messages"]
        assert volume.id in messages[0]["user_message"]
        assert messages[0]["message_level"] == "ERROR"
    finally:
        (service.pool / "aside").rename(file)
    demo.delete_volume(volume)
    demo.wait_for_delete(volume, interval=0.1, wait=30)


def test_another_project_sees_nothing(demo: Any, service: Deployed, volume: Any) -> None:
    secret = service.call("breezeblock", "user", "add", "mallory", "--project", "other").stdout.strip()
    other = openstack.connection.Connection(
        auth={
            "auth_url": f"http://127.0.0.1:{service.port}/identity",
            "username": "mallory",
            "password": secret,
            "project_name": "other",
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
    ).block_storage
    assert list(other.volumes()) == []
    with pytest.raises(exceptions.NotFoundException):
        other.get_volume(volume.id)
    with pytest.raises(exceptions.NotFoundException):
        other.delete_volume(volume.id, ignore_missing=False)
