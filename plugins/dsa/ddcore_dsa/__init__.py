"""Differentiable Siamese augmentation (Zhao and Bilen, ICML 2021, arXiv:2102.08259).

The same random transform is applied to the real and to the synthetic batch before they are compared, and pixels receive
gradients through it. One operation is drawn for a batch: colour (brightness, saturation, contrast), crop, cutout, flip,
scale or rotate. In matching its parameters are drawn once for both batches; in inner training, in an unrolled student
and in experts' training each image gets its own. The maths are the core's (``ddcore.images.augment``), because
evaluation uses them too.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from attrs import frozen
from attrs.validators import in_
from torch import Generator

from ddcore import DdcoreError, Plugin, Sequential, Subject, Transform, hookimpl, option
from ddcore.images import DSA_COLOUR, DSA_DIGITS, draw, parse_strategy
from ddcore.training import Protocol


def is_strategy(instance: object, attribute: object, value: str) -> None:
    """Refuse an unknown operation."""
    try:
        parse_strategy("" if value == "auto" else value)
    except DdcoreError as error:
        raise ValueError(str(error)) from error


RECIPE = Protocol(name="dsa", summary="B: DSA and DM")
PROTOCOLS: Mapping[str, Protocol] = {"dsa": RECIPE, "B": RECIPE}
"""How students of DSA (arXiv:2102.08259) and DM are trained: 1,000 epochs, one operation a mini-batch."""


@frozen(kw_only=True, eq=False)
class DSA(Plugin):
    """Augment real and synthetic batches alike, differentiably."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "the same differentiable augmentation for real and synthetic images"
    paper: ClassVar[str] = "Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021, arXiv:2102.08259"
    role: ClassVar[str] = "enhancement"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    augment_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step", "expert")
    neutral: ClassVar[Mapping[str, object]] = {"strategy": "none"}

    strategy: str = option(
        "auto",
        help="operations joined by _; auto: color_crop_cutout_flip_scale_rotate, without flip on digits; none: nothing",
        validator=is_strategy,
    )
    mode: Literal["single", "all"] = option(
        "single", help="one operation a batch, or all of them in order", validator=in_(("single", "all"))
    )
    flip_first: bool = option(
        False, help="FYI's family: first a mirror image (p = 0.5), then one of the other operations"
    )

    def operations(self, symmetric: bool) -> tuple[str, ...]:
        """What is drawn from; ``auto`` leaves the flip out where mirror images change the class."""
        if self.strategy == "auto":
            return DSA_COLOUR if symmetric else DSA_DIGITS
        return parse_strategy(self.strategy)

    def suggests_protocol(self, subject: Subject) -> str | None:
        """``dsa`` for one label an image, where no rate was learned; not for the small images of demonstrations."""
        other = subject.learned_rate or subject.of_views or subject.labels not in ("hard", "soft")
        return None if other or subject.tiny else "dsa"

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_augment(
        self,
        transform: Transform,
        count: int,
        size: tuple[int, int],
        shared: bool,
        symmetric: bool,
        generator: Generator,
    ) -> Transform | None:
        """Draw once, after what the plugins before drew; nothing for the empty strategy."""
        strategy = self.operations(symmetric)
        if not strategy:
            return None
        drawn = draw(strategy, count, size, generator, shared=shared, mode=self.mode, flip_first=self.flip_first)
        return Sequential((transform, drawn))
