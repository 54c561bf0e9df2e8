"""Frozen encoders that labels are computed with: images to features, by the name of an architecture and weights from
somewhere.

The weights lie in the artifact, or are public and only named: file, SHA-256, bytes and, if it has one, address. Public
files are looked for in the folder ``DDCORE_WEIGHTS``, then at their address. ``open_clip:NAME`` is an image tower of
open_clip with its text tower beside it; every other name is one of ``ddcore.networks.zoo``. Shape letters: B images, C
H W pixels, D features, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from attrs import field, frozen
from attrs.validators import ge, instance_of, le, optional
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.data.normalisation import MeanStd
from ddcore.errors import InputError, near
from ddcore.networks.vision import import_torchvision
from ddcore.networks.zoo import build, unknown_network
from ddcore.storage.fetching import MOST, fetched, taken_apart
from ddcore.storage.places import Place, sha256_of
from ddcore.storage.printing import printable
from ddcore.storage.weights import content_of, state_in
from ddcore.storage.wrappers import fitted

CLIP = "open_clip:"
CLIP_IMAGES = MeanStd((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""What CLIP's encoders want images in [0, 1] to be normalised by."""
FOLDER = "DDCORE_WEIGHTS"
COUNTER = "num_batches_tracked"
MOST_PIXELS = 1024
"""Of a side of what an encoder looks at: images are brought to the size that a manifest says."""


@frozen
class Public:
    """A file of weights that anyone can get, so that a set names it instead of holding it.

    Attributes:
        name: of the file.
        sha256: of its bytes.
        nbytes: how many: not part of what the set costs, but of what its user needs.
        url: where it lies; empty for a local file, which ``DDCORE_WEIGHTS`` has to lead to.
    """

    name: str = field(validator=instance_of(str))
    sha256: str = field(validator=instance_of(str))
    nbytes: int = field(validator=[instance_of(int), ge(0)])
    url: str = field(default="", validator=instance_of(str))

    @classmethod
    def at(cls, where: str, *, trust: bool = False) -> Public:
        """Describe the file at a path or URL that the user named; of a local path only its last part is kept."""
        place = Place.at(where)
        content = content_of(place, trust=trust)
        url = "" if place.local_path() is not None else place.url
        return cls(place.name, sha256_of(content), len(content), url)

    def place(self, *, trust: bool = False) -> Place:
        """Where the file is: in the folder that ``DDCORE_WEIGHTS`` names, else at its address, which nobody is asked
        for yet.

        Args:
            trust: follow any address, not ``https`` to the public internet alone.

        Raises:
            InputError: it is nowhere.
        """
        folder = os.environ.get(FOLDER)
        looked = "nowhere"
        if folder:
            here = Place.at(folder) / self.name
            if here.exists():
                return here
            looked = here.url
        if self.url and _may_be_asked(self.url, trust):
            return Place(self.url)
        if self.url:
            looked += f" and not at {Place(printable(self.url)).url}, which is no public address"
        raise InputError(
            f"the labels are computed with public weights that are not here ({self.name}, SHA-256 {self.sha256[:12]}..., "
            f"looked for in {looked}): put the file into a folder and name it in {FOLDER}"
        )

    def state(self, *, trust: bool = False) -> dict[str, Tensor]:
        """Its tensors, from the very bytes whose SHA-256 was compared.

        Raises:
            InputError: it is not there, or it is another file of that name.
        """
        place = self.place(trust=trust)
        if place.address == self.url and place.address.lower().startswith(("https:", "http:")):
            content = fetched(self.url, most=min(self.nbytes, MOST), trust=trust)
        else:
            content = place.read_bytes(0, self.nbytes + 1)
        if sha256_of(content) != self.sha256:
            raise InputError(
                f"{place.url} has another SHA-256 than the weights that these labels were made with: get those"
            )
        return state_in(content, self.name, place.url)

    def header(self) -> dict[str, Any]:
        """JSON values; ``Public(**header)`` is the inverse."""
        return {"name": self.name, "sha256": self.sha256, "nbytes": self.nbytes, "url": self.url}


def _may_be_asked(url: str, trust: bool) -> bool:
    """Whether an address that an artifact brings may be followed, by its letters;
    what its name stands for is seen then."""
    try:
        return trust or not taken_apart(url).user
    except InputError:
        return False


