"""A device that is not there: tensors that say ``cuda`` and hold CPU values, and refuse what CUDA refuses.

``with standing_in():`` makes ``--device cuda`` work on any machine. Results equal the CPU's bits, because the CPU's
kernels make them, wherever the code takes the same branch. Refused, as on a GPU, are operations over tensors of both
devices (a CPU tensor without axes may join one of the device; a CPU index may pick from it), CPU generators for the
device's numbers, and NumPy's look at its memory. Refused beside that is to draw from the device's own generator when
nobody has seeded it: a run's bits depend on it.

Not seen here: other processes, kernels that exist on one device only, memory, and time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ddcore import devices
from ddcore.randomness import drawing_from

DEVICE = torch.device("cuda", 0)
"""What its tensors say, as CUDA's do: equal to no ``torch.device("cuda")``."""
ACROSS = {"copy_", "_copy_from"}
"""Operations that carry values from one device to another."""
PICKING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
"""Operations whose index may lie on the CPU."""
NO_SCALARS = {
    "cat",
    "stack",
    "gather",
    "index_select",
    "index_add",
    "index_add_",
    "index_copy_",
    "scatter",
    "scatter_",
    "embedding",
}
"""Operations that take no CPU tensor, not even one without axes."""
FILLED = ("zeros", "ones", "empty", "full", "eye", "tensor", "scalar_tensor", "empty_strided")
COUNTED = ("arange", "linspace", "logspace", "tril_indices", "triu_indices", "hann_window")
DRAWN = ("rand", "randn", "randint", "randperm", "normal")
LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like")
NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")


class Refused(RuntimeError):
    """What CUDA refuses too, or what would make a run's bits depend on chance."""


class StandIn(Tensor):
    """A tensor of the device that is not there. To torch's C++ it is a CPU tensor, so that autograd needs no device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it says it is."""
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """As it says."""
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        """As it says."""
        return False

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"StandIn({held(self)!r})"

    def tolist(self) -> Any:
        """Its values."""
        return held(self).tolist()

    def __format__(self, spec: str) -> str:
        return format(held(self), spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        copy = self.detach().clone(memory_format=torch.preserve_format).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copy._is_param = True  # type: ignore[attr-defined]
        if self.grad is not None:
            copy.grad = deepcopy(self.grad, memo)
        memo[id(self)] = copy
        return copy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = dict(kwargs or {})
        _refuse_mixed(func, args, kwargs)
        _refuse_generator(func, kwargs)
        own = _own_numbers() if torch.Tag.nondeterministic_seeded in func.tags else nullcontext()
        with own, torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            return tree_map_only(Tensor, placed, func(*args, **kwargs))


def placed(tensor: Tensor) -> Tensor:
    """A CPU tensor's values on the device, without a copy or a gradient."""
    if isinstance(tensor, StandIn):
        return tensor
    with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
        return Tensor._make_subclass(StandIn, tensor, False)  # type: ignore[attr-defined, no-any-return]


def held(tensor: Tensor) -> Tensor:
    """The CPU tensor that shares a device tensor's values, without gradient."""
    with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
        plain = torch.empty(0, dtype=tensor.dtype)
        return plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())  # type: ignore[call-overload, no-any-return]


