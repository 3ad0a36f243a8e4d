"""The client against what goes wrong: protocols, certificates, sessions, masters, tasks, faults."""

import fcntl
import resource
import socket
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from xen_storage import Admin
from xenserver import Simulator, simulated

from breezeblock.errors import (
    BreezeblockError,
    CancelledOperationError,
    ConflictError,
    CorruptError,
    NoSpaceError,
    UnavailableError,
)
from breezeblock.xenapi import changes, tasks, transfer
from breezeblock.xenapi.failures import (
    XenApiError,
    XenForbiddenError,
    XenNotFoundError,
    XenUnauthenticatedError,
)
from breezeblock.xenapi.mirror import Mirror
from breezeblock.xenapi.records import NULL
from breezeblock.xenapi.session import Account, Session
from breezeblock.xenapi.wire import Trust, Wire, _has_something

MIB = 1 << 20


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with simulated() as running:
        yield running


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulated("--coalesce-delay", "3600") as running:
        yield running


def session(simulator: Simulator, *urls: str, user: str = "root", **values: Any) -> Session:
    trust = values.pop("trust", Trust(sha256=simulator.fingerprint))
    return Session(Account(urls or (simulator.url,), user, "secret", trust, **values))


def disk(session: Session, sr: str, size: int = 4 * MIB) -> str:
    record: dict[str, Any] = {"name_label": "d", "SR": sr, "virtual_size": size, "type": "user"}
    record |= {"sharable": False, "read_only": False, "other_config": {}}
    return tasks.run(session, "VDI.create", record)


def make_sr(simulator: Simulator, kind: str = "nfs") -> tuple[str, str]:
    admin = Admin(simulator)
    uuid = admin.make_sr(kind, f"sr {time.monotonic_ns()}")
    return str(admin.ask("SR.get_by_uuid", uuid)), uuid


@pytest.mark.parametrize("options", [(), ("--xml-only",), ("--http",), ("--http", "--xml-only")], ids=str)
def test_both_protocols_give_the_same_records(options: tuple[str, ...]) -> None:
    with simulated(*options) as simulator:
        sr, _uuid = make_sr(simulator)
        client = session(simulator)
        ref = disk(client, sr, 5 * MIB + 1)
        view = Mirror(client).look()
        made = view.vdis[ref]
        assert (made.virtual_size, made.managed, made.sharable, made.is_a_snapshot) == (
            6 * MIB,
            True,
            False,
            False,
        )
        assert view.srs[sr].shared is True
        assert "VDI_SNAPSHOT" in view.features(view.srs[sr])
        with pytest.raises(XenNotFoundError) as caught:
            client.call("VDI.get_record", "OpaqueRef:none")
        assert (caught.value.code, caught.value.params) == ("HANDLE_INVALID", ("VDI", "OpaqueRef:none"))
        client.close()


def test_a_certificate_that_is_not_pinned_is_refused(shared: Simulator) -> None:
    for trust in (Trust(sha256="00" * 32), Trust()):
        with pytest.raises(UnavailableError, match="certificate"):
            session(shared, trust=trust).call("secret.get_all_records")


def test_a_certificate_authority_is_enough(shared: Simulator, tmp_path: Path) -> None:
    import ssl
    from urllib.parse import urlsplit

    port = urlsplit(shared.url).port
    assert port
    (tmp_path / "ca.pem").write_text(ssl.get_server_certificate(("127.0.0.1", port)))
    client = session(shared, trust=Trust(ca_file=tmp_path / "ca.pem"))
    assert client.call("secret.get_all_records") == {}
    client.close()


def test_a_wrong_password_says_so_and_stays_secret(shared: Simulator) -> None:
    client = Session(Account((shared.url,), "root", "hunter2", Trust(sha256=shared.fingerprint)))
    with pytest.raises(XenUnauthenticatedError) as caught:
        client.call("secret.get_all_records")
    assert "hunter2" not in f"{caught.value} {caught.value.params}"
    assert "hunter2" not in repr(Account((shared.url,), "root", "hunter2"))


def test_a_read_only_account_is_told_which_role_it_lacks(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared, user="read-only")
    assert Mirror(client).look().srs
    with pytest.raises(XenForbiddenError, match="role"):
        disk(client, sr)


def test_an_expired_session_is_renewed(shared: Simulator) -> None:
    client = session(shared)
    mirror = Mirror(client)
    before = mirror.look()
    shared.do("expire")
    assert mirror.look().srs.keys() >= before.srs.keys()
    shared.do("expire")
    sr, _uuid = make_sr(shared)
    assert disk(client, sr)


def other(simulator: Simulator) -> str:
    return simulator.url.replace("127.0.0.1", "127.0.0.2")


def test_a_slave_sends_us_to_the_master(shared: Simulator) -> None:
    client = session(shared, other(shared))
    assert len(Mirror(client).look().hosts) == 2
    assert client.master().url == shared.url


