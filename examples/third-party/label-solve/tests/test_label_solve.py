"""Label Solve: by hand, its limit, its optimality against small changes, a slow twin, and the contract of every plugin."""

import torch
from label_solve import centred, predictor, solve_labels

from ddcore.testing import PROBE, check_plugin


def cloud(count: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_support_point_by_hand():
    # features 2 and (1, 3), D = 1, no ridge: A = K_ts / K_ss = (2, 6) / 4 = (0.5, 1.5)
    support, target = torch.tensor([[2.0]]).double(), torch.tensor([[1.0], [3.0]]).double()
    torch.testing.assert_close(predictor(support, target, 0.0), torch.tensor([[0.5], [1.5]]).double())
    # targets (1, 3) are predicted exactly by y = 2
    torch.testing.assert_close(solve_labels(support, target, target, 0.0), torch.tensor([[2.0]]).double())


def test_support_points_that_are_the_targets_get_their_labels():
    points, wanted = cloud(6, 20, 0), cloud(6, 3, 1)
    torch.testing.assert_close(solve_labels(points, points, wanted, 1e-12), wanted, rtol=1e-6, atol=1e-6)


def test_no_other_labels_predict_better():
    support, target, wanted = cloud(4, 10, 0), cloud(30, 10, 1), cloud(30, 2, 2)
    best = solve_labels(support, target, wanted, 0.01)

    def error(labels: torch.Tensor) -> float:
        return float((predictor(support, target, 0.01) @ labels - wanted).square().sum())

    assert all(error(best) <= error(best + 1e-3 * cloud(4, 2, seed)) for seed in range(20))


def test_the_predictor_equals_the_written_out_inverse():
    support, target = cloud(5, 7, 0), cloud(3, 7, 1)
    kernel = support @ support.T / 7
    inverse = torch.linalg.inv(kernel + 0.1 * kernel.diagonal().mean() * torch.eye(5).double())
    torch.testing.assert_close(predictor(support, target, 0.1), (target @ support.T / 7) @ inverse)


def test_the_order_of_support_points_does_not_matter():
    support, target, wanted = cloud(4, 10, 0), cloud(30, 10, 1), cloud(30, 2, 2)
    order = torch.tensor([2, 0, 3, 1])
    turned = solve_labels(support[order], target, wanted, 0.01)
    torch.testing.assert_close(turned, solve_labels(support, target, wanted, 0.01)[order])


def test_centred_vectors_sum_to_zero():
    assert centred(torch.tensor([1]), 4).tolist() == [[-0.25, 0.75, -0.25, -0.25]]


def test_solved_labels_of_real_images_mostly_name_their_class(ddcore_cli, tmp_path):
    words = [*PROBE, "--plugin", "label-solve", "--labels", "label-solve", "--steps", "0"]
    done = ddcore_cli("run", *words, *ddcore_cli.tiny, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    from ddcore import load_artifact

    labels = load_artifact(tmp_path / "run" / "artifact").labels
    assert (labels.logits.argmax(1) == labels.classes).float().mean() > 0.8
    assert "soft" in {row["labels"] for row in done.json["rows"] if row["set"] == "random"}


def test_the_contract():
    check_plugin("label-solve")
