"""The target model: a network trained here without labels (Barlow Twins), or loaded; its features are the targets."""

from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from ddcore import Batch
from ddcore.errors import InputError, NonFiniteLoss
from ddcore.images import DSA_COLOUR, DSA_DIGITS, RESIZED, draw, transform
from ddcore.networks import embed, features
from ddcore.storage import Place, canonical, kept, read_state, sha256_of
from ddcore.training import frozen_network
from ddcore_krr_st.ridge import twins_loss

if TYPE_CHECKING:
    from ddcore import Run
    from ddcore_krr_st import KrrSt

VERSION = 1
HIDDEN = 4
"""The projection is so many times as wide as the features, at most 2048."""


def target_network(plugin: "KrrSt", run: "Run") -> nn.Module:
    """The target model g, frozen, in eval mode: ``embed`` gives representations (B, D)."""
    network = fresh(plugin, run)
    if plugin.weights is not None:
        state = read_state(Place.at(plugin.weights))
        own = network.state_dict()
        found = {name: tensor for name, tensor in state.items() if name in own and tensor.shape == own[name].shape}
        last = [name for name, m in network.named_modules() if isinstance(m, nn.Linear)][-1]
        if missing := [n for n in own if n not in found and not n.startswith(f"{last}.")]:
            raise InputError(
                f"--krr-st.weights {plugin.weights} lacks {missing[0]!r} of {plugin.target or run.network_name}: "
                "name their architecture by --krr-st.target"
            )
        network.load_state_dict(found, strict=False)
    else:
        network.load_state_dict(trained(plugin, run))
    return frozen_network(network)


def fresh(plugin: "KrrSt", run: "Run") -> nn.Module:
    """The target model as initialised."""
    return run.network(run.generator("krr-st", "target"), plugin.target)


def width_of(plugin: "KrrSt", run: "Run") -> int:
    """D, numbers of a representation."""
    return features(fresh(plugin, run).eval(), run.real.train.inputs(torch.arange(1))).shape[1]


def trained(plugin: "KrrSt", run: "Run") -> dict[str, Tensor]:
    """Weights and buffers of the target model, from the cache or trained now."""
    key: dict[str, Any] = {
        "version": VERSION,
        "data": run.source.fingerprint,
        "normalisation": run.normalisation.header(),
        "network": plugin.target or run.network_name,
        "epochs": plugin.target_epochs,
        "batch": plugin.target_batch,
        "rate": plugin.target_rate,
        "seed": run.seed,
        "machine": run.machine,
    }
    return kept(run.cache, "krr-st", key, partial(_train, plugin, run, sha256_of(canonical(key))), note=run.warn)


@torch.enable_grad()
def _train(plugin: "KrrSt", run: "Run", name: str) -> dict[str, Tensor]:
    """Barlow Twins from scratch: two random views of each batch, AdamW under a cosine."""
    network = fresh(plugin, run).train()
    width, real = width_of(plugin, run), run.real.train
    wide = min(2048, HIDDEN * width)
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(run.generator("krr-st", "projection").get_state())
        head = nn.Sequential(nn.Linear(width, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, wide))
    head = head.to(run.device, run.dtype)
    weights = [*network.parameters(), *head.parameters()]
    descent = torch.optim.AdamW(weights, plugin.target_rate, weight_decay=1e-4)
    steps = plugin.target_epochs * max(1, len(real) // plugin.target_batch)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(descent, max(1, steps))
    with run.progress("target model", steps, "steps") as tick:
        for step in range(steps):
            epoch, at = divmod(step, max(1, len(real) // plugin.target_batch))
            order = torch.randperm(len(real), generator=run.generator("krr-st", "order", epoch))
            images = real.inputs(order[at * plugin.target_batch : (at + 1) * plugin.target_batch])
            one, two = (seen(images, run, step, which) for which in (0, 1))
            loss = twins_loss(head(embed(network, one)), head(embed(network, two)))
            if not torch.isfinite(loss.detach()):
                raise NonFiniteLoss(f"the target model diverged at step {step}: lower --krr-st.target-rate")
            descent.zero_grad(set_to_none=True)
            loss.backward()
            descent.step()
            falling.step()
            tick(1)
    run.log("krr-st", target=name[:12], loss=float(loss.detach()) if steps else None)
    return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}


def seen(images: Tensor, run: "Run", step: int, which: int) -> Tensor:
    """One random view of each image: a resized crop, a mirror where the data allow it, then colour or shape."""
    count, size = len(images), (run.source.size, run.source.size)
    batch = Batch(images, {}, torch.arange(count, device=images.device))
    drawn = RESIZED.fitting(run.source.size, run.source.mirror_symmetric)
    plain = transform(_unmixed(drawn), count, size, run.generator("krr-st", "view", step, which))
    operations = DSA_COLOUR if run.source.mirror_symmetric else DSA_DIGITS
    other = draw(operations, count, size, run.generator("krr-st", "operation", step, which), shared=False)
    inputs: Tensor = other(plain(batch)).inputs
    return inputs


def _unmixed(drawn: Any) -> Any:
    return attrs.evolve(drawn, mix="none", scale=(0.2, 1.0))
