"""Norm and direction: closed forms, limits, the gradient's two regimes, a slow twin, class means, the plugin in training."""

import json

import pytest
import torch
from ddcore_nd import ND, Adapter, Directions, class_means, misses, norm_and_direction, of_batch
from torch import nn

from ddcore import Batch, Vote
from ddcore.api.types import Seen
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import resume_to_end, stop_often
from ddcore.training.teaching import EMBEDDING, Teaching


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


S, T, MEANS = seeded(6, 5), seeded(6, 5, seed=1), seeded(4, 5, seed=2)
CLASSES = torch.tensor([0, 3, 2, 2, 1, 3])
E = MEANS / MEANS.norm(dim=1, keepdim=True)


# ---- the loss --------------------------------------------------------------------------------------------------------


def test_by_hand():
    # s = (3, 4), e = (1, 0): s . e = 3; ||s|| = 5; ||t|| = 13 or 2
    student, means = torch.tensor([[3.0, 4.0]]), torch.tensor([[7.0, 0.0]])
    for teacher, due in (([5.0, 12.0], 1 - 3 / 13), ([2.0, 0.0], 1 - 3 / 5)):
        got = norm_and_direction(student, torch.tensor([teacher]), means, torch.tensor([0]))
        torch.testing.assert_close(got, torch.tensor(due))


