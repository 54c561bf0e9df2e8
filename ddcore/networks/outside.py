"""Networks of other libraries by name, freshly initialised, with what the zoo's have: ``embed`` and K logits.

    torchvision:NAME   a classifier of torchvision
    timm:NAME          one of timm (pip install ddcore-torch[timm])
    hub:REPO:NAME      what a repository's ``hubconf.py`` makes: a folder of this machine, or OWNER/NAME of one that
                       torch's hub already holds and trusts here, since making it runs the repository's code

Their own weights are not loaded: a file, a URL or ``weights_url`` gives those.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ddcore.errors import InputError, near
from ddcore.networks.vision import import_torchvision, torchvision_url

NAMES = ("torchvision:NAME", "timm:NAME", "hub:REPO:NAME")
PRETRAINED = "pretrained"
"""What timm's own weights of a network are asked for by."""
Maker = Callable[[int, int, int], nn.Module]


def maker(name: str) -> Maker | None:
    """What makes the network of a name from channels, size and classes; None if no library is named."""
    library, colon, rest = name.partition(":")
    made = {"torchvision": from_torchvision, "timm": from_timm, "hub": from_hub}.get(library) if colon else None
    return None if made is None else lambda channels, size, classes: made(rest, channels, size, classes)


def weights_url(network: str, weights: str) -> str | None:
    """Where a library's own weights lie: torchvision's by their name, timm's as ``pretrained``; else None."""
    if not network.startswith("timm:") or weights != PRETRAINED:
        return torchvision_url(network, weights)
    name = network.partition(":")[2]
    of = import_timm().get_pretrained_cfg(name, allow_unregistered=False)
    if of is None or not (of.hf_hub_id or of.url):
        raise InputError(f"timm has no weights of {name!r}: choose another network, or name a file")
    return f"https://huggingface.co/{of.hf_hub_id}/resolve/main/model.safetensors" if of.hf_hub_id else str(of.url)


class Outside(nn.Module):
    """Another library's classifier with ``embed``: the input of its last linear layer."""

    def __init__(self, network: nn.Module, last: nn.Linear) -> None:
        super().__init__()
        self.network = network
        self._last = [last]

    def embed(self, images: Tensor) -> Tensor:
        """The last linear layer's input (B, D)."""
        seen: list[Tensor] = []
        hook = self._last[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        try:
            self.network(images)
        finally:
            hook.remove()
        return torch.flatten(seen[0], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(images)  # type: ignore[no-any-return]


def from_torchvision(name: str, channels: int, size: int, classes: int) -> nn.Module:
    """A torchvision classifier by name, without weights, its first convolution made anew for other than 3 channels.

    Raises:
        InputError: no such model, or one without a last linear layer.
        ValueError: it cannot take images of this size.
    """
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise InputError(f"torchvision has no classifier named {name!r}: {near(name, known)}")
    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=classes, **extra)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    if not linear:
        raise InputError(
            f"torchvision's {name!r} has no last linear layer with features before it: choose another network"
        )
    _take_channels(network, channels)
    _try_size(network, channels, size)
    return Outside(network, linear[-1])


def _take_channels(network: nn.Module, channels: int) -> None:
    path, first = next((path, module) for path, module in network.named_modules() if isinstance(module, nn.Conv2d))
    if first.in_channels != channels:
        shape: dict[str, Any] = {name: getattr(first, name) for name in ("kernel_size", "stride", "padding")}
        parent, _, own = path.rpartition(".")
        made = nn.Conv2d(channels, first.out_channels, **shape, bias=first.bias is not None)
        setattr(network.get_submodule(parent), own, made)


def _try_size(network: nn.Module, channels: int, size: int) -> Tensor:
    """What the network makes of one image's shape, without its numbers.

    Raises:
        ValueError: it does not fit.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    shapes = {name: tensor.detach().to("meta") for name, tensor in tensors}
    network.eval()
    try:
        made = functional_call(network, shapes, (torch.empty(1, channels, size, size, device="meta"),))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(str(error).splitlines()[0].rstrip(".")) from error
    network.train()
    return made  # type: ignore[no-any-return]


# ---- timm's and the hub's --------------------------------------------------------------------------------------------


def import_timm() -> Any:
    """The library.

    Raises:
        InputError: it is not installed.
    """
    import_torchvision()  # in its own way, before timm asks for it
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError("this needs timm, which is not installed: pip install 'ddcore-torch[timm]'") from error


def from_timm(name: str, channels: int, size: int, classes: int) -> nn.Module:
    """A classifier of timm by name, without weights; those that are made for one size of images are made for this one.

    Raises:
        InputError: timm is not here, has no such model, or one without a last linear layer.
        ValueError: it cannot take images of this size.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise InputError(f"timm has no network named {name!r}: {near(name.partition('.')[0], timm.list_models())}")
    sizes = {"img_size": size} if "vit" in name or "swin" in name else {}
    network = timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels, **sizes)
    last = network.get_classifier()
    if not isinstance(last, nn.Linear) or last.out_features != classes:
        raise InputError(f"timm's {name!r} has no last linear layer with features before it: choose another network")
    _try_size(network, channels, size)
    return Outside(network, last)


def from_hub(name: str, channels: int, size: int, classes: int) -> nn.Module:
    """What a repository's ``hubconf.py`` makes by a name, without weights, its last linear layer made anew for these
    classes; one that ends in features gets such a layer.

    Raises:
        InputError: not REPO:NAME, a repository that is not here or not trusted, or what makes no network of images.
        ValueError: it cannot take images of this size.
    """
    repository, colon, entry = name.rpartition(":")
    if not colon or not repository or not entry:
        raise InputError(f"'hub:{name}' names no repository and network: write hub:OWNER/NAME:NETWORK, or a folder")
    local = Path(repository).is_dir()
    if not local and not _trusted(repository):
        call = f"python -c \"import torch; torch.hub.list('{repository}', trust_repo=True)\""
        raise InputError(f"torch's hub does not trust {repository!r} here, whose code would run: read it, then {call}")
    given: dict[str, Any] = {"source": "local"} if local else {"trust_repo": True}
    try:
        network = torch.hub.load(repository, entry, pretrained=False, verbose=False, **given)  # type: ignore[no-untyped-call]
    except (FileNotFoundError, TypeError, RuntimeError) as error:
        raise InputError(f"hub:{name} cannot be made ({error}): choose another network") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"hub:{name} is a {type(network).__name__} and no network: choose another")
    width = int(_try_size(network, channels, size).flatten(1).shape[1])
    return _headed(network, width, classes)


def _headed(network: nn.Module, width: int, classes: int) -> nn.Module:
    """A network of ``width`` outputs with as many as there are classes, from a last linear layer."""
    linear = [(path, m) for path, m in network.named_modules() if path and isinstance(m, nn.Linear)]
    if linear and linear[-1][1].out_features == width:
        path, last = linear[-1]
        parent, _, own = path.rpartition(".")
        made = nn.Linear(last.in_features, classes)
        setattr(network.get_submodule(parent), own, made)
        return Outside(network, made)
    made = nn.Linear(width, classes)
    return Outside(nn.Sequential(network, nn.Flatten(), made), made)


def _trusted(repository: str) -> bool:
    """Whether this machine's user told torch's hub to trust a repository, as torch writes it down."""
    listed = Path(torch.hub.get_dir()) / "trusted_list"
    owner, _, rest = repository.partition("/")
    name = rest.partition(":")[0]
    return listed.is_file() and f"{owner}_{name}" in listed.read_text().split()
