"""The honest rows: same steps, same labels, equal bytes; fresh subsets; full data cached; tasks as pure functions."""

import json
from functools import partial
from types import SimpleNamespace

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ddcore import evaluate, randomness
from ddcore.artifact import save_artifact
from ddcore.baselines import kcenter_index, random_index, share_out
from ddcore.checkpoints import Checkpoints
from ddcore.data import Real, Split, open_source
from ddcore.evaluate import evaluate_artifact, recipe_for, resolved_protocols, run_evaluation_task
from ddcore.experts import trajectories
from ddcore.labels import HardLabels, SoftLabels
from ddcore.networks import build
from ddcore.normalisation import fit
from ddcore.passes import lay_out
from ddcore.recipes import Experts
from ddcore.storage import Place
from ddcore.types import Sequential, Task

CLASSES = torch.arange(10)


def few_digits():
    whole = open_source("digits")
    cut = [Split(part.stored[::4], part.labels[::4]) for part in (whole.train, whole.test)]
    return attrs.evolve(whole, train=cut[0], test=cut[1])


DIGITS = few_digits()


class Stand:
    """The services of a run that evaluation uses."""

    def __init__(
        self, folder, cache=None, protocols=("quick-3",), seeds=2, seed=0, labeller="hard", learns=(), network="mlp"
    ):
        self.source = DIGITS
        settings = {
            "protocol": protocols,
            "baseline": (),
            "eval_network": (),
            "eval_seeds": seeds,
            "full_epochs": None,
            "dtype": "float32",
            "labels": None,
        }
        self.config = SimpleNamespace(**settings)
        self.options = {"experts": Experts(count=1, epochs=2)}
        self.hooks = SimpleNamespace(providers=lambda hook: [])
        self.matcher = SimpleNamespace(learns=learns)
        self.seed, self.network_name, self.labeller = seed, network, labeller
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.normalisation = fit("mean-std", DIGITS)
        self.real = Real(DIGITS, self.normalisation, self.device)
        self.place, self.cache = Place.at(folder), Place.at(cache or folder / "cache")
        self.checkpoints = Checkpoints(self.place / "checkpoints")
        self.generator = partial(randomness.generator, seed)
        self.artifact, self.stopping, self.warned, self.done = None, False, [], []
        self.warn = self.warned.append

    def network(self, generator, name=None):
        return lay_out(build(name or self.network_name, 1, 8, 10, generator))

    def augmenters(self, phase):
        return []

    def expert_shapers(self, *hooks):
        return []

    def student_shapers(self):
        return []

    def draw(self, phase, **arguments):
        return Sequential()

    def label(self, images, classes):
        if self.labeller == "hard":
            return HardLabels(classes, 10)
        return SoftLabels(4 * F.one_hot(classes, 10).float(), classes)

    def say(self, text): ...

    def log(self, event, **fields): ...

    def check_stop(self): ...

    def map(self, tasks, label="", unit=""):
        work = {"evaluate": run_evaluation_task}
        for task in tasks:
            if not self.checkpoints.finished(task.key):
                self.done.append(task.key)
                if task.kind == "expert":
                    from ddcore.experts import train_expert

                    self.checkpoints.finish(task.key, train_expert(task, self), {})
                else:
                    self.checkpoints.finish(task.key, work[task.kind](task, self), {})
        return [self.checkpoints.result(task.key) for task in tasks]


def with_artifact(run, images=None, labels=None, rate=None):
    """Give a run an artifact: by default the class means of the digits."""
    if images is None:
        train = run.real.train
        images = torch.stack([train.inputs(train.of_class(c)).mean(0) for c in range(10)])
    labels = labels or HardLabels(CLASSES, 10)
    run.artifact = save_artifact(
        run.place / "artifact",
        tensors={"pixels": images},
        decoder=[{"op": "rows", "tensor": "pixels"}],
        labels=labels,
        classes=DIGITS.classes,
        normalisation=run.normalisation,
        recipe=recipe_for(run, labels, rate),
        provenance={},
        source=DIGITS.summary(),
        notes=(),
        storage_dtype="float32",
    )
    return run


@pytest.fixture
def run(tmp_path):
    return with_artifact(Stand(tmp_path))


def of(rows, name, labels="hard"):
    (row,) = [row for row in rows if row.set == name and row.labels == labels]
    return row


def test_every_evaluation_prints_the_honest_rows(run):
    rows = evaluate_artifact(run)
    assert [row.set for row in rows] == ["distilled", "random", "kcenter", "random-bytes", "full"]
    assert all(len(row.values) == 2 and row.labels == "hard" and row.protocol == "quick-3" for row in rows)
    assert all(0 <= value <= 1 for row in rows for value in row.values)
    json.dumps([row.as_json() for row in rows], allow_nan=False)


