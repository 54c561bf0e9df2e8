"""The fixtures that plugin authors get: always the same data, a teacher that is right, the command line in this process."""

import torch

from ddcore.testing import (  # noqa: F401  fixtures
    PROBE,
    ddcore_cli,
    distilled,
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