@frozen(eq=False)
class Encoder:
    """Which network makes features of images, with which weights.

    Attributes:
        network: its architecture's name.
        channels, size: of the images it is built for, in pixels; images of another size are resized to it.
        weights: all that its features depend on, by name, on the CPU; empty for public ones.
        public: where they are then.

    Raises:
        InputError: both or neither of the two.
    """

    network: str = field(validator=instance_of(str))
    channels: int = field(validator=[instance_of(int), ge(1)])
    size: int = field(validator=[instance_of(int), ge(1), le(MOST_PIXELS)])
    weights: Mapping[str, Tensor] = field(factory=dict)
    public: Public | None = field(default=None, validator=optional(instance_of(Public)))

    def __attrs_post_init__(self) -> None:
        if bool(self.weights) == (self.public is not None):
            raise InputError(
                f"encoder {self.network!r} has to have either its weights or the name of a public file of them: give one of the two"
            )

    @classmethod
    def of(cls, name: str, network: nn.Module, channels: int, size: int) -> Self:
        """One that brings its weights: those of a network that is at hand."""
        own = network.state_dict()
        kept = {key: own[key].detach().cpu().float().clone() for key in feature_tensors(network, channels, size)}
        return cls(name, channels, size, kept)

    def header(self) -> dict[str, Any]:
        """JSON values, all but the weights."""
        public = None if self.public is None else self.public.header()
        return {"network": self.network, "channels": self.channels, "size": self.size, "public": public}

    @classmethod
    def load(cls, header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Encoder:
        """The inverse of ``header`` and ``weights``."""
        public = None if header["public"] is None else Public(**header["public"])
        return cls(str(header["network"]), int(header["channels"]), int(header["size"]), dict(weights), public)

    @property
    def floats(self) -> int:
        """P, numbers in the weights."""
        return sum(tensor.numel() for tensor in self.weights.values())

    def built(self) -> nn.Module:
        """The network itself, frozen, in eval mode, on the CPU in float32: ``embed`` maps (B, C, H, W) to (B, D).

        Raises:
            InputError: an architecture that is not known, or weights that are not its own.
        """
        if self.network.startswith(CLIP):
            return ClipTowers.built(self.network, self.public).eval().requires_grad_(False)
        state = self.weights if self.public is None else self.public.state()
        # a name can stand for a network of any size: nothing is made before the weights fit it
        with torch.device("meta"):
            outline = empty_network(self.network, self.channels, self.size)
            due = feature_tensors(outline, self.channels, self.size)
            fitting = _fitting(state, due, outline, self.network)
        network = empty_network(self.network, self.channels, self.size)
        network.load_state_dict(fitting, strict=False)
        return network.eval().requires_grad_(False)


def empty_network(name: str, channels: int, size: int) -> nn.Module:
    """A network of the core by name, whose weights mean nothing.

    Raises:
        InputError: an unknown name.
    """
    network = build(name, channels, size, 2, torch.Generator().manual_seed(0))
    if network is None:
        raise InputError(unknown_network(name))
    return network


def feature_tensors(network: nn.Module, channels: int, size: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of the weights and buffers that ``embed`` depends on: all but the last layer,
    and counters of batches."""
    device, dtype = (tensor := next(network.parameters())).device, tensor.dtype
    training, asked = network.training, {name: p.requires_grad for name, p in network.named_parameters()}
    network.eval().requires_grad_(True)
    names, values = zip(*network.named_parameters(), strict=True)
    with torch.enable_grad():
        features = network.embed(torch.zeros(1, channels, size, size, device=device, dtype=dtype))  # type: ignore[operator]
        gradients = torch.autograd.grad(features.sum(), values, allow_unused=True)
    network.train(training)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(asked[name])
    used = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    used |= {name for name, _ in network.named_buffers() if not name.endswith(COUNTER)}
    return {name: tuple(t.shape) for name, t in network.state_dict().items() if name in used}


def last_layer(network: nn.Module, channels: int, size: int) -> tuple[Tensor, Tensor | None]:
    """Weight (K, D) and bias (K,) of what turns a classifier's features into logits.

    Raises:
        InputError: that is not one linear layer.
    """
    used = feature_tensors(network, channels, size)
    rest = [p.detach() for name, p in network.named_parameters() if name not in used]
    weights, biases = [p for p in rest if p.dim() == 2], [p for p in rest if p.dim() == 1]
    if len(weights) != 1 or len(biases) > 1 or len(rest) != len(weights) + len(biases):
        raise InputError(f"{type(network).__name__} has no single last linear layer: choose another network")
    return weights[0], biases[0] if biases else None


def _fitting(
    state: Mapping[str, Tensor], due: Mapping[str, tuple[int, ...]], network: nn.Module, name: str
) -> dict[str, Tensor]:
    """The tensors of a state that are due; a wrapper's may be its inner network's."""
    inner = "network." if isinstance(getattr(network, "network", None), nn.Module) else ""
    found, own = {}, [key.removeprefix(inner) for key in due]
    state = state if set(due) <= set(state) else fitted(state, own, f"the file of encoder {name}")
    for key, shape in due.items():
        there = key if key in state or not inner else key.removeprefix(inner)
        if there not in state:
            raise InputError(
                f"the weights of encoder {name} lack {key!r}: {near(key, state)}; is it this architecture?"
            )
        if tuple(state[there].shape) != shape:
            both = f"{tuple(state[there].shape)} where {shape} is due"
            raise InputError(f"the weights of encoder {name} have {key!r} of shape {both}: they are another network's")
        found[key] = state[there]
    return found


def resized(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) as an encoder of ``size`` pixels sees them, bilinear and antialiased;
    those of that size as they are."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


# ---- CLIP ------------------------------------------------------------------------------------------------------------


class ClipTowers(nn.Module):
    """Image and text encoder of one CLIP model (Radford et al., ICML 2021, arXiv:2103.00020),
    from the package open_clip."""

    def __init__(self, model: Any, tokenize: Any) -> None:
        super().__init__()
        self.visual = model.visual
        self._rest = [model, tokenize]

    @classmethod
    def built(cls, name: str, public: Public | None) -> ClipTowers:
        """Both towers with public weights.

        Raises:
            InputError: open_clip is missing or has no such model; no weights, or other ones.
        """
        open_clip = import_open_clip()
        wanted, known = name.removeprefix(CLIP), open_clip.list_models()
        if wanted not in known:
            raise InputError(f"open_clip has no model named {wanted!r}: {near(wanted, known)}")
        if public is None:
            raise InputError(f"encoder {name} is known by its public weights: give their file")
        model = open_clip.create_model(wanted, pretrained=None)
        try:
            model.load_state_dict(public.state())
        except RuntimeError as error:
            why = " ".join(str(error).split())[:160]
            raise InputError(f"{public.name} holds no weights of {name} ({why}): give those of this model") from error
        return cls(model.float(), open_clip.get_tokenizer(wanted))

    def embed(self, images: Tensor) -> Tensor:
        """Features (B, D), not yet of unit length."""
        return self.visual(images)  # type: ignore[no-any-return, operator]

    def forward(self, images: Tensor) -> Tensor:
        """The same."""
        return self.embed(images)

    def text(self, prompts: Sequence[str]) -> Tensor:
        """Features (K, D) of unit length for K sentences, without gradient;
        to be asked before the tower of images is moved."""
        model, tokenize = self._rest
        with torch.no_grad():
            return F.normalize(model.encode_text(tokenize(list(prompts))), dim=1)


def import_open_clip() -> Any:
    """The package, imported when it is first needed.

    Raises:
        InputError: it is not installed.
    """
    import_torchvision()
    try:
        import open_clip  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError(
            "encoders of CLIP need open_clip, which is not installed: pip install 'ddcore-hello[clip]'"
        ) from error
    return open_clip


def _as_names(names: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(name) for name in names)


@frozen
class Prompts:
    """Class names as sentences, from which a text encoder makes the head of a classifier, so that it need not be
    stored.

    Attributes:
        names: of K classes.
        template: what stands around a name, which goes where {} is.
    """

    names: tuple[str, ...] = field(converter=_as_names)
    template: str = "a photo of a {}."

    @property
    def sentences(self) -> list[str]:
        """One a class.

        >>> Prompts(("tabby_cat",)).sentences
        ['a photo of a tabby cat.']
        """
        return [self.template.replace("{}", name.replace("_", " ")) for name in self.names]

    def head(self, encoder: nn.Module) -> Tensor:
        """(K, D), rows of unit length.

        Raises:
            InputError: an encoder of images alone.
        """
        if not isinstance(encoder, ClipTowers):
            raise InputError("only encoders of CLIP know sentences: use prototypes of the classes as the head")
        return encoder.text(self.sentences)
