"""One step of dm, dc, mtt, datm and sre2l beside their authors' loops in plain torch, in float64, on a device.

Each loop is written as the authors' code has it, on what the run drew: networks, real images, experts, orders.
"""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from ddcore.composing.discovery import installed
from ddcore.kit.contract import stage
from ddcore.kit.contract.stand_in import standing_in
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.loop import begin, outer_step
from ddcore.training.trajectory import choose_segment, inner_indices

FAR = {"rtol": 1e-6, "atol": 1e-9}


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.cuda)])
def step_of(request, tmp_path):
    """From a matcher and options to its run, task, what it began with and what one step made of that."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")

    def make(name, **given):
        if name not in installed():
            pytest.skip(f"ddcore-{name} is not installed")
        run = stage.find_subject(name, tmp_path).run(device="cuda", dtype="float64", steps=1, **given)
        task = distillation_tasks(run)[0]
        learn = begin(task, run)
        start = {n: tensor.detach().clone().requires_grad_() for n, tensor in learn.tensors.items()}
        outer_step(task, 0, learn, run)
        assert all(tensor.device.type == "cuda" for tensor in learn.tensors.values())
        return run, task, start, learn

    if request.param == "cuda":
        yield make
        return
    with standing_in():
        yield make


def descended(start, loss, rate):
    """Plain SGD's first step."""
    (gradient,) = torch.autograd.grad(loss, start, retain_graph=True)
    return start - rate * gradient


def test_dm_as_in_the_authors_loop(step_of):
    run, task, start, learn = step_of("dm", dm__lr_img=2.0, dm__batch_real=4)
    pixels, net = start["pixels"], run.network(run.generator("dm", "network", task.slot, 0))
    loss = torch.zeros((), dtype=torch.float64, device=run.device)
    for c in range(3):
        real = run.real.sample(c, 4, run.generator("dm", "real", task.slot, 0, c))
        own = pixels[(task.classes == c).to(run.device)]
        with torch.no_grad():
            target = net.embed(real)
        loss = loss + torch.sum((torch.mean(target, dim=0) - torch.mean(net.embed(own), dim=0)) ** 2)
    torch.testing.assert_close(learn.tensors["pixels"].detach(), descended(pixels, loss, 2.0).detach(), **FAR)


def test_dc_as_in_the_authors_loop(step_of):
    run, task, start, learn = step_of("dc", dc__lr_img=0.5, dc__batch_real=4, dc__outer_loops=1)
    pixels, net = start["pixels"], run.network(run.generator("dc", "network", task.slot, 0))
    loss = torch.zeros((), dtype=torch.float64, device=run.device)
    for c in range(3):
        real = run.real.sample(c, 4, run.generator("dc", "real", task.slot, 0, 0, c))
        own = pixels[(task.classes == c).to(run.device)]

        def gradient(images, c=c, **more):
            labels = torch.full((len(images),), c, device=run.device)
            return torch.autograd.grad(F.cross_entropy(net(images), labels), net.parameters(), **more)

        target = [g.detach() for g in gradient(real)]
        for gwr, gws in zip(target, gradient(own, create_graph=True), strict=True):
            if gwr.dim() > 1:  # biases and norms are skipped
                gwr, gws = gwr.flatten(1), gws.flatten(1)
                cosine = torch.sum(gwr * gws, dim=-1) / (gwr.norm(dim=-1) * gws.norm(dim=-1) + 0.000001)
                loss = loss + torch.sum(1 - cosine)
    torch.testing.assert_close(learn.tensors["pixels"].detach(), descended(pixels, loss, 0.5).detach(), **FAR)


def unrolled(run, task, start, owner, segment, steps):
    """||student - target||^2 / ||start - target||^2 after plain SGD on the synthetic set, its whole graph kept."""
    net = run.network(run.generator(owner, "network"))
    shapes = [(name, p.shape) for name, p in net.named_parameters()]
    weights, classes = segment.start.clone().requires_grad_(), task.classes.to(run.device)
    rows = inner_indices(len(classes), len(classes), steps, run.generator(owner, "batches", task.slot, 0))
    for row in rows:
        row = row.to(run.device)
        parts = torch.split(weights, [shape.numel() for _, shape in shapes])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
        out = functional_call(net, named, (start["pixels"][row],))
        if "labels" in start:
            loss = -(start["labels"][row].softmax(1) * out.log_softmax(1)).sum(1).mean()
        else:
            loss = F.cross_entropy(out, classes[row])
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - start["rate"] * gradient
    ((target, _),) = segment.targets.values()
    return (weights - target).pow(2).sum() / (segment.start - target).pow(2).sum()


@pytest.mark.parametrize("owner", ["mtt", "datm"])
def test_mtt_and_datm_as_in_the_authors_loop(owner, step_of):
    given = {f"{owner}__{name}": value for name, value in {"lr_img": 10.0, "lr_lr": 1e-4, "student_steps": 3}.items()}
    given |= {f"{owner}__expert_epochs": 1, f"{owner}__max_start_epoch": 2}
    run, task, start, learn = step_of(owner, **given)
    segment = choose_segment(run, owner, task, 0, 0, 2, 1)
    loss = unrolled(run, task, start, owner, segment, 3)
    rates = {"pixels": 10.0, "rate": 1e-4, **({"labels": 5.0} if owner == "datm" else {})}
    assert set(rates) == set(learn.tensors)
    for name, rate in rates.items():
        due, got = descended(start[name], loss, rate).detach(), learn.tensors[name].detach()
        assert not torch.equal(got, start[name].detach())
        torch.testing.assert_close(got, due, rtol=1e-5, atol=1e-9)


def test_sre2l_as_in_the_authors_loop(step_of):
    given = {"crop": "none", "roll": 0, "rate": 0.1, "bn": 0.05}
    teachers = {"networks": ("convnet2-bn-w4",), "epochs": 1, "check": False}
    every = {f"sre2l__{n}": v for n, v in given.items()} | {f"teachers__{n}": v for n, v in teachers.items()}
    run, task, start, learn = step_of("sre2l", **every)
    net, pixels, classes = run.teachers.network(0), start["pixels"], task.classes.to(run.device)
    features = []

    def hook(module, inputs, output):
        mean = inputs[0].mean([0, 2, 3])
        var = inputs[0].permute(1, 0, 2, 3).contiguous().reshape(inputs[0].shape[1], -1).var(1, unbiased=False)
        features.append(torch.norm(module.running_var.data - var, 2) + torch.norm(module.running_mean.data - mean, 2))

    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(hook)
    optimizer = torch.optim.Adam([pixels], lr=0.1, betas=(0.5, 0.9), eps=1e-8)
    loss = F.cross_entropy(net(pixels), classes)
    scale = [10.0] + [1.0] * (len(features) - 1)
    (loss + 0.05 * sum(s * f for s, f in zip(scale, features, strict=True))).backward()
    optimizer.step()
    due = run.normalisation.clamped(pixels.detach())
    torch.testing.assert_close(learn.tensors["pixels"].detach(), due, rtol=1e-5, atol=1e-7)
