"""AST's parts by hand, by their limits, against slow twins and by their gradients."""

from types import SimpleNamespace

import attrs
import pytest
import torch
from ddcore_smooth import (
    Smooth,
    balance,
    gradient_penalty,
    kmeans,
    nearest_distinct,
    on_the_way,
    perturbed,
    ramp,
    shaken,
)
from torch import Tensor, nn

from ddcore.api.types import Batch, Progress, Segment, Task, Unroll
from ddcore.errors import OptionError
from ddcore.networks.unroll import Batches, flat_weights, trajectory_distance, unrolled_loss, weights_view
from ddcore.networks.zoo import build
from ddcore.randomness import drawing_from, generator

OFF = {
    "ramp_epochs": 0,
    "penalty": 0.0,
    "perturb": 0.0,
    "student_momentum": 0.0,
    "balance": False,
    "intermediate": "none",
}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


# The experts' loss


def test_the_ramp_goes_from_half_to_one_in_ten_epochs():
    assert [ramp(e) for e in range(12)] == pytest.approx([0.5 + 0.05 * e for e in range(10)] + [1, 1])
    assert [ramp(e, 0) for e in range(3)] == [1, 1, 1]
    assert [ramp(e, 2) for e in range(3)] == [0.5, 0.75, 1]


def linear(slope: Tensor) -> nn.Module:
    """Logits W x whose sum has ``slope`` (C, H, W) in every pixel; the bias has none."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(slope.numel(), 2)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([3 * slope.flatten(), -2 * slope.flatten()]))
    return network


def test_check_the_penalty_of_a_linear_network_with_unit_channel_norm_is_zero():
    # (0.6, 0.8) in each of 4 pixels: norm 1 over the channels, 2 over the image
    slope = torch.tensor([0.6, 0.8], dtype=torch.float64)[:, None, None].expand(2, 2, 2)
    images = randn(5, 2, 2, 2)
    assert gradient_penalty(linear(slope), images).item() == pytest.approx(0, abs=1e-12)
    assert gradient_penalty(linear(3 * slope), images).item() == pytest.approx(4)  # (3 - 1)^2


def test_the_penalty_by_hand():
    # channel norms 5 and 0 in two pixels: (16 + 1) / 2, whatever the image and the batch
    slope = torch.tensor([[[3.0, 0.0]], [[4.0, 0.0]]], dtype=torch.float64)
    for count in (1, 4):
        assert gradient_penalty(linear(slope), randn(count, 2, 1, 2)).item() == pytest.approx(8.5)


def test_check_a_penalty_of_weight_zero_looks_at_nothing():
    def network(images: Tensor) -> Tensor:
        raise AssertionError("called")

    value = torch.tensor(2.0, requires_grad=True)
    clean = Batch(torch.ones(2, 1, 2, 2), {}, torch.arange(2))
    plugin = Smooth(penalty=0.0)
    assert plugin.ddcore_expert_loss(value, network, clean, Progress(0, 5)).item() == 1.0
    with pytest.raises(AssertionError, match="called"):
        Smooth().ddcore_expert_loss(value, network, clean, Progress(0, 5))


def test_the_loss_is_the_ramped_value_and_the_penalty_that_is_not_ramped():
    network, images = linear(torch.ones(1, 2, 2, dtype=torch.float64) * 3), randn(3, 1, 2, 2)
    value = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    clean = Batch(images, {}, torch.arange(3))
    found = Smooth(penalty=0.5).ddcore_expert_loss(value, network, clean, Progress(3, 50))
    assert found.item() == pytest.approx(0.65 + 0.5 * 4)


def small_convnet() -> nn.Module:
    with drawing_from(generator(5)):
        return nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.GroupNorm(3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 3)
        ).double()


def test_the_penalty_is_the_one_of_finite_differences_pixel_by_pixel():
    network, images, step = small_convnet(), randn(2, 2, 3, 3, seed=1), 1e-5
    slope = torch.zeros_like(images)
    for place in torch.cartesian_prod(*map(torch.arange, images.shape)).tolist():
        up, down = images.clone(), images.clone()
        up[tuple(place)] += step
        down[tuple(place)] -= step
        slope[tuple(place)] = (network(up).sum() - network(down).sum()).item() / (2 * step)
    terms = [(slope[b, :, h, w].norm() - 1) ** 2 for b in range(2) for h in range(3) for w in range(3)]
    torch.testing.assert_close(gradient_penalty(network, images).detach(), sum(terms) / 18, rtol=1e-6, atol=1e-9)


def test_the_penalty_passes_gradcheck_in_the_weights():
    network, images = small_convnet(), randn(2, 2, 3, 3, seed=1)
    flat = flat_weights(network).requires_grad_()

    def value(theta: Tensor) -> Tensor:
        weights = weights_view(network, theta)
        return gradient_penalty(lambda x: torch.func.functional_call(network, weights, (x,)), images)

    assert torch.autograd.gradcheck(value, flat, fast_mode=True)


def test_the_penalty_of_pixels_without_influence_has_a_finite_gradient():
    network = linear(torch.zeros(2, 2, 2, dtype=torch.float64))
    value = gradient_penalty(network, randn(2, 2, 2, 2))
    assert value.item() == 1.0
    value.backward()
    assert torch.isfinite(network[1].weight.grad).all()


def test_the_penalty_does_not_depend_on_the_batch_it_is_cut_into():
    network, images = small_convnet(), randn(6, 2, 3, 3)
    parts = [gradient_penalty(network, x) for x in images.split(2)]
    torch.testing.assert_close(sum(parts) / 3, gradient_penalty(network, images))


# The start


def test_check_the_perturbation_is_bounded_by_the_largest_weight_and_zero_strength_is_the_identity():
    weights, noise = randn(4, 3, 3, 3), randn(4, 3, 3, 3, seed=1)
    assert torch.linalg.vector_norm(noise / torch.linalg.vector_norm(noise)).item() == pytest.approx(1)
    for strength in (0.1, 1.0, 5.0):
        moved = torch.linalg.vector_norm(perturbed(weights, noise, strength) - weights)
        assert 0 < moved <= strength * weights.abs().max()
    assert torch.equal(perturbed(weights, noise, 0.0), weights)
    torch.testing.assert_close(perturbed(weights, 7 * noise, 0.3), perturbed(weights, noise, 0.3))


def test_check_only_convolutions_are_perturbed():
    network = build("convnet2-w4", 1, 8, 3, generator(0))
    flat = flat_weights(network)
    kept = flat.clone()
    after = weights_view(network, shaken(flat, network, 1.0, generator(1)))
    assert torch.equal(flat, kept)
    changed = {name for name, old in weights_view(network, flat).items() if not torch.equal(old, after[name])}
    assert changed == {name for name, p in network.named_parameters() if p.dim() == 4} and len(changed) == 2
    again = shaken(flat, network, 1.0, generator(1))
    assert torch.equal(torch.cat([a.flatten() for a in after.values()]), again)


# The student


def test_check_the_balance_at_its_jump_and_where_it_is_two():
    for below in (20, 21, 40):
        half = below // 2
        assert balance(half, below) == pytest.approx(1.292, abs=5e-4)
        assert balance(half - 1, below) == pytest.approx(0.732, abs=5e-4)
        assert balance(half + 17, below) == pytest.approx(2)
        assert balance(half - 17, below) == pytest.approx(0.5)


def test_check_one_epoch_ahead_has_no_targets_on_the_way():
    assert on_the_way(20, 1, "agg") == on_the_way(20, 1, "adaptive") == on_the_way(20, 3, "none") == []


def test_check_the_last_stretch_is_longer_when_steps_do_not_divide():
    # N = 11, M = 3: after steps 3 and 6, so that 5 are left
    assert on_the_way(11, 3, "agg") == [(1, 3, 1.0), (2, 6, 1.0)]
    assert on_the_way(11, 4, "adaptive") == [(1, 2, 0.25), (2, 4, 0.5), (3, 6, 0.75)]


class Constant(nn.Module):
    """Logits whose mean has the gradient ``images`` in the weights, wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return images @ self.weight


