"""Frozen encoders: where their weights come from, and features that are made once for every image.

Weights are a state dict, never unpickled: a file, a URL, torchvision's name, ``pretrained`` for timm's own, or
``package:NAME`` for the one file of weights that an installed package ships (``package:NAME/FILE`` of several).
"""

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.data import MeanStd
from ddcore.errors import InputError, OptionError
from ddcore.labels import CLIP_IMAGES
from ddcore.networks import embed, torchvision_url
from ddcore.storage import Place, kept, read_state
from ddcore.training import IMAGENET, frozen_network, state_hash

if TYPE_CHECKING:
    from ddcore import Normalisation, Run
    from ddcore_lgm import LGM

VERSION = 1
TEACHER, PACKAGE = "teacher", "package:"
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
HALF = MeanStd((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WANTED: Mapping[str, "Normalisation | None"] = {"data": None, "imagenet": IMAGENET, "half": HALF, "clip": CLIP_IMAGES}
AT_ONCE = 16
"""Images of one pass: always as many, so that an image's features do not depend on those beside it."""
MOST = 2**28
"""Bytes of features that are held in memory."""


class Seen(nn.Module):
    """A network as it wants to see images: normalised in its own way, at its own size."""

    def __init__(self, network: nn.Module, ours: "Normalisation", theirs: "Normalisation | None", size: int | None):
        super().__init__()
        self.network, self._ours, self._theirs, self._size = network, ours, theirs, size

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, C, H, W) normalised like the run's."""
        if self._theirs is not None:
            images = self._theirs.apply(self._ours.inverse(images))
        if self._size is not None and images.shape[-1] != self._size:
            images = F.interpolate(images, (self._size, self._size), mode="bilinear", antialias=True)
        return self.network.embed(images)  # type: ignore[no-any-return, operator]


@frozen(eq=False)
class Encoder:
    """A frozen encoder.

    Attributes:
        name: for columns and records.
        digest: sixteen letters that tell its weights from others.
        width: D.
    """

    name: str
    digest: str
    network: nn.Module
    width: int
    _held: dict[bytes, Tensor] = field(factory=dict)

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D), differentiable in the images."""
        return embed(self.network, images)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) without gradient; on the CPU an image that was seen is not passed again."""
        if images.device.type != "cpu":
            return self._passed(images)
        rows = images.detach().contiguous().flatten(1).view(torch.uint8).numpy()
        keys = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
        new = {key: at for at, key in enumerate(keys) if key not in self._held}
        made = self._passed(images[list(new.values())]) if new else images.new_empty(0, self.width)
        if (len(self._held) + len(new)) * self.width * images.element_size() > MOST:
            self._held.clear()
            if len(new) < len(set(keys)):
                return self.features(images)
        self._held.update(zip(new, made, strict=True))
        return torch.stack([self._held[key] for key in keys])

    @torch.no_grad()
    def _passed(self, images: Tensor) -> Tensor:
        found = []
        for part in images.detach().split(AT_ONCE):
            lacking = part.new_zeros(AT_ONCE - len(part), *part.shape[1:])
            found.append(self.network.embed(torch.cat([part, lacking]))[: len(part)])  # type: ignore[operator]
        return torch.cat(found)


_last: dict[tuple[Any, ...], Encoder] = {}


def encoder_of(plugin: "LGM", run: "Run") -> Encoder:
    """The run's encoder, loaded once in a process.

    Raises:
        OptionError: a network without weights.
        InputError: weights that are not there, or of another network.
    """
    key = (run.address, plugin.encoder, plugin.weights, plugin.classes, plugin.size, plugin.normalise, str(run.dtype))
    if key not in _last:
        made = _made(plugin, run)
        _last.clear()
        _last[key] = made
    return _last[key]


def _made(plugin: "LGM", run: "Run") -> Encoder:
    name, network = (TEACHER, run.teachers.network(0)) if plugin.encoder == TEACHER else _loaded(plugin, run)
    if plugin.encoder == TEACHER:
        name = f"teacher {run.teachers.names[0]}"
    wanted = WANTED[plugin.normalise]
    if wanted is not None and run.source.channels != 3:
        raise OptionError(
            f"--lgm.normalise {plugin.normalise} is of colour images, and these have {run.source.channels} channel: take data"
        )
    seen = frozen_network(Seen(network, run.normalisation, wanted, plugin.size))
    with torch.no_grad():
        width = seen.embed(run.real.train.inputs(torch.arange(1))).shape[1]  # type: ignore[operator]
    return Encoder(name, state_hash(network), seen, width)


def _loaded(plugin: "LGM", run: "Run") -> tuple[str, nn.Module]:
    if plugin.weights is None:
        raise OptionError(
            f"--lgm.encoder {plugin.encoder} has no weights, and a random encoder knows nothing: give --lgm.weights FILE"
        )
    size = plugin.size or run.source.size
    network = run.network(run.generator("lgm", "encoder"), plugin.encoder, classes=plugin.classes, size=size)
    state = read_state(place_of(plugin.encoder, plugin.weights))
    inner = getattr(network, "network", network)
    inner.load_state_dict(fitting(state, inner.state_dict(), plugin.weights))
    return plugin.encoder, network


def place_of(network: str, weights: str) -> Place:
    """Where weights lie.

    Raises:
        InputError: no such package, or no one file of weights in it.
    """
    if not weights.startswith(PACKAGE):
        return Place.at(torchvision_url(network, weights) or weights)
    package, _, name = weights.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"--lgm.weights {weights}: no package {package!r} is installed: install it, or name a file")
    folder = Path(next(iter(spec.submodule_search_locations)))
    there = [folder / name] if name else sorted(p for p in folder.rglob("*") if p.suffix in ENDINGS)
    if len(there) != 1 or not there[0].is_file():
        named = ", ".join(str(p.relative_to(folder)) for p in there) or "none"
        raise InputError(f"--lgm.weights {weights} is no one file of weights ({named}): write package:{package}/FILE")
    return Place.at(str(there[0]))


def fitting(state: Mapping[str, Tensor], own: Mapping[str, Tensor], weights: str) -> dict[str, Tensor]:
    """A state dict under the network's own names; one that shares none, and has tensors of the same shapes in the same
    order, is another library's of the same network.

    Raises:
        InputError: it is another network's.
    """
    names = list(own)
    if not set(state) & set(own) and len(state) == len(own):
        state = dict(zip(names, state.values(), strict=True))
    for name in names:
        if name not in state or state[name].shape != own[name].shape:
            got = f"{tuple(state[name].shape)} where {tuple(own[name].shape)} is due" if name in state else "lacking"
            raise InputError(
                f"--lgm.weights {weights} has {name!r} {got}: name its network by --lgm.encoder, its classes by --lgm.classes"
            )
    return {name: state[name] for name in names}


def train_features(encoder: Encoder, run: "Run") -> Tensor:
    """Features (N, D) of all train images as they are, on the run's device; kept in the cache."""
    key = {
        "version": VERSION,
        "data": run.source.fingerprint,
        "normalisation": run.normalisation.header(),
        "encoder": [encoder.name, encoder.digest],
        "machine": run.machine,
    }

    def made() -> dict[str, Tensor]:
        count, found = len(run.real.train), list[Tensor]()
        with run.progress("features", count, "images") as tick:
            for rows in torch.arange(count).split(32 * AT_ONCE):
                run.check_stop()
                found.append(encoder._passed(run.real.train.inputs(rows)).cpu())
                tick(len(rows))
        return {"features": torch.cat(found)}

    return kept(run.cache, "features", key, made, note=run.warn)["features"].to(run.device)
