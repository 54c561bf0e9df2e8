"""Scores of a run's real training images, from the weights that its experts had along the way; kept in the run's cache.

Experts are trained by the core and keep their weights after every epoch. Here each snapshot looks at all real images
once, unaugmented and in eval mode. What a run has scored is kept under a digest of the experts and of what was asked,
so that resumed runs, evaluation rows and other runs on the same experts do not score again.

Shape letters: T epochs, N real training images, K classes, D features.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddcore.errors import OptionError
from ddcore.networks import features, logits
from ddcore.storage import kept
from ddcore.training import expert_digest
from ddcore_coresets import scores

if TYPE_CHECKING:
    from ddcore import Run

VERSION = 1
"""Raise it when scores come out differently: kept ones are then not used again."""

HARD_IS_HIGH: Mapping[str, bool] = {
    "el2n": True,
    "grand": True,
    "grand-last": True,
    "forgetting": True,
    "aum": False,
    "least-confidence": True,
    "entropy": True,
    "margin": False,
}
"""Scores that rank samples by difficulty, and their direction."""

IMAGES_AT_ONCE = 2048


def hardness(run: "Run", name: str, *, expert: int, epoch: int, early: int | None) -> Tensor:
    """A score of ``HARD_IS_HIGH``, its sign such that high = hard, (N,) on the CPU; see ``score``."""
    found = score(run, name, expert=expert, epoch=epoch, early=early)
    return found if HARD_IS_HIGH[name] else -found


def score(run: "Run", name: str, *, expert: int, epoch: int, early: int | None) -> Tensor:
    """A score of all real training images, (N,) on the CPU, made now unless it is kept.

    Args:
        name: of ``HARD_IS_HIGH``, or ``distance`` (to the class's median vector).
        expert: whose features and probabilities count where one network is asked.
        epoch: of that expert; -1 is the last.
        early: the epoch at which all experts are asked for el2n, grand and grand-last; see ``early_epoch``.
    """
    one = {"expert": expert, "epoch": known_epoch(run, epoch, "epoch")}
    if name in ("aum", "forgetting"):
        return _kept(run, "dynamics", _dynamics, {"experts": run.trajectories.count})[name]
    if name in ("el2n", "grand-last", "grand"):
        asked = {"experts": run.trajectories.count, "epoch": early_epoch(run, early)}
        if name == "grand":
            return _kept(run, "grand", _full_gradients, asked)[name]
        return _kept(run, "early", _early, asked)[name]
    if name == "distance":
        return _kept(run, "distance", _distance, one)[name]
    return _kept(run, "uncertainty", _uncertainty, one)[name]


def early_epoch(run: "Run", early: int | None) -> int:
    """The epoch of EL2N and GraNd: the one asked for, else a fifth of the experts' epochs, at least 1."""
    return max(1, run.trajectories.epochs // 5) if early is None else known_epoch(run, early, "early-epoch")


def known_epoch(run: "Run", epoch: int, option: str) -> int:
    """An epoch whose weights are there; -1 is the last.

    Raises:
        OptionError: the experts are not trained that long.
    """
    epochs = run.trajectories.epochs
    if epoch > epochs:
        raise OptionError(
            f"--coresets.{option} {epoch} is past the experts' last epoch, {epochs}: "
            f"lower it or raise --experts.epochs to {epoch}"
        )
    return epochs if epoch == -1 else epoch


def _kept(run: "Run", what: str, make: Callable[..., dict[str, Tensor]], asked: Mapping[str, Any]) -> dict[str, Tensor]:
    of = {"of": expert_digest(run), "epochs": run.trajectories.epochs, "network": run.network_name}
    key = {"version": VERSION, "scores": what, **of, "machine": run.machine, **asked}
    told = {"network": run.network_name, "epochs": str(run.trajectories.epochs), "seed": str(run.seed)}
    told |= {f"high {name} is": "hard" if high else "easy" for name, high in HARD_IS_HIGH.items()}

    def made() -> dict[str, Tensor]:
        return make(run, **asked)

    return kept(run.cache, "coresets", key, made, note=run.warn, facts=told)


def _dynamics(run: "Run", experts: int) -> dict[str, Tensor]:
    every = range(1, run.trajectories.epochs + 1)
    margins = torch.stack([torch.stack([_margins(run, expert, epoch) for epoch in every]) for expert in range(experts)])
    return {"aum": margins.mean((0, 1)), "forgetting": scores.forgetting(margins > 0)}


def _margins(run: "Run", expert: int, epoch: int) -> Tensor:
    network = run.trajectories.network(run, expert, epoch)
    return torch.cat([scores.margins(logits(network, x), y).cpu() for x, y in real_images(run)])


def _early(run: "Run", experts: int, epoch: int) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {"el2n": [], "grand-last": []}
    for expert in range(experts):
        z, h = seen_by(run, run.trajectories.network(run, expert, epoch))
        parts["el2n"].append(scores.el2n(z, run.real.train.labels))
        parts["grand-last"].append(scores.grand_last_layer(z, run.real.train.labels, h))
    return {name: torch.stack(found).mean(0) for name, found in parts.items()}


def _full_gradients(run: "Run", experts: int, epoch: int) -> dict[str, Tensor]:
    norms = []
    for expert in range(experts):
        network = run.trajectories.network(run, expert, epoch)
        norms.append(torch.cat([scores.gradient_norms(network, x, y).cpu() for x, y in real_images(run)]))
    return {"grand": torch.stack(norms).mean(0)}


def _uncertainty(run: "Run", expert: int, epoch: int) -> dict[str, Tensor]:
    z, _ = seen_by(run, run.trajectories.network(run, expert, epoch))
    return {
        "least-confidence": scores.least_confidence(z),
        "entropy": scores.entropy(z),
        "margin": scores.confidence_margin(z),
    }


def _distance(run: "Run", expert: int, epoch: int) -> dict[str, Tensor]:
    _, h = seen_by(run, run.trajectories.network(run, expert, epoch))
    return {"distance": scores.distance_to_median(h, run.real.train.labels)}


def seen_by(run: "Run", network: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and features (N, D) of all real training images, on the CPU."""
    parts = [(logits(network, x).cpu(), features(network, x).cpu()) for x, _ in real_images(run)]
    z, h = zip(*parts, strict=True)
    return torch.cat(z), torch.cat(h)


def real_images(run: "Run") -> Iterator[tuple[Tensor, Tensor]]:
    """The real training images in order, some at a time, with their classes, on the run's device."""
    real = run.real.train
    for index in torch.arange(len(real)).split(IMAGES_AT_ONCE):
        yield real.inputs(index), real.labels[index].to(run.device)
