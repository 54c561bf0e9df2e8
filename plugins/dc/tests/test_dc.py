"""DC's checks that need no run: the distances, the table of loops, a class's gradient by a slope, inner training, BatchNorm."""

from types import SimpleNamespace

import pytest
import torch
from ddcore_dc import DC, gradient_distance, matched, outer_inner_loops, row_distance
from ddcore_dc import student as module
from ddcore_dc.student import Student
from torch.nn import functional as F

from ddcore import Batch, InputError
from ddcore.composing.options import resolve
from ddcore.composing.presets import presets_of
from ddcore.networks.curvature import slope
from ddcore.networks.passes import Crew
from ddcore.networks.zoo import build

KINDS = ("ours", "mse", "cos")
NETWORKS = ("convnet2-w4", "convnet2-w4-swish-max", "convnet2-ln-w4-sigmoid", "convnet2-nonorm-w4-nopool", "mlp")


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(seed: int = 0, scale: float = 1.0) -> list[torch.Tensor]:
    """Of a convolution with its bias, a layer norm and a linear layer with its bias."""
    shapes = ((4, 3, 2, 2), (4,), (3, 5, 5), (6, 7), (6,))
    return [scale * seeded(*shape, seed=10 * seed + i) for i, shape in enumerate(shapes)]


def network_of(name: str, seed: int = 0, channels: int = 2, size: int = 8, classes: int = 3) -> torch.nn.Module:
    built = build(name, channels, size, classes, torch.Generator().manual_seed(seed))
    assert built is not None
    return built.double()


def batch(count: int, cls: int, seed: int, size: int = 8) -> Batch:
    index = torch.arange(count)
    return Batch(seeded(count, 2, size, size, seed=seed), {"class": torch.full_like(index, cls)}, index)


# ---- distances -------------------------------------------------------------------------------------------------------


def test_row_distance_by_hand():
    # rows (3, 4) and (4, 3): 1 - 24/25; rows (1, 0) and (0, 2): 1; rows (1, 1) and (-2, -2): 2
    real, synthetic = torch.tensor([[3.0, 4], [1, 0], [1, 1]]), torch.tensor([[4.0, 3], [0, 2], [-2, -2]])
    torch.testing.assert_close(row_distance(real, synthetic), torch.tensor(3.04))


def test_a_gradient_and_itself_are_at_distance_zero_unless_it_is_tiny():
    # the check's closed form, row by row: 1e-6 / (|g|^2 + 1e-6)
    for length, due in ((1.0, 1e-6 / (1 + 1e-6)), (1e-3, 0.5), (1e-9, 1.0), (0.0, 1.0)):
        row = torch.tensor([[length, 0.0]], dtype=torch.float64)
        torch.testing.assert_close(row_distance(row, row), torch.tensor(due, dtype=torch.float64))


def test_a_gradient_and_its_opposite_are_two_apart_a_row_and_convnet3_has_394_rows():
    network = build("convnet3", 3, 32, 10, torch.Generator().manual_seed(0))
    found = [seeded(*p.shape, seed=i) for i, p in enumerate(network.parameters())]
    distance = gradient_distance([-g for g in found], found)
    torch.testing.assert_close(distance, torch.tensor(2.0 * 394, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["ours", "cos"])
def test_the_length_of_a_gradient_does_not_matter(kind):
    one, other = gradients(0), gradients(1)
    longer = [7.0 * g for g in one]
    torch.testing.assert_close(
        gradient_distance(longer, other, kind), gradient_distance(one, other, kind), rtol=1e-6, atol=0
    )


def test_biases_count_for_nothing_in_ours_and_for_something_in_mse_and_cos():
    one, other = gradients(0), gradients(1)
    changed = [g + 1 if g.dim() == 1 else g for g in one]
    assert torch.equal(gradient_distance(changed, other), gradient_distance(one, other))
    for kind in ("mse", "cos"):
        assert not torch.isclose(gradient_distance(changed, other, kind), gradient_distance(one, other, kind))


def test_swapping_rows_of_one_changes_the_distance_and_swapping_columns_of_both_does_not():
    one, other = [seeded(4, 6)], [seeded(4, 6, seed=1)]
    order = torch.tensor([1, 0, 2, 3, 5, 4])
    before = gradient_distance(one, other)
    assert not torch.isclose(gradient_distance([one[0][[1, 0, 2, 3]]], other), before)
    torch.testing.assert_close(gradient_distance([one[0][:, order]], [other[0][:, order]]), before)


def test_distances_equal_plain_loops_over_layers_and_rows():
    real, synthetic = gradients(0), gradients(1)
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(real, synthetic, strict=True):
        for i in range(len(a) if a.dim() > 1 else 0):
            total += 1 - (a[i] * b[i]).sum() / (a[i].square().sum().sqrt() * b[i].square().sum().sqrt() + 1e-6)
    torch.testing.assert_close(gradient_distance(real, synthetic), total)
    squares = sum(((a - b) ** 2).sum() for a, b in zip(real, synthetic, strict=True))
    torch.testing.assert_close(gradient_distance(real, synthetic, "mse"), squares)
    inner = sum((a * b).sum() for a, b in zip(real, synthetic, strict=True))
    lengths = [sum(g.square().sum() for g in gs).sqrt() for gs in (real, synthetic)]
    torch.testing.assert_close(
        gradient_distance(real, synthetic, "cos"), 1 - inner / (lengths[0] * lengths[1] + 1e-6), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_distance_in_float64(kind):
    real, synthetic = gradients(0), [g.requires_grad_() for g in gradients(1)]
    assert torch.autograd.gradcheck(lambda *own: gradient_distance(real, own, kind), synthetic)


def test_a_dead_filter_has_a_finite_gradient():
    own = torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)
    (found,) = torch.autograd.grad(gradient_distance([torch.ones(2, 2)], [own]), own)
    assert found.isfinite().all()


def test_small_gradients_in_half_precision_are_compared_in_float32():
    small = [torch.full((2, 50), 1e-4, dtype=torch.float16)]
    for kind in ("ours", "mse", "cos"):
        same = gradient_distance([g.float() for g in small], [-g.float() for g in small], kind)
        torch.testing.assert_close(gradient_distance(small, [-g for g in small], kind), same)


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="'l2': choose one of ours, mse, cos"):
        gradient_distance([torch.ones(2, 2)], [torch.ones(2, 2)], "l2")


