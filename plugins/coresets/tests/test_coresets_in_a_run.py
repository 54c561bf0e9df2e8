"""Coresets through ``ddcore run``: alone, before dm, as baseline rows; what they need, keep and refuse."""

import json

import attrs
import pytest
import torch
from ddcore_coresets import METHODS, Coresets, dynamics, scores

from ddcore import load_artifact
from ddcore.api.types import Task
from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.errors import OptionError
from ddcore.networks.passes import features, logits
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin
from ddcore.runs.opening import open_run
from ddcore.runs.run import Run
from ddcore.storage.places import Place, read_metadata

EXPERTS = {"experts__count": 2, "experts__epochs": 5, "experts__batch": 64, "experts__lr": 0.05}
WORDS = [
    "--dataset",
    "digits",
    "--network",
    "convnet2-w4",
    "--threads",
    "1",
    "--eval-seeds",
    "1",
    "--protocol",
    "quick-1",
]
WORDS += ["--experts.count", "2", "--experts.epochs", "5", "--experts.batch", "64", "--experts.lr", "0.05"]
WORDS += ["--full-epochs", "1", "--preset", "none"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache: str, place: object, *plugins: str, **given: object) -> Run:
    plugins = plugins or ("coresets",)
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    shared = {"plugins": plugins, "cache": cache, "threads": 1, "ipc": 3, "network": "convnet2-w4"}
    selection = select([*words, "--preset", "none"], {})
    return Run(setup_from(selection, {**shared, **EXPERTS, **given}, {}), Place.at(place))


def rows_of(run: Run, images: torch.Tensor, classes: torch.Tensor) -> list[int]:
    """Where these real images lie in the train split."""
    every = run.real.train.inputs(torch.arange(len(run.real.train))).flatten(1)
    found = []
    for image, cls in zip(images.flatten(1), classes.tolist(), strict=True):
        own = run.real.train.of_class(cls)
        found.append(int(own[(every[own] - image).abs().sum(1).argmin()]))
        assert torch.equal(every[found[-1]], image)
    return found


def chosen(run: Run, method: str, classes: torch.Tensor | None = None, slot: int = 0) -> list[int]:
    classes = torch.arange(10).repeat_interleave(3) if classes is None else classes
    images = run.initialize(classes, Task("distil", "test", 0, slot=slot, classes=classes), method)
    return rows_of(run, images, classes)


# ---- what is picked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_picks_distinct_images_of_each_class_and_the_same_again(cache, tmp_path, method):
    found = chosen(opened(cache, tmp_path / "a"), method)
    assert len(set(found)) == 30
    assert found == chosen(opened(cache, tmp_path / "b"), method)


@pytest.mark.parametrize("method", ["herding", "el2n", "graph-cut", "k-center"])
def test_rows_may_come_in_any_order_and_each_class_gets_its_picks_in_pick_order(cache, tmp_path, method):
    run = opened(cache, tmp_path / "run", coresets__start="mean")
    classes = torch.tensor([3, 1, 3, 9, 1, 3])
    found = chosen(run, method, classes)
    of_three = chosen(run, method, torch.tensor([3, 3, 3]))
    assert [row for row, cls in zip(found, classes.tolist(), strict=True) if cls == 3] == of_three
    assert found[0] == chosen(run, method, torch.tensor([3]))[0]


def test_coreset_is_what_the_option_says(cache, tmp_path):
    run = opened(cache, tmp_path / "run", coresets__method="aum")
    assert chosen(run, "coreset") == chosen(run, "aum") != chosen(run, "herding")


def test_herding_in_a_run_is_nearest_to_the_mean_of_the_expert_s_features(cache, tmp_path):
    run = opened(cache, tmp_path / "run")
    for slot in (0, 1):
        found = chosen(run, "herding", torch.tensor([4]), slot)
        own = run.real.train.of_class(4)
        h = features(run.trajectories.network(run, slot), run.real.train.inputs(own))
        assert found == [int(own[(h - h.mean(0)).norm(dim=1).argmin()])]


