"""Matching training trajectories (Cazenavette et al., CVPR 2022, arXiv:2203.11932), and TESLA's gradient as an option.

Start a student at an expert's weights after t epochs, take N SGD steps of learned size alpha on the synthetic set, and
ask how far it lands from where M epochs of real training took the expert, in units of how far the expert travelled:

    L = ||theta_N - theta*_{t+M}||^2 / ||theta*_t - theta*_{t+M}||^2,    t ~ U{0, ..., T+ - 1}

The unrolled gradient is exact in the memory of one inner step (``ddcore.unroll``).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import ge, gt, optional
from torch import Tensor

from ddcore import Cost, Learn, Loss, Plugin, Task, hookimpl, option
from ddcore.trajectory import Unroll, choose_segment, trajectory_loss, unroll_cost

if TYPE_CHECKING:
    from ddcore.run import Run


@frozen(kw_only=True, eq=False)
class MTT(Plugin):
    """Match stretches of experts' training with an unrolled student."""

    summary: ClassVar[str] = "match stretches of experts' training with an unrolled student"
    paper: ClassVar[str] = "Dataset Distillation by Matching Training Trajectories, CVPR 2022, arXiv:2203.11932"
    role: ClassVar[str] = "matcher"
    steps: ClassVar[int | None] = 5000
    learns: ClassVar[tuple[str, ...]] = ("pixels", "rate")
    needs: ClassVar[tuple[str, ...]] = ("trajectories",)
    asks: ClassVar[tuple[str, ...]] = (
        "initialize",
        "view:student_step",
        "augment:student_step",
        "setting:student_step.batch",
    )
    presets: ClassVar[str | None] = "presets.toml"

    student_steps: int = option(50, help="SGD steps of the student", symbol="N", unit="steps", validator=ge(1))
    expert_epochs: int = option(2, help="epochs the expert is ahead", symbol="M", unit="epochs", validator=ge(1))
    max_start_epoch: int = option(
        2, help="start epochs are drawn below this", symbol="T+", unit="epochs", validator=ge(1)
    )
    batch: int | None = option(
        None,
        help="distinct images of an inner step; none is all",
        symbol="|b|",
        unit="images",
        validator=optional(ge(1)),
    )
    lr_img: float = option(100.0, help="learning rate of the pixels", validator=gt(0))
    lr_lr: float = option(1e-7, help="learning rate of the student's learning rate", validator=ge(0))
    rate: float = option(
        0.01, help="the student's learning rate to begin with", symbol="alpha_0", unit="a step", validator=gt(0)
    )
    rate_floor: float = option(1e-6, help="the learned rate never falls below this", unit="a step", validator=ge(0))
    momentum: float = option(0.5, help="momentum of the SGD on pixels and rate", validator=ge(0))
    unroll: Literal["adjoint", "tesla", "full"] = option(
        "adjoint",
        help="gradient of the unrolled student: exact in one step's memory, TESLA's truncated, or the full graph",
    )
    micro_batch: int | None = option(
        None,
        help="images whose second-order graph is alive at once; none: what was measured best for their size",
        unit="images",
        validator=optional(ge(1)),
    )

    def cost(self, run: "Run") -> Cost:
        """N inner steps, each once forward and once in the sweep back."""
        return unroll_cost(run, self.student_steps, self.batch)

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
        unroll = Unroll("mtt", self.student_steps, self.batch, self.unroll, self.micro_batch)
        yield Loss(trajectory_loss(run, unroll, task, step, learn, segment))

    @hookimpl
    def ddcore_project(self, after: Tensor, role: str) -> Tensor | None:
        """Keep the learned rate positive: a negative one makes the student climb and the loss explode."""
        return after.clamp(min=self.rate_floor) if role == "rate" else None
