"""The honest rows: same steps, same labels, equal bytes; fresh subsets; full data cached; tasks as pure functions."""

import json
import math
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ddcore import Plugin, randomness
from ddcore.api.types import Batch, Sequential, Task
from ddcore.composing.discovery import installed_protocols
from ddcore.composing.recipes import Experts
from ddcore.composing.tables import row_json
from ddcore.data.normalisation import fit
from ddcore.data.source import Real, Split
from ddcore.data.sources import open_source
from ddcore.images.views import Draw, drawn
from ddcore.labels import HardLabels, SoftLabels, draw_views, make_per_view, student_loss
from ddcore.labels.making import make_averaged, make_static_mixed, make_top_k, make_two_distances
from ddcore.networks.passes import lay_out
from ddcore.networks.zoo import build
from ddcore.runs.builtin import Core
from ddcore.scoring import evaluate
from ddcore.scoring.baselines import kcenter_index, random_index, sees_features, share_out
from ddcore.scoring.evaluate import evaluate_artifact, recipe_for, run_evaluation_task
from ddcore.sets.artifact import save_artifact
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.places import Place
from ddcore.training import students
from ddcore.training.experts import trajectories
from ddcore.training.loop import batch_of
from ddcore.training.protocols import PROTOCOLS, protocol, resolved_protocols

pytestmark = pytest.mark.usefixtures("probes")

CLASSES = torch.arange(10)


def few_digits():
    whole = open_source("digits")
    cut = [Split(part.stored[::4], part.labels[::4]) for part in (whole.train, whole.test)]
    return attrs.evolve(whole, train=cut[0], test=cut[1])


DIGITS = few_digits()
KINDS = ("averaged", "static-mixed", "per-view", "top-k", "two-distances")
OF_VIEWS = KINDS[2:]


def labels_of(kind, images, classes):
    """Labels of any kind by one teacher; those of views for 2 epochs in batches of 4."""
    with randomness.drawing_from(randomness.generator(5)):
        teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    if kind == "averaged":
        return make_averaged(images, teacher, classes=classes)
    if kind == "static-mixed":
        return make_static_mixed(images, teacher, classes=classes)
    given = (images, teacher, draw_views(images, 2, 4, randomness.generator(6)))
    if kind == "top-k":
        return make_top_k(*given, classes=classes, k=3).stored()
    if kind == "per-view":
        return make_per_view(*given, classes=classes).stored()
    return make_two_distances(*given, classes=classes)


class Matcher(Plugin):
    role: ClassVar = "matcher"


PROTOCOLS_ALONE = {"protocol": PROTOCOLS.get, "protocols": list}


class Stand:
    """The services of a run that evaluation uses."""

    def __init__(
        self, folder, cache=None, protocols=("quick-3",), seeds=2, seed=0, labeller="hard", learns=(), network="mlp"
    ):
        self.source = DIGITS
        settings = {
            "protocol": protocols,
            "rows": (),
            "baseline": (),
            "eval_network": (),
            "eval_seeds": seeds,
            "full_epochs": None,
            "dtype": "float32",
            "labels": None,
            "amp": False,
        }
        self.of_images, self.plugins, self.elsewhere = True, {}, ()
        self.config = SimpleNamespace(**settings)
        self.options = {"experts": Experts(count=1, epochs=2)}
        self.hooks = SimpleNamespace(providers=lambda hook: [], **PROTOCOLS_ALONE)
        self.plugins = {"m": Matcher()}
        self.plan = SimpleNamespace(needs=("trajectories",))
        self.matcher = SimpleNamespace(learns=learns)
        self.seed, self.network_name, self.labeller = seed, network, labeller
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.normalisation = fit("mean-std", DIGITS)
        self.real = Real(DIGITS, self.normalisation, self.device)
        self.place, self.cache = Place.at(folder), Place.at(cache or folder / "cache")
        self.checkpoints = Checkpoints(self.place / "checkpoints")
        self.generator = partial(randomness.generator, seed)
        self.artifact, self.of_artifact, self.stopping, self.warned, self.done = None, None, False, [], []
        self.warn = self.warned.append

    def label_kind(self, rule):
        return rule

    def network(self, generator, name=None):
        return lay_out(build(name or self.network_name, 1, 8, 10, generator))

    def draw(self, phase, **arguments):
        return Sequential()

    def label(self, images, classes):
        if self.labeller == "hard":
            return HardLabels(classes, 10)
        if self.labeller in KINDS:
            return labels_of(self.labeller, images, classes)
        return SoftLabels(4 * F.one_hot(classes, 10).float(), classes)

    def initialize(self, classes, task, name):
        return Core().ddcore_initialize(name, classes, task, self.generator("initialize", name, task.slot), self)

    def say(self, text): ...

    def log(self, event, **fields): ...

    def check_stop(self): ...

    def map(self, tasks, label="", unit=""):
        work = {"evaluate": run_evaluation_task}
        for task in tasks:
            if not self.checkpoints.finished(task.key):
                self.done.append(task.key)
                if task.kind == "expert":
                    from ddcore.training.experts import train_expert

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
    json.dumps([row_json(row) for row in rows], allow_nan=False)