@pytest.mark.parametrize("mode", ["full", "adjoint"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_check_momentum_has_its_closed_form_for_a_constant_gradient(mode, scale):
    # theta_N = theta_0 - alpha g sum_{i<N} (1 - mu^{i+1}) / (1 - mu); a loss scale multiplies g
    slope, start, target, rate, mu, steps = randn(3), randn(3, seed=1), randn(3, seed=2), 0.1, 0.9, 5
    reach = sum((1 - mu ** (i + 1)) / (1 - mu) for i in range(steps))
    due = trajectory_distance(start - rate * scale * slope * reach, start, target)
    segment = Segment(start, {-1: (target, 1.0)}, momentum=mu, loss_scale=scale)
    found = unrolled_loss(
        Constant(),
        segment,
        Batches(lambda i: (slope[None], torch.zeros(1)), []),
        torch.tensor(rate, dtype=torch.float64),
        steps,
        mode=mode,
        loss=lambda out, _: out.mean(),
    )
    torch.testing.assert_close(found, due)


def test_check_a_student_on_the_expert_on_its_way_pays_nothing_there():
    # constant gradient 1, rate 0.1: after 2 of 4 steps at start - 0.2
    one, start = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    met, last = start - 0.2, start - 1.0
    values = []
    for targets in ({2: (met, 1.0), -1: (last, 1.0)}, {-1: (last, 1.0)}, {2: (met - 0.1, 1.0), -1: (last, 1.0)}):
        values.append(
            unrolled_loss(
                Constant(),
                Segment(start, targets),
                Batches(lambda i: (one[None], torch.zeros(1)), []),
                torch.tensor(0.1, dtype=torch.float64),
                4,
                loss=lambda out, _: out.mean(),
            )
        )
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(values[2] - values[1], torch.tensor((0.1 / 0.3) ** 2, dtype=torch.float64))


def changed_segment(steps: int = 9, below: int | None = 4, **options) -> tuple[Segment, Segment]:
    network = build("convnet2-w4", 1, 8, 3, generator(0))
    path = [flat_weights(network) + e for e in range(6)]
    run = SimpleNamespace(
        trajectories=SimpleNamespace(weights=lambda expert, epoch: path[epoch]),
        generator=lambda *key: generator(0, *key),
    )
    segment = Segment(path[1], {-1: (path[4], 1.0)}, expert=0, epoch=1, ahead=3)
    unroll = Unroll("mtt", steps, None, "adjoint", None, below)
    plugin = Smooth(**{**OFF, **options})
    return segment, plugin.ddcore_segment(segment, unroll, network, Task("distil", "t", 9), Progress(2, 9), run)


def test_check_all_switches_off_leave_the_segment_as_it_is():
    before, after = changed_segment()
    assert after.start is before.start
    assert attrs.asdict(after, recurse=False) == attrs.asdict(before, recurse=False)


def test_each_switch_changes_its_own_part_of_the_segment():
    before, after = changed_segment(intermediate="adaptive")
    assert {k: round(w, 4) for k, (_, w) in after.targets.items()} == {3: 0.3333, 6: 0.6667, -1: 1.0}
    torch.testing.assert_close(after.targets[3][0], before.start + 1)
    torch.testing.assert_close(after.targets[6][0], before.start + 2)
    assert changed_segment(student_momentum=0.9)[1].momentum == 0.9
    assert changed_segment(balance=True)[1].loss_scale == balance(1, 4)
    before, after = changed_segment(perturb=1.0)
    assert not torch.equal(after.start, before.start) and after.targets == before.targets


def test_fewer_steps_than_epochs_are_refused_with_the_way_out():
    with pytest.raises(OptionError, match="raise --mtt.student-steps to 3"):
        changed_segment(steps=2, intermediate="agg")
    with pytest.raises(OptionError, match="--smooth.no-balance"):
        changed_segment(below=None, balance=True)
    changed_segment(steps=2, below=None)


# The images


def test_kmeans_finds_blobs_and_each_centre_is_the_mean_of_its_points():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]], dtype=torch.float64)
    points = centres.repeat(20, 1) + 0.1 * randn(60, 2)
    found = kmeans(points, 3, generator(0))
    due = torch.stack([points[k::3].mean(0) for k in range(3)])
    order = torch.cdist(due, found).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    torch.testing.assert_close(found[order], due)


