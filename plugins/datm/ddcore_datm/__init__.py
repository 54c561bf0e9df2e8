"""Difficulty-aligned trajectory matching (Guo et al., ICLR 2024, arXiv:2310.05773).

Early stretches of an expert's training teach easy patterns, late ones hard patterns. Few images can hold only easy
patterns; many images need hard ones. DATM matches (``ddcore_mtt`` tells how) only stretches whose start epoch lies in a
window, widens the window while it distils, and learns the labels:

    t ~ U{T-, ..., u_k - 1},  u_k = min(T+, T + floor((T+ - T) k / E)),
    l = -mean_b sum_c softmax(Y_b)_c log softmax(f(x_b))_c

Images start as real ones that an expert classifies correctly, label logits Y as the mean logits of the experts that do.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import ge, gt, in_, optional
from torch import Generator, Tensor, nn

from ddcore import Learn, Loss, Subject, Task, hookimpl, option
from ddcore.labels import Labels, SoftLabels
from ddcore.networks import logits
from ddcore.training import Protocol, UnrollOptions, choose_segment, trajectory_loss
from ddcore_datm.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Run

BLOCK = 256


def window(step: int, low: int, start: int | None, high: int, end: int) -> tuple[int, int]:
    """The start epochs that step k may draw from: from T- up to, but not with, u_k.

    Args:
        step: k, 0-based outer step.
        low: T-.
        start: T, u_0; None switches sequential generation off: u_k = T+.
        high: T+.
        end: E, the step at which u_k reaches T+.

    >>> [window(step, 0, 10, 20, 1000) for step in (0, 500, 5000)], window(0, 40, None, 60, 0)
    ([(0, 10), (0, 15), (0, 20)], (40, 60))
    """
    if start is None:
        return low, high
    return low, min(high, start + (high - start) * step // max(1, end))


def mean_of_correct(logits_MBK: Tensor, classes_B: Tensor) -> Tensor:
    """Mean logits over those of M networks that classify an image correctly; over all M where none does.

    Args:
        logits_MBK: any float dtype.
        classes_B: int64.

    Returns:
        (B, K); the largest is the image's class wherever some network is right.
    """
    right_MB = (logits_MBK.argmax(2) == classes_B).to(logits_MBK)
    right_MB = torch.where(right_MB.sum(0) > 0, right_MB, torch.ones_like(right_MB))
    return (logits_MBK * right_MB[..., None]).sum(0) / right_MB.sum(0)[:, None]


@frozen(kw_only=True, eq=False)
class DATM(UnrollOptions):
    """Match stretches of the right difficulty, and learn the labels."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "match expert trajectories in a window of difficulty, with learned soft labels"
    paper: ClassVar[str] = (
        "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024, arXiv:2310.05773"
    )
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    steps: ClassVar[int | None] = 10000
    learns: ClassVar[tuple[str, ...]] = ("pixels", "labels", "rate")
    initializers: ClassVar[tuple[str, ...]] = ("correct",)
    of_real: ClassVar[Mapping[str, str]] = {"correct": "unchanged"}
    labellers: ClassVar[tuple[str, ...]] = ("experts",)
    tiny: ClassVar[Mapping[str, object]] = {**UnrollOptions.tiny, "threshold": 100.0}
    presets: ClassVar[str | None] = "presets.toml"

    student_steps: int = option(80, help="SGD steps of the student", symbol="N", unit="steps", validator=ge(1))
    min_start_epoch: int = option(0, help="lowest start epoch", symbol="T-", unit="epochs", validator=ge(0))
    start_epoch: int | None = option(
        None,
        help="upper start epoch to begin with; none: T+ from the start",
        symbol="T",
        unit="epochs",
        validator=optional(ge(1)),
    )
    max_start_epoch: int = option(
        4, help="start epochs are drawn below this in the end", symbol="T+", unit="epochs", validator=ge(1)
    )
    expansion_end: int = option(
        1000, help="outer step at which the window is fully open", symbol="E", unit="steps", validator=ge(1)
    )
    threshold: float = option(1.0, help="a step with a larger loss moves nothing", validator=gt(0))
    lr_y: float = option(5.0, help="learning rate of the label logits", validator=ge(0))
    start_labels: Literal["auto", "right", "first"] = option(
        "auto",
        help="logits to begin with: mean of the experts that are right, or the first expert's; auto: first for --init real",
        validator=in_(("auto", "right", "first")),
    )
    momentum_y: float = option(0.9, help="momentum of the SGD on the label logits", validator=ge(0))

    def suggests_protocol(self, subject: Subject) -> str | None:
        """``datm`` for sets with a learned rate and learned labels; not for the small images of demonstrations."""
        learned = subject.learned_rate and subject.learned_labels
        return "datm" if learned and not (subject.tiny or subject.of_views) else None

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_initialize(self, name: str, classes: Tensor, generator: Generator, run: "Run") -> Tensor | None:
        """``correct``: real images that an expert classifies correctly, in shuffled order."""
        if name != "correct":
            return None
        found = {c: correct_images(run, c, int((classes == c).sum()), generator) for c in sorted(set(classes.tolist()))}
        rows = {c: iter(images) for c, images in found.items()}
        return torch.stack([next(rows[c]) for c in classes.tolist()])

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: "Run") -> Labels | None:
        """``experts``: the mean logits of the experts that are right, DATM's labels before it learns them."""
        return SoftLabels(expert_logits(run, images, classes).cpu(), classes.cpu()) if name == "experts" else None

    @hookimpl
    def ddcore_learn(self, task: Task, images: Tensor, run: "Run") -> Learn:
        """Pixels, label logits and the student's learning rate."""
        assert task.classes is not None
        first = self.start_labels == "first" or (self.start_labels == "auto" and run.plan.initializer == "real")
        with torch.no_grad():
            labels = (
                logits(next(final_networks(run)), images)
                if first
                else expert_logits(run, images, task.classes.to(images.device))
            )
        pixels, labels = images.requires_grad_(), labels.requires_grad_()
        rate = torch.tensor(self.rate, device=pixels.device, dtype=pixels.dtype, requires_grad=True)
        return Learn(
            {"pixels": pixels, "labels": labels, "rate": rate},
            {
                "pixels": torch.optim.SGD([pixels], lr=self.lr_img, momentum=self.momentum),
                "labels": torch.optim.SGD([labels], lr=self.lr_y, momentum=self.momentum_y),
                "rate": torch.optim.SGD([rate], lr=self.lr_lr, momentum=self.momentum),
            },
            roles={"pixels": "pixels", "labels": "labels", "rate": "rate"},
            fixed={"network": run.network(run.generator("datm", "network"))},
        )

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The trajectory loss in the window of this step; nothing where the student did worse than standing still."""
        low, high = window(step, self.min_start_epoch, self.start_epoch, self.max_start_epoch, self.expansion_end)
        segment = choose_segment(run, "datm", task, step, low, high, self.expert_epochs)
        unroll = self.unrolled("datm", self.max_start_epoch)
        loss = trajectory_loss(run, unroll, task, step, learn, segment)
        if not loss.detach() > self.threshold:
            yield Loss(loss)

    @hookimpl
    def ddcore_project(self, after: Tensor, role: str) -> Tensor | None:
        """Keep the learned rate positive: a negative one makes the student climb and the loss explode."""
        return after.clamp(min=self.rate_floor) if role == "rate" else None


def final_networks(run: "Run") -> Iterator[nn.Module]:
    """Each expert as its training left it."""
    return (run.trajectories.network(run, expert) for expert in range(run.trajectories.count))


def expert_logits(run: "Run", images: Tensor, classes: Tensor) -> Tensor:
    """``mean_of_correct`` of all experts' final networks on un-augmented images, (N, K)."""
    return mean_of_correct(torch.stack([logits(network, images) for network in final_networks(run)]), classes)


def correct_images(run: "Run", cls: int, count: int, generator: Generator) -> Tensor:
    """The first ``count`` shuffled images of a class that an expert gets right: the first expert's, then the next's.

    Images that no expert gets right fill up what is missing, with a warning; then the same ones again.

    Returns:
        (count, C, H, W) on the CPU.
    """
    index = run.real.train.of_class(cls)
    index = index[torch.randperm(len(index), generator=generator)]
    chosen: list[int] = []
    for network in final_networks(run):
        for block in index.split(BLOCK):
            new = block[~torch.isin(block, torch.tensor(chosen, dtype=block.dtype))]
            right = logits(network, run.real.train.inputs(new)).argmax(1).cpu() == cls
            chosen += new[right].tolist()
            if len(chosen) >= count:
                return run.real.train.inputs(torch.tensor(chosen[:count])).cpu()
    run.warn(
        f"the experts get only {len(chosen)} images of class {run.real.classes[cls]!r} right: others fill up the {count}"
    )
    rest = [i for i in index.tolist() if i not in set(chosen)]
    every = chosen + rest
    return run.real.train.inputs(torch.tensor([every[i % len(every)] for i in range(count)])).cpu()
