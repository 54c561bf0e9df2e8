"""CDA under sre2l: off is the matcher bit for bit, on begins with whole images, and where nothing is cropped it says so."""

import pytest
import torch
from ddcore_cda import crop_scale

from ddcore.api.types import Progress
from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.run import Run
from ddcore.storage.places import Place, load_tensors

BASE = ["--plugin", "sre2l", "--sre2l.rate", "0.1", "--dataset", "digits", "--ipc", "2", "--steps", "4"]
BASE += ["--network", "convnet2-bn-w8", "--teachers.epochs", "3", "--labels", "hard", "--preset", "none"]
BASE += ["--protocol", "quick-1", "--eval-seeds", "1", "--full-epochs", "1", "--threads", "1"]
CROPPED = ["--sre2l.crop", "resized"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the teacher of all these runs lies."""
    return tmp_path_factory.mktemp("cda") / "cache"


@pytest.fixture
def pixels(tmp_path, cache):
    """What a run with these words distils."""

    def of(*words: str, steps: int = 4) -> torch.Tensor:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        command = [*BASE, *CROPPED, *words, "--steps", str(steps), "--cache", str(cache), "--out", str(place)]
        assert invoke(["run", *command]) == 0
        return load_tensors(Place.at(place) / "artifact" / "images.safetensors")["pixels"]

    return of


def test_check_milestone_0_is_sre2l_bit_for_bit_and_the_default_is_not(pixels):
    plain = pixels()
    assert torch.equal(plain, pixels("--plugin", "cda", "--cda.milestone", "0"))
    assert not torch.equal(plain, pixels("--plugin", "cda"))


def test_modes_and_milestones_differ(pixels):
    found = [pixels("--plugin", "cda", *w) for w in ([], ["--cda.mode", "linear"], ["--cda.mode", "step"])]
    found.append(pixels("--plugin", "cda", "--cda.milestone", "0.5"))
    for at, one in enumerate(found):
        assert all(not torch.equal(one, other) for other in found[at + 1 :])


def test_it_composes_with_dwa_in_either_order(pixels):
    together = pixels("--plugin", "cda", "--plugin", "dwa", "--init", "noise")
    assert torch.equal(together, pixels("--plugin", "dwa", "--plugin", "cda", "--init", "noise"))
    assert not torch.equal(together, pixels("--plugin", "cda"))
    assert not torch.equal(together, pixels("--plugin", "dwa", "--init", "noise"))
    off = pixels("--plugin", "cda", "--plugin", "dwa", "--dwa.rho", "0", "--dwa.variance", "1", "--init", "noise")
    assert torch.equal(off, pixels("--plugin", "cda"))


def opened(tmp_path, cache, *plugins: str, **given) -> Run:
    words = [w for p in ("sre2l", *plugins) for w in ("--plugin", p)]
    shared = {"dataset": "digits", "ipc": 1, "network": "convnet2-bn-w8", "threads": 1, "cache": str(cache)}
    shared |= {"teachers__epochs": 3, "sre2l__crop": "resized", "steps": 40, "dtype": "float64"}
    setup = setup_from(select([*words, "--preset", "none"], {}), {**shared, **given}, {})
    return Run(setup, Place.at(tmp_path / "run"))


def resamples(run: Run, step: int) -> bool:
    """Whether the view of a step makes pixel values that the images do not have: mirrors and rolls do not."""
    task = distillation_tasks(run)[0]
    images = torch.rand(len(task.classes), 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = run.matcher.viewed(images, task, step, run).inputs
    return not torch.equal(seen.flatten(1).sort().values, images.flatten(1).sort().values)


def test_the_first_steps_see_whole_images_and_the_last_ones_small_crops(tmp_path, cache):
    plain, curriculum = opened(tmp_path, cache), opened(tmp_path, cache, "cda")
    assert [resamples(plain, step) for step in range(3)] == [True] * 3
    assert [resamples(curriculum, step) for step in range(3)] == [False] * 3
    assert all(resamples(curriculum, step) for step in range(35, 40))


def test_check_past_the_milestone_the_run_is_sre2ls(tmp_path, cache):
    run = opened(tmp_path, cache, "cda", cda__milestone=0.5)
    found = [run.setting("match.crop_scale", 0.08, Progress(step, 40)) for step in range(40)]
    assert found[:20] == [crop_scale(step, 20)[0] for step in range(20)]
    assert found[20:] == [0.08] * 20


def test_where_the_matcher_does_not_crop_a_run_stops_and_says_so(tmp_path, cache, capsys):
    command = [*BASE, "--plugin", "cda", "--cache", str(cache), "--out", str(tmp_path / "run")]
    assert invoke(["run", *command]) != 0
    assert "'cda' (ddcore-cda 0.1.0) was asked nothing in the first step" in capsys.readouterr().err
