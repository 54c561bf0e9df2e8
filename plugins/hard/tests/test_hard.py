"""Terms of student and augmentor: closed forms, whose gradient reaches whom, what a step of the augmentor does and leaves alone."""

from types import SimpleNamespace

import pytest
import torch
from ddcore_hard import (
    HARD,
    apart,
    consistent,
    disagreement,
    edit_size,
    frozen_answer,
    gated,
    penalised,
    student_term,
    sure,
)
from ddcore_hard.augmentor import Augmentor
from torch import nn
from torch.nn import functional as F

from ddcore import Batch, Progress, Vote
from ddcore.api.types import Seen
from ddcore.data.normalisation import MeanStd
from ddcore.networks.zoo import build
from ddcore.randomness import generator
from ddcore.training.teaching import Teaching


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


S, T, CLEAN = seeded(6, 5), 3 * seeded(6, 5, seed=1), seeded(6, 5, seed=2)
CLASSES = torch.tensor([0, 4, 2, 2, 1, 3])


# ---- the terms -------------------------------------------------------------------------------------------------------


def test_disagreement_is_a_slow_twins():
    for row in range(6):
        p, q = (T[row] / 2).softmax(0), (S[row] / 2).softmax(0)
        assert float(disagreement(S, T, 2.0)[row]) == pytest.approx(float((p * (p / q).log()).sum()))


def test_a_sure_teacher_has_a_finite_gradient():
    teacher = torch.tensor([[2000.0, 0.0, 0.0]], dtype=torch.float64).requires_grad_()
    disagreement(torch.zeros(1, 3).double(), teacher, 1.0).sum().backward()
    assert torch.isfinite(teacher.grad).all()


def test_the_students_term_weighs_clean_and_changed_rows():
    due = 9 * (0.7 * disagreement(S, T, 3.0).mean() + 0.3 * disagreement(T, CLEAN, 3.0).mean())
    torch.testing.assert_close(student_term((S, T), (T, CLEAN), 3.0, 0.3), due)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_check_an_identity_gives_plain_distillation_whatever_the_share(share):
    plain = student_term((S, T), None, 4.0, 0.0)
    torch.testing.assert_close(plain, 16 * F.kl_div((S / 4).log_softmax(1), (T / 4).softmax(1), reduction="batchmean"))
    torch.testing.assert_close(student_term((S, T), (S, T), 4.0, share), plain)


def test_check_no_share_is_plain_distillation():
    torch.testing.assert_close(student_term((S, T), (CLEAN, S), 4.0, 0.0), student_term((S, T), None, 4.0, 0.0))


def test_the_augmentors_terms_by_their_formulas():
    hard = disagreement(S, T, 2.0)
    torch.testing.assert_close(
        penalised(S, T, {"class": CLASSES}, 2.0, 9.0, 0.5), 0.5 * F.cross_entropy(T, CLASSES) - hard.mean()
    )
    p, q = CLEAN.softmax(1), T.softmax(1)
    torch.testing.assert_close(
        consistent(S, T, CLEAN, 2.0, 9.0, 0.5), 0.5 * (p * (p / q).log()).sum(1).mean() - hard.mean()
    )
    tau = float(q.max(1).values.median())
    passed = q.max(1).values >= tau
    assert 0 < passed.sum() < 6
    torch.testing.assert_close(gated(S, T, 2.0, 9.0, tau), -hard[passed].sum() / 6)
    assert torch.equal(sure(T, tau), passed.double())


def test_rows_that_are_mixed_are_penalised_by_both_classes():
    targets = {"class": CLASSES, "mixed": CLASSES.flip(0), "lam": torch.full((6,), 0.3, dtype=torch.float64)}
    due = 0.3 * F.cross_entropy(T, CLASSES) + 0.7 * F.cross_entropy(T, CLASSES.flip(0))
    torch.testing.assert_close(penalised(S, T, targets, 1.0, 1e-9, 1.0), due, atol=1e-8, rtol=0)


def test_a_row_beyond_the_most_counts_so_much_and_pulls_no_more():
    student = S.clone().requires_grad_()
    hard = disagreement(S, T, 1.0)
    most = float(hard.median())
    value = gated(student, T, 1.0, most, 0.0)
    value.backward()
    torch.testing.assert_close(value.detach(), -hard.clamp(max=most).mean())
    assert ((student.grad.abs().sum(1) == 0) == (hard > most)).all() and (hard > most).any()


