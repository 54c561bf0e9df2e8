"""Weights of networks in files: written as safetensors, read from those or from torch's format, never unpickled."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ddcore.errors import InputError, near
from ddcore.storage.fetching import check_sha256, fetched
from ddcore.storage.places import Place, load_whole, metadata_in, save_tensors, tensors_in
from ddcore.storage.torch_files import state_of
from ddcore.storage.wrappers import COUNTER, fitted, without_heads

SAFE = ".safetensors"


def save_weights(place: Place, network: nn.Module, facts: Mapping[str, str]) -> None:
    """Write a network's weights and buffers; ``facts`` go to the file's metadata."""
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in network.state_dict().items()}
    save_tensors(place, tensors, facts, sealed=True)


def load_weights(place: Place, network: nn.Module, *, trust: bool = False) -> dict[str, str]:
    """Put weights and buffers from a file into a network.

    Returns:
        The metadata of a safetensors file.

    Raises:
        InputError: see ``read_state``; a state dict of another network.
    """
    state, facts = read_with_facts(place, trust=trust)
    fill(network, state, place.url)
    return facts


def read_state(place: Place, *, trust: bool = False, sha256: str | None = None) -> dict[str, Tensor]:
    """A state dict from safetensors, or from torch's format without running anything that is stored in it.

    Dicts that hold it, and the words of torch's wrappers before names, such as ``module.``, are seen through.

    Args:
        place: one that the user named: a local file, an ``https`` address (see ``ddcore.storage.fetching``), or what
            fsspec's drivers reach.
        trust: follow ``http`` and addresses that are not public too.
        sha256: what the SHA-256 of the file has to be, or to begin with.

    Raises:
        InputError: no such file; not a state dict; one that only unpickling would read; weights that are not finite, or
            complex.
    """
    return read_with_facts(place, trust=trust, sha256=sha256)[0]


def read_with_facts(
    place: Place, *, trust: bool = False, sha256: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """``read_state``, and the metadata of a safetensors file; of torch's format there are none."""
    safe = place.name.endswith(SAFE)
    if place.local_path() is not None and safe and sha256 is None:
        tensors, facts = load_whole(place)
        return checked(_headless(tensors), place.url), facts
    content = content_of(place, trust=trust)
    check_sha256(content, sha256, place.url)
    return state_in(content, place.name, place.url), metadata_in(content) if safe else {}


def content_of(place: Place, *, trust: bool = False) -> bytes:
    """The bytes of a file that the user named, see ``read_state``.

    Raises:
        InputError: nothing there, or an address that is followed with ``trust`` alone.
    """
    links = [link.partition("://")[0].lower() for link in place.address.split("::") if "://" in link]
    if not set(links) & {"http", "https"}:
        return place.read_bytes()
    if "::" in place.address:
        raise InputError(f"{place.url} leads to weights by way of another protocol: give the https address itself")
    return fetched(place.address, trust=trust)


def state_in(content: bytes, name: str, url: str) -> dict[str, Tensor]:
    """The state dict in the bytes of a file, see ``read_state``.

    Args:
        name: of the file, whose end tells the format.
        url: for messages.
    """
    return checked(_headless(tensors_in(content, url)) if name.endswith(SAFE) else state_of(content, url), url)


def _headless(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {new: state[old] for new, old in without_heads(state).items()}


def checked(state: dict[str, Tensor], url: str) -> dict[str, Tensor]:
    """A state dict whose tensors are finite and real.

    Raises:
        InputError: names the tensor.
    """
    for name, tensor in state.items():
        if tensor.is_complex():
            raise InputError(f"the weights of {url} have complex numbers in {name[:80]!r}: give a network of real ones")
        if not _is_finite(tensor):
            raise InputError(
                f"the weights of {url} are not finite in {name[:80]!r}: give a network whose training converged"
            )
    return state


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = (tensor.float() if tensor.itemsize == 1 else tensor).aminmax()
    return math.isfinite(float(low)) and math.isfinite(float(high))


def fill(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Put a state dict into a network; a wrapper's may be its inner network's.

    Other words before its names are seen through (``ddcore.storage.wrappers``), and counters of batches may be missing:
    they are 0 then.

    Raises:
        InputError: tensors that the network does not have, has not got, or has in another shape.
    """
    inner = getattr(network, "network", None)
    own = network.state_dict()
    if isinstance(inner, nn.Module) and not set(own) & set(state):
        network, own = inner, inner.state_dict()
    state = fitted(state, own, f"the file of {name}")
    state = {key: torch.zeros_like(tensor) for key, tensor in own.items() if key.endswith(COUNTER)} | state
    if lacking := sorted(set(own) - set(state)):
        raise InputError(
            f"the weights of {name} lack {lacking[0]!r}: {near(lacking[0], state)}; is it this architecture?"
        )
    if extra := sorted(set(state) - set(own)):
        raise InputError(
            f"the weights of {name} have {extra[0]!r}, which the network has not: is it this architecture?"
        )
    for key, tensor in own.items():
        if tensor.shape != state[key].shape:
            both = f"{tuple(state[key].shape)} where {tuple(tensor.shape)} is due"
            raise InputError(
                f"the weights of {name} have {key!r} of shape {both}: they are for other classes or images"
            )
    network.load_state_dict(dict(state))


def hash_in_name(url: str) -> str | None:
    """What a file's SHA-256 begins with by its name, as torch's hub writes it; None if it says nothing.

    >>> hash_in_name("https://download.pytorch.org/models/resnet18-f37072fd.pth")
    'f37072fd'
    """
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", url)
    return found.group(1) if found else None