def test_keep_turns_the_score_over(cache, tmp_path):
    runs = {keep: opened(cache, tmp_path / keep, coresets__keep=keep) for keep in ("hard", "easy", "middle")}
    el2n = dynamics.score(runs["hard"], "el2n", expert=0, epoch=-1, early=None)
    area = dynamics.score(runs["hard"], "aum", expert=0, epoch=-1, early=None)
    own = runs["hard"].real.train.of_class(7)
    hard, easy, between = (el2n[chosen(run, "el2n", torch.full((5,), 7))] for run in runs.values())
    assert hard.min() == el2n[own].sort(descending=True).values[4]
    assert easy.max() == el2n[own].sort().values[4]
    assert easy.max() < between.min() <= between.max() < hard.min()
    assert area[chosen(runs["hard"], "aum", torch.tensor([7]))] == area[own].min()
    assert area[chosen(runs["easy"], "aum", torch.tensor([7]))] == area[own].max()


def test_moderate_keeps_the_middle_ranks_of_each_class_and_ccs_drops_the_lowest_areas_of_each(cache, tmp_path):
    run = opened(cache, tmp_path / "run")
    asked = {"expert": 0, "epoch": -1, "early": None}
    distance, area = (dynamics.score(run, name, **asked) for name in ("distance", "aum"))
    for cls in (2, 7):
        own = run.real.train.of_class(cls)
        ranks = {row: rank for rank, row in enumerate(own[distance[own].argsort()].tolist())}
        found = [ranks[row] for row in chosen(run, "moderate", torch.full((6,), cls))]
        first = round((len(own) - 6) / 2)
        assert sorted(found) == list(range(first, first + 6))
        dropped = own[area[own].argsort()[: int(0.3 * len(own))]].tolist()
        assert not set(dropped) & set(chosen(run, "ccs", torch.full((60,), cls)))


def test_k_center_starts_at_random_or_at_the_mean(cache, tmp_path):
    given = {"coresets__features": "pixels"}
    run = opened(cache, tmp_path / "a", coresets__start="mean", **given)
    classes = torch.arange(10).repeat_interleave(2)
    assert chosen(run, "k-center", classes) == chosen(run, "kcenter", classes)
    firsts = {chosen(opened(cache, tmp_path / str(s), seed=s, **given), "k-center", classes)[0] for s in range(4)}
    assert len(firsts) > 1


# ---- scores from experts ---------------------------------------------------------------------------------------------


def test_scores_in_a_run_equal_the_functions_on_the_experts_logits(cache, tmp_path):
    run = opened(cache, tmp_path / "run", dtype="float64")
    x, y = run.real.train.inputs(torch.arange(len(run.real.train))), run.real.train.labels
    asked = {"expert": 1, "epoch": 3, "early": 2}
    early = [run.trajectories.network(run, expert, 2) for expert in range(2)]
    z = torch.stack([logits(network, x) for network in early])
    h = torch.stack([features(network, x) for network in early])
    every = torch.stack(
        [torch.stack([logits(run.trajectories.network(run, n, t), x) for t in range(1, 6)]) for n in (0, 1)]
    )
    one = run.trajectories.network(run, 1, 3)
    due = {
        "el2n": scores.el2n(z, y),
        "grand-last": scores.grand_last_layer(z, y, h),
        "aum": scores.aum(every, y),
        "forgetting": scores.forgetting(every.argmax(-1) == y),
        "entropy": scores.entropy(logits(one, x)),
        "margin": scores.confidence_margin(logits(one, x)),
        "least-confidence": scores.least_confidence(logits(one, x)),
        "distance": scores.distance_to_median(features(one, x), y),
    }
    for name, values in due.items():
        found = dynamics.score(run, name, **asked)
        torch.testing.assert_close(found.to(values), values, msg=lambda text, name=name: f"{name}: {text}")


