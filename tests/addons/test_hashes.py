"""Add-ons by what their files hold."""

from __future__ import annotations

import os
from pathlib import Path

from underpaint.addons.hashes import AddonHashes


def test_a_lora_is_what_its_file_and_its_config_hold(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, content in ((first, b"one"), (second, b"two")):
        folder.mkdir()
        (folder / "night.safetensors").write_bytes(content)
    hashes = AddonHashes(tmp_path, ["https://example.org/loras", str(first), str(second)])
    one = hashes.lora("night")
    assert len(one) == 16 and one == hashes.lora("night")
    assert (
        one == AddonHashes(tmp_path, [str(first)]).lora("night") != AddonHashes(tmp_path, [str(second)]).lora("night")
    )
    (first / "night.json").write_text('{"lora_alpha": 8}')
    assert hashes.lora("night") != one, "alpha is part of it"
    assert hashes.lora("nobody") == ""


def test_a_file_that_is_replaced_is_read_again_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "night.safetensors"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    hashes = AddonHashes(tmp_path, [str(tmp_path)])
    one = hashes.lora("night")
    with path.open("r+b") as file:  # for all that can be told without reading it, nothing has happened
        file.write(b"two")
    os.utime(path, ns=(1, 1))
    assert hashes.lora("night") == one
    os.utime(path, ns=(2, 2))
    assert hashes.lora("night") != one


def test_a_controlnet_is_what_its_weights_are(tmp_path: Path) -> None:
    folder = tmp_path / "controlnet_layout" / "1"
    folder.mkdir(parents=True)
    hashes = AddonHashes(tmp_path, [])
    assert hashes.controlnet("layout") == ""
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    assert len(hashes.controlnet("layout")) == 16
