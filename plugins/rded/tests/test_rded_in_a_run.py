"""RDED through ``ddcore run``: alone, before dm, slot by slot, side by side; what it leaves alone, keeps and refuses."""

import hashlib
import itertools
import json

import attrs
import pytest
import torch
from ddcore_rded import RDED

from ddcore import load_artifact
from ddcore.api.types import Task
from ddcore.cli.app import invoke
from ddcore.composing.presets import choose_preset, presets_of
from ddcore.composing.selection import select, setup_from
from ddcore.errors import InputError, OptionError
from ddcore.images.patches import crop_boxes, cut, patch_losses, stitch, unstitch
from ddcore.runs.cutting import distillation_task, distillation_tasks
from ddcore.runs.loop import begin
from ddcore.runs.opening import open_run
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import check_plugin
from ddcore.training.protocols import protocol

TEACHERS = {"teachers__epochs": 4, "teachers__rate": 0.2, "teachers__batch": 64}
WORDS = [
    "--dataset",
    "digits",
    "--network",
    "convnet2-w4",
    "--threads",
    "1",
    "--eval-seeds",
    "1",
    "--protocol",
    "quick-1",
    "--full-epochs",
    "1",
]
WORDS += [
    "--teachers.epochs",
    "4",
    "--teachers.rate",
    "0.2",
    "--teachers.batch",
    "64",
    "--preset",
    "none",
    "--labels",
    "hard",
]

TASK = Task("distil", "test", 0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache: str, place: object, *plugins: str, **given: object) -> Run:
    plugins = plugins or ("rded",)
    words = [word for plugin in plugins for word in ("--plugin", plugin)]
    shared = {"plugins": plugins, "cache": cache, "threads": 1, "ipc": 3, "network": "convnet2-w4", "labels": "hard"}
    selection = select([*words, "--preset", "none"], {})
    return Run(setup_from(selection, {**shared, **TEACHERS, **given}, {}), Place.at(place))


def images(run: Run, classes: torch.Tensor | None = None, slot: int = 0) -> torch.Tensor:
    classes = torch.arange(10).repeat_interleave(3) if classes is None else classes
    return run.initialize(classes, Task("distil", "test", 0, slot=slot, classes=classes), "rded")