def test_every_students_calibration_and_classes_stand_in_its_row_also_from_the_cache(run):
    counts = torch.bincount(DIGITS.test.labels).double()
    for _ in range(2):  # the second time `full` comes from the cache
        for row in evaluate_artifact(run):
            assert len(row.extra["calibration_error"]) == len(row.extra["class_accuracy"]) == 2
            for accuracy, of_class in zip(row.values, row.extra["class_accuracy"], strict=True):
                mean = (torch.tensor(of_class, dtype=torch.float64) * counts).sum() / counts.sum()
                assert float(mean) == pytest.approx(accuracy, abs=1e-5)
            assert all(0 <= error <= 1 for error in row.extra["calibration_error"])
            assert not row.extra.keys() & {"time_to_accuracy", "on"}
        (run.place / "checkpoints").remove()


def test_a_class_without_test_images_and_a_student_that_diverged_have_null_not_nan(tmp_path, monkeypatch):
    run = with_artifact(Stand(tmp_path, seeds=1), rate=1e20)
    kept = DIGITS.test.labels != 4
    fewer = attrs.evolve(DIGITS, test=Split(DIGITS.test.stored[kept], DIGITS.test.labels[kept]))
    run.source, run.real = fewer, Real(fewer, run.normalisation, run.device)
    rows = evaluate_artifact(run)
    assert all(row.extra["class_accuracy"][0][4] is None for row in rows)
    assert of(rows, "distilled").extra["calibration_error"] == [None]
    assert of(rows, "full").extra["calibration_error"][0] is not None
    json.dumps([row_json(row) for row in rows], allow_nan=False)


def test_what_plugins_find_in_a_student_stands_in_its_row_and_has_a_full_row_of_its_own(run):
    evaluate_artifact(run)
    files = len((run.cache / "full").names())
    impl, found = SimpleNamespace(plugin_name="p"), {"p": {"x": torch.tensor(0.5), "nan": torch.tensor([math.nan])}}
    run.hooks = SimpleNamespace(providers=lambda hook: [impl], examine=lambda *given: found, **PROTOCOLS_ALONE)
    run.plugins = {"p": Examiner()}
    (run.place / "checkpoints").remove()
    rows = evaluate_artifact(run)
    assert all(row.extra["p.x"] == [0.5, 0.5] and row.extra["p.nan"] == [[None], [None]] for row in rows)
    assert len((run.cache / "full").names()) == 2 * files


@attrs.frozen(kw_only=True, eq=False)
class Examiner(Plugin):
    """A plugin that looks at students."""


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
    index = kcenter_index(run, run.artifact.labels.classes)
    for c in range(10):
        rows = run.real.train.of_class(c)
        flat = run.real.train.inputs(rows).flatten(1)
        assert index[c] == rows[(flat - flat.mean(0)).norm(dim=1).argmin()]


def test_kcenter_says_what_its_features_are(run):
    assert "normalised pixels" in of(evaluate_artifact(run), "kcenter").note


def test_kcenter_uses_an_experts_features_when_there_is_one(run):
    before = kcenter_index(run, CLASSES)
    trajectories(run)
    assert "features of expert 0" in of(evaluate_artifact(run), "kcenter").note
    assert before.tolist() != kcenter_index(run, CLASSES).tolist()


