"""HeLlO: labels from a small projector instead of from storage (ICCV 2025, arXiv:2408.08201).

A frozen encoder E, a vector v_c for each class and low-rank factors answer for any view of an image while a student
trains:

    f(x) = s cos(E(x; theta + A B), v + A' B')
    min over A, B of  MSE(f(x), z(x)) + lambda CE(f(x), y)  on the real data

with z the logits of weak teachers, snapshots along a teacher's training. Only factors are stored, and v where no text
encoder makes it again, whatever the number of images and epochs. Students minimise MSE(student, f) + beta CE(student,
y). The label kind is ``ddcore_hello.projector``; how a projector is made is in ``ddcore_hello.fitting``, whose pure
pieces are in ``ddcore_hello.projecting``; and there is an initialiser whose patches keep what the encoder sees in them
(``ddcore_hello.updating``).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import torch
from attrs import frozen
from attrs.validators import ge, gt, le, optional
from torch import Tensor

from ddcore import InputError, Plugin, Subject, Task, hookimpl, option
from ddcore.images import MOSAICS, crop_boxes, cut, fittest, patch_losses, patches_a_side, ranked, stitch
from ddcore.labels import Labels
from ddcore.runs import for_each_class
from ddcore.training import Protocol
from ddcore_hello.fitting import encoder_of, projector_of, sight
from ddcore_hello.projecting import Weak
from ddcore_hello.projector import ProjectorLabels
from ddcore_hello.protocols import PROTOCOLS
from ddcore_hello.updating import updated

if TYPE_CHECKING:
    from ddcore import Run

NAME, PATCHES = "projector", "hello"


@frozen(kw_only=True, eq=False)
class HeLlO(Plugin):
    """Store no labels but a small network that makes them."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "labels from a low-rank projector on a frozen encoder, made anew for every view"
    paper: ClassVar[str] = (
        "Heavy Labels Out! Dataset Distillation with Label Space Lightening, ICCV 2025, arXiv:2408.08201"
    )
    role: ClassVar[str] = "labels"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    needs: ClassVar[tuple[str, ...]] = ("teachers",)
    labellers: ClassVar[tuple[str, ...]] = (NAME,)
    initializers: ClassVar[tuple[str, ...]] = (PATCHES,)
    of_real: ClassVar[Mapping[str, str]] = {PATCHES: "patches cut out of real images and resized"}
    suggests: ClassVar[str | None] = ""
    tiny: ClassVar[Mapping[str, object]] = {"epochs": 2, "rank": 2, "head_rank": 2, "crops": 2, "pool": 8, "update": 1}
    presets: ClassVar[str | None] = "presets.toml"

    encoder: str = option(
        "auto",
        help="frozen network that makes features: auto, the first teacher without its head; one of --network; open_clip:NAME",
        symbol="E_I",
    )
    weights: str | None = option(
        None,
        help="public weights of any encoder but auto: URL, torchvision's name, or a file in the folder DDCORE_WEIGHTS; not stored",
    )
    normalise: Literal["auto", "data", "imagenet", "clip"] = option(
        "auto", help="how that encoder wants images; auto: clip for open_clip, else as the data"
    )
    head: Literal["auto", "prototypes", "text", "teacher"] = option(
        "auto",
        help="what is not trained of the head: means of class features, class names as sentences, or the teacher's last layer; auto: text for open_clip, else prototypes",
        symbol="v_T",
    )
    template: str = option("a photo of a {}.", help="sentence around a class name, which goes where {} is")
    prototypes: int = option(
        100, help="random real images of a class behind its prototype", unit="images", validator=ge(1)
    )
    rank: int = option(8, help="of the update of each convolution; 0: none", symbol="r", validator=ge(0))
    head_rank: int = option(
        64, help="of the update of the head, at most the number of classes; 0: none", validator=ge(0)
    )
    epochs: int = option(
        10, help="passes over the real data in which factors are fitted", unit="epochs", validator=ge(1)
    )
    batch: int = option(128, help="real images a step", unit="images", validator=ge(1))
    rate: float = option(1e-3, help="learning rate of their AdamW, cosine to 0", validator=gt(0))
    decay: float = option(0.01, help="weight decay of their AdamW", validator=ge(0))
    hard: float = option(
        1.0, help="weight of the cross entropy while they are fitted", symbol="lambda", validator=ge(0)
    )
    weak: Weak = option(
        "mean", help="fit to the weak teachers' mean of logits, or to each in turn, drawn for every batch"
    )
    student_loss: Literal["mse", "kl"] = option(
        "mse", help="what students minimise: the gap of logits as in the paper, or KL as under stored labels of views"
    )
    temperature: float = option(20.0, help="of kl", symbol="tau", validator=[ge(1e-6), le(1e6)])
    student_hard: float = option(
        0.1,
        help="of mse: weight of the cross entropy beside the gap of logits in a student's loss",
        symbol="beta",
        validator=ge(0),
    )
    half: bool = option(True, help="store factors in float16")
    update: int = option(
        0,
        help="of --init hello: steps in which a patch's pixels are moved to what the encoder sees in the original",
        unit="steps",
        validator=ge(0),
    )
    update_rate: float = option(0.01, help="learning rate of those pixels' Adam", validator=gt(0))
    factor: int | None = option(
        None,
        help=f"of --init hello: patches a side of an image; none: 1 for images below {MOSAICS} pixels, else 2",
        validator=optional(ge(1)),
    )
    crops: int = option(5, help="of --init hello: random patches of each image", validator=ge(1))
    pool: int = option(
        300, help="of --init hello: random images of a class that are cut", unit="images", validator=ge(1)
    )
    scale: float = option(
        0.08, help="of --init hello: least area of a patch as a share of its image", validator=[gt(0), le(1)]
    )

    def suggests_protocol(self, subject: Subject) -> str | None:
        """For labels of a projector ``hello``, of small images ``hello-small``."""
        if subject.labels != NAME:
            return None
        return "hello" if subject.size >= MOSAICS else "hello-small"

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_label(self, name: str, classes: Tensor, run: "Run") -> Labels | None:
        """``projector``: one for all images; a set that has one already lends it to the real images beside it."""
        if name != NAME:
            return None
        held = None if run.artifact is None else run.artifact.labels
        made = held if isinstance(held, ProjectorLabels) else projector_of(self, run)
        return attrs.evolve(made, classes=classes)

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, task: Task, run: "Run") -> Tensor | None:
        """``hello``: stitched patches of the lowest teachers' loss, as RDED's,
        their pixels moved if that is asked for."""
        if name != PATCHES:
            return None
        return for_each_class(classes, lambda cls, count: self._images(cls, count, task, run))

    def _images(self, cls: int, count: int, task: Task, run: "Run") -> Tensor:
        size = run.source.size
        factor = patches_a_side(self.factor, size, "--hello.factor")
        side, due = size // factor, count * factor**2
        there = min(self.pool, max(due, run.real.counts()[cls]))  # a class of fewer gives several patches of each
        if not side or there < due:
            raise InputError(
                f"{count} images of {factor} x {factor} patches take {due} images of class {run.real.classes[cls]!r} of at least "
                f"{factor} pixels, and the pool holds {there} of {size}: raise --hello.pool, or lower --hello.factor or --ipc"
            )
        rows = run.real.choose(cls, there, run.generator("hello", "pool", task.slot, cls))
        drawn = run.generator("hello", "crops", task.slot, cls)
        boxes = crop_boxes(there, self.crops, (size, size), (self.scale, 1.0), drawn)
        images, votes = run.real.train.inputs(rows), run.votes("match", task)
        judges = [vote.network for vote in votes], [vote.weight for vote in votes]
        losses, best = fittest(
            patch_losses(cut(images, boxes, side), torch.full((there,), cls), *judges, size=size).cpu()
        )
        kept = ranked(losses, due, "lowest")
        images, boxes = images[kept.to(images.device)], boxes[kept, best[kept]][:, None]
        patches = cut(images, boxes, side)[:, 0]
        return stitch(self._updated(patches, images, boxes, run) if self.update else patches, count, size)

    def _updated(self, patches: Tensor, images: Tensor, boxes: Tensor, run: "Run") -> Tensor:
        """The patches with pixels in which the encoder sees what it sees in the originals."""
        encoder, theirs = encoder_of(self, run)
        originals = cut(images, boxes, encoder.size)[:, 0]
        return updated(
            patches,
            originals,
            sight(encoder, theirs, run).features,
            steps=self.update,
            rate=self.update_rate,
            clamp=run.normalisation.clamped,
        )
