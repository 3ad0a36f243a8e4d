"""A volume on real servers while the ways to them fail, one after the other, in each way there is."""

import asyncio
import datetime as dt
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from email.utils import format_datetime
from pathlib import Path

import pytest
from faulty import FAULTS, Way
from log_lab import content, soon

from breezeblock.errors import ConfigError, ConflictError, ForbiddenError
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.log import volumes
from breezeblock.objects.log.device import LogDevice
from breezeblock.objects.mirrors import Mirrors, Policy
from breezeblock.objects.stores import credentials
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store
from breezeblock.objects.stores.s3 import S3Store
from breezeblock.objects.stores.sigv4 import Credentials

VOLUME, LENGTH, PIECE = "a" * 32, 4 << 20, 32 << 10
QUICK = Policy(attempt_s=0.5, down_first_s=0.05, down_most_s=0.4, retry_first_s=0.01)


def test_a_volume_goes_on_whatever_happens_to_one_endpoint_or_all(tmp_path: Path) -> None:
    async def work(device: LogDevice, model: bytearray, dice: random.Random) -> None:
        for _ in range(6):
            at, data = dice.randrange(LENGTH - PIECE), dice.randbytes(PIECE)
            await soon(device.write(at, memoryview(data)))
            model[at : at + PIECE] = data
            await soon(device.flush())
            at = dice.randrange(LENGTH - PIECE)
            found = await soon(device.read(at, PIECE))
            assert b"".join(found if isinstance(found, list) else [found]) == model[at : at + PIECE]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            server = CdmiServer(tmp_path)
            port = await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.stop)
            ways = [Way(port) for _ in range(3)]
            urls = []
            for way in ways:
                urls.append(await way.start())
                stack.push_async_callback(way.stop)
            config = StoreConfig(kind="cdmi", urls=urls)
            await make_pool(config)
            store = await open_store(config, policy=QUICK, dice=random.Random(7))
            stack.push_async_callback(store.close)
            await volumes.create(store, VOLUME, LENGTH)
            dice, model = random.Random(5), bytearray(LENGTH)
            # Hardly any cache: reads go to the store.
            device = await volumes.attach(store, VOLUME, memory=volumes.Memory(cache_bytes=1 << 18))
            for number, fault in enumerate(FAULTS):
                await all_up(store)
                bad = [way for at, way in enumerate(ways) if at != number % 3]
                for way in bad:
                    way.fault = fault
                await work(device, model, dice)
                for way in bad:
                    way.fault = ""
            assert all(sum(way.seen.get(fault, 0) for way in ways) for fault in FAULTS)
            await all_up(store)
            ways[0].fault, ways[1].fault = "errors", "hole"
            await work(device, model, dice)
            ways[2].fault = "resets"
            going = asyncio.ensure_future(work(device, model, dice))
            await gone(store)
            assert not going.done(), "without a path it waits"
            for way in ways:
                way.fault = ""
            await going
            assert await content(device) == bytes(model)
            await device.close()
            fresh = await volumes.attach(store, VOLUME)
            assert await content(fresh) == bytes(model)
            await fresh.close()
            status = store.status()
            assert sum(one.failed for one in status.endpoints) > 6
            assert all(one.bytes_read and one.bytes_written for one in status.endpoints)
            assert all(one.connections for one in status.endpoints)

    asyncio.run(main())


async def until(store: Mirrors, enough: Callable[[set[str]], bool]) -> None:
    while not enough({one.state for one in store.status().endpoints}):  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


async def all_up(store: Mirrors) -> None:
    await until(store, lambda states: states == {"up"})


async def gone(store: Mirrors) -> None:
    await until(store, lambda states: "up" not in states)


