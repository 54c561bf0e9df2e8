"""HeLlO as users run it: beside matchers, relabelling, the same projector for all rows, its baselines, refusals."""

import json

import attrs
import pytest
import torch
from ddcore_hello import HeLlO
from ddcore_hello.fitting import probe, projector_of, weak_teachers
from ddcore_hello.projector import ProjectorLabels, adaptable, factor_floats
from torch.nn import functional as F

from ddcore.api.types import Task
from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.errors import InputError, OptionError
from ddcore.kit.contract import check_plugin
from ddcore.labels import last_layer, mean_logits
from ddcore.networks.zoo import build
from ddcore.runs.run import Run
from ddcore.sets.artifact import load_artifact
from ddcore.storage.places import Place, save_tensors

QUICK = {
    "threads": 1,
    "ipc": 2,
    "network": "convnet2-bn-w8",
    "teachers__epochs": 4,
    "teachers__snapshots": 2,
    "protocol": ("quick-5",),
    "hello__epochs": 2,
    "hello__rank": 2,
    "hello__head_rank": 4,
}
RANK_ZERO = {"hello__rank": 0, "hello__head_rank": 0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache, place, *words, **given):
    selection = select(["--plugin", "dm", "--plugin", "hello", *words, "--preset", "none"], {})
    return Run(setup_from(selection, {**QUICK, "cache": cache, **given}, {}), Place.at(place))


def flags(**given):
    values = {**QUICK, "protocol": "quick-5", **given}
    return [f"--{name.replace('__', '.').replace('_', '-')}={value}" for name, value in values.items()]


def command(cache, out, *words, **given):
    quick = ["--eval-seeds=1", "--full-epochs=1", "--preset=none", f"--cache={cache}", f"--out={out}"]
    return ["run", *words, "--plugin=hello", *flags(**given), *quick]


def test_the_contract_is_kept():
    check_plugin("hello")


# ---- the projector ---------------------------------------------------------------------------------------------------


def test_rank_zero_is_zero_shot_by_prototypes_and_its_bytes_are_the_heads(cache, tmp_path):
    run = opened(cache, tmp_path, **RANK_ZERO)
    made = projector_of(run.plugins["hello"], run)
    assert made.factors == {}
    assert made.payload_bytes == 10 * 32 * 4 + 10
    torch.testing.assert_close(made.head.sum(0), torch.zeros(32), atol=1e-5, rtol=0)
    shown = run.real.train.inputs(torch.arange(20))
    features = torch.nn.functional.normalize(run.teachers.network(0).embed(shown), dim=1)
    torch.testing.assert_close(made.logits(shown), made.scale * features @ made.head.T)


def test_low_rank_factors_descend_the_objective_for_an_encoder_that_never_saw_such_data(cache, tmp_path, monkeypatch):
    encoder = build("convnet2-bn-w8", 1, 8, 10, torch.Generator().manual_seed(3))
    save_tensors(Place.at(tmp_path / "random.safetensors"), encoder.state_dict())
    monkeypatch.setenv("DDCORE_WEIGHTS", str(tmp_path))
    given = {"hello__encoder": "convnet2-bn-w8", "hello__weights": str(tmp_path / "random.safetensors")}
    given |= {
        "network": "convnet2-bn-w16",
        "teachers__epochs": 15,
        "teachers__snapshots": 0,
        "views__crop": "none",
        "views__mix": "none",
    }
    factors = {"hello__rank": 4, "hello__head_rank": 8, "hello__epochs": 8, "hello__batch": 32, "hello__rate": 0.01}
    objective = []
    for ranks in (RANK_ZERO, factors):
        run = opened(cache, tmp_path / f"run-{len(objective)}", **given, **ranks)
        made = projector_of(run.plugins["hello"], run)
        assert made.models() == {}
        shown, classes = run.real.train.inputs(torch.arange(500)), run.real.train.labels[:500]
        found, weak = made.logits(shown), mean_logits(shown, weak_teachers(run)[0])
        objective.append(float(F.mse_loss(found, weak) + F.cross_entropy(found, classes)))
    assert objective[1] < 0.5 * objective[0]  # 0.15 of it, deviation 0.01 over seeds


def test_the_scale_brings_zero_shot_answers_to_the_weak_teachers(cache, tmp_path):
    run = opened(cache, tmp_path, **RANK_ZERO)
    made = projector_of(run.plugins["hello"], run)
    shown = run.real.train.inputs(probe(run))
    wanted = torch.stack([teacher(shown) for teacher in run.teachers.snapshots(0)]).mean(0)
    own, due = (z - z.mean(1, keepdim=True) for z in (attrs.evolve(made, scale=1.0).logits(shown), wanted))
    assert made.scale == pytest.approx(float((own * due).sum() / own.square().sum()), rel=1e-3) != 1


