"""Where a server is, and which protocol its port speaks."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from underpaint.errors import InvalidArgument

DEFAULT_URL = "localhost:8001"
_DEFAULT_PORTS = {"grpc": 8001, "http": 8000}


@dataclass(frozen=True)
class Address:
    """``scheme`` is grpc or http."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``host:port`` (gRPC), ``grpc://host:port`` or ``http://host:port``; Triton's usual ports by default.

        Raises:
            InvalidArgument: it is none of these.
        """
        try:
            parts = urlsplit(url if "://" in url else f"grpc://{url}")
            port = parts.port
        except ValueError:
            raise _invalid(url) from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path.strip("/"):
            raise _invalid(url)
        return cls(parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme])

    @property
    def target(self) -> str:
        """``host:port``, as sockets and people write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _invalid(url: str) -> InvalidArgument:
    return InvalidArgument.of("url", url, "host:port, grpc://host:port or http://host:port")
