"""The unrolled student: closed forms, torch's own SGD, a slow twin, and the exact sweep against the full graph."""

from collections.abc import Callable

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from ddcore.api.types import Segment
from ddcore.errors import InputError
from ddcore.networks.unroll import (
    Batches,
    flat_weights,
    soft_cross_entropy,
    trajectory_distance,
    unrolled_loss,
    weights_view,
)
from ddcore.networks.zoo import build

BatchAt = Callable[[int], tuple[Tensor, Tensor]]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_convnet(dtype: torch.dtype = torch.float64) -> nn.Module:
    """Two blocks as in the zoo's ConvNet, width 4, 8x8 images of 2 channels, 3 classes."""

    def block(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, 4, 3, padding=1), nn.GroupNorm(4, 4), nn.ReLU(), nn.AvgPool2d(2)]

    network = nn.Sequential(*block(2), *block(4), nn.Flatten(), nn.Linear(16, 3)).to(dtype)
    return with_weights(network)


def with_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """Normal weights of standard deviation 0.3 around each layer's default of 1 (norm scales) or 0."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            scale = 1.0 if p.dim() == 1 and name.endswith("weight") else 0.0
            p.copy_(scale + 0.3 * torch.randn(p.shape, generator=generator))
    return network


class Linear(nn.Module):
    """<x, theta>: with the mean as the loss the gradient is the mean image, whatever the weights."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta


def toy_segment(
    network: nn.Module, targets: tuple[tuple[int, float], ...] = ((-1, 1.0),), momentum: float = 0.0
) -> Segment:
    start = flat_weights(network)
    moved = {k: (start + 0.1 * torch.randn(start.shape, generator=seeded(k + 50)).to(start), c) for k, c in targets}
    return Segment(start, moved, momentum)


class Student:
    """Rows, learned logits and a rate; inner step i draws rows and an augmentation from its own generator."""

    def __init__(self, dtype: torch.dtype = torch.float64, soft: bool = True, size: int = 8) -> None:
        self.pixels = torch.randn(7, 2, size, size, generator=seeded(1)).to(dtype).requires_grad_()
        self.logits = torch.randn(7, 3, generator=seeded(2)).to(dtype).requires_grad_()
        self.rate = torch.tensor(0.3, dtype=dtype, requires_grad=True)
        self.soft = soft

    @property
    def leaves(self) -> list[Tensor]:
        return [self.pixels, self.logits] if self.soft else [self.pixels]

    def batch_at(self, i: int) -> tuple[Tensor, Tensor]:
        generator = seeded(100 + i)
        rows = torch.randint(0, 6, (5,), generator=generator)  # rows repeat, row 6 is never used
        gain = torch.rand(5, 1, 1, 1, generator=generator).to(self.pixels)
        images = torch.cat([self.pixels[rows].roll(1, 2) * gain, self.pixels[rows[:2]].flip(3)])
        rows = torch.cat([rows, rows[:2]])
        return images, self.logits[rows].softmax(1) if self.soft else rows % 3

    def gradients(self, network: nn.Module, segment: Segment, steps: int, **options: object) -> tuple[Tensor, ...]:
        value = unrolled_loss(network, segment, Batches(self.batch_at, self.leaves), self.rate, steps, **options)  # type: ignore[arg-type]
        return value.detach(), *torch.autograd.grad(value, [self.rate, *self.leaves])


def assert_same(got: tuple[Tensor, ...], due: tuple[Tensor, ...], relative: float) -> None:
    """Largest difference relative to each tensor's largest entry."""
    for a, b in zip(got, due, strict=True):
        assert b.abs().max() > 0
        assert (a - b).abs().max() <= relative * b.abs().max()


# The distance


def test_distance_by_hand():
    # start (0, 0), target (3, 4), student (3, 0): still to go 4^2 = 16, travelled 3^2 + 4^2 = 25
    loss = trajectory_distance(torch.tensor([3.0, 0]), torch.zeros(2), torch.tensor([3.0, 4]))
    torch.testing.assert_close(loss, torch.tensor(16 / 25))


