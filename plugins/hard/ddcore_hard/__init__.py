"""HARD: students learn from teachers on inputs that are changed until both disagree (arXiv:2305.14890).

An augmentor g makes x' = g(x, u) of images x and noise u. With D(x) = KL( softmax(z_t / T) || softmax(z_s / T) ), means
over rows,

    the student descends    w_ce L_labels + w_kd T^2 ( (1 - w) D(x) + w D(x') ),                x' held fixed;
    the augmentor descends  -min(D(x'), D_max) + beta L_legitimate(x') + w_e size of the edit, both networks held fixed.

Nothing but the abstract and no code was published: the alternation, the terms and all numbers here are inferred from
it, from TeachAugment (CVPR 2022, arXiv:2202.12513) and from what goes wrong without. ``legitimacy`` keeps x' where the
teacher can still be trusted: ``penalty``, its cross entropy with the class; ``consistency``, KL( p_t(x) || p_t(x') );
``gate``, only rows of which it is sure.

Shape letters: B rows, K classes, C H W pixels.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import and_, ge, gt, le, lt
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from ddcore import Batch, Plugin, Progress, Seen, Term, hookimpl, option
from ddcore.errors import near
from ddcore.labels import kl_divergence, mixed_cross_entropy
from ddcore.training import Protocol, Teaching, still_statistics
from ddcore_hard.augmentor import KINDS, Augmentor, Bounds, Clipped
from ddcore_hard.autoencoder import read
from ddcore_hard.protocols import PROTOCOLS

if TYPE_CHECKING:
    from ddcore import Run

Legitimacy = Literal["penalty", "consistency", "gate"]
SHARE = and_(ge(0), le(1))
LOGGED = 20
"""Lines about the augmentor in a student's log, about."""


def known(instance: object, attribute: object, value: str) -> None:
    """Refuse changes that there are not, and none."""
    for name in value.split("_"):
        if name not in KINDS:
            raise ValueError(f"no change of inputs is named {name!r}: {near(name, KINDS)}")


