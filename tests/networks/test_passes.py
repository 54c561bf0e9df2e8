"""Chunked passes: the same numbers as one whole pass, and where a batch must stay whole."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from ddcore.networks.passes import (
    CHUNK,
    Crew,
    backward_in_parts,
    channels_last,
    chunk_of,
    embed,
    features,
    lay_out,
    logits,
)
from ddcore.networks.zoo import build


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(name: str = "convnet2-w8") -> nn.Module:
    return build(name, 2, 8, 3, seeded()).double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(7, 2, 8, 8, generator=seeded(1), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100, None])
def test_chunked_features_and_logits_are_those_of_one_pass(images: Tensor, chunk: int | None):
    net = network()
    with torch.no_grad():
        torch.testing.assert_close(features(net, images, chunk=chunk), net.embed(images))
        torch.testing.assert_close(logits(net, images, chunk=chunk), net(images))


@pytest.mark.parametrize("name", ["convnet2-ln-w8", "convnet2-gn-w8", "convnet2-in-w8", "mlp"])
def test_every_norm_gives_torchs_numbers(images: Tensor, name: str):
    net = network(name)
    with torch.no_grad():
        torch.testing.assert_close(logits(net, images, chunk=2), net(images))


def test_passes_have_no_gradient_and_leave_the_images_alone(images: Tensor):
    images.requires_grad_()
    before = images.detach().clone()
    assert not features(network(), images).requires_grad
    assert torch.equal(images, before) and images.is_contiguous()


def test_a_network_that_mixes_its_batch_sees_it_whole_while_training(images: Tensor):
    net = network("convnet2-bn-w8")
    many = torch.cat([images] * 60)
    with torch.no_grad():
        torch.testing.assert_close(logits(net, many), net(many))
    assert chunk_of(net, many, CHUNK) == len(many)
    assert chunk_of(net.eval(), many, CHUNK) == CHUNK * 16


def test_chunks_hold_the_same_number_of_pixels_and_at_least_one_image():
    net = network()
    sizes = [chunk_of(net, torch.zeros(()).expand(500, 3, side, side), 16) for side in (8, 32, 64, 1024)]
    assert sizes == [256, 16, 4, 1]


def test_layout_changes_memory_and_not_values(images: Tensor):
    net = network()
    due = net(images)
    laid = lay_out(net)
    assert laid is net
    weight = next(p for p in net.parameters() if p.dim() == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(net(channels_last(images)), due)


def soft_loss(output: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    return -(targets["probabilities"] * output.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("chunk", [1, 2, 7, None])
def test_gradients_in_parts_are_those_of_the_mean_loss_of_the_batch(images: Tensor, chunk: int | None):
    net = network()
    targets = {"probabilities": torch.randn(7, 3, generator=seeded(2), dtype=torch.float64).softmax(1)}
    whole = soft_loss(net(images), targets)
    due = torch.autograd.grad(whole, list(net.parameters()))
    value = backward_in_parts(net, images, targets, soft_loss, chunk=chunk)
    torch.testing.assert_close(value, whole.detach())
    assert not value.requires_grad
    for p, d in zip(net.parameters(), due, strict=True):
        torch.testing.assert_close(p.grad, d)


def test_gradients_in_parts_add_to_those_already_there(images: Tensor):
    net, classes = network(), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    backward_in_parts(net, images, classes, nn.functional.cross_entropy, chunk=3)
    once = [p.grad.clone() for p in net.parameters()]
    backward_in_parts(net, images, classes, nn.functional.cross_entropy, chunk=4)
    for p, g in zip(net.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)


def test_batchnorm_trains_on_the_whole_batch(images: Tensor):
    net, classes = network("convnet2-bn-w8"), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    many, ids = torch.cat([images, 2 * images] * 30), classes.repeat(60)
    due = torch.autograd.grad(nn.functional.cross_entropy(net(many), ids), list(net.parameters()))
    backward_in_parts(net, many, ids, nn.functional.cross_entropy)
    for p, d in zip(net.parameters(), due, strict=True):
        torch.testing.assert_close(p.grad, d)


def test_a_crew_answers_in_order_and_does_not_change_torchs_threads(images: Tensor):
    net, before = network(), torch.get_num_threads()
    parts = [(x,) for x in images.split(2)]
    found = {}
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with Crew(net, images.device) as crew:
                found[threads] = crew.each(lambda own, x: own(x).detach(), parts)
            assert torch.get_num_threads() == threads
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[1], found[3])
    torch.testing.assert_close(torch.cat(found[3]), net(images).detach())


def test_a_crews_worker_that_fails_is_heard():
    def fail(_: nn.Module, part: int) -> int:
        raise ValueError(f"part {part}")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="part 0"), Crew(network(), torch.device("cpu")) as crew:
            crew.each(fail, [(0,), (1,), (2,)])
    finally:
        torch.set_num_threads(before)


def test_embedding_in_parts_gives_the_whole_batchs_features_and_gradient():
    network = build("convnet2-w4", 3, 8, 5, torch.Generator().manual_seed(0)).double().requires_grad_(False)
    images = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    parts, whole = embed(network, images, chunk=3), network.embed(images)
    torch.testing.assert_close(parts, whole)
    gradients = [torch.autograd.grad(f.square().sum(), images)[0] for f in (parts, whole)]
    torch.testing.assert_close(*gradients)
