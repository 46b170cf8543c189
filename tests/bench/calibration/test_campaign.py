"""The campaign of a calibration, in a studio whose pictures have a quality that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bench.fakes import FakeEmbedder
from underpaint.bench.calibration import cli
from underpaint.bench.calibration.campaign import Campaign, Nearest, Plan, nearest_before
from underpaint.bench.calibration.pairs import SYSTEMS, Measurements, Pair, Requests
from underpaint.bench.calibration.plot import quality_by_similarity
from underpaint.bench.calibration.promises import Rules
from underpaint.bench.demand.workload import WorkItem
from underpaint.bench.serving.studio import Painted, Studio
from underpaint.build.tiny.scenes import render
from underpaint.cli import main
from underpaint.client.address import Address
from underpaint.client.messages import Call
from underpaint.client.serving import deployment_of
from underpaint.errors import NotFound
from underpaint.policies import Calibration
from underpaint.policies.calibration import OVER

REPOSITORY = Path(__file__).resolve().parents[3] / "model_repository"
FINISHED = np.zeros((1, 2, 2), np.float32)
PLAN = Plan(stored=8, queries=6, seed=1, small_steps=10, large_steps=25)


class FakeStudio:
    """Full pictures are true; the small one's and resumed ones are dark; refined ones are what they start from."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.calls: list[tuple[str, int]] = []
        self._interrupted_at = interrupted_at

    def _call(self, name: str, number: int) -> None:
        if len(self.calls) == self._interrupted_at:
            raise KeyboardInterrupt
        self.calls.append((name, number))

    def from_noise(self, item: WorkItem, capture_steps: Sequence[int] = ()) -> Painted:
        self._call("noise", len(capture_steps))
        latents = {step: np.full((1, 2, 2), step, np.float32) for step in capture_steps}
        return Painted(np.asarray(render(item.scene)), FINISHED, latents)

    def by_refiner(self, item: WorkItem) -> Painted:
        self._call("refiner", 0)
        return Painted(np.full((64, 64, 3), 9, np.uint8), FINISHED)

    def from_image(self, item: WorkItem, source: Painted, skip: int) -> Painted:
        self._call("image", skip)
        return Painted(source.image, FINISHED)

    def from_latents(self, item: WorkItem, latents: np.ndarray, step: int) -> Painted:
        assert (latents == step).all()
        self._call("latents", step)
        return Painted(np.zeros((64, 64, 3), np.uint8), FINISHED)


class FakeScorers:
    """Know nothing."""

    def difficulty(self, prompts: Sequence[str]) -> np.ndarray:
        return np.full(len(prompts), 0.5)

    def confidence(self, prompts: Sequence[str], pictures: np.ndarray) -> np.ndarray:
        return np.full(len(pictures), 0.25)


def test_a_plan_skips_what_the_policies_skip() -> None:
    assert PLAN.refine_skips == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert PLAN.resume_steps == [2, 5, 7, 10, 12, 17, 22]
    assert PLAN.pictures == 2 * (8 + 6) + 6 * (2 * 9 + 7)
    assert Plan(1, 1, 0, small_steps=4, large_steps=25).refine_skips == [1, 2, 3]


def test_everything_is_painted_and_judged() -> None:
    studio = FakeStudio()
    campaign = Campaign(PLAN, studio, FakeEmbedder(), FakeScorers())
    assert campaign.paint() and len(studio.calls) == PLAN.pictures
    pairs = campaign.pairs(campaign.requests())
    assert set(pairs) == set(SYSTEMS)
    assert all(len(own) == PLAN.queries for own in pairs.values())
    for pair in pairs["modm"]:
        assert pair.full > 0.8 and list(pair.by_skip) == [skip / 10 for skip in PLAN.refine_skips]
        assert len(set(pair.by_skip.values())) == 1  # this studio ignores the skip
    requests = campaign.requests()
    assert len(requests.full) == 14 and np.mean(requests.full) > 0.8 and np.mean(requests.small) < 0.3
    assert requests.difficulty == [0.5] * 14 and requests.full_confidence == requests.small_confidence == [0.25] * 14
    found = [pair.by_skip[1.0] for pair in pairs["retrieval"]]
    assert [pair.by_skip[0.5] for pair in pairs["modm_text"]] == found  # and gives back what it starts from
    assert np.mean([pair.by_skip[0.08] for pair in pairs["nirvana"]]) < 0.3
    assert [list(pair.by_skip) for pair in pairs["retrieval"]] == [[1.0]] * PLAN.queries
    assert {name: len(own) for name, own in campaign.embeddings().items()} == {"text": 14, "large": 14, "small": 14}


