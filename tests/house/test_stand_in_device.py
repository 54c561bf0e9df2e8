"""Everything a GPU is used for, on a device that is not there: what CUDA refuses is refused, and the numbers are the CPU's."""

import numpy as np
import pytest
import torch
from attrs import evolve
from on_devices import (
    ALONE,
    ASIDE,
    HERE,
    KINDS,
    OF_DATA,
    SMALL,
    TEACHERS,
    TRAINED,
    a_set,
    command,
    relabelled,
    told,
    trained,
    whole_run,
    words_of,
)
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

from ddcore import devices
from ddcore.api.types import Batch, Segment, Synthetic, Task
from ddcore.cli.app import invoke
from ddcore.composing import answers
from ddcore.errors import PluginError
from ddcore.kit.contract import stage
from ddcore.kit.contract.stand_in import Refused, StandIn, cutting_alike, standing_in
from ddcore.randomness import drawing_from
from ddcore.testing import PROBE, resume_to_end, stop_often, tiny_words

pytestmark = pytest.mark.usefixtures("probes")


@pytest.fixture
def device():
    with standing_in() as device:
        yield device


# ---- the device itself -----------------------------------------------------------------------------------------------


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape):
    return torch.randn(*shape, generator=seeded())


REFUSED = {
    "a sum over devices": lambda here, there: here + there,
    "a product over devices": lambda here, there: there[None] @ here,
    "joining": lambda here, there: torch.cat([here, there]),
    "writing into the CPU's": lambda here, there: here.add_(there),
    "a loss of classes elsewhere": lambda here, there: F.cross_entropy(there[None], here[:1].long()),
    "a device's index": lambda here, there: here[there.long()],
    "a CPU's index for index_select": lambda here, there: there.index_select(0, here.long()),
    "a network elsewhere": lambda here, there: nn.Linear(4, 2)(there),
    "putting CPU values by index": lambda here, there: there.index_put_((there.long(),), here),
    "numpy": lambda here, there: there.numpy(),
    "an array": lambda here, there: np.asarray(there),
    "a CPU generator in place": lambda here, there: there.normal_(generator=seeded()),
    "a CPU generator": lambda here, there: torch.randn(3, device=there.device, generator=seeded()),
    "random numbers of its own": lambda here, there: torch.rand(3, device=there.device),
    "random numbers like it": lambda here, there: torch.rand_like(there),
    "dropout": lambda here, there: F.dropout(there),
}
ALLOWED = {
    "a CPU scalar": lambda here, there: there * torch.tensor(2.0),
    "a CPU index": lambda here, there: there[here.long()],
    "a CPU mask": lambda here, there: there[here > 1],
    "copying": lambda here, there: there.copy_(here),
    "setting a slice": lambda here, there: there.__setitem__(slice(0, 4), here) or there,
    "moving": lambda here, there: here.to(there.device) + there,
    "moving to one like it": lambda here, there: here.to(there) + there,
    "making one like it": lambda here, there: torch.zeros_like(there) + there.new_ones(4) + there.new_tensor([1.0]),
    "making one there": lambda here, there: torch.arange(4, device=there.device) + torch.tensor([1], device="cuda"),
    "reading a number": lambda here, there: torch.tensor(there[1].item() + float(there.sum()), device=there.device),
    "one_hot": lambda here, there: F.one_hot(there.long(), 5),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses_what_a_gpu_refuses(what, device):
    with pytest.raises(Refused):
        REFUSED[what](torch.arange(4.0), torch.arange(4.0).to(device))


@pytest.mark.parametrize("what", ALLOWED)
def test_it_allows_what_a_gpu_allows(what, device):
    found = ALLOWED[what](torch.arange(4.0), torch.arange(4.0).to(device))
    assert isinstance(found, StandIn) and found.is_cuda and found.device == torch.device("cuda", 0)


def test_its_values_come_back_with_their_gradient(device):
    here = torch.ones(3, requires_grad=True)
    (here.to(device) * 2).cpu().sum().backward()
    assert type(here.grad) is torch.Tensor and here.grad.tolist() == [2, 2, 2]
    there = torch.ones(3, device=device, requires_grad=True)
    (there.cpu() * 2).sum().backward()
    assert isinstance(there.grad, StandIn) and there.is_leaf


def test_it_is_gone_after_the_block():
    with standing_in() as device:
        tensor = torch.ones(2, device=device)
    assert torch.ones(2).device.type == "cpu" and not devices.names() and devices.chosen("auto").type == "cpu"
    assert tensor.device.type == "cuda"


def network():
    with drawing_from(seeded()):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.LayerNorm(8)
        )


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, fused=True),
    "sgd, foreach": lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, 0.1, fused=True),
    "adam, foreach": lambda p: torch.optim.Adam(p, 0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_on_it_gives_the_cpus_bits(optimizer, device):
    def trained(where):
        mine, images = network().to(where), noise(6, 3, 8, 8).to(where)
        stepper = OPTIMIZERS[optimizer](mine.parameters())
        for _ in range(3):
            stepper.zero_grad()
            with devices.autocast(images.device):
                F.cross_entropy(mine(images), torch.arange(6).to(where)).backward()
            stepper.step()
            stepper.load_state_dict(stepper.state_dict())
        return [tensor.cpu() for tensor in mine.state_dict().values()]

    assert all(map(torch.equal, trained(device), trained("cpu")))


def test_transforms_of_functions_work_on_it(device):
    def gradients(where):
        mine, images = network().to(where).eval(), noise(4, 3, 8, 8).to(where)
        weights = {name: p.detach() for name, p in mine.named_parameters()}

        def loss(weights, image):
            out = functional_call(mine, weights, (image[None],)).square()
            return (out * torch.ones(8, device=out.device)).sum()

        found = vmap(grad(loss), in_dims=(None, 0))(weights, images)
        found["jacobian"] = jacrev(lambda x: x.sin())(images[0, 0, 0])
        return {name: tensor.cpu() for name, tensor in found.items()}

    there, here = gradients(device), gradients("cpu")
    assert all(torch.equal(there[name], here[name]) for name in here)


def test_a_second_derivative_works_on_it(device):
    def twice(where):
        x = noise(5).to(where).requires_grad_()
        (first,) = torch.autograd.grad(x.exp().prod(), x, create_graph=True)
        (second,) = torch.autograd.grad(torch.stack([part.sum() for part in first.split(2)]).square().sum(), x)
        return second.cpu()

    assert torch.equal(twice(device), twice("cpu"))


def test_its_own_generator_draws_from_the_runs(device):
    def drawn(seed):
        with drawing_from(seeded(seed), device):
            return F.dropout(torch.ones(64, device=device)).cpu(), F.dropout(torch.ones(64, device=device)).cpu()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], other[0])
    with drawing_from(source := seeded(1), device):
        early = F.dropout(torch.ones(64, device=device)).cpu()
    with drawing_from(source, device):
        late = F.dropout(torch.ones(64, device=device)).cpu()
    assert torch.equal(early, first[0]) and not torch.equal(early, late)


