"""Weights of sources, the loss, sources from files, whole trainings."""

import json
import math

import pytest
import torch
from ddcore_distill_weighted import (
    DistillWeighted,
    Told,
    labelled_cross_entropy,
    labelled_rows,
    mixture,
    mixture_kl,
    report,
    similarity,
    source_weights,
    weighted_kl,
)
from ddcore_distill_weighted.sources import Fitting, Source, opened
from torch.nn import functional as F

from ddcore import Batch, InputError
from ddcore.cli.app import invoke
from ddcore.data.normalisation import MeanStd
from ddcore.kit.contract import check_plugin, stage
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often

BASE = ["--student=convnet2-w4", "--eval-seeds=1", "--threads=1"]
QUICK = ["--data=digits", "--protocol=kd-3", "--per-class=6", *BASE]
LONGER = ["--data=digits", "--protocol=kd-10", "--per-class=40", *BASE]
TINY = ["--plugin-path", str(stage.HERE / "tiny.py")]


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SCORES = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
SOURCES, STUDENT = seeded(3, 6, 4), seeded(6, 4, seed=1)


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_by_hand():
    # 9, 1, 4 over 14
    torch.testing.assert_close(source_weights(SCORES, 2.0), torch.tensor([9.0, 1.0, 4.0]).double() / 14)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0, 50.0])
def test_check_weights_sum_to_one_and_do_not_depend_on_the_unit(power):
    weights = source_weights(SCORES, power)
    assert float(weights.sum()) == pytest.approx(1)
    torch.testing.assert_close(source_weights(100 * SCORES, power), weights)


def test_check_no_power_is_the_plain_ensemble_and_a_great_one_the_best_source():
    assert source_weights(SCORES, 0.0).tolist() == pytest.approx([1 / 3] * 3)
    assert source_weights(SCORES, 50.0).tolist() == pytest.approx([1, 0, 0], abs=1e-8)
    assert source_weights(SCORES, 2.0, nearest=True).tolist() == [1, 0, 0]


def test_check_scores_that_are_all_negative_give_equal_weights():
    assert source_weights(-SCORES, 2.0).tolist() == pytest.approx([1 / 3] * 3)
    assert source_weights(torch.tensor([2.0, -5.0, 0.0]), 2.0).tolist() == [1, 0, 0]


def test_check_equal_weights_for_want_of_similarity_come_with_one_warning():
    class Heard:
        def __init__(self):
            self.said, self.warned, self.logged = [], [], []

        def say(self, text):
            self.said.append(text)

        def warn(self, text):
            self.warned.append(text)

        def log(self, event, **fields):
            self.logged.append(fields["weights"])

    run, sources = Heard(), [Source(name, torch.nn.Identity()) for name in "abc"]
    for _ in range(2):
        report(DistillWeighted(), sources, -SCORES, source_weights(-SCORES, 2.0), run)
    assert (len(run.said), len(run.warned), len(run.logged)) == (1, 1, 2)
    assert "no source is similar to the target by parc" in run.warned[0]


def test_check_one_source_has_all_weight_whatever_its_score():
    assert all(source_weights(torch.tensor([s]), 2.0).tolist() == [1] for s in (7.0, 0.0, -3.0))


# ---- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_check_the_sum_of_divergences_and_that_to_the_mixture_have_one_gradient(temperature):
    weights, gradients = source_weights(SCORES, 1.0), []
    answers = mixture(SOURCES, weights, temperature)
    for loss in (
        lambda z: weighted_kl(z, SOURCES, weights, temperature),
        lambda z: mixture_kl(z, answers, temperature),
    ):
        student = STUDENT.clone().requires_grad_()
        loss(student).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)
    due = temperature / 6 * ((STUDENT / temperature).softmax(1) - answers)
    torch.testing.assert_close(gradients[0], due)