def test_grand_is_the_mean_of_the_experts_gradient_norms(tmp_path, monkeypatch):
    run = opened(str(tmp_path / "cache"), tmp_path / "run", dtype="float64", experts__epochs=1)
    few = torch.arange(6)
    monkeypatch.setattr(
        dynamics, "real_images", lambda run: iter([(run.real.train.inputs(few), run.real.train.labels[few])])
    )
    found = dynamics.score(run, "grand", expert=0, epoch=-1, early=1)
    x, y = next(dynamics.real_images(run))
    due = [scores.gradient_norms(run.trajectories.network(run, n, 1), x, y) for n in (0, 1)]
    torch.testing.assert_close(found, (due[0] + due[1]) / 2)


def test_scores_are_kept_and_found_again_only_for_what_they_were_made_of(cache, tmp_path, monkeypatch):
    run = opened(cache, tmp_path / "a")
    first = dynamics.score(run, "el2n", expert=0, epoch=-1, early=2)
    with monkeypatch.context() as patched:
        patched.setattr(dynamics, "seen_by", lambda *_: pytest.fail("scored again"))
        again = dynamics.score(opened(cache, tmp_path / "b"), "el2n", expert=0, epoch=-1, early=2)
    assert torch.equal(first, again)
    other = dynamics.score(run, "el2n", expert=0, epoch=-1, early=3)
    fewer = dynamics.score(opened(cache, tmp_path / "c", experts__count=1), "el2n", expert=0, epoch=-1, early=2)
    assert not torch.equal(first, other) and not torch.equal(first, fewer)


def test_a_score_file_says_what_it_is_and_which_way_it_points(tmp_path):
    run = opened(str(tmp_path / "cache"), tmp_path / "run", experts__count=1, experts__epochs=1)
    found = dynamics.score(run, "aum", expert=0, epoch=-1, early=None)
    (name,) = (run.cache / "coresets").names()
    told = read_metadata(run.cache / "coresets" / name)
    assert told["high aum is"] == "easy" and told["high forgetting is"] == "hard"
    assert (told["network"], told["epochs"], told["seed"]) == ("convnet2-w4", "1", "0")
    assert found.dtype == torch.float32 and found.shape == (len(run.real.train),)


def test_an_epoch_past_the_experts_is_refused_with_a_way_out(cache, tmp_path):
    with pytest.raises(
        OptionError, match="--coresets.early-epoch 9 is past .* 5: lower it or raise --experts.epochs to 9"
    ):
        chosen(opened(cache, tmp_path / "a", coresets__early_epoch=9), "el2n")
    with pytest.raises(OptionError, match="--coresets.epoch 6 is past"):
        chosen(opened(cache, tmp_path / "b", coresets__epoch=6), "herding")


def test_of_more_images_than_a_class_has_the_same_ones_are_chosen_again(cache, tmp_path):
    run = opened(cache, tmp_path / "run")
    there = run.real.counts()[0]
    images = run.initialize(torch.zeros(there + 3, dtype=torch.int64), distillation_task(run), "random")
    assert torch.equal(images[:3], images[there:])
    assert len(images[:there].unique(dim=0)) == len(run.real.train.inputs(run.real.train.of_class(0)).unique(dim=0))


# ---- experts only where they are needed ------------------------------------------------------------------------------


def test_experts_are_asked_for_by_the_methods_that_need_them():
    trained, untrained = Coresets(), Coresets(features="random")
    free = {method for method in METHODS if not untrained.assets(method)}
    assert free == {"random", "herding", "k-center"}
    assert {method for method in METHODS if not trained.assets(method)} == {"random"}
    assert trained.assets("coreset") == ("trajectories",) and untrained.assets("coreset") == ()
    assert trained.assets(None) == trained.assets("noise") == ()
    assert all(attrs.evolve(trained, method=m).assets("coreset") == trained.assets(m) for m in METHODS)


