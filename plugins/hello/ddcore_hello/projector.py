"""Labels that a projector computes for whatever a student sees, so that none is stored (HeLlO, arXiv:2408.08201).

    y(x) = s u(E(x; theta + A B)) (W + A' B')^T + b

E is a frozen encoder with weights theta, W a head that was not trained (prototypes of the classes, or their names as
sentences),
s a scale, u division by the length (or nothing). What was trained, and is stored, are factors A (d_out, r) and B (r,
d_in) of every
convolution and of the head: r (d_out + d_in) numbers each, whatever the number of images and epochs. A convolution
(O, I, h, w) is
the matrix (O h, I w), whose products are separable filters; the published counts fit this and neither (O, I h w) nor
(O, I).
Shape letters: N samples, B images of a batch, C H W pixels, D features, K classes, P numbers in theta.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from attrs import field, frozen
from attrs.validators import in_, instance_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ddcore import Batch, InputError, Normalisation, View
from ddcore.data import Identity, MeanStd
from ddcore.data import Normalisation as Stored
from ddcore.labels import (
    Encoder,
    Labels,
    Prompts,
    as_ids,
    check_ids,
    check_temperature,
    float32_or_16,
    mixed_classes,
    resized,
    smallest_type,
    stored,
)
from ddcore.networks import lay_out, logits

HEAD = "head"
Factors = Mapping[str, tuple[Tensor, Tensor]]
Shape = Sequence[int]


# ---- low rank --------------------------------------------------------------------------------------------------------


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """d_out and d_in of a weight.

    >>> matrix_shape((64, 3, 7, 5)), matrix_shape((10, 512))
    ((448, 15), (10, 512))
    """
    if len(shape) == 2:
        return shape[0], shape[1]
    out, into, high, wide = shape
    return out * high, into * wide


def as_weight(matrix: Tensor, shape: Shape) -> Tensor:
    """The weight of ``shape`` that a matrix (d_out, d_in) stands for: row o h + i and column c w + j hold element (o,
    c, i, j)."""
    if len(shape) == 2:
        return matrix
    out, into, high, wide = shape
    return matrix.view(out, high, into, wide).permute(0, 2, 1, 3)


def merged(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """theta + A B, differentiable in all three.

    Args:
        weight: (O, I, h, w) or (K, D).
        a: (d_out, r).
        b: (r, d_in).
    """
    return weight + as_weight(a.to(weight) @ b.to(weight), weight.shape)


def rank_of(shape: Shape, rank: int) -> int:
    """The rank that a weight's factors have: no more than its matrix can have.

    >>> rank_of((16, 3, 3, 3), 4), rank_of((16, 3, 3, 3), 100)
    (4, 9)
    """
    return min(rank, *matrix_shape(shape))


def factor_floats(shapes: Iterable[Shape], rank: int) -> int:
    """Numbers in the factors of weights: sum of r (d_out + d_in).

    >>> factor_floats([(1000, 1024)], 128)
    259072
    """
    return sum(rank_of(shape, rank) * sum(matrix_shape(shape)) for shape in shapes)


# ---- the network -----------------------------------------------------------------------------------------------------


class _Embedding(nn.Module):
    """A network's ``embed`` as a forward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(images)  # type: ignore[no-any-return, operator]


