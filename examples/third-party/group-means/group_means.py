"""A set to score beside distilled ones, means of random groups of real images, and a recipe that scores it by a linear probe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import evolve, frozen
from attrs.validators import ge
from torch import Tensor

from ddcore import Plugin, StudentData, hookimpl, option
from ddcore.labels import HardLabels
from ddcore.training import PROTOCOLS as CORE
from ddcore.training import Protocol

if TYPE_CHECKING:
    from ddcore import Run

PROBED = evolve(
    CORE["plain"],
    name="group-means",
    summary="100 epochs without augmentation, then a linear probe on a tenth of the real images",
    epochs=100,
    probe={"epochs": 200, "share": 0.1},
)
PROTOCOLS: Mapping[str, Protocol] = {PROBED.name: PROBED}


def means_of_groups(images: Tensor, groups: int) -> Tensor:
    """Means (G, C, H, W) of G groups of images (N, C, H, W), as equal in size as can be, in the order given; G <= N."""
    return torch.stack([part.mean(0) for part in images.tensor_split(groups)])


@frozen(kw_only=True, eq=False)
class GroupMeans(Plugin):
    """Bring the set and the recipe ``group-means``."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "means of random groups of each class as a row, and a probe to score it by"
    paper: ClassVar[str] = "none"
    role: ClassVar[str] = "evaluator"
    student_sets: ClassVar[tuple[str, ...]] = ("group-means",)
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)

    groups: int = option(5, help="groups of each class, so images of it", validator=ge(1))

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The recipe."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_student_data(self, name: str, student: int, run: "Run") -> StudentData | None:
        """The set of a student's number: its groups are drawn anew for each."""
        if name not in self.student_sets:
            return None
        drawn, images, classes = run.generator("group-means", student), [], []
        for cls, count in enumerate(run.real.counts()):
            found = means_of_groups(run.real.sample(cls, count, drawn), min(self.groups, count))
            images.append(found)
            classes += [cls] * len(found)
        labels, pixels = HardLabels(torch.tensor(classes), len(run.source.classes)), torch.cat(images)
        parts = {"images": pixels.nbytes, "labels": labels.payload_bytes, "models": 0}
        return StudentData(pixels, labels, {**parts, "total": sum(parts.values())})
