"""What becomes of a student after it was trained on a set: pretrained there, it learns the task on the real data.

Its last layer is left; a fresh one of K outputs takes its place and is trained on the real
training images with their classes: alone, on frozen features (a linear probe), or with all that stands before it
(fine-tuning).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs
import torch
from attrs import field, frozen
from attrs.validators import ge, gt, in_, instance_of, optional
from torch import Tensor, nn

from ddcore.api.types import Transform
from ddcore.errors import InputError
from ddcore.images.views import Draw, transform
from ddcore.labels import HardLabels, feature_tensors
from ddcore.networks.passes import features
from ddcore.training.loop import FETCHED_AT_ONCE, Changes, Descent, Generators, Keeper, train_student

if TYPE_CHECKING:
    from ddcore.composing.host import Host as Run


@frozen(kw_only=True)
class Transfer:
    """How a pretrained student learns the task; SGD whose rate follows a cosine to 0, step by step.

    Attributes:
        kind: ``probe``: the last layer alone, on features in eval mode; ``finetune``: everything.
        steps: in all.
        rate: at the start, a step.
        batch: real images a step; of fewer all are one batch.
        views: of fine-tuning: crops and mirrors of each batch; None: none.
    """

    kind: Literal["probe", "finetune"] = field(default="probe", validator=in_(("probe", "finetune")))
    steps: int = field(default=1000, validator=[instance_of(int), ge(1)])
    rate: float = field(default=0.2, validator=gt(0))
    momentum: float = field(default=0.9, validator=ge(0))
    weight_decay: float = field(default=0.0, validator=ge(0))
    batch: int = field(default=512, validator=ge(1))
    views: Draw | None = field(default=None, validator=optional(instance_of(Draw)))

    def descent(self) -> Descent:
        """As a descent."""
        return Descent(
            steps=self.steps,
            batch=self.batch,
            rate=self.rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            schedule="cosine",
        )

    def sentence(self, images: int) -> str:
        """For a row's note."""
        what = "a linear probe of its features" if self.kind == "probe" else "fine-tuned whole"
        return (
            f"pretrained on the set, then {what} on all {images:,} real images with their classes, {self.steps} steps"
        )


def transferred(run: Run, network: nn.Module, name: str, how: Transfer, generator: Generators, key: str) -> nn.Module:
    """A student with a new last layer that knows the task; ``network`` itself is left as it is.

    Args:
        network: pretrained, of ``name``'s architecture but for the width of its last layer.
        generator: all randomness: asked for ("head") and, below "transfer", what ``train_student`` asks for.
        key: of the student's task; the transfer is kept beside it while it is trained.

    Raises:
        InputError: a network that plugins changed.
    """
    fresh = run.network(generator("head"), name)
    due = feature_tensors(fresh, run.source.channels, run.source.size)
    state = network.state_dict()
    if missing := [part for part in due if part not in state or tuple(state[part].shape) != due[part]]:
        raise InputError(
            f"a student with another {missing[0]!r} than {name} cannot be probed or fine-tuned: leave out the plugins that "
            "put layers around students, or choose a --protocol without a transfer"
        )
    fresh.load_state_dict({part: state[part] for part in due}, strict=False)
    real = run.real.train
    labels = HardLabels(real.labels, len(run.source.classes))
    keeper = Keeper(run.checkpoints, f"{key}-transfer", lambda: run.stopping, run.check_stop)

    def keyed(*parts: Any) -> torch.Generator:
        return generator("transfer", *parts)

    if how.kind == "probe":
        _probe(fresh, _features(fresh, run), labels, how, keyed, keeper)
        return fresh
    size = (run.source.size, run.source.size)
    views = None if how.views is None else how.views.fitting(run.source.size, run.source.mirror_symmetric)

    def draw(count: int, step: int) -> Transform:
        assert views is not None
        return transform(views, count, size, keyed("views", step))

    changes = Changes(augment=None if views is None else draw)
    amp = attrs.evolve(how.descent(), amp=run.config.amp)
    return train_student(fresh, real, labels, amp, generator=keyed, changes=changes, keeper=keeper)


def _features(network: nn.Module, run: Run) -> Tensor:
    """What a network makes of all real training images, (N, D), in eval mode."""
    network.eval()
    parts = torch.arange(len(run.real.train)).split(FETCHED_AT_ONCE)  # type: ignore[no-untyped-call]
    return torch.cat([features(network, run.real.train.inputs(rows)) for rows in parts])


def _probe(
    network: nn.Module, inputs: Tensor, labels: HardLabels, how: Transfer, generator: Generators, keeper: Keeper
) -> None:
    """Train the last linear layer alone, in place.

    Raises:
        InputError: features are not what a last linear layer takes.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].in_features != inputs.shape[1]:
        raise InputError(
            f"{type(network).__name__} has no last linear layer for its features: choose another --network or --protocol"
        )
    train_student(linear[-1], inputs, labels, how.descent(), generator=generator, keeper=keeper)
