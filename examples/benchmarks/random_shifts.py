"""Students' batches shifted at random, each image by its own whole pixels: the oracle of ``hard_shifts.py``, as a plugin file."""

from typing import ClassVar

import torch
from attrs import frozen
from attrs.validators import ge
from torch import Generator

from ddcore import Batch, Plugin, Sequential, Transform, hookimpl, option
from ddcore.images import crop_resize


@frozen(kw_only=True, eq=False)
class RandomShifts(Plugin):
    """Shift every image; black comes in."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "students' batches, shifted at random"
    paper: ClassVar[str] = "none: part of a benchmark"
    role: ClassVar[str] = "student"
    augment_phases: ClassVar[tuple[str, ...]] = ("evaluate",)

    most: int = option(6, help="most, each way", unit="pixels", validator=ge(0))

    @hookimpl
    def ddcore_augment(
        self, transform: Transform, count: int, size: tuple[int, int], generator: Generator
    ) -> Transform:
        """A shift for each image."""
        shift = torch.randint(-self.most, self.most + 1, (count, 2), generator=generator)
        boxes = torch.cat([shift / torch.tensor(size), torch.ones(count, 2)], 1)

        def shifted(batch: Batch) -> Batch:
            return batch.with_inputs(crop_resize(batch.inputs, boxes.expand(len(batch), 4)))

        return Sequential((transform, shifted))
