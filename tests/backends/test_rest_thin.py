"""Thin pools in a back end: settings, what they can do, and what is refused. Their work needs a kernel."""

from pathlib import Path
from uuid import uuid4

import pytest

from breezeblock.app.rest import Rest
from breezeblock.attempt import Attempt
from breezeblock.backends.contract import Backend, Capabilities, Volume
from breezeblock.backends.registry import open_backend, read_config
from breezeblock.config import Config, ServiceSection
from breezeblock.connect import lvm
from breezeblock.errors import ConfigError, InvalidInputError, UnsupportedError

MIB = 1 << 20


@pytest.fixture
def config(tmp_path: Path) -> Config:
    pools = {}
    for name, more in {"thin": {"thin": True}, "plain": {}}.items():
        (tmp_path / name).mkdir()
        pools[name] = {"store": "directory", "urls": [str(tmp_path / name)], "layout": "flat", **more}
    section = {"kind": "rest", "run_dir": "/run/none", "pools": pools}
    return Config(service=ServiceSection(state_dir=str(tmp_path / "state")), backends={"rest": section})


@pytest.fixture
def backend(config: Config) -> Backend:
    settings = read_config(config.backends["rest"], "[backends.rest]")
    return open_backend("rest", settings, Path(config.service.state_dir))


def volume(pool: str, length: int = 8 * MIB) -> Volume:
    return Volume(id=str(uuid4()), virtual_bytes=length, pool=pool)


def attempt() -> Attempt:
    return Attempt(operation_id=str(uuid4()), token=uuid4().hex)


@pytest.mark.parametrize(
    "pool", [{"store": "cdmi"}, {"store": "azure", "layout": "flat"}, {"store": "webdav", "layout": "log"}]
)
def test_only_flat_pools_without_snapshots_of_their_own_are_thin(pool: dict[str, str]) -> None:
    section = {
        "kind": "rest",
        "pools": {"one": {"urls": ["https://store.example.org/x"], **pool, "thin": True}},
    }
    with pytest.raises(ConfigError, match="`thin` is for"):
        read_config(section, "[backends.x]")


def test_a_thin_pool_says_what_it_can_do_and_what_the_host_lacks(backend: Backend) -> None:
    seen = {pool.name: pool for pool in backend.stats()}
    able, plain = seen["thin"].capabilities, seen["plain"].capabilities
    assert isinstance(able, Capabilities)
    assert isinstance(plain, Capabilities)
    assert (able.snapshots, able.online_snapshots, able.revert, able.adopt) == (True, False, "any", False)
    assert (plain.snapshots, plain.adopt) == (False, True)
    assert (able.facts["layout"], plain.facts["layout"]) == ("thin", "flat")
    lacks = lvm.missing()
    assert seen["thin"].up is not bool(lacks)
    assert all(one in seen["thin"].reason for one in lacks)
    assert seen["plain"].up


def test_what_a_thin_pool_does_not_do_is_refused(backend: Backend, config: Config) -> None:
    one = volume("thin")
    for refused in (
        lambda: backend.examine(one, f"volume-{one.id}"),
        lambda: backend.adopt(one, f"volume-{one.id}", attempt()),
        lambda: backend.release(one, attempt()),
    ):
        with pytest.raises(UnsupportedError, match="not handed over"):
            refused()
    with pytest.raises(InvalidInputError, match="multiples of 1048576"):
        backend.create(volume("thin", 8 * MIB + 4096), attempt())
    with pytest.raises(InvalidInputError, match="smaller than its source"):
        backend.clone(one, volume("plain", 4 * MIB), attempt())
    rest = Rest(config, pool="thin")
    for verb in (lambda: rest.create("x", MIB), lambda: rest.destroy("x"), lambda: rest.data("x")):
        with pytest.raises(UnsupportedError, match="through the service"):
            verb()
    assert rest.volumes() == []


def test_other_pools_are_as_they_were(backend: Backend) -> None:
    one, copy = volume("plain"), volume("plain")
    backend.create(one, attempt())
    with backend.open_data(one, writable=True) as data:
        data.write(MIB, b"x" * 4096)
    backend.clone(one, copy, attempt())
    with backend.open_data(copy) as data:
        assert data.read(MIB, 4096) == b"x" * 4096
    assert "uri" in backend.connection_info(copy, {}).data
    assert backend.check(one, ()) == []
    backend.extend(one, 16 * MIB, attempt())
    for gone in (one, copy):
        backend.delete(gone, attempt())
    assert not [found for found in backend.inventory() if found.kind != "foreign"]