def disagreement(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(z_t / T) || softmax(z_s / T)) of each row, (B,), at least 0; without a factor T^2.

    Made of logarithms, because the teacher's side has a gradient too, which is finite then also for classes of
    probability 0.

    Args:
        student, teacher: logits (B, K).
    """
    log_s, log_t = ((z / temperature).log_softmax(1) for z in (student, teacher))
    return (log_t.exp() * (log_t - log_s)).sum(1)


def student_term(
    clean: tuple[Tensor, Tensor], changed: tuple[Tensor, Tensor] | None, temperature: float, share: float
) -> Tensor:
    """T^2 ((1 - w) mean D(x) + w mean D(x')), a scalar; T^2 mean D(x) without changed rows.

    Args:
        clean, changed: logits of student and teacher, (B, K) each.
        share: w, in [0, 1].
    """
    value = disagreement(*clean, temperature).mean()
    if changed is not None:
        value = (1 - share) * value + share * disagreement(*changed, temperature).mean()
    return temperature**2 * value


def hardness(student: Tensor, teacher: Tensor, temperature: float, most: float) -> Tensor:
    """min(D(x'), D_max) of each row, (B,); a row at D_max has no gradient.

    Args:
        student, teacher: logits (B, K) for x', with a gradient to x'.
    """
    return disagreement(student, teacher, temperature).clamp(max=most)


def penalised(
    student: Tensor, teacher: Tensor, targets: Mapping[str, Tensor], temperature: float, most: float, beta: float
) -> Tensor:
    """Mean over rows of beta CE(z_t(x'), y) - min(D(x'), D_max), a scalar: TeachAugment's form.

    Args:
        student, teacher: logits (B, K) for x'.
        targets: ``class`` (B,), and ``mixed`` (B,) and ``lam`` (B,) where rows are mixed.
    """
    return (beta * mixed_cross_entropy(teacher, targets) - hardness(student, teacher, temperature, most)).mean()


def consistent(student: Tensor, teacher: Tensor, clean: Tensor, temperature: float, most: float, beta: float) -> Tensor:
    """Mean over rows of beta KL(p_t(x) || p_t(x')) - min(D(x'), D_max), a scalar; the first at temperature 1.

    Args:
        student, teacher: logits (B, K) for x'.
        clean: the teacher's for x.
    """
    return (beta * kl_divergence(teacher, clean) - hardness(student, teacher, temperature, most)).mean()


def gated(student: Tensor, teacher: Tensor, temperature: float, most: float, tau: float) -> Tensor:
    """Mean over all rows of -min(D(x'), D_max) where the teacher is sure, 0 elsewhere; a scalar.

    Args:
        student, teacher: logits (B, K) for x'.
        tau: of a probability at temperature 1, in [0, 1].
    """
    return -(hardness(student, teacher, temperature, most) * sure(teacher, tau)).mean()


def sure(teacher: Tensor, tau: float) -> Tensor:
    """1 where the largest probability is tau or more, else 0: (B,), without gradient."""
    return (teacher.softmax(1).amax(1) >= tau).to(teacher).detach()


def edit_size(values: Tensor) -> Tensor:
    """Mean square of how far changes go, each in units of its bound: a scalar in [0, 1]."""
    return values.square().mean()


def frozen_answer(network: nn.Module, images: Tensor) -> Tensor:
    """A network's logits in eval mode with its weights held fixed: the gradient reaches images alone,
    and nothing of it changes."""
    fixed = {name: tensor.detach() for name, tensor in network.named_parameters()}
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        answer: Tensor = functional_call(network, fixed, (images,))
        return answer
    finally:
        for module, mode in modes:
            module.training = mode


def apart(network: nn.Module, images: Tensor) -> Tensor:
    """A network's logits as it stands, batch norms by this batch alone: what they remember stays."""
    with still_statistics(network):
        return network(images)  # type: ignore[no-any-return]


def _answer(teachers: Teaching, images: Tensor) -> Tensor:
    """The teachers' logits for other images than the batch's, weighted and added up."""
    return torch.stack([vote.weight * vote.network(images) for vote in teachers.votes]).sum(0)


@frozen(kw_only=True, eq=False)
class HARD(Plugin):
    """Students match teachers on inputs that are learned to be hard for them."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "distils on changes of inputs that are learned to show where student and teacher disagree"
    paper: ClassVar[str] = "HARD: Hard Augmentations for Robust Distillation, arXiv:2305.14890"
    role: ClassVar[str] = "student"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    needs: ClassVar[tuple[str, ...]] = ("teachers", "class_logits")
    neutral: ClassVar[Mapping[str, object]] = {"weight": 0.0, "hard_share": 0.0, "label_weight": 1.0}

    temperature: float = option(4.0, help="both distributions are softened by it", symbol="T", validator=gt(0))
    weight: float = option(1.0, help="weight of the teachers' logits", symbol="w_kd", validator=ge(0))
    label_weight: float = option(1.0, help="weight of the labels' own loss", symbol="w_ce", validator=ge(0))
    hard_share: float = option(
        0.5,
        help="of the teachers' logits, the share of changed inputs; 0: plain distillation",
        symbol="w",
        validator=SHARE,
    )
    every: int = option(5, help="the augmentor moves every so many steps", unit="steps", validator=ge(1))
    warmup: float = option(
        0.05, help="share of a student's steps before inputs are changed", validator=and_(ge(0), lt(1))
    )
    rate: float = option(
        1e-3, help="the augmentor's, of Adam; falls as the student's does", unit="a step", validator=gt(0)
    )
    legitimacy: Legitimacy = option("penalty", help="what keeps changed inputs such that teachers can be trusted")
    beta: float = option(1.0, help="of penalty and consistency: its weight", symbol="beta", validator=ge(0))
    tau: float = option(0.5, help="of gate: least probability of a teacher that is sure", symbol="tau", validator=SHARE)
    most: float = option(
        5.0, help="most that one row's disagreement counts", symbol="D_max", unit="nats", validator=gt(0)
    )
    edit_weight: float = option(0.01, help="weight of the mean square of changes", symbol="w_e", validator=ge(0))
    changes: str = option(
        "affine", help="what inputs are changed by: affine, flow, colour, latent, joined by _", validator=known
    )
    spread: float = option(
        0.0, help="deviation of a random part of each change, before the bound", unit="bounds", validator=ge(0)
    )
    rotation: float = option(30.0, help="of affine: most", unit="degrees", validator=and_(ge(0), le(180)))
    shift: float = option(0.25, help="of affine: most, each way", unit="sides", validator=SHARE)
    scale: float = option(1.4, help="of affine: largest factor; its inverse is the least", validator=ge(1))
    shear: float = option(0.0, help="of affine: largest tangent", validator=ge(0))
    flow_shift: float = option(0.1, help="of flow: most", unit="sides", validator=SHARE)
    gain: float = option(1.5, help="of colour: largest factor; its inverse is the least", validator=ge(1))
    colour_shift: float = option(0.2, help="of colour: most, of the range of pixels", validator=SHARE)

    code_shift: float = option(
        1.0, help="of latent: most that a number of an image's code moves", unit="prior deviations", validator=ge(0)
    )
    autoencoder: str | None = option(
        None, help="of latent: file of one that was trained by python -m ddcore_hard.autoencoder"
    )

    def __attrs_post_init__(self) -> None:
        if ("latent" in self.changes.split("_")) != (self.autoencoder is not None):
            raise ValueError("changes latent and autoencoder FILE belong together: give both or neither")

    @property
    def bounds(self) -> Bounds:
        """How far each change may go."""
        names = ("rotation", "shift", "scale", "shear", "flow_shift", "gain", "colour_shift", "code_shift")
        return Bounds(kinds=frozenset(self.changes.split("_")), **{name: getattr(self, name) for name in names})

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """The paper's recipe for students."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_student_modules(self, run: "Run") -> nn.Module | None:
        """The augmentor; none where no input is changed.

        Raises:
            InputError: the autoencoder's file holds none, or one for other images.
        """
        if not self.hard_share:
            return None
        source = run.source
        coder = None if self.autoencoder is None else read(self.autoencoder, source.channels, source.size)
        return Augmentor(source.channels, self.bounds, self.spread, coder)

    def module_optimizer(self, modules: nn.Module, rate: float) -> Optimizer:
        """Adam at a rate of its own, gradients no longer than 1."""
        return Clipped(modules, self.rate, 1.0)

    @hookimpl
    def ddcore_student_loss(
        self,
        batch: Batch,
        network: nn.Module,
        progress: Progress,
        seen: Seen,
        teachers: Teaching,
        modules: nn.Module | None,
        generator: Generator,
        run: "Run",
    ) -> Term:
        """The student's term and, at some steps, the augmentor's: no gradient of one reaches what the other moves."""
        clean = seen.logits, teachers.logits.to(seen.logits)
        if modules is None or progress.fraction < self.warmup:
            value = self.weight * student_term(clean, None, self.temperature, 0.0)
            return Term("hard", value, labels=self.label_weight)
        augmentor: Any = modules
        moves = (progress.step + 1) % self.every == 0
        pixels = run.normalisation.inverse(batch.inputs)
        with torch.set_grad_enabled(moves):
            values = augmentor.values(pixels, augmentor.noise(pixels, generator))
            images = run.normalisation.apply(augmentor(pixels, values))
            teacher = _answer(teachers, images).to(seen.logits)
        student = apart(network, images.detach()).to(seen.logits)
        term = student_term(clean, (student, teacher.detach()), self.temperature, self.hard_share)
        value = self.weight * term
        if moves:
            answer = frozen_answer(network, images).to(teacher)
            value = value + self._of_augmentor(answer, teacher, clean[1], batch.targets)
            value = value + self.edit_weight * edit_size(values)
        self._log(run, progress, clean, (student, teacher), values)
        return Term("hard", value, labels=self.label_weight)

    def _of_augmentor(self, student: Tensor, teacher: Tensor, clean: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        limits = self.temperature, self.most
        if self.legitimacy == "penalty":
            return penalised(student, teacher, targets, *limits, self.beta)
        if self.legitimacy == "consistency":
            return consistent(student, teacher, clean, *limits, self.beta)
        return gated(student, teacher, *limits, self.tau)

    def _log(
        self, run: "Run", progress: Progress, clean: tuple[Tensor, Tensor], hard: tuple[Tensor, Tensor], values: Tensor
    ) -> None:
        """Now and then: how much harder changed inputs are, and how many changes are at their bound."""
        if progress.step % max(1, progress.steps // LOGGED):
            return
        with torch.no_grad():
            before, after = (float(disagreement(*pair, self.temperature).mean()) for pair in (clean, hard))
            far = values.abs()
            edit, bound = float(far.mean()), float((far > 0.95).double().mean())
        run.log("hard", step=progress.step, clean=before, changed=after, edit=edit, at_bound=bound)