@pytest.mark.parametrize("on_features", [False, True])
def test_kcenter_is_one_thing_as_a_row_and_as_an_initialiser(run, on_features):
    if on_features:
        trajectories(run)
    given = {"name": "kcenter", "classes": run.artifact.labels.classes, "task": Task("distil", "t", 1)}
    images = Core().ddcore_initialize(**given, generator=torch.Generator(), run=run)
    row = evaluate.data_for(run, evaluate.Arm("kcenter", "hard", "quick-3", "mlp"), 1, run.artifact)
    assert torch.equal(images, row.images) and torch.equal(row.labels.classes, run.artifact.labels.classes)
    assert torch.equal(images, run.real.train.inputs(kcenter_index(run, run.artifact.labels.classes)))


def test_the_row_kcenter_is_what_answers_to_that_name(run):
    run.initialize = lambda classes, task, name: torch.full((len(classes), 1, 8, 8), float(name == "kcenter"))
    row = evaluate.data_for(run, evaluate.Arm("kcenter", "hard", "quick-3", "mlp"), 0, run.artifact)
    assert row.images.min() == 1


def test_kcenter_gives_images_in_the_order_of_the_classes_asked_for(run):
    sorted_ = kcenter_index(run, torch.tensor([0, 0, 3, 3, 3, 7]))
    mixed = kcenter_index(run, torch.tensor([3, 7, 0, 3, 3, 0]))
    assert mixed.tolist() == sorted_[[2, 5, 0, 3, 4, 1]].tolist()
    assert run.real.train.labels[mixed].tolist() == [3, 7, 0, 3, 3, 0]


def test_kcenters_choices_are_kept_for_other_runs(run, tmp_path, monkeypatch):
    first = kcenter_index(run, CLASSES)
    monkeypatch.setattr("ddcore.scoring.baselines.kcenter", None)
    other = with_artifact(Stand(tmp_path / "other", cache=tmp_path / "cache", seed=4))
    assert torch.equal(kcenter_index(other, CLASSES), first)
    with pytest.raises(TypeError):
        kcenter_index(other, CLASSES.repeat(2))


def test_an_initialisers_row_has_no_more_of_a_class_than_there_are(run):
    there = run.real.counts()
    asked = torch.cat([torch.zeros(there[0] + 5, dtype=torch.int64), CLASSES[1:]])
    index = kcenter_index(run, asked)
    assert torch.equal(index[-9:], kcenter_index(run, CLASSES)[1:])
    assert len(index[: there[0]].unique()) == there[0] and torch.equal(index[there[0] : there[0] + 5], index[:5])
    many = SimpleNamespace(labels=HardLabels(asked, 10), labelled=True)
    row = evaluate.data_for(run, evaluate.Arm("kcenter", "hard", "quick-3", "mlp"), 0, many)
    assert torch.bincount(row.labels.classes).tolist() == [there[0], *[1] * 9]


def test_kcenter_does_not_depend_on_experts_that_the_run_does_not_need(run):
    before = kcenter_index(run, CLASSES)
    trajectories(run)
    run.plan = SimpleNamespace(needs=())
    assert torch.equal(before, kcenter_index(run, CLASSES)) and not sees_features(run)


def test_a_task_is_a_pure_function_of_its_options(run, tmp_path):
    options = evaluate.task_of(evaluate.Arm("random", "hard", "quick-3", "mlp"), 1, "x").options
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
    assert run.done == [] and [row_json(r) for r in first] == [row_json(r) for r in second]


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
    assert row_json(first) == row_json(second)


def test_full_data_scores_the_same_for_every_seed_of_a_run(tmp_path):
    runs = [with_artifact(Stand(tmp_path / str(seed), seed=seed)) for seed in (0, 5)]
    rows = [evaluate_artifact(run) for run in runs]
    assert of(rows[0], "full").values == of(rows[1], "full").values
    loss = [run.checkpoints.result(next(key for key in run.done if "random-hard" in key))["loss"] for run in runs]
    assert loss[0] != loss[1]


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
    first = float(
        (DIGITS.test.labels == 0).double().mean()
    )  # where no logit is a number, the first class is the answer
    assert "2 of 2 students diverged" in row.note and row.values == (first, first)