class _Up(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return placed(tensor.detach().clone(memory_format=torch.preserve_format))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Down.apply(gradient)  # type: ignore[no-any-return, no-untyped-call]


class _Down(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return held(tensor).clone(memory_format=torch.preserve_format)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Up.apply(gradient)  # type: ignore[no-any-return, no-untyped-call]


# ---- what is refused -------------------------------------------------------------------------------------------------


def _refuse_mixed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    name = func._schema.name.partition("::")[2]
    if name in ACROSS:
        return
    given = tree_leaves((args, kwargs))
    if name in PICKING:
        into = [args[0], *args[2:3]]
        if any(isinstance(t, StandIn) for t in tree_leaves(args[1])) and not isinstance(args[0], StandIn):
            raise Refused(f"{name}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        given = tree_leaves(into)
    written = args[:1] if name.endswith("_") and not name.endswith("__") else []
    for tensor in given:
        foreign = isinstance(tensor, Tensor) and not isinstance(tensor, StandIn) and not hasattr(tensor, INSIDE)
        if foreign and (tensor.dim() or name in NO_SCALARS or any(tensor is one for one in tree_leaves(written))):
            raise Refused(
                f"{name}: expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu"
            )


def _refuse_generator(func: Any, kwargs: Mapping[str, Any]) -> None:
    if kwargs.get("generator") is not None:
        raise Refused(f"{func}: expected a 'cuda' device type for generator but found 'cpu'")


# ---- what torch's C++ makes for itself -------------------------------------------------------------------------------

INSIDE = "_made_inside"
_asked_for: list[str] = []
"""Factories that Python has called, and which are not through yet."""


class _Inside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Marks tensors that C++ makes on its own where it works on others (a zero gradient, an index):
    it takes these for the CPU's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if all(hasattr(one, INSIDE) for one in given) if given else not _asked_for:
            for made in tree_leaves(out):
                if isinstance(made, Tensor) and not isinstance(made, StandIn):
                    setattr(made, INSIDE, True)
        return out


@contextmanager
def _python_asks(name: str) -> Iterator[None]:
    _asked_for.append(name)
    try:
        yield
    finally:
        _asked_for.pop()


# ---- the device's own generator --------------------------------------------------------------------------------------

_seeded: list[torch.Generator] = []


def _own_numbers() -> AbstractContextManager[None]:
    if not _seeded:
        raise Refused(
            "the device's own generator was drawn from, and nobody seeded it: see ddcore.randomness.drawing_from"
        )
    devices.cuda.drawn = True  # type: ignore[attr-defined]
    return drawing_from(_seeded[-1])


class _Claimed(devices.Cuda):
    """CUDA as it would be.

    Attributes:
        drawn: whether anything drew from the device's own generator: the CPU's bits are others then.
    """

    drawn = False

    def names(self) -> list[str]:
        return ["stand-in"] * (DEVICE.index + 1)

    @contextmanager
    def seeded(self, device: torch.device, seed: int) -> Iterator[None]:
        _seeded.append(torch.Generator().manual_seed(seed))
        try:
            yield
        finally:
            _seeded.pop()

    def wait(self, device: torch.device) -> None:
        pass

    def autocast(self, dtype: torch.dtype, enabled: bool) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype, enabled=enabled)


# ---- torch's ways from one device to another -------------------------------------------------------------------------


def on_device(tensor: object) -> bool:
    """Whether a tensor, also within torch.func's transforms, lies on the device that is not there."""
    while isinstance(tensor, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return isinstance(tensor, StandIn)


def _asked(device: object) -> bool:
    """Whether a tensor is to lie on the device. Without a number CUDA's current one is meant, which is the first."""
    wanted = None if device is None else torch.device(device)  # type: ignore[call-overload]
    if wanted is None or wanted.type != DEVICE.type:
        return False
    if (wanted.index or 0) != DEVICE.index:
        raise Refused(f"{wanted} was asked for where {DEVICE} is the run's device")
    return True


def _moved(tensor: Tensor, there: bool) -> Tensor:
    if on_device(tensor) == there:
        return tensor
    if there and not tensor.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return placed(tensor.clone(memory_format=torch.preserve_format))
    return (_Up if there else _Down).apply(tensor)  # type: ignore[no-any-return, no-untyped-call]


def _factory(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(plain)
    def make(*args: Any, device: Any = None, **more: Any) -> Tensor:
        if not _asked(device):
            with _python_asks(plain.__name__):
                return plain(*args, **({} if device is None else {"device": device}), **more)
        _refuse_generator(plain.__name__, more)
        grad = bool(more.pop("requires_grad", False))
        with _own_numbers() if plain.__name__ in DRAWN else nullcontext(), _python_asks(plain.__name__):
            made = _moved(plain(*args, **more), True)
        return made.requires_grad_() if grad else made

    return make


def _like(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(plain)
    def make(tensor: Tensor, *args: Any, device: Any = None, **more: Any) -> Tensor:
        there = on_device(tensor) if device is None else _asked(device)
        if plain.__name__ == "new_tensor":
            how: dict[str, Any] = {"device": DEVICE if there else None, "dtype": tensor.dtype, **more}
            return torch.tensor(*args, **how)
        made = plain(tensor, *args, **more)
        return made if on_device(made) == there else _moved(made, there)

    return make


def _to(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(plain)
    def to(tensor: Tensor, *args: Any, **more: Any) -> Tensor:
        where = more.pop("device", None)
        first, rest = (args[0], args[1:]) if args else (more.pop("other", None), ())
        if isinstance(first, Tensor):
            where, first = first.device, first.dtype
        elif isinstance(first, (str, torch.device)):
            where, first = first, None
        moved = tensor if where is None else _moved(tensor, _asked(where))
        return plain(moved, first, *rest, **more)

    return to


def _as_tensor(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(plain)
    def make(data: Any, *args: Any, device: Any = None, **more: Any) -> Tensor:
        there = on_device(data) if device is None else _asked(device)
        made = data.to(more["dtype"]) if on_device(data) and more.get("dtype") else data
        with _python_asks(plain.__name__):
            return _moved(made if on_device(made) else plain(data, *args, **more), there)

    return make


def _numpy(plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def numpy(tensor: Tensor, *args: Any, **more: Any) -> Any:
        if on_device(tensor):
            raise Refused("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")
        return plain(tensor, *args, **more)

    return numpy


@contextmanager
def standing_in(number: int = 0) -> Iterator[torch.device]:
    """Let ``--device cuda`` be the device that is not there, in this process.

    Args:
        number: of the device among several, for ``--device cuda:NUMBER``.
    """
    base = torch._C.TensorBase.device
    device = property(lambda tensor: DEVICE if on_device(tensor) else base.__get__(tensor))
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:

        def put(where: Any, name: str, made: Any) -> None:
            stack.enter_context(patch.object(where, name, made))

        for name in (*FILLED, *COUNTED, *DRAWN):
            put(torch, name, _factory(getattr(torch, name)))
        for where, every in ((torch, LIKE), (Tensor, NEW)):
            for name in every:
                put(where, name, _like(getattr(where, name)))
        for name in ("as_tensor", "asarray"):
            put(torch, name, _as_tensor(getattr(torch, name)))
        for name in ("numpy", "__array__"):
            put(Tensor, name, _numpy(getattr(Tensor, name)))
        put(Tensor, "to", _to(Tensor.to))
        put(Tensor, "cpu", lambda tensor, *_, **__: _moved(tensor, False))
        put(Tensor, "cuda", lambda tensor, *_, **__: _moved(tensor, True))
        put(Tensor, "device", device)
        put(sys.modules[__name__], "DEVICE", torch.device("cuda", number))
        put(devices, "cuda", _Claimed())
        put(torch.cuda, "get_device_name", lambda device=None: "no device")
        stack.enter_context(_Inside())  # type: ignore[no-untyped-call]
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield DEVICE
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapping)


@contextmanager
def cutting_alike() -> Iterator[None]:
    """Let the CPU cut batches as a device does: then both make the same sums in the same order."""
    with patch.object(devices, "in_cache", lambda device: False):
        yield
