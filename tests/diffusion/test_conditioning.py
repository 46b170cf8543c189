"""What networks are told, row by row."""

from __future__ import annotations

import numpy as np

from tests.diffusion.test_orders import CANVAS, SCHEDULERS, order
from underpaint.diffusion.conditioning import Conditioning
from underpaint.diffusion.denoiser import Denoiser
from underpaint.diffusion.orders import Canvas, begin
from underpaint.diffusion.prediction import by_name


def full(value: float) -> Conditioning:
    """Every part, filled with one number."""
    return Conditioning(
        np.full((3, 2), value, np.float32),
        pooled=np.full(4, value, np.float32),
        mask=np.full(3, value, np.int32),
        guidance=np.array(value, np.float32),
    )


def test_rows_are_stacked_and_taken_apart_part_by_part() -> None:
    some = Conditioning.stack([full(0), full(1), full(2)])[np.array([2, 0])]
    inputs = some.inputs()
    assert {name: part.shape for name, part in inputs.items()} == {
        "encoder_hidden_states": (2, 3, 2),
        "pooled_projections": (2, 4),
        "encoder_attention_mask": (2, 3),
        "guidance": (2,),
    }
    assert all(part[0].max() == 2 and part[1].max() == 0 for part in inputs.values())


def test_what_a_class_does_not_take_is_no_input() -> None:
    assert set(Conditioning.stack([Conditioning(np.zeros((3, 2)))]).inputs()) == {"encoder_hidden_states"}


def test_a_text_that_is_read_again_keeps_what_is_not_text() -> None:
    again = full(1).read_again(Conditioning(np.full((3, 2), 5.0)))
    assert (again.embeds.max(), again.pooled.max(), again.mask.max(), again.guidance) == (5, 1, 1, 1)


def test_weights_that_are_told_the_scale_take_one_row() -> None:
    canvas = Canvas(CANVAS.latent_channels, CANVAS.vae_scale_factor, CANVAS.sizes, guidance_embeds=True)
    trajectory = begin(order(guidance_scale=3.5), canvas, SCHEDULERS)
    seen = {}

    def network(sample: np.ndarray, timestep: np.ndarray, conditioning: Conditioning):
        seen.update(conditioning.inputs())
        return lambda: np.zeros_like(sample)

    Denoiser(network, by_name("v_prediction")).advance([trajectory])
    assert trajectory.rows == 1
    np.testing.assert_array_equal(seen["guidance"], np.array([3.5], np.float32))
