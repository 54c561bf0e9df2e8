"""NRR-DD as users run it: what stays, what moves, what a stop leaves, which patches slots get, refusals."""

import json

import pytest
import torch
from ddcore_nrr_dd import NRRDD, maps
from torch.nn import functional as F

from ddcore import InputError, Learn, PluginError
from ddcore.cli.app import invoke
from ddcore.composing.presets import presets_of
from ddcore.composing.selection import select, setup_from
from ddcore.errors import OptionError
from ddcore.images.patches import stitch, unstitch
from ddcore.kit.contract import check_plugin
from ddcore.kit.contract.stage import distilled, outcome_in_pieces, same_bits
from ddcore.networks.passes import logits
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.loop import begin, distil_task, outer_step
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.sets.artifact import load_artifact
from ddcore.storage.places import Place

QUICK = {"threads": 1, "ipc": 3, "network": "convnet2-bn-w8", "teachers__epochs": 6, "steps": 4, "labels": "hard"}
POOL = {"nrr-dd__pool": 20, "nrr-dd__crops": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache, place, *plugins, **given):
    words = [word for name in plugins or ("sre2l", "nrr-dd") for word in ("--plugin", name)]
    pool = POOL if not plugins or "nrr-dd" in plugins else {}
    selection = select([*words, "--dataset", "digits", "--preset", "none"], {})
    options = {**QUICK, **pool, "dataset": "digits", "cache": cache, **given}
    run = Run(setup_from(selection, options, {}), Place.at(place))
    write_record(run, ["ddcore", "run", *words])
    return run


def command(cache, out, *words):
    flags = [f"--{name.replace('__', '.').replace('_', '-')}={value}" for name, value in {**QUICK, **POOL}.items()]
    quick = ["--protocol=quick-3", "--eval-seeds=1", "--full-epochs=1", "--preset=none", "--dataset=digits"]
    return ["run", "--plugin=sre2l", "--plugin=nrr-dd", *flags, *quick, f"--cache={cache}", f"--out={out}", *words]


def started(run):
    """The images that a run starts from, joined as its results are, and how far each pixel may move."""
    images, masks = [], []
    for task in distillation_tasks(run):
        learn = begin(task, run)
        images.append(learn.tensors["pixels"].detach().clone())
        masks.append(run.plugins["nrr-dd"].ddcore_companion(task, learn, run).masks["pixels"])
    return by_class(torch.cat(images)), by_class(torch.cat(masks))


def at_bound(run, images):
    """Where pixels are black or white, beyond which none exist."""
    least, most = (run.normalisation.clamped(torch.full_like(images, far)) for far in (-1e6, 1e6))
    return (images == least) | (images == most)