def test_gradients_of_different_networks_are_refused():
    with pytest.raises(ValueError, match="gradients of different networks"):
        gradient_distance([torch.ones(2, 2)], [torch.ones(2, 3)])


@pytest.mark.parametrize("ipc", range(1, 120))
def test_loops_are_the_authors_table_and_never_more_matches_than_images(ipc):
    table = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    outer, inner = outer_inner_loops(ipc)
    assert (outer, inner) == table.get(ipc, (outer, inner))
    assert 1 <= outer <= min(ipc, 50) and (inner >= 10 or ipc == 1)


# ---- one class's gradient --------------------------------------------------------------------------------------------


def by_double_backward(
    network: torch.nn.Module, real: Batch, shown: Batch, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the field writes it: gradients of whole batches, the synthetic one with its graph."""
    weights = list(network.parameters())
    target = torch.autograd.grad(F.cross_entropy(network(real.inputs), real.targets["class"]), weights)
    images = shown.inputs.clone().requires_grad_()
    loss = F.cross_entropy(network(images), shown.targets["class"])
    own = torch.autograd.grad(loss, weights, create_graph=True)
    distance = gradient_distance([t.detach() for t in target], own, kind)
    return distance.detach(), torch.autograd.grad(distance, images)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NETWORKS, "convnet2-bn-w4"])
def test_the_slope_gives_double_backwards_gradient(name, kind):
    network = network_of(name).eval()
    real, shown = batch(300, 1, seed=1), batch(170, 1, seed=2)  # more than one part of 8x8 pixels each
    value, gradient = matched(Student.of(network), network, real, shown, kind)
    due, plain = by_double_backward(network, real, shown, kind)
    torch.testing.assert_close(value, due, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradient, plain, rtol=1e-10, atol=1e-10 * float(plain.abs().max()))


@pytest.mark.parametrize("name", NETWORKS[:2])
def test_synthetic_images_that_are_the_real_batch_are_at_distance_zero_without_gradient(name):
    network = network_of(name)
    real = batch(5, 2, seed=3)
    value, gradient = matched(Student.of(network), network, real, real, "ours")
    _, elsewhere = matched(Student.of(network), network, real, batch(5, 2, seed=4), "ours")
    assert abs(float(value)) < 1e-3  # rows of small norm keep some of their 1e-6
    assert float(gradient.abs().max()) < 1e-3 * float(elsewhere.abs().max())
    value, gradient = matched(Student.of(network), network, real, real, "mse")
    assert float(value) == 0 and not gradient.any()


def test_matching_leaves_the_network_and_the_weights_alone_and_keeps_no_graph():
    network = network_of("convnet2-w4")
    student = Student.of(network)
    before = student.theta_P.clone()
    target = student.gradient(network, batch(4, 0, seed=1))
    value, gradient = matched(student, network, batch(4, 0, seed=1), batch(2, 0, seed=2), "ours")
    assert torch.equal(student.theta_P, before) and not student.theta_P.requires_grad
    assert not target.requires_grad and not value.requires_grad and not gradient.requires_grad
    assert all(p.grad is None for p in network.parameters())


@pytest.fixture
def threads():
    """Sets torch's number of threads, and sets it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_with_a_class_each_change_nothing_but_rounding(threads):
    network = network_of("convnet2-w4")
    student, found = Student.of(network), []
    pairs = [(batch(20, c, seed=c), batch(3, c, seed=9 + c)) for c in range(3)]
    for number in (1, 2):
        threads(number)
        with Crew(network, torch.device("cpu")) as crew:
            found.append(crew.each(lambda net, real, shown: matched(student, net, real, shown, "ours"), pairs))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


# ---- inner training, BatchNorm, dropout ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", ["convnet2-w4", "convnet2-bn-w4"])
def test_inner_steps_are_those_of_torch_sgd(name, number, threads):
    threads(number)
    network, plain = network_of(name), network_of(name)
    student = Student.of(network)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1)
    with Crew(network, torch.device("cpu")) as crew:
        for step in range(3):
            images = Batch(seeded(300, 2, 8, 8, seed=step), {"class": torch.arange(300) % 3}, torch.arange(300))
            student.descend(crew, images, 0.1)
            sgd.zero_grad()
            F.cross_entropy(plain(images.inputs), images.targets["class"]).backward()
            sgd.step()
    due = torch.cat([p.detach().reshape(-1) for p in plain.parameters()])
    torch.testing.assert_close(student.theta_P, due, rtol=1e-10, atol=1e-12)
    for name, value in plain.named_buffers():
        torch.testing.assert_close(student.buffers[name], value)


