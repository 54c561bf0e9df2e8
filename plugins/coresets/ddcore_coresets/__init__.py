"""Coresets: real images worth keeping, chosen class by class, as a set of their own, as rows to compare with, or to
start from.

A *score* is one number for each sample, high or low where the sample is hard (``scores``); a *selector* turns scores,
features or similarities into samples to keep (``selectors``); experts that the core trains say the scores
(``dynamics``). Nothing is learned: the chosen images are the distilled set. Beside another matcher the same images are
where it starts.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from attrs import frozen
from attrs.validators import ge, gt, lt, optional
from torch import Generator, Tensor

from ddcore import Learn, Plugin, Task, hookimpl, option
from ddcore.images import random_choice
from ddcore.networks import features, logits
from ddcore.runs import for_each_class
from ddcore_coresets.dynamics import HARD_IS_HIGH, hardness, known_epoch, score
from ddcore_coresets.scores import gradient_directions
from ddcore_coresets.selectors import (
    Similarity,
    bottom,
    coverage,
    facility_location,
    graph_cut,
    herding,
    k_center,
    log_determinant,
    middle,
    top,
)

if TYPE_CHECKING:
    from ddcore import Run

Method = Literal[
    "random",
    "herding",
    "k-center",
    "el2n",
    "forgetting",
    "grand",
    "grand-last",
    "aum",
    "least-confidence",
    "entropy",
    "margin",
    "moderate",
    "ccs",
    "graph-cut",
    "facility-location",
    "log-determinant",
]
METHODS: tuple[Method, ...] = get_args(Method)
BY_FEATURES = ("herding", "k-center")
CORESET = "coreset"
Picks = Callable[[Tensor, int], Tensor]
"""From where a class's images are (n,) and how many to keep to positions among them, in pick order."""


