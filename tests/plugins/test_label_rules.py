"""``--labels`` of the core that ask teachers: what is left open follows the protocol, and random images get the same rule."""

import json
from types import SimpleNamespace

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from ddcore import randomness
from ddcore.api.types import Vote
from ddcore.cli.app import invoke
from ddcore.composing.plan import TEACHERS
from ddcore.composing.recipes import OF_VIEWS, RULES, ViewOptions
from ddcore.composing.selection import select, setup_from
from ddcore.images.views import RESIZED, SHIFTED, changed
from ddcore.labels import PerView, label_bytes, mean_logits
from ddcore.runs.run import Run
from ddcore.sets.artifact import load_artifact
from ddcore.storage.places import Place
from ddcore.training.label_rules import draw_for, kept_classes, temperature_for
from ddcore.training.protocols import protocol

pytestmark = pytest.mark.usefixtures("probes")

K = 10
CLASSES = torch.arange(K).repeat_interleave(2)
LARGE = SimpleNamespace(size=224, mirror_symmetric=True, classes=["c"] * 1000)
SMALL = SimpleNamespace(size=32, mirror_symmetric=True, classes=["c"] * 100)
DIGITS = SimpleNamespace(size=8, mirror_symmetric=False, classes=["c"] * 10)


def fixed(seed: int) -> nn.Module:
    with randomness.drawing_from(torch.Generator().manual_seed(seed)):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, K), nn.BatchNorm1d(K)).eval()


class Voting(Run):
    """A run whose teachers are two small networks with unequal weights."""

    def votes(self, purpose, task=None, batch=None):
        assert purpose == "label" and task is None and batch is None
        return [Vote(fixed(1), 0.25, "one"), Vote(fixed(2), 0.75, "two")]


def voting(folder, rule: str, *words: str, **given) -> Voting:
    selection = select(["--plugin", "pull", "--labels", rule, "--preset", "none", *words], {})
    return Voting(
        setup_from(selection, {"labels": rule, "protocol": ("sre2l-cifar-6",), **given}, {}), Place.at(folder)
    )


def images(count: int = 20) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


# ---- what is left open -----------------------------------------------------------------------------------------------


def test_views_of_large_images_are_imagenets_and_of_small_ones_cifars():
    assert draw_for(ViewOptions(), None, LARGE) == RESIZED
    assert draw_for(ViewOptions(), None, SMALL) == SHIFTED
    assert [temperature_for("per-view", ViewOptions(), draw) for draw in (RESIZED, SHIFTED)] == [20, 30]
    assert [temperature_for(rule, ViewOptions(), RESIZED) for rule in RULES] == [1, 20, 20, 1, 30]
    assert temperature_for("averaged", ViewOptions(temperature=7.0), SHIFTED) == 7


def test_digits_are_not_mirrored_and_are_shifted_by_no_more_than_an_eighth():
    draw = draw_for(ViewOptions(), None, DIGITS)
    assert draw.flip == 0 and draw.pad == 1 and draw.crop == "shifted"
    assert draw_for(ViewOptions(), RESIZED, DIGITS).flip == 0
    assert draw_for(ViewOptions(flip=0.5, pad=3), None, DIGITS) == evolve(SHIFTED, pad=3)


def test_views_are_the_protocols_where_it_has_some_and_options_change_them():
    rded = protocol("rded").views
    assert draw_for(ViewOptions(), rded, LARGE) == rded
    changed_draw = draw_for(ViewOptions(scale=0.3, ratio=2.0, mix="mixup", crop="shifted"), rded, LARGE)
    assert changed_draw.scale == (0.3, 1.0) and changed_draw.ratio == (0.5, 2.0)
    assert (changed_draw.mix, changed_draw.beta, changed_draw.crop) == ("mixup", 0.8, "shifted")
    assert draw_for(ViewOptions(mix="cutmix"), SHIFTED, SMALL).beta == 1
    assert draw_for(ViewOptions(beta=2.0), SHIFTED, SMALL).beta == 2


def test_top_k_keeps_a_tenth_of_the_classes():
    assert [kept_classes(ViewOptions(), s) for s in (LARGE, SMALL, DIGITS)] == [100, 10, 2]
    assert kept_classes(ViewOptions(k=3), DIGITS) == 3


@pytest.mark.parametrize("rule", OF_VIEWS)
def test_labels_of_views_have_the_epochs_and_batches_of_the_protocol(tmp_path, rule):
    run = voting(tmp_path, rule, protocol=("sre2l-cifar-6", "dsa-8"))
    labels = run.label(images(), CLASSES)
    # dsa runs E + 1 epochs: the longest protocol does not go through the labels twice
    assert isinstance(labels, PerView) and (labels.record.epochs, labels.record.batch) == (9, 128)
    k = {"k": 2} if rule == "top-k" else {}
    assert labels.payload_bytes == label_bytes(rule, 20, K, 9, 128, seeded=True, **k)
    assert labels.record.draw == draw_for(ViewOptions(), protocol("sre2l-cifar").views, run.source)


