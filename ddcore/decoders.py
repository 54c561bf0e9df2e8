"""How stored tensors become samples, in the run, in the artifact and in everybody's loader, for ever.

A decoder is a list of operations, each a plain dict with its name under ``op``; the first makes images, the others change
them. An operation has no state, gives random access by sample, and is differentiable in the stored tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ddcore.errors import InputError, near

Spec = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


class Operation(Protocol):
    """One kind of operation."""

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """How many samples there are after it; ``before`` it, or None if it is the first."""

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Samples (B, ...) at ``index`` (B,) int64; ``before`` gives those of the operation before it."""


class Rows:
    """``{"op": "rows", "tensor": NAME}``: sample i is row i."""

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """Rows of the tensor."""
        return len(stored(tensors, spec["tensor"]))

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """The rows."""
        tensor = stored(tensors, spec["tensor"])
        return tensor[index.to(tensor.device)]


class Dequantise:
    """``{"op": "dequantise", "tensor": NAME, "scale": NAME, "offset": NAME}``: scale * stored + offset, a channel each."""

    def count(self, tensors: Tensors, spec: Spec, before: int | None) -> int:
        """Rows of the tensor."""
        return len(stored(tensors, spec["tensor"]))

    def sample(self, tensors: Tensors, spec: Spec, index: Tensor, before: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Float rows (B, C, H, W)."""
        tensor, scale, offset = (stored(tensors, spec[name]) for name in ("tensor", "scale", "offset"))
        rows = tensor[index.to(tensor.device)].to(scale.dtype)
        return scale[:, None, None] * rows + offset[:, None, None]


OPERATIONS: dict[str, Operation] = {"rows": Rows(), "dequantise": Dequantise()}


class Decoder:
    """A list of operations, applied in order."""

    def __init__(self, spec: Sequence[Spec], operations: Mapping[str, Operation] = OPERATIONS) -> None:
        """Look the operations up.

        Raises:
            InputError: an unknown operation; names the distribution that provides it, where the spec says so.
        """
        self.spec = [dict(s) for s in spec]
        if not self.spec:
            raise InputError("a decoder without operations makes no samples: write the artifact again")
        self._operations = [_known(s, operations) for s in self.spec]

    def count(self, tensors: Tensors) -> int:
        """How many samples the stored tensors make."""
        count: int | None = None
        for operation, spec in zip(self._operations, self.spec, strict=True):
            count = operation.count(tensors, spec, count)
        assert count is not None
        return count

    def sample(self, tensors: Tensors, index: Tensor) -> Tensor:
        """Samples (B, ...) at ``index`` (B,) int64."""
        before: Callable[[Tensor], Tensor] | None = None
        for operation, spec in zip(self._operations, self.spec, strict=True):
            before = _bound(operation, tensors, spec, before)
        assert before is not None
        return before(index)


def _bound(
    operation: Operation, tensors: Tensors, spec: Spec, before: Callable[[Tensor], Tensor] | None
) -> Callable[[Tensor], Tensor]:
    return lambda index: operation.sample(tensors, spec, index, before)


def _known(spec: Spec, operations: Mapping[str, Operation]) -> Operation:
    name = spec.get("op")
    if name in operations:
        return operations[name]
    if distribution := spec.get("distribution"):
        raise InputError(f"this set is decoded by {name!r} of {distribution}, which is not here: pip install {distribution}")
    raise InputError(f"no decoder operation is named {name!r}: {near(str(name), operations)}")


def stored(tensors: Tensors, name: str) -> Tensor:
    """A stored tensor by name.

    Raises:
        InputError: it is not there.
    """
    if name not in tensors:
        raise InputError(f"the decoder reads tensor {name!r}, which is not stored: {near(name, tensors)}")
    return tensors[name]
