"""CV-DD as users run it: who votes where, what labels are made by, where images start, beside others, refusals."""

import hashlib
import json

import attrs
import pytest
import torch
from ddcore_cv_dd import medium
from torch.nn import functional as F

from ddcore.api.types import Task
from ddcore.cli.app import invoke
from ddcore.composing.selection import select, setup_from
from ddcore.errors import InputError, OptionError, PluginError
from ddcore.images.patches import patch_losses, unstitch
from ddcore.kit.contract import check_plugin
from ddcore.kit.contract.stage import distilled, outcome_in_pieces, same_bits
from ddcore.labels import answers, mean_logits
from ddcore.networks.batch_statistics import capture, statistics_loss
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.record import write_record
from ddcore.runs.run import Run
from ddcore.sets.artifact import load_artifact
from ddcore.storage.places import Place, load_tensors
from ddcore.training.teachers import folder, members_of

THREE = ("convnet2-bn-w8", "convnet2-bn-w4", "convnet2-bn-w6")
FIVE = (*THREE, "convnet2-bn-w5", "convnet2-bn-w7")
PRIORS = (56.4, 42.3, 52.5, 44.2, 40.6)
QUICK = {"dataset": "digits", "threads": 1, "ipc": 2, "steps": 3, "teachers__epochs": 3, "sre2l__block": 4}
QUICK |= {"network": THREE[0], "teachers__networks": THREE, "sre2l__rate": 0.1}
SMALL = {"cv-dd__pool": 20, "cv-dd__crops": 3}
STILL = {"views__crop": "none", "views__mix": "none", "views__flip": 0.0, "views__epochs": 1, "views__batch": 20}
"""Views that change no pixel, so that labels can be told apart by who shares a group."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def opened(cache, place, *plugins, **given) -> Run:
    plugins = plugins or ("sre2l", "cv-dd")
    words = [word for name in plugins for word in ("--plugin", name)]
    known = (*plugins, "teachers")
    quick = {n: v for n, v in {**QUICK, **SMALL}.items() if "__" not in n or n.partition("__")[0] in known}
    options = {**quick, "cache": cache, **given}
    run = Run(setup_from(select([*words, "--preset", "none"], {}), options, {}), Place.at(place))
    write_record(run, ["ddcore", "run", *words])
    return run


def command(cache, out, *words) -> list[str]:
    base = ["run", "--plugin=sre2l", "--plugin=cv-dd", "--preset=none", "--eval-seeds=1", "--full-epochs=1"]
    for name, value in {**QUICK, **SMALL}.items():
        flag = f"--{name.replace('__', '.').replace('_', '-')}"
        base += [f"{flag}={item}" for item in (value if isinstance(value, tuple) else (value,))]
    return [*base, f"--cache={cache}", f"--out={out}", *words]


def each(name: str, *values) -> list[str]:
    """An option of several values, as a command line has it."""
    return [f"--cv-dd.{name}={value}" for value in values]


def digest(run: Run) -> str:
    tensors = [t for n in range(len(run.teachers)) for t in run.teachers.network(n).state_dict().values()]
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def voters(run: Run, task: Task) -> list[int]:
    networks = [run.teachers.network(n) for n in range(len(run.teachers))]
    return [networks.index(vote.network) for vote in run.votes("match", task)]


def test_the_contract_is_kept():
    check_plugin("cv-dd")


# ---- who votes -------------------------------------------------------------------------------------------------------


def test_ten_slots_take_turns_and_blocks_of_a_slot_share_their_pair(cache, tmp_path):
    run = opened(cache, tmp_path, ipc=10, teachers__networks=FIVE, **{"cv-dd__prior": "equal"})
    found = {}
    for task in distillation_tasks(run):
        found.setdefault(task.slot, set()).add(tuple(voters(run, task)))
    due = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert [found[slot] for slot in range(10)] == [{pair} for pair in due]


def test_fifty_slots_draw_their_pair_by_slot_never_by_task(cache, tmp_path):
    given = {"ipc": 50, "teachers__networks": FIVE, "cv-dd__prior": "equal"}
    run = opened(cache, tmp_path / "one", **given)
    found = {}
    for task in distillation_tasks(run):
        found.setdefault(task.slot, set()).add(tuple(voters(run, task)))
    assert all(len(pairs) == 1 for pairs in found.values())
    assert len(set.union(*found.values())) >= 8  # of ten pairs, fifty draws
    again = opened(cache, tmp_path / "two", sre2l__block=100, **given)
    assert [found[task.slot] for task in distillation_tasks(again)] == [
        {tuple(voters(again, t))} for t in distillation_tasks(again)
    ]
    turns = opened(cache, tmp_path / "three", **{**given, "cv-dd__turns": "turns"})
    by_slot = {task.slot: voters(turns, task) for task in distillation_tasks(turns)}
    assert [by_slot[slot] for slot in (9, 10, 12, 49)] == [[3, 4], [0, 1], [0, 3], [3, 4]]  # ten pairs, again and again


def test_one_slot_has_the_highest_priors_unless_others_are_fixed(cache, tmp_path):
    given = {"ipc": 1, "teachers__networks": FIVE, "cv-dd__priors": PRIORS}
    run = opened(cache, tmp_path / "highest", **given)
    assert voters(run, distillation_tasks(run)[0]) == [0, 2]
    run = opened(cache, tmp_path / "fixed", **{**given, "ipc": 12, "cv-dd__fixed": (5, 4)})
    assert all(voters(run, task) == [3, 4] for task in distillation_tasks(run))


@pytest.mark.parametrize(("members", "due"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (9, [0, 1, 2]), (None, [0, 1, 2])])
def test_as_many_vote_as_asked_or_all_where_there_are_fewer(cache, tmp_path, members, due):
    given = {"ipc": 1, "cv-dd__members": members, "cv-dd__priors": (60.0, 40.0, 50.0)}
    run = opened(cache, tmp_path, **given)
    assert voters(run, distillation_tasks(run)[0]) == due


def test_votes_weigh_by_the_pairs_own_priors_and_labels_by_everyones_at_another_temperature(cache, tmp_path):
    run = opened(cache, tmp_path, ipc=1, teachers__networks=FIVE, **{"cv-dd__priors": PRIORS, "cv-dd__fixed": (1, 5)})
    match, everyone = run.votes("match", distillation_tasks(run)[0]), run.votes("label")
    assert [vote.weight for vote in match] == pytest.approx([0.9593, 0.0407], abs=5e-5)
    assert [vote.weight for vote in everyone] == pytest.approx([0.4128, 0.1008, 0.2795, 0.1219, 0.0850], abs=5e-5)
    assert [vote.name for vote in everyone] == list(FIVE)
    for whole in (run.votes("match"), run.votes("label", distillation_tasks(run)[0])):
        assert [vote.weight for vote in whole] == [vote.weight for vote in everyone]


def test_pitfall_accuracies_that_stand_in_for_priors_count_in_percent(cache, tmp_path, monkeypatch):
    run, said = opened(cache, tmp_path, ipc=1), []
    monkeypatch.setattr(type(run.teachers), "_accuracy", lambda _, number: (0.64, 0.40, 0.516)[number])
    run.__dict__["teachers"] = attrs.evolve(run.teachers)  # whose accuracies nobody has asked for yet
    monkeypatch.setattr(run, "say", said.append)
    task = distillation_tasks(run)[0]
    assert [vote.weight for vote in run.votes("match", task)] == pytest.approx([0.9227, 0.0773], abs=5e-5)
    assert len(said) == 1 and "stand in for their students' (convnet2-bn-w8 64.0, convnet2-bn-w4 40.0" in said[0]
    run.votes("match", attrs.evolve(task, index=1))
    assert len(said) == 1


def test_other_sources_of_weights_pass_over_priors_that_a_preset_gives(cache, tmp_path):
    given = {"cv-dd__members": None, "cv-dd__priors": PRIORS}
    equal = opened(cache, tmp_path / "equal", **given, **{"cv-dd__prior": "equal"})
    assert [vote.weight for vote in equal.votes("match", distillation_tasks(equal)[0])] == [1 / 3] * 3
    own = opened(cache, tmp_path / "own", **given, **{"cv-dd__prior": "teacher"})
    due = torch.tensor([20 * accuracy for accuracy in own.teachers.accuracies], dtype=torch.float64).softmax(0)
    assert [vote.weight for vote in own.votes("match", distillation_tasks(own)[0])] == pytest.approx(due.tolist())


def test_turns_that_are_asked_for_pass_over_those_that_are_fixed(cache, tmp_path):
    given = {"cv-dd__fixed": (2, 3), "cv-dd__prior": "equal", "ipc": 3}
    for turns, due in {"auto": [[1, 2]] * 3, "fixed": [[1, 2]] * 3, "turns": [[0, 1], [0, 2], [1, 2]]}.items():
        run = opened(cache, tmp_path / turns, sre2l__block=10, **{**given, "cv-dd__turns": turns})
        assert [voters(run, task) for task in distillation_tasks(run)] == due


def test_given_and_equal_priors_need_no_word(cache, tmp_path, monkeypatch):
    for name, given in {"given": {"cv-dd__priors": (60.0, 40.0, 50.0)}, "equal": {"cv-dd__prior": "equal"}}.items():
        run, said = opened(cache, tmp_path / name, **given), []
        monkeypatch.setattr(run, "say", said.append)
        run.votes("match", distillation_tasks(run)[0])
        assert not said


# ---- the loss --------------------------------------------------------------------------------------------------------


def slow_loss(votes, images, classes, bn=0.01):
    """Sum_j w_j (CE_j + r_bn L_bn,j), of images under their view."""
    total = 0.0
    for vote in votes:
        with capture(vote.network) as layers:
            entropy = F.cross_entropy(vote.network(images), classes)
        total = total + vote.weight * (entropy + bn * statistics_loss(layers))
    return total


def first_gradient(run: Run, task: Task, votes=None):
    """Loss and gradient of a task's first step, with other votes than its own if given."""
    learn = begin(task, run)
    pixels = learn.tensors["pixels"]
    if votes is not None:
        learn.fixed["votes"][:] = votes
    loss = sum(part.value for part in run.matcher.ddcore_matching_loss(task, 0, learn, run))
    return loss.detach(), torch.autograd.grad(loss, pixels)[0]