# ---- every plugin ----------------------------------------------------------------------------------------------------


def both(tmp_path, make):
    """The same on the device that is not there, and on the CPU."""
    with standing_in():
        there = make(tmp_path / "there", "cuda")
    with cutting_alike():
        here = make(tmp_path / "here", "cpu")
    return there, here


def check_same(there, here):
    assert stage.same_bits(there[0], here[0]) is None
    assert there[1] == here[1]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in ASIDE else n for n in ALONE])
def test_a_whole_run_of_every_plugin_gives_the_cpus_bits(name, tmp_path):
    check_same(*both(tmp_path, lambda folder, device: whole_run(name, folder, device)))


@pytest.mark.skipif(not {"fyi", "datm"} <= set(HERE), reason="ddcore-fyi and ddcore-datm are not installed")
def test_the_headline_run_gives_the_cpus_bits(tmp_path):
    check_same(
        *both(tmp_path, lambda folder, device: whole_run("datm", folder, device, "--plugin", "fyi", init="real"))
    )


# ---- answers on the wrong device --------------------------------------------------------------------------------------

HERE_AND_THERE = {
    "images": lambda cpu, gpu, batch: answers.batch(batch.with_inputs(cpu), batch, WHO, same_rows=True),
    "the index": lambda cpu, gpu, batch: answers.batch(
        evolve(batch, index=batch.index.cpu()), batch, WHO, same_rows=True
    ),
    "the target 'class'": lambda cpu, gpu, batch: answers.batch(
        evolve(batch, targets={"class": batch.targets["class"].cpu()}), batch, WHO, same_rows=True
    ),
    "the target 'lam'": lambda cpu, gpu, batch: answers.batch(
        evolve(batch, targets={**batch.targets, "lam": torch.ones(2)}), batch, WHO, same_rows=True
    ),
    "the learned tensor": lambda cpu, gpu, batch: answers.projected(cpu, gpu, WHO),
    "a loss": lambda cpu, gpu, batch: answers.expert_loss(cpu.sum().requires_grad_(), gpu.sum(), WHO),
    "weights": lambda cpu, gpu, batch: answers.segment(
        Segment(gpu[0], {1: (cpu[0], 1.0)}), Segment(gpu[0], {1: (gpu[0], 1.0)}), WHO
    ),
    "the tensor 'pixels'": lambda cpu, gpu, batch: answers.finished({"pixels": gpu}, {"pixels": cpu}, WHO),
    "classes": lambda cpu, gpu, batch: answers.stored(
        Synthetic({}, {}, [], batch.index), Synthetic({}, {}, [], batch.index.cpu()), WHO
    ),
    "a task's classes": lambda cpu, gpu, batch: answers.tasks([Task("distil", "a", 1, classes=batch.index)], WHO),
    "a network": lambda cpu, gpu, batch: answers.teacher(nn.Linear(2, 2).eval(), nn.Linear(2, 2).to(gpu.device), WHO),
}
WHO = "ddcore_x of 'mine' (ddcore-mine 1.2)"