def test_a_new_master_is_found_when_the_old_one_dies(simulator: Simulator) -> None:
    sr, _uuid = make_sr(simulator)
    client = session(simulator)
    mirror = Mirror(client)
    ref = disk(client, sr)
    assert ref in mirror.look().vdis
    simulator.do("promote", number=1)
    simulator.do("kill_host", number=0)
    assert ref in mirror.look().vdis, "the pool's other host is known from the pool itself"
    assert client.master().url == other(simulator)
    assert disk(client, sr) in mirror.look().vdis


def test_the_master_moves_while_its_host_lives(simulator: Simulator) -> None:
    client = session(simulator)
    mirror = Mirror(client)
    mirror.look()
    simulator.do("promote", number=1)
    assert len(mirror.look().hosts) == 2
    assert client.master().url == other(simulator)


def test_a_lost_answer_is_asked_for_again_only_if_that_changes_nothing(shared: Simulator) -> None:
    client = session(shared)
    shared.do("fault", method="secret.get_all_records", die=True)
    assert client.call("secret.get_all_records") == {}
    shared.do("fault", method="task.create", die=True, after=True)
    shared.do("calls", reset=True)
    with pytest.raises(UnavailableError):
        client.call("task.create", "once", "")
    assert shared.do("calls")["task.create"] == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("SR_BACKEND_FAILURE_44", NoSpaceError),
        ("SR_BACKEND_FAILURE_46", UnavailableError),
        ("SR_BACKEND_FAILURE_47", UnavailableError),
        ("SR_BACKEND_FAILURE_101", BreezeblockError),
        ("SR_BACKEND_FAILURE_109", ConflictError),
        ("SR_BACKEND_FAILURE_1200", UnavailableError),
        ("SR_BACKEND_FAILURE_12345", XenApiError),
        ("VDI_IN_USE", ConflictError),
        ("OTHER_OPERATION_IN_PROGRESS", UnavailableError),
        ("SOMETHING_NEW", XenApiError),
    ],
)
def test_failures_keep_their_parameters(code: str, kind: type[BreezeblockError], shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    params = ["", "what happened", "<stderr/>"]
    shared.do("fault", method="VDI.create", code=code, params=params)
    with pytest.raises(kind) as caught:
        disk(client, sr)
    assert isinstance(caught.value, XenApiError)
    assert (caught.value.code, caught.value.params) == (code, tuple(params))
    assert code in caught.value.message


def test_a_host_that_dies_in_a_task_fails_it(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    shared.do("fault", method="VDI.create", die=True, after=True)
    with pytest.raises(UnavailableError, match="HOST_OFFLINE"):
        disk(client, sr)


def test_a_copy_can_be_watched_and_cancelled(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    source = disk(client, sr, 8 * MIB)
    uuid = client.call("VDI.get_record", source)["uuid"]
    shared.write(uuid, 0, b"x" * (8 * MIB))
    shared.do("fault", method="copying", times=1000, delay_s=0.15)
    seen: list[float] = []
    with pytest.raises(CancelledOperationError):
        tasks.run(
            client, "VDI.copy", source, sr, NULL, NULL, cancelled=lambda: len(seen) > 1, progress=seen.append
        )
    shared.do("forgive")
    assert seen == sorted(seen)
    assert seen[-1] < 1
    assert tasks.run(client, "VDI.copy", source, sr, NULL, NULL).startswith("OpaqueRef:")


def test_deletions_reach_the_mirror(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    mirror = Mirror(client)
    refs = [disk(client, sr) for _ in range(3)]
    assert set(refs) <= mirror.look().vdis.keys()
    tasks.run(client, "VDI.destroy", refs[1])
    now = mirror.look().vdis
    assert refs[1] not in now
    assert {refs[0], refs[2]} <= now.keys()


def test_waiting_ends_with_the_change(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    mirror = Mirror(client)
    known = set(mirror.look().vdis)
    thread = threading.Timer(0.2, lambda: disk(session(shared), sr))
    thread.start()
    view = mirror.wait(lambda now: len(now.vdis.keys() - known) > 0, "a new disk", 30)
    assert view.vdis.keys() - known
    with pytest.raises(UnavailableError, match="Waited"):
        mirror.wait(lambda _now: False, "nothing", 0.1)
    thread.join()


def test_a_raw_disk_goes_out_and_comes_in_byte_for_byte(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    first, second = disk(client, sr), disk(client, sr)
    uuids = [client.call("VDI.get_record", ref)["uuid"] for ref in (first, second)]
    shared.write(uuids[0], 4096 * 3, b"here" * 1024)
    shared.write(uuids[0], 4 * MIB - 4096, b"last" * 1024)
    shared.write(uuids[1], 0, b"old content" * 1000)
    data = b"".join(transfer.export(client, first, "raw"))
    assert data == shared.read(uuids[0], 4 * MIB)
    transfer.put(client, second, "raw", [data[:1000], data[1000:]], len(data))
    assert shared.read(uuids[1], 4 * MIB) == data


def test_a_vhd_is_read_by_qemu_img_and_taken_back(shared: Simulator, tmp_path: Path) -> None:
    import subprocess

    sr, _uuid = make_sr(shared)
    client = session(shared)
    first, second = disk(client, sr), disk(client, sr)
    uuids = [client.call("VDI.get_record", ref)["uuid"] for ref in (first, second)]
    shared.write(uuids[0], 12288, b"in the first block" * 300)
    tasks.run(client, "VDI.snapshot", first, {})
    shared.write(uuids[0], 3 * MIB, b"over the snapshot" * 300)
    image, raw = tmp_path / "disk.vhd", tmp_path / "disk.raw"
    image.write_bytes(b"".join(transfer.export(client, first, "vhd")))
    command = ["qemu-img", "convert", "-f", "vpc", "-O", "raw", str(image), str(raw)]
    subprocess.run(command, check=True, timeout=60)
    expected = shared.read(uuids[0], 4 * MIB)
    held = raw.read_bytes()
    assert held[: 4 * MIB].ljust(4 * MIB, b"\0") == expected[: len(held)].ljust(4 * MIB, b"\0")
    assert len(held) >= 3 * MIB + 17 * 300
    transfer.put(client, second, "vhd", [image.read_bytes()], image.stat().st_size)
    assert shared.read(uuids[1], 4 * MIB) == expected


def test_a_broken_transfer_is_an_error_not_a_short_image(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    ref = disk(client, sr)
    shared.do("fault", method="exporting", code="VDI_IO_ERROR", params=["broken"])
    with pytest.raises(XenApiError, match="VDI_IO_ERROR"):
        list(transfer.export(client, ref, "raw"))
    shared.do("fault", method="importing", code="SR_BACKEND_FAILURE_44", params=["", "full", ""])
    with pytest.raises(NoSpaceError):
        transfer.put(client, ref, "raw", transfer.zeros(4 * MIB), 4 * MIB)
    with pytest.raises(BreezeblockError):  # the data ends early
        transfer.put(client, ref, "raw", transfer.zeros(1 * MIB), 4 * MIB)
    with pytest.raises(BreezeblockError):
        list(transfer.export(client, ref, "qcow2"))  # this host has none
    assert not [
        t for t in Admin(shared).ask("task.get_all_records").values() if t["name_label"].startswith("Breez")
    ]


def test_a_transfer_follows_the_sr_to_another_host(shared: Simulator) -> None:
    admin = Admin(shared)
    second = admin.ask("host.get_all")[1]
    config = {"device": "/dev/sdc"}
    sr = admin.ask("SR.create", second, config, "0", "on the second host", "", "ext", "user", False, {})
    client = session(shared)
    ref = disk(client, sr)
    data = b"far away" * (4 * MIB // 8)
    transfer.put(client, ref, "raw", [data], len(data))
    assert b"".join(transfer.export(client, ref, "raw")) == data


def test_changed_blocks_name_exactly_what_was_written(shared: Simulator) -> None:
    sr, _uuid = make_sr(shared)
    client = session(shared)
    ref = disk(client, sr)
    uuid = client.call("VDI.get_record", ref)["uuid"]
    client.call("VDI.enable_cbt", ref)
    older = tasks.run(client, "VDI.snapshot", ref, {})
    for offset in (0, 70_000, 2 * MIB, 4 * MIB - 10):
        shared.write(uuid, offset, b"0123456789")
    newer = tasks.run(client, "VDI.snapshot", ref, {})
    tracked = client.call("VDI.get_record", older)
    assert tracked["is_a_snapshot"]
    Admin(shared).ask("VDI.enable_cbt", older)
    found = list(changes.changed(client, older, newer, 4 * MIB))
    assert found == [(0, 131_072), (2 * MIB, 65_536), (4 * MIB - 65_536, 65_536)]


@pytest.mark.parametrize("text", ["not base64!", "", "gA=="])
def test_a_short_list_of_changes_is_refused(text: str) -> None:
    with pytest.raises(CorruptError):
        list(changes.parse(text, 4 * MIB))


def test_calls_share_one_connection(shared: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    connect = Wire.connect

    def counted(wire: Wire, timeout_s: float | None = None) -> HTTPConnection:
        opened.append(wire.url)
        return connect(wire, timeout_s)

    monkeypatch.setattr(Wire, "connect", counted)
    client = session(shared)
    for _ in range(20):
        client.call("secret.get_all_records")
    assert opened == [shared.url]
    client.close()


def test_an_idle_connection_is_looked_at_whatever_its_descriptor() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard) if soft < 2048 else (soft, hard))
    one, other = socket.socketpair()
    with one, other, socket.socket(fileno=fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 1500)) as high:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert not _has_something(high)
        other.close()
        assert _has_something(high)
