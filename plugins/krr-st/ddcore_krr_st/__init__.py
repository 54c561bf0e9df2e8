"""KRR-ST: self-supervised dataset distillation for transfer learning (ICLR 2024, arXiv:2310.06511).

A set of images x_s with vectors y_s, from which a network learns by regression what a self-supervised target model g
says of the real images:

    L = || K_rs (K_ss + lambda I)^-1 y_s - g(x_r) ||^2 / (B D),   K = [f, 1] [f, 1]^T,   lambda = 1e-6 tr(K_ss)

with features f of one network of a pool, drawn anew for each step; the pool's networks are trained on the set, a step
whenever they are picked. No class is looked at. The maths is in ``ddcore_krr_st.ridge``, g in ``ddcore_krr_st.target``.
Shape letters: B real images, M synthetic, D numbers of a vector.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from attrs import evolve, frozen
from attrs.validators import ge, gt, optional
from torch import Tensor, nn

from ddcore import Batch, Cost, Learn, Loss, Plugin, Subject, Task, hookimpl, option
from ddcore.images import SHIFTED, transform
from ddcore.labels import Labels, VectorLabels
from ddcore.networks import embed, features
from ddcore.randomness import drawing_from
from ddcore.training import Protocol
from ddcore_krr_st.ridge import aged, due_rate, krr_loss
from ddcore_krr_st.target import target_network, width_of

if TYPE_CHECKING:
    from ddcore import Run

NAME = "krr-st"
VIEWS = evolve(SHIFTED, mix="none")
PROBED = Protocol(
    name="krr-st-probe",
    summary="KRR-ST's pretraining, 1000 epochs of regression at a constant rate, then a linear probe",
    epochs=1000,
    extra_epoch=False,
    rate=0.1,
    weight_decay=1e-3,
    schedule_name="steps",
    augment="none",
    probe={"epochs": 51, "batch": 512},
)
PROTOCOLS = {PROBED.name: PROBED}


class Member(nn.Module):
    """A network of the pool: a body, and a linear head of D outputs in the place of its last layer."""

    def __init__(self, body: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, outputs)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, Q)."""
        return self.body.embed(images)  # type: ignore[no-any-return, operator]

    def forward(self, images: Tensor) -> Tensor:
        """Predicted vectors (B, D)."""
        return self.head(self.embed(images))  # type: ignore[no-any-return]


def regressed(member: nn.Module, descent: torch.optim.Optimizer, images: Tensor, vectors: Tensor) -> Tensor:
    """One full-batch step of a pool's network on the set, in train mode; its mean squared error before it."""
    with torch.enable_grad():
        member.train().requires_grad_(True)
        loss = nn.functional.mse_loss(member(images.detach()), vectors.detach())
        descent.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
    member.eval().requires_grad_(False)
    return loss.detach()


