"""A recipe that cannot be served says which file, which variant, which value, and what is allowed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from underpaint.build.recipes import FamilyRecipe, VariantRecipe, load_recipe
from underpaint.build.repository import FAMILIES
from underpaint.errors import InvalidArgument

VARIANT = """
[[variants]]
name = "fast"
sizes = [[64, 32], [32, 64]]
num_inference_steps = 10
max_inference_steps = 50
guidance_scale = 3.0
max_guidance_scale = 20
max_rows = 8
"""
RECIPE = f"""
name = "two"
small = "fast"
large = "fine"
{VARIANT}
{VARIANT.replace("fast", "fine")}
unet_instances = 2
unet_threads = 4
unet_timeout_s = 30
"""


def load(tmp_path: Path, text: str) -> FamilyRecipe:
    path = tmp_path / "two.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def test_a_recipe_is_read_as_it_is_written(tmp_path: Path) -> None:
    fast = VariantRecipe("fast", ((64, 32), (32, 64)), 10, 50, 3.0, 20, 8)
    fine = VariantRecipe("fine", ((64, 32), (32, 64)), 10, 50, 3.0, 20, 8, 2, 4, 30)
    assert load(tmp_path, RECIPE) == FamilyRecipe("two", "fast", "fine", (fast, fine))
    assert (fast.unet_instances, fast.unet_threads) == (1, 1)


@pytest.mark.parametrize("path", sorted(FAMILIES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_committed_recipe_is_sound(path: Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # names
        ('small = "fast"', 'small = "tiny"', r"^two.toml: two: small: got 'tiny'; allowed: fast, fine$"),
        ('large = "fine"', 'large = ""', r"^two.toml: two: large: got ''; allowed: fast, fine$"),
        ('large = "fine"', 'large = "fine"\nretrieval_model = "a"', r"two: retrieval_model: got 'a'; allowed: .*clip"),
        ('name = "fine"', 'name = "fast"', r"variants: got 'fast twice'; allowed: each name once"),
        ('name = "fine"', 'name = "../fine"', r"\.\./fine: name: got '\.\./fine'; allowed: lower-case"),
        ('name = "fine"', 'name = "fast_refine"', r"name: got 'fast_refine'; .*underscore"),
        ('name = "fine"', 'name = "generate"', r"name: got 'generate'"),
        ('name = "two"', 'name = "Two Families"', r"name: got 'Two Families'"),
        # keys
        ("max_rows = 8", "max_row = 8", r"^two.toml: fast: key: got 'max_row'; allowed: .*max_rows"),
        ("max_rows = 8\n", "", r"^two.toml: fast: max_rows missing$"),
        ('small = "fast"\n', "", r"^two.toml: two: small missing$"),
        # types
        ("max_rows = 8", 'max_rows = "8"', r"^two.toml: fast: max_rows: got '8'; allowed: an integer$"),
        ("max_rows = 8", "max_rows = true", r"max_rows: got True; allowed: an integer"),
        ("max_rows = 8", "max_rows = 8.0", r"max_rows: got 8.0; allowed: an integer"),
        ("guidance_scale = 3.0", 'guidance_scale = "3"', r"guidance_scale: got '3'; allowed: a number"),
        ('name = "two"', "name = 2", r"name: got 2; allowed: a string"),
        ("unet_threads = 4", "unet_threads = []", r"fine: unet_threads: got \[\]; allowed: an integer"),
        # values
        ("num_inference_steps = 10", "num_inference_steps = 0", r"num_inference_steps: got 0; allowed: 1 to 50"),
        ("num_inference_steps = 10", "num_inference_steps = 51", r"num_inference_steps: got 51; allowed: 1 to 50"),
        ("max_inference_steps = 50", "max_inference_steps = 0", r"max_inference_steps: got 0; allowed: 1 or more"),
        ("guidance_scale = 3.0", "guidance_scale = 21", r"guidance_scale: got 21; allowed: 0 to 20"),
        ("guidance_scale = 3.0", "guidance_scale = -1.0", r"guidance_scale: got -1.0"),
        ("guidance_scale = 3.0", "guidance_scale = nan", r"guidance_scale: got nan"),
        ("max_guidance_scale = 20", "max_guidance_scale = inf", r"max_guidance_scale: got inf"),
        ("max_rows = 8", "max_rows = 0", r"max_rows: got 0; allowed: 2 or more, what one request takes"),
        ("max_rows = 8", "max_rows = 1", r"max_rows: got 1; allowed: 2 or more"),
        ("unet_instances = 2", "unet_instances = 0", r"fine: unet_instances: got 0"),
        ("unet_threads = 4", "unet_threads = 0", r"fine: unet_threads: got 0"),
        ("unet_timeout_s = 30", "unet_timeout_s = 0", r"fine: unet_timeout_s: got 0"),
        # where it is built from, and where it runs
        ("max_rows = 8", 'max_rows = 8\nkind = "tpu"', r"fast: kind: got 'tpu'; allowed: auto, cpu, gpu"),
        ("max_rows = 8", 'max_rows = 8\nprecision = "int4"', r"precision: got 'int4'; allowed: float32, float16"),
        ("max_rows = 8", "max_rows = 8\nvae_batch = 0", r"vae_batch: got 0; allowed: 1 or more"),
        ("max_rows = 8", 'max_rows = 8\nrepo_id = "a/b"', r"revision: got ''; allowed: a commit of the hub"),
        ("max_rows = 8", 'max_rows = 8\nnetwork_file = "c"', r"network_file: got 'c'; allowed: given with its repo_id"),
        ("max_rows = 8", 'max_rows = 8\nscheduler = "ddim"', r"scheduler: got 'ddim'; allowed: a table"),
        # sizes
        *[
            ("[[64, 32], [32, 64]]", sizes, r"^two.toml: fast: sizes: got .*; allowed: one or more \[width, height\]")
            for sizes in ("[]", "[64, 64]", "64", "[[64]]", "[[64, 64, 3]]", "[[64, 0]]", "[[64, 64.0]]", '"64x64"')
        ],
    ],
)
def test_what_cannot_be_served_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(InvalidArgument, match=message):
        load(tmp_path, RECIPE.replace(old, new, 1))


def test_a_model_without_guidance_needs_one_row(tmp_path: Path) -> None:
    text = RECIPE.replace("guidance_scale = 3.0", "guidance_scale = 1.0").replace("= 20", "= 1.0")
    assert load(tmp_path, text.replace("max_rows = 8", "max_rows = 1")).variants[0].max_rows == 1


@pytest.mark.parametrize("text", ['name = "two', "variants = 3", "[variants]\nname = 'fast'", "variants = ['fast']"])
def test_what_is_no_recipe_at_all_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^two.toml"):
        load(tmp_path, text)


def test_a_variant_may_be_described_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('name = "one"\nsmall = "fast"\nlarge = "fast"\n' + VARIANT, encoding="utf-8")
    mine = '[[variants]]\nname = "fast"\nrecipe = "one"\nnum_inference_steps = 20\n'
    (pair,) = load(tmp_path, 'name = "two"\nsmall = "fast"\nlarge = "fast"\n' + mine).variants
    assert pair == replace(load_recipe(tmp_path / "one.toml").variants[0], num_inference_steps=20)
    for old, new in (('recipe = "one"', 'recipe = "none"'), ('name = "fast"\nrecipe', 'name = "slow"\nrecipe')):
        with pytest.raises(
            InvalidArgument, match=r"two\.toml: (fast|slow): recipe: got '(one|none)'; allowed: a recipe"
        ):
            load(tmp_path, 'name = "two"\nsmall = "fast"\nlarge = "fast"\n' + mine.replace(old, new))


def test_the_pairs_of_the_papers_are_there() -> None:
    """DiffServe's cascades (arXiv 2411.15381) but for SDXS, MoDM's pairs (ASPLOS 2025) and HADIS' models."""
    pairs = {load_recipe(path).name: load_recipe(path) for path in FAMILIES.glob("*.toml")}
    steps = {
        (recipe.small, recipe.large): tuple(v.num_inference_steps for v in recipe.variants) for recipe in pairs.values()
    }
    assert steps["sd-turbo", "sd15"] == (1, 50)
    assert (pairs["sdxl-lightning"].small, pairs["sdxl-lightning"].large) == ("sdxl-lightning", "sdxl")
    for small in ("sdxl", "sana"):
        for large in ("sd35-large", "flux-dev"):
            assert steps[small, large] == (50, 50)
    assert {v.name: (v.num_inference_steps, v.guidance_scale) for v in pairs["hadis"].variants} == {
        "sdxl-lightning": (2, 0.0),
        "sd35-large-turbo": (4, 0.0),
        "sd35-medium": (50, 7.0),
        "sd35-large": (50, 7.0),
    }


def test_every_family_that_is_built_finds_similar_pictures() -> None:
    for path in FAMILIES.glob("*.toml"):
        recipe = load_recipe(path)
        if any(variant.repo_id for variant in recipe.variants):
            named = (recipe.clip, recipe.retrieval_model, recipe.retrieval_pretrained)
            assert named == (True, "ViT-L-14", "openai"), path.name
        for variant in recipe.variants:
            assert len(variant.revision) in (0, 40), variant.name


def test_a_recipe_without_variants_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"small: got 'a'; allowed: the name of a \[\[variants\]\] table"):
        load(tmp_path, 'name = "two"\nsmall = "a"\nlarge = "a"')


def test_an_unknown_family_is_refused_and_the_known_ones_listed(tmp_path: Path) -> None:
    load(tmp_path, RECIPE)
    with pytest.raises(InvalidArgument, match=r"^family: got 'three'; allowed: two$"):
        load_recipe(tmp_path / "three.toml")