def hashed(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- what is made ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_images_are_stitched_of_patches_of_their_class_each_of_another_image(cache, tmp_path, factor):
    run = opened(cache, tmp_path / "run", rded__factor=factor)
    found = images(run)
    for cls in (0, 4, 9):
        chosen = RDED(factor=factor).selection(cls, 3, TASK, run)
        assert len(set(chosen.rows.tolist())) == 3 * factor**2 and (run.real.train.labels[chosen.rows] == cls).all()
        patches = cut(run.real.train.inputs(chosen.rows), chosen.boxes[:, None], 8 // factor)[:, 0]
        own = found[3 * cls : 3 * cls + 3]
        assert torch.equal(own, stitch(patches, 3, 8)) and torch.equal(unstitch(own, factor), patches)


def test_the_patches_kept_are_the_likeliest_of_the_pool_by_the_teacher(cache, tmp_path):
    run = opened(cache, tmp_path / "run", rded__crops=2, rded__pool=20, dtype="float64")
    kept = RDED(crops=2, pool=20).selection(6, 3, TASK, run)
    rows = run.real.choose(6, 20, run.generator("rded", "pool", 0, 6))
    boxes = crop_boxes(20, 2, (8, 8), (0.08, 1.0), run.generator("rded", "crops", 0, 6))
    network = run.teachers.network(0)
    losses = {
        (row, *box): -float(
            network(cut(run.real.train.inputs(rows[i : i + 1]), boxes[i : i + 1], 8)[0]).log_softmax(1)[b, 6]
        )
        for i, row in enumerate(rows.tolist())
        for b, box in enumerate(boxes[i].tolist())
    }
    best = sorted(min(v for k, v in losses.items() if k[0] == row) for row in rows.tolist())
    torch.testing.assert_close(kept.losses, torch.tensor(best[:3], dtype=torch.float64))
    for row, box, loss in zip(kept.rows.tolist(), kept.boxes.tolist(), kept.losses.tolist(), strict=True):
        assert abs(losses[(row, *box)] - loss) < 1e-9


def test_with_one_crop_one_cell_and_a_pool_of_ipc_it_is_a_random_crop_of_random_images(cache, tmp_path):
    given = {"rded__crops": 1, "rded__factor": 1, "rded__pool": 3}
    found = images(opened(cache, tmp_path / "a", **given))
    run = opened(cache, tmp_path / "b", **given)
    for cls in range(10):
        rows = run.real.choose(cls, 3, run.generator("rded", "pool", 0, cls))
        boxes = crop_boxes(3, 1, (8, 8), (0.08, 1.0), run.generator("rded", "crops", 0, cls))
        due = cut(run.real.train.inputs(rows), boxes, 8)[:, 0]
        assert {i.numpy().tobytes() for i in found[3 * cls : 3 * cls + 3]} == {i.numpy().tobytes() for i in due}


def test_a_least_area_of_all_keeps_whole_images(cache, tmp_path):
    run = opened(cache, tmp_path / "run", rded__scale=1.0, rded__factor=1)
    chosen = RDED(scale=1.0, factor=1).selection(3, 3, TASK, run)
    assert torch.equal(images(run)[9:12], run.real.train.inputs(chosen.rows))


@pytest.mark.parametrize("crops", [1, 2, 5])
def test_however_many_crops_each_image_of_the_pool_gives_the_likeliest(cache, tmp_path, crops):
    run = opened(cache, tmp_path / "run", rded__crops=crops, rded__pool=40)
    rows = run.real.choose(8, 40, run.generator("rded", "pool", 0, 8))
    boxes = crop_boxes(40, crops, (8, 8), (0.08, 1.0), run.generator("rded", "crops", 0, 8))
    shown = cut(run.real.train.inputs(rows), boxes, 8)
    losses = patch_losses(shown, torch.full((40,), 8), [run.teachers.network(0)], [1.0], size=8)
    kept = attrs.evolve(RDED(), crops=crops, pool=40).selection(8, 40, TASK, run).losses
    torch.testing.assert_close(kept, losses.amin(1).sort().values, rtol=1e-3, atol=1e-4)


def test_picks_are_told_apart_by_the_teacher_s_loss_and_random_ones_ask_nobody(cache, tmp_path):
    found = {}
    for pick in ("realistic", "medium", "unrealistic", "random"):
        run = opened(cache, tmp_path / pick, rded__pick=pick)
        found[pick] = RDED(pick=pick).selection(5, 3, TASK, run)
    assert found["realistic"].losses.max() < found["medium"].losses.min()
    assert found["medium"].losses.max() < found["unrealistic"].losses.min()
    run = opened(str(tmp_path / "empty"), tmp_path / "again", rded__pick="random")
    assert run.plan.needs == () and len(images(run)) == 30
    assert not (tmp_path / "empty" / "teachers").exists()


def test_the_teachers_weights_count_or_only_the_first_is_asked(cache, tmp_path):
    given = {"teachers__networks": ("convnet2-bn-w4", "convnet2-bn-w6")}
    run = opened(cache, tmp_path / "a", **given)
    votes = run.votes("match")
    rows = {}
    for name, chosen in {"both": votes, "one": votes[:1], "other": votes[1:]}.items():
        own = opened(cache, tmp_path / name, **given)
        own.votes = lambda purpose, task, chosen=chosen: chosen
        rows[name] = RDED().selection(1, 30, TASK, own).rows.tolist()
    first = opened(cache, tmp_path / "first", **given)
    assert RDED(observers="first").selection(1, 30, TASK, first).rows.tolist() == rows["one"] != rows["other"]
    assert rows["both"] not in (rows["one"], rows["other"])


# ---- the same bits, and nothing else touched -------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_images_and_another_seed_others(cache, tmp_path):
    first, again = (images(opened(cache, tmp_path / name)) for name in ("a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, images(opened(cache, tmp_path / "c", seed=1)))


def test_a_class_s_images_do_not_depend_on_which_others_are_asked_for(cache, tmp_path):
    whole = images(opened(cache, tmp_path / "a"))
    some = images(opened(cache, tmp_path / "b"), torch.tensor([7, 2, 7, 7, 2, 2]))
    assert torch.equal(some, whole[[21, 6, 22, 23, 7, 8]])


def test_tasks_of_a_class_each_make_what_one_task_makes(cache, tmp_path):
    run = opened(cache, tmp_path / "a", rded__factor=2)
    tasks = distillation_tasks(run)
    assert [task.classes.unique().tolist() for task in tasks] == [[cls] for cls in range(10)]
    parts = torch.cat([begin(task, run).tensors["pixels"] for task in tasks])
    other = opened(cache, tmp_path / "b", rded__factor=2)
    assert torch.equal(parts, begin(distillation_task(other), other).tensors["pixels"])


def test_slots_of_an_image_each_start_from_what_one_task_would(cache, tmp_path):
    run = opened(cache, tmp_path / "a", rded__factor=2)
    slots = torch.stack([images(run, torch.arange(10), slot) for slot in range(3)], 1).flatten(0, 1)
    assert torch.equal(slots, images(opened(cache, tmp_path / "b", rded__factor=2)))
    assert len((run.place / "rded").names()) == 10


def test_rows_of_an_evaluation_have_draws_of_their_own(cache, tmp_path):
    run = opened(cache, tmp_path / "run")
    assert not torch.equal(images(run, slot=0), images(run, slot=1))


def test_a_choice_once_made_is_kept_and_says_what_it_is(cache, tmp_path, monkeypatch):
    run = opened(cache, tmp_path / "run")
    first = images(run)
    monkeypatch.setattr("ddcore_rded.select", lambda *a, **k: pytest.fail("judged again"))
    assert torch.equal(first, images(run))
    kept = load_tensors(run.place / "rded" / "class-0002-3-0.safetensors")
    assert set(kept) == {"rows", "boxes", "losses"} and kept["boxes"].shape == (3, 4)


def test_teachers_come_out_as_they_went_in_and_nothing_asks_for_a_gradient(cache, tmp_path):
    run = opened(cache, tmp_path / "run", rded__factor=2)
    network = run.teachers.network(0)
    before, state = hashed(network), torch.get_rng_state()
    with torch.enable_grad():
        found = images(run)
    assert hashed(network) == before and not network.training and not found.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in network.parameters())


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_a_pool_that_is_too_small_is_refused_with_its_numbers_before_any_teacher_is_trained(tmp_path):
    cache = str(tmp_path / "cache")
    run = opened(cache, tmp_path / "a", rded__factor=2, rded__pool=11)
    due = "3 images of 2 x 2 patches take 12 images of class '0', one a patch, and the pool holds 11: raise --rded.pool to 12"
    with pytest.raises(InputError, match=due):
        distillation_tasks(run)
    assert (
        len(distillation_tasks(opened(cache, tmp_path / "b", rded__factor=4, ipc=10))) == 10
    )  # there are 142, not 160
    with pytest.raises(InputError, match="the pool holds 2"):
        images(opened(cache, tmp_path / "c", "dm", "rded", rded__pool=2))
    with pytest.raises(OptionError, match="--rded.factor 9 leaves no pixel to a patch of an image of 8: give 1 to 8"):
        distillation_tasks(opened(cache, tmp_path / "d", rded__factor=9))
    assert not (tmp_path / "cache" / "teachers").exists()


def test_a_pool_capped_by_a_class_s_images_is_said_once(cache, tmp_path):
    said: list[str] = []
    for name, pool in (("a", 300), ("b", 100)):
        run = opened(cache, tmp_path / name, rded__pool=pool)
        run.say = said.append
        for task in distillation_tasks(run):
            begin(task, run)
    capped = [line for line in said if line.startswith("rded:")]
    assert capped == [
        "rded: 10 of 10 classes have fewer images than --rded.pool 300 (the fewest: 139 of '8'), so all of theirs are in the pool"
    ]


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_a_run_is_complete_alone(cache, tmp_path):
    out = tmp_path / "run"
    words = ["run", "--plugin", "rded", *WORDS, "--ipc", "2", "--rded.factor", "2", "--baseline", "rded"]
    assert invoke([*words, "--cache", cache, "--out", str(out)]) == 0
    rows = {row["set"] for row in json.loads((out / "scores.json").read_text())["rows"]}
    assert {"distilled", "random", "rded", "full"} <= rows
    run = open_run(str(out))
    assert (run.plan.steps, run.plan.needs, run.plan.initializer) == (0, ("teachers",), "rded")
    classes = torch.arange(10).repeat_interleave(2)
    stored = load_tensors(run.place / "artifact" / "images.safetensors")["pixels"]
    assert torch.equal(stored, images(opened(cache, tmp_path / "due", rded__factor=2, ipc=2), classes))


def test_two_jobs_give_the_same_bits(cache, tmp_path):
    one, two = (opened(cache, tmp_path / str(jobs), jobs=jobs, rded__pool=20) for jobs in (1, 2))
    for run in (one, two):
        write_record(run, ["ddcore", "run"])
        run.map(distillation_tasks(run))
    results = [
        torch.cat([run.checkpoints.result(t.key)["pixels"] for t in distillation_tasks(run)]) for run in (one, two)
    ]
    assert two.tasks.executor_name == "processes" and torch.equal(*results)


def test_the_images_are_where_dm_starts(cache, tmp_path):
    out = tmp_path / "run"
    words = ["run", "--plugin", "dm", "--plugin", "rded", "--init", "rded", "--steps", "1", *WORDS]
    assert invoke([*words, "--ipc", "1", "--cache", cache, "--out", str(out)]) == 0
    assert open_run(str(out)).plan.matcher == "dm"
    run = opened(cache, tmp_path / "again", "dm", "rded", init="rded", steps=1, ipc=1)
    start = begin(distillation_task(run), run).tensors["pixels"].detach()
    assert torch.equal(start, images(opened(cache, tmp_path / "alone", ipc=1), torch.arange(10)))
    assert not torch.equal(start, open_run(str(out)).checkpoints.result("distil-000")["pixels"])


def test_recovery_slot_by_slot_starts_from_the_whole_set_and_is_joined_class_by_class(cache, tmp_path):
    pytest.importorskip("ddcore_sre2l")
    out = tmp_path / "run"
    words = ["run", "--plugin", "sre2l", "--plugin", "rded", "--init", "rded", "--steps", "1", "--sre2l.rate", "1e-9"]
    assert invoke([*words, *WORDS, "--ipc", "2", "--rded.factor", "2", "--cache", cache, "--out", str(out)]) == 0
    run, classes = open_run(str(out)), torch.arange(10).repeat_interleave(2)
    due = images(opened(cache, tmp_path / "alone", rded__factor=2, ipc=2), classes)
    torch.testing.assert_close(load_tensors(run.place / "artifact" / "images.safetensors")["pixels"], due)


def test_another_initialiser_needs_no_teacher_and_one_task(tmp_path):
    run = opened(str(tmp_path / "cache"), tmp_path / "run", init="real")
    assert run.plan.needs == () and len(distillation_tasks(run)) == 1


def test_what_is_learned_is_the_images_with_no_optimiser(cache, tmp_path):
    run = opened(cache, tmp_path / "run")
    learn = begin(distillation_tasks(run)[0], run)
    assert learn.optimizers == {} and list(learn.tensors) == ["pixels"]
    assert not learn.tensors["pixels"].requires_grad


def test_teachers_that_change_from_slot_to_slot_judge_for_their_own_sets_and_the_first_for_a_shared_one(
    cache, tmp_path
):
    run = opened(cache, tmp_path / "run")
    asked: list[tuple[str, int]] = []
    votes = run.votes("match")
    run.votes = lambda purpose, task: asked.append((purpose, task.slot)) or votes
    images(run, torch.tensor([4]), slot=2)  # one of the three of a class: of the shared set
    images(run, torch.tensor([4, 4, 4]), slot=2)
    assert asked == [("match", 0), ("match", 2)]


PRESETS, BATCHES = presets_of("rded", RDED), (10, 20, 25, 50, 100, 200)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_resolves_and_its_pool_suffices(name):
    made = setup_from(select(["--plugin", "rded", "--preset", name], {}), {}, {})
    own, preset = made.options["rded"], PRESETS[name]
    assert (made.config.dataset, made.config.ipc) == (preset.dataset, preset.ipc) and preset.source
    assert preset.ipc * own.factor**2 <= own.pool
    assert made.config.labels == "per-view" and protocol(made.config.protocol[0]).name.startswith("rded")
    assert (made.options["views"].batch, made.options["views"].temperature) in itertools.product(BATCHES, [20])
    assert all(0 < value < 1 for value in preset.published.values())


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.auto])
def test_auto_takes_the_preset_of_the_data_and_number(name):
    preset = PRESETS[name]
    assert choose_preset("auto", {"rded": RDED}, preset.dataset, preset.ipc) == preset


def test_a_run_by_its_preset_is_labelled_by_its_teacher(cache, tmp_path):
    out = tmp_path / "run"
    words = [
        "run",
        "--plugin",
        "rded",
        "--ipc",
        "1",
        "--threads",
        "1",
        "--eval-seeds",
        "1",
        "--full-epochs",
        "1",
        "--network",
        "convnet2-bn-w4",
    ]
    assert (
        invoke([*words, "--protocol", "rded-small-2", "--teachers.epochs", "4", "--cache", cache, "--out", str(out)])
        == 0
    )
    run, scores = open_run(str(out)), json.loads((out / "scores.json").read_text())
    assert run.setup.resolved.sources["views.batch"] == "preset rded/digits-ipc1" and run.labeller == "per-view"
    assert {row["set"] for row in scores["rows"] if row["labels"] != "hard"} >= {"distilled", "random"}


def test_the_contract():
    check_plugin("rded")


def test_stitched_patches_are_not_called_real_images_and_the_card_says_what_they_are(cache, tmp_path):
    words = ["run", "--plugin=rded", *WORDS, "--ipc=1", f"--cache={cache}", "--rded.pick=random", "--rded.factor=2"]
    assert invoke([*words, f"--out={tmp_path / 'run'}"]) == 0
    artifact = load_artifact(tmp_path / "run" / "artifact")
    assert artifact.real_count == 0
    assert (
        "nothing was learned: the images are patches cut out of real images, resized and stitched"
        in (tmp_path / "run" / "artifact" / "README.md").read_text()
    )