@pytest.mark.parametrize("kind", ["random", "pixels"])
def test_untrained_features_train_nothing(kind, tmp_path):
    run = opened(str(tmp_path / "cache"), tmp_path / "run", coresets__features=kind)
    assert run.plan.needs == ()
    found = chosen(run, "herding")
    assert len(set(found)) == 30 and not (tmp_path / "cache" / "experts").exists()


def test_other_networks_see_other_seeds_when_features_are_random(tmp_path):
    run = opened(str(tmp_path / "cache"), tmp_path / "run", coresets__features="random")
    assert chosen(run, "herding", slot=0) != chosen(run, "herding", slot=1)


# ---- whole runs ------------------------------------------------------------------------------------------------------


def scored(place) -> dict[str, dict]:
    return {row["set"]: row for row in json.loads((place / "scores.json").read_text())["rows"]}


def test_a_run_of_herding_keeps_real_images_and_scores_them(cache, tmp_path):
    out = tmp_path / "run"
    words = ["run", "--plugin", "coresets", "--coresets.method", "herding", *WORDS, "--cache", cache, "--out", str(out)]
    assert invoke([*words, "--ipc", "2", "--baseline", "el2n", "--baseline", "ccs"]) == 0
    rows = scored(out)
    assert {"distilled", "random", "el2n", "ccs", "full"} <= set(rows)
    run = open_run(str(out))
    result = run.checkpoints.result("distil-000")
    classes = torch.arange(10).repeat_interleave(2)
    assert rows_of(run, result["pixels"], classes) == chosen(run, "herding", classes)


def test_herding_is_where_dm_starts(cache, tmp_path):
    out = tmp_path / "run"
    words = ["run", "--plugin", "dm", "--plugin", "coresets", "--init", "herding", "--steps", "1", *WORDS]
    assert invoke([*words, "--ipc", "1", "--cache", cache, "--out", str(out)]) == 0
    assert open_run(str(out)).plan.matcher == "dm"
    run = opened(cache, tmp_path / "again", "dm", "coresets", init="herding", steps=1, ipc=1)
    start = begin(distillation_task(run), run).tensors["pixels"].detach()
    due = opened(cache, tmp_path / "alone", ipc=1)
    assert torch.equal(start, due.initialize(torch.arange(10), Task("distil", "x", 0), "herding"))
    assert not torch.equal(start, open_run(str(out)).checkpoints.result("distil-000")["pixels"])


def test_what_is_learned_is_the_images_with_no_optimiser(cache, tmp_path):
    run = opened(cache, tmp_path / "run", coresets__method="random")
    assert (run.plan.steps, run.plan.needs) == (0, ())
    learn = begin(distillation_task(run), run)
    assert learn.optimizers == {} and list(learn.tensors) == ["pixels"]
    assert not learn.tensors["pixels"].requires_grad


@pytest.mark.parametrize("method", ["random", "herding", "k-center", "el2n"])
def test_the_set_is_known_as_real_and_stored_in_the_bytes_of_its_data(cache, tmp_path, method):
    words = ["run", "--plugin=coresets", *WORDS, "--ipc=1", f"--cache={cache}", f"--coresets.method={method}"]
    assert invoke([*words, f"--out={tmp_path / 'run'}"]) == 0
    artifact, run = load_artifact(tmp_path / "run" / "artifact"), open_run(str(tmp_path / "run"))
    assert artifact.real_count == 10 and artifact.payload_bytes == 10 * 65
    assert torch.equal(artifact.images(), run.real.train.inputs(artifact.source_rows))
    card = (tmp_path / "run" / "artifact" / "README.md").read_text()
    assert "10 real images, chosen from the train part of the source and unchanged" in card
    assert "It is the licence of these images" in card and 'license: "cc-by-4.0"' in card


def test_bytes_buy_coresets_at_the_price_of_real_images(cache, tmp_path):
    words = ["run", "--plugin=coresets", *WORDS, "--bytes=2000", f"--cache={cache}", "--coresets.method=random"]
    assert invoke([*words, f"--out={tmp_path / 'run'}"]) == 0
    assert load_artifact(tmp_path / "run" / "artifact").ipc == 2
