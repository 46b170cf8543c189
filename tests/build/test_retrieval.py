"""The towers of retrieval as graphs, from a miniature of open_clip's own classes with random weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image

from underpaint.build import retrieval
from underpaint.errors import InvalidArgument, Unavailable, Unsupported
from underpaint.triton.tokenization import PromptTokenizer


@pytest.fixture(scope="module")
def open_clip() -> Any:
    try:
        return retrieval._open_clip()
    except ModuleNotFoundError as missing:
        pytest.skip(f"the extra `retrieval` is not installed: no {missing.name}")


@pytest.fixture(scope="module")
def model(open_clip: Any) -> Any:
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    made = open_clip.CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    made.visual.preprocess_cfg = {
        "size": 32,
        "mean": (0.48, 0.46, 0.41),
        "std": (0.27, 0.26, 0.28),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    return made.eval()


@pytest.fixture(scope="module")
def towers(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    parities = retrieval.build_towers(model, folder, ((64, 64),))
    assert all(parity is not None and parity < 1e-4 for parity in parities.values())
    return folder


def run(folder: Path, name: str, **inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(folder / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["embedding"], inputs)
    return embedding


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (32, 32), (20, 30), (100, 131)])
def test_images_of_any_size_are_embedded_as_open_clip_does_it(
    open_clip: Any, model: Any, towers: Path, size: tuple[int, int]
) -> None:
    smooth = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    image = np.asarray(Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC))
    steps = open_clip.image_transform(32, is_train=False, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    with torch.no_grad():
        expected = model.encode_image(steps(Image.fromarray(image))[None], normalize=True).numpy()
    got = run(towers, "embed_image", image=image[None])
    assert np.linalg.norm(got, axis=1) == pytest.approx(1, abs=1e-5)
    assert float((got * expected).sum()) > 0.999


def test_prompts_are_embedded_as_open_clip_does_it(open_clip: Any, model: Any, towers: Path) -> None:
    ids = open_clip.SimpleTokenizer(context_length=16)(["a small red circle", "it's 2 blue squares!"])
    with torch.no_grad():
        expected = model.encode_text(ids, normalize=True).numpy()
    got = run(towers, "embed_text", input_ids=ids.numpy().astype(np.int32))
    assert np.abs(got - expected).max() < 1e-4


def test_the_tokenizer_is_open_clips(open_clip: Any) -> None:
    theirs = open_clip.SimpleTokenizer(context_length=16)
    ours = retrieval.tokenizer(list(theirs.bpe_ranks), 16)
    texts = ["a small red circle", "It's  2\nblue SQUARES, isn't it?", "naïve café 12.5%", "", "word " * 40]
    for text in texts:
        expected = theirs([text])[0].tolist()
        got = ours.encode(text).ids
        assert got == expected, text


def test_the_tokenizer_model_is_written_for_any_family(
    open_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieval.write_tokenizer("ViT-L-14", tmp_path)
    tokenize = PromptTokenizer.load(tmp_path / "embed_tokenizer" / "1")
    assert tokenize.lengths == (77,)
    ids = tokenize("a small red circle", "")["input_ids"]
    assert (ids == open_clip.get_tokenizer("ViT-L-14")(["a small red circle"]).numpy()).all()
    monkeypatch.setattr(retrieval, "_open_clip", lambda: SimpleNamespace(get_tokenizer=lambda model: object()))
    with pytest.raises(Unsupported, match="only models with CLIP's tokenizer are embedded"):
        retrieval.write_tokenizer("ViT-B-16-SigLIP", tmp_path)


def test_what_open_clip_does_not_have_is_named(open_clip: Any) -> None:
    with pytest.raises(InvalidArgument, match="retrieval: model: got 'ViT-X'"):
        retrieval.load("ViT-X", "openai")
    with pytest.raises(InvalidArgument, match="retrieval: pretrained: got 'mine'; allowed: openai"):
        retrieval.load("ViT-L-14", "mine")


def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Failed to download weights.\nCheck your connection. And so on.")

    names = {"list_models": lambda: ["ViT-L-14"], "list_pretrained_tags_by_model": lambda model: ["openai"]}
    monkeypatch.setattr(retrieval, "_open_clip", lambda: SimpleNamespace(**names, create_model=refuse))
    with pytest.raises(Unavailable, match=r"ViT-L-14 openai could not be fetched; .*: Failed to download weights$"):
        retrieval.load("ViT-L-14", "openai")


def test_another_way_of_resizing_is_refused(model: Any) -> None:
    visual = SimpleNamespace(preprocess_cfg={**model.visual.preprocess_cfg, "resize_mode": "squash"})
    with pytest.raises(Unsupported, match="only square, bicubic, shortest"):
        retrieval.Preprocessing.of(visual)  # type: ignore[arg-type]
