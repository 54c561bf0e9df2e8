"""The fixtures that plugin authors get: always the same data, a teacher that is right, the command line in this process."""

import pytest
import torch
from torch.nn import functional as F

from ddcore.networks.batch_statistics import inversion_loss
from ddcore.networks.zoo import build
from ddcore.testing import (  # noqa: F401  fixtures
    PROBE,
    check_whole_steps,
    ddcore_cli,
    descended,
    distilled,
    entropy_and_statistics,
    fake_teacher,
    tiny_graphs,
    tiny_images,
    tiny_run,
)


def test_tiny_images_have_three_classes_of_8x8_colour(tiny_images):  # noqa: F811
    assert tiny_images.counts() == [12, 12, 12] and (tiny_images.channels, tiny_images.size) == (3, 8)


def test_tiny_graphs_are_rings_and_stars_with_both_directions_of_every_edge(tiny_graphs):  # noqa: F811
    assert [g.label for g in tiny_graphs] == [0, 1] * 6
    for graph in tiny_graphs:
        pairs = set(map(tuple, graph.edge_index.T.tolist()))
        assert pairs == {(b, a) for a, b in pairs} and len(pairs) == graph.edge_index.shape[1]
        degrees = graph.x[:, 1].long().tolist()
        nodes = len(degrees)
        assert degrees == [2] * nodes if graph.label == 0 else sorted(degrees) == [1] * (nodes - 1) + [nodes - 1]


def test_the_fake_teacher_is_right_on_train_and_test_and_differentiable(fake_teacher, tiny_run):  # noqa: F811
    for part in (tiny_run().real.train, tiny_run().real.test):
        images = part.inputs(torch.arange(len(part)))
        assert torch.equal(fake_teacher(images).argmax(1), part.labels)
    images = images[:2].clone().requires_grad_()
    fake_teacher(images).sum().backward()
    assert images.grad.abs().sum() > 0 and fake_teacher.embed(images).shape == (2, 192)


def test_a_tiny_run_distils_with_the_probe_or_with_the_matcher_named(tiny_run):  # noqa: F811
    run = tiny_run(steps=2, ipc=1)
    assert run.plan.matcher == "probe"
    first, again = distilled(run), distilled(tiny_run(steps=2, ipc=1))
    assert first["pixels"].shape == (3, 3, 8, 8) and torch.equal(first["pixels"], again["pixels"])


def test_the_command_line_answers_with_code_json_and_what_was_printed(ddcore_cli, tmp_path):  # noqa: F811
    done = ddcore_cli("run", *PROBE, *ddcore_cli.tiny, "--steps", "1", "--out", tmp_path / "run", "--json")
    assert done.code == 0 and {row["set"] for row in done.json["rows"]} >= {"distilled", "random"}
    refused = ddcore_cli("run", "--plugin", "nothing-here")
    assert refused.code == 2 and refused.json is None and "nothing-here" in refused.err


def probes_loop(run, task, tensors, *, rate=0.5, factor=4.5, steps=3, moves=True):
    """The contract kit's probe on its own: three phases of weight 1.5 that all see the stored images."""
    pixels = tensors["pixels"]
    sgd = torch.optim.SGD([pixels], lr=rate)
    for step in range(steps):
        loss = 0.0
        for c in range(3):
            real = run.real.sample(c, 4, run.generator("probe", "real", step, c))
            loss = loss + factor * (pixels[task.classes == c].mean(0) - real.mean(0)).square().mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        yield loss.item() if moves else None


def test_whole_steps_that_are_those_of_the_usual_loop_end_in_what_is_distilled(tiny_run):  # noqa: F811
    learned = check_whole_steps(tiny_run(steps=3, dtype="float64"), probes_loop)
    assert torch.equal(learned["pixels"], distilled(tiny_run(steps=3, dtype="float64"))["pixels"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"rate": 0.5001}, "step 0: 'pixels' moved otherwise than under the usual loop"),
        ({"factor": 4.5001}, "step 0: loss "),
        ({"moves": False}, "step 0: the run's loss is .*, the usual loop's None"),
        ({"steps": 2}, "the usual loop made 2 of 3 steps"),
    ],
)
def test_whole_steps_of_another_loop_are_told_apart_by_step_and_tensor(other, said, tiny_run):  # noqa: F811
    with pytest.raises(AssertionError, match=said):
        check_whole_steps(tiny_run(steps=3, dtype="float64"), lambda *at: probes_loop(*at, **other))


def network_and_images(name):
    network = build(name, 3, 8, 3, torch.Generator().manual_seed(0)).double()
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return network, images, torch.arange(6) % 3


def test_a_descent_makes_the_moves_of_torch_sgd_and_the_rate_has_a_gradient():
    network, images, classes = network_and_images("convnet2-w4")
    start = torch.cat([p.detach().reshape(-1) for p in network.parameters()])
    rate = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    landed = descended(network, start, [(images, classes), (images[:2], classes[:2])], rate)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    for count in (6, 2):
        sgd.zero_grad()
        F.cross_entropy(network(images[:count]), classes[:count]).backward()
        sgd.step()
    torch.testing.assert_close(landed.detach(), torch.cat([p.detach().reshape(-1) for p in network.parameters()]))
    assert torch.autograd.grad(landed.square().sum(), rate)[0] != 0


def test_entropy_and_statistics_written_out_equal_the_cores_and_leave_no_hook_behind():
    network, images, classes = network_and_images("convnet2-bn-w4")
    network(images + 1)
    for given in ({"bn": 0.5}, {"bn": 0.1, "first": 2.0, "variance": 7.0}):
        found = entropy_and_statistics(network.eval(), images, classes, **given)
        torch.testing.assert_close(found, inversion_loss(network, images, classes, **given))
    assert not any(module._forward_pre_hooks for module in network.modules())