@frozen(kw_only=True, eq=False)
class Coresets(Plugin):
    """Choose real images by a score or by their place among the others."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "choose real images: herding, k-center, EL2N, forgetting, GraNd, AUM, CCS, graph cut and others"
    )
    paper: ClassVar[str] = (
        "DeepCore: A Comprehensive Library for Coreset Selection in Deep Learning, DEXA 2022, arXiv:2204.08499"
    )
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})
    gives_way: ClassVar[bool] = True
    steps: ClassVar[int | None] = 0
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize",)
    may_need: ClassVar[tuple[str, ...]] = ("trajectories",)
    initializers: ClassVar[tuple[str, ...]] = (CORESET, *(method for method in METHODS if method != "k-center"))
    of_real: ClassVar[Mapping[str, str]] = dict.fromkeys(initializers, "unchanged")
    presets: ClassVar[str | None] = "presets.toml"
    cells: ClassVar[str | None] = "cells.toml"

    method: Method = option("herding", help="how images are chosen; what --init coreset means")
    keep: Literal["hard", "easy", "middle"] = option(
        "hard", help="which end of a score of difficulty to keep, such as el2n, grand, forgetting, aum, entropy"
    )
    features: Literal["trained", "random", "pixels"] = option(
        "trained", help="what herding and k-center see: an expert's features, an untrained network's, or pixels"
    )
    epoch: int = option(
        -1,
        help="epoch of the expert that gives features, uncertainty and last-layer gradients; -1: the last",
        unit="epochs",
        validator=ge(-1),
    )
    early_epoch: int | None = option(
        None,
        help="epoch at which all experts are asked for el2n, grand and grand-last; none: a fifth of the experts' epochs",
        unit="epochs",
        validator=optional(ge(0)),
    )
    start: Literal["random", "mean"] = option(
        "random", help="first pick of k-center: a random image, or nearest to the mean"
    )
    cut: float = option(
        0.3, help="ccs: share of each class that is dropped for its lowest AUM", symbol="beta", validator=[ge(0), lt(1)]
    )
    strata: int = option(50, help="ccs: levels of AUM that are drawn from alike", symbol="k", validator=ge(1))
    weight: float = option(
        1.0,
        help="graph-cut: how much likeness to all counts against likeness to picks",
        symbol="lambda",
        validator=gt(0),
    )

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """Experts, for all methods but random ones and those on features that need no training."""
        method = self.named(initializer)
        untrained = method in BY_FEATURES and self.features != "trained"
        return () if method in (None, "random") or untrained else ("trajectories",)

    def named(self, initializer: str | None) -> Method | None:
        """The method that an initialiser's name stands for; None if the name is not ours."""
        if initializer == CORESET:
            return self.method
        return next((method for method in METHODS if method == initializer), None)

    @hookimpl
    def ddcore_initialize(
        self, name: str, classes: Tensor, task: Task, generator: Generator, run: "Run"
    ) -> Tensor | None:
        """The images that a method picks: as many of each class as ``classes`` asks for, in pick order; the same ones
        again where a class has fewer."""
        method = self.named(name)
        if method is None:
            return None
        picks = self.picks(method, task.slot, generator, run)

        def images(cls: int, count: int) -> Tensor:
            rows = run.real.train.of_class(cls)
            chosen = rows[picks(rows, min(count, len(rows))).to(rows.device)]
            return run.real.train.inputs(chosen[torch.arange(count) % len(chosen)])

        return for_each_class(classes, images)

    @hookimpl
    def ddcore_learn(self, images: Tensor) -> Learn:
        """The images as they are; nothing moves them."""
        return Learn({"pixels": images}, {}, roles={"pixels": "pixels"})

    def picks(self, method: Method, slot: int, generator: Generator, run: "Run") -> Picks:
        """How a method picks among the images of a class; ``slot`` chooses the network where one is asked."""
        if method == "random":
            return lambda rows, count: random_choice(len(rows), count, generator)
        if method in BY_FEATURES:
            return self._by_features(method, slot, generator, run)
        if method in HARD_IS_HIGH or method in ("moderate", "ccs"):
            return self._by_score(method, slot, generator, run)
        return self._by_gradients(method, slot, run)

    def _by_features(self, method: Method, slot: int, generator: Generator, run: "Run") -> Picks:
        describe = self._description(slot, run)

        def pick(rows: Tensor, count: int) -> Tensor:
            described = describe(run.real.train.inputs(rows))
            if method == "herding":
                return herding(described, count)
            first = int(random_choice(len(rows), 1, generator)) if self.start == "random" else None
            return k_center(described, count, first)

        return pick

    def _description(self, slot: int, run: "Run") -> Callable[[Tensor], Tensor]:
        if self.features == "pixels":
            return lambda images: images.flatten(1)
        if self.features == "random":
            network = run.network(run.generator("coresets", "network", slot)).eval()
        else:
            network = self._expert(slot, run)
        return lambda images: features(network, images)

    def _by_score(self, method: Method, slot: int, generator: Generator, run: "Run") -> Picks:
        asked: dict[str, Any] = {
            "expert": slot % run.trajectories.count,
            "epoch": self.epoch,
            "early": self.early_epoch,
        }
        if method == "moderate":
            distance = score(run, "distance", **asked)
            return lambda rows, count: middle(distance[rows], count, generator)
        if method == "ccs":
            area, cut, strata = score(run, "aum", **asked), self.cut, self.strata
            return lambda rows, count: coverage(area[rows], count, cut=cut, strata=strata, generator=generator)
        hard = hardness(run, method, **asked)
        end = {"hard": top, "easy": bottom, "middle": middle}[self.keep]
        return lambda rows, count: end(hard[rows], count, generator)

    def _by_gradients(self, method: Method, slot: int, run: "Run") -> Picks:
        network = self._expert(slot, run)
        choose: Mapping[str, Callable[[Similarity, int], Tensor]] = {
            "graph-cut": lambda likeness, count: graph_cut(likeness, count, self.weight),
            "facility-location": facility_location,
            "log-determinant": log_determinant,
        }

        def pick(rows: Tensor, count: int) -> Tensor:
            images, own = run.real.train.inputs(rows), run.real.train.labels[rows].to(run.device)
            factors = gradient_directions(logits(network, images), own, features(network, images))
            return choose[method](Similarity.of_directions(*factors), count)

        return pick

    def _expert(self, slot: int, run: "Run") -> torch.nn.Module:
        found = run.trajectories
        return found.network(run, slot % found.count, known_epoch(run, self.epoch, "epoch"))