def test_check_a_student_and_teacher_along_the_mean_cost_nothing():
    along = 2.5 * MEANS[CLASSES]
    assert float(norm_and_direction(along, along, MEANS, CLASSES)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_check_a_student_against_the_mean_that_is_long_enough_costs_two(factor):
    against = -E[CLASSES] * factor * T.norm(dim=1, keepdim=True)
    torch.testing.assert_close(misses(against, T, MEANS[CLASSES]), torch.full((6,), 2.0, dtype=torch.float64))


def test_check_a_student_of_length_0_costs_one_and_is_pushed_along_the_mean():
    student = torch.zeros_like(S).requires_grad_()
    loss = misses(student, T, MEANS[CLASSES])
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(student.grad, -E[CLASSES] / T.norm(dim=1, keepdim=True))


def test_check_longer_costs_less_until_the_teachers_length_and_then_the_same():
    towards = E[CLASSES] + 0.3 * S / S.norm(dim=1, keepdim=True)
    student = 0.2 * T.norm(dim=1, keepdim=True) * towards / towards.norm(dim=1, keepdim=True)
    values = [misses(c * student, T, MEANS[CLASSES]) for c in (1.0, 2.0, 5.0, 9.0)]
    assert (values[1] < values[0]).all() and (values[2] < values[1]).all()
    torch.testing.assert_close(values[3], values[2])


def test_check_the_loss_lies_between_0_and_2_and_at_most_1_for_what_is_not_negative():
    many = misses(seeded(500, 5, seed=3), seeded(500, 5, seed=4), seeded(500, 5, seed=5))
    assert many.min() >= 0 and many.max() <= 2
    assert misses(S.abs(), T.abs(), MEANS[CLASSES].abs()).max() <= 1


def test_check_the_gradient_is_a_pure_push_below_the_teachers_length_and_orthogonal_from_there_on():
    lengths = T.norm(dim=1, keepdim=True) / S.norm(dim=1, keepdim=True)
    short, long = ((c * lengths * S).requires_grad_() for c in (0.5, 2.0))
    misses(short, T, MEANS[CLASSES]).sum().backward()
    torch.testing.assert_close(short.grad, -E[CLASSES] / T.norm(dim=1, keepdim=True))
    misses(long, T, MEANS[CLASSES]).sum().backward()
    assert (long.grad * long).detach().sum(1).abs().max() < 1e-12


def test_at_equal_lengths_the_gradient_is_the_cosines():
    student = torch.tensor([[3.0, 4.0]], requires_grad=True)
    misses(student, torch.tensor([[4.0, 3.0]]), torch.tensor([[1.0, 0.0]])).sum().backward()
    assert float((student.grad * student.detach()).sum()) == pytest.approx(0, abs=1e-7)


def test_the_loss_equals_a_slow_twin():
    total = 0.0
    for s, t, y in zip(S, T, CLASSES, strict=True):
        e = MEANS[y] / MEANS[y].norm()
        total += 1 - float(s @ e) / max(float(s.norm()), float(t.norm()))
    assert float(norm_and_direction(S, T, MEANS, CLASSES)) == pytest.approx(total / 6)


def test_rows_may_come_in_any_order():
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    due = norm_and_direction(S, T, MEANS, CLASSES)
    torch.testing.assert_close(norm_and_direction(S[order], T[order], MEANS, CLASSES[order]), due)


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(lambda s: norm_and_direction(s, T, MEANS, CLASSES), S.clone().requires_grad_())


def test_lengths_of_0_cost_one_and_have_finite_gradients():
    nothing = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    loss = norm_and_direction(nothing, torch.zeros_like(T), MEANS, CLASSES)
    loss.backward()
    assert float(loss.detach()) == 1 and torch.isfinite(nothing.grad).all()
    assert float(norm_and_direction(S, T, torch.zeros_like(MEANS), CLASSES)) == 1


@pytest.mark.parametrize("scale", [1e-9, 1e-20, 1e20])
def test_the_length_of_a_class_mean_does_not_matter(scale):
    due = norm_and_direction(S, T, MEANS, CLASSES)
    torch.testing.assert_close(norm_and_direction(S, T, scale * MEANS, CLASSES), due)


def test_half_precision_is_taken_to_single():
    got = norm_and_direction(1e3 * S.half(), T.half(), MEANS.half(), CLASSES)
    assert got.dtype == torch.float32 and torch.isfinite(got)


def test_descending_the_loss_turns_students_to_the_means_and_lengthens_them():
    student = (0.1 * S).requires_grad_()
    optimizer = torch.optim.SGD([student], 5.0)
    for _ in range(300):
        optimizer.zero_grad()
        norm_and_direction(student, T, MEANS, CLASSES).backward()
        optimizer.step()
    found = student.detach()
    assert (found.norm(dim=1) / T.norm(dim=1)).min() > 0.95
    assert nn.functional.cosine_similarity(found, E[CLASSES]).min() > 0.99


# ---- class means and the adapter -------------------------------------------------------------------------------------


class Some:
    labels = torch.tensor([1, 0, 1, 1])
    images = seeded(4, 3)

    def __len__(self):
        return 4

    def inputs(self, index):
        return self.images[index]


def test_class_means_are_means_of_the_embeddings_of_each_class():
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    found = class_means(network, Some(), 3)
    own = network[:2](Some.images).detach()
    torch.testing.assert_close(found[0], own[1])
    torch.testing.assert_close(found[1], own[[0, 2, 3]].mean(0))
    assert not found[2].any() and found.dtype == torch.float64


def test_only_other_widths_get_an_adapter():
    assert Directions(MEANS, 5).adapter is None
    assert isinstance(Directions(MEANS, 7).adapter, Adapter)
    assert "means" in Directions(MEANS, 5).state_dict() and not list(Directions(MEANS, 5).parameters())


def test_the_adapter_is_batch_norm_dropout_and_a_linear_layer():
    directions = Directions(MEANS, 3).double()
    rows, generator = seeded(8, 3, seed=6), torch.Generator().manual_seed(3)
    got = directions(rows, 0.5, generator)
    kept = 2 * (torch.rand(8, 3, generator=torch.Generator().manual_seed(3)) >= 0.5)
    normal = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(got, directions.adapter.linear(normal * kept))
    assert torch.isfinite(directions(rows[:1], 0.5, generator)).all()


def test_an_adapter_begins_without_bias():
    assert not Adapter(3, 5).linear.bias.any()


def test_without_dropout_every_place_stays():
    directions = Directions(MEANS, 3).double()
    rows = seeded(8, 3, seed=6)
    one, other = (directions(rows, 0.0, torch.Generator().manual_seed(n)) for n in (0, 1))
    assert torch.equal(one, other)


# ---- the plugin ------------------------------------------------------------------------------------------------------


def answered(*embeddings):
    teaching = Teaching([Vote(nn.Identity(), 1 / len(embeddings), f"t{n}") for n in range(len(embeddings))], None)
    teaching.__dict__["seen"] = tuple(Seen(t, {EMBEDDING: t}) for t in embeddings)
    return teaching


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(**targets):
    return Batch(None, {"class": CLASSES, **targets}, torch.arange(6))


def term(plugin, student, *teachers, of=None):
    modules = nn.ModuleList(Directions(MEANS, 5) for _ in teachers)
    seen = Seen(student, {EMBEDDING: student})
    return plugin.ddcore_student_loss(of or batch(), seen, answered(*teachers), modules, drawing())


def test_several_teachers_are_weighted():
    other = seeded(6, 5, seed=7)
    due = (norm_and_direction(S, T, MEANS, CLASSES) + norm_and_direction(S, other, MEANS, CLASSES)) / 2
    found = term(ND(weight=3.0), S, T, other)
    torch.testing.assert_close(found.value, due)
    assert found.weight == 3.0


def test_check_no_gradient_reaches_teachers_and_class_means():
    teacher, student = (nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4)).double() for _ in range(2))
    images, modules = seeded(6, 3), nn.ModuleList([Directions(MEANS, 5)])
    own = student[0](images)
    teachers = Teaching([Vote(teacher)], images, (EMBEDDING,))
    found = ND().ddcore_student_loss(batch(), Seen(own, {EMBEDDING: own}), teachers, modules, drawing())
    found.value.backward()
    assert student[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert modules[0].means.grad is None


def test_dropout_is_drawn_from_the_generator_anew_for_each_teacher():
    one = Directions(MEANS, 3).double()
    modules, seen = nn.ModuleList([one, one]), Seen(S, {EMBEDDING: S[:, :3]})

    def value(seed, *teachers):
        return (
            ND().ddcore_student_loss(batch(), seen, answered(*teachers), modules[: len(teachers)], drawing(seed)).value
        )

    assert value(0, T) == value(0, T) != value(1, T)
    assert value(0, T, T) != value(0, T)


def test_mixed_rows_are_drawn_to_both_classes_by_their_shares():
    mixed, lam = CLASSES.flip(0), torch.linspace(0, 1, 6, dtype=torch.float64)
    got = of_batch(batch(mixed=mixed, lam=lam), S, T, MEANS)
    due = (lam * misses(S, T, MEANS[CLASSES]) + (1 - lam) * misses(S, T, MEANS[mixed])).mean()
    torch.testing.assert_close(got, due)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"dropout": 1.0}, {"dropout": -0.1}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        ND(**wrong)


