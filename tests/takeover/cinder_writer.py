"""Run by Cinder's own Python: its NFS driver, unmodified, writes volumes and snapshots into a directory.

Only the mount, and Nova's part of the online deletion, stand in for the real thing: Nova's is done by
qemu-img as Nova does it for a guest that is not running. File names, headers and `.info` are the real
driver's, on a real database of Cinder's.

Arguments: state directory, mount base. Reads a line of JSON a step, answers with a line of JSON.
"""

import json
import os
import sys
from pathlib import Path

import cinder.privsep
from cinder import context, coordination, objects, utils
from cinder.cmd import volume as _service  # noqa: F401 - patches the standard library, registers options
from cinder.db import migration
from cinder.volume import configuration, volume_types
from cinder.volume.drivers import nfs, remotefs
from oslo_concurrency import processutils
from oslo_config import cfg

SHARE = "127.0.0.1:/export"
state, mount_base = Path(sys.argv[1]), Path(sys.argv[2])


def execute(*command, check_exit_code=True, **_options):
    return processutils.execute(*command, check_exit_code=check_exit_code)


def without_root():
    """Let the driver do as this user what it would ask sudo and the privilege daemon for."""
    cinder.privsep.sys_admin_pctxt.set_client_mode(False)
    plain = utils.execute

    def as_we_are(*command, run_as_root=False, **options):
        return plain(*command, **options)

    utils.execute = as_we_are


def configured():
    conf = cfg.CONF
    conf([], project="cinder", version="0", default_config_files=[], default_config_dirs=[])
    conf.set_override("connection", f"sqlite:///{state}/cinder.db", "database")
    conf.set_override("state_path", str(state))
    conf.set_override("lock_path", str(state), "oslo_concurrency")
    conf.set_override("backend_url", f"file://{state}", "coordination")
    conf.register_opts(nfs.nfs_opts + remotefs.nas_opts, group="nfs")
    (state / "shares").write_text(SHARE + "\n")
    values = {
        "nfs_mount_point_base": str(mount_base),
        "nfs_shares_config": str(state / "shares"),
        "nfs_snapshot_support": True,
        "nas_secure_file_operations": "false",
        "nas_secure_file_permissions": "false",
    }
    for key, value in values.items():
        conf.set_override(key, value, "nfs")
    objects.register_all()
    migration.db_sync()
    coordination.COORDINATOR.start()
    return configuration.Configuration(nfs.nfs_opts + remotefs.nas_opts, config_group="nfs")


class Nova:
    """What Nova does to the files of a guest that is not running."""

    def __init__(self, driver):
        self.driver = driver

    def delete_volume_snapshot(self, admin, snapshot_id, delete_info):
        snapshot = objects.Snapshot.get_by_id(admin, snapshot_id)
        directory = self.driver._local_volume_dir(snapshot.volume)
        if delete_info["merge_target_file"] is None:
            active = os.path.join(directory, self.driver.get_active_image_from_info(snapshot.volume))
            base = delete_info["file_to_merge"]
            command = ["qemu-img", "rebase", "-f", "qcow2", "-b", base or "", active]
            execute(*(command if base is None else [*command, "-F", "qcow2"]))
        else:
            execute("qemu-img", "commit", "-d", os.path.join(directory, delete_info["file_to_merge"]))
            merged, target = delete_info["file_to_merge"], delete_info["merge_target_file"]
            for path in Path(directory).iterdir():
                with path.open("rb") as file:
                    if path.name.endswith(".info") or file.read(4) != b"QFI\xfb":
                        continue
                told = json.loads(execute("qemu-img", "info", "--output=json", str(path))[0])
                if told.get("backing-filename") == merged:
                    kind = json.loads(
                        execute("qemu-img", "info", "--output=json", os.path.join(directory, target))[0]
                    )["format"]
                    execute("qemu-img", "rebase", "-u", "-b", target, "-F", kind, str(path))
        snapshot.update({"status": "deleting", "progress": "90%"})
        snapshot.save()


class Writer:
    def __init__(self):
        self.admin = context.get_admin_context()
        self.admin.project_id, self.admin.user_id = "f" * 32, "e" * 32
        self.driver = nfs.NfsDriver(execute=execute, configuration=configured())
        point = Path(self.driver._get_mount_point_for_share(SHARE))
        point.mkdir(parents=True)
        self.driver._remotefsclient.mount = lambda *_arguments, **_options: None
        self.driver._is_share_eligible = lambda *_arguments: True  # whatever room the test machine has
        self.driver.do_setup(self.admin)
        self.driver._mounted_shares, self.driver.shares = [SHARE], {SHARE: None}
        self.driver._nova = Nova(self.driver)
        self.point = point
        self.type = volume_types.create(self.admin, "cinder-type")

    def create(self, qcow2=False, gib=1):
        self.driver.configuration.nfs_qcow2_volumes = qcow2
        cfg.CONF.set_override("nfs_qcow2_volumes", qcow2, "nfs")
        volume = objects.Volume(
            self.admin, size=gib, status="creating", attach_status="detached", provider_location=SHARE,
            display_name="by cinder", volume_type_id=self.type["id"], user_id=self.admin.user_id,
            project_id=self.admin.project_id, host="h@nfs#nfs",
        )  # fmt: skip
        volume.create()
        volume.update(self.driver.create_volume(volume) or {})
        volume.status = "available"
        volume.save()
        return volume.id

    def snapshot(self, volume):
        snapshot = objects.Snapshot(
            self.admin, volume_id=volume, status="creating", progress="0%", volume_size=1,
            user_id=self.admin.user_id, project_id=self.admin.project_id, display_name="s",
        )  # fmt: skip
        snapshot.create()
        self.driver.create_snapshot(snapshot)
        snapshot.status = "available"
        snapshot.save()
        return snapshot.id

    def delete_snapshot(self, snapshot, online=False):
        row = objects.Snapshot.get_by_id(self.admin, snapshot)
        row.volume.status, row.volume.attach_status = (
            ("in-use", "attached") if online else ("available", "detached")
        )
        row.volume.save()
        row.status = "deleting"
        row.save()
        self.driver.delete_snapshot(row)
        row.destroy()
        row.volume.status, row.volume.attach_status = "available", "detached"
        row.volume.save()

    def extend(self, volume, gib):
        row = objects.Volume.get_by_id(self.admin, volume)
        self.driver.extend_volume(row, gib)
        row.size = gib
        row.save()

    def active(self, volume):
        row = objects.Volume.get_by_id(self.admin, volume)
        told = self.driver.initialize_connection(row, {})["data"]
        return [str(self.point / told["name"]), told["format"]]


without_root()
writer = Writer()
print(json.dumps(str(writer.point)), flush=True)
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        answer = {"done": getattr(writer, name)(**arguments)}
    except Exception as error:
        import traceback

        answer = {"failed": f"{error}: {traceback.format_exc()}"}
    print(json.dumps(answer), flush=True)