def test_check_one_source_is_knowledge_distillation_from_it():
    one = torch.ones(1, dtype=torch.float64)
    due = F.kl_div(STUDENT.log_softmax(1), SOURCES[0].softmax(1), reduction="none").sum(1).mean()
    torch.testing.assert_close(weighted_kl(STUDENT, SOURCES[:1], one), due)
    torch.testing.assert_close(mixture_kl(STUDENT, mixture(SOURCES[:1], one)), due)


def test_answers_that_are_sure_cost_no_infinity_and_equal_ones_nothing():
    sure = F.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).double()
    torch.testing.assert_close(mixture_kl(STUDENT, sure), F.cross_entropy(STUDENT, sure.argmax(1)))
    assert float(mixture_kl(STUDENT, STUDENT.softmax(1))) == pytest.approx(0, abs=1e-12)


def test_gradients_are_those_of_finite_differences():
    answers = mixture(SOURCES, source_weights(SCORES, 1.0), 2.0)
    assert torch.autograd.gradcheck(lambda z: mixture_kl(z, answers, 2.0), STUDENT.clone().requires_grad_())


def batch_of(index, classes, **more):
    return Batch(torch.zeros(len(index), 1), {"class": classes, **more}, index)


def test_cross_entropy_over_an_epoch_is_the_mean_over_labelled_images():
    labelled, classes = torch.tensor([1, 0, 0, 1, 0, 1]).bool(), torch.tensor([0, 1, 2, 3, 0, 1])
    parts = [
        labelled_cross_entropy(STUDENT[i], batch_of(i, classes[i]), labelled) for i in torch.arange(6).split([2, 2, 2])
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), F.cross_entropy(STUDENT[labelled], classes[labelled]))


def test_the_labels_of_other_images_are_not_looked_at():
    labelled, classes = torch.tensor([1, 0, 0, 1, 0, 1]).bool(), torch.tensor([0, 1, 2, 3, 0, 1])
    other = torch.where(labelled, classes, (classes + 1) % 4)
    mix = {"lam": torch.full((6,), 0.25).double()}
    values = [
        labelled_cross_entropy(STUDENT, batch_of(torch.arange(6), c, mixed=(c + 1) % 4, **mix), labelled)
        for c in (classes, other)
    ]
    assert values[0] == values[1]
    torch.testing.assert_close(values[0], 0.25 * F.cross_entropy(STUDENT[labelled], classes[labelled]))


def test_weights_say_what_they_weight():
    labelled, answers = torch.tensor([1, 0, 0, 1, 0, 1]).bool(), STUDENT.flip(0).softmax(1)
    batch, told = batch_of(torch.arange(6), torch.tensor([0, 1, 2, 3, 0, 1])), Told(labelled, answers)
    few, all_ = DistillWeighted(labelled=1, label_weight=0.3), DistillWeighted(label_weight=0.3)
    kl, ce = mixture_kl(STUDENT, answers), labelled_cross_entropy(STUDENT, batch, labelled)
    torch.testing.assert_close(few.ddcore_student_loss(batch, STUDENT, told).value, 0.3 * ce + 0.7 * kl)
    torch.testing.assert_close(all_.ddcore_student_loss(batch, STUDENT, told).value, 0.7 * kl)
    assert few.label_factor() == 0
    assert all_.label_factor() == pytest.approx(0.3)


def test_labelled_images_are_drawn_from_each_class_and_interleaved():
    classes = torch.tensor([0] * 7 + [1] * 3 + [2] * 5)
    rows = labelled_rows(classes, 2, torch.Generator().manual_seed(0))
    assert classes[rows].tolist() == [0, 1, 2, 0, 1, 2]
    assert sorted(labelled_rows(classes, None, torch.Generator().manual_seed(0)).tolist()) == list(range(15))
    with pytest.raises(InputError, match=r"labelled 4 asks for more labelled images than class 1 has \(3\)"):
        labelled_rows(classes, 4, torch.Generator())