def test_options_of_views_reach_the_labels(tmp_path):
    given = {"epochs": "3", "batch": "4", "keep": "0.5", "seeded": False, "compact": True, "temperature": "5"}
    run = voting(tmp_path, "per-view", **{f"views__{name}": value for name, value in given.items()})
    labels = run.label(images(), CLASSES)
    assert labels.record.kind == "stored" and labels.record.pruned and labels.temperature == 5
    assert labels.payload_bytes == label_bytes("per-view", 20, K, 3, 4, keep=0.5, compact=True)


def test_every_rule_of_views_shows_the_same_views(tmp_path):
    made = [voting(tmp_path, rule).label(images(), CLASSES) for rule in OF_VIEWS]
    for views in zip(*(labels.views(2, 20, 9, torch.Generator()) for labels in made), strict=True):
        shown = [changed(view, images()[view.index]) for view in views]
        assert torch.equal(shown[0], shown[1]) and torch.equal(shown[0], shown[2])


def test_votes_are_weighed(tmp_path):
    labels = voting(tmp_path, "averaged").label(images(), CLASSES)
    due = 0.25 * mean_logits(images(), fixed(1)) + 0.75 * mean_logits(images(), fixed(2))
    torch.testing.assert_close(labels.logits, due)


def test_batch_statistics_take_the_protocols_groups(tmp_path):
    asked = {"views__statistics": "batch", "views__batch": "16"}
    for given, group in (({}, 8), ({"views__group": "4"}, 4), ({"protocol": ("cv-dd-2",)}, 8)):
        labels = voting(tmp_path, "per-view", **asked, **given).label(images(), CLASSES)
        (view, *_) = labels.views(0, 20, 1, torch.Generator())
        x = changed(view, images()[view.index])
        due = mean_logits(x, [fixed(1), fixed(2)], weights=[1, 3], statistics="batch", group=group)
        torch.testing.assert_close(labels.targets(view)["logits"], due, rtol=1e-2, atol=1e-2)


def test_images_beside_a_set_get_the_views_of_the_set_whatever_the_protocol(tmp_path):
    run = voting(tmp_path, "per-view", views__epochs="4", views__batch="8", views__scale="0.4", views__mix="cutmix")
    labels = run.label(images(), CLASSES)
    other = voting(tmp_path, "per-view", protocol=("rded-70",))
    other.artifact = SimpleNamespace(labels=labels)
    beside = other.label(images(), CLASSES)
    assert (beside.record.epochs, beside.record.batch) == (4, 8) and beside.record.draw == labels.record.draw
    static = voting(tmp_path, "static-mixed", views__pad="2").label(images(), CLASSES)
    other = voting(tmp_path, "static-mixed", protocol=("rded-70",))
    other.artifact = SimpleNamespace(labels=static)
    assert other.label(images(), CLASSES).draw == static.draw and static.draw.pad == 2


# ---- what is said ----------------------------------------------------------------------------------------------------


class Knowing(nn.Module):
    """Right about clean images whose first column says the class, wrong about whatever is shifted off it."""

    def forward(self, images: Tensor) -> Tensor:
        at = (images[:, 0, :, 0].mean(1) * K).round()
        return -(at[:, None] - torch.arange(K)).square()


def test_teachers_that_do_not_know_the_views_they_label_are_warned_of_with_the_numbers(tmp_path):
    run = voting(tmp_path, "per-view", views__crop="shifted", views__pad="7", views__mix="mixup")
    run.votes = lambda purpose: [Vote(Knowing().eval(), 1.0, "knowing")]
    shown = torch.zeros(20, 1, 8, 8)
    shown[:, 0, :, 0] = (CLASSES / K)[:, None]
    run.label(shown, CLASSES)
    (warning,) = run.tasks.reporter.warnings
    assert "of the views that they label, and in 1.00 of the clean images (chance is 0.10)" in warning
    assert float(warning.split(" in ")[1].split()[0]) < 0.325 and "milder --views.crop" in warning
    run.tasks.reporter.warnings.clear()
    run.config = evolve(run.config, labels="averaged")
    run.label(shown, CLASSES)
    assert not run.tasks.reporter.warnings


