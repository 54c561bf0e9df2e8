"""FYI: flip your images (Son et al., ECCV 2024, arXiv:2407.08113).

Objects face left as often as right, so matching pushes each synthetic image to show the same part on both halves, and
wastes pixels. FYI shows the matcher every synthetic image x together with its mirror image:

    B(x, y) = (x ++ flip_W(x), y ++ y)

Storage, objective and networks stay the same; evaluation never sees a mirrored copy.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor

from ddcore import Batch, Plugin, Progress, hookimpl, option
from ddcore.training import Protocol
from ddcore_fyi.protocols import PROTOCOLS


def with_mirror_images(batch: Batch) -> Batch:
    """Every row, then every row mirrored left to right; targets and index repeat.

    Args:
        batch: B rows, images (B, C, H, W) of any float dtype.

    Returns:
        2B rows, originals first; each pixel's gradient is its own plus its mirrored copy's.
    """
    return batch.joined(batch.with_inputs(mirrored(batch.inputs)))


def mirrored(images: Tensor) -> Tensor:
    """Images (..., W) with the last axis reversed."""
    return torch.flip(images, dims=(-1,))


@frozen(kw_only=True, eq=False)
class FYI(Plugin):
    """Show each synthetic image together with its mirror image, wherever the matcher looks at it."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "each synthetic image together with its mirror image"
    paper: ClassVar[str] = "FYI: Flip Your Images for Dataset Distillation, ECCV 2024, arXiv:2407.08113"
    role: ClassVar[str] = "enhancement"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    view_phases: ClassVar[tuple[str, ...]] = ("match", "inner", "student_step")
    settings: ClassVar[tuple[str, ...]] = ("student_step.batch",)
    presets: ClassVar[str | None] = "presets.toml"
    cells: ClassVar[str | None] = "cells.toml"
    assumes: ClassVar[Mapping[str, str]] = {
        "mirror_symmetric": "a mirrored digit or letter is often not of its class, so expect FYI to hurt here"
    }

    halve_batch: bool = option(
        True, help="halve the distinct images of an unrolled student step, so that its cost stays the same"
    )

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_view(self, batch: Batch) -> Batch:
        """Double the batch."""
        return with_mirror_images(batch)

    @hookimpl
    def ddcore_setting(self, value: int, name: str, progress: Progress) -> int | None:
        """Halve |b|, down to one image."""
        return max(1, value // 2) if name == "student_step.batch" and self.halve_batch else None
