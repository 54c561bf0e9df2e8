"""DWA under sre2l: every task begins from the same teacher, whatever ran before or was stopped, and off it is the matcher."""

from contextlib import suppress
from hashlib import sha256

import pytest
import torch
from torch import Tensor

from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.errors import Interrupted
from ddcore.networks.unroll import flat_weights
from ddcore.runs.assembly import claim
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.loop import begin
from ddcore.runs.opening import open_run
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.storage.places import Place, load_tensors

BASE = ["--plugin", "sre2l", "--sre2l.rate", "0.1", "--dataset", "digits", "--ipc", "2", "--steps", "4"]
BASE += ["--network", "convnet2-bn-w8", "--teachers.epochs", "3", "--labels", "hard", "--preset", "none"]
BASE += ["--protocol", "quick-1", "--eval-seeds", "1", "--full-epochs", "1", "--threads", "1"]
GIVEN = {"dataset": "digits", "ipc": 2, "network": "convnet2-bn-w8", "threads": 1, "steps": 3, "teachers__epochs": 3}
GIVEN |= {"sre2l__block": 4, "sre2l__rate": 0.1, "dwa__rho": 0.2, "dwa__ascent_steps": 3}
RHO = GIVEN["dwa__rho"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the teachers of all these runs lie."""
    return tmp_path_factory.mktemp("dwa") / "cache"


def opened(cache, place, **given) -> Run:
    words = ["--plugin", "sre2l", "--plugin", "dwa", "--preset", "none"]
    setup = setup_from(select(words, {}), {**GIVEN, "cache": str(cache), **given}, {})
    return Run(setup, Place.at(place))


def written(cache, place, **given) -> Run:
    """A run that other processes, and later days, can open."""
    run = opened(cache, place, **given)
    claim(run.place)
    write_record(run, ["ddcore", "run"])
    return run


def adapted(run: Run, number: int) -> Tensor:
    """Weights of the teacher that a task sees."""
    (vote,) = begin(distillation_tasks(run)[number], run).fixed["votes"]
    return flat_weights(vote.network)


def digest(run: Run) -> str:
    tensors = run.teachers.network(0).state_dict().values()
    return sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def test_check_every_block_and_slot_begins_from_the_teacher_itself(cache, tmp_path):
    run = opened(cache, tmp_path / "run")
    count = len(distillation_tasks(run))
    assert count == 6  # blocks of 4, 4 and 2 of ten classes, two slots
    before, start = digest(run), flat_weights(run.teachers.network(0))
    in_order = [adapted(run, number) for number in range(count)]
    assert all(float((w - start).norm()) <= RHO * 1.0001 for w in in_order)  # nothing adds up from block to block
    for number in reversed(range(count)):
        assert torch.equal(in_order[number], adapted(opened(cache, tmp_path / "fresh"), number))
    assert digest(run) == before


def test_check_tasks_of_other_images_see_other_teachers(cache, tmp_path):
    run = opened(cache, tmp_path / "run")
    start = flat_weights(run.teachers.network(0))
    moves = torch.stack([adapted(run, number) - start for number in range(6)])
    cosines = torch.nn.functional.cosine_similarity(moves[:, None], moves[None], -1)
    assert float((cosines - torch.eye(6)).abs().max()) < 0.999


def results(run: Run) -> list[dict[str, Tensor]]:
    return run.map(distillation_tasks(run))


def test_check_the_teacher_its_file_and_the_labellers_stay_as_they_were(cache, tmp_path):
    run = written(cache, tmp_path / "run")
    before = digest(run)
    files = {p: sha256(p.read_bytes()).hexdigest() for p in (cache / "teachers").rglob("*.safetensors")}
    results(run)
    assert digest(run) == before == digest(opened(cache, tmp_path / "next"))
    assert files and all(sha256(p.read_bytes()).hexdigest() == known for p, known in files.items())
    assert [vote.network for vote in run.votes("label")] == [run.teachers.network(0)]


def test_check_a_task_that_was_stopped_goes_on_with_the_teacher_it_had(cache, tmp_path):
    whole = results(written(cache, tmp_path / "whole"))
    run = written(cache, tmp_path / "pieces")
    for _ in range(GIVEN["steps"] * 6 + 6):
        run.stopping = True
        with suppress(Interrupted):
            run.map(distillation_tasks(run))
            break
        run = open_run(run.place.url)
    assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(whole, results(run), strict=True))


def test_processes_that_share_the_tasks_give_the_same_bits(cache, tmp_path):
    here = results(written(cache, tmp_path / "here"))
    there = results(written(cache, tmp_path / "there", jobs=2))
    assert all(torch.equal(a["pixels"], b["pixels"]) for a, b in zip(here, there, strict=True))


def test_every_member_of_a_committee_moves(cache, tmp_path):
    run = opened(cache, tmp_path / "run", teachers__networks=("convnet2-bn-w8", "convnet2-bn-w4"))
    votes = begin(distillation_tasks(run)[0], run).fixed["votes"]
    for number, vote in enumerate(votes):
        move = flat_weights(vote.network) - flat_weights(run.teachers.network(number))
        assert 0.5 * RHO < float(move.norm()) <= RHO * 1.0001
    assert [vote.weight for vote in votes] == [0.5, 0.5]


def test_the_first_view_is_what_the_teacher_unlearns(cache, tmp_path):
    run = opened(cache, tmp_path / "run", sre2l__block=100)
    task = distillation_tasks(run)[0]
    view = run.matcher.viewed(run.initialize(task.classes, task), task, 0, run)
    (vote,) = begin(task, run).fixed["votes"]
    losses = [torch.nn.functional.cross_entropy(n(view.inputs), task.classes) for n in (*teachers(run), vote.network)]
    assert losses[1] > losses[0]


def teachers(run: Run) -> list[torch.nn.Module]:
    return [run.teachers.network(0)]


@pytest.fixture
def pixels(tmp_path, cache):
    """What a run with these words distils."""

    def of(*words: str) -> Tensor:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        assert invoke(["run", *BASE, *words, "--cache", str(cache), "--out", str(place)]) == 0
        return load_tensors(Place.at(place) / "artifact" / "images.safetensors")["pixels"]

    return of


def test_check_switched_off_it_is_sre2l_bit_for_bit(pixels):
    off = ["--plugin", "dwa", "--dwa.variance", "1"]
    noise, real = pixels(), pixels("--init", "real")
    assert torch.equal(noise, pixels(*off, "--dwa.rho", "0", "--init", "noise"))
    assert torch.equal(noise, pixels(*off, "--dwa.ascent-steps", "0", "--init", "noise"))
    assert torch.equal(real, pixels(*off, "--dwa.rho", "0"))
    assert not torch.equal(noise, real)


def test_each_part_changes_the_result_on_its_own(pixels):
    real = pixels("--init", "real")
    rho, variance = pixels("--plugin", "dwa", "--dwa.variance", "1"), pixels("--plugin", "dwa", "--dwa.rho", "0")
    both = pixels("--plugin", "dwa")
    found = [real, rho, variance, both]
    for at, one in enumerate(found):
        assert all(not torch.equal(one, other) for other in found[at + 1 :])