@pytest.mark.parametrize(
    ("recipe", "rule", "given", "warned"),
    [
        ("sre2l-tiny-2", "per-view", {}, True),
        ("sre2l-tiny-2", "per-view", {"views__tau_squared": True}, False),
        ("sre2l-tiny-2", "averaged", {}, False),
        ("sre2l-tiny-2", "two-distances", {"views__temperature": "20"}, False),
        ("sre2l-cifar-2", "per-view", {}, False),
    ],
)
def test_a_temperature_that_leaves_sgd_without_gradient_is_warned_of(tmp_path, recipe, rule, given, warned):
    run = voting(tmp_path, rule, protocol=(recipe,), **given)
    run.label(images(), CLASSES)
    said = [warning for warning in run.tasks.reporter.warnings if "--views.tau-squared" in warning]
    assert len(said) == warned
    assert all("temperature of 20 makes gradients about 400 times smaller" in warning for warning in said)


def test_a_mirror_that_changes_the_class_is_warned_of(tmp_path):
    run = voting(tmp_path, "static-mixed", views__flip="0.5")
    run.label(images(), CLASSES)
    assert any("--views.flip 0.5" in warning and "class" in warning for warning in run.tasks.reporter.warnings)


# ---- on the command line ---------------------------------------------------------------------------------------------

SHORT = ["--steps", "1", "--eval-seeds", "1", "--network", "convnet2-w8", "--preset", "none", "--threads", "1"]
SHORT += ["--full-epochs", "1", "--ipc", "1", "--protocol", "sre2l-cifar-3", "--teachers.epochs", "2"]
SHORT += ["--teachers.no-check"]


@pytest.mark.parametrize("rule", RULES)
def test_a_plugin_that_knows_no_teachers_takes_labels_by_teachers_and_random_images_get_them_too(
    tmp_path, tmp_path_factory, rule, capsys
):
    cache = tmp_path_factory.getbasetemp() / "teachers-of-label-rules"
    words = ["--plugin", "pull", "--labels", rule, *SHORT, "--cache", str(cache)]
    assert invoke(["run", *words, "--out", str(tmp_path / "run"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    kind = "soft" if rule == "averaged" else rule
    assert {(r["set"], r["labels"]) for r in rows} >= {
        (s, lab) for s in ("distilled", "random") for lab in (kind, "hard")
    }
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["plan"]["needs"] == [TEACHERS] and record["options"]["views"]["keep"] == 1
    artifact = load_artifact(tmp_path / "run" / "artifact")
    random = next(r for r in rows if (r["set"], r["labels"]) == ("random", kind))
    assert artifact.labels.kind == kind and random["bytes"]["labels"] == artifact.labels.payload_bytes
    assert random["note"] == f"labelled by the rule {rule!r}"
    assert (
        invoke(["evaluate", str(tmp_path / "run" / "artifact"), "--eval-seeds", "1", "--full-epochs", "1", "--json"])
        == 0
    )
    again = json.loads(capsys.readouterr().out)["rows"]
    numbers = [[(r["set"], r["labels"], r["accuracy"]["values"]) for r in some] for some in (rows, again)]
    assert numbers[0] == numbers[1]


def test_options_of_views_come_from_a_file_and_the_environment_too(tmp_path, capsys, monkeypatch):
    file = tmp_path / "labels.toml"
    file.write_text('labels = "top-k"\n[views]\nk = 3\n[teachers]\nepochs = 4\n')
    words = ["run", "--plugin", "pull", "--preset", "none", "--explain", "--json"]
    monkeypatch.setenv("DDCORE_VIEWS__BATCH", "7")
    assert invoke([*words, "--config", str(file)]) == 0
    shown = {row["name"]: (row["value"], row["source"]) for row in json.loads(capsys.readouterr().out)}
    assert shown["--views.k"] == (3, f"file {file}") and shown["--teachers.epochs"][0] == 4
    assert shown["--views.batch"] == (7, "environment DDCORE_VIEWS__BATCH")
    monkeypatch.setenv("DDCORE_LABELS", "per-view")
    assert invoke([*words, "--views.pad", "2"]) == 0
    assert "--views.pad" in capsys.readouterr().out


def test_options_of_views_without_labels_by_teachers_say_what_to_give(capsys):
    assert invoke(["run", "--plugin", "pull", "--views.k", "3"]) == 2
    assert "give --labels averaged, per-view, top-k, two-distances or static-mixed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--views.keep", "0"], "--views.keep"),
        (["--views.scale", "2"], "--views.scale"),
        (["--views.flip", "-1"], "--views.flip"),
        (["--views.statistics", "own"], "--views.statistics"),
        (["--views.group", "1"], "--views.group"),
    ],
)
def test_options_out_of_range_are_refused(capsys, words, said):
    assert invoke(["run", "--plugin", "pull", "--labels", "per-view", "--plan-only", *words]) == 2
    assert said in capsys.readouterr().err


def test_what_the_rest_of_top_k_labels_gets_and_the_squared_temperature_reach_the_labels(tmp_path):
    labels = voting(tmp_path, "top-k", views__rest="shared", views__tau_squared=True).label(images(), CLASSES)
    assert (labels.rest, labels.tau_squared) == ("shared", True)
    assert bool((labels.values <= 0).all())
