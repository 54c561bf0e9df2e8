"""Maps between images in [0, 1] and the space in which networks are trained and images are distilled, with inverses.

ZCA as in trajectory matching (Cazenavette et al., CVPR 2022, arXiv:2203.11932): with the mean m and the unbiased
covariance U diag(s) U^T of the flattened train images in [0, 1],

    x' = (x - m) W,    W = U diag((s + 0.1)^-1/2) U^T,    x = x' W^-1 + m,    W^-1 = U diag((s + 0.1)^1/2) U^T.

Shape letters: B images, C H W pixels, D = C H W.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.errors import InputError, near
from ddcore.images.statistics import mean_and_covariance
from ddcore.storage.keeping import kept
from ddcore.storage.places import Place

if TYPE_CHECKING:
    from ddcore.api.services import Source

ZCA_EPS = 0.1
CONSTANT = 1e-6
"""A channel that deviates less than this is constant up to rounding and is not divided by its deviation."""

ZCA_VERSION = 1
"""Raise it when the fit's numbers change: cached fits are then not used again."""


class Normalisation(ABC):
    """Images in [0, 1] to normalised ones and back; immutable."""

    kind: ClassVar[str]
    pixelwise: ClassVar[bool]
    """Whether it is cheap and acts on each pixel alone: then data are normalised as they are fetched, else once."""

    @abstractmethod
    def apply(self, images: Tensor) -> Tensor:
        """Normalise images (B, C, H, W) in [0, 1]; float type and device are kept."""

    @abstractmethod
    def inverse(self, images: Tensor) -> Tensor:
        """The images that ``apply`` maps to these; not clamped, so learned ones may leave [0, 1]."""

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """Plain JSON values that, with ``tensors``, describe the map completely."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What is too large for a header."""

    def clamped(self, images: Tensor) -> Tensor:
        """The nearest images (B, C, H, W) that exist: those that ``inverse`` brings into [0, 1];
        others stay as they are."""
        if not self.pixelwise:
            pixels = self.inverse(images)
            inside = ((pixels >= 0) & (pixels <= 1)).flatten(1).all(1).reshape(-1, *[1] * (images.ndim - 1))
            return torch.where(inside, images, self.apply(pixels.clamp(0, 1)))
        ends = black_and_white(images)
        black, white = self.apply(ends)
        return torch.minimum(torch.maximum(images, black), white)

    @staticmethod
    def load(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Normalisation:
        """The map that ``header`` and ``tensors`` describe.

        Raises:
            InputError: the kind is unknown, or something it needs is missing.
        """
        kind = str(header.get("kind"))
        try:
            if kind == MeanStd.kind:
                return MeanStd(header["mean"], header["std"])
            if kind == ZCA.kind:
                return ZCA(tensors["mean"], tensors["whiten"], tensors["unwhiten"])
            if kind == Identity.kind:
                return Identity()
        except KeyError as error:
            raise InputError(f"normalisation {kind!r} lacks its {error}: the file that holds it is damaged") from error
        raise InputError(f"normalisation {kind!r} is not known here: {near(kind, KINDS)}")


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@final
@frozen
class MeanStd(Normalisation):
    """Channel by channel: (x - mean) / std.

    Attributes:
        mean: C numbers, of pixels in [0, 1].
        std: C numbers > 0.
    """

    kind = "mean-std"
    pixelwise = True
    mean: tuple[float, ...] = field(converter=_floats)
    std: tuple[float, ...] = field(converter=_floats)

    def __attrs_post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(s > 0 for s in self.std):
            got = f"mean {self.mean}, std {self.std}"
            raise InputError(f"mean and std have to be as long as each other and std above 0, got {got}")

    def apply(self, images: Tensor) -> Tensor:
        """(x - mean) / std."""
        return (images - _column(self.mean, images)) / _column(self.std, images)

    def inverse(self, images: Tensor) -> Tensor:
        """x * std + mean."""
        return images * _column(self.std, images) + _column(self.mean, images)

    def header(self) -> dict[str, Any]:
        """Kind, mean and std."""
        return {"kind": self.kind, "mean": list(self.mean), "std": list(self.std)}

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}