def test_an_endpoint_of_another_store_is_never_written(tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            urls = []
            for name in ("one", "other"):
                (tmp_path / name).mkdir()
                server = CdmiServer(tmp_path / name)
                urls.append(f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}")
                stack.push_async_callback(server.stop)
            identity = await make_pool(StoreConfig(kind="cdmi", urls=urls[:1]))
            both = StoreConfig(kind="cdmi", urls=urls)
            with pytest.raises(ConflictError, match="shows no pool"):
                await open_store(both)
            known = StoreConfig(kind="cdmi", urls=urls, pool=identity.uuid)
            store = await open_store(known, policy=QUICK)
            stack.push_async_callback(store.close)
            for number in range(20):
                await store.put(f"k{number}", b"value")
            await until(store, lambda states: "refused" in states)
            assert not list((tmp_path / "other").iterdir())

    asyncio.run(main())


def test_credentials_that_expire_are_read_again_and_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        secrets = tmp_path / "secrets"
        secrets.write_text("u\nfirst\n")
        root = tmp_path / "root"
        root.mkdir()
        old = CdmiServer(root, user="u", password="first")
        port = await old.start("127.0.0.1", 0)
        config = StoreConfig(kind="cdmi", urls=[f"http://127.0.0.1:{port}"], credentials_file=str(secrets))
        await make_pool(config)
        store = await open_store(config, policy=QUICK)
        await store.put("k", b"value")
        secrets.write_text("u\nsecond\n")
        old._expected = CdmiServer(root, user="u", password="second")._expected
        assert await store.get("k") == b"value"
        assert store.status().endpoints[0].failed == 0
        old._expected = CdmiServer(root, user="u", password="third")._expected
        waiting = asyncio.ensure_future(store.get("k"))
        await gone(store)
        assert "credentials" in store.status().endpoints[0].trouble
        with pytest.raises(ForbiddenError):
            await open_store(config, policy=QUICK)
        secrets.unlink()
        await until(store, lambda states: "cannot be read" in store.status().endpoints[0].trouble)
        secrets.write_text("u\nthird\n")
        assert await waiting == b"value"
        await store.close()
        await old.stop()

    asyncio.run(main())


def test_a_server_whose_clock_is_far_ahead_is_signed_for_by_its_clock() -> None:
    async def main() -> None:
        ahead, seen = dt.timedelta(hours=3), []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                (stamp,) = [line.split(": ")[1] for line in lines if line.startswith("x-amz-date")]
                said = dt.datetime.strptime(stamp, "%Y%m%dt%H%M%Sz").replace(tzinfo=dt.UTC)
                now = dt.datetime.now(dt.UTC) + ahead
                good = abs(said - now) < dt.timedelta(minutes=15)
                seen.append(good)
                date = format_datetime(now, usegmt=True)
                status = "200 OK" if good else "403 RequestTimeTooSkewed"
                writer.write(f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: 2\r\n\r\nok".encode())

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        store = S3Store(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/bucket",
            credentials=lambda: Credentials("k", "s"),
        )
        for _ in range(3):
            assert await store.get("key") == b"ok"
        assert seen == [False, True, True, True]
        await store.close()
        server.close()

    asyncio.run(main())


def test_credentials_are_found_in_the_environment_or_the_shared_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    shared = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared))
    with pytest.raises(ConfigError, match="no credentials"):
        credentials.found()
    shared.write_text(
        "[default]\naws_access_key_id = a\naws_secret_access_key = b%c\n"
        "[other]\naws_access_key_id=d\naws_secret_access_key=e\naws_session_token=f\n"
    )
    assert credentials.found() == Credentials("a", "b%c")
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert credentials.found() == Credentials("d", "e", "f")
    shared.write_text("no section, but a secret")
    with pytest.raises(ConfigError) as error:
        credentials.found()
    assert "secret" not in str(error.value).replace(str(shared), "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "g")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "h")
    assert credentials.found() == Credentials("g", "h")


def test_a_token_that_has_expired_is_looked_up_anew() -> None:
    async def main() -> None:
        asked: list[str] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append("new" if b"x-amz-security-token: new" in head else "old")
                said = b"ok" if asked[-1] == "new" else b"<Error><Code>ExpiredToken</Code></Error>"
                status = b"200 OK" if asked[-1] == "new" else b"400 Bad Request"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(said), said))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        tokens = ["old", "new", "new"]
        store = S3Store(
            f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/bucket",
            credentials=lambda: Credentials("k", "s", tokens.pop(0)),
        )
        assert await store.get("key") == b"ok"
        assert asked == ["old", "new"]
        await store.close()
        server.close()

    asyncio.run(main())
