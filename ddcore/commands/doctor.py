"""``ddcore doctor``: what of an installation works, what does not, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attrs import asdict, frozen
from fsspec.registry import known_implementations

from ddcore._version import __version__
from ddcore.composing.discovery import installed, load_class
from ddcore.composing.options import SHARED, fields, variable
from ddcore.composing.tables import table
from ddcore.config import Config
from ddcore.errors import DdcoreError, in_short, near
from ddcore.storage.places import DRIVERS, Place, default_cache, standing
from ddcore.storage.writable import unwritable

OK, NOTE, PROBLEM = "ok", "note", "problem"
ROOM = 2_000_000_000
"""Free bytes under which experts and labels of views soon do not fit."""
EXTRAS = {
    "pyarrow": ("parquet files", "parquet"),
    "matplotlib": ("plots in reports", "report"),
    "rich": ("progress bars", "rich"),
}
"""Module to what it is for, and the extra that brings it."""
BEHIND = 15
"""torchvision 0.(n + 15) goes with torch 2.n."""
VARIABLES = (
    "CACHE",
    "CHECKPOINT_SECONDS",
    "COPIES",
    "COPIES_BYTES",
    "DOWNLOAD",
    "SECRETS",
    "SIGNING_SECRET",
    "WEIGHTS",
    "PLUGINS",
    "PLUGIN_PATH",
)
"""What follows ``DDCORE_`` besides the names of options."""


@frozen
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        status: ``ok``, ``note`` (works, with less than there could be) or ``problem``.
        said: what was found.
        way_out: what to do; empty where nothing is to be done.
    """

    check: str
    status: str
    said: str
    way_out: str = ""


