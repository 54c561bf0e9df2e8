"""Which device a run computes on, and all that depends on it: the one module that asks.

A run computes on the CPU or on one CUDA device. Everything that is decided by which of them it is, is decided here, so
that tests can take either branch without the device: ``ddcore.kit.contract.stand_in`` puts another ``Cuda`` in the
place of torch's.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ddcore.errors import OptionError

CPU, CUDA = "cpu", "cuda"
THE_CPU = torch.device(CPU)


class Cuda:
    """What torch knows of CUDA."""

    def names(self) -> list[str]:
        """Of the devices that torch sees; empty without any."""
        if not torch.cuda.is_available():
            return []
        return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]

    @contextmanager
    def seeded(self, device: torch.device, seed: int) -> Iterator[None]:
        """Let what draws from the device's own generator draw from a seed;
        the generator's state is put back afterwards."""
        before = torch.cuda.get_rng_state(device)
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            torch.cuda.set_rng_state(before, device)

    def wait(self, device: torch.device) -> None:
        """Until the device has done what it was asked."""
        torch.cuda.synchronize(device)

    def autocast(self, dtype: torch.dtype, enabled: bool) -> AbstractContextManager[Any]:
        """torch's autocast on the device."""
        return torch.autocast(CUDA, dtype, enabled=enabled)


cuda = Cuda()


def names() -> list[str]:
    """Of the CUDA devices here; empty without any."""
    return cuda.names()


def chosen(name: str) -> torch.device:
    """The device of ``--device``: ``auto`` is CUDA where there is one; ``cuda:1`` is the second of several.

    Raises:
        OptionError: CUDA was asked for, and there is none, or none of that number.
    """
    kind, _, number = name.partition(":")
    known = [] if kind == CPU else names()
    if kind == CUDA and not known:
        raise OptionError(
            f"--device {name} was asked for, but torch sees no CUDA device here: use --device cpu or install a CUDA build"
        )
    if number and int(number) >= len(known):
        there = ", ".join(f"cuda:{n} ({device})" for n, device in enumerate(known))
        raise OptionError(f"--device {name} was asked for, and torch sees {there}: choose one of them")
    return torch.device(f"{CUDA}:{int(number)}" if number else CUDA if known else CPU)


def is_cuda(device: torch.device) -> bool:
    """Whether a run on this device computes on CUDA."""
    return device.type == CUDA


def in_cache(device: torch.device) -> bool:
    """Whether small parts of a batch, which stay in the processor's cache, are quicker than large ones: on the CPU."""
    return device.type == CPU


def at_once(device: torch.device, most: int, elsewhere: int) -> int:
    """How much is worked on at once: ``most`` on the CPU, ``elsewhere`` on devices, which want large batches."""
    return most if in_cache(device) else elsewhere


def threads(device: torch.device) -> int:
    """How many of Python's threads can share the work of one batch: torch's on the CPU, one on a device."""
    return torch.get_num_threads() if in_cache(device) else 1


def described(device: torch.device) -> str:
    """Kind and name of a device, as records keep it: "cpu: x86_64", "cuda: NVIDIA H200"."""
    return f"{device.type}: {names()[device.index or 0] if is_cuda(device) else platform.machine()}"


def processor() -> str:
    """Name of this machine's processor, such as "Intel(R) Xeon(R) Processor @ 2.90GHz"."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as facts:
            named = next((line for line in facts if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named.partition(":")[2].strip() or platform.processor() or platform.machine()


def asked_for(wanted: Collection[str]) -> bool:
    """Whether runs with these values of ``--device`` compute on CUDA here."""
    return any(name.startswith(CUDA) for name in wanted) or ("auto" in wanted and bool(names()))


def wait(device: torch.device) -> None:
    """Until a device has done what it was asked, so that a clock tells how long it took."""
    if is_cuda(device):
        cuda.wait(device)


def autocast(device: torch.device, dtype: torch.dtype = torch.bfloat16, enabled: bool = True) -> Any:
    """torch's autocast on a device; with ``enabled`` False, none even within another."""
    return cuda.autocast(dtype, enabled) if is_cuda(device) else torch.autocast(device.type, dtype, enabled=enabled)


def seeded(device: torch.device, draw: Callable[[], int]) -> AbstractContextManager[None]:
    """Let what draws from a device's own generator (dropout) draw from a seed; nothing on the CPU, which has a
    generator of the run's.

    Args:
        draw: gives the seed; asked on devices only.
    """
    return cuda.seeded(device, draw()) if is_cuda(device) else nullcontext()


def same(tensor: Tensor, device: torch.device) -> bool:
    """Whether a tensor lies on a device; "cuda" is CUDA's current one."""
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
