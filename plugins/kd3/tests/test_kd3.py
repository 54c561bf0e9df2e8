"""Selection, weights, mixed statistics and contrast in closed form; the shared classifier; a student on other images."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ddcore_kd3 import (
    KD3,
    Embedders,
    Shared,
    contrast,
    drawn_mix,
    emphasis,
    feature_loss,
    mix_statistics,
    shrunk,
    sure,
    thresholds,
    trust,
)
from torch import nn
from torch.nn import functional as F

from ddcore import Batch, InputError, Progress, Vote
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.networks.zoo import build
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training import seen_of
from ddcore.training.teaching import Teaching, last_linear, tapped


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=gen(seed), dtype=torch.float64)


# ---- selection -------------------------------------------------------------------------------------------------------


def test_check_trust_in_the_teacher_falls_and_ends():
    assert trust(1) == pytest.approx(0.9924, abs=5e-5)
    assert trust(119) == pytest.approx(0.268, abs=5e-4)
    assert [trust(e) for e in (120, 121, 240)] == [0, 0, 0]
    values = [trust(e) for e in range(1, 241)]
    assert values == sorted(values, reverse=True)


def test_check_thresholds_of_frequent_and_rare_classes():
    found = thresholds(torch.tensor([10, 5, 0, 1]))
    assert found.tolist() == pytest.approx([0.95, 0.3167, 0, 0.05], abs=5e-5)
    assert thresholds(torch.full((6,), 3)).tolist() == pytest.approx([0.95] * 6)


def test_rare_classes_are_taken_whole_and_frequent_ones_if_sure():
    p = torch.tensor([[0.96, 0.02, 0.02], [0.94, 0.03, 0.03], [0.5, 0.25, 0.25], [0.3, 0.36, 0.34]])
    # counts 3, 1, 0: the second class has A = 1 / 3 and threshold 0.95 / 5 = 0.19
    assert sure(p.log()).tolist() == [True, False, False, True]
    assert sure(p.log(), balanced=False).tolist() == [True, False, False, False]
    assert sure(p.log(), 0.0, balanced=False).all()


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_check_weights_lie_above_a_half_and_have_no_gradient():
    s, t = seeded(50, 4).requires_grad_(), seeded(50, 4, seed=1)
    w = emphasis(s, t)
    assert not w.requires_grad
    assert w.min() >= 0.5 and w.max() < 1
    torch.testing.assert_close(w, 1 / (1 + torch.exp(-(s - t).detach().square().sum(1).sqrt())))


def test_check_where_logits_agree_the_loss_is_half_the_mean_square():
    f_s, f_t, z = seeded(3, 4, 2, 2), seeded(3, 4, 2, 2, seed=1), seeded(3, 5)
    torch.testing.assert_close(feature_loss(f_s, f_t, emphasis(z, z)), 0.5 * F.mse_loss(f_s, f_t))


def test_each_image_has_its_weight():
    f_s, f_t, w = seeded(3, 4, 2, 2), seeded(3, 4, 2, 2, seed=1), torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64)
    due = sum(w[i] * ((f_s[i] - f_t[i]) ** 2).sum() for i in range(3)) / f_s.numel()
    torch.testing.assert_close(feature_loss(f_s, f_t, w), due)
    assert torch.autograd.gradcheck(lambda x: feature_loss(x, f_t, w), f_s.clone().requires_grad_())


def test_check_a_share_of_one_or_a_twin_changes_nothing():
    x = seeded(4, 3, 6, 6)
    partner = torch.tensor([1, 2, 3, 0])
    torch.testing.assert_close(mix_statistics(x, partner, torch.ones(4)), x, atol=1e-4, rtol=0)
    twins = x[:1].expand(4, -1, -1, -1)
    torch.testing.assert_close(mix_statistics(twins, partner, torch.rand(4, generator=gen())), twins, atol=1e-4, rtol=0)


def test_check_mean_and_deviation_are_the_mixed_ones_channel_by_channel():
    x, partner, share = 3 * seeded(4, 3, 6, 6) + 2, torch.tensor([2, 0, 3, 1]), torch.tensor([0.1, 0.9, 0.5, 0.0])
    found = mix_statistics(x, partner, share)
    own = share[:, None].double()
    for statistic in (lambda y: y.mean((2, 3)), lambda y: y.std((2, 3))):
        due = own * statistic(x) + (1 - own) * statistic(x)[partner]
        torch.testing.assert_close(statistic(found), due, atol=1e-5, rtol=1e-5)


def test_check_a_constant_image_stays_finite():
    x = torch.cat([torch.ones(1, 2, 4, 4), seeded(1, 2, 4, 4).float()]).requires_grad_()
    found = mix_statistics(x, torch.tensor([1, 0]), torch.tensor([0.3, 0.6]))
    found.sum().backward()
    assert found.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("b", [1, 2, 7])
def test_check_equal_embeddings_lose_the_logarithm_of_the_others(b):
    one = torch.ones(b, 5, dtype=torch.float64)
    assert float(contrast(one, 2 * one)) == pytest.approx(math.log(2 * b - 1))


def test_contrast_equals_a_slow_twin():
    a, b = seeded(4, 6), seeded(4, 6, seed=1)
    rows = [row / row.norm() for row in (*a, *b)]
    total = 0.0
    for i in range(8):
        others = sum((rows[i] @ rows[j] / 0.3).exp() for j in range(8) if j != i)
        total = total - ((rows[i] @ rows[(i + 4) % 8] / 0.3).exp() / others).log()
    torch.testing.assert_close(contrast(a, b), total / 8)
    torch.testing.assert_close(contrast(b, a), total / 8)
    assert torch.autograd.gradcheck(lambda x: contrast(x, b), a.clone().requires_grad_())


def test_shares_are_of_a_beta_and_partners_a_permutation():
    partner, share = drawn_mix(400, 0.1, gen())
    assert sorted(partner.tolist()) == list(range(400))
    assert float(share.mean()) == pytest.approx(0.5, abs=0.1)
    assert float(share.var()) == pytest.approx(0.25 / 1.2, abs=0.05)  # 1 / (4 (2 a + 1))


# ---- the shared classifier -------------------------------------------------------------------------------------------


def network(name, seed=0):
    return build(name, 1, 16, 3, gen(seed)).double()


def around(student, teacher, images):
    with tapped(student, ["end"]) as one, tapped(teacher, ["end"]) as other:
        logits = student.eval()(images), teacher.eval()(images)
    size = min(one["end"].shape[2], other["end"].shape[2])
    classifier = teacher.get_submodule(last_linear(teacher))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        shared = Shared(student, "end", one["end"].shape[1], (other["end"].shape[1], size), classifier)
    return shared.double(), other["end"], logits[1]


def test_check_a_student_that_reproduces_the_map_has_the_teachers_logits():
    images, teacher = seeded(4, 1, 16, 16), network("resnet14", 1)
    shared, target, logits = around(network("resnet8"), teacher, images)
    shared.adapter = nn.Sequential()
    shared.student = teacher
    torch.testing.assert_close(shared.eval()(images), logits)
    assert target.shape[1] == shared.classifier.in_features


def test_taps_give_the_students_own_map_and_the_adapted_one():
    images, student, teacher = seeded(4, 1, 16, 16), network("resnet8"), network("resnet8x2", 1)
    shared, target, _ = around(student, teacher, images)
    with tapped(shared, ["end", "stage1", "embedding"]) as found:
        logits = shared.eval()(images)
    own, adapted = found.calls["end"]
    assert (own.shape[1], adapted.shape) == (64, target.shape)
    torch.testing.assert_close(found["embedding"], adapted.mean((2, 3)))
    torch.testing.assert_close(teacher.classifier(shared.embed(images)), logits)
    assert found["stage1"].shape[1] == 16


def test_larger_maps_are_averaged_to_the_smaller():
    x = seeded(2, 3, 8, 8)
    torch.testing.assert_close(shrunk(x, 4), F.avg_pool2d(x, 2))
    assert shrunk(x, 8) is x and shrunk(x, 16) is x


def test_both_old_classifiers_stay_as_they_are():
    student, teacher = network("resnet8"), network("resnet14", 1)
    shared, _, _ = around(student, teacher, seeded(2, 1, 16, 16))
    still = {name for name, p in shared.named_parameters() if not p.requires_grad}
    assert still == {"student.classifier.weight", "student.classifier.bias", "classifier.weight", "classifier.bias"}
    assert shared.classifier is not teacher.classifier


def step(contrast_weight=0.5):
    """One loss and its gradients on a student, an adapter and both embedders."""
    images, teacher = seeded(6, 1, 16, 16), network("resnet14", 1).eval().requires_grad_(False)
    shared, _, _ = around(network("resnet8"), teacher, images)
    plugin, names = KD3(contrast=contrast_weight, width=5), ("end",)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        modules = Embedders(64, 64, 5).double()
    shared.train()
    with tapped(shared, names) as found:
        output = shared(images)
        seen, teaching = seen_of(output, found), Teaching([Vote(teacher)], images, names)
        batch = Batch(images, {"class": torch.zeros(6, dtype=torch.int64)}, torch.arange(6))
        term = plugin.ddcore_student_loss(batch, shared, seen, teaching, modules, gen(8))
    return term, shared, modules, (images, teacher, seen)


def test_check_the_teachers_half_of_the_contrast_reaches_its_embedder_only():
    term, shared, modules, (images, teacher, _) = step()
    term.value.backward()
    assert modules.teacher.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    whole = [p.grad for p in shared.parameters() if p.requires_grad]
    # the same less the teacher's half: nothing is left for its embedder, and the rest does not notice
    term, shared, modules, _ = step()
    mixed = mix_statistics(images, *drawn_mix(6, 0.1, gen(8)))
    both = [teacher.embed(x) for x in (images, mixed)]
    (term.value - 0.5 * contrast(*(modules.teacher(x) for x in both))).backward()
    assert modules.teacher.weight.grad.abs().max() < 1e-12
    for p, due in zip((p for p in shared.parameters() if p.requires_grad), whole, strict=True):
        torch.testing.assert_close(p.grad, due)


def test_without_contrast_it_is_the_weighted_loss_of_maps():
    term, shared, _, (images, teacher, seen) = step(contrast_weight=0.0)
    plain = KD3(contrast=0.0)
    teaching = Teaching([Vote(teacher)], images, ("end",))
    batch = Batch(images, {}, torch.arange(6))
    found = plain.ddcore_student_loss(batch, None, seen, teaching, None, gen(8))
    other = teaching.seen[0]
    due = feature_loss(seen.feature("end"), other.feature("end"), emphasis(seen.logits, other.logits))
    torch.testing.assert_close(found.value, due)
    torch.testing.assert_close(term.value, due)
    flat = KD3(contrast=0.0, weighted=False).ddcore_student_loss(batch, None, seen, teaching, None, gen(8))
    term.value.backward()
    assert shared.student.stem[0].weight.grad.abs().sum() > 0
    torch.testing.assert_close(flat.value, F.mse_loss(seen.feature("end"), other.feature("end")))


# ---- rows ------------------------------------------------------------------------------------------------------------


class Samples:
    labels = torch.zeros(40, dtype=torch.int64)

    def __len__(self):
        return 40

    def inputs(self, rows):
        return seeded(40, 1, 16, 16).float()[rows]


LOG = SimpleNamespace(
    log=lambda *a, **b: None, source=SimpleNamespace(size=16, mirror_symmetric=True, classes=("a", "b", "c"))
)


def chosen(plugin, seed, epoch=0, step=0):
    student, teacher = (network(name, at).float().eval() for at, name in enumerate(("resnet8", "resnet14")))
    with torch.no_grad():
        for net in (student, teacher):
            net.classifier.weight.mul_(20)
        given = [Samples(), student, [Vote(teacher)], epoch, Progress(step, 240), gen(seed), LOG]
        return plugin.ddcore_student_rows(torch.arange(40), *given)


def test_check_the_subset_is_a_function_of_seed_and_epoch():
    plugin = KD3()
    assert chosen(plugin, 1).tolist() == chosen(plugin, 1).tolist()
    assert 0 < len(chosen(plugin, 1)) < 40
    assert chosen(plugin, 1).tolist() != chosen(plugin, 2).tolist()
    assert chosen(KD3(views=False), 1).tolist() == chosen(KD3(views=False), 2).tolist()


def test_late_epochs_ask_the_student_alone_and_all_may_be_taken():
    assert chosen(KD3(views=False), 1).tolist() != chosen(KD3(views=False), 1, 120, 120).tolist()
    assert chosen(KD3(select="none"), 1) is None
    assert len(chosen(KD3(select="fixed", cutoff=0.9999999), 1)) == 40


@pytest.mark.parametrize("wrong", [{"cutoff": 1.0}, {"temperature": 0.0}, {"beta": 0.0}, {"contrast": -1.0}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        KD3(**wrong)


# ---- in a run --------------------------------------------------------------------------------------------------------

QUICK = ["--student=resnet8", "--protocol=kd-3", "--eval-seeds=1", "--threads=1", "--data=digits", "--per-class=6"]
TEACHER = ["--teacher=resnet14", "--teachers.epochs=2", "--teachers.no-check"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def train(cache, out, *words):
    return invoke(["train", "--plugin=kd3", *QUICK, *TEACHER, f"--cache={cache}", f"--out={out}", *words])


def weights(out):
    return load_tensors(Place.at(out / "students" / "student-0.safetensors"))


def test_the_contract_is_kept():
    check_plugin("kd3")


def test_a_student_is_kept_with_its_adapter_and_the_teachers_classifier(cache, tmp_path):
    assert train(cache, tmp_path / "a") == 0
    kept = weights(tmp_path / "a")
    assert {"adapter.0.weight", "classifier.weight", "student.stem.0.weight"} <= set(kept)
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if line["event"] == "kd3"]
    assert lines[0]["adapter"] == 64 * 32 + 32 * 32 * 9 + 32 * 64 + 2 * (32 + 32 + 64)
    assert [line["epoch"] for line in lines[1:]][:2] == [0, 1]
    assert sum(lines[1]["classes"]) == lines[1]["kept"] <= 60


def test_a_stopped_student_goes_on_with_the_same_draws(cache, tmp_path, monkeypatch):
    assert train(cache, tmp_path / "whole", "--no-plain") == 0
    stop_often(monkeypatch)
    assert train(cache, tmp_path / "cut", "--no-plain") == 3
    assert resume_to_end(tmp_path / "cut") == 0
    one, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())


def test_a_flattened_map_is_shared_too(cache, tmp_path):
    words = ["--student=convnet2-w4", "--teacher=convnet2-bn-w8", "--kd3.layer=stage2", "--no-plain"]
    words = [*QUICK[1:], *TEACHER[1:], *words, f"--cache={cache}", f"--out={tmp_path / 'a'}"]
    assert invoke(["train", "--plugin=kd3", *words]) == 0
    assert weights(tmp_path / "a")["classifier.weight"].shape == (10, 8 * 2 * 2)


def test_foreign_images_take_the_place_of_the_tasks(cache, tmp_path):
    drawn = np.random.default_rng(0)
    images, labels = drawn.integers(0, 255, (30, 12, 12), dtype=np.uint8), np.arange(30) % 3
    np.savez(tmp_path / "web.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6])
    words = [*QUICK[:-1], *TEACHER, f"--on=npz:{tmp_path / 'web.npz'}", f"--cache={cache}", f"--out={tmp_path / 'a'}"]
    assert invoke(["train", "--plugin=kd3", *words]) == 0
    rows = json.loads((tmp_path / "a" / "scores.json").read_text())["rows"]
    assert [(row["set"], row["labels"]) for row in rows] == [("teacher", "hard"), ("student", "none")]
    assert rows[1]["images"] == 30


def test_layers_that_no_classifier_fits_are_refused(cache, tmp_path, capsys):
    assert train(cache, tmp_path / "a", "--kd3.layer=stage1") == 2
    assert "no classifier of 64 inputs can be shared by layers 'stage1'" in capsys.readouterr().err


def test_two_teachers_are_refused(cache, tmp_path, capsys):
    assert train(cache, tmp_path / "a", "--teacher=resnet8") == 2
    assert "shares the classifier of one teacher, and there are 2" in capsys.readouterr().err


def test_one_teacher_is_said_to_be_due():
    with pytest.raises(InputError, match="one teacher"):
        KD3().ddcore_adapt_student(None, None, Teaching([], None), None)
