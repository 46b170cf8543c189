"""The Python SDK: pictures from an underpaint server, in one line.

    from underpaint.client import Client

    with Client("localhost:8001") as client:
        client.generate("a small red circle on a blue background", seed=1).save("circle.png")

``AsyncClient`` is the same with ``await``. Failures are the classes of ``underpaint.errors``.
"""

from underpaint.client.async_client import AsyncClient
from underpaint.client.pictures import Picture, Progress
from underpaint.client.sync_client import Client

__all__ = ["AsyncClient", "Client", "Picture", "Progress"]