def test_the_teacher_itself_is_the_honest_baseline(cache, tmp_path):
    run = opened(cache, tmp_path, hello__head="teacher", **RANK_ZERO)
    made, teacher = projector_of(run.plugins["hello"], run), run.teachers.network(0)
    shown = run.real.train.inputs(torch.arange(20))
    torch.testing.assert_close(made.logits(shown), teacher(shown))
    numbers = sum(t.numel() for name, t in teacher.state_dict().items() if not name.endswith("num_batches_tracked"))
    assert made.payload_bytes + made.model_bytes == 4 * numbers + 10
    assert torch.equal(made.head, last_layer(teacher, 1, 8)[0])


def test_only_factors_change_and_their_bytes_follow_the_formula(cache, tmp_path):
    run = opened(cache, tmp_path)
    before = {name: t.clone() for name, t in run.teachers.network(0).state_dict().items()}
    zero = projector_of(run.plugins["hello"], opened(cache, tmp_path / "zero", **RANK_ZERO))
    made = projector_of(run.plugins["hello"], run)
    now = run.teachers.network(0).state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
    assert torch.equal(made.head, zero.head) and made.scale == zero.scale
    convolutions = list(adaptable(run.teachers.network(0)).values())
    assert made.factor_bytes == 2 * (factor_floats(convolutions, 2) + factor_floats([(10, 32)], 4))
    assert all(a.dtype == b.dtype == torch.float16 and a.any() for a, b in made.factors.values())


def test_it_is_found_again_and_fitted_again_where_an_option_shapes_it(cache, tmp_path):
    first = opened(cache, tmp_path / "a")
    made = projector_of(first.plugins["hello"], first)
    folder = Place.at(cache) / "projectors"
    there = set(folder.names())
    again = opened(cache, tmp_path / "b", hello__student_hard=0.7, hello__pool=9, hello__student_loss="kl")
    found = projector_of(again.plugins["hello"], again)
    assert set(folder.names()) == there
    assert (found.hard, found.loss) == (0.7, "kl")
    assert all(torch.equal(t, found.tensors()[name]) for name, t in made.tensors().items())
    other = opened(cache, tmp_path / "c", hello__hard=0.5)
    assert not torch.equal(projector_of(other.plugins["hello"], other).factors["head"][0], made.factors["head"][0])
    assert len(folder.names()) == len(there) + 1