def test_no_student_tells_blank_images_apart(tmp_path):
    # equal images of ten classes get equal answers, whose mean cross-entropy is log 10 at least, whatever the network
    loss = {}
    for name, images in (("blank", torch.zeros(10, 1, 8, 8)), ("means", None)):
        run = with_artifact(Stand(tmp_path / name, protocols=("plain-20",), seeds=1), images=images)
        (task,) = [
            evaluate.task_of(arm, 0, "x") for arm in evaluate.arms_of(run, run.artifact) if arm.set == "distilled"
        ]
        loss[name] = float(run_evaluation_task(task, run)["loss"])
    assert loss["blank"] > math.log(10) - 1e-6 > loss["means"]


def test_protocols_and_networks_multiply_the_rows(tmp_path):
    run = with_artifact(Stand(tmp_path, protocols=("plain-0", "turned-1"), seeds=1))
    run.config.eval_network = ("convnet-w8", "mlp")
    rows = evaluate_artifact(run)
    assert {(r.protocol, r.network) for r in rows} == {
        (p, n) for p in ("plain-0", "turned-1") for n in ("convnet-w8", "mlp")
    }
    assert len(rows) == 4 * 5


@pytest.mark.parametrize("name", ["plain-2", "each-image-2", "augmented-2", "turned-2"])
def test_every_augmentation_trains(tmp_path, name):
    run = with_artifact(Stand(tmp_path, protocols=(name,)))
    task = evaluate.task_of(evaluate.arms_of(run, run.artifact)[0], 0, "x")
    result = run_evaluation_task(task, run)
    assert int(result["steps"]) == 3 and not int(result["diverged"])


def test_digits_are_never_mirrored(run):
    (quick,) = resolved_protocols(run)
    assert "flip" not in students.strategy_of(quick, run) and "rotate" in students.strategy_of(quick, run)


def test_auto_is_decided_before_the_artifact_as_after_it(tmp_path):
    run = Stand(tmp_path, protocols=("auto",), learns=("rate", "labels"))
    assert resolved_protocols(run)[0].name == "quick"
    assert resolved_protocols(with_artifact(run, rate=0.02))[0].name == "quick"


def test_the_recipe_says_how_to_train_without_ddcore(run):
    recipe = recipe_for(run, HardLabels(CLASSES, 10), 0.02)
    assert (recipe["epochs"], recipe["drop_after_epoch"], recipe["rate"], recipe["batch"]) == (4, 2, 0.02, 256)
    assert json.loads(json.dumps(recipe)) == recipe


def test_class_means_and_full_data_beat_random_images(tmp_path):
    run = with_artifact(Stand(tmp_path, protocols=("plain-60",), seeds=16))
    run.config.full_epochs = 20
    values = {row.set: torch.tensor(row.values) for row in evaluate_artifact(run)}
    for name in ("distilled", "full"):
        gain = values[name] - values["random"]
        assert gain.mean() > 0, gain  # 0.17 and 0.18 with deviations of 0.1, so seven deviations of the mean of sixteen


# Recipes of decoupled methods


def of_kind(folder, kind, protocols, **more):
    """A run with the class means under labels of a kind, whose rule labels real images too."""
    run = with_artifact(Stand(folder, protocols=protocols, seeds=1, **more))
    (run.place / "artifact").remove()
    return with_artifact(run, images=run.artifact.images(), labels=labels_of(kind, run.artifact.images(), CLASSES))


@pytest.mark.parametrize("kind", KINDS)
def test_random_real_images_stand_beside_every_kind_of_labels_under_its_rule_and_its_steps(tmp_path, kind):
    rows = evaluate_artifact(of_kind(tmp_path, kind, ("views-small-2",), labeller=kind))
    stored = "soft" if kind == "averaged" else kind
    same_rule = [(r.set, r.labels) for r in rows if r.labels == stored]
    assert same_rule == [("distilled", stored), ("random", stored), ("kcenter", stored)]
    assert [r.set for r in rows if r.labels == "hard"] == ["distilled", "random", "kcenter", "random-bytes", "full"]
    # E = 2 epochs of 10 images: whole batches, or the labels' own of 4, 4 and 2
    due = 2 * 3 if kind in OF_VIEWS else 2
    assert {r.steps for r in rows if r.set != "full"} == {due}
    assert {r.protocol for r in rows} == {"views-small-2"}
    assert of(rows, "random", stored).bytes["labels"] == of(rows, "distilled", stored).bytes["labels"] - header_bytes(
        tmp_path
    )