@pytest.mark.parametrize("what", HERE_AND_THERE)
def test_an_answer_on_the_wrong_device_is_a_sentence(what, device):
    cpu = torch.ones(2, 2)
    batch = Batch(
        cpu.to(device), {"class": torch.zeros(2, dtype=torch.int64, device=device)}, torch.arange(2, device=device)
    )
    with pytest.raises(
        PluginError, match=r"ddcore_x of 'mine' \(ddcore-mine 1.2\) returned .* on .* where .* is due: "
    ) as told:
        HERE_AND_THERE[what](cpu, cpu.to(device), batch)
    assert f"returned {what} on" in str(told.value)


LOOKED_AT = {
    "ddcore_view": (
        "view_phases = ('match',)",
        "ddcore_view(self, batch): return batch.with_inputs(batch.inputs.cpu())",
    ),
    "ddcore_project": ("", "ddcore_project(self, after): return after.cpu()"),
    "Companion.finish": (
        "",
        """ddcore_companion(self, run):
            import ddcore

            class Along(ddcore.Companion):
                def finish(self, tensors):
                    return {n: t.to(run.device) for n, t in tensors.items()}

            return Along()""",
    ),
}


@pytest.mark.parametrize("hook", LOOKED_AT)
def test_a_run_names_who_answered_on_the_wrong_device(hook, site, tmp_path, capsys):
    phases, body = LOOKED_AT[hook]
    site.plugin("lost", f"{phases}\n        @hookimpl\n        def {body}")
    words = ["run", *PROBE, "--plugin=lost", *tiny_words(), "--steps=1"]
    with standing_in():
        assert invoke(words_of(*words, device="cuda", folder=tmp_path, out="run")) == 2
    assert f"error: {hook} of 'lost' (ddcore-lost 1.2) returned" in capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return a_set(tmp_path_factory.mktemp("finished"))


# ---- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", KINDS)
def test_every_kind_of_labels_is_made_and_learned_from(rule, finished, tmp_path):
    there, here = both(tmp_path, relabelled(rule, finished))
    check_same(there, here)
    assert len({labels for _, labels, *_ in there[1]}) == (1 if rule == "hard" else 2)


@pytest.mark.parametrize("what", TRAINED)
def test_students_are_trained(what, finished, tmp_path):
    check_same(*both(tmp_path, trained(what, finished)))


