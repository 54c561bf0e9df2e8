"""Import torchvision, also beside a CPU build of torch.

torchvision's wheels from the usual index are built against CUDA; beside a CPU torch their import fails with "operator
torchvision::nms does not exist", because the compiled operators are missing. Their Python parts (models, data sets,
transforms) need only the schemas of two operators to be declared.
"""

from __future__ import annotations

from types import ModuleType

import torch

from ddcore.errors import InputError

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """torchvision; the normal import first, and nothing else if that works.

    Raises:
        InputError: it is not installed, or cannot be imported either way.
    """
    try:
        import torchvision  # may not fit this torch
    except ModuleNotFoundError as error:
        raise InputError("this needs torchvision, which is not installed: pip install torchvision") from error
    except RuntimeError:
        _declare_operators()
        try:
            import torchvision
        except RuntimeError as error:
            sentence = f"torchvision does not fit this torch ({error}): install the two as a pair, see constraints.txt"
            raise InputError(sentence) from error
    return torchvision  # type: ignore[no-any-return]


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}{SCHEMA}")  # type: ignore[no-untyped-call]
        except RuntimeError:
            continue
    _declared.append(library)


def torchvision_url(network: str, weights: str) -> str | None:
    """Where torchvision's weights of this name lie; None if it has no such name."""
    if not network.startswith("torchvision:"):
        return None
    known = import_torchvision().models.get_model_weights(network.partition(":")[2]).__members__
    return str(known[weights].url) if weights in known else None