def by_class(images):
    """Rows of slots, a class a row, in the order of results."""
    return images[torch.arange(10).repeat(len(images) // 10).argsort(stable=True)]


def test_the_contract_is_kept():
    check_plugin("nrr-dd")


# ---- the mask --------------------------------------------------------------------------------------------------------


def test_check_threshold_zero_leaves_the_initial_images_bit_for_bit(cache, tmp_path):
    run = opened(cache, tmp_path, **{"nrr-dd__threshold": 0.0})
    images, mask = started(run)
    assert (mask == 0).all() and torch.equal(distilled(run)["pixels"], images)


@pytest.mark.parametrize("init", ["cidd", "real"])
def test_check_critical_pixels_stay_bit_for_bit_and_the_others_move(cache, tmp_path, init):
    run = opened(cache, tmp_path, init=init, steps=10)
    images, mask = started(run)
    stays = (mask == 0).expand_as(images)
    after = distilled(run)["pixels"]
    moved = after != images
    assert stays.any() and not moved[stays].any()
    held = at_bound(run, after) | (mask < 1e-3).expand_as(images)  # some of the rest lie at black, or hardly may move
    assert not held.all() and moved[~held].all()


def test_check_a_zero_map_under_threshold_one_is_plain_class_inversion_from_real_patches(cache, tmp_path, monkeypatch):
    plain = opened(cache, tmp_path / "plain", **{"nrr-dd__masked": False, "sre2l__bn": 0.0})
    whole = opened(cache, tmp_path / "whole", **{"nrr-dd__threshold": 1.0, "sre2l__bn": 0.0})
    start = started(opened(cache, tmp_path / "start"))[0]
    for run in (plain, whole):  # the same start: patches are found before maps are zero
        for task in distillation_tasks(run):
            begin(task, run)
    monkeypatch.setattr("ddcore_nrr_dd.mean_maps", lambda votes, images, classes, **_: torch.zeros(len(images), 8, 8))
    assert same_bits(distilled(plain), distilled(whole)) is None
    assert not torch.equal(distilled(plain)["pixels"], start)


def test_a_mask_is_of_the_class_s_own_map_by_the_votes_for_the_task(cache, tmp_path):
    run = opened(cache, tmp_path, **{"nrr-dd__threshold": 0.75})
    task = distillation_tasks(run)[1]
    learn = begin(task, run)
    mask = run.plugins["nrr-dd"].ddcore_companion(task, learn, run).masks["pixels"]
    (vote,) = run.votes("match", task)
    seen = maps.class_maps(vote.network, learn.tensors["pixels"].detach(), task.classes)
    torch.testing.assert_close(mask[:, 0], (0.75 - seen).clamp(min=0))


@pytest.mark.parametrize("refresh", [0, 2])
def test_a_run_stopped_after_every_step_ends_in_the_bits_of_one_that_is_not(cache, tmp_path, refresh):
    given = {"ipc": 1, "steps": 5, "nrr-dd__refresh": refresh}
    whole = distilled(opened(cache, tmp_path / "whole", **given))
    assert same_bits(whole, outcome_in_pieces(opened(cache, tmp_path / "pieces", **given))) is None


def test_maps_made_anew_let_pixels_move_that_were_critical_at_first(cache, tmp_path):
    run = opened(cache, tmp_path, ipc=1, steps=12, **{"nrr-dd__refresh": 3})
    images, mask = started(run)
    moved = distilled(run)["pixels"] != images
    assert moved[(mask == 0).expand_as(images)].any()


def test_maps_are_made_anew_after_every_so_many_steps(cache, tmp_path):
    run = opened(cache, tmp_path, ipc=1, **{"nrr-dd__refresh": 2})
    (task,) = distillation_tasks(run)
    learn, plugin = begin(task, run), run.plugins["nrr-dd"]
    companion = plugin.ddcore_companion(task, learn, run)
    seen = [companion.masks["pixels"]]
    for step in range(4):
        outer_step(task, step, learn, run)
        companion.after_step(step, 0.0)
        seen.append(companion.masks["pixels"])
    assert [torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False)] == [True, False, True, False]


def test_two_jobs_give_the_bits_of_one(cache, tmp_path):
    one, two = (distilled(opened(cache, tmp_path / str(jobs), jobs=jobs)) for jobs in (1, 2))
    assert same_bits(one, two) is None


def test_refining_makes_the_teacher_surer_though_critical_pixels_stay(cache, tmp_path):
    run = opened(cache, tmp_path, steps=60, teachers__epochs=15, ipc=1, **{"nrr-dd__threshold": 0.6})
    (task,) = distillation_tasks(run)
    images, _ = started(run)
    (vote,) = run.votes("match")
    after, _ = distil_task(task, run)
    apart = [float(F.cross_entropy(logits(vote.network, x), task.classes)) for x in (images, after["pixels"])]
    assert apart[1] < 0.6 * apart[0], apart  # 0.28 of it, deviation 0.04 over seeds


# ---- the initialiser -------------------------------------------------------------------------------------------------


def test_whole_images_are_distinct_real_ones_of_their_class(cache, tmp_path):
    run = opened(cache, tmp_path, **{"nrr-dd__scale": 1.0})
    images, _ = started(run)
    real = run.real.train.inputs(torch.arange(len(run.real.train)))
    at = (images.flatten(1)[:, None] - real.flatten(1)[None]).abs().amax(2)
    assert (at.amin(1) == 0).all() and len(set(at.argmin(1).tolist())) == 30
    assert run.real.train.labels[at.argmin(1)].tolist() == sorted([*range(10)] * 3)


def test_four_patches_share_an_image_where_asked(cache, tmp_path):
    run = opened(cache, tmp_path, **{"nrr-dd__scale": 1.0, "nrr-dd__factor": 2})
    images, _ = started(run)
    real = run.real.train.inputs(torch.arange(len(run.real.train)))
    halves = F.interpolate(real, (4, 4), mode="bilinear", align_corners=False, antialias=True)
    patches = unstitch(images, 2)
    at = (patches.flatten(1)[:, None] - halves.flatten(1)[None]).abs().amax(2)
    assert at.amin(1).max() < 1e-5
    assert run.real.train.labels[at.argmin(1)].tolist() == sorted([*range(10)] * 3) * 4


def test_slots_get_different_patches_which_together_are_what_one_task_gets(cache, tmp_path):
    slots, _ = started(opened(cache, tmp_path / "slots"))
    run = opened(cache, tmp_path / "one", "dm", "nrr-dd")
    (task,) = distillation_tasks(run)
    assert torch.equal(slots, run.initialize(task.classes, task))
    assert len({tuple(image.flatten().tolist()) for image in slots}) == 30


def test_initial_images_exist_as_they_are_however_resizing_rounds(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("ddcore_nrr_dd.stitch", lambda *given: stitch(*given) * 1.25)
    run = opened(cache, tmp_path)
    images, _ = started(run)
    assert torch.equal(run.normalisation.clamped(images), images)


def test_the_least_confident_patches_are_those_the_teacher_is_less_sure_of(cache, tmp_path):
    losses = []
    for which in ("lowest", "median", "highest"):
        run = opened(cache, tmp_path / which, **{"nrr-dd__confidence": which})
        images, _ = started(run)
        own = torch.arange(10).repeat_interleave(3)
        found = F.cross_entropy(logits(run.votes("match")[0].network, images), own, reduction="none")
        losses.append(found.view(10, 3))  # of one pool of 20 images a class, of which each three are others
    for surer, less_sure in ((losses[1], losses[0]), (losses[2], losses[1])):
        assert (surer.amax(1) < less_sure.amin(1)).all()


# ---- beside others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["two-distances", "per-view"])
def test_a_run_ends_in_a_set_with_labels_of_views(cache, tmp_path, labels):
    assert invoke(command(cache, tmp_path / "run", f"--labels={labels}")) == 0
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    assert {row["labels"] for row in rows if row["set"] == "distilled"} == {labels, "hard"}
    assert load_artifact(tmp_path / "run" / "artifact").labels.kind == labels


def test_without_mask_and_initialiser_no_teacher_is_made(cache, tmp_path):
    run = opened(cache, tmp_path, "dm", "nrr-dd", init="real", **{"nrr-dd__masked": False})
    assert run.plan.needs == ()
    assert opened(cache, tmp_path, "dm", "nrr-dd", init="real").plan.needs == ("teachers",)
    assert opened(cache, tmp_path, "dm", "nrr-dd", **{"nrr-dd__masked": False}).plan.needs == ("teachers",)


def test_any_matcher_s_pixels_can_be_kept(cache, tmp_path):
    run = opened(cache, tmp_path, "dm", "nrr-dd", ipc=1, dm__batch_real=8)
    images, mask = started(run)
    moved = distilled(run)["pixels"] != images
    assert not moved[(mask == 0).expand_as(images)].any() and moved.any()


def test_a_step_without_the_plugins_state_is_the_matchers_own(cache, tmp_path):
    run = opened(cache, tmp_path, ipc=1)
    (task,) = distillation_tasks(run)
    learn = begin(task, run)
    before = learn.tensors["pixels"].detach().clone()
    outer_step(task, 0, learn, run)
    assert (learn.tensors["pixels"] != before).double().mean() > 0.5


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_a_pool_that_is_too_small_is_refused(cache, tmp_path):
    run = opened(cache, tmp_path, **{"nrr-dd__pool": 11, "nrr-dd__factor": 2})
    task = distillation_tasks(run)[0]
    with pytest.raises(
        InputError, match="3 images of 2 x 2 patches take 12 patches of class '0', and 11 images give 11: raise"
    ):
        run.initialize(task.classes, task)
    run = opened(cache, tmp_path / "two", **{"nrr-dd__pool": 11, "nrr-dd__factor": 2, "nrr-dd__keep": 2})
    assert run.initialize(task.classes, task).shape == (10, 1, 8, 8)


def test_more_patches_than_are_cut_and_more_cells_than_pixels_are_refused(cache, tmp_path):
    for name, option, match in (
        ("a", "keep", "--nrr-dd.keep 9 is more than .* keep fewer"),
        ("b", "factor", "give 1 to 8"),
    ):
        run = opened(cache, tmp_path / name, **{f"nrr-dd__{option}": 9})
        task = distillation_tasks(run)[0]
        with pytest.raises(OptionError, match=match):
            run.initialize(task.classes, task)


def test_a_teacher_without_feature_maps_is_refused_by_name(cache, tmp_path):
    given = {"teachers__networks": ("mlp",), "teachers__check": False, "init": "real"}
    run = opened(cache, tmp_path, "dm", "nrr-dd", **given)
    (task,) = distillation_tasks(run)
    with pytest.raises(InputError, match="the teacher mlp has no feature maps"):
        run.plugins["nrr-dd"].ddcore_companion(task, begin(task, run), run)


def test_where_no_images_are_learned_only_the_initialiser_is_left(cache, tmp_path, monkeypatch):
    learn = Learn({"bases": torch.zeros(2, 5)}, {}, roles={"bases": "pixels"})
    run, warned = opened(cache, tmp_path / "cidd"), []
    monkeypatch.setattr(Run, "warn", lambda self, text: warned.append(text))
    plugin, task = run.plugins["nrr-dd"], distillation_tasks(run)[0]
    assert plugin.ddcore_companion(task, learn, run).state == {"masks": {}}
    assert len(warned) == 1 and "'sre2l' (ddcore-sre2l 0.1.0) learns no images: only the initial" in warned[0]
    run = opened(cache, tmp_path / "real", init="real")
    with pytest.raises(PluginError, match="learns no images: leave out --plugin nrr-dd"):
        plugin.ddcore_companion(task, learn, run)


def test_a_matcher_without_steps_needs_no_masks(cache, tmp_path):
    run = opened(cache, tmp_path, steps=0)
    images = torch.cat([begin(task, run).tensors["pixels"].detach() for task in distillation_tasks(run)])
    assert same_bits({"pixels": distilled(run)["pixels"]}, {"pixels": by_class(images)}) is None


def test_presets_name_their_matcher_and_take_its_options():
    presets = presets_of("nrr-dd", NRRDD)
    assert len(presets) == 8
    for preset in presets.values():
        assert preset.plugins == ("nrr-dd", "sre2l") and set(preset.tables["plugin"]) == {"nrr-dd", "sre2l"}
        NRRDD(**preset.tables["plugin"]["nrr-dd"])
        assert preset.published["accuracy"] > 0.1
