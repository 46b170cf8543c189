"""The SDK and the commands against a real tritonserver."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from PIL import Image

from underpaint.cli import main
from underpaint.client import AsyncClient, Client, Picture, Progress
from underpaint.client.messages import MODEL, STREAM_MODEL, Call
from underpaint.client.transport import Transport, connect
from underpaint.errors import Cancelled, DeadlineExceeded, InvalidArgument, NotFound
from underpaint.images import read_metadata

pytestmark = pytest.mark.server

PROMPT = "a small red circle above a large striped blue square, on a yellow background"
EXAMPLES = Path(__file__).resolve().parents[2] / "client"
LONG = 200  # steps; long enough to be interrupted
LARGE = "tiny-l"  # which paints what names no variant


@pytest.fixture(params=["grpc", "http"])
def url(server: Any, request: pytest.FixtureRequest) -> str:
    return server.grpc_url if request.param == "grpc" else server.http_url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=60.0) as client:
        client.wait_ready()
        yield client


@pytest.fixture
def streaming(server: Any) -> Iterator[Client]:
    with Client(server.grpc_url, timeout_s=60.0) as client:
        yield client


def in_flight(server: Any) -> int:
    """Requests that the front doors hold at the moment."""
    heartbeat = {"op": np.array([b"heartbeat"], np.object_)}
    transport: Transport = connect(server.grpc_url)
    plain = transport.infer(Call(MODEL, heartbeat, {}), 10.0)
    [streamed] = transport.stream(Call(STREAM_MODEL, heartbeat, {}), 10.0)  # to its end: see ``sync_client``
    transport.close()
    return sum(json.loads(answer["outcome"].item())["in_flight"] for answer in (plain, streamed))


def until(server: Any, expected: int, within_s: float = 60.0) -> None:
    give_up_at = time.monotonic() + within_s
    while in_flight(server) != expected:
        assert time.monotonic() < give_up_at, f"not {expected} in flight within {within_s} s"
        time.sleep(0.05)


def painted(server: Any) -> int:
    """Images that the large variant has finished so far."""
    with grpcclient.InferenceServerClient(server.grpc_url) as triton:
        statistics = triton.get_inference_statistics(LARGE)
    return int(statistics.model_stats[0].inference_stats.success.count)


@pytest.fixture
def nothing_left(server: Any) -> Iterator[None]:
    """What the test asks for is given up by the server too, rather than finished."""
    before = painted(server)
    yield
    until(server, 0)
    assert painted(server) == before


def test_generate(client: Client) -> None:
    picture = client.generate(PROMPT, seed=1, num_inference_steps=4)
    assert picture.image.shape == (64, 64, 3) and picture.image.dtype == np.uint8
    assert picture.outcome.seed == 1 and picture.outcome.steps_run == 4 and picture.outcome.prompt == PROMPT
    assert picture.outcome.timings_ms.total > 0
    again = client.generate(PROMPT, seed=1, num_inference_steps=4)
    assert np.abs(again.image.astype(int) - picture.image).max() <= 2


def test_errors_have_their_classes(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="num_inference_steps: got 5000; allowed: 1 to"):
        client.generate(PROMPT, num_inference_steps=5000)
    with pytest.raises(NotFound, match="nobody"):
        client.cancel("nobody")
    with pytest.raises(DeadlineExceeded, match="deadline passed"):
        client.generate(PROMPT, num_inference_steps=LONG, deadline_ms=150)


@pytest.mark.usefixtures("nothing_left")
def test_cancelling_by_id(client: Client, server: Any) -> None:
    canceller = threading.Thread(target=lambda: (until(server, 1), client.cancel("unwanted")))
    canceller.start()
    with pytest.raises(Cancelled):
        client.generate(PROMPT, num_inference_steps=LONG, request_id="unwanted")
    canceller.join()  # or its call would end with the client's channel, at a moment that the server may not survive


@pytest.mark.usefixtures("nothing_left")
def test_a_client_that_gives_up_leaves_nothing_behind(url: str) -> None:
    with Client(url, timeout_s=0.3) as hasty, pytest.raises(DeadlineExceeded, match="within"):
        hasty.generate(PROMPT, num_inference_steps=LONG)


@pytest.mark.usefixtures("nothing_left")
def test_a_cancelled_task_leaves_nothing_behind(url: str, server: Any) -> None:
    async def main() -> None:
        async with AsyncClient(url) as client:
            task = asyncio.create_task(client.generate(PROMPT, num_inference_steps=LONG))
            await asyncio.to_thread(until, server, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(until, server, 0)

    asyncio.run(main())


def test_several_at_once(url: str) -> None:
    async def main() -> list[Picture]:
        async with AsyncClient(url) as client:
            await client.wait_ready()
            return await asyncio.gather(*(client.generate(PROMPT, seed=s, num_inference_steps=4) for s in range(8)))

    assert [picture.outcome.seed for picture in asyncio.run(main())] == list(range(8))


def test_a_stream_counts_up_to_its_picture(streaming: Client) -> None:
    *steps, picture = streaming.stream(PROMPT, seed=1, num_inference_steps=60)
    assert isinstance(picture, Picture) and steps
    assert all(isinstance(step, Progress) and step.total == 60 for step in steps)
    assert [step.step for step in steps] == sorted({step.step for step in steps})
    previews = [step.preview for step in steps if step.preview is not None]  # not of every step
    assert previews and all(preview.shape == (64, 64, 3) for preview in previews)
    plain = streaming.generate(PROMPT, seed=1, num_inference_steps=60)
    assert np.abs(plain.image.astype(int) - picture.image).max() <= 2


def test_a_stream_reports_errors_by_class(streaming: Client) -> None:
    with pytest.raises(InvalidArgument, match="variant: got 'nope'"):
        list(streaming.stream(PROMPT, variant="nope"))


@pytest.mark.usefixtures("nothing_left")
def test_leaving_a_stream_early_leaves_nothing_behind(streaming: Client, server: Any) -> None:
    events = streaming.stream(PROMPT, num_inference_steps=LONG)
    next(events)
    assert in_flight(server) == 1
    events.close()


# The commands ---------------------------------------------------------------------------------------------------


def test_the_command_writes_what_it_says(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--seed", "3", "--num-inference-steps", "4", "--url", url]
    assert main(["generate", PROMPT, "-n", "2", "-o", str(tmp_path / "x.png"), *options]) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line.split()[:3] for line in lines] == [[str(tmp_path / f"x-{s}.png"), "seed", str(s)] for s in (3, 4)]
    metadata = read_metadata((tmp_path / "x-4.png").read_bytes())
    assert metadata["seed"] == 4 and metadata["prompt"] == PROMPT
    assert Image.open(tmp_path / "x-3.png").size == (64, 64)


def test_the_report_as_json(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--num-inference-steps", "4", "--url", url, "--json"]
    assert main(["generate", PROMPT, "-o", str(tmp_path / "x.png"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["steps_run"] == 4


def test_a_refusal_of_the_server_is_one_sentence(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", PROMPT, "--num-inference-steps", "5000", "--url", server.grpc_url]) == 2
    assert capsys.readouterr().err.startswith("underpaint: num_inference_steps: got 5000; allowed: 1 to")


@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_withdraws_the_requests(url: str, server: Any, tmp_path: Path) -> None:
    options = ["-n", "2", "--num-inference-steps", str(LONG), "--url", url]
    command = [sys.executable, "-m", "underpaint.cli", "generate", PROMPT, *options]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        until(server, 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(30.0) == 130
        assert process.stderr is not None and "withdrawn" in process.stderr.read()
    assert not list(tmp_path.iterdir())


def test_the_demo_on_a_running_server(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--variant", "tiny-s", "--url", server.grpc_url, "--out", str(tmp_path / "out")]
    assert main(["demo", *options]) == 0
    assert "tiny-s: 8 pictures at once" in capsys.readouterr().out
    assert Image.open(tmp_path / "out" / "contact_sheet.png").width > 1000


# The examples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["generate.py", "generate_async.py", "tritonclient_http.py", "curl.sh"])
def test_the_examples_run(name: str, server: Any, tmp_path: Path) -> None:
    """As a user would run them, in a folder of their own."""
    address = {
        "tritonclient_http.py": server.http_url.removeprefix("http://"),
        "curl.sh": server.http_url,
    }.get(name, server.grpc_url)
    interpreter = ["sh"] if name.endswith(".sh") else [sys.executable]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*interpreter, str(EXAMPLES / name), address],
        cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for path_of_image in tmp_path.glob("*.png"):
        assert Image.open(path_of_image).size == (64, 64)
    assert list(tmp_path.glob("*.png"))


def test_perf_analyzers_rows_are_inputs_of_generate() -> None:
    from underpaint.requests import GenerateRequest

    rows = json.loads((EXAMPLES / "perf_analyzer" / "prompts.json").read_text())["data"]
    for row in rows:
        assert all(len(values) == 1 for values in row.values())
        GenerateRequest.parse({name: values[0] for name, values in row.items()})
