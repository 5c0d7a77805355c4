import pytest

from superserve.client.address import GRPC, HTTP, Address
from superserve.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8123", Address("localhost", 8123)),
        ("http://localhost:8123/", Address("localhost", 8123)),
        ("10.0.0.1:9", Address("10.0.0.1", 9)),
        ("node", Address("node", 8000)),
        ("http://[::1]:8000", Address("::1", 8000)),
        ("grpc://node", Address("node", 8001, "grpc")),
        ("grpc://node:9", Address("node", 9, "grpc")),
    ],
)
def test_address_reads_the_usual_forms(url: str, expected: Address) -> None:
    assert Address.parse(url, HTTP, GRPC) == expected


@pytest.mark.parametrize("url", ["https://x:1", "http://", "http://x:1/v2", "x:99999", "grpc://x:1"])
def test_address_refuses_others_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        Address.parse(url)


def test_address_brackets_ipv6_in_the_host_header() -> None:
    assert str(Address("::1", 5)) == "[::1]:5"
