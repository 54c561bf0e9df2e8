"""FYI under the matchers: the closed form with dm, and a loss that does not see which stored images were mirrored."""

import pytest
import torch
from ddcore_fyi import mirrored

from ddcore.composing.selection import select, setup_from
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin
from ddcore.runs.run import Run
from ddcore.storage.places import Place

EXPERTS = {"experts__count": 1, "experts__epochs": 3, "experts__batch": 64}
OPTIONS = {
    "dm": {"dm__batch_real": 2000},
    "dm-bn": {"dm__batch_real": 2000, "network": "convnet2-bn-w4"},
    "mtt": {**EXPERTS, "mtt__student_steps": 2, "mtt__expert_epochs": 1},
}


def losses(tmp_path, matcher: str, *, fyi: bool, mirror: bool) -> float:
    plugins = (matcher.partition("-")[0], *(["fyi"] if fyi else []))
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    given = {"plugins": plugins, "threads": 1, "ipc": 2, "network": "convnet2-w4", "steps": 1, "dtype": "float64"}
    given |= {k: v for k, v in OPTIONS[matcher].items() if v is not None} | {"cache": str(tmp_path / "cache")}
    given |= {"fyi__halve_batch": False} if fyi else {}
    run = Run(setup_from(select([*words, "--preset", "none"], {}), given, {}), Place.at(tmp_path / f"{fyi}{mirror}"))
    task = distillation_task(run)
    learn = begin(task, run)
    if mirror:
        with torch.no_grad():
            learn.tensors["pixels"][::3] = mirrored(learn.tensors["pixels"][::3])
    found = run.hooks.one("ddcore_matching_loss", task=task, step=0, learn=learn, run=run)
    return sum(float(loss.value.detach()) for loss in found)


@pytest.mark.parametrize("matcher", OPTIONS)
@pytest.mark.filterwarnings("ignore:fyi assumes")
def test_mirroring_some_stored_images_changes_the_loss_only_without_fyi(matcher, tmp_path):
    base = [losses(tmp_path, matcher, fyi=False, mirror=m) for m in (False, True)]
    doubled = [losses(tmp_path, matcher, fyi=True, mirror=m) for m in (False, True)]
    assert doubled[0] == pytest.approx(doubled[1], rel=1e-9)
    assert base[0] != pytest.approx(base[1], rel=1e-4)
    assert doubled[0] != pytest.approx(base[0], rel=1e-4)
