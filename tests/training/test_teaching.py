"""What students' losses see: features by name, teachers asked once, no hook left behind, modules that are trained along."""

import pytest
import torch
from torch import nn

from ddcore import Vote
from ddcore.api.types import Seen
from ddcore.cli.app import invoke
from ddcore.errors import InputError
from ddcore.networks.zoo import build
from ddcore.training.teaching import EMBEDDING, Teaching, last_linear, path_of, seen_of, tapped


def network(name="convnet2-bn-w4", channels=3, size=8, classes=4):
    return build(name, channels, size, classes, torch.Generator().manual_seed(0)).eval()


IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.calls = network(), 0

    def forward(self, images):
        self.calls += 1
        return self.inner(images)


def test_the_embedding_is_what_embed_gives_and_stages_are_their_modules_outputs():
    net = network()
    with tapped(net, [EMBEDDING, "stage1", "features.4"]) as features:
        logits = net(IMAGES)
    assert torch.equal(features[EMBEDDING], net.embed(IMAGES))
    assert torch.equal(features["stage1"], net.features[:4](IMAGES))
    assert torch.equal(features["features.4"], net.features[:5](IMAGES))
    assert torch.equal(net.classifier(features[EMBEDDING]), logits)


@pytest.mark.parametrize("name", ["resnet18-bn", "resnet8", "wrn-16-1", "alexnet-bn", "torchvision:resnet18"])
def test_every_networks_embedding_is_found(name):
    net = network(name, size=32)
    with torch.no_grad(), tapped(net, [EMBEDDING]) as features:
        net(torch.zeros(2, 3, 32, 32))
    assert torch.allclose(features[EMBEDDING], net.embed(torch.zeros(2, 3, 32, 32)))