def header_bytes(folder):
    packed = (folder / "artifact" / "labels.safetensors").read_bytes()
    return int.from_bytes(packed[:8], "little") + 8


@pytest.fixture(scope="module", params=OF_VIEWS)
def evaluated(request, tmp_path_factory):
    """A run under labels with views, its rows, and of each student the images, batch, steps and steps an epoch."""
    kind = request.param
    run, batches = of_kind(tmp_path_factory.mktemp(kind), kind, ("views-2",), labeller=kind), []
    train = students.train_student

    def watched(network, images, labels, descent, **more):
        batches.append((len(images), descent.batch, descent.steps, descent.per_epoch))
        return train(network, images, labels, descent, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(students, "train_student", watched)
        return kind, run, evaluate_artifact(run), batches


def test_every_row_takes_the_batches_of_labels_that_have_their_own(evaluated):
    batches = evaluated[-1]
    assert len(batches) == 8 and {b[1] for b in batches} == {4}
    assert {b[2:] for b in batches if b[0] < len(DIGITS.train.labels)} == {(6, 3)}
    assert protocol("views").batch == 1024


def test_labels_with_views_are_not_changed_once_more_and_hard_ones_are(evaluated):
    kind, run, rows, _ = evaluated
    given = protocol("views"), run, run.generator, 6
    assert students.augmentation(*given, run.artifact.labels) is None
    assert students.augmentation(*given, HardLabels(CLASSES, 10)) is not None
    assert "stand in for the protocol's augmentation" in of(rows, "distilled", kind).note
    assert "stand in" not in of(rows, "distilled").note


@pytest.mark.parametrize("name", ["views", "views-small"])
def test_hard_labels_under_a_mix_are_both_cross_entropies_by_their_shares(run, name):
    recipe, labels, images = protocol(name), HardLabels(CLASSES, 10), run.artifact.images()
    draw = students.augmentation(recipe, run, run.generator, 9, labels)
    clean = batch_of(images, labels, next(labels.views(0, 10, 10, run.generator("order"))))
    mixed = draw(10, 5)(clean)
    parameters = drawn(students.draw_of(recipe, run), 10, (8, 8), run.generator("augment", 5))
    logits = torch.randn(10, 10, generator=randomness.generator(1))
    slow = torch.zeros(())
    for row in range(10):
        own, other = (int(clean.targets["class"][at]) for at in (row, parameters.partner[row]))
        lam = float(parameters.share)
        slow -= (lam * logits[row].log_softmax(0)[own] + (1 - lam) * logits[row].log_softmax(0)[other]) / 10
    assert 0 < float(parameters.share) < 1
    torch.testing.assert_close(student_loss(logits, mixed.targets, labels.recipe), slow)
    assert not torch.equal(mixed.inputs, clean.inputs)


def test_soft_labels_of_the_clean_image_are_mixed_before_the_softmax(run):
    images, soft = run.artifact.images(), SoftLabels(torch.randn(10, 10, generator=randomness.generator(1)), CLASSES)
    draw = students.augmentation(protocol("views-small"), run, run.generator, 9, soft)
    clean = batch_of(images, soft, next(soft.views(0, 10, 10, run.generator("order"))))
    views = students.draw_of(protocol("views-small"), run)
    mixed, parameters = draw(10, 0)(clean), drawn(views, 10, (8, 8), run.generator("augment", 0))
    due = (
        parameters.share * clean.targets["logits"]
        + (1 - parameters.share) * clean.targets["logits"][parameters.partner]
    )
    torch.testing.assert_close(mixed.targets["logits"], due)


def test_patches_are_shuffled_before_crops_by_the_protocol_that_says_so(run):
    recipe = attrs.evolve(protocol("views"), views=Draw(crop="none", flip=0, mix="none", shuffle=2))
    ramp = torch.arange(128.0).view(2, 1, 8, 8)
    given = Batch(ramp, {"class": torch.zeros(2, dtype=torch.int64)}, torch.arange(2))
    draw = students.augmentation(recipe, run, run.generator, 9, HardLabels(CLASSES, 10))
    seen = set()
    for step in range(40):
        moved = draw(2, step)(given).inputs[0, 0]
        seen.add(tuple(moved[::4, ::4].flatten().tolist()))
        assert moved.flatten().sort().values.tolist() == list(range(64))
    # corners of the four patches: columns changed or not, rows changed or not
    assert seen == {(0, 4, 32, 36), (4, 0, 36, 32), (32, 36, 0, 4), (36, 32, 4, 0)}


def test_views_shift_by_the_published_pixels_but_never_by_more_than_an_eighth(run):
    for size, pad in ((8, 1), (32, 4), (224, 4)):
        run.source = SimpleNamespace(size=size, mirror_symmetric=True)
        assert students.draw_of(protocol("views-small"), run).pad == pad


def test_views_never_mirror_digits(run):
    assert all(students.draw_of(p, run).flip == 0 for p in PROTOCOLS.values() if p.views)
    run.source = attrs.evolve(DIGITS, mirror_symmetric=True)
    assert students.draw_of(protocol("views"), run).flip == 0.5


@pytest.mark.parametrize(
    "name", [n for n in sorted({*PROTOCOLS, *installed_protocols()}) if not protocol(n).extra_epoch]
)
def test_every_recipe_of_a_decoupled_method_trains(tmp_path, name):
    run = with_artifact(Stand(tmp_path, protocols=(f"{name}-3",), network="convnet2-bn-w8"))
    task = evaluate.task_of(evaluate.arms_of(run, run.artifact)[0], 0, "x")
    one, two = run_evaluation_task(task, run), run_evaluation_task(attrs.evolve(task, key="again"), run)
    trained = int(one["steps"]) - int(one.get("probe.steps", 0))
    assert trained == 3 and not int(one["diverged"]) and float(one["loss"]) > 0
    assert float(one["rate"]) == protocol(name).rate and torch.equal(one["loss"], two["loss"])


@pytest.mark.parametrize(("labeller", "name"), [("per-view", "views-small"), ("static-mixed", "views-small")])
def test_auto_of_labels_with_views_is_decided_before_the_artifact_as_after_it(tmp_path, labeller, name):
    run = Stand(tmp_path, protocols=("auto",), labeller=labeller)
    assert resolved_protocols(run)[0].name == name
    images = torch.zeros(10, 1, 8, 8)
    with_artifact(run, images=images, labels=labels_of(labeller, images, CLASSES))
    assert resolved_protocols(run)[0].name == name == run.artifact.manifest["recipe"]["protocol"]


def test_the_recipe_of_a_decoupled_method_says_how_to_train_without_ddcore(tmp_path):
    run = Stand(tmp_path, protocols=("warm-40",))
    recipe = recipe_for(run, HardLabels(CLASSES, 10), None)
    assert json.loads(json.dumps(recipe)) == recipe
    assert (recipe["epochs"], recipe["optimizer"], recipe["rate"], recipe["momentum"]) == (40, "sgd", 0.2, 0.9)
    assert recipe["warmup_epochs"] == 2 and recipe["views"]["mix"] == "none" and recipe["views"]["flip"] == 0
    assert recipe["schedule"].startswith("cosine") and not recipe.keys() & {"drop", "drop_after_epoch"}
    run.config.protocol = ("grouped",)
    recipe = recipe_for(run, labels_of("per-view", torch.zeros(10, 1, 8, 8), CLASSES), None)
    assert (recipe["batch"], recipe["batch_norm_group"], recipe["stretch"]) == (4, 8, 2.0)
    assert recipe["betas"] == [0.9, 0.999] and "momentum" not in recipe and recipe["augment"] == []
    assert recipe["weight_decay_of"] == "tensors of two axes and more" and "views" not in recipe


def test_the_recipe_of_a_matched_set_says_what_it_always_said(run):
    assert set(recipe_for(run, HardLabels(CLASSES, 10), None)) == {
        *("protocol", "network", "epochs", "optimizer", "rate", "learned_rate", "momentum", "weight_decay", "batch"),
        *("drop_after_epoch", "drop", "augment", "labels"),
    }


def test_a_descent_holds_every_number_of_its_protocol():
    tiny = students.descent_of(protocol("warm"), protocol("warm").schedule(1000), 0.3)
    assert (tiny.steps, tiny.batch, tiny.rate, tiny.momentum, tiny.weight_decay) == (400, 256, 0.3, 0.9, 1e-4)
    assert (tiny.optimizer, tiny.schedule, tiny.per_epoch, tiny.warmup, tiny.decay_biases) == (
        "sgd",
        "cosine",
        4,
        20,
        True,
    )
    groups = students.descent_of(protocol("grouped"), protocol("grouped").schedule(32), 1e-3)
    assert (groups.optimizer, groups.group, groups.stretch, groups.per_epoch) == ("adamw", 8, 2.0, 2)
    assert groups.weight_decay == 0.01 and not groups.decay_biases and groups.drop_at is None
    old = students.descent_of(protocol("augmented"), protocol("augmented").schedule(10), 0.01)
    assert (old.schedule, old.drop_at, old.drop, old.group, old.per_epoch) == ("drop", 502, 0.1, None, None)


def test_an_artifact_anywhere_is_evaluated_by_worker_processes_with_the_same_scores(tmp_path, monkeypatch, capsys):
    from ddcore.cli.app import invoke

    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    words = ["--protocol", "quick-1", "--eval-seeds", "1", "--full-epochs", "1", "--threads", "1"]
    made = ["--plugin", "pull", "--dataset", "digits", "--network", "convnet2-w4", "--steps", "1"]
    assert invoke(["run", *made, *words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    scores = []
    for jobs in ("1", "2"):
        assert invoke(["evaluate", str(tmp_path / "run" / "artifact"), *words, "--jobs", jobs, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        scores.append([row["accuracy"]["values"] for row in rows])
    assert scores[0] == scores[1]


@pytest.mark.parametrize("change", ["cut", "exchanged", "folder"])
def test_a_kept_full_row_that_is_wrong_is_made_again(tmp_path, change, monkeypatch):
    run = with_artifact(Stand(tmp_path, seeds=2))
    first = of(evaluate_artifact(run), "full")
    paths = [run.cache.local_path() / "full" / name for name in (run.cache / "full").names()]
    if change == "exchanged":
        aside = tmp_path / "aside"
        paths[0].rename(aside), paths[1].rename(paths[0]), aside.rename(paths[1])
    else:
        whole = paths[0].read_bytes()
        paths[0].unlink()
        paths[0].mkdir() if change == "folder" else paths[0].write_bytes(whole[:-1])
    (run.place / "checkpoints").remove()
    said = []
    monkeypatch.setattr(run, "warn", said.append)
    again = of(evaluate_artifact(run), "full")
    assert again.values == first.values and len(said) == (2 if change == "exchanged" else 1)
    assert all("made again" in line for line in said)


def test_a_full_row_of_one_thread_is_none_of_two(tmp_path):
    run = with_artifact(Stand(tmp_path, seeds=1))
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        (run.place / "checkpoints").remove()
        evaluate_artifact(run)
    torch.set_num_threads(before)
    assert len((run.cache / "full").names()) == 2


@pytest.mark.parametrize(
    ("name", "symmetric", "first"), [("turned", True, True), ("turned", False, False), ("augmented", True, False)]
)
def test_a_mirror_image_comes_first_where_the_protocol_says_so_and_classes_allow_it(
    run, monkeypatch, name, symmetric, first
):
    seen, draw = [], students.augment.draw
    monkeypatch.setattr(students.augment, "draw", lambda *given, **how: seen.append(how) or draw(*given, **how))
    run.source = attrs.evolve(DIGITS, mirror_symmetric=symmetric)
    students.augmentation(protocol(name), run, run.generator, 9, HardLabels(CLASSES, 10))(4, 0)
    assert [how["flip_first"] for how in seen] == [first]