def test_ctrl_c_keeps_what_is_whole() -> None:
    campaign = Campaign(PLAN, FakeStudio(interrupted_at=2 * 14 + 6 * 4 + 3), FakeEmbedder())
    assert not campaign.paint()
    pairs = campaign.pairs(campaign.requests())
    assert [list(pair.by_skip) for pair in pairs["modm"]] == [[0.1, 0.2]] * PLAN.queries
    assert all(not pair.by_skip for pair in pairs["nirvana"])


def test_ctrl_c_before_there_is_anything_to_compare() -> None:
    campaign = Campaign(PLAN, FakeStudio(interrupted_at=3), FakeEmbedder())
    assert not campaign.paint() and campaign.pairs(campaign.requests()) == {}


def test_the_nearest_is_that_of_the_greatest_cosine_before() -> None:
    entries = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    texts = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], np.float32)
    assert nearest_before(texts, entries, first=2) == [Nearest(1, 0.8), Nearest(0, 0.0)]


class FakeTransport:
    address = Address("grpc", "nowhere", 1)

    def __init__(self) -> None:
        self.asked: list[Call] = []

    def infer(self, call: Call, timeout_s: float | None) -> dict[str, np.ndarray]:
        self.asked.append(call)
        image = np.zeros((1, 64, 64, 3), np.uint8)
        latents = np.zeros((1, 4, 16, 16), np.float32)
        captured = np.zeros((1, call.inputs.get("capture_steps", np.empty((1, 0))).shape[1], 4, 16, 16), np.float32)
        return {"image": image, "refined_image": image, "latents": latents, "captured_latents": captured}


@pytest.mark.parametrize("one_autoencoder", [True, False])
def test_a_studio_calls_the_ensemble_of_each_start(one_autoencoder: bool) -> None:
    transport, deployment = FakeTransport(), deployment_of(REPOSITORY)
    if not one_autoencoder:
        apart = {name: replace(each, autoencoder=name) for name, each in deployment.variants.items()}
        deployment = replace(deployment, variants=apart)
    studio = Studio(transport, deployment)  # type: ignore[arg-type]
    item = WorkItem(0, None, "a red circle", 5, None, None, 0)  # type: ignore[arg-type]
    painted = studio.from_noise(item, capture_steps=[2, 5])
    assert sorted(painted.latents) == [2, 5] and painted.latents[2].shape == (4, 16, 16)
    assert not studio.by_refiner(item).latents
    studio.from_image(item, painted, 4)
    studio.from_latents(item, painted.latents[5], 5)
    models = [call.model for call in transport.asked]
    start, refining = ("image_latents", "_resume") if one_autoencoder else ("image", "_refine")
    refiner = deployment.refiner
    assert models == [deployment.large, refiner, f"{refiner}{refining}", f"{deployment.large}_resume"]
    first, _, refine, resume = (call.inputs for call in transport.asked)
    assert first["capture_steps"].tolist() == [[2, 5]] and first["seed"].tolist() == [[5]]
    assert refine[start].shape == ((1, 4, 16, 16) if one_autoencoder else (1, 64, 64, 3))
    assert refine["start_step"].tolist() == [[4]]
    steps = deployment.variant(deployment.refiner).refinement_steps
    assert refine["num_inference_steps"].tolist() == [[steps]]
    assert resume["start_latents"].shape == (1, 4, 16, 16)


def test_a_studio_waits_while_a_model_is_restarted() -> None:
    class Restarting(FakeTransport):
        def infer(self, call: Call, timeout_s: float | None) -> dict[str, np.ndarray]:
            answer = super().infer(call, timeout_s)
            if len(self.asked) < 3:
                raise NotFound("Request for unknown model: 'tiny-l' is not found")
            return answer

    waited: list[float] = []
    studio = Studio(Restarting(), deployment_of(REPOSITORY), wait=waited.append)  # type: ignore[arg-type]
    studio.from_noise(WorkItem(0, None, "a red circle", 5, None, None, 0))  # type: ignore[arg-type]
    assert len(waited) == 2


