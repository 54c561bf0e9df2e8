"""Tiles beside loops over pixels, gradients, and what a run shows, stores and reads back."""

import pytest
import torch
from ddcore_idc import decoded, scales, shown
from torch.nn import functional as F

from ddcore import Batch
from ddcore.composing.selection import select, setup_from
from ddcore.images import formed, tile_count, tiled
from ddcore.runs import assembly
from ddcore.runs.cutting import distillation_task
from ddcore.runs.distil import assemble, distil
from ddcore.runs.loop import begin
from ddcore.runs.run import Run
from ddcore.sets import load_artifact
from ddcore.storage.places import Place
from ddcore.storage.progress import Reporter
from ddcore.testing import ddcore_cli  # noqa: F401  fixture


def images(count=3, size=8, channels=2):
    made = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return made.requires_grad_()


def up(tile, size):
    """Bilinear up-sampling of one channel (s, s), corners not aligned, pixel by pixel."""
    side = len(tile)
    made = torch.empty(size, size, dtype=tile.dtype)
    for i in range(size):
        for j in range(size):
            y, x = (max(0.0, (k + 0.5) * side / size - 0.5) for k in (i, j))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, side - 1), min(x0 + 1, side - 1)
            a, b = y - y0, x - x0
            made[i, j] = (1 - a) * ((1 - b) * tile[y0, x0] + b * tile[y0, x1]) + a * (
                (1 - b) * tile[y1, x0] + b * tile[y1, x1]
            )
    return made


