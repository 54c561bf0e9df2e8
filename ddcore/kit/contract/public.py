"""What plugins may import: these packages, and of each the names that it lists in ``__all__``.

Within a major hook API version a listed name is not removed or changed without a deprecation (see CONTRIBUTING).
``python -m ddcore.kit.contract.public`` prints the record that ``tests/public_api.json`` keeps.
"""

from __future__ import annotations

from importlib import import_module

PACKAGES = (
    "ddcore",
    "ddcore.composing",
    "ddcore.data",
    "ddcore.images",
    "ddcore.labels",
    "ddcore.networks",
    "ddcore.pages",
    "ddcore.runs",
    "ddcore.sets",
    "ddcore.storage",
    "ddcore.training",
)
MODULES = ("ddcore.devices", "ddcore.errors", "ddcore.randomness", "ddcore.storage.keeping", "ddcore.testing")
"""Modules beside the packages: all of their names without a leading underscore."""


def listed() -> dict[str, list[str]]:
    """The public names of each package, sorted."""
    return {package: sorted(import_module(package).__all__) for package in PACKAGES}


def is_public(module: str, name: str) -> bool:
    """Whether a plugin may import a name from a module; an empty name is the module itself."""
    if module in MODULES:
        return not name.startswith("_")
    if f"{module}.{name}" in MODULES:
        return True
    return module in PACKAGES and (not name or name in import_module(module).__all__)


if __name__ == "__main__":
    import json

    import click

    click.echo(json.dumps(listed(), indent=2))