def test_frozen_statistics_are_moved_by_each_batch_in_train_mode_and_used_from_then_on():
    network, plain = network_of("convnet2-bn-w4"), network_of("convnet2-bn-w4")
    images = seeded(12, 2, 8, 8) + 3
    student = Student.of(network)
    for batch_of_statistics in (images, images - 5):
        student.freeze_statistics(batch_of_statistics)
        plain.train()(batch_of_statistics)
        plain.eval()
    for name, value in plain.named_buffers():
        torch.testing.assert_close(student.buffers[name], value)
    other = batch(4, 1, seed=5)
    due = torch.autograd.grad(F.cross_entropy(plain(other.inputs), other.targets["class"]), list(plain.parameters()))
    for own, plainly in zip(student.layers(student.gradient(network, other)), due, strict=True):
        torch.testing.assert_close(own, plainly)
    assert all(
        torch.equal(b, a) for b, a in zip(network.buffers(), network_of("convnet2-bn-w4").buffers(), strict=True)
    )


def test_a_network_with_dropout_is_refused():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(128, 3))
    with pytest.raises(InputError, match="the network's 1 is a dropout"):
        Student.of(network)


@pytest.mark.parametrize(("name", "twice"), [("convnet2-w4", 0), ("resnet18", 0), ("convnet2-bn-w4", 1)])
def test_only_batch_norm_needs_double_backward(name, twice, monkeypatch):
    failed = []

    def watched(*args):
        try:
            return slope(*args)
        except NotImplementedError:
            failed.append(args)
            raise

    monkeypatch.setattr(module, "slope", watched)
    size = 16 if name == "resnet18" else 8
    network = network_of(name, size=size).eval()
    matched(Student.of(network), network, batch(2, 0, seed=1, size=size), batch(2, 0, seed=2, size=size), "ours")
    assert len(failed) == twice


# ---- presets and cost ------------------------------------------------------------------------------------------------


def test_every_preset_sets_known_options_and_publishes_a_fraction():
    found = presets_of("dc", DC)
    for name, preset in found.items():
        made = resolve({"dc": DC}, command_line={}, environment={}, preset=preset)
        assert name == f"{'dsa-' * ('dsa' in made.config.protocol)}{preset.dataset}-ipc{preset.ipc}"
        assert made.config.init == ("real" if name.startswith("dsa-") else "noise")
        assert all(0 < value < 1 for value in preset.published.values())
    assert found["cifar10-ipc10"].published == {"accuracy": 0.449, "std": 0.005}
    assert found["dsa-cifar10-ipc10"].published == {"accuracy": 0.521, "std": 0.005}


def test_cost_of_a_network_by_hand():
    # 10 classes, 20 images of each: 20 matches of 10 x 256 real and 200 synthetic images, 19 trainings of 25 x 200
    run = SimpleNamespace(config=SimpleNamespace(ipc=20), source=SimpleNamespace(classes=range(10)))
    cost = DC().cost(run)
    assert (cost.backward, cost.second_order) == (20 * 2560 + 19 * 25 * 200, 20 * 200)