def test_kmeans_never_grows_the_distances_and_ends_where_no_point_moves():
    points = randn(80, 3)

    def spread(centres: Tensor) -> float:
        return torch.cdist(points, centres).amin(1).square().sum().item()

    spreads = [spread(kmeans(points, 6, generator(1), rounds)) for rounds in range(8)]
    assert all(after <= before + 1e-12 for before, after in zip(spreads, spreads[1:], strict=False))
    found = kmeans(points, 6, generator(1))
    nearest = torch.cdist(points, found).argmin(1)
    for k in range(6):
        torch.testing.assert_close(found[k], points[nearest == k].mean(0))


def test_as_many_centres_as_points_are_the_points():
    points = randn(7, 2)
    found = kmeans(points, 7, generator(3))
    assert sorted(nearest_distinct(points, found).tolist()) == list(range(7))
    torch.testing.assert_close(found.sort(0).values, points.sort(0).values)


def test_check_as_many_distinct_images_as_asked_for_even_of_equal_points():
    points = torch.zeros(6, 2, dtype=torch.float64)
    assert sorted(nearest_distinct(points, kmeans(points, 4, generator(0))).tolist()) == [0, 1, 2, 3]
    points = randn(50, 2)
    for count in (1, 3, 12, 50):
        centres = kmeans(points, count, generator(count))
        assert len(centres) == count == len(set(map(tuple, centres.tolist())))
        assert len(set(nearest_distinct(points, centres).tolist())) == count


def test_more_centres_than_points_are_refused():
    with pytest.raises(ValueError, match="3 different points asked of 2"):
        nearest_distinct(randn(2, 2), randn(3, 2))


def test_the_same_generator_gives_the_same_centres():
    points = randn(40, 3)
    assert torch.equal(kmeans(points, 5, generator(9)), kmeans(points, 5, generator(9)))


@pytest.mark.parametrize(
    "wrong", [{"ramp_epochs": -1}, {"penalty": -1.0}, {"perturb": -1.0}, {"student_momentum": 1.0}]
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Smooth(**wrong)


def test_experts_know_ramp_and_penalty_and_not_the_student():
    assert Smooth(**OFF).expert_options() is None
    assert Smooth(perturb=0.0).expert_options() == Smooth(intermediate="none").expert_options()
    assert Smooth(penalty=1.0).expert_options() != Smooth().expert_options() != Smooth(ramp_epochs=5).expert_options()
