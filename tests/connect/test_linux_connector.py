"""The connector for Linux hosts, as far as no kernel device is needed; the rest is tests/uml/nbd_guest."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breezeblock.connect import Connector, linux, netlink
from breezeblock.errors import InvalidInputError, UnavailableError, UnsupportedError


def test_it_is_a_connector(tmp_path: Path) -> None:
    connector: Connector = linux.LinuxConnector(tmp_path)
    with pytest.raises(InvalidInputError, match="no NBD URI"):
        connector.attach({"uri": "iqn.2026"}, "")
    with pytest.raises(InvalidInputError, match="is not this host"):
        connector.attach({"uri": "nbd://h/x"}, "elsewhere")
    assert connector.find({"uri": "nbd://h/x"}, "") is None


def test_what_cannot_be_attached_leaves_no_record(tmp_path: Path) -> None:
    """There is no server, and on most machines that run this no driver either."""
    connector = linux.LinuxConnector(tmp_path / "state")
    info = linux.connection_data(f"nbd+unix:///disk?socket={tmp_path / 'socket'}")
    with pytest.raises((UnavailableError, UnsupportedError)) as raised:
        connector.attach(info)
    assert raised.value.remedy
    assert connector.attached() == []
    connector.detach(info)
    assert list((tmp_path / "state").glob("*.json")) == []


@given(st.lists(st.tuples(st.integers(0, 1000), st.binary(max_size=40)), max_size=10))
def test_attributes_survive_the_way_there_and_back(attributes: list[tuple[int, bytes]]) -> None:
    raw = b"".join(netlink._attribute(kind, value) for kind, value in attributes)
    assert len(raw) % 4 == 0
    assert list(netlink._attributes(raw)) == attributes


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read_as_attributes(raw: bytes) -> None:
    for kind, value in netlink._attributes(raw):
        assert 0 <= kind < 1 << 14
        assert len(value) <= len(raw)


def test_sockets_are_nested_as_the_kernel_wants_them() -> None:
    import socket

    with socket.socket() as one:
        raw = netlink._sockets([one, one])
    length, kind, item_length, item_kind, number_length, number_kind, number = struct.unpack_from(
        "=HHHHHHI", raw
    )
    assert (length, kind) == (len(raw), netlink.Attribute.SOCKETS | 1 << 15)
    assert (item_length, item_kind, number_length, number_kind) == (12, 1 | 1 << 15, 8, 1)
    assert number > 0
