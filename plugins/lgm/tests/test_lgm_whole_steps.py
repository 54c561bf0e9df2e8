"""Whole steps of lgm beside the usual loop: autograd's gradient of a linear layer, torch's Adam on levels."""

import json

import pytest
import torch
from ddcore_lgm import HEAD, VIEWS, appearance, reshuffled
from ddcore_lgm.matching import shown, sides
from torch.nn import functional as F

from ddcore import Batch
from ddcore.cli.app import invoke
from ddcore.images import transform
from ddcore.kit.contract.stage import staged
from ddcore.networks import build
from ddcore.storage import save_tensors
from ddcore.storage.places import Place
from ddcore.testing import check_whole_steps

CLASSES, SIZE = 3, 8
GIVEN = {"dtype": "float64", "steps": 5, "ipc": 2, "lgm__encoder": "convnet2-w4", "lgm__classes": 5, "lgm__copies": 2}
SETTINGS = {
    "as published": {"lgm__views": True, "lgm__real_views": True},
    "without views of copies": {"lgm__real_views": True},
    "kept features": {"lgm__views": True, "lgm__batch_real": 20},
    "from real images": {"init": "real"},
    "no pyramid": {"lgm__pyramid": False},
}


@pytest.fixture
def encoder(tmp_path):
    network = build("convnet2-w4", 3, SIZE, 5, torch.Generator().manual_seed(7))
    save_tensors(Place.at(str(tmp_path / "encoder.safetensors")), dict(network.state_dict()), {})
    return network.double().eval(), str(tmp_path / "encoder.safetensors")


def usual_loop(run, task, tensors, network, *, rate=0.002, every=2):
    plugin, real = run.matcher, run.real.train
    fresh = run.plan.initializer == "noise"
    start = tensors["pixels"].detach().clone()
    given = run.initialize(task.classes, task)
    sizes = sides(SIZE, plugin.pyramid and fresh)

    def noise(number):
        if not fresh:
            images = run.normalisation.inverse(given).clamp(0.01, 0.99)
            roots = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0, -0.05], [0.27, -0.09, 0.03]]).double()
            return torch.einsum("dc,nchw->ndhw", (roots / roots.norm(dim=0).max()).inverse(), images.logit() / 2)
        return reshuffled(given, sizes[number], run.generator("lgm", "level", number))

    def view(of, step, images):
        draw = VIEWS.fitting(SIZE, run.source.mirror_symmetric)
        generator = run.generator("lgm", "view", of, task.slot, step)
        change = transform(draw, len(images), (SIZE, SIZE), generator)
        rows = torch.arange(len(images))
        return change(Batch(images, {"class": rows}, rows)).inputs

    levels = [noise(0).clone().requires_grad_()]
    optimizer = torch.optim.Adam(levels, lr=rate)
    torch.testing.assert_close(start, run.normalisation.apply(shown(levels, SIZE)).detach())
    for step in range(task.steps):
        count = plugin.batch_real or len(start) * plugin.copies
        rows = torch.randperm(len(real), generator=run.generator("lgm", "real", task.slot, step))[:count]
        images = real.inputs(rows)
        generator = run.generator("lgm", "head", task.slot, step)
        drawn = HEAD * torch.randn((CLASSES, network.embed(start).shape[1]), generator=generator)
        weight = drawn[appearance(real.labels, CLASSES)].double().requires_grad_()
        bias = torch.zeros(CLASSES, dtype=torch.float64, requires_grad=True)

        def slope(features, classes, weight=weight, bias=bias):
            loss = F.cross_entropy(features @ weight.T + bias, classes)
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [weight, bias], create_graph=True)])

        with torch.no_grad():
            features = network.embed(view("real", step, images) if plugin.real_views else images)
        target = slope(features, real.labels[rows]).detach()
        copies = run.normalisation.apply(shown(levels, SIZE)).repeat(plugin.copies, 1, 1, 1)
        copies = view("synthetic", step, copies) if plugin.views else copies
        found = slope(network.embed(copies), task.classes.repeat(plugin.copies))
        loss = 1 - found @ target / found.norm() / target.norm()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step > 0 and step % every == 0 and len(levels) < len(sizes):
            old, new = len(levels), len(levels) + 1
            levels = [(p.detach() * old / new).requires_grad_() for p in levels]
            levels.append((noise(old) / new).requires_grad_())
            optimizer = torch.optim.Adam(levels, lr=rate)
        with torch.no_grad():
            tensors["pixels"].copy_(run.normalisation.apply(shown(levels, SIZE)))
        yield float(loss.detach())


def made(tmp_path, file, **more):
    given = {**GIVEN, "lgm__weights": file, "cache": str(tmp_path / "cache"), **more}
    return staged(["--plugin", "lgm"], tmp_path / "run", given)


@pytest.mark.parametrize("setting", SETTINGS)
def test_images_move_as_under_the_usual_loop(setting, tmp_path, encoder):
    network, file = encoder
    check_whole_steps(made(tmp_path, file, **SETTINGS[setting]), lambda *at: usual_loop(*at, network))


def test_a_run_scores_probes_beside_centroids_and_its_records_name_the_encoder(tmp_path, capsys):
    file, network = tmp_path / "grey.safetensors", build("convnet2-w4", 1, SIZE, 5, torch.Generator().manual_seed(7))
    save_tensors(Place.at(str(file)), dict(network.state_dict()), {})
    words = ["run", "--plugin=lgm", "--lgm.encoder=convnet2-w4", "--lgm.classes=5", f"--lgm.weights={file}"]
    words += ["--dataset=digits"]
    words += [
        "--baseline=centroids",
        "--baseline=encoder-kcenter",
        "--protocol=frozen-probe-20",
        "--steps=4",
        "--ipc=1",
    ]
    words += [
        "--lgm.no-real-views",
        "--threads=1",
        "--eval-seeds=2",
        "--full-epochs=1",
        f"--cache={tmp_path / 'cache'}",
    ]
    assert invoke([*words, f"--out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    assert {"distilled", "random", "kcenter", "centroids", "encoder-kcenter", "full"} <= {row["set"] for row in rows}
    assert {row["network"] for row in rows} == {"probe of convnet2-w4"}
    assert len({row["student"] for row in rows}) == 1 and rows[0]["student"].startswith("lgm #")
    manifest = json.loads((tmp_path / "out" / "artifact" / "manifest.json").read_text())
    assert manifest["provenance"]["network"] == manifest["recipe"]["network"] == "probe of convnet2-w4"
    assert len(manifest["recipe"]["students"]["plugins"]["lgm"]["encoder"]) == 16
    capsys.readouterr()
    assert invoke(["inspect", str(tmp_path / "out" / "artifact")]) == 0
    told = capsys.readouterr().out
    assert "network probe of convnet2-w4" in told and f"{rows[0]['student']}, probe of convnet2-w4" in told