def test_a_run_that_is_stopped_often_ends_in_the_same_bits(tmp_path, monkeypatch):
    words = [
        "run",
        *PROBE,
        *SMALL,
        "--probe.experts",
        "--experts.count=1",
        "--experts.epochs=2",
        "--labels=averaged",
        *TEACHERS,
    ]
    there, here = both(tmp_path, command(*words))
    check_same(there, here)
    stop_often(monkeypatch)
    with standing_in():
        assert invoke(words_of(*words, device="cuda", folder=tmp_path, out="stopped")) == 3
        assert resume_to_end(tmp_path / "stopped") == 0
    check_same(told(tmp_path / "stopped"), there)


def test_a_training_that_is_stopped_often_ends_in_the_same_bits(tmp_path, monkeypatch):
    words = ["train", "--student=convnet2-bn-w4", *TRAINED["heed"], *OF_DATA]
    there, here = both(tmp_path, command(*words))
    stop_often(monkeypatch)
    with standing_in():
        assert invoke(words_of(*words, device="cuda", folder=tmp_path, out="stopped")) == 3
        assert resume_to_end(tmp_path / "stopped") == 0
    check_same(told(tmp_path / "stopped"), there)


def test_a_run_on_the_second_of_two_devices_asks_nothing_of_the_first(tmp_path):
    words = ["run", *PROBE, *SMALL, "--probe.experts", "--experts.count=1", "--experts.epochs=1", "--labels=averaged"]
    here = command(*words, *TEACHERS)(tmp_path / "here", "cpu")
    with standing_in(number=1), cutting_alike():
        there = command(*words, *TEACHERS)(tmp_path / "there", "cuda:1")
    check_same(there, here)


def test_a_device_of_a_number_that_is_not_there_is_refused(capsys):
    with standing_in(number=1):
        assert devices.chosen("cuda:1") == torch.device("cuda", 1)
        assert invoke(["run", *PROBE, *SMALL, "--device=cuda:2"]) == 2
    assert "torch sees cuda:0 (stand-in), cuda:1 (stand-in): choose one" in capsys.readouterr().err
    assert invoke(["run", *PROBE, *SMALL, "--device=gpu"]) == 2
    assert "auto, cpu, cuda or cuda:NUMBER" in capsys.readouterr().err


DROPPING = """
from typing import ClassVar
from attrs import frozen
from torch import nn
from ddcore import Plugin, hookimpl

class Net(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(inputs, classes)
    def embed(self, images):
        return self.drop(images.flatten(1))
    def forward(self, images):
        return self.last(self.embed(images))

@frozen(kw_only=True, eq=False)
class Dropping(Plugin):
    summary: ClassVar[str] = "a network with dropout, for tests"
    paper: ClassVar[str] = "none: a test"
    networks: ClassVar[tuple[str, ...]] = ("dropping",)

    @hookimpl
    def ddcore_network(self, name, channels, size, classes):
        return Net(channels * size**2, classes) if name == "dropping" else None
"""


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dropout_of_students_experts_and_teachers_is_the_seeds(device, tmp_path):
    (tmp_path / "dropping.py").write_text(DROPPING)
    words = ["run", "--plugin-path", tmp_path / "dropping.py", *PROBE, *SMALL, "--labels=averaged", "--views.dropout"]
    words += [
        "--network=dropping",
        "--teachers.networks=dropping",
        *TEACHERS[:2],
        "--probe.experts",
        "--experts.count=1",
    ]
    with standing_in():
        one, same, other = (
            command(*words, "--experts.epochs=2", f"--seed={seed}")(tmp_path / folder, device)
            for folder, seed in (("one", 0), ("same", 0), ("other", 1))
        )
    check_same(one, same)
    assert stage.same_bits(one[0], other[0]) and one[1] != other[1]


@pytest.mark.skipif("text" not in HERE, reason="ddcore-text is not installed")
def test_students_of_texts_are_trained(tmp_path):
    words = ["train", "--plugin=text", "--data=sentences", "--student=transformer1-w16", "--per-class=8"]
    check_same(*both(tmp_path, command(*words, *OF_DATA)))