# The command ----------------------------------------------------------------------------------------------------


def all_different(count: int) -> dict[str, list[list[float]]]:
    """Embeddings of requests in a row, the farther apart the less similar."""
    angles = np.linspace(0, np.pi / 2, count)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist()
    return dict.fromkeys(("text", "large", "small"), rows)


def saved(folder: Path, **changes: object) -> Path:
    """Measurements of the deployed models: everything above .9 is as good as new."""
    deployment = deployment_of(REPOSITORY)
    similarities = np.linspace(0.6, 1.0, 400)
    pairs = tuple(Pair(float(s), 1.0, {0.2: float(s > 0.9), 0.4: float(s > 0.95)}) for s in similarities)
    measured = Measurements(
        deployment.embedder,
        deployment.variant(deployment.refiner).weights,
        deployment.variant(deployment.large).weights,
        dict.fromkeys(SYSTEMS, pairs),
        Requests([1.0] * 40, [0.8] * 40),
        dict.fromkeys(SYSTEMS, 1.0),
        all_different(40),
    )
    path = folder / "measured.json"
    Measurements(**{**vars(measured), **changes}).save(path)  # type: ignore[arg-type]
    return path


def test_thresholds_come_from_saved_measurements(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not deployment_of(REPOSITORY).embedder:
        pytest.skip("the repository has no embedders")
    output, plot = tmp_path / "a95.json", tmp_path / "plot.png"
    arguments = ["--load", str(saved(tmp_path)), "--alpha", "0.95", "--output", str(output), "--plot", str(plot)]
    assert main(["calibrate", "--model-repository", str(REPOSITORY), *arguments]) == 0
    written = Calibration.from_json(output.read_text())
    assert written.alpha == 0.95 and [row.skip for row in written.modm.rows] == [0.4, 0.2]
    assert written.modm.reach == pytest.approx(0.9, abs=0.04)
    assert plot.stat().st_size > 5000
    assert "modm: 40% from" in capsys.readouterr().out


def test_over_all_requests_more_can_be_reused(tmp_path: Path) -> None:
    similarities = np.linspace(0.6, 1.0, 400)
    pairs = tuple(Pair(float(s), 1.0, {skip: float(1 - skip * (1 - s)) for skip in (0.4, 0.5)}) for s in similarities)
    saved(tmp_path, pairs=dict.fromkeys(SYSTEMS, pairs))
    tables = []
    for over in OVER:
        output = tmp_path / f"{over}.json"
        arguments = ["--load", str(tmp_path / "measured.json"), "--over", over, "--output", str(output)]
        assert main(["calibrate", "--model-repository", str(REPOSITORY), "--alpha", "0.98", *arguments]) == 0
        tables.append(Calibration.from_json(output.read_text()))
    assert [table.over for table in tables] == list(OVER)
    on_hits, over_all = (sum(table.modm.skip(similarity / 1000) for similarity in range(600, 1001)) for table in tables)
    assert over_all > on_hits  # some hits are wrong, since the misses are right


@pytest.mark.parametrize(
    ("changes", "code"), [({"small": "another"}, 2), ({"complete": False}, 130)], ids=["misfit", "interrupted"]
)
def test_what_does_not_fit_is_not_written(tmp_path: Path, changes: dict[str, object], code: int) -> None:
    output = tmp_path / "a.json"
    arguments = ["--load", str(saved(tmp_path, **changes)), "--output", str(output)]
    assert main(["calibrate", "--model-repository", str(REPOSITORY), *arguments]) == code
    assert not output.exists()


def test_too_few_pairs_can_be_drawn(tmp_path: Path) -> None:
    pairs = dict.fromkeys(SYSTEMS, (Pair(0.9, 1.0, {0.2: 1.0}),))
    measured = Measurements(
        "e", "s", "l", pairs, Requests([1.0] * 3, [0.8] * 3), dict.fromkeys(SYSTEMS, 1.0), all_different(3)
    )
    for over in OVER:
        calibration = cli.calibrate(measured, 0.98, over)
        quality_by_similarity(measured, calibration, tmp_path / "plot.png")
        assert "never" in cli.text("modm", measured, Rules(calibration.modm))