def slowly(image, factor, fill):
    """Every sample of one image (C, H, H), by loops."""
    channels, size, _ = image.shape
    side = -(-size // factor)
    whole = torch.full((channels, side * factor, side * factor), fill, dtype=image.dtype)
    whole[:, :size, :size] = image
    return [
        torch.stack([up(whole[c, i * side : (i + 1) * side, j * side : (j + 1) * side], size) for c in range(channels)])
        for i in range(factor)
        for j in range(factor)
    ]


@pytest.mark.parametrize(
    ("size", "factor", "formation"), [(8, 2, "single"), (8, 3, "single"), (7, 2, "multi"), (8, 3, "multi")]
)
def test_samples_are_tiles_up_sampled_pixel_by_pixel(size, factor, formation):
    given = images(size=size)
    due = torch.stack([s for image in given.detach() for f in scales(factor, formation) for s in slowly(image, f, 0.5)])
    assert torch.allclose(decoded(given, factor, formation), due, rtol=0, atol=1e-14)
    assert len(due) == 3 * tile_count(scales(factor, formation))


def test_one_tile_is_the_image_itself():
    assert torch.equal(decoded(images(), 1), images()) and torch.equal(decoded(images(), 1, "multi"), images())


def test_gradients_reach_every_stored_pixel():
    given = images(count=1, size=5, channels=1)
    assert torch.autograd.gradcheck(lambda x: decoded(x, 2, "multi"), (given,))
    # Bilinear weights of a sample sum to 1, so all gradients of the samples' sum add up to their number of pixels.
    (gradient,) = torch.autograd.grad(decoded(images(size=8), 2).sum(), (held := images(size=8)), allow_unused=True)
    assert gradient is None
    (gradient,) = torch.autograd.grad(decoded(held, 2).sum(), held)
    assert (gradient > 0).all() and float(gradient.sum()) == pytest.approx(decoded(held, 2).numel())


def test_a_start_is_real_images_shrunk_in_the_order_in_which_they_are_read():
    flat = torch.arange(8.0)[:, None, None, None].expand(8, 3, 9, 9).unflatten(0, (2, 4))
    made = formed(flat, 2)
    assert made.shape == (2, 3, 9, 9) and made[0, 0, 0, 0] == 0 and made[0, 0, 0, 8] == 1 and made[0, 0, 8, 0] == 2
    even = torch.arange(8.0)[:, None, None, None].expand(8, 3, 8, 8)
    assert torch.equal(tiled(formed(even.unflatten(0, (2, 4)), 2), [2]), even)
    # nearest neighbours take every f-th pixel
    image = torch.rand(1, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(formed(image, 2)[0, :, :4, 4:], image[0, 1, :, ::2, ::2])
    assert torch.equal(formed(image, 2)[:, :, 4:, :4], F.interpolate(image[:, 2], size=4))


def test_targets_and_row_numbers_follow():
    rows = Batch(images(), {"class": torch.tensor([4, 5, 6])}, torch.tensor([7, 8, 9]))
    found = shown(rows, [2], 0.0)
    assert (
        found.targets["class"].tolist() == [4] * 4 + [5] * 4 + [6] * 4
        and found.index.tolist() == [7] * 4 + [8] * 4 + [9] * 4
    )
    assert torch.equal(found.inputs, tiled(rows.inputs, [2]))


# ---- in a run --------------------------------------------------------------------------------------------------------

EXPERTS = {"experts__count": 1, "experts__epochs": 4, "experts__batch": 64}
MATCHERS = {
    "dm": {},
    "dc": {"dc__outer_loops": 1, "dc__inner_epochs": 1},
    "mtt": {**EXPERTS, "mtt__student_steps": 1, "mtt__expert_epochs": 1},
    "datm": {**EXPERTS, "datm__student_steps": 1, "datm__expert_epochs": 1},
}


def run_of(tmp_path, *plugins, **more):
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    given = {"plugins": plugins, "threads": 1, "ipc": 2, "network": "convnet2-w4", "steps": 1, "eval_seeds": 1}
    given |= {"protocol": ("quick-1",), "full_epochs": 1, "cache": str(tmp_path / "cache")}
    setup = setup_from(select([*words, "--preset", "none"], {}), given | more, {})
    return Run(setup, Place.at(tmp_path / "run"))


def finished(tmp_path, *plugins, **more):
    """A run that is done, and its set."""
    setup = run_of(tmp_path, *plugins, out=str(tmp_path / "run"), **more).setup
    run = assembly.begin(setup, plan_only=False, command=[], reporter=Reporter(quiet=True))
    distil(run)
    return run, load_artifact(tmp_path / "run" / "artifact")


@pytest.mark.parametrize("matcher", MATCHERS)
def test_what_students_are_given_is_what_the_matcher_saw(matcher, tmp_path):
    run, artifact = finished(tmp_path, matcher, "idc", **MATCHERS[matcher])
    assert len(artifact) == 80 and artifact.labels.classes.tolist() == [c for c in range(10) for _ in range(8)]
    stored = artifact.tensors["pixels"]
    assert len(stored) == 20
    seen = run.view(Batch(stored, {"class": torch.arange(20)}, torch.arange(20)), "match")
    assert torch.equal(artifact.images(), seen.inputs)
    some = torch.tensor([79, 3, 3, 41])
    assert torch.equal(artifact.images(some), seen.inputs[some])


def test_learned_labels_follow_their_image(tmp_path):
    run, artifact = finished(tmp_path, "datm", "idc", **MATCHERS["datm"])
    task = distillation_task(run)
    learned = run.checkpoints.result(task.key)["labels"]
    logits = artifact.labels.tensors()["logits"]
    assert torch.equal(logits, learned.repeat_interleave(4, 0))


def test_the_loss_under_dm_is_that_of_the_samples_as_images(tmp_path):
    """Closed form: dm's loss of stored images under idc equals dm's loss, without it, of the samples themselves."""
    with_idc = run_of(tmp_path, "dm", "idc", dtype="float64", dm__batch_real=2000)
    task = distillation_task(with_idc)
    pixels = begin(task, with_idc).tensors["pixels"].detach()
    found = with_idc.matching_loss(pixels, task.classes)
    plain = run_of(tmp_path, "dm", dtype="float64", dm__batch_real=2000, ipc=8)
    due = plain.matching_loss(tiled(pixels, [2]), task.classes.repeat_interleave(4))
    assert found == pytest.approx(due, rel=1e-12)


@pytest.mark.parametrize("order", [("idc", "quantize"), ("quantize", "idc")])
def test_stored_in_levels_in_either_order(order, tmp_path):
    run, artifact = finished(tmp_path, "dm", *order)
    exact = run.checkpoints.result(distillation_task(run).key)["pixels"]
    assert len(artifact) == 80 and artifact.tensors["pixels"].dtype == torch.uint8
    assert float((artifact.images() - tiled(exact, [2])).abs().max()) < 0.02


def test_with_fyi_a_mirrored_stored_image_is_the_same_whichever_comes_first(tmp_path):
    rows = Batch(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), {}, torch.arange(2))
    one, other = (run_of(tmp_path, "dm", *pair).view(rows, "match").inputs for pair in (("idc", "fyi"), ("fyi", "idc")))
    assert len(one) == len(other) == 16
    as_sets = [sorted(tuple(x.flatten().tolist()) for x in found) for found in (one, other)]
    assert torch.allclose(torch.tensor(as_sets[0]), torch.tensor(as_sets[1]), atol=1e-6)


def test_unrolled_students_see_as_many_samples_unless_told_otherwise(tmp_path):
    for words, due in (({}, 4), ({"idc__divide_batch": False}, 16), ({"idc__factor": 3}, 1)):
        assert run_of(tmp_path, "mtt", "idc", **words).setting("student_step.batch", 16) == due


def test_a_budget_counts_stored_images_and_the_labels_of_samples(tmp_path, ddcore_cli):  # noqa: F811
    words = [
        "--dataset=digits",
        "--bytes=9kB",
        "--steps=1",
        "--network=convnet2-w4",
        "--protocol=quick-1",
        "--preset=none",
    ]
    words += [
        "--eval-seeds=1",
        "--full-epochs=1",
        "--threads=1",
        "--plugin=dm",
        "--plugin=idc",
        f"--out={tmp_path / 'run'}",
    ]
    answer = ddcore_cli("run", *words)
    assert answer.code == 0, answer.err
    artifact = load_artifact(tmp_path / "run" / "artifact")
    stored = len(artifact.tensors["pixels"])
    assert len(artifact) == 4 * stored and 7500 < artifact.nbytes["total"] <= 9000
    assert f"buy {stored // 10} images per class that hold {4 * stored // 10} samples" in answer.err
    assert f"{stored} stored images hold {4 * stored} samples" in answer.err


def test_one_tile_a_side_changes_nothing(tmp_path):
    run = run_of(tmp_path, "dm", "idc", idc__factor=1, init="real")
    with_, without = (assemble_of(r) for r in (run, run_of(tmp_path / "plain", "dm", init="real")))
    assert with_.decoder == without.decoder and torch.equal(with_.tensors["pixels"], without.tensors["pixels"])


def assemble_of(run):
    tasks = [distillation_task(run)]
    run.map(tasks)
    return assemble(run, tasks)
