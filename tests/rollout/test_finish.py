"""What a rollout leaves on disk: a repository whose plain names are the new version's, or exactly the old one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tests.conftest import REPOSITORY
from underpaint.deployment import Deployment
from underpaint.errors import InvalidArgument, NotFound
from underpaint.releases import FILE_NAME, Rollout
from underpaint.rollout.fleet import Server
from underpaint.rollout.repository import Repository
from underpaint.rollout.steps import Operator

NOWHERE = Server.at("127.0.0.1:9:9")  # the discard port: nobody answers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Configs as they are committed; instead of weights, a second version of next to nothing."""
    copy = tmp_path / "model_repository"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx", "__pycache__"))
    for name in Repository(copy).components:
        version = copy / name / "2"
        version.mkdir()
        (version / "model.safetensors").write_text(name)
    return copy


def config(folder: Path, model: str) -> ModelConfig:
    return text_format.Parse((folder / model / "config.pbtxt").read_text(), ModelConfig())


def loaded(folder: Path, model: str) -> list[int]:
    return list(config(folder, model).version_policy.specific.versions)


def test_a_version_on_trial_has_callers_of_its_own(folder: Path) -> None:
    Repository(folder).begin(2)
    assert loaded(folder, "tiny-l_unet") == [1, 2]
    steps = {step.model_name: step.model_version for step in config(folder, "tiny-l@2").ensemble_scheduling.step}
    assert steps == {"tiny_tokenizer": -1, "tiny-l_text_encoder": 2, "tiny-l@2_denoiser": 2, "tiny-l_vae_decoder": 2}
    assert {s.model_version for s in config(folder, "tiny-l").ensemble_scheduling.step} == {-1, 1}
    denoiser = config(folder, "tiny-l@2_denoiser")
    assert denoiser.parameters["unet"].string_value == "tiny-l_unet"
    assert denoiser.parameters["lora_twins"].string_value == "tiny-l@2_unet_lora,tiny-l@2_unet_locon"
    twin = config(folder, "tiny-l@2_unet_lora")
    assert (twin.default_model_filename, loaded(folder, twin.name)) == ("../../tiny-l_unet/2/lora.onnx", [2])
    old, new = (Deployment.load(folder / "generate" / "1", version) for version in (None, 2))
    assert (old.version, new.version) == (1, 2)
    assert all(new.variants[name].weights != old.variants[name].weights for name in old.variants)
    assert replace(new, version=1, variants=old.variants) == old


def test_what_is_withdrawn_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    repository = Repository(folder)
    repository.begin(2)
    repository.load_only(1)
    repository.clear(2)
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before


def test_what_was_promoted_becomes_the_familys_own(folder: Path, tmp_path: Path) -> None:
    Repository(folder).begin(2)
    (tmp_path / FILE_NAME).write_text(Rollout("tiny", 2, 100).to_json())
    Operator(Repository(folder), tmp_path, [NOWHERE]).finish()
    assert not list(folder.rglob("*@*"))
    assert not (tmp_path / FILE_NAME).exists()
    assert Deployment.load(folder / "generate" / "1").version == 2
    assert Deployment.load(folder / "generate_stream" / "1").version == 2
    repository = Repository(folder)
    for name in (*repository.callers, *repository.components):
        assert loaded(folder, name) == [2]
        assert (folder / name / "2").is_dir()
    assert {s.model_version for s in config(folder, "tiny-l_refine").ensemble_scheduling.step} == {-1, 2}
    assert (folder / "tiny-l_denoiser" / "2" / "scheduler_config.json").is_file()
    repository.begin(1)  # and back, since version 1 is still there
    assert config(folder, "tiny-l@1_unet_lora").default_model_filename == "../../tiny-l_unet/1/lora.onnx"


@pytest.mark.parametrize(
    ("step", "kind", "complaint"),
    [
        (lambda o: o.start(1, 10), InvalidArgument, "version: got 1; allowed: another one than 1, which serves"),
        (lambda o: o.start(3, 10), NotFound, "no version 3 in"),
        (lambda o: o.start(2, 101), InvalidArgument, "percent: got 101; allowed: 0 to 100"),
        (lambda o: o.promote(), NotFound, "no rollout is under way"),
        (lambda o: o.finish(), NotFound, "no rollout is under way"),
        (lambda o: o.abort(), NotFound, "no rollout is under way"),
        (lambda o: o.compare(), NotFound, "no rollout is under way"),
    ],
)
def test_what_cannot_be_done_is_said(folder: Path, tmp_path: Path, step, kind, complaint: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind, match=complaint):
        step(Operator(Repository(folder), tmp_path, [NOWHERE]))
    assert not (tmp_path / FILE_NAME).exists()


def test_one_rollout_at_a_time_and_promoted_before_it_is_finished(folder: Path, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(Rollout("tiny", 2, 50).to_json())
    operator = Operator(Repository(folder), tmp_path, [NOWHERE])
    with pytest.raises(InvalidArgument, match="version: got 3; allowed: 2, which is on trial"):
        operator.start(3, 10)
    with pytest.raises(InvalidArgument, match="percent: got 50; allowed: 100: promote it first"):
        operator.finish()


@pytest.mark.parametrize("address", ["localhost", "localhost:8000", "localhost:x:8002", "localhost:8000:70000"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidArgument, match="allowed: HOST:HTTP_PORT:METRICS_PORT"):
        Server.at(address)


def test_what_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no rendered model repository"):
        Repository(tmp_path)