def examine(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Every check; one that fails itself is a problem too."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", python),
        ("torch", torch_itself),
        ("torchvision", torchvision_beside_torch),
        ("cuda", cuda),
        ("threads", lambda: threads(environment)),
        ("extras", extras),
        ("stores", stores),
        ("plugins", plugins),
        ("environment", lambda: variables(environment)),
        ("folders", folders),
    ]
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except Exception as error:  # a broken installation is what this is for
            found.append(Finding(name, PROBLEM, in_short(error), "reinstall what it names"))
    return found


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Plain values."""
    return {"healthy": healthy(findings), "findings": [asdict(finding) for finding in findings]}


def healthy(findings: list[Finding]) -> bool:
    """Whether there is no problem."""
    return all(finding.status != PROBLEM for finding in findings)


def findings_text(findings: list[Finding]) -> str:
    """A table, and under it what to do."""
    lines = [table(["check", "status", "found"], [[f.check, f.status, f.said] for f in findings])]
    to_do = [f"  {finding.check}: {finding.way_out}" for finding in findings if finding.way_out]
    lines += ["", "to do:", *to_do] if to_do else ["", "nothing to do"]
    return "\n".join(lines)


# ---- the checks ------------------------------------------------------------------------------------------------------


def python() -> Iterator[Finding]:
    """The interpreter and ddcore itself."""
    status = OK if sys.version_info >= (3, 11) else PROBLEM
    way_out = "" if status == OK else "install Python 3.11 or newer"
    yield Finding("python", status, f"{platform.python_version()} at {sys.executable}", way_out)
    yield Finding("ddcore", OK, f"{__version__} in {Path(__file__).parents[1]}")


def torch_itself() -> Iterator[Finding]:
    """torch computes."""
    import torch  # looked at here

    product = torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).item()
    right = product == 9.0
    said = f"{torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPU'}"
    yield Finding("torch", OK if right else PROBLEM, said, "" if right else "a convolution is wrong: reinstall torch")


def torchvision_beside_torch() -> Iterator[Finding]:
    """torchvision can be imported, and is of the same age as torch."""
    import torch  # looked at here

    from ddcore.networks.vision import import_torchvision

    way_out = "install torch and torchvision as a pair, for example pip install torch==2.13.0 torchvision==0.28.0"
    try:
        module = import_torchvision()
    except DdcoreError as error:
        yield Finding("torchvision", PROBLEM, str(error), way_out)
        return
    due, own = f"0.{_minor(torch.__version__) + BEHIND}", ".".join(module.__version__.split(".")[:2])
    if own != due:
        yield Finding(
            "torchvision", PROBLEM, f"{module.__version__}, and torch {torch.__version__} goes with {due}", way_out
        )
        return
    try:
        import_module("torchvision.ops").nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
        operators = "with its compiled operators"
    except (NotImplementedError, RuntimeError):
        operators = "without compiled operators, of which ddcore needs none"
    yield Finding("torchvision", OK, f"{module.__version__}, {operators}")


def cuda() -> Iterator[Finding]:
    """The devices that torch sees."""
    from ddcore import devices  # imports torch

    if names := devices.names():
        yield Finding("cuda", OK, f"{', '.join(names)}; results on CUDA may differ in their last bits from run to run")
    elif shutil.which("nvidia-smi"):
        way_out = "install a CUDA build of torch (see pytorch.org), or a newer driver"
        yield Finding("cuda", PROBLEM, "there is an NVIDIA driver, and torch sees no device", way_out)
    else:
        yield Finding("cuda", NOTE, "none: everything runs on the CPU")


def threads(environment: Mapping[str, str]) -> Iterator[Finding]:
    """How many threads a process uses, and how many there are."""
    cores, default = os.cpu_count() or 1, fields(Config)["threads"].default
    asked = environment.get("OMP_NUM_THREADS")
    said = (
        f"{cores} cores; a run uses {default} threads unless --threads says otherwise (their number changes the bits)"
    )
    yield Finding("threads", OK, said + (f"; OMP_NUM_THREADS is {asked}" if asked else ""))


def extras() -> Iterator[Finding]:
    """Libraries that some files and pictures need."""
    for module, (purpose, extra) in EXTRAS.items():
        if find_spec(module):
            yield Finding(module, OK, f"{metadata.version(module)}: {purpose}")
        else:
            yield Finding(module, NOTE, f"not installed: no {purpose}", f"pip install 'ddcore-torch[{extra}]'")


def stores() -> Iterator[Finding]:
    """Drivers of remote stores."""
    there: list[str] = []
    absent: dict[str, str] = {}
    for protocol, distribution in DRIVERS.items():
        if protocol not in known_implementations:
            continue
        module = known_implementations[protocol]["class"].rpartition(".")[0]
        try:
            import_module(module)
            there.append(protocol)
        except ImportError:
            absent.setdefault(distribution, protocol)
    yield Finding("stores", OK, f"file {' '.join(there)}".strip())
    if absent:
        some = ", ".join(f"{protocol}:// (pip install {name})" for name, protocol in absent.items())
        yield Finding("stores", NOTE, f"no drivers for {some}")


def plugins() -> Iterator[Finding]:
    """Installed plugins can be imported, and no two have one name."""
    sound = []
    for name, offers in installed().items():
        try:
            if len(offers) > 1:
                who = " and ".join(offer.distribution for offer in offers)
                yield Finding("plugins", PROBLEM, f"{who} both offer {name!r}", f"uninstall one of {who}")
                continue
            load_class(name)
            sound.append(name)
        except DdcoreError as error:
            yield Finding("plugins", PROBLEM, str(error), f"upgrade or uninstall {offers[0].distribution}")
    if sound:
        yield Finding("plugins", OK, f"{len(sound)}: {', '.join(sound)}")
    else:
        yield Finding("plugins", NOTE, "none is installed", "pip install ddcore-dm, or another plugin")


def variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables named ``DDCORE_...`` are ones that something reads."""
    known = {f"DDCORE_{name}" for name in VARIABLES} | {variable(SHARED, name) for name in fields(Config)}
    ours = sorted(name for name in environment if name.startswith("DDCORE_"))
    for name in ours:
        if name not in known and "__" not in name:
            yield Finding("environment", PROBLEM, f"nothing reads {name}", f"rename or unset it: {near(name, known)}")
    yield Finding("environment", OK, f"set: {', '.join(ours)}" if ours else "no DDCORE_ variable is set")


def folders() -> Iterator[Finding]:
    """Runs, cache and temporary files can be written, and there is room."""
    for name, place in (
        ("runs", Place.at("runs")),
        ("cache", Place.at(default_cache())),
        ("temporary", Place.at(tempfile.gettempdir())),
    ):
        yield _written(name, place)


def _written(name: str, place: Any) -> Finding:
    """Whether something can be written where a folder is, or will be."""
    path = place.local_path()
    if why := unwritable(place, write=True):
        way_out = {"cache": "set DDCORE_CACHE or give --cache", "temporary": "set TMPDIR to"}.get(name, "give --out")
        return Finding(
            name,
            PROBLEM,
            why,
            "check access to the store, or choose another" if path is None else f"{way_out} another folder",
        )
    if path is None:
        return Finding(name, OK, f"{place.url} can be written")
    there = standing(path)
    free = shutil.disk_usage(there).free
    little = free < ROOM
    return Finding(name, NOTE if little else OK, f"{path}: {free / 1e9:,.1f} GB free", "make room" if little else "")


def _minor(version: str) -> int:
    return int(version.split(".")[1])
