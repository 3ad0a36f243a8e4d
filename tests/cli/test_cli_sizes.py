"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breezeblock.cli import sizes
from breezeblock.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "gib"),
    [
        ("10", 10),
        ("10G", 10),
        ("10GiB", 10),
        (" 10 gib ", 10),
        ("1T", 1024),
        ("2TiB", 2048),
        ("2048M", 2),
    ],
)
def test_a_size_is_read_in_gib(text: str, gib: int) -> None:
    assert sizes.gibibytes(text) == gib


@pytest.mark.parametrize(
    "text", ["", "-1", "ten", "1.5G", "10X", "1G G", "0x10", "1e3", chr(0x661), "9" * 20]
)
def test_what_is_no_size_is_refused_with_a_way_to_write_it(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        sizes.gibibytes(text)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["1500M", "1GB", "1M"])
def test_no_whole_number_of_gib_is_refused_rather_than_rounded(text: str) -> None:
    with pytest.raises(InvalidInputError, match="no whole number"):
        sizes.gibibytes(text)


@given(st.integers(min_value=0, max_value=2**62))
def test_bytes_read_back_about_as_large_as_they_are(count: int) -> None:
    number, unit = sizes.human(count).split()
    power = ("B", "KiB", "MiB", "GiB", "TiB", "PiB").index(unit)
    assert abs(float(number) * 1024**power - count) <= max(0.06 * 1024**power, count * 1e-9)
    assert unit == "PiB" or float(number) <= 1024
