"""Questions to the denoisers, and what their answers mean."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.front_door.fake_server import FakeServer, run
from underpaint.errors import Unavailable
from underpaint.front_door.denoisers import Denoisers


def test_cancel_tells_whether_the_request_was_there() -> None:
    server = FakeServer(elsewhere={"here"})
    denoisers = Denoisers(server)
    assert run(denoisers.cancel("big", "here")) is True
    assert run(denoisers.cancel("big", "gone")) is False
    assert run(denoisers.cancel("little", "here")) is False
    assert server.asked == [("big", "cancel", "here"), ("big", "cancel", "gone"), ("little", "cancel", "here")]


def test_peek_tells_how_far_a_request_is() -> None:
    denoisers = Denoisers(FakeServer(elsewhere={"here"}))
    glimpse = run(denoisers.peek("big", "here"))
    assert glimpse is not None
    assert (glimpse.step, glimpse.num_inference_steps) == (3, 25)
    assert glimpse.latents is not None
    assert glimpse.latents.shape == (1, 2, 2, 2)
    assert run(denoisers.peek("big", "gone")) is None


def test_a_pulse_is_the_time_since_which_the_process_lives() -> None:
    server = FakeServer(alive_since_ns=123)
    assert run(Denoisers(server).alive_since("big")) == 123
    server.dead = {"big"}
    assert run(Denoisers(server).alive_since("big")) is None


def test_a_dead_denoiser_is_not_mistaken_for_one_that_does_not_know_the_request() -> None:
    async def scenario() -> None:
        denoisers = Denoisers(FakeServer(dead={"big"}))
        for question in (denoisers.cancel("big", "mine"), denoisers.peek("big", "mine")):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(question, 5)

    run(scenario())


def test_a_preview_is_the_decoders_image_without_its_batch_dimension() -> None:
    image = run(Denoisers(FakeServer()).preview("big", np.full((1, 2, 2, 2), 9, np.float32)))
    assert image.shape == (4, 6, 3)
    assert np.unique(image).tolist() == [9]
