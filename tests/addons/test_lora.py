"""Reading LoRA files: every format says the same, and what is wrong is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.addons.making import KINDS, LAYERS, LAYOUTS, TEXT, UNET, factors, lora_file
from underpaint.addons.lora import Lora, read_lora
from underpaint.errors import InvalidArgument, Unsupported

TOLERANCE = 2e-3  # of float16, relative


def product(part: np.ndarray, name: str) -> np.ndarray:
    """up · down of a layer, [out, kernel · kernel · in], from its place in the bank."""
    layer, begin = UNET.by_name[name], UNET.offsets[name]
    flat = part.astype(np.float32)
    down, up = flat[:, begin : begin + layer.down], flat[:, begin + layer.down : begin + layer.down + layer.outputs]
    return up.T @ down


def expected(name: str, rank: int = 2, scale: float = 1.0) -> np.ndarray:
    down, up = factors(rank)[name]
    window = np.einsum("or,rikl->okli", up, down)[:, ::-1, ::-1]  # turned round, channels last
    return scale * window.reshape(len(up), -1)


def assert_is(lora: Lora, rank: int = 2, scale: float = 1.0) -> None:
    assert lora.unet is not None and lora.unet.dtype == np.float16 and lora.unet.shape == (rank, UNET.width)
    for layer in LAYERS:
        wanted = expected(layer.name, rank, scale)
        np.testing.assert_allclose(product(lora.unet, layer.name), wanted, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read(kind: str) -> None:
    text = factors(2, 1, TEXT.layers)
    lora = read_lora("x", lora_file(factors(), text, kind), LAYOUTS)
    assert_is(lora)
    assert lora.text_encoder is not None and np.any(lora.text_encoder)


def test_alpha_is_honoured_wherever_it_is_said() -> None:
    assert_is(read_lora("x", lora_file(factors(), kind="kohya", alpha=8), LAYOUTS), scale=4)
    assert_is(read_lora("x", lora_file(factors(), kind="peft"), LAYOUTS, {"r": 2, "lora_alpha": 1}), scale=0.5)
    rooted = {"lora_alpha": 2, "use_rslora": True}
    assert_is(read_lora("x", lora_file(factors(), kind="peft"), LAYOUTS, rooted), scale=2**0.5)
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 6, "unet.r": 2})}
    assert_is(read_lora("x", lora_file(factors(), metadata=metadata), LAYOUTS), scale=3)


def test_a_large_alpha_over_small_factors_keeps_its_digits() -> None:
    small = {name: (down * 1e-6, up * 1e-3) for name, (down, up) in factors().items()}
    lora = read_lora("x", lora_file(small, kind="kohya", alpha=2e9), LAYOUTS)
    assert_is(lora)


def test_layers_that_a_file_leaves_out_stay_as_they_are() -> None:
    one = {LAYERS[0].name: factors()[LAYERS[0].name]}
    lora = read_lora("x", lora_file(one), LAYOUTS)
    assert lora.unet is not None and lora.text_encoder is None
    assert lora.unet.shape == (2, UNET.narrow_width)
    other = {LAYERS[1].name: factors()[LAYERS[1].name]}
    wide = read_lora("x", lora_file(other), LAYOUTS)
    assert wide.unet is not None and wide.unet.shape == (2, UNET.width)
    assert not product(wide.unet, LAYERS[0].name).any()


def test_a_file_that_is_cut_off_anywhere_is_refused() -> None:
    whole = lora_file(factors())
    for length in (0, 4, 60, len(whole) // 2, len(whole) - 1):
        with pytest.raises(InvalidArgument, match="LoRA x"):
            read_lora("x", whole[:length], LAYOUTS)


def test_what_is_no_safetensors_file_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="safetensors"):
        read_lora("x", b"\x10" + bytes(7) + b"<html>not found!</html>", LAYOUTS)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_must_be_finite(bad: float) -> None:
    broken = factors()
    broken[LAYERS[0].name][0][0, 0] = bad
    with pytest.raises(InvalidArgument, match="not finite"):
        read_lora("x", lora_file(broken), LAYOUTS)
    with pytest.raises(InvalidArgument, match="not finite"):
        read_lora("x", lora_file(factors(), kind="kohya", alpha=bad), LAYOUTS)


def test_a_rank_above_the_maximum_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"rank: got 9; allowed: 1 to 8"):
        read_lora("x", lora_file(factors(rank=9)), LAYOUTS)


def test_another_base_is_refused() -> None:
    stranger = {"up_blocks.7.attn.to_q": factors()[LAYERS[0].name]}
    with pytest.raises(InvalidArgument, match=r"up_blocks\.7"):
        read_lora("x", lora_file(stranger), LAYOUTS)
    wider = {LAYERS[0].name: (np.ones((2, 7, 1, 1), np.float32), np.ones((4, 2), np.float32))}
    with pytest.raises(InvalidArgument, match="not made for micro"):
        read_lora("x", lora_file(wider), LAYOUTS)
    with pytest.raises(InvalidArgument, match=r"got 'other'; allowed: 'micro'|got 'other'; allowed: micro"):
        read_lora("x", lora_file(factors(), metadata={"underpaint.base": "other"}), LAYOUTS)


def test_one_factor_alone_is_refused() -> None:
    from safetensors.numpy import load, save

    tensors = load(lora_file(factors()))
    del tensors["unet.mid_block.attn.to_q.lora_B.weight"]
    with pytest.raises(InvalidArgument, match="both, up and down"):
        read_lora("x", save(tensors), LAYOUTS)


@pytest.mark.parametrize("end", ["dora_scale", "lokr_w1", "hada_w1_a"])
def test_other_kinds_of_adapter_are_unsupported(end: str) -> None:
    from safetensors.numpy import save

    with pytest.raises(Unsupported, match=end):
        read_lora("x", save({f"lora_unet_mid_block_attn_to_q.{end}": np.ones(3, np.float32)}), LAYOUTS)


def test_bfloat16_is_read() -> None:
    """Written by hand, since numpy has no such type: 1.5 is 0x3FC0."""
    header = {
        f"unet.mid_block.attn.to_q.lora_{letter}.weight": {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        for letter, shape, offsets in (("A", [1, 6], [0, 12]), ("B", [4, 1], [12, 20]))
    }
    encoded = json.dumps(header).encode()
    content = len(encoded).to_bytes(8, "little") + encoded + np.full(10, 0x3FC0, "<u2").tobytes()
    lora = read_lora("x", content, LAYOUTS)
    assert lora.unet is not None
    np.testing.assert_allclose(product(lora.unet, "mid_block.attn.to_q"), 2.25, rtol=TOLERANCE)
