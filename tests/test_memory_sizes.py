"""Sizes of memory, as they are written on command lines and in files."""

import sys

import pytest

from superserve.errors import ConfigError
from superserve.memory_sizes import bytes_of, told


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [
        ("1000", 1000),
        ("200MB", 200_000_000),
        ("200 mb", 200_000_000),
        ("1.5GiB", 3 << 29),
        ("64k", 64_000),
        ("2T", 2_000_000_000_000),
        ("7B", 7),
        ("all", sys.maxsize),
    ],
)
def test_sizes(size: str, nbytes: int) -> None:
    assert bytes_of(size) == nbytes


@pytest.mark.parametrize("size", ["", "much", "-1", "1.5.2MB", "10 PB", "0", "0.1B"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ConfigError):
        bytes_of(size)


def test_tables_have_megabytes() -> None:
    assert told(1_234_567_890) == "1,234.6 MB"
