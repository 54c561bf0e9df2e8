"""Packages that list what is public and import it when it is asked for, so that ``--help`` never waits for torch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any

Names = Mapping[str, Collection[str] | Mapping[str, str]]
"""Modules of a package, with the names that it lends; or the names that it gives them, with their own."""


def later(package: str, names: Names, *, once: str = "") -> Callable[[str], Any]:
    """What a package does when it is asked for a name that it does not hold.

    Args:
        once: a module of the package, all of whose names stood under the package's own name up to version 0.1: they
            still do, with a warning.

    Raises:
        AttributeError: nobody has it.
    """
    where: dict[str, tuple[str, str]] = {}
    for module, lent in names.items():
        own = lent if isinstance(lent, Mapping) else dict.fromkeys(lent, "")
        where |= {name: (module, inner or name) for name, inner in own.items()}

    def find(name: str) -> Any:
        if name in where:
            module, inner = where[name]
            return getattr(import_module(f"{package}.{module}"), inner)
        if once and not name.startswith("_"):
            held = import_module(f"{package}.{once}")
            if hasattr(held, name):
                warnings.warn(f"{package}.{name} is now {package}.{once}.{name}", DeprecationWarning, stacklevel=2)
                return getattr(held, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
