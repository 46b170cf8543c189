"""The scheme of a URL picks the protocol; without one it is gRPC."""

import pytest

from underpaint.client.address import Address
from underpaint.errors import InvalidArgument


@pytest.mark.parametrize(
    ("url", "scheme", "target"),
    [
        ("localhost:8001", "grpc", "localhost:8001"),
        ("localhost", "grpc", "localhost:8001"),
        ("grpc://gpu-3:9001", "grpc", "gpu-3:9001"),
        ("http://localhost", "http", "localhost:8000"),
        ("http://10.0.0.1:80/", "http", "10.0.0.1:80"),
        ("[::1]:8001", "grpc", "[::1]:8001"),
    ],
)
def test_urls(url: str, scheme: str, target: str) -> None:
    address = Address.parse(url)
    assert (address.scheme, address.target) == (scheme, target)


@pytest.mark.parametrize("url", ["", "ftp://x", "localhost:port", "http://", "localhost:8001/v2", "localhost:99999"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(InvalidArgument, match="url: got"):
        Address.parse(url)