def test_distance_is_one_at_the_start_zero_at_the_target_and_ignores_scale_and_origin():
    student, start, target = torch.randn(3, 20, generator=seeded())
    assert trajectory_distance(start, start, target) == 1
    assert trajectory_distance(target, start, target) == 0
    due = trajectory_distance(student, start, target)
    torch.testing.assert_close(trajectory_distance(5 * student + 1, 5 * start + 1, 5 * target + 1), due)


def test_an_expert_that_did_not_move_is_refused():
    with pytest.raises(InputError, match="identical"):
        trajectory_distance(torch.ones(2), torch.zeros(2), torch.zeros(2))
    network = small_convnet()
    start = flat_weights(network)
    student = Student()
    for mode in ("full", "adjoint"):
        with pytest.raises(InputError, match="identical"):
            student.gradients(network, Segment(start, {1: (start, 1.0)}), 1, mode=mode)


# Flat weights


def test_flat_weights_are_in_parameter_order_and_of_their_own_memory():
    network = small_convnet().to(memory_format=torch.channels_last)
    flat = flat_weights(network)
    torch.testing.assert_close(flat, torch.cat([p.detach().reshape(-1) for p in network.parameters()]))
    before = flat.clone()
    with torch.no_grad():
        next(network.parameters()).add_(1)
    assert torch.equal(flat, before)


def test_a_view_of_flat_weights_gives_the_network_back():
    network, x = small_convnet(), torch.randn(2, 2, 8, 8, generator=seeded(3), dtype=torch.float64)
    due = network(x)
    view = weights_view(network, flat_weights(network))
    torch.testing.assert_close(functional_call(with_weights(small_convnet(), 9), view, (x,)), due)


def test_weights_of_another_network_are_refused():
    with pytest.raises(InputError, match="another|trained"):
        weights_view(small_convnet(), torch.zeros(3))


# The unroll against what is known


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_unroll_makes_the_same_move_as_torch_sgd(momentum: float):
    network, student = small_convnet(), Student()
    start = flat_weights(network)
    twin = small_convnet()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3, momentum=momentum)
    for i in range(4):
        optimizer.zero_grad()
        images, targets = student.batch_at(i)
        soft_cross_entropy(twin(images.detach()), targets.detach()).backward()
        optimizer.step()
    end = parameters_to_vector(twin.parameters()).detach()
    assert (end - start).abs().max() > 0.05
    # where the student lands exactly on the target, L is 0
    for mode in ("full", "adjoint", "tesla"):
        segment = Segment(start, {4: (end, 1.0)}, momentum)
        value = unrolled_loss(network, segment, Batches(student.batch_at, student.leaves), student.rate, 4, mode=mode)
        assert value < 1e-25


@pytest.mark.parametrize("mode", ["full", "adjoint", "tesla"])
def test_no_step_or_no_rate_gives_one(mode: str):
    network, student = small_convnet(), Student()
    segment = toy_segment(network)
    assert unrolled_loss(network, segment, Batches(student.batch_at, student.leaves), student.rate, 0, mode=mode) == 1
    still = torch.zeros((), dtype=torch.float64)
    assert unrolled_loss(network, segment, Batches(student.batch_at, student.leaves), still, 3, mode=mode) == 1