@final
@frozen(eq=False)
class ZCA(Normalisation):
    """Whitening that stays close to the image; see the module's formula.

    Attributes:
        mean: (D,) float32.
        whiten: (D, D) float32, W, symmetric.
        unwhiten: (D, D) float32, its inverse.
    """

    kind = "zca"
    pixelwise = False
    mean: Tensor
    whiten: Tensor
    unwhiten: Tensor

    def apply(self, images: Tensor) -> Tensor:
        """(x - mean) W."""
        return ((images.flatten(1) - self.mean.to(images)) @ self.whiten.to(images)).view_as(images)

    def inverse(self, images: Tensor) -> Tensor:
        """x W^-1 + mean."""
        return (images.flatten(1) @ self.unwhiten.to(images) + self.mean.to(images)).view_as(images)

    def header(self) -> dict[str, Any]:
        """Kind and epsilon."""
        return {"kind": self.kind, "eps": ZCA_EPS}

    def tensors(self) -> dict[str, Tensor]:
        """``mean``, ``whiten``, ``unwhiten``."""
        return {"mean": self.mean, "whiten": self.whiten, "unwhiten": self.unwhiten}


@final
@frozen
class Identity(Normalisation):
    """Images stay in [0, 1]."""

    kind = "none"
    pixelwise = True

    def apply(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def inverse(self, images: Tensor) -> Tensor:
        """The images themselves."""
        return images

    def header(self) -> dict[str, Any]:
        """The kind."""
        return {"kind": self.kind}

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}


KINDS = (MeanStd.kind, ZCA.kind, Identity.kind)


def fit(
    kind: str,
    source: Source,
    cache: Place | None = None,
    *,
    computed_by: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = print,
) -> Normalisation:
    """The normalisation of a kind for a data set's train images.

    Args:
        kind: ``mean-std`` (the source's own numbers if it gives any), ``zca`` or ``none``.
        cache: a folder in which a ZCA fit is kept, by the data's fingerprint and ``computed_by``: it takes cubic time
            in D.
        computed_by: see ``ddcore.storage.keeping.machine``.
        note: told of a kept fit that is damaged, which is made again.

    Raises:
        InputError: the kind is unknown.
    """
    if source.modality == "text":
        return Identity()
    if kind == MeanStd.kind:
        mean, std = source.statistics
        return MeanStd(mean, [s if s > CONSTANT else 1.0 for s in std])
    if kind == Identity.kind:
        return Identity()
    if kind != ZCA.kind:
        raise InputError(f"normalisation {kind!r} is not known: {near(kind, KINDS)}")
    if cache is None:
        return fit_zca(source.train.stored)
    pixels = source.train.stored[0].numel()
    key = {"version": ZCA_VERSION, "kind": kind, "eps": ZCA_EPS, "data": source.fingerprint, "machine": computed_by}
    shapes = {"mean": (pixels,), "whiten": (pixels, pixels), "unwhiten": (pixels, pixels)}

    def made() -> dict[str, Tensor]:
        return fit_zca(source.train.stored).tensors()

    return Normalisation.load({"kind": kind}, kept(cache, "normalisations", key, made, note=note, shapes=shapes))


def fit_zca(stored: Tensor) -> ZCA:
    """ZCA of stored images (N, C, H, W); eigenvalues below 0 by rounding count as 0."""
    mean, covariance = mean_and_covariance(stored)
    spectrum, basis = torch.linalg.eigh(covariance)
    deviation = (spectrum.clamp(min=0) + ZCA_EPS).sqrt()
    whiten, unwhiten = (basis / deviation) @ basis.T, (basis * deviation) @ basis.T
    return ZCA(mean.float(), whiten.float(), unwhiten.float())


def _column(values: tuple[float, ...], images: Tensor) -> Tensor:
    if len(values) != images.shape[1]:
        got = f"{images.shape[1]} channels where this normalisation has {len(values)}"
        raise InputError(f"images of shape {tuple(images.shape)} have {got}: use data of the same kind")
    return torch.tensor(values, dtype=images.dtype, device=images.device).reshape(-1, *[1] * (images.ndim - 2))


def black_and_white(images: Tensor) -> Tensor:
    """(2, C, 1, ...): 0 and 1 in every channel of images (B, C, ...), in their type."""
    ends = torch.tensor([0.0, 1.0]).to(images).reshape(2, *[1] * (images.ndim - 1))
    return ends.expand(2, images.shape[1], *[1] * (images.ndim - 2))