def test_check_equal_networks_leave_the_legitimacy_alone():
    logits, targets = T.clone().requires_grad_(), {"class": CLASSES}
    apart_by = F.kl_div(logits.log_softmax(1), CLEAN.softmax(1), reduction="batchmean")
    for value, due in (
        (gated(logits, logits, 4.0, 5.0, 0.0), 0 * logits.sum()),
        (penalised(logits, logits, targets, 4.0, 5.0, 0.7), 0.7 * F.cross_entropy(logits, CLASSES)),
        (consistent(logits, logits, CLEAN, 4.0, 5.0, 0.7), 0.7 * apart_by),
    ):
        torch.testing.assert_close(value, due)
        (own,), (expected,) = (torch.autograd.grad(each, logits, retain_graph=True) for each in (value, due))
        torch.testing.assert_close(own, expected, atol=1e-14, rtol=1e-9)


def test_gradients_are_those_of_finite_differences():
    both = S.clone().requires_grad_(), T.clone().requires_grad_()
    targets = {"class": CLASSES}
    assert torch.autograd.gradcheck(lambda s, t: student_term((s, t), (t, s), 2.0, 0.3), both)
    assert torch.autograd.gradcheck(lambda s, t: penalised(s, t, targets, 2.0, 50.0, 0.7), both)
    assert torch.autograd.gradcheck(lambda s, t: consistent(s, t, CLEAN, 2.0, 50.0, 0.7), both)
    assert torch.autograd.gradcheck(lambda s, t: gated(s, t, 2.0, 50.0, 0.6), both)


# ---- networks and augmentor ------------------------------------------------------------------------------------------


class Stage:
    """A student with batch norm, a teacher, an augmentor, and a run that is only what the plugin asks for."""

    def __init__(self, plugin, *, same=False, seed=0):
        self.plugin = plugin
        self.network = build("convnet1-bn-w4", 1, 8, 10, torch.Generator().manual_seed(seed)).double()
        other = torch.Generator().manual_seed(seed if same else seed + 50)
        self.teacher = build("convnet1-bn-w4", 1, 8, 10, other).double().eval().requires_grad_(False)
        self.logged = []
        self.run = SimpleNamespace(
            source=SimpleNamespace(channels=1),
            normalisation=MeanStd([0.4], [0.5]),
            generator=lambda *key: generator(3, *key),
            log=lambda event, **fields: self.logged.append(fields),
        )
        torch.manual_seed(seed)
        self.augmentor = plugin.ddcore_student_modules(self.run)
        if self.augmentor is not None:
            self.augmentor.double()
        coarse = torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        pixels = F.interpolate(coarse, 8, mode="bicubic").clamp(0, 1)
        images = self.run.normalisation.apply(pixels)
        self.batch = Batch(images, {"class": torch.arange(12) % 10}, torch.arange(12))

    def value(self, step=9, steps=10, **more):
        seen = Seen(self.network(self.batch.inputs), {})
        self.seen_bits = self.bits()
        teaching = Teaching([Vote(self.teacher)], self.batch.inputs)
        term = self.plugin.ddcore_student_loss(
            self.batch,
            self.network,
            Progress(step, steps),
            seen,
            teaching,
            more.get("modules", self.augmentor),
            generator(3, step, int(self.batch.index[0])),
            self.run,
        )
        return term.weight * term.value

    def hard(self, step=9):
        """D on clean rows and on those of a step, both in eval mode."""
        with torch.no_grad():
            pixels = self.run.normalisation.inverse(self.batch.inputs)
            noise = self.augmentor.noise(pixels, generator(3, step, 0))
            images = self.run.normalisation.apply(self.augmentor(pixels, self.augmentor.values(pixels, noise)))
            pairs = [(frozen_answer(self.network, x), self.teacher(x)) for x in (self.batch.inputs, images)]
        return [float(disagreement(*pair, self.plugin.temperature).mean()) for pair in pairs]

    def move_augmentor(self, count=1, rate=1e-3):
        optimizer = torch.optim.SGD(self.augmentor.parameters(), lr=rate)
        for _ in range(count):
            optimizer.zero_grad()
            self.value().backward()
            optimizer.step()
        return self

    def bits(self):
        both = nn.ModuleDict({"student": self.network, "teacher": self.teacher})
        return {name: tensor.clone() for name, tensor in both.state_dict().items()}


def still(stage):
    """Clean passes leave the student's batch statistics too, so that only the augmentor moves what eval mode says."""
    for module in stage.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return stage


def equal(one, other):
    return all(torch.equal(t, other[n]) for n, t in one.items())


def test_pitfall_a_frozen_network_gives_the_gradient_to_images_and_to_nothing_else():
    stage = Stage(HARD())
    part = next(m for m in stage.network.modules() if isinstance(m, nn.Conv2d)).eval()
    images, before = stage.batch.inputs.clone().requires_grad_(), stage.bits()
    frozen_answer(stage.network, images).square().sum().backward()
    assert images.grad.abs().sum() > 0 and all(p.grad is None for p in stage.network.parameters())
    assert equal(before, stage.bits())
    assert stage.network.training and not part.training
    torch.testing.assert_close(frozen_answer(stage.network, images), stage.network.eval()(images))


