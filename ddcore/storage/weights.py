"""Weights of networks in files: written as safetensors, read from those or from torch's format, never unpickled."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ddcore.errors import InputError, near
from ddcore.storage.places import Place, load_tensors, save_tensors


def save_weights(place: Place, network: nn.Module, facts: Mapping[str, str]) -> None:
    """Write a network's weights and buffers; ``facts`` go to the file's metadata."""
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in network.state_dict().items()}
    save_tensors(place, tensors, facts, sealed=True)


def load_weights(place: Place, network: nn.Module) -> None:
    """Put weights and buffers from a file into a network.

    Raises:
        InputError: no state dict there, or one of another network.
    """
    fill(network, read_state(place), place.url)


def read_state(place: Place) -> dict[str, Tensor]:
    """A state dict from safetensors, or from torch's format without running anything that is stored in it.

    A dict that holds it under ``state_dict``, ``model`` or ``net``, and the prefix ``module.`` of wrappers, are seen through.

    Raises:
        InputError: no such file; not a state dict; one that only unpickling would read.
    """
    if place.name.endswith(".safetensors"):
        return load_tensors(place)
    content = place.read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no class for a file that is not its own
        why = " ".join(str(error).split())[:120]
        raise InputError(
            f"{place.url} cannot be read as tensors alone ({why}): save the state_dict of the network, best as safetensors"
        ) from error
    for key in ("state_dict", "model", "net"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(f"{place.url} holds no state dict: save network.state_dict()")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def fill(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Put a state dict into a network; a wrapper's may be its inner network's.

    Raises:
        InputError: tensors that the network does not have, has not got, or has in another shape.
    """
    inner = getattr(network, "network", None)
    own = network.state_dict()
    if isinstance(inner, nn.Module) and not set(own) & set(state):
        network, own = inner, inner.state_dict()
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
