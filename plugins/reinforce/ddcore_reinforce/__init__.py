"""Dataset reinforcement: augmentations stored with what teachers say to the outcome (ICCV 2023, arXiv:2303.08983).

For each image S times: draw the parameters theta of a fixed chain of augmentations, apply them, and keep theta with the
k largest of

    q = sum_t w_t softmax(z_t(apply(theta, x)))

Students replay a random record, and lose KL(q || softmax(z)), with what is missing of q to 1 shared out among the other
classes; with probability 1 - p they see the image plain, with its class. The chain is in ``ddcore_reinforce.chain``,
the label kind in ``ddcore_reinforce.store``; here is how records are made.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le
from torch import Tensor, nn

from ddcore import InputError, Plugin, hookimpl, option
from ddcore.labels import Labels, asking, smallest_type, top_k
from ddcore_reinforce.chain import Chain, draw, mixing, replay
from ddcore_reinforce.store import ReinforcedLabels, densify, fingerprints, merged, record_bytes

if TYPE_CHECKING:
    from ddcore import Normalisation, Run

__all__ = [
    "Chain",
    "Records",
    "Reinforce",
    "ReinforcedLabels",
    "densify",
    "merged",
    "mean_probabilities",
    "record_bytes",
    "reinforced",
]
NAME = "reinforce"
AT_ONCE = 512
"""Records that are replayed before teachers are asked about them."""
Links = Literal["rrc", "rrc-mix", "rrc-ra-re", "rrc-mix-ra-re"]


def mean_probabilities(images: Tensor, teachers: Sequence[nn.Module], weights: Sequence[float] | None = None) -> Tensor:
    """sum_t w_t softmax(z_t(x)) of images (B, C, H, W): (B, K) on the CPU, rows sum to 1.

    Args:
        weights: w, scaled to sum 1; default: equal ones.
    """
    given = [1.0] * len(teachers) if weights is None else list(weights)
    each = [asking(teacher)(images).float().softmax(1).cpu() for teacher in teachers]
    return torch.stack([weight / sum(given) * q for weight, q in zip(given, each, strict=True)]).sum(0)


@frozen(kw_only=True)
class Records:
    """Which records are made of an image.

    Attributes:
        chain: what is done to it.
        samples: S, how often.
        k: classes kept of a label, at most K.
        half: float16 probabilities, else float32.
        normalisation: of the images, for a chain that is ``of_pixels``.
    """

    chain: Chain
    samples: int
    k: int = 10
    half: bool = True
    normalisation: "Normalisation | None" = None


def reinforced(
    images: Tensor,
    teachers: Sequence[nn.Module],
    generator: torch.Generator,
    *,
    classes: Tensor,
    class_count: int,
    records: Records,
    weights: Sequence[float] | None = None,
    probability: float = 0.99,
) -> ReinforcedLabels:
    """Draw records for each image and store what teachers say to the outcome.

    Args:
        images: (N, C, H, W) normalised.
        teachers: in eval mode.
        generator: of the records, and of nothing else.
        classes: (N,) int64, of ``class_count``.
        weights: of the teachers; default: equal ones.
        probability: that a student sees a record.
    """
    chain, normalisation, k = records.chain, records.normalisation, min(records.k, class_count)
    of = torch.arange(len(images)).repeat_interleave(records.samples)
    drawn = draw(chain, of, len(images), generator)
    ids, values = [], []
    for rows in torch.arange(len(of)).split(AT_ONCE):  # type: ignore[no-untyped-call]
        record = {name: parameter[rows] for name, parameter in drawn.items()}
        partners = record["partner"][mixing(record)].long() if chain.mixes else rows[:0]
        own, others = (images[index.to(images.device)] for index in (of[rows], partners))
        found, kept = top_k(mean_probabilities(replay(chain, own, others, record, normalisation), teachers, weights), k)
        values.append(found.to(torch.float16 if records.half else torch.float32))
        ids.append(kept.to(smallest_type(class_count)))
    shape = len(images), records.samples
    return ReinforcedLabels(
        classes=classes,
        class_count=class_count,
        chain=chain,
        records={name: parameter.unflatten(0, shape) for name, parameter in drawn.items()},  # type: ignore[no-untyped-call]
        ids=torch.cat(ids).unflatten(0, shape),  # type: ignore[no-untyped-call]
        values=torch.cat(values).unflatten(0, shape),  # type: ignore[no-untyped-call]
        prints=fingerprints(images),
        normalisation=normalisation if chain.of_pixels else None,
        probability=probability,
    )


@frozen(kw_only=True, eq=False)
class Reinforce(Plugin):
    """Store augmentations with teachers' sparse labels, once; students replay them."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "stored augmentations, mixes among them, with the teachers' sparse labels"
    paper: ClassVar[str] = (
        "Reinforce Data, Multiply Impact: Improved Model Accuracy and Robustness with Dataset Reinforcement, ICCV 2023, arXiv:2303.08983"
    )
    role: ClassVar[str] = "labels"
    needs: ClassVar[tuple[str, ...]] = ("teachers",)
    labellers: ClassVar[tuple[str, ...]] = (NAME,)
    tiny: ClassVar[Mapping[str, object]] = {"samples": 2}

    chain: Links = option("rrc-ra-re", help="links beside crop and mirror: MixUp and CutMix, RandAugment and erasing")
    samples: int = option(50, help="records of each image; the release has 400", symbol="N", validator=ge(1))
    k: int = option(10, help="classes kept of a label", symbol="k", validator=ge(1))
    probability: float = option(
        0.99,
        help="that a student sees a record, not the plain image with its class",
        symbol="p",
        validator=and_(ge(0), le(1)),
    )
    scale: float = option(0.08, help="least area of a crop, a share of the image", validator=and_(gt(0), le(1)))
    operations: int = option(2, help="of RandAugment, one after the other", validator=ge(1))
    level: int = option(9, help="of RandAugment's magnitudes, 0 to 30", validator=and_(ge(0), le(30)))
    erase: float = option(0.25, help="probability that a box is made black", validator=and_(gt(0), le(1)))
    mixup: float = option(0.5, help="probability of MixUp", validator=and_(ge(0), le(1)))
    cutmix: float = option(0.5, help="probability of CutMix, independent of it", validator=and_(ge(0), le(1)))
    alpha: float = option(
        1.0, help="shares of both are drawn from Beta(alpha, alpha)", symbol="alpha", validator=and_(gt(0), le(10))
    )
    half: bool = option(True, help="store probabilities in float16")

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: "Run") -> Labels | None:
        """``reinforce``: records for these images."""
        if name != NAME:
            return None
        chain, votes = self.links((images.shape[2], images.shape[3]), run.source.mirror_symmetric), run.votes("label")
        if chain.of_pixels and not run.normalisation.pixelwise:
            raise InputError("RandAugment and erasing work on pixels, not on ZCA's numbers: give --normalise mean-std")
        made = reinforced(
            images,
            [vote.network for vote in votes],
            run.generator("reinforce", "records"),
            classes=classes,
            class_count=len(run.source.classes),
            records=Records(
                chain=chain, samples=self.samples, k=self.k, half=self.half, normalisation=run.normalisation
            ),
            weights=[vote.weight for vote in votes],
            probability=self.probability,
        )
        each = record_bytes(chain, len(made), made.class_count, made.ids.shape[-1], self.half)
        run.say(f"labels: {made.samples} records of {len(made)} images, {made.payload_bytes:,} bytes, {each} a record")
        run.log("reinforce", records=made.samples, bytes=made.payload_bytes, record=each)
        return made

    def links(self, size: tuple[int, int], symmetric: bool) -> Chain:
        """The chain for images of this size; without mirrors where they change the class."""
        augments, mixes = "ra-re" in self.chain, "mix" in self.chain
        return Chain(
            size=size,
            scale=(self.scale, 1.0),
            flip=0.5 if symmetric else 0.0,
            operations=self.operations if augments else 0,
            level=self.level,
            erase=self.erase if augments else 0.0,
            mixup=self.mixup if mixes else 0.0,
            cutmix=self.cutmix if mixes else 0.0,
            alpha=self.alpha,
        )