def test_all_rows_but_full_make_the_same_number_of_steps(run):
    rows = evaluate_artifact(run)
    # E = 3, 10 images in one batch: 4 steps; full: 20 epochs of ceil(360 / 256) = 2 batches
    assert {row.steps for row in rows if row.set != "full"} == {4}
    assert of(rows, "full").steps == 20 * 2


def test_random_at_equal_bytes_costs_no_more_than_the_artifact(run):
    rows = evaluate_artifact(run)
    row, total = of(rows, "random-bytes"), run.artifact.nbytes["total"]
    # 64 pixels and a label byte each
    assert row.extra["images"] == total // 65 and row.bytes["total"] == 65 * (total // 65) <= total
    assert of(rows, "distilled").bytes["total"] == total
    assert of(rows, "random").bytes == {"images": 640, "labels": 10, "models": 0, "total": 650}
    assert of(rows, "random").ipc == 1 and of(rows, "full").extra["images"] == len(DIGITS.train.labels)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 60))
def test_images_are_shared_out_evenly_and_never_beyond_what_a_class_has(available, total):
    shares = share_out(total, available)
    assert sum(shares) == min(total, sum(available))
    assert all(0 <= s <= n for s, n in zip(shares, available, strict=True))
    open_ = [s for s, n in zip(shares, available, strict=True) if s < n]
    assert max(shares) - min(open_, default=max(shares)) <= 1


def test_random_subsets_are_redrawn_for_each_seed_and_nested(run):
    first = random_index(run, run.artifact, 0, by_bytes=False)
    second = random_index(run, run.artifact, 1, by_bytes=False)
    larger = random_index(run, run.artifact, 0, by_bytes=True)
    assert first.tolist() != second.tolist()
    assert set(first.tolist()) < set(larger.tolist())
    assert run.real.train.labels[first].tolist() == list(range(10))


def test_kcenter_with_one_image_is_the_one_nearest_to_the_mean(run):
    index = kcenter_index(run, run.artifact)[0]
    for c in range(10):
        rows = run.real.train.of_class(c)
        flat = run.real.train.inputs(rows).flatten(1)
        assert index[c] == rows[(flat - flat.mean(0)).norm(dim=1).argmin()]


def test_kcenter_says_what_its_features_are(run):
    assert "normalised pixels" in of(evaluate_artifact(run), "kcenter").note


def test_kcenter_uses_an_experts_features_when_there_is_one(run):
    trajectories(run)
    assert "features of expert 0" in of(evaluate_artifact(run), "kcenter").note


def test_a_task_is_a_pure_function_of_its_options(run, tmp_path):
    options = evaluate.Arm("random", "hard", "quick-3", "mlp").task(1, "x").options
    task = Task("evaluate", "a", 1, options=options)
    one = run_evaluation_task(task, run)
    other = Stand(tmp_path / "worker")
    other.place = run.place
    two = run_evaluation_task(Task("evaluate", "b", 1, options=options), other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one if name != "seconds")


def test_finished_students_are_not_trained_again(run):
    first = evaluate_artifact(run)
    run.done.clear()
    second = evaluate_artifact(run)
    assert run.done == [] and [r.as_json() for r in first] == [r.as_json() for r in second]


def test_another_artifact_in_the_same_folder_gets_its_own_students(run):
    evaluate_artifact(run)
    run.done.clear()
    (run.place / "artifact").remove()
    evaluate_artifact(with_artifact(run, images=torch.zeros(10, 1, 8, 8)))
    assert any("distilled" in key for key in run.done)


def test_full_data_is_trained_once_for_all_runs(tmp_path):
    one = with_artifact(Stand(tmp_path / "one", tmp_path / "cache"))
    two = with_artifact(Stand(tmp_path / "two", tmp_path / "cache", seed=5))
    first = of(evaluate_artifact(one), "full")
    files = (one.cache / "full").names()
    second = of(evaluate_artifact(two), "full")
    assert len(files) == 2 and (two.cache / "full").names() == files
    assert first.as_json() == second.as_json()


def test_full_data_scores_the_same_for_every_seed_of_a_run(tmp_path):
    rows = [evaluate_artifact(with_artifact(Stand(tmp_path / str(seed), seed=seed))) for seed in (0, 5)]
    assert of(rows[0], "full").values == of(rows[1], "full").values
    assert of(rows[0], "random").values != of(rows[1], "random").values


