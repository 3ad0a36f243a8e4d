"""Pools: one identity, shown before use."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from breezeblock.errors import ConfigError, ConflictError, UnsupportedError
from breezeblock.objects import pool
from breezeblock.objects.cdmi import CdmiServer
from breezeblock.objects.http.client import Client
from breezeblock.objects.log import volumes
from breezeblock.objects.stores.opening import StoreConfig, make_pool, open_store


def at(path: Path, **more: str) -> StoreConfig:
    return msgspec.convert({"kind": "directory", "urls": [str(path)], **more}, StoreConfig)


def test_a_pool_is_made_once_and_proved_at_every_opening(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(ConflictError, match="shows no pool"):
            await open_store(at(tmp_path))
        first, second = await asyncio.gather(make_pool(at(tmp_path)), make_pool(at(tmp_path)))
        assert first == second == await make_pool(at(tmp_path, pool=first.uuid))
        with pytest.raises(ConflictError, match="layout log, not flat"):
            await make_pool(at(tmp_path, layout="flat"))
        store = await open_store(at(tmp_path, pool=first.uuid))
        await volumes.create(store, "a" * 32, 1 << 20)
        assert await volumes.volumes(store) == ["a" * 32]
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(ConflictError, match=f"shows no pool {first.uuid}"):
            await make_pool(at(other, pool=first.uuid))
        await make_pool(at(other))
        with pytest.raises(ConflictError, match=f"instead of {first.uuid}"):
            await open_store(at(other, pool=first.uuid))

    asyncio.run(run())


def test_an_endpoint_that_was_not_probed_is_probed_before_it_is_used(tmp_path: Path) -> None:
    async def run() -> None:
        server = CdmiServer(tmp_path, user="u", password="secret")
        url = f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}"
        config = StoreConfig(kind="cdmi", urls=[url], user="u", password="secret")
        assert "secret" not in f"{config!r} {config}"
        assert msgspec.json.decode(msgspec.json.encode(config), type=StoreConfig) == config
        await make_pool(at(tmp_path))
        kept = set((tmp_path / "pool").iterdir())
        store = await open_store(config)
        (new,) = set((tmp_path / "pool").iterdir()) - kept
        found = msgspec.json.decode(new.read_bytes(), type=pool.Probed)
        assert found.endpoint == url
        assert found.probe.can("log")
        bad = msgspec.structs.replace(
            found.probe, findings=[msgspec.structs.replace(one, passed=False) for one in found.probe.findings]
        )
        new.write_bytes(msgspec.json.encode(msgspec.structs.replace(found, probe=bad)))
        with pytest.raises(UnsupportedError, match="cannot hold volumes in the layout log"):
            await open_store(config)
        await store.close()
        await server.stop()

    asyncio.run(run())


@pytest.mark.parametrize("url", ["http://[", "http://host:99999/x", "http://user:sec/ret@host/"])
def test_a_url_that_cannot_be_read_is_refused_without_quoting_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        Client(url)
    assert "sec" not in str(caught.value)