def test_stages_of_a_resnet_are_its_four_widths():
    net = network("resnet18", size=32)
    with torch.no_grad(), tapped(net, list(net.taps)) as features:
        net(torch.zeros(1, 3, 32, 32))
    assert [tuple(f.shape[1:]) for f in features.values()] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_no_hook_stays_even_when_the_pass_fails():
    net = network()
    with pytest.raises(RuntimeError), tapped(net, [EMBEDDING, "stage1"]):
        net(torch.zeros(1, 7, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_two_taps_of_one_module_and_two_blocks_at_once_do_not_meet():
    net = network()
    with tapped(net, ["stage1"]) as one, tapped(net, ["stage1", "features.3"]) as other:
        net(IMAGES)
    assert torch.equal(one["stage1"], other["stage1"])
    assert torch.equal(other["stage1"], other["features.3"])


def test_an_unknown_name_is_refused_at_once_with_the_nearest():
    with pytest.raises(InputError, match="no module or tap 'stage9'.*stage"), tapped(network(), ["stage9"]):
        pass
    with pytest.raises(InputError, match="no linear layer"):
        last_linear(nn.Sequential(nn.Conv2d(3, 3, 1)))
    assert path_of(network(), "classifier") == "classifier"


def test_a_feature_that_nobody_asked_for_says_how_to_ask():
    with pytest.raises(InputError, match="name it in the plugin's taps"):
        Seen(torch.zeros(1, 2), {}).feature("stage1")


def test_teachers_are_asked_once_and_only_if_somebody_looks():
    teacher = Counting()
    teaching = Teaching([Vote(teacher, 0.5), Vote(teacher, 0.25)], IMAGES)
    assert teacher.calls == 0
    first = teaching.logits
    assert teaching.seen[0].logits is teaching.seen[0].logits
    assert teacher.calls == 2
    assert torch.allclose(first, 0.75 * teacher.inner(IMAGES))
    assert not first.requires_grad


def test_logits_that_the_labels_brought_spare_the_teachers():
    teacher = Counting()
    told = torch.ones(3, 4)
    assert Teaching([Vote(teacher)], IMAGES, (), told).logits is told
    assert teacher.calls == 0


PUPIL = """
from typing import ClassVar
import torch
from attrs import frozen
from torch import nn
from ddcore import Plugin, Term, hookimpl, option

@frozen(kw_only=True, eq=False)
class Mimic(Plugin):
    summary: ClassVar[str] = "embeddings through a linear map, for tests"
    role: ClassVar[str] = "student"
    needs: ClassVar[tuple] = ("teachers",)
    label_weight: float = option(1.0, help="weight of the labels' loss")

    def taps(self):
        return ("embedding",)

    @hookimpl
    def ddcore_student_modules(self, seen, teachers, network):
        assert not torch.is_grad_enabled()
        return nn.Linear(seen.feature("embedding").shape[1], teachers.seen[0].feature("embedding").shape[1])

    @hookimpl
    def ddcore_student_loss(self, batch, seen, teachers, modules, network):
        assert modules.training and network.training
        assert not teachers.votes[0].network.training
        gap = modules(seen.feature("embedding")) - teachers.seen[0].feature("embedding")
        return Term("mimic", gap.square().mean(), 0.1, self.label_weight)
"""


def command(out, cache, *words):
    quick = ["--ipc=2", "--steps=1", "--network=convnet2-w4", "--protocol=quick-5", "--eval-seeds=1", "--full-epochs=1"]
    quick += ["--threads=1", "--preset=none", "--init=real", f"--cache={cache}", f"--out={out}"]
    teachers = ["--teachers.networks=convnet1-bn-w4", "--teachers.epochs=3", "--teachers.no-check"]
    return ["run", "--plugin-path", str(out.parent / "probe.py"), *quick, *teachers, *words]


@pytest.fixture
def mimic(tmp_path):
    from ddcore.kit.contract import stage

    (tmp_path / "probe.py").write_text((stage.HERE / "probe.py").read_text())
    (tmp_path / "mimic.py").write_text(PUPIL)
    return ["--plugin-path", str(tmp_path / "mimic.py")]


def scores(folder):
    import json

    rows = json.loads((folder / "scores.json").read_text())["rows"]
    return [row["accuracy"]["values"] for row in rows]


def test_a_loss_with_teachers_features_and_a_module_trains_every_students_row(mimic, tmp_path):
    assert invoke(command(tmp_path / "a", tmp_path / "cache", *mimic)) == 0
    assert invoke(command(tmp_path / "b", tmp_path / "other", *mimic)) == 0
    assert scores(tmp_path / "a") == scores(tmp_path / "b")
    assert invoke(command(tmp_path / "c", tmp_path / "cache", *mimic, "--mimic.label-weight=0")) == 0
    assert scores(tmp_path / "c") != scores(tmp_path / "a")


FACTOR = """
from typing import ClassVar
from attrs import frozen
from ddcore import Plugin, Term, hookimpl, option

@frozen(kw_only=True, eq=False)
class Factor(Plugin):
    summary: ClassVar[str] = "nothing but a factor of the labels' loss, for tests"
    role: ClassVar[str] = "student"
    label_weight: float = option(0.5, help="weight of the labels' loss")

    @hookimpl
    def ddcore_student_loss(self, output):
        return Term("factor", output.sum(), 0.0, self.label_weight)
"""


def test_factors_of_the_labels_loss_multiply_over_terms(tmp_path):
    from ddcore.kit.contract import stage

    (tmp_path / "probe.py").write_text((stage.HERE / "probe.py").read_text())
    names = {"a": "FactorA", "b": "FactorB"}
    files = {name: tmp_path / f"{name}.py" for name in names}
    for name, file in files.items():
        file.write_text(FACTOR.replace("Factor(Plugin)", f"{names[name]}(Plugin)"))
    one, two = (["--plugin-path", str(file)] for file in files.values())
    for number, words in {"1": [*one, "--a.label-weight=0.25"], "2": [*one, *two], "3": one}.items():
        given = command(tmp_path / number, tmp_path / "cache", *words)
        assert invoke([word for word in given if not word.startswith("--teachers.")]) == 0
    assert scores(tmp_path / "1") == scores(tmp_path / "2") != scores(tmp_path / "3")


def test_a_stopped_student_goes_on_with_its_module(mimic, tmp_path, monkeypatch):
    from ddcore.runs.run import Run

    assert invoke(command(tmp_path / "whole", tmp_path / "cache", *mimic)) == 0
    monkeypatch.setenv("DDCORE_CHECKPOINT_SECONDS", "0")
    stops = iter([False] * 8 + [True] + [False] * 6 + [True] + [False] * 500)
    monkeypatch.setattr(Run, "check_stop", _stopping(Run.check_stop, stops))
    code = invoke(command(tmp_path / "cut", tmp_path / "second", *mimic))
    assert code == 3
    while code == 3:
        code = invoke(["resume", str(tmp_path / "cut")])
    assert code == 0
    assert scores(tmp_path / "cut") == scores(tmp_path / "whole")


def _stopping(check, stops):
    def stop(run):
        run.stopping = run.stopping or next(stops)
        check(run)

    return stop


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, rows):
        return self.last(self.shared(self.shared(rows).relu()))


def test_a_module_that_runs_twice_gives_both_outputs_in_order_and_only_those_of_the_last_pass():
    net, rows = Twice(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with tapped(net, ["shared"]) as features:
        net(rows + 1)
        seen = seen_of(net(rows), features)
        net(rows - 1)
    first, second = seen.calls["shared"]
    assert torch.equal(first, net.shared(rows))
    assert torch.equal(second, net.shared(first.relu()))
    assert torch.equal(seen.feature("shared"), second)


def test_two_networks_that_are_looked_at_in_turn_see_what_each_sees_alone():
    one, two = network("convnet2-bn-w4"), network("resnet8", size=8)
    with tapped(one, [EMBEDDING]) as alone:
        one(IMAGES)
    with tapped(one, [EMBEDDING]) as ours, tapped(two, [EMBEDDING]) as theirs:
        one(IMAGES)
        two(IMAGES)
    assert torch.equal(ours[EMBEDDING], alone[EMBEDDING])
    assert torch.equal(theirs[EMBEDDING], two.embed(IMAGES))


def test_a_committee_of_one_and_of_the_same_one_three_times_say_what_it_says():
    net = network()
    alone = Teaching([Vote(net)], IMAGES).logits
    thrice = Teaching([Vote(net, 1 / 3)] * 3, IMAGES).logits
    assert torch.allclose(alone, net(IMAGES), atol=1e-6)
    assert torch.allclose(thrice, alone, atol=1e-6)


def test_all_stages_are_those_that_each_network_has():
    for name, count in (("convnet2-bn-w4", 2), ("resnet8", 3)):
        net = network(name)
        with tapped(net, ["stage2", "stage*", EMBEDDING]) as features:
            net(IMAGES)
        assert sorted(features) == [EMBEDDING, *(f"stage{n + 1}" for n in range(count))]
    with pytest.raises(InputError, match="no module or tap 'stage"), tapped(nn.Linear(2, 2), ["stage*"]):
        pass