@pytest.mark.parametrize("metric", ["leep", "nce"])
def test_likelihoods_are_comparable_scores(metric):
    none, classes = torch.empty(0), torch.arange(12) % 3
    value = similarity(metric, none, classes, none, (5 * F.one_hot(classes) + seeded(12, 3)).softmax(1))
    assert 0 < value <= 1


def test_images_become_what_a_source_was_trained_on():
    class Seeing(torch.nn.Module):
        def forward(self, images):
            return images

        embed = forward

    ours, theirs = MeanStd([0.5], [0.5]), MeanStd([0.25, 0.5, 0.75], [1, 1, 2])
    pixels = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = Fitting(Seeing(), ours, theirs, 3, 8)(ours.apply(pixels))
    torch.testing.assert_close(seen, theirs.apply(pixels.expand(-1, 3, -1, -1)))
    assert Fitting(Seeing(), ours, theirs, 3, 5).embed(ours.apply(pixels)).shape == (2, 3, 5, 5)
    back = Fitting(Seeing(), theirs, ours, 1, 8)(theirs.apply(pixels.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(back, ours.apply(pixels), atol=1e-6, rtol=1e-5)


# ---- in a training ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Students of digits, and of three classes of colour images, as sources."""
    folder = tmp_path_factory.mktemp("sources")
    made = {"digits": LONGER, "tiny": [*TINY, *BASE, "--protocol=kd-3", "--per-class=6", "--data=tiny"]}
    for name, words in made.items():
        assert invoke(["train", *words, f"--out={folder / name}"]) == 0
    return {name: str(folder / name / "students" / "student-0.safetensors") for name in made}


def trained(out, *words, base=QUICK):
    return invoke(["train", *base, "--plugin=distill-weighted", "--no-plain", f"--out={out}", *words])


def of(*files):
    return [f"--distill-weighted.sources={file}" for file in files]


def logged(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "distill-weighted"]


def weights_of(out):
    return load_tensors(Place.at(out / "students" / "student-0.safetensors"))


def test_the_contract_is_kept():
    check_plugin("distill-weighted")


def test_sources_of_any_classes_channels_and_task_are_judged_and_weighted(tmp_path, files, capsys):
    few = ["--distill-weighted.labelled=4", "--distill-weighted.l2=0.1"]
    assert trained(tmp_path / "a", *of(*files.values()), *few, "--eval-seeds=2") == 0
    lines = logged(tmp_path / "a")
    assert len(lines) == 2
    assert lines[0]["sources"] == ["convnet2-w4 of digits", "convnet2-w4 of tiny"]
    assert all(math.isfinite(score) for score in lines[0]["scores"])
    assert sum(lines[0]["weights"]) == pytest.approx(1)
    assert capsys.readouterr().err.count("distill-weighted: parc convnet2-w4 of digits") == 1


@pytest.mark.parametrize("metric", ["rsa", "cka", "dds", "leep", "nce", "hscore", "1nn", "logistic"])
def test_every_metric_judges_each_source_by_its_own_features_or_answers(tmp_path, files, metric, monkeypatch):
    seen, scores = [], DistillWeighted.scores
    monkeypatch.setattr(DistillWeighted, "scores", lambda *given: seen.append(given[2:]) or scores(*given))
    words = [f"--distill-weighted.metric={metric}", f"--distill-weighted.reference={files['digits']}"]
    words += ["--distill-weighted.l2=0.1", "--distill-weighted.dimensions=0"]
    assert trained(tmp_path / "a", *of(*files.values()), *words) == 0
    (line,), ((samples, rows, run),) = logged(tmp_path / "a"), seen
    shown, classes = samples.inputs(rows), samples.labels[rows]
    networks = [opened(file, run).network for file in files.values()]
    features = [network.embed(shown).double() for network in networks]
    due = [
        similarity(metric, own, classes, features[0], network(shown).softmax(1).double())
        for own, network in zip(features, networks, strict=True)
    ]
    assert line["scores"] == pytest.approx(due, rel=1e-5)
    if metric in ("rsa", "dds"):  # of the reference itself, which no other network can reach
        assert line["scores"][0] == pytest.approx(100) and line["scores"][1] < 99


def test_check_one_source_is_the_nearest_and_the_weighted_one(tmp_path, files):
    words = [*of(files["digits"]), "--distill-weighted.l2=0.1"]
    assert trained(tmp_path / "a", *words) == 0
    assert trained(tmp_path / "b", *words, "--distill-weighted.nearest") == 0
    one, other = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_check_with_labels_alone_no_source_is_loaded(tmp_path):
    words = [*of("nowhere.safetensors"), "--distill-weighted.label-weight=1"]
    assert trained(tmp_path / "few", *words, "--distill-weighted.labelled=2") == 0
    assert trained(tmp_path / "all", *words) == 0
    assert invoke(["train", *QUICK, f"--out={tmp_path / 'plain'}"]) == 0
    plain, every, few = (weights_of(tmp_path / name) for name in ("plain", "all", "few"))
    assert all(torch.equal(tensor, every[name]) for name, tensor in plain.items())
    assert any(not torch.equal(tensor, few[name]) for name, tensor in plain.items())


def test_a_stopped_student_goes_on_in_the_same_bits(tmp_path, files, monkeypatch):
    words = [*of(*files.values()), "--distill-weighted.labelled=3", "--distill-weighted.l2=0.1"]
    words += ["--distill-weighted.every-view"]
    assert trained(tmp_path / "whole", *words) == 0
    stop_often(monkeypatch)
    assert trained(tmp_path / "cut", *words) == 3
    assert resume_to_end(tmp_path / "cut") == 0
    one, cut = weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())


def test_where_few_images_are_labelled_a_student_comes_to_say_what_its_source_says(tmp_path, files, monkeypatch):
    made, bank = [], DistillWeighted.bank

    def watched(*given):
        made.append((bank(*given), given[1], given[3]))
        return made[-1][0]

    monkeypatch.setattr(DistillWeighted, "bank", watched)
    longest = [word.replace("kd-10", "kd-40") for word in LONGER]
    for name, words in {"labels": ["--distill-weighted.label-weight=1"], "source": of(files["digits"])}.items():
        assert trained(tmp_path / name, *words, "--distill-weighted.labelled=2", base=longest) == 0
    ((answers, samples, run),) = made
    shown, apart = samples.inputs(torch.arange(len(samples))), {}
    for name in ("labels", "source"):
        network = run.network(run.generator("test"), "convnet2-w4").eval()
        network.load_state_dict(weights_of(tmp_path / name))
        apart[name] = float(mixture_kl(network(shown).detach(), answers(shown).detach()))
    assert apart["source"] < 0.7 * apart["labels"]


@pytest.mark.parametrize(
    ("words", "due"),
    [
        ([], "has no source to distil from"),
        (["--distill-weighted.metric=rsa", "SOURCE"], "give its file, --distill-weighted.reference"),
        (["--distill-weighted.labelled=7", "SOURCE"], "asks for more labelled images than class 0 has"),
        (["--distill-weighted.sources=nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_refusals_say_the_way_out(tmp_path, files, capsys, words, due):
    given = [f"--distill-weighted.sources={files['digits']}" if word == "SOURCE" else word for word in words]
    assert trained(tmp_path / "a", *given) == 2
    assert due in capsys.readouterr().err


def test_mixed_images_want_sources_that_answer_every_view():
    told = Told(torch.ones(3).bool(), torch.ones(3, 2))
    mixed = batch_of(torch.arange(3), torch.zeros(3).long(), mixed=torch.zeros(3).long(), lam=torch.ones(3))
    with pytest.raises(InputError, match="--distill-weighted.every-view"):
        told.of(mixed)


def test_a_file_that_says_nothing_is_refused(tmp_path, capsys):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(1)}, str(tmp_path / "w.safetensors"))
    assert trained(tmp_path / "a", *of(tmp_path / "w.safetensors")) == 2
    assert "does not say of which network" in capsys.readouterr().err