def test_pitfall_changed_rows_have_statistics_of_their_own_and_leave_no_trace():
    stage = Stage(HARD())
    images, before = 3 * stage.batch.inputs + 1, stage.bits()
    out = apart(stage.network, images)
    assert equal(before, stage.bits())
    torch.testing.assert_close(out, stage.network(images))
    assert not equal(before, stage.bits())


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_check_an_augmentor_that_changes_nothing_yet_gives_plain_distillation(share):
    stage = Stage(HARD(hard_share=share, edit_weight=0.0))
    plain = 16 * F.kl_div(
        (stage.network(stage.batch.inputs) / 4).log_softmax(1),
        (stage.teacher(stage.batch.inputs) / 4).softmax(1),
        reduction="batchmean",
    )
    torch.testing.assert_close(stage.value(step=7), plain)
    torch.testing.assert_close(stage.value(step=0), plain)


def test_check_without_a_share_there_is_no_augmentor():
    stage = Stage(HARD(hard_share=0.0))
    assert stage.augmentor is None
    clean = stage.network(stage.batch.inputs), stage.teacher(stage.batch.inputs)
    torch.testing.assert_close(stage.value(), student_term(clean, None, 4.0, 0.0))


def test_check_the_students_step_changes_no_augmentor_and_the_augmentors_no_network():
    stage = Stage(HARD())
    torch.nn.init.normal_(stage.augmentor.last.weight, std=0.3)
    stage.value(step=7).backward()
    assert all(p.grad is None for p in stage.augmentor.parameters())
    own = {n: p.grad.clone() for n, p in stage.network.named_parameters()}
    stage.network.zero_grad()
    # step 7 and step 9 draw other noise: the same step, with and without the augmentor's term
    stage.plugin = HARD(every=8)
    stage.value(step=7).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in stage.augmentor.parameters())
    for name, parameter in stage.network.named_parameters():
        torch.testing.assert_close(parameter.grad, own[name], rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in stage.teacher.parameters())


@pytest.mark.parametrize("legitimacy", ["penalty", "consistency", "gate"])
def test_check_a_step_of_the_augmentor_raises_disagreement_and_moves_nothing_else(legitimacy):
    stage = Stage(HARD(legitimacy=legitimacy, beta=0.0, tau=0.0, edit_weight=0.0, temperature=1.0))
    still(stage)
    torch.nn.init.normal_(stage.augmentor.last.weight, std=0.2)  # bilinear sampling has a kink where nothing moves
    before = stage.hard()[1]
    stage.move_augmentor(rate=1e-2)
    assert stage.hard()[1] > before
    assert equal(stage.seen_bits, stage.bits())


def test_check_after_a_while_changed_inputs_are_harder_than_clean_ones():
    # nothing holds the augmentor back, so its steps climb what is compared here
    stage = still(Stage(HARD(temperature=1.0, beta=0.0, edit_weight=0.0))).move_augmentor(100, rate=0.3)
    clean, changed = stage.hard()
    assert changed > clean