def test_the_contract_is_kept():
    check_plugin("nd")


TEACHER = ["--teacher=resnet8", "--teachers.epochs=2", "--teachers.no-check"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def begun(cache, out, *words):
    quick = ["--data=digits", "--per-class=5", "--protocol=kd-3", "--eval-seeds=1", "--threads=1", "--plugin=kd"]
    return invoke(["train", *quick, *TEACHER, f"--cache={cache}", f"--out={out}", *words])


def trained(cache, out, *words):
    assert begun(cache, out, *words) == 0
    return load_tensors(Place.at(out / "students" / "student-0.safetensors"))


def test_check_without_weight_training_is_kds_bit_for_bit(cache, tmp_path):
    student = ["--student=resnet8", "--no-plain"]
    plain = trained(cache, tmp_path / "a", *student)
    off = trained(cache, tmp_path / "b", *student, "--plugin=nd", "--nd.weight=0")
    assert all(torch.equal(tensor, off[name]) for name, tensor in plain.items())
    on = trained(cache, tmp_path / "c", *student, "--plugin=nd")
    assert any(not torch.equal(tensor, on[name]) for name, tensor in plain.items())
    rows = json.loads((tmp_path / "c" / "scores.json").read_text())["rows"]
    assert [row["set"] for row in rows] == ["teacher", "student"]


def test_a_student_of_another_width_is_adapted_and_keeps_its_shape(cache, tmp_path):
    words = ["--student=convnet2-w4", "--plugin=nd", "--no-plain"]
    one = trained(cache, tmp_path / "a", *words)
    assert not any("adapter" in name for name in one)
    (file,) = (cache / "nd").iterdir()
    written = file.stat().st_mtime_ns
    again = trained(cache, tmp_path / "b", *words)
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert file.stat().st_mtime_ns == written


def test_a_stopped_student_with_an_adapter_goes_on_in_the_same_bits(cache, tmp_path, monkeypatch):
    words = ["--student=convnet2-w4", "--plugin=nd", "--no-plain"]
    one = trained(cache, tmp_path / "whole", *words)
    stop_often(monkeypatch)
    assert begun(cache, tmp_path / "cut", *words) == 3 and resume_to_end(tmp_path / "cut") == 0
    cut = load_tensors(Place.at(tmp_path / "cut" / "students" / "student-0.safetensors"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in one.items())


def test_students_of_text_learn_too(tmp_path):
    words = ["--plugin=text", "--plugin=kd", "--plugin=nd", "--data=sentences", "--student=transformer1-w8-h2"]
    words += ["--teacher=transformer1-w16-h2", "--teachers.epochs=1", "--teachers.no-check", "--protocol=text-1"]
    words += ["--eval-seeds=1", "--threads=1", "--per-class=20", f"--cache={tmp_path / 'cache'}"]
    assert invoke(["train", *words, f"--out={tmp_path / 'out'}"]) == 0
