"""CDA: curriculum data augmentation for recovery (Yin and Shen, TMLR 2024, arXiv:2311.18838).

Recovery shows the teacher a random crop of the images in every step. Small crops early on spend the steps that settle
where things are on details. CDA begins with whole images, and lets crops get smaller as the steps go by: their area is
uniform in [lo(t), 1], where for T steps, of which the first K = m T are the curriculum,

    lo(t) = s + (1 - s) (1 + cos(pi t / K)) / 2    for t < K, and s from there on

with s the least area that the matcher takes in every step. Everything else is the matcher's.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

from attrs import frozen
from attrs.validators import and_, ge, in_, le

from ddcore import Plugin, Progress, hookimpl, option
from ddcore.training import Protocol
from ddcore_cda.protocols import PROTOCOLS

Mode = Literal["cosine", "linear", "step"]
MODES: tuple[Mode, ...] = get_args(Mode)


def crop_scale(
    step: int, total: int, *, mode: Mode = "cosine", milestone: float = 1.0, least: float = 0.08
) -> tuple[float, float]:
    """Between which areas, as shares of the image, the crop of a step is drawn.

    Args:
        step: counted from 0.
        total: steps in all, T.
        mode: how the bound falls: ``cosine``; ``linear``, s + (1 - s) (1 - t / K); ``step``, 1 until K.
        milestone: m in [0, 1], the share of the steps in which it falls; 0: none.
        least: s in (0, 1].

    Returns:
        (lo, 1) with s <= lo <= 1.

    Raises:
        ValueError: no such mode.

    References:
        Yin and Shen, TMLR 2024, arXiv:2311.18838, and their code: steps count from 0, K need not be whole.

    >>> [round(crop_scale(t, 4000)[0], 4) for t in (0, 1000, 2000, 3000, 3999)]
    [1.0, 0.8653, 0.54, 0.2147, 0.08]
    """
    if mode not in MODES:
        raise ValueError(f"no curriculum is named {mode!r}: choose among {', '.join(MODES)}")
    until = milestone * total
    if step >= until:
        return least, 1.0
    done = step / until
    left = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done, "step": 1.0}[mode]
    return least + (1 - least) * left, 1.0


@frozen(kw_only=True, eq=False)
class CDA(Plugin):
    """Begin with whole images; let crops get smaller."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "crops of recovered images begin whole and get smaller as the steps go by"
    paper: ClassVar[str] = (
        "Dataset Distillation via Curriculum Data Synthesis in Large Data Era, TMLR 2024, arXiv:2311.18838"
    )
    role: ClassVar[str] = "enhancement"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    settings: ClassVar[tuple[str, ...]] = ("match.crop_scale",)
    neutral: ClassVar[Mapping[str, object]] = {"milestone": 0.0}
    presets: ClassVar[str | None] = "presets.toml"

    mode: Mode = option("cosine", help="how the least area falls from 1", validator=in_(MODES))
    milestone: float = option(
        1.0, help="share of the steps in which it falls; 0: no curriculum", symbol="m", validator=and_(ge(0), le(1))
    )

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_setting(self, value: float, progress: Progress) -> float:
        """The least area of this step's crop, above the matcher's."""
        return crop_scale(progress.step, progress.steps, mode=self.mode, milestone=self.milestone, least=value)[0]
