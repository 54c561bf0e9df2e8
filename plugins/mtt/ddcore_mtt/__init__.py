"""Matching training trajectories (Cazenavette et al., CVPR 2022, arXiv:2203.11932), and TESLA's gradient as an option.

Start a student at an expert's weights after t epochs, take N SGD steps of learned size alpha on the synthetic set, and
ask how far it lands from where M epochs of real training took the expert, in units of how far the expert travelled:

    L = ||theta_N - theta*_{t+M}||^2 / ||theta*_t - theta*_{t+M}||^2,    t ~ U{0, ..., T+ - 1}

The unrolled gradient is exact in the memory of one inner step (``ddcore.networks.unroll``).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge
from torch import Tensor

from ddcore import Learn, Loss, Subject, Task, hookimpl, option
from ddcore.training import Protocol, UnrollOptions, choose_segment, trajectory_loss
from ddcore_mtt.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Run


@frozen(kw_only=True, eq=False)
class MTT(UnrollOptions):
    """Match stretches of experts' training with an unrolled student."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "match stretches of experts' training with an unrolled student"
    paper: ClassVar[str] = "Dataset Distillation by Matching Training Trajectories, CVPR 2022, arXiv:2203.11932"
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    steps: ClassVar[int | None] = 5000
    learns: ClassVar[tuple[str, ...]] = ("pixels", "rate")
    presets: ClassVar[str | None] = "presets.toml"

    max_start_epoch: int = option(
        2, help="start epochs are drawn below this", symbol="T+", unit="epochs", validator=ge(1)
    )

    def suggests_protocol(self, subject: Subject) -> str | None:
        """``mtt`` for sets with a learned rate; not for the small images of demonstrations."""
        return "mtt" if subject.learned_rate and not (subject.tiny or subject.of_views) else None

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_learn(self, images: Tensor, run: "Run") -> Learn:
        """Pixels and the student's learning rate."""
        pixels = images.requires_grad_()
        rate = torch.tensor(self.rate, device=pixels.device, dtype=pixels.dtype, requires_grad=True)
        return Learn(
            {"pixels": pixels, "rate": rate},
            {
                "pixels": torch.optim.SGD([pixels], lr=self.lr_img, momentum=self.momentum),
                "rate": torch.optim.SGD([rate], lr=self.lr_lr, momentum=self.momentum),
            },
            roles={"pixels": "pixels", "rate": "rate"},
            fixed={"network": run.network(run.generator("mtt", "network"))},
        )

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The loss above for one stretch of one expert."""
        segment = choose_segment(run, "mtt", task, step, 0, self.max_start_epoch, self.expert_epochs)
        unroll = self.unrolled("mtt", self.max_start_epoch)
        yield Loss(trajectory_loss(run, unroll, task, step, learn, segment))

    @hookimpl
    def ddcore_project(self, after: Tensor, role: str) -> Tensor | None:
        """Keep the learned rate positive: a negative one makes the student climb and the loss explode."""
        return after.clamp(min=self.rate_floor) if role == "rate" else None