@frozen(kw_only=True, eq=False)
class KrrSt(Plugin):
    """Regress a self-supervised model's representations."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "images with learned vectors, from which a self-supervised model is regressed; for pretraining"
    )
    paper: ClassVar[str] = "Self-Supervised Dataset Distillation for Transfer Learning, ICLR 2024, arXiv:2310.06511"
    role: ClassVar[str] = "matcher"
    of_classes: ClassVar[bool] = False
    steps: ClassVar[int | None] = 160_000
    learns: ClassVar[tuple[str, ...]] = ("pixels", "vectors")
    asks: ClassVar[tuple[str, ...]] = ("initialize", "view:match")
    labellers: ClassVar[tuple[str, ...]] = (NAME,)
    label_kinds: ClassVar[Mapping[str, str]] = {NAME: VectorLabels.kind}
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    tiny: ClassVar[Mapping[str, object]] = {"batch": 12, "pool": 2, "online": 3, "target_epochs": 1, "target_batch": 12}
    presets: ClassVar[str | None] = "presets.toml"

    lr: float = option(1e-4, help="learning rate of images and vectors, linear to a thousandth", validator=gt(0))
    batch: int = option(1024, help="real images a step", unit="images", validator=ge(1))
    pool: int = option(10, help="networks in the pool", symbol="P", validator=ge(1))
    online: int = option(
        1000, help="steps of a pool's network before it is made anew", unit="steps", symbol="T", validator=ge(1)
    )
    online_rate: float = option(0.1, help="learning rate of their SGD", validator=gt(0))
    online_momentum: float = option(0.9, help="momentum of their SGD", validator=ge(0))
    online_decay: float = option(1e-3, help="weight decay of their SGD", validator=ge(0))
    reset: bool = option(
        True, help="a network made anew is young again; no-reset: as in the authors' code, it never is"
    )
    learn_vectors: bool = option(
        True, help="learn the vectors; else they stay what the target model says of the initial images"
    )
    target: str | None = option(None, help="architecture of the target model; none: --network")
    weights: str | None = option(
        None, help="file or URL of its state dict; none: trained here without labels, by Barlow Twins"
    )
    target_epochs: int = option(100, help="epochs of that training", unit="epochs", validator=ge(1))
    target_batch: int = option(256, help="real images a step of it", unit="images", validator=ge(2))
    target_rate: float = option(1e-3, help="learning rate of its AdamW, cosine to 0", validator=gt(0))
    chunk: int | None = option(
        None,
        help="real images whose representations are asked for at once; none: chosen by size",
        validator=optional(ge(1)),
    )

    def cost(self, run: "Run") -> Cost:
        """Real images through the target model and a network of the pool, the set forward and back twice."""
        return Cost(
            forward=2 * self.batch, backward=2 * len(run.source.classes) * run.config.ipc, weights_kept=self.pool
        )

    def label_sizes(self, run: "Run") -> Mapping[str, Any]:
        """D."""
        return {"width": width_of(self, run)}

    def suggests_protocol(self, subject: Subject) -> str | None:
        """The paper's pretraining and a probe, but for demonstrations."""
        return PROBED.name if subject.labels == VectorLabels.kind and not subject.tiny else None

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's pretraining, then a probe."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_label(self, name: str, images: Tensor, classes: Tensor, run: "Run") -> Labels | None:
        """``krr-st``: what the target model says of any images."""
        if name != NAME:
            return None
        vectors = features(target_network(self, run), images, chunk=self.chunk)
        return VectorLabels(vectors, classes, len(run.source.classes))

    @hookimpl
    def ddcore_learn(self, task: Task, images: Tensor, run: "Run") -> Learn:
        """Images and what the target model says of them; and the pool, untrained."""
        target = target_network(self, run)
        pixels, vectors = (
            images.requires_grad_(),
            features(target, images, chunk=self.chunk).requires_grad_(self.learn_vectors),
        )
        learned = [pixels, vectors] if self.learn_vectors else [pixels]
        members = [self._member(run, vectors.shape[1], task, number, 0) for number in range(self.pool)]
        state: dict[str, Any] = {
            "members": {str(n): member for n, member in enumerate(members)},
            "descents": {str(n): self._descent(member) for n, member in enumerate(members)},
            "ages": torch.full((self.pool,), -1),
            "made": torch.zeros(self.pool, dtype=torch.int64),
        }
        return Learn(
            {"pixels": pixels, "vectors": vectors},
            {"set": torch.optim.AdamW(learned, lr=self.lr, weight_decay=0.0)},
            roles={"pixels": "pixels", "vectors": "vectors"},
            state=state,
            fixed={"target": target},
        )

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """The distance above under one network of the pool; then that network's own step on the set that moved."""
        assert task.classes is not None
        pixels, vectors = learn.tensors["pixels"], learn.tensors["vectors"]
        self._begin(task, learn, run)
        number = int(torch.randint(self.pool, (), generator=run.generator(NAME, "pick", task.slot, step)))
        member = learn.state["members"][str(number)].eval().requires_grad_(False)
        images = self._real(task, step, run)
        index = torch.arange(len(pixels), device=pixels.device)
        batch = run.view(Batch(pixels, {"class": task.classes.to(pixels.device)}, index), "match")
        for settings in learn.optimizers["set"].param_groups:
            settings["lr"] = due_rate(step, task.steps, self.lr)
        told = features(learn.fixed["target"], images, chunk=self.chunk)
        shown = embed(member, batch.inputs)
        yield Loss(krr_loss(features(member, images), told, shown, vectors[batch.index]), update=("set",))
        self._update(number, step, task, learn, run)

    def _real(self, task: Task, step: int, run: "Run") -> Tensor:
        """A random batch of real images of any class, shifted and mirrored."""
        real, generator = run.real.train, run.generator(NAME, "real", task.slot, step)
        rows = torch.randperm(len(real), generator=generator)[: self.batch]
        size = (run.source.size, run.source.size)
        drawn = VIEWS.fitting(run.source.size, run.source.mirror_symmetric)
        images = real.inputs(rows)
        index = torch.arange(len(rows), device=images.device)
        change = transform(drawn, len(rows), size, run.generator(NAME, "view", task.slot, step))
        return change(Batch(images, {}, index)).inputs  # type: ignore[no-any-return]

    def _begin(self, task: Task, learn: Learn, run: "Run") -> None:
        """Before the first step: each network is trained a random number of steps, 1 to T - 1, on the initial set."""
        state, ages = learn.state, learn.state["ages"]
        if int(ages[0]) >= 0:
            return
        drawn = torch.randint(1, max(2, self.online), (self.pool,), generator=run.generator(NAME, "ages", task.slot))
        for number, age in enumerate(drawn.tolist()):
            for step in range(age):
                with drawing_from(run.generator(NAME, "warm", task.slot, number, step), run.device):
                    self._regress(number, learn)
        ages.copy_(drawn)
        state["made"].zero_()

    def _update(self, number: int, step: int, task: Task, learn: Learn, run: "Run") -> None:
        """Age the network that was picked: a step on the set, or a new one in its place."""
        state = learn.state
        age, anew = aged(int(state["ages"][number]), self.online, reset=self.reset)
        state["ages"][number] = age
        if not anew:
            with drawing_from(run.generator(NAME, "online", task.slot, step), run.device):
                self._regress(number, learn)
            return
        state["made"][number] += 1
        width = learn.tensors["vectors"].shape[1]
        made = self._member(run, width, task, number, int(state["made"][number]))
        state["members"][str(number)].load_state_dict(made.state_dict())
        state["descents"][str(number)].state.clear()

    def _regress(self, number: int, learn: Learn) -> None:
        member, descent = (learn.state[name][str(number)] for name in ("members", "descents"))
        regressed(member, descent, learn.tensors["pixels"], learn.tensors["vectors"])

    def _member(self, run: "Run", outputs: int, task: Task, number: int, made: int) -> Member:
        key = (task.slot, number, made)
        body = run.network(run.generator(NAME, "member", *key))
        width = features(body.eval(), run.real.train.inputs(torch.arange(1))).shape[1]
        with drawing_from(run.generator(NAME, "head", *key)):
            member = Member(body, width, outputs)
        return member.to(run.device, run.dtype).eval().requires_grad_(False)

    def _descent(self, member: nn.Module) -> torch.optim.Optimizer:
        # a last layer that is never used gets no gradient, and so never moves
        momentum, decay = self.online_momentum, self.online_decay
        return torch.optim.SGD(member.parameters(), self.online_rate, momentum=momentum, weight_decay=decay)