def test_check_a_great_weight_of_consistency_keeps_the_teachers_answers():
    def gap(beta):
        stage = Stage(
            HARD(legitimacy="consistency", beta=beta, temperature=1.0, edit_weight=0.0, changes="affine_colour")
        )
        torch.nn.init.normal_(stage.augmentor.last.weight, std=0.2)
        optimizer = torch.optim.Adam(stage.augmentor.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            stage.value().backward()
            optimizer.step()
        with torch.no_grad():
            pixels = stage.run.normalisation.inverse(stage.batch.inputs)
            far = stage.augmentor.values(pixels, stage.augmentor.noise(pixels, generator(9)))
            images = stage.run.normalisation.apply(stage.augmentor(pixels, far))
            return float(disagreement(stage.teacher(images), stage.teacher(stage.batch.inputs), 1.0).mean())

    assert gap(1e4) < 0.1 * gap(0.0)


def test_check_equal_networks_give_the_augmentor_no_gradient():
    stage = Stage(HARD(beta=0.0, edit_weight=0.0, temperature=1.0), same=True)
    stage.network.eval()
    torch.nn.init.normal_(stage.augmentor.last.weight, std=0.3)
    stage.value().backward()
    assert max(float(p.grad.abs().max()) for p in stage.augmentor.parameters()) < 1e-12
    stage.plugin = HARD(beta=1.0, edit_weight=0.0, temperature=1.0)
    stage.value().backward()
    assert max(float(p.grad.abs().max()) for p in stage.augmentor.parameters()) > 1e-6


def test_check_changed_inputs_are_such_as_exist():
    stage = Stage(HARD(changes="affine_flow_colour"))
    torch.nn.init.normal_(stage.augmentor.last.weight, std=50.0)
    pixels = stage.run.normalisation.inverse(stage.batch.inputs)
    made = stage.augmentor(pixels, stage.augmentor.values(pixels, stage.augmentor.noise(pixels, generator(1))))
    assert made.min() >= 0 and made.max() <= 1
    assert (made - pixels).abs().max() > 0.1


def test_the_augmentor_moves_every_so_many_steps_and_not_in_the_warmup():
    stage, moved = Stage(HARD(every=3, warmup=0.4)), []
    for step in range(12):
        stage.augmentor.zero_grad()
        stage.value(step=step, steps=12).backward()
        moved.append(stage.augmentor.last.weight.grad is not None)
    assert [step for step, yes in enumerate(moved) if yes] == [5, 8, 11]


def test_noise_is_another_at_every_step_for_every_part_of_a_batch_and_the_same_again():
    stage = Stage(HARD(edit_weight=0.0))
    torch.nn.init.normal_(stage.augmentor.last.weight, std=0.5)
    whole = stage.batch

    def at(step, first):
        stage.batch = Batch(whole.inputs, whole.targets, torch.arange(12) + first)
        return float(stage.value(step=step, steps=100).detach())

    assert at(6, 0) == at(6, 0)
    assert len({at(6, 0), at(7, 0), at(6, 12)}) == 3


def test_the_size_of_an_edit_is_a_mean_square_and_holds_it_back():
    assert float(edit_size(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]))) == pytest.approx(2.25 / 4)

    def moved(weight):
        stage = Stage(HARD(temperature=1.0, beta=0.0, edit_weight=weight))
        torch.nn.init.normal_(stage.augmentor.last.weight, std=0.5)
        stage.move_augmentor(20, rate=0.2)
        pixels = stage.run.normalisation.inverse(stage.batch.inputs)
        return float(edit_size(stage.augmentor.values(pixels, stage.augmentor.noise(pixels, generator(1)))).detach())

    assert moved(5.0) < 0.5 * moved(0.0)


def test_pitfall_the_log_says_how_hard_inputs_are_and_how_many_changes_are_at_their_bound():
    stage = Stage(HARD())
    torch.nn.init.normal_(stage.augmentor.last.weight, std=200.0)
    stage.value(step=9, steps=10)
    (line,) = stage.logged
    assert line["step"] == 9 and line["changed"] != line["clean"]
    assert line["at_bound"] > 0.9 and 0.9 < line["edit"] <= 1
    for step in range(100):
        stage.value(step=step, steps=100)
    assert len(stage.logged) == 1 + 19


# ---- the plugin ------------------------------------------------------------------------------------------------------


def test_gradients_of_the_augmentor_are_cut_to_a_length():
    stage = Stage(HARD(rate=0.1))
    optimizer = stage.plugin.module_optimizer(stage.augmentor, 0.05)
    assert isinstance(stage.augmentor, Augmentor) and optimizer.param_groups[0]["lr"] == 0.1
    optimizer.step()
    assert torch.equal(stage.augmentor.last.bias, torch.zeros(6).double())
    stage.augmentor.last.bias.grad = torch.full((6,), 1e6, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(stage.augmentor.last.bias.grad.norm(), torch.ones(()).double())


def test_weights_say_what_they_weight():
    assert HARD(label_weight=0.3).label_factor() == 0.3
    stage = Stage(HARD(weight=2.0, hard_share=0.0))
    torch.testing.assert_close(stage.value(), 2 * Stage(HARD(hard_share=0.0)).value())


def test_several_teachers_answer_by_their_mean_of_logits():
    stage = Stage(HARD(hard_share=1.0))
    images = stage.batch.inputs
    other = build("convnet1-bn-w4", 1, 8, 10, torch.Generator().manual_seed(77)).double().eval().requires_grad_(False)
    teaching = Teaching([Vote(stage.teacher, 0.25), Vote(other, 0.75)], images)
    seen = Seen(stage.network(images), {})
    term = stage.plugin.ddcore_student_loss(
        stage.batch, stage.network, Progress(7, 10), seen, teaching, stage.augmentor, generator(0), stage.run
    )
    mean = 0.25 * stage.teacher(images) + 0.75 * other(images)
    torch.testing.assert_close(term.value, student_term((seen.logits, mean), None, 4.0, 0.0))


@pytest.mark.parametrize(
    "wrong",
    [{"changes": ""}, {"changes": "latent"}, {"hard_share": 1.5}, {"every": 0}, {"scale": 0.5}, {"warmup": 1.0}],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        HARD(**wrong)