def test_check_the_loss_is_linear_in_w_and_its_gradient_the_weighted_sum_of_each_teachers(cache, tmp_path):
    run = opened(cache, tmp_path, dtype="float64", **{"cv-dd__members": 3, "cv-dd__priors": (60.0, 52.0, 55.0)})
    task = distillation_tasks(run)[0]
    votes = run.votes("match", task)
    loss, gradient = first_gradient(run, task)
    each = [first_gradient(run, task, [attrs.evolve(vote, weight=1.0)]) for vote in votes]
    torch.testing.assert_close(loss, sum(vote.weight * value for vote, (value, _) in zip(votes, each, strict=True)))
    torch.testing.assert_close(gradient, sum(v.weight * g for v, (_, g) in zip(votes, each, strict=True)))
    pixels = begin(task, run).tensors["pixels"]
    viewed = run.matcher.viewed(pixels, task, 0, run)
    torch.testing.assert_close(slow_loss(votes, viewed.inputs, viewed.targets["class"]), loss, check_dtype=False)


def test_check_two_copies_of_one_teacher_are_one(cache, tmp_path):
    one = opened(cache, tmp_path / "one", dtype="float64", teachers__networks=THREE[:1], init="real")
    given = {"teachers__networks": THREE[:1] * 2, "teachers__weights": (own_file(one),) * 2, "init": "real"}
    two = opened(cache, tmp_path / "two", dtype="float64", **given, **{"cv-dd__priors": (61.0, 57.0)})
    assert [round(v.weight, 3) for v in two.votes("match", distillation_tasks(two)[0])] == [0.69, 0.31]
    task = distillation_tasks(one)[0]
    for ours, theirs in zip(first_gradient(one, task), first_gradient(two, task), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def own_file(run: Run) -> str:
    """Where the weights of a run's first teacher lie."""
    assert len(run.teachers) == 1
    return (folder(members_of(run)[0], run) / "weights.safetensors").url


def test_check_one_teacher_is_sre2l_plus_plus_bit_for_bit(cache, tmp_path):
    given = {"teachers__networks": THREE[:1], "init": "real", **STILL, "views__mix": "cutmix"}
    ours = opened(cache, tmp_path / "cv-dd", **given)
    base = opened(cache, tmp_path / "sre2l", "sre2l", labels="per-view", views__statistics="batch", **given)
    made, due = distilled(ours), distilled(base)
    assert same_bits(made, due) is None
    assert [vote.weight for vote in ours.votes("match", distillation_tasks(ours)[0])] == [1.0]
    classes = torch.arange(10).repeat_interleave(2)
    assert torch.equal(ours.label(made["pixels"], classes).logits, base.label(due["pixels"], classes).logits)


def test_all_teachers_with_equal_votes_are_the_cores_committee_bit_for_bit(cache, tmp_path):
    neutral = {"cv-dd__members": None, "cv-dd__prior": "equal"}
    ours = distilled(opened(cache, tmp_path / "cv-dd", init="real", **neutral))
    assert same_bits(ours, distilled(opened(cache, tmp_path / "sre2l", "sre2l", init="real", labels="hard"))) is None
    pair = distilled(opened(cache, tmp_path / "pair", init="real", **{"cv-dd__prior": "equal"}))
    assert same_bits(ours, pair) is not None


def test_check_teachers_stay_bit_for_bit_through_matching_and_labelling(cache, tmp_path):
    run = opened(cache, tmp_path, **STILL)
    before = digest(run)
    task = distillation_tasks(run)[0]
    learn = begin(task, run)
    for step in range(task.steps):
        outer_step(task, step, learn, run)
    images = distilled(run)["pixels"]
    run.label(images, torch.arange(10).repeat_interleave(2))
    assert digest(run) == before == digest(opened(cache, tmp_path / "next"))
    assert not any(m.training for n in range(3) for m in run.teachers.network(n).modules())


def test_two_jobs_and_a_run_in_pieces_give_the_bits_of_one(cache, tmp_path):
    given = {"cv-dd__turns": "random", "steps": 2, "sre2l__block": 10}
    one = distilled(opened(cache, tmp_path / "one", **given))
    assert same_bits(one, distilled(opened(cache, tmp_path / "two", jobs=2, **given))) is None
    assert same_bits(one, outcome_in_pieces(opened(cache, tmp_path / "pieces", **given))) is None


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelling(cache, tmp_path):
    """``labelling(images, **given)``: the run, and labels of twenty images (or of the given ones)."""

    def of(images=None, **given):
        run = opened(
            cache, tmp_path / str(len(list(tmp_path.iterdir()))), **{"cv-dd__priors": (60.0, 40.0, 50.0), **given}
        )
        real = run.real.train.inputs(torch.arange(20)) if images is None else images
        with torch.no_grad():
            return run, real, run.label(real, torch.arange(20) % 10)

    return of


def by_image(labels):
    """Logits of still views of one epoch, in the order of the images."""
    view = labels.record.view(0)
    return labels.logits[view.index.argsort()].float(), view.index


def swapped(one: int, other: int) -> torch.Tensor:
    """Twenty images, two of which change places."""
    order = torch.arange(20)
    order[one], order[other] = other, one
    return order


def test_labels_are_views_of_the_whole_committee_by_batch_statistics_without_further_flags(labelling):
    run, images, labels = labelling(views__epochs=2, views__batch=16)
    assert (run.labeller, labels.kind) == ("bssl", "per-view")
    networks, weights = [v.network for v in run.votes("label")], [v.weight for v in run.votes("label")]
    due = answers(images, networks, labels.record, weights=weights, statistics="batch", group=8)
    assert torch.equal(labels.logits, due.half())
    assert run.options["views"].statistics == "running" and run.labeller == "bssl"  # the run itself is as it was


def test_bssl_and_the_vote_are_switches_of_their_own(labelling):
    def logits_of(**given):
        return labelling(**STILL, **given)[2].logits

    both, core = logits_of(), logits_of(labels="per-view", views__statistics="batch")
    assert torch.equal(both, core)
    alone, equal = logits_of(labels="per-view"), logits_of(**{"cv-dd__priors": (), "cv-dd__prior": "equal"})
    assert not torch.equal(both, alone) and not torch.equal(both, equal)


def test_check_bssl_permuting_images_within_a_group_permutes_labels(labelling):
    _, images, labels = labelling(**STILL)
    found, index = by_image(labels)
    order = torch.arange(20)
    order[index[:8]] = index[:8].roll(3)
    moved, same_index = by_image(labelling(images[order], **STILL)[2])
    assert torch.equal(index, same_index)
    torch.testing.assert_close(moved, found[order], rtol=2e-3, atol=2e-3)  # labels are float16


def test_check_bssl_moving_an_image_to_another_group_changes_its_label(labelling):
    _, images, labels = labelling(**STILL)
    found, index = by_image(labels)
    order = swapped(int(index[0]), int(index[8]))
    moved, _ = by_image(labelling(images[order], **STILL)[2])
    change = (moved - found[order]).abs().amax(1)
    assert change[index[[0, 8]]].min() > 0.05 and change[index[:16]].min() > 0.01  # theirs, and their groups'
    torch.testing.assert_close(moved[index[16:]], found[index[16:]], rtol=2e-3, atol=2e-3)  # of the third group


def test_check_labels_in_eval_mode_do_not_depend_on_the_group(labelling):
    run, images, labels = labelling(labels="per-view", **STILL)
    found, index = by_image(labels)
    order = swapped(int(index[0]), int(index[8]))
    moved, _ = by_image(labelling(images[order], labels="per-view", **STILL)[2])
    torch.testing.assert_close(moved, found[order], rtol=2e-3, atol=2e-3)
    votes = run.votes("label")
    due = mean_logits(images, [v.network for v in votes], weights=[v.weight for v in votes])
    torch.testing.assert_close(found, due, rtol=2e-3, atol=2e-3)


def test_a_run_ends_in_labels_by_votes_that_students_learn_from_in_groups(cache, tmp_path):
    assert invoke(command(cache, tmp_path / "run", "--protocol=cv-dd-cifar-3", *each("priors", 60, 40, 50))) == 0
    artifact = load_artifact(tmp_path / "run" / "artifact")
    assert (artifact.labels.kind, artifact.labels.record.batch, artifact.labels.record.epochs) == ("per-view", 16, 3)
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    assert {row["labels"] for row in rows if row["set"] == "random"} >= {"per-view"}
    assert artifact.manifest["recipe"]["batch_norm_group"] == 8
    pixels = artifact.pixels()
    assert (pixels >= -1e-6).all() and (pixels <= 1 + 1e-6).all()


# ---- where images start ----------------------------------------------------------------------------------------------


def initial(run: Run) -> torch.Tensor:
    """Of all slots, class by class."""
    images = torch.cat([run.initialize(task.classes, task) for task in distillation_tasks(run)])
    classes = torch.cat([task.classes for task in distillation_tasks(run)])
    return images[classes.argsort(stable=True)]


def test_slots_start_from_different_mosaics_which_together_are_what_one_task_gets(cache, tmp_path):
    slots = initial(opened(cache, tmp_path / "slots", ipc=3))
    run = opened(cache, tmp_path / "one", "dm", "cv-dd", ipc=3, labels="hard")
    assert run.plan.initializer == "medium"
    assert torch.equal(slots, initial(run))
    assert len({tuple(image.flatten().tolist()) for image in slots}) == 30


def test_mosaics_are_neither_easy_nor_hard_to_the_committee(cache, tmp_path, monkeypatch):
    pools = []

    ranked = medium.ranked

    def watched(losses, count, ranks):
        pools.append((losses, ranked(losses, count, ranks)))
        return pools[-1][1]

    monkeypatch.setattr(medium, "ranked", watched)
    run = opened(cache, tmp_path / "medium", ipc=3, **{"cv-dd__pool": 60})
    assert len(initial(run)) == 30 and len(pools) == 10
    found = [load_tensors(run.place / "cv-dd" / f"class-{cls:04d}-3.safetensors")["losses"] for cls in range(10)]
    for losses, kept in pools:
        easier, harder = (losses < losses[kept].min()).sum(), (losses > losses[kept].max()).sum()
        assert easier + harder == 57 and abs(easier - harder) <= 1
    assert all(torch.equal(own, losses[kept]) for own, (losses, kept) in zip(found, pools, strict=True))


def test_four_patches_share_a_mosaic_where_asked(cache, tmp_path):
    run = opened(cache, tmp_path, **{"cv-dd__factor": 2})
    patches = unstitch(initial(run), 2)
    assert patches.shape == (80, 1, 4, 4)
    assert len({tuple(patch.flatten().tolist()) for patch in patches}) > 70


def test_patches_are_judged_at_the_size_that_they_have_in_the_mosaic_by_everyones_votes(cache, tmp_path):
    run = opened(cache, tmp_path, **{"cv-dd__factor": 2, "cv-dd__priors": (60.0, 40.0, 50.0)})
    patches = unstitch(initial(run)[6:8], 2)[:, None]  # of class 3
    votes = run.votes("label")
    networks, weights = [vote.network for vote in votes], [vote.weight for vote in votes]
    losses = patch_losses(patches, torch.full((8,), 3), networks, weights, size=8)[:, 0]
    known = load_tensors(run.place / "cv-dd" / "class-0003-2.safetensors")["losses"]
    torch.testing.assert_close(losses, known)
    assert torch.equal(known, known.sort().values)


def test_a_pool_that_is_too_small_is_refused_with_its_numbers(cache, tmp_path):
    run = opened(cache, tmp_path, **{"cv-dd__pool": 7, "cv-dd__factor": 2})
    with pytest.raises(
        InputError, match="2 images of 2 x 2 patches take 8 images of class '0', one a patch, and 7 of .* raise"
    ):
        initial(run)
    run = opened(cache, tmp_path / "factor", **{"cv-dd__factor": 9})
    with pytest.raises(OptionError, match="leaves no pixel to a patch of an image of 8: give 1 to 8"):
        initial(run)


# ---- beside others ---------------------------------------------------------------------------------------------------


def test_it_composes_with_cda_and_dwa_each_of_which_counts(cache, tmp_path):
    given = {
        "init": "medium",
        "sre2l__crop": "resized",
        "cv-dd__priors": (60.0, 52.0, 55.0),
        "ipc": 1,
        "labels": "hard",
    }
    found = {}
    for more in ((), ("cda",), ("dwa",), ("cda", "dwa")):
        dwa = {"dwa__rho": 0.2} if "dwa" in more else {}
        found[more] = distilled(
            opened(cache, tmp_path / ("-".join(more) or "alone"), "sre2l", "cv-dd", *more, **given, **dwa)
        )
    every = [each["pixels"] for each in found.values()]
    assert all(torch.isfinite(pixels).all() for pixels in every)
    assert all(not torch.equal(one, other) for at, one in enumerate(every) for other in every[at + 1 :])


def test_under_dwa_each_member_moves_and_votes_keep_their_weights(cache, tmp_path):
    given = {"init": "medium", "cv-dd__priors": (60.0, 52.0, 55.0), "labels": "hard", "ipc": 1}
    run = opened(cache, tmp_path, "sre2l", "cv-dd", "dwa", **given)
    task = distillation_tasks(run)[0]
    plain, moved = run.votes("match", task), begin(task, run).fixed["votes"]
    assert [v.weight for v in moved] == [v.weight for v in plain]
    for before, after in zip(plain, moved, strict=True):
        assert before.network is not after.network
        assert any(
            not torch.equal(p, q) for p, q in zip(before.network.parameters(), after.network.parameters(), strict=True)
        )


def test_nrr_dd_asks_the_whole_committee_for_its_patches(cache, tmp_path):
    given = {"init": "cidd", "nrr-dd__pool": 12, "nrr-dd__crops": 2, "labels": "two-distances", "ipc": 1, "steps": 1}
    found = distilled(opened(cache, tmp_path, "sre2l", "nrr-dd", "cv-dd", **given))
    assert torch.isfinite(found["pixels"]).all()


def test_two_suggestions_of_where_to_start_are_a_choice(cache, tmp_path):
    with pytest.raises(PluginError, match="each suggest their own: choose with --init medium or real"):
        opened(cache, tmp_path, "sre2l", "cv-dd", "dwa", labels="hard")


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (each("priors", 0.64, 0.5, 0.6), "give percent, 64 for 0.64"),
        (each("priors", 64, 50), "--cv-dd.priors are 2 and there are 3 teachers: give one for each"),
        (each("fixed", 1, 4), "--cv-dd.fixed is 1, 4, and there are 3 teachers: give numbers from 1 to 3, each once"),
        (each("fixed", 2, 2), "--cv-dd.fixed is 2, 2, and there are 3 teachers"),
        (["--cv-dd.prior=given"], "--cv-dd.prior given needs --cv-dd.priors"),
        (["--cv-dd.temperature=0"], "out of range"),
    ],
)
def test_what_cannot_be_is_one_sentence(cache, tmp_path, capsys, words, said):
    assert invoke(command(cache, tmp_path / "run", "--protocol=quick-1", *words)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
