"""The score: closed forms, limits, invariances, slow twins; the space, the evolution, the authors' table, the command."""

import json

import pytest
import torch
from ddcore_diswot.__main__ import Bench, choices, invoke
from ddcore_diswot.ranks import kendall, spearman
from ddcore_diswot.scoring import (
    Judge,
    alike,
    classifier_gradient,
    gaussian,
    look,
    relation_similarity,
    relations,
    semantic_similarity,
)
from ddcore_diswot.search import Evolution, best_of, evolve
from ddcore_diswot.space import ResNet, Space, cost, cost_of, maker, published, small
from torch import nn
from torch.nn import functional as F

from ddcore import InputError
from ddcore.cli.app import invoke as ddcore
from ddcore.kit.contract import check_plugin
from ddcore.networks.zoo import build


def seeded(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawing(seed=0):
    return torch.Generator().manual_seed(seed)


T, S = seeded(6, 3, 4, 4), seeded(6, 5, 2, 2, seed=1)
G_T, G_S = seeded(4, 7), seeded(4, 7, seed=1)
IMAGES, CLASSES = seeded(8, 1, 8, 8).float(), torch.arange(8) % 4


# ---- relations -------------------------------------------------------------------------------------------------------


def slow_relations(teacher, student):
    total, count = 0.0, len(teacher)
    for i in range(count):
        rows = []
        for x in (teacher.flatten(1), student.flatten(1)):
            row = torch.stack([(x[i] * x[j]).sum() for j in range(count)])
            rows.append(row / row.norm())
        total = total - ((rows[0] - rows[1]) ** 2).sum()
    return total / count**2


def test_relations_equal_a_slow_twin():
    torch.testing.assert_close(relation_similarity(T, S), slow_relations(T, S))


def test_relations_by_hand():
    # A = (1, 1), (0, 1): G = (2 1; 1 1), rows over sqrt 5 and sqrt 2
    features = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    due = torch.tensor([[2 / 5**0.5, 1 / 5**0.5], [1 / 2**0.5, 1 / 2**0.5]], dtype=torch.float64)
    torch.testing.assert_close(relations(features), due)


def test_check_relations_do_not_see_scale_rotation_and_the_order_of_channels():
    turn = torch.linalg.qr(seeded(20, 20, seed=2))[0]
    for moved in (7.5 * S, (S.flatten(1) @ turn)[:, :, None, None], S[:, torch.tensor([3, 0, 4, 1, 2])]):
        torch.testing.assert_close(relation_similarity(T, moved), relation_similarity(T, S))


def test_check_relations_lie_within_their_bounds():
    assert -4 / 6 <= float(relation_similarity(T, S)) <= 0
    assert -2 / 6 <= float(relation_similarity(T.relu(), S.relu())) <= 0
    # two images that a network sees as opposites, another as equal: (2 - 2 cos) is 2 for each row
    one, other = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    assert float(relation_similarity(one, other)) == pytest.approx(-2 / 2)


def test_check_dead_features_give_no_nan():
    dead = S.clone()
    dead[2] = 0
    assert torch.isfinite(relation_similarity(T, dead)) and torch.isfinite(relation_similarity(0 * T, S))
    gradient = G_S.clone()
    gradient[1] = 0
    gradient[2, 3] = 0
    assert torch.isfinite(semantic_similarity(G_T, gradient))
    torch.testing.assert_close(semantic_similarity(G_T, gradient), slow_semantic(G_T, gradient))


@pytest.mark.parametrize("scale", [1e-30, 1e12, 1e30])
def test_scores_do_not_see_sizes_whose_squares_float32_cannot_hold(scale):
    features, gradient = (scale * S).float(), (scale * G_S).float()
    found = torch.stack([relation_similarity(T.float(), features), semantic_similarity(G_T.float(), gradient)])
    due = torch.stack([relation_similarity(T, S), semantic_similarity(G_T, G_S)])
    torch.testing.assert_close(found, due.float())


def test_dead_features_have_finite_gradients():
    dead, gradient = S.clone(), G_S.clone()
    dead[2], gradient[1] = 0, 0
    for similarity, *pair in ((relation_similarity, T, dead), (semantic_similarity, G_T, gradient)):
        found = torch.autograd.functional.jacobian(similarity, tuple(pair))
        assert all(torch.isfinite(part).all() for part in found)


# ---- semantics -------------------------------------------------------------------------------------------------------


def slow_semantic(teacher, student):
    classes, width = teacher.shape
    total = 0.0
    for k in range(classes):
        maps = [F.normalize(torch.outer(g[k], g[k]), dim=1) for g in (teacher, student)]
        total = total - ((maps[0] - maps[1]) ** 2).sum()
    return total / (width * classes)


def test_check_the_closed_form_is_that_of_outer_products():
    torch.testing.assert_close(semantic_similarity(G_T, G_S), slow_semantic(G_T, G_S), atol=1e-12, rtol=1e-12)
    assert -4 <= float(semantic_similarity(G_T, G_S)) <= 0


def test_the_closed_form_in_words():
    signs = (G_T.sign() * G_S.sign()).mean(1)
    due = -(2 - 2 * F.cosine_similarity(G_T, G_S) * signs).mean()
    torch.testing.assert_close(semantic_similarity(G_T, G_S), due)


def test_check_semantics_do_not_see_positive_scales_and_a_flipped_class():
    scale = torch.tensor([[2.0], [0.1], [30.0], [1.0]], dtype=torch.float64)
    flip = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    for moved in (scale * G_S, flip * G_S):
        torch.testing.assert_close(semantic_similarity(G_T, moved), semantic_similarity(G_T, G_S))
    torch.testing.assert_close(semantic_similarity(G_T, -G_T), torch.zeros((), dtype=G_T.dtype), atol=1e-12, rtol=0)


def test_opposite_worlds_reach_the_bounds():
    g = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    assert float(semantic_similarity(*g)) == pytest.approx(-2)


@pytest.mark.parametrize("wrong", [seeded(4, 6), seeded(3, 7)])
def test_check_other_widths_and_classes_are_refused(wrong):
    with pytest.raises(InputError, match="choose a last stage as wide as the teacher's, or --use relation"):
        semantic_similarity(G_T, wrong)


def test_the_gradient_is_autograds():
    network = build("resnet8", 1, 8, 4, drawing())
    seen = look(network, IMAGES, CLASSES)
    F.cross_entropy(network(IMAGES), CLASSES).backward()
    torch.testing.assert_close(seen.gradient, network.classifier.weight.grad, atol=1e-7, rtol=1e-5)
    x, z = seeded(5, 7), seeded(5, 3).requires_grad_()
    F.cross_entropy(z, torch.tensor([0, 2, 1, 1, 0])).backward()
    torch.testing.assert_close(classifier_gradient(x, z.detach(), torch.tensor([0, 2, 1, 1, 0])), z.grad.T @ x)


# ---- networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet8", "wrn-16-2", "convnet2-bn-w4"])
def test_check_networks_are_left_as_they_were(name):
    network = build(name, 1, 8, 4, drawing()).eval()
    network.train(name == "resnet8")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    look(network, IMAGES, CLASSES)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [module.training for module in network.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(getattr(m, "track_running_stats", True) for m in network.modules())


def test_features_are_the_last_map_before_pooling_under_the_batchs_statistics():
    network = build("resnet8", 1, 8, 4, drawing())
    seen = look(network.eval(), IMAGES, CLASSES)
    network.train()
    features = network.stem(IMAGES)
    for stage in network.stages:
        features = stage(features)
    torch.testing.assert_close(seen.features, features.detach())


def test_check_a_student_that_is_the_teacher_scores_nothing_less():
    seen = look(build("resnet8", 1, 8, 4, drawing()), IMAGES, CLASSES)
    found = alike(seen, seen)
    assert (found.relation, found.semantic) == (0, pytest.approx(0, abs=1e-6))


def test_normal_weights_have_deviation_one_and_no_bias():
    network = gaussian(build("convnet2-bn-w16", 3, 8, 4, drawing()), drawing())
    weights = torch.cat([m.weight.flatten() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    assert float(weights.detach().std()) == pytest.approx(1, abs=0.05)
    assert not network.classifier.bias.any()


def judge(seeds=2, use="both"):
    batches = [(seeded(8, 1, 8, 8, seed=s).float(), CLASSES) for s in range(seeds)]
    return Judge(maker("resnet8", 1, 8, 4), batches, "normal", use)


def test_check_the_same_seeds_give_the_same_score_whoever_was_scored_before():
    net = maker("diswot-resnet:1-2-1", 1, 8, 4)
    first, second = judge(), judge()
    second.score(maker("diswot-resnet:3-1-1", 1, 8, 4))
    assert first.score(net) == second.score(net) == first.score(net)


def test_a_score_is_the_mean_over_seeds_and_moves_no_global_generator():
    net, before = maker("diswot-resnet:1-2-1", 1, 8, 4), torch.get_rng_state()
    one, two = judge(1).score(net), judge(2).score(net)
    assert torch.equal(torch.get_rng_state(), before)
    other = judge(2)
    parts = [alike(t, other._seen(net, s, "student")) for s, t in other._teachers.items()]
    assert parts[0] == one
    assert two.relation == pytest.approx(sum(p.relation for p in parts) / 2)
    assert two.value("both") == pytest.approx(two.relation + two.semantic)


# ---- the space -------------------------------------------------------------------------------------------------------


def test_names_and_networks_are_those_of_the_family():
    ours, theirs = (maker(name, 3, 32, 100)(drawing()) for name in ("diswot-resnet:3-3-3", "resnet20"))
    assert all(torch.equal(t, theirs.state_dict()[n]) for n, t in ours.state_dict().items())
    wide = maker("diswot-resnet:1-2-1:8-9-12", 1, 8, 10)(drawing())
    assert wide(IMAGES).shape == (8, 10)
    assert list(wide.taps) == ["stem", "stage1", "stage2", "stage3"]
    assert [ResNet.named(name) for name in ("diswot-resnet:0-1-1", "diswot-resnet:1-1", "resnet20")] == [None] * 3
    with pytest.raises(InputError, match="no network is named"):
        maker("resnot20", 3, 32, 10)(drawing())


def test_costs_are_counted_by_hand():
    # stem 1x8x9 + 16; two 3x3 of 8 channels and their norms; twice also a shortcut of 1x1; classifier 8x10 + 10
    block, halving = 2 * 8 * 8 * 9 + 2 * 16, 8 * 8 + 16
    found = cost("diswot-resnet:1-1-1:8-8-8", 1, 8, 10)
    assert found.parameters == 8 * 9 + 16 + 3 * block + 2 * halving + 90
    places = 64, 16, 4
    assert found.multiply_adds == 72 * 64 + sum(2 * 576 * p for p in places) + 64 * (16 + 4) + 80


@pytest.mark.parametrize("name", ["diswot-resnet:1-2-3:8-10-24", "diswot-resnet:1-1-1:8-8-8"])
def test_counted_costs_are_those_of_the_network(name):
    assert cost(name, 3, 7, 10) == cost_of(maker(name, 3, 7, 10)(drawing()), 3, 7)
    assert cost("resnet8", 3, 32, 100) == cost("diswot-resnet:1-1-1", 3, 32, 100)


def test_a_mutation_changes_one_or_two_numbers_within_the_space():
    space, parent = Space((1, 2, 3), ((8, 16), (8,), (8,))), ResNet((1, 2, 3), (16, 8, 8))
    changed = set()
    for seed in range(40):
        child = space.mutated(parent, drawing(seed))
        assert child in space.every()
        changed.add(
            sum(a != b for a, b in zip((*child.depths, *child.widths), (*parent.depths, *parent.widths), strict=True))
        )
    assert changed == {1, 2}
    assert len(space.every()) == 27 * 2
    with pytest.raises(InputError, match="one network only"):
        Space((1,)).mutated(ResNet((1, 1, 1)), drawing())


# ---- the evolution ---------------------------------------------------------------------------------------------------


def toy(fits=lambda bits: True, steps=150, score=sum, parents=5, population=10, seed=3):
    def draw(generator):
        return tuple(torch.randint(2, (16,), generator=generator).tolist())

    def mutate(bits, generator):
        at = int(torch.randint(16, (), generator=generator))
        return tuple(1 - bit if n == at else bit for n, bit in enumerate(bits))

    return evolve(
        score,
        draw,
        mutate,
        fits,
        Evolution(population=population, steps=steps, sample=8, parents=parents),
        generator=drawing(seed),
    )


def test_check_evolution_climbs_on_a_toy_score():
    gains = []
    for seed in range(16):
        history = toy(seed=seed)
        best = [max(score for _, score in history[: n + 1]) for n in range(len(history))]
        assert best_of(history)[1] == best[-1] == max(score for _, score in history)
        gains.append(best[-1] - best[9])
    assert sum(gains) / 16 > 1.5, gains  # 3.4 with a deviation of 1.2


def test_check_the_budget_is_never_exceeded():
    history = toy(fits=lambda bits: sum(bits) <= 9)
    assert max(sum(bits) for bits, _ in history) == 9
    with pytest.raises(InputError, match="raise it, or allow smaller ones"):
        toy(fits=lambda bits: False)


def test_check_parents_are_the_best_of_the_sample_and_not_the_worst():
    # a mutation alone leaves scores at 8 of 16 bits; means of 50 are 11.7 and 4.5, deviations 0.75 and 0.9 over seeds
    late = [score for seed in range(16) for _, score in toy(seed=seed)[-50:]]
    worst = [score for seed in range(16) for _, score in toy(score=lambda bits: -sum(bits), seed=seed)[-50:]]
    assert sum(late) / len(late) > 10
    assert sum(worst) / len(worst) > -6


def test_check_the_first_population_is_drawn_one_by_one():
    assert len({bits for bits, _ in toy(steps=0)}) == 10


def test_the_oldest_leaves_and_a_candidate_is_scored_once():
    asked = []

    def score(bits):
        asked.append(bits)
        return sum(bits)

    history = toy(score=score)
    assert len(history) == 160
    assert len(asked) == len(set(asked)) == len({bits for bits, _ in history})
    assert toy() == history


# ---- the authors' table ----------------------------------------------------------------------------------------------


def test_the_table_has_the_statistics_of_the_published_one():
    table = published()
    kd, plain = [t.kd for t in table.values()], [t.plain for t in table.values()]
    assert list(table) == Space().every()
    assert (min(kd), max(kd), min(plain), max(plain)) == (61.87, 74.86, 60.20, 72.56)
    assert sum(kd) / 64 - sum(plain) / 64 == pytest.approx(1.76, abs=0.005)
    assert max(table, key=lambda net: table[net].kd) == ResNet((5, 5, 7))
    assert max(table, key=lambda net: table[net].plain) == ResNet((7, 7, 7))
    assert (spearman(kd, plain), kendall(kd, plain)) == (pytest.approx(0.957, abs=5e-4), pytest.approx(0.836, abs=5e-4))


def test_parameters_alone_are_nearly_perfect_on_it():
    table = published()
    kd = [t.kd for t in table.values()]
    parameters = [cost(net.name, 3, 32, 100).parameters for net in table]
    assert spearman(kd, parameters) == pytest.approx(0.968, abs=2e-3)
    assert kendall(kd, parameters) == pytest.approx(0.873, abs=4e-3)
    assert spearman(kd, [sum(net.depths) for net in table]) == pytest.approx(0.814, abs=5e-4)


def test_small_networks_are_twenty_and_small():
    sizes = [cost(net.name, 3, 32, 10).parameters for net in small()]
    assert len(set(small())) == 20
    assert min(sizes) > 3e4 and max(sizes) < 3e5
    assert {net.widths[2] for net in small()} == {64}


def test_rank_correlations_by_hand():
    # pairs of (1, 2, 2, 3) and (1, 3, 2, 4): five differ in both, all alike; one tie
    assert kendall([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(5 / (5 * 6) ** 0.5)
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert kendall([1, 1], [1, 2]) != kendall([1, 1], [1, 2])


# ---- the command and the plugin --------------------------------------------------------------------------------------

CHECKS = ("hooks", "declarations", "immutable", "public", "options", "seed", "global-randomness", "resume", "whole-run")
"""Beside every matcher a network is tried by `ddcore plugins check diswot`, in minutes."""
QUICK = ["--data=digits", "--teacher=resnet8", "--seeds=1", "--batch=8"]


def test_the_contract_is_kept():
    check_plugin("diswot", CHECKS)


def test_ranks_are_printed_with_what_to_do_next(capsys):
    nets = [f"--student=diswot-resnet:{d}" for d in ("1-1-1", "2-1-1", "1-1-1:8-8-64")]
    assert invoke(["rank", *QUICK, *nets, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = [row["score"] for row in found["students"]]
    assert scores == sorted(scores, reverse=True)
    assert found["best"] == found["students"][0]["student"]
    assert invoke(["rank", *QUICK, *nets, "--use=relation", "--budget=80000"]) == 0
    shown = capsys.readouterr().out
    assert "--student diswot-resnet:" in shown
    assert "diswot-resnet:2-1-1 " not in shown


def test_a_search_stays_within_its_budget_and_returns_the_scores_own_best(capsys):
    words = [*QUICK, "--widths=8,16/8/64", "--depth=1", "--depth=2", "--population=3", "--steps=3", "--budget=60000"]
    assert invoke(["search", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert max(row["parameters"] for row in found["students"]) <= 60000
    assert found["best"] == max(found["students"], key=lambda row: row["score"])["student"]
    assert invoke(["search", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_a_relation_alone_lets_widths_differ():
    bench = Bench("digits", "resnet8", seeds=1, batch=8, use="relation")
    row = bench.row("resnet8x4", bench.score("resnet8x4"))
    assert row["score"] == row["relation"]
    assert "semantic" not in row


@pytest.mark.parametrize(
    ("words", "due"),
    [
        (["rank", *QUICK, "--student=resnet8x4"], "or --use relation"),
        (["rank", *QUICK, "--student=diswot-resnet:1-1-1:4-8-64"], "fewer than 8 channels: make it wider"),
        (["rank", *QUICK, "--student=resnot"], "no network is named 'resnot'"),
        (["rank", *QUICK, "--budget=10"], "raise --budget"),
        (["search", *QUICK, "--budget=10"], "none of 1000 random candidates is within the budget"),
        (["search", *QUICK, "--widths=4/x"], "write them as 8,16/16,32/64"),
        (["rank", "--teacher=resnet8"], "Missing option '--data'"),
    ],
)
def test_refusals_say_the_way_out(words, due, capsys):
    assert invoke(words) == 2
    assert due in capsys.readouterr().err
    assert choices("4/8/16") == ((4,), (8,), (16,))


def test_a_chosen_student_is_trained(tmp_path):
    words = ["--plugin=diswot", "--data=digits", "--per-class=5", "--protocol=kd-3", "--eval-seeds=1", "--threads=1"]
    assert ddcore(["train", *words, "--student=diswot-resnet:1-2-1:8-8-16", f"--out={tmp_path / 'a'}"]) == 0
    rows = json.loads((tmp_path / "a" / "scores.json").read_text())["rows"]
    assert rows[0]["network"] == "diswot-resnet:1-2-1:8-8-16"