class Projector(nn.Module):
    """Images (B, C, H, W) to logits (B, K). Its parameters are the factors and nothing else; its encoder never leaves
    eval mode."""

    def __init__(
        self,
        encoder: nn.Module,
        head: Tensor,
        factors: Factors,
        *,
        scale: float = 1.0,
        bias: Tensor | None = None,
        unit: bool = True,
        size: int,
        ours: Normalisation | None = None,
        theirs: Normalisation | None = None,
    ) -> None:
        """Put one together.

        Args:
            encoder: frozen, in eval mode, with ``embed``; on the device where the projector will be used, and never
            written to.
            head: (K, D).
            factors: by name of the encoder's weight, and under ``head``; copied.
            bias: (K,).
            unit: whether features are divided by their length.
            size: pixels a side that the encoder wants.
            ours, theirs: how images are normalised, and how the encoder wants them; without ``theirs`` as they are.

        Raises:
            InputError: factors of weights that the encoder does not have, or of another shape.
        """
        super().__init__()
        self._embedding = [_Embedding(encoder)]
        self.names = sorted(factors)
        self.scale, self.unit, self.size, self._ours, self._theirs = scale, unit, size, ours, theirs
        self.register_buffer("head", head.float(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.float(), persistent=False)
        check_factors(factors, {name: tuple(p.shape) for name, p in encoder.named_parameters()}, tuple(head.shape))
        self.a = nn.ParameterList(nn.Parameter(factors[name][0].detach().float().clone()) for name in self.names)
        self.b = nn.ParameterList(nn.Parameter(factors[name][1].detach().float().clone()) for name in self.names)

    @property
    def factors(self) -> Factors:
        """A and B of every adapted weight, by its name."""
        return {name: (a, b) for name, a, b in zip(self.names, self.a, self.b, strict=True)}

    def head_now(self) -> Tensor:
        """W + A' B'."""
        return merged(self.head, *self.factors[HEAD]) if HEAD in self.names else self.head  # type: ignore[arg-type, return-value]

    def features(self, images: Tensor) -> Tensor:
        """What the adapted encoder makes of images, (B, D), of unit length if that is due."""
        embedding, factors = self._embedding[0], self.factors
        weights = dict(embedding.named_parameters())
        changed = {f"network.{n}": merged(weights[f"network.{n}"], *f) for n, f in factors.items() if n != HEAD}
        found: Tensor = (
            functional_call(embedding, changed, (self.shown(images),)) if changed else embedding(self.shown(images))
        )
        return F.normalize(found, dim=1) if self.unit else found

    def shown(self, images: Tensor) -> Tensor:
        """Images as the encoder wants them."""
        if self._theirs is not None and self._ours is not None:
            images = self._theirs.apply(self._ours.inverse(images))
        return resized(images, self.size)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        found = self.scale * F.linear(self.features(images), self.head_now())
        return found if self.bias is None else found + self.bias  # type: ignore[operator]


def check_factors(factors: Factors, weights: Mapping[str, Shape], head: Shape) -> None:
    """Refuse factors that fit no weight.

    Raises:
        InputError: which, and how.
    """
    for name, (a, b) in factors.items():
        shape = head if name == HEAD else weights.get(name)
        if shape is None or len(shape) not in (2, 4):
            raise InputError(
                f"the labels hold factors of {name!r}, which their encoder does not have: get the artifact again"
            )
        due_out, due_in = matrix_shape(shape)
        if a.dim() != 2 or b.dim() != 2 or (a.shape[0], b.shape[1]) != (due_out, due_in) or a.shape[1] != b.shape[0]:
            both = f"{tuple(a.shape)} and {tuple(b.shape)} where ({due_out}, r) and (r, {due_in}) are due"
            raise InputError(f"the labels hold factors of {name!r} of shapes {both}: get the artifact again")


def adaptable(encoder: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every convolution's weight."""
    found = {name: m.weight for name, m in encoder.named_modules() if isinstance(m, nn.Conv2d)}
    return {f"{name}.weight".lstrip("."): tuple(weight.shape) for name, weight in found.items()}


def fresh_factors(
    shapes: Mapping[str, Shape], ranks: Mapping[str, int], generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors to begin with: A zero, so that A B = 0; B normal with variance 1 / d_in (after LoRA, arXiv:2106.09685).

    Args:
        shapes: of the weights.
        ranks: r of each; those of rank 0 get none.
    """
    made = {}
    for name, shape in shapes.items():
        rank, (out, into) = rank_of(shape, ranks[name]), matrix_shape(shape)
        if rank:
            made[name] = torch.zeros(out, rank), torch.randn(rank, into, generator=generator) / into**0.5
    return made


# ---- the labels ------------------------------------------------------------------------------------------------------


def _half_pairs(factors: Factors) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (float32_or_16(a), float32_or_16(b)) for name, (a, b) in factors.items()}


def _stored_head(head: Tensor | Prompts) -> Tensor | Prompts:
    return head if isinstance(head, Prompts) else float32_or_16(head)


def _optional(values: Tensor | None) -> Tensor | None:
    return None if values is None else float32_or_16(values)


@final
@frozen(eq=False, kw_only=True)
class ProjectorLabels(Labels):
    """The class of each sample, and a projector that computes logits of any view when a student sees it.

    A student minimises the mean squared gap of logits plus beta times the cross entropy with its class, mixed as the
    view is, or else
    KL divergence at a temperature, as under stored labels of views. Order, crops, mirrors and mixes are the
    protocol's, so that hard
    labels see the same views. Without factors, and with a teacher's own network and head, it is the teacher itself,
    asked online:
    4 P bytes and the head.

    Attributes:
        encoder: theta.
        factors: A and B of the encoder's weights by name, and of the head under ``head``; float16 is kept.
        head: W (K, D), stored; or the sentences that it is made from.
        scale: s.
        bias: (K,) or None.
        unit: whether features are divided by their length.
        loss: ``mse`` or ``kl``.
        hard: beta, of ``mse``.
        temperature: of ``kl``.
        ours, theirs: normalisation of the images, and that which the encoder wants; None: the same.

    Raises:
        InputError: tensors that do not fit, or normalisations that are not channel by channel where they differ.
    """

    kind: ClassVar[str] = "projector"
    distribution: ClassVar[str] = "ddcore-hello"
    classes: Tensor = field(converter=as_ids)
    encoder: Encoder
    head: Tensor | Prompts = field(converter=_stored_head)
    factors: Factors = field(factory=dict, converter=_half_pairs)
    scale: float = field(default=1.0, converter=float)
    bias: Tensor | None = field(default=None, converter=_optional)
    unit: bool = field(default=True, validator=instance_of(bool))
    loss: str = field(default="mse", validator=in_(("mse", "kl")))
    hard: float = field(default=0.1, converter=float)
    temperature: float = field(default=20.0, converter=float)
    ours: Normalisation | None = None
    theirs: Normalisation | None = None
    _built: dict[tuple[torch.device, torch.dtype], Projector] = field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_ids(self.classes, self.class_count)
        check_temperature(self.temperature)
        for own in (self.ours, self.theirs):
            if self.theirs is not None and not isinstance(own, MeanStd | Identity):
                raise InputError(
                    "the encoder wants images normalised otherwise than these are, and whitened ones cannot be changed to that: "
                    "use --normalise mean-std"
                )
        if isinstance(self.head, Tensor) and self.head.dim() != 2:
            raise InputError(
                f"the head of a projector has shape {tuple(self.head.shape)} where (classes, features) is due"
            )
        if self.bias is not None and self.bias.shape != (self.class_count,):
            raise InputError(
                f"the bias of a projector has shape {tuple(self.bias.shape)} for {self.class_count} classes"
            )
        if isinstance(self.head, Tensor) and self.encoder.weights:
            check_factors(self.factors, {n: t.shape for n, t in self.encoder.weights.items()}, self.head.shape)

    @property
    def class_count(self) -> int:  # type: ignore[override]
        """K."""
        return len(self.head.names) if isinstance(self.head, Prompts) else self.head.shape[0]

    @property
    def recipe(self) -> dict[str, Any]:
        """Mean squared error of logits, and beta times cross entropy; or KL."""
        if self.loss == "kl":
            return {"loss": "kl", "temperature": self.temperature, "tau_squared": False}
        return {"loss": "mse", "hard": self.hard, "temperature": 1.0}

    @property
    def online(self) -> bool:
        """True: what a student is told depends on what it sees."""
        return True

    @property
    def elsewhere(self) -> bool:
        """Whether the encoder is a public one."""
        return self.encoder.public is not None

    def targets(self, view: View, images: Tensor | None) -> dict[str, Tensor]:
        """``class`` (B,), ``mixed`` and ``lam`` where it mixes; with images, as they were changed, also their
        ``logits`` (B, K)."""
        told = mixed_classes(self.classes, view)
        return told if images is None else {**told, "logits": self.logits(images)}

    def answered(self, batch: Batch) -> Batch:
        """The batch with ``logits`` of its inputs."""
        return Batch(batch.inputs, {**batch.targets, "logits": self.logits(batch.inputs)}, batch.index)

    def logits(self, images: Tensor) -> Tensor:
        """What the projector says to images (B, C, H, W) normalised as the artifact's: (B, K), without gradient, a
        function of
        the images and the stored tensors alone.

        Raises:
            InputError: public weights that are not here.
        """
        return logits(self.network(images.device, images.dtype), images)

    def network(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Projector:
        """The projector, its factors added to the weights once and for all, in eval mode."""
        key = torch.device(device), dtype
        if key not in self._built:
            self._built[key] = self._settled(*key)
        return self._built[key]

    def _settled(self, device: torch.device, dtype: torch.dtype) -> Projector:
        encoder = self.encoder.built()
        head = self.projector(encoder).head_now().detach()
        for name, factors in self.factors.items():
            if name != HEAD:
                weight = encoder.get_parameter(name)
                weight.copy_(merged(weight, *factors))
        encoder = lay_out(encoder.to(device=device, dtype=dtype))
        return self._assembled(encoder, head, {}).to(device=device, dtype=dtype).eval()

    def projector(self, encoder: nn.Module) -> Projector:
        """With factors of its own that can be trained; the encoder is used, not written to."""
        head = self.head.head(encoder) if isinstance(self.head, Prompts) else self.head
        return self._assembled(encoder, head, self.factors)

    def _assembled(self, encoder: nn.Module, head: Tensor, factors: Factors) -> Projector:
        how = {"scale": self.scale, "bias": self.bias, "unit": self.unit, "size": self.encoder.size}
        return Projector(encoder, head, factors, **how, ours=self.ours, theirs=self.theirs)  # type: ignore[arg-type]

    def tensors(self) -> dict[str, Tensor]:
        """``class``, the factors as ``a.NAME`` and ``b.NAME``, and the head unless it is made of sentences."""
        head = {} if isinstance(self.head, Prompts) else {HEAD: self.head}
        bias = {} if self.bias is None else {"bias": self.bias}
        pairs = {f"{side}.{name}": f[at] for name, f in self.factors.items() for at, side in enumerate("ab")}
        return {"class": self.classes.to(smallest_type(self.class_count)), **head, **bias, **pairs}

    def models(self) -> dict[str, Tensor]:
        """The encoder's weights; none of a public one."""
        return {f"encoder.{name}": tensor for name, tensor in self.encoder.weights.items()}

    def header(self) -> dict[str, Any]:
        """Architecture, scale, and how images are brought to the encoder; bytes of public weights, which are not
        counted."""
        sentences = (
            {"names": list(self.head.names), "template": self.head.template} if isinstance(self.head, Prompts) else None
        )
        changes = None
        if self.theirs is not None and self.ours is not None:
            changes = {"ours": self.ours.header(), "theirs": self.theirs.header()}
        return {
            **super().header(),
            "encoder": self.encoder.header(),
            "sentences": sentences,
            "scale": self.scale,
            "unit": self.unit,
            "loss": self.loss,
            "hard": self.hard,
            "temperature": self.temperature,
            "renormalised": changes,
        }

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ProjectorLabels":
        """From an artifact: ``tensors`` and ``models`` together."""
        names = [name.removeprefix("a.") for name in tensors if name.startswith("a.")]
        weights = {n.removeprefix("encoder."): t for n, t in tensors.items() if n.startswith("encoder.")}
        sentences, changes = header["sentences"], header["renormalised"]
        return cls(
            classes=stored(tensors, "class"),
            encoder=Encoder.load(header["encoder"], weights),
            head=stored(tensors, HEAD) if sentences is None else Prompts(**sentences),
            factors={name: (stored(tensors, f"a.{name}"), stored(tensors, f"b.{name}")) for name in names},
            scale=header["scale"],
            bias=tensors.get("bias"),
            unit=header["unit"],
            loss=header["loss"],
            hard=header["hard"],
            temperature=header["temperature"],
            ours=None if changes is None else Stored.load(changes["ours"], {}),
            theirs=None if changes is None else Stored.load(changes["theirs"], {}),
        )

    @property
    def factor_bytes(self) -> int:
        """Of A and B alone: sum of r (d_out + d_in) times the bytes of a number."""
        return sum(t.numel() * t.element_size() for pair in self.factors.values() for t in pair)