def test_an_interrupted_fit_goes_on_to_the_same_bits(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    from ddcore.errors import Interrupted

    given = {"hello__weak": "each", "hello__epochs": 3}
    whole = opened(cache, tmp_path / "a", **given)
    due = projector_of(whole.plugins["hello"], whole)
    other = str(tmp_path / "cache")
    run = opened(other, tmp_path / "b", **given)
    run.teachers  # noqa: B018
    log = run.log

    def stop(event, **told):
        log(event, **told)
        run.stopping = event == "projector"

    run.log = stop
    with pytest.raises(Interrupted):
        projector_of(run.plugins["hello"], run)
    again = opened(other, tmp_path / "c", **given)
    events = []
    again.log = lambda event, **told: events.append((event, told.get("epoch")))
    made = projector_of(again.plugins["hello"], again)
    assert [epoch for event, epoch in events if event == "projector"] == [2, 3, None]
    assert all(torch.equal(t, made.tensors()[name]) for name, t in due.tensors().items())


def test_weak_teachers_are_the_snapshots_else_whoever_labels(cache, tmp_path):
    run = opened(cache, tmp_path / "a")
    weak, weights = weak_teachers(run)
    shown = run.real.train.inputs(torch.arange(5))
    assert len(weak) == 2 and weights is None
    assert not torch.allclose(weak[0](shown), run.teachers.network(0)(shown))
    alone, weights = weak_teachers(opened(cache, tmp_path / "b", teachers__snapshots=0))
    assert len(alone) == 1 and weights == [1.0]


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matcher", [("--plugin=dm", "--steps=2"), ("--plugin=rded",), ("--plugin=sre2l", "--steps=2")])
def test_it_labels_the_sets_of_every_matcher_and_real_images_by_one_projector(cache, tmp_path, matcher):
    assert invoke(command(cache, tmp_path / "run", *matcher)) == 0
    artifact = load_artifact(tmp_path / "run" / "artifact")
    assert isinstance(artifact.labels, ProjectorLabels)
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    by = {(row["set"], row["labels"]): row["bytes"] for row in rows}
    assert by["distilled", "projector"]["models"] == artifact.nbytes["models"] > 0
    assert by["random", "projector"]["models"] == artifact.labels.model_bytes
    assert by["distilled", "hard"]["models"] == by["random", "hard"]["models"] == 0
    assert by["random", "projector"]["labels"] == artifact.labels.payload_bytes
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert sum('"after"' in line for line in log.splitlines()) <= 1


def test_real_images_beside_a_set_get_its_own_projector(cache, tmp_path):
    assert invoke(command(cache, tmp_path / "run", "--plugin=dm", "--steps=1")) == 0
    run = opened(cache, tmp_path / "other", hello__hard=0.123)  # would be another projector
    run.artifact = load_artifact(tmp_path / "run" / "artifact")
    images, classes = run.real.train.inputs(torch.arange(7)), run.real.train.labels[:7]
    labels = run.label(images, classes)
    assert torch.equal(labels.classes, classes)
    assert torch.equal(labels.logits(images), run.artifact.labels.logits(images))


def test_relabelling_gives_the_labels_of_a_run_and_leaves_the_images(cache, tmp_path):
    assert invoke(command(cache, tmp_path / "whole", "--plugin=dm", "--steps=2")) == 0
    plain = ["run", "--plugin=dm", "--steps=2", "--eval-seeds=1", "--full-epochs=1", "--preset=none"]
    shared = [flag for flag in flags() if not flag.startswith(("--hello", "--teachers"))]
    assert invoke([*plain, *shared, f"--cache={cache}", f"--out={tmp_path / 'plain'}"]) == 0
    own = [flag for flag in flags() if flag.startswith(("--hello", "--teachers", "--protocol"))]
    words = ["--plugin=hello", "--labels=projector", *own, f"--cache={cache}", f"--out={tmp_path / 'new'}"]
    assert invoke(["relabel", str(tmp_path / "plain" / "artifact"), *words]) == 0
    new, whole = load_artifact(tmp_path / "new"), load_artifact(tmp_path / "whole" / "artifact")
    assert torch.equal(new.tensors["pixels"], load_artifact(tmp_path / "plain" / "artifact").tensors["pixels"])
    assert all(torch.equal(t, new.labels.tensors()[name]) for name, t in whole.labels.tensors().items())
    assert new.nbytes["models"] == whole.nbytes["models"]
    assert invoke(["evaluate", str(tmp_path / "new"), "--eval-seeds=1", "--full-epochs=1"]) == 0


def test_hello_patches_begin_as_a_teachers_and_are_moved_towards_the_originals(cache, tmp_path):
    def images(place, **given):
        run = opened(cache, tmp_path / place, hello__pool=20, hello__crops=2, **given)
        classes = torch.tensor([3, 5, 3])
        return run, run.initialize(classes, Task("distil", "x", 1, classes=classes), "hello")

    _, whole = images("a")
    run, mosaics = images("b", hello__factor=2)
    assert whole.shape == mosaics.shape == (3, 1, 8, 8)
    _, moved = images("c", hello__factor=2, hello__update=10)
    assert not torch.equal(moved, mosaics)
    assert torch.equal(images("d", hello__update=3)[1], whole)  # nothing is scaled down
    assert torch.equal(run.normalisation.clamped(moved), moved)


def test_hello_suggests_no_initialiser(cache, tmp_path):
    assert opened(cache, tmp_path).plan.initializer == "real"
    assert opened(cache, tmp_path / "b").plan.labeller == "projector"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"hello__encoder": "convnet2"}, OptionError, "public weights: give --hello.encoder convnet2 and"),
        ({"hello__weights": "x.safetensors"}, OptionError, "public weights"),
        ({"hello__encoder": "open_clip:RN50", "hello__weights": "own"}, OptionError, "wants 3 channels"),
        ({"hello__encoder": "convnet2-bn-w8", "hello__weights": "away"}, InputError, "DDCORE_WEIGHTS"),
        ({"hello__head": "text"}, InputError, "only encoders of CLIP know sentences"),
        (
            {"hello__encoder": "convnet2-bn-w8", "hello__weights": "own", "hello__head": "teacher"},
            OptionError,
            "leave out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(cache, tmp_path, monkeypatch, given, error, words):
    for name in ("own", "away"):
        save_tensors(Place.at(tmp_path / name / "w.safetensors"), {"x": torch.zeros(1)})
        if given.get("hello__weights") == name:
            given = {**given, "hello__weights": str(tmp_path / name / "w.safetensors")}
    monkeypatch.setenv("DDCORE_WEIGHTS", str(tmp_path / "own" if "away" not in str(given) else tmp_path))
    run = opened(cache, tmp_path / "run", **given)
    with pytest.raises(error, match=words) as raised:
        projector_of(run.plugins["hello"], run)
    assert "\n" not in str(raised.value)


def test_a_pool_that_is_too_small_is_refused(cache, tmp_path):
    run = opened(cache, tmp_path, hello__pool=7, hello__factor=2)
    with pytest.raises(InputError, match=r"take 8 images of class '0'.*--hello.pool"):
        run.initialize(torch.zeros(2, dtype=torch.int64), Task("distil", "x", 1), "hello")


def test_every_option_has_a_row_in_the_readme():
    from pathlib import Path

    text = (Path(__file__).parents[1] / "README.md").read_text()
    for field in attrs.fields(HeLlO):
        assert f"`--hello.{field.name.replace('_', '-')}`" in text