@pytest.mark.parametrize("mode", ["full", "adjoint", "tesla"])
def test_constant_gradient_with_momentum_in_closed_form(mode: str):
    # theta_N = -alpha m sum_{i<N} (1 - mu^{i+1}) / (1 - mu), m the mean image; here N = 3, mu = 0.5: sum = 1 + 1.5 + 1.75
    images = torch.tensor([[1.0, 0.0, 2.0], [3.0, 4.0, 0.0]], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    segment = Segment(torch.zeros(3, dtype=torch.float64), {3: (target, 1.0)}, 0.5)
    value = unrolled_loss(
        Linear(3),
        segment,
        Batches(lambda i: (images, torch.zeros(2)), [images]),
        rate,
        3,
        mode=mode,
        loss=lambda out, _: out.mean(),
    )
    end = -rate * images.mean(0) * 4.25
    due = (end - target).square().sum() / 5
    torch.testing.assert_close(value, due)
    wanted = [images, rate]
    torch.testing.assert_close(torch.autograd.grad(value, wanted), torch.autograd.grad(due, wanted))


@pytest.mark.parametrize("mode", ["full", "adjoint", "tesla"])
def test_quadratic_toy_in_closed_form(mode: str):
    # loss_i = theta' H theta / 2 - h_i' theta, so g_i = H theta_i - h_i and
    # theta_N = (1 - alpha H)^N theta_0 + alpha sum_i (1 - alpha H)^(N-1-i) h_i; TESLA forgets the powers in dL/dh_i
    a = torch.randn(3, 3, generator=seeded(), dtype=torch.float64)
    H, N = a @ a.T / 3, 4
    rows = torch.randn(N, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    start, target = torch.randn(2, 3, generator=seeded(2), dtype=torch.float64)

    class Quadratic(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return (self.theta @ H @ self.theta / 2 - x @ self.theta).mean()

    value = unrolled_loss(
        Quadratic(3),
        Segment(start, {N: (target, 1.0)}),
        Batches(lambda i: (rows[i : i + 1], torch.zeros(1)), [rows]),
        rate,
        N,
        mode=mode,
        loss=lambda out, _: out,
    )
    step = torch.eye(3, dtype=torch.float64) - rate * H
    power = torch.linalg.matrix_power
    end = power(step, N) @ start + rate * sum(power(step, N - 1 - i) @ rows[i] for i in range(N))
    torch.testing.assert_close(value, (end - target).square().sum() / (start - target).square().sum())
    v = (2 * (end - target) / (start - target).square().sum()).detach()
    due = torch.stack([rate * (v if mode == "tesla" else power(step, N - 1 - i) @ v) for i in range(N)])
    torch.testing.assert_close(torch.autograd.grad(value, rows)[0], due.detach())


def test_the_rate_grows_when_the_student_stops_short_of_the_expert():
    # theta* = theta_0 - c G with c > alpha > 0
    images = torch.ones(1, 3, dtype=torch.float64)
    segment = Segment(torch.zeros(3, dtype=torch.float64), {1: (-0.5 * torch.ones(3, dtype=torch.float64), 1.0)})
    for mode in ("full", "adjoint", "tesla"):
        rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        value = unrolled_loss(
            Linear(3),
            segment,
            Batches(lambda i: (images, torch.zeros(1)), []),
            rate,
            1,
            mode=mode,
            loss=lambda out, _: out.mean(),
        )
        assert torch.autograd.grad(value, rate)[0] < 0


# The exact sweep


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("soft", [True, False])
def test_the_sweep_has_the_gradient_of_the_full_graph(soft: bool, momentum: float, micro_batch: int):
    network, student = small_convnet(), Student(soft=soft)
    segment = toy_segment(network, ((-1, 1.0), (2, 0.5), (3, 0.25)), momentum)
    due = student.gradients(network, segment, 5, mode="full")
    assert_same(student.gradients(network, segment, 5, mode="adjoint", micro_batch=micro_batch), due, 1e-10)


def test_in_float32_the_sweep_is_the_full_graph_to_rounding():
    network, student = small_convnet(torch.float32), Student(torch.float32)
    segment = toy_segment(network, momentum=0.5)
    due = student.gradients(network, segment, 4, mode="full")
    assert_same(student.gradients(network, segment, 4, mode="adjoint", micro_batch=3), due, 1e-5)


def test_the_sweep_has_the_same_bits_with_one_thread_and_with_several():
    network, student, found, before = small_convnet(), Student(), {}, torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found[threads] = student.gradients(network, toy_segment(network), 3, micro_batch=2)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(found[1], found[2], strict=True))


ZOO = ("convnet", "convnet-bn", "convnet-ln", "convnet-gn", "convnet-in", "convnet-nonorm", "convnet-swish-max", "mlp")


@pytest.mark.parametrize("name", ZOO)
def test_the_sweep_is_exact_for_every_kind_of_layer(name: str):
    name = name.replace("convnet", "convnet2", 1).replace("-swish", "-w8-swish") if name.startswith("convnet") else name
    network = build(name, 2, 8, 3, seeded()).double()
    student = Student()
    segment = toy_segment(network, momentum=0.5)
    student.rate.data.fill_(0.02)
    due = student.gradients(network, segment, 3, mode="full")
    assert_same(student.gradients(network, segment, 3, mode="adjoint", micro_batch=3), due, 1e-9)


@pytest.mark.parametrize("mode", ["full", "adjoint"])
def test_pixels_labels_and_rate_pass_gradcheck(mode: str):
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
    )
    network = with_weights(network.double())
    segment = toy_segment(network, ((-1, 1.0), (1, 0.5)), 0.6)
    student = Student(size=3)

    def value(pixels: Tensor, logits: Tensor, rate: Tensor) -> Tensor:
        student.pixels, student.logits, student.rate = pixels, logits, rate
        return unrolled_loss(
            network, segment, Batches(student.batch_at, student.leaves), rate, 3, mode=mode, micro_batch=4
        )

    assert torch.autograd.gradcheck(value, (student.pixels, student.logits, student.rate), fast_mode=True)


def test_a_row_no_batch_uses_gets_zero_and_a_row_used_twice_gets_both():
    network, student = small_convnet(), Student()
    _, _, pixels, logits = student.gradients(network, toy_segment(network), 2)
    assert not pixels[6].any() and not logits[6].any()
    assert pixels[:6].any() and logits[:6].any()
    images = torch.randn(2, 2, 8, 8, generator=seeded(5), dtype=torch.float64, requires_grad=True)
    twice = torch.cat([images, images[:1]])
    apart = twice.detach().clone().requires_grad_()
    for leaf, rows in ((images, lambda: torch.cat([images, images[:1]])), (apart, lambda: apart)):
        value = unrolled_loss(
            network,
            toy_segment(network),
            Batches(lambda i, r=rows: (r(), torch.tensor([0, 1, 0])), [leaf]),
            student.rate,
            2,
        )
        (leaf.grad,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(images.grad[0], apart.grad[0] + apart.grad[2])


def test_logit_gradients_sum_to_zero_over_classes():
    network, student = small_convnet(), Student()
    logits = student.gradients(network, toy_segment(network), 3)[3]
    torch.testing.assert_close(logits.sum(1), torch.zeros(7, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_upstream_gradient_scales_the_result():
    network, student = small_convnet(), Student()
    value = unrolled_loss(network, toy_segment(network), Batches(student.batch_at, student.leaves), student.rate, 2)
    once = torch.autograd.grad(value, student.pixels, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * value, student.pixels)[0], 3 * once)


def test_gradient_reaches_what_made_the_leaves():
    # a decoder: the pixels are themselves computed from a learned base
    network, student = small_convnet(), Student()
    base = student.pixels.detach().requires_grad_()
    found = []
    for mode in ("full", "adjoint"):
        student.pixels = base * 2 - 1
        value = unrolled_loss(
            network, toy_segment(network), Batches(student.batch_at, student.leaves), student.rate, 2, mode=mode
        )
        found.append(torch.autograd.grad(value, base))
    assert_same(found[1], found[0], 1e-10)


def test_the_network_itself_is_left_alone():
    network, student = nn.Sequential(nn.BatchNorm2d(2), small_convnet()).double(), Student()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for mode in ("full", "adjoint"):
        student.gradients(network, toy_segment(network), 2, mode=mode)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


# TESLA


def slow_tesla(network: nn.Module, segment: Segment, student: Student, steps: int) -> tuple[Tensor, ...]:
    """The published gradient, from its own formula: weights of every step held constant, factor 2 included."""
    ((target, _),) = segment.targets.values()
    theta, batches, thetas = segment.start.clone(), [], []
    for i in range(steps):
        images, targets = (t.detach().requires_grad_() for t in student.batch_at(i))
        thetas.append(theta)
        batches.append((images, targets))
        constant = theta.detach().requires_grad_()
        loss = soft_cross_entropy(functional_call(network, weights_view(network, constant), (images,)), targets)
        theta = theta - student.rate.detach() * torch.autograd.grad(loss, constant)[0]
    delta, total = target - segment.start, -(theta - segment.start) / student.rate.detach()
    scale = 2 / delta.square().sum()
    alpha = student.rate.detach()
    by_leaf = [torch.zeros_like(leaf) for leaf in student.leaves]
    for i in range(steps):
        constant = thetas[i].detach().requires_grad_()
        loss = soft_cross_entropy(
            functional_call(network, weights_view(network, constant), (batches[i][0],)), batches[i][1]
        )
        (g,) = torch.autograd.grad(loss, constant, create_graph=True)
        slopes = torch.autograd.grad(scale * (alpha * delta + alpha**2 * total) @ g, batches[i])
        for sum_, part in zip(by_leaf, torch.autograd.grad(student.batch_at(i), student.leaves, slopes), strict=True):
            sum_ += part
    return scale * (delta + alpha * total) @ total, *by_leaf


def test_tesla_is_its_published_formula():
    network, student = small_convnet(), Student()
    segment = toy_segment(network)
    got = student.gradients(network, segment, 4, mode="tesla", micro_batch=2)
    assert_same(got[1:], slow_tesla(network, segment, student, 4), 1e-10)


def test_tesla_is_exact_for_one_step_and_not_for_several():
    network, student = small_convnet(), Student()
    segment = toy_segment(network)
    assert_same(student.gradients(network, segment, 1, mode="tesla"), student.gradients(network, segment, 1), 1e-10)
    tesla, exact = (student.gradients(network, segment, 4, mode=mode)[2] for mode in ("tesla", "adjoint"))
    assert (tesla - exact).norm() > 0.01 * exact.norm()


def test_tesla_is_exact_for_what_only_the_last_step_sees():
    network, student = small_convnet(), Student()
    pixels = torch.randn(3, 4, 2, 8, 8, generator=seeded(8), dtype=torch.float64, requires_grad=True)
    found = {}
    for mode in ("tesla", "full"):
        value = unrolled_loss(
            network,
            toy_segment(network),
            Batches(lambda i: (pixels[i], torch.tensor([0, 1, 2, 0])), [pixels]),
            student.rate,
            3,
            mode=mode,
        )
        found[mode] = torch.autograd.grad(value, pixels)[0]
    torch.testing.assert_close(found["tesla"][2], found["full"][2])
    assert not torch.allclose(found["tesla"][0], found["full"][0])


# Refusals


@pytest.mark.parametrize("step", [0, 4, -5])
def test_a_target_outside_the_unroll_is_refused(step: int):
    network, student = small_convnet(), Student()
    with pytest.raises(InputError, match="use 1 to 3"):
        student.gradients(network, toy_segment(network, ((step, 1.0),)), 3)


def test_two_targets_at_one_step_and_none_at_all_are_refused():
    network, student = small_convnet(), Student()
    with pytest.raises(InputError, match="each once"):
        student.gradients(network, toy_segment(network, ((3, 1.0), (-1, 1.0))), 3)
    with pytest.raises(InputError, match="nothing to match"):
        student.gradients(network, evolve(toy_segment(network), targets={}), 3)


def test_a_network_with_dropout_is_refused_unless_it_is_off():
    network, student = nn.Sequential(nn.Dropout(0.5), small_convnet()).double(), Student()
    with pytest.raises(InputError, match="dropout"):
        student.gradients(network, toy_segment(network), 1)
    student.gradients(network.eval(), toy_segment(network), 1)


def test_a_leaf_changed_between_loss_and_gradient_is_refused():
    network, student = small_convnet(), Student()
    value = unrolled_loss(network, toy_segment(network), Batches(student.batch_at, student.leaves), student.rate, 1)
    with torch.no_grad():
        student.pixels += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        value.backward()


# A scaled training loss


@pytest.mark.parametrize("mode", ["full", "adjoint", "tesla"])
def test_a_loss_scale_is_a_scale_of_the_rate_without_momentum(mode: str):
    network, scale = small_convnet(), 1.7
    segment = toy_segment(network)
    student, twin = Student(), Student()
    twin.rate.data.mul_(scale)
    found = student.gradients(network, evolve(segment, loss_scale=scale), 3, mode=mode)
    due = twin.gradients(network, segment, 3, mode=mode)
    torch.testing.assert_close(found[0], due[0])
    torch.testing.assert_close(found[1], scale * due[1])  # dL/d alpha = scale dL/d (scale alpha)
    for ours, theirs in zip(found[2:], due[2:], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_with_a_loss_scale_the_sweep_has_the_gradient_of_the_full_graph():
    network, student = small_convnet(), Student()
    segment = evolve(toy_segment(network, ((-1, 1.0), (2, 0.5)), 0.9), loss_scale=0.6)
    due = student.gradients(network, segment, 4, mode="full")
    assert_same(student.gradients(network, segment, 4, mode="adjoint", micro_batch=3), due, 1e-10)