def test_soft_labels_stand_beside_the_same_rule_on_real_images_and_beside_hard_ones(tmp_path):
    soft = SoftLabels(4 * F.one_hot(CLASSES, 10).float(), CLASSES)
    run = with_artifact(Stand(tmp_path, labeller="experts", seeds=1), labels=soft)
    rows = evaluate_artifact(run)
    assert [(r.set, r.labels) for r in rows[:3]] == [("distilled", "soft"), ("random", "soft"), ("kcenter", "soft")]
    assert [r.labels for r in rows[3:]] == ["hard"] * 5
    random = of(rows, "random", "soft")
    assert random.bytes["labels"] == 10 * (10 * 4 + 1) and "'experts'" in random.note
    bare = of(rows, "distilled").bytes
    assert bare["labels"] == 10 and bare["total"] == bare["images"] + 10


def test_soft_labels_without_a_rule_for_real_images_are_warned_of(tmp_path):
    run = with_artifact(Stand(tmp_path, seeds=1), labels=SoftLabels(torch.zeros(10, 10), CLASSES))
    rows = evaluate_artifact(run)
    assert [(r.set, r.labels) for r in rows if r.labels == "soft"] == [("distilled", "soft")]
    assert "no rule" in run.warned[0]


def test_a_learned_rate_is_the_distilled_sets_only(tmp_path):
    rows = evaluate_artifact(with_artifact(Stand(tmp_path, seeds=1), rate=0.03))
    assert of(rows, "distilled").extra["rate"] == pytest.approx(0.03)
    assert {row.extra["rate"] for row in rows if row.set != "distilled"} == {0.01}


@pytest.mark.parametrize("rate", [-0.5, 0.0])
def test_a_learned_rate_that_cannot_train_is_said_and_replaced(tmp_path, rate):
    row = of(evaluate_artifact(with_artifact(Stand(tmp_path, seeds=1), rate=rate)), "distilled")
    assert row.extra["rate"] == 0.01 and "cannot train" in row.note


def test_a_student_that_diverges_scores_what_it_scores_with_a_note(tmp_path):
    row = of(evaluate_artifact(with_artifact(Stand(tmp_path), rate=1e20)), "distilled")
    assert "2 of 2 students diverged" in row.note and all(0 <= value <= 0.3 for value in row.values)


def test_blank_images_give_chance(tmp_path):
    run = with_artifact(Stand(tmp_path, protocols=("dc-20",), seeds=1), images=torch.zeros(10, 1, 8, 8))
    (task,) = [arm.task(0, "x") for arm in evaluate.arms_of(run, run.artifact) if arm.set == "distilled"]
    counts = torch.bincount(DIGITS.test.labels).double() / len(DIGITS.test.labels)
    assert abs(float(run_evaluation_task(task, run)["accuracy"]) - 0.1) < 0.12 + float(counts.max() - 0.1)


def test_protocols_and_networks_multiply_the_rows(tmp_path):
    run = with_artifact(Stand(tmp_path, protocols=("dc-0", "fyi-1"), seeds=1))
    run.config.eval_network = ("convnet-w8", "mlp")
    rows = evaluate_artifact(run)
    assert {(r.protocol, r.network) for r in rows} == {(p, n) for p in ("dc-0", "fyi-1") for n in ("convnet-w8", "mlp")}
    assert len(rows) == 4 * 5


@pytest.mark.parametrize("name", ["dc-2", "dc-mnist-2", "dsa-2", "fyi-2"])
def test_every_augmentation_trains(tmp_path, name):
    run = with_artifact(Stand(tmp_path, protocols=(name,)))
    task = evaluate.arms_of(run, run.artifact)[0].task(0, "x")
    result = run_evaluation_task(task, run)
    assert int(result["steps"]) == 3 and not int(result["diverged"])


def test_digits_are_never_mirrored(run):
    (quick,) = resolved_protocols(run)
    assert "flip" not in evaluate.strategy_of(quick, run) and "rotate" in evaluate.strategy_of(quick, run)


def test_auto_is_decided_before_the_artifact_as_after_it(tmp_path):
    run = Stand(tmp_path, protocols=("auto",), learns=("rate", "labels"))
    assert resolved_protocols(run)[0].name == "quick"
    assert resolved_protocols(with_artifact(run, rate=0.02))[0].name == "quick"


def test_the_recipe_says_how_to_train_without_ddcore(run):
    recipe = recipe_for(run, HardLabels(CLASSES, 10), 0.02)
    assert (recipe["epochs"], recipe["drop_after_epoch"], recipe["rate"], recipe["batch"]) == (4, 2, 0.02, 256)
    assert json.loads(json.dumps(recipe)) == recipe


def test_class_means_and_full_data_beat_random_images(tmp_path):
    rows = evaluate_artifact(with_artifact(Stand(tmp_path, protocols=("quick-60",), network="convnet-w8")))
    mean = {row.set: sum(row.values) / len(row.values) for row in rows}
    assert mean["distilled"] > mean["random"] + 0.05
    assert mean["full"] > mean["random"] + 0.05
