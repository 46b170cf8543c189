"""The embedded Triton server: start it, watch over it, stop it without leaving anything behind."""

from underpaint.server.embedded import EmbeddedServer
from underpaint.server.options import ServerOptions

__all__ = ["EmbeddedServer", "ServerOptions"]
