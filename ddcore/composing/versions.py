"""The hook API as data: what it offers, what changed since a recorded version, which version that makes due, what is on
its way out. ``python -m ddcore.composing.versions`` prints the record that ``tests/hook_api.json`` keeps of the last
version."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from attrs import frozen

from ddcore.api import hooks as hookspecs
from ddcore.api.hooks import API_VERSION, KINDS

Surface = Mapping[str, Mapping[str, Any]]


class Deprecation(NamedTuple):
    """Something on its way out.

    Attributes:
        since: hook API version that said so first.
        removed_in: the major version without it.
        instead: what to write, beginning with a verb.
    """

    since: str
    removed_in: str
    instead: str


DEPRECATED: dict[str, Deprecation] = {}
"""``ddcore_hook`` or ``ddcore_hook.argument`` to what a plugin should use; it works, with a warning, until it is
gone."""


@frozen
class Changes:
    """What differs between two versions, in words.

    Attributes:
        breaking: hooks or arguments removed, kinds changed: plugins would stop working.
        additions: hooks or arguments added: no plugin notices.
    """

    breaking: tuple[str, ...]
    additions: tuple[str, ...]

    def version_due(self, before: str) -> str:
        """The version that these changes make due after ``before``.

        >>> [Changes(*made).version_due("1.3") for made in (((), ()), ((), ("x",)), (("y",), ()))]
        ['1.3', '1.4', '2.0']
        """
        major, minor = (int(part) for part in before.split("."))
        if self.breaking:
            return f"{major + 1}.0"
        return f"{major}.{minor + 1}" if self.additions else before


def record() -> dict[str, Any]:
    """The present API, as JSON values."""
    return {"version": API_VERSION, "hooks": surface(), "deprecated": sorted(DEPRECATED)}


def surface() -> dict[str, dict[str, Any]]:
    """Kind and arguments of every hook."""
    return {name: {"kind": kind, "arguments": arguments(name)} for name, kind in KINDS.items()}


def arguments(hook: str) -> list[str]:
    """Names of a hook's arguments, in order."""
    return list(inspect.signature(getattr(hookspecs, hook)).parameters)


def changes(before: Surface, now: Surface) -> Changes:
    """What differs between two surfaces."""
    breaking = [f"{hook} removed" for hook in before if hook not in now]
    additions = [f"{hook} added" for hook in now if hook not in before]
    for hook in (h for h in before if h in now):
        old, new = before[hook], now[hook]
        if old["kind"] != new["kind"]:
            breaking.append(f"{hook} is {new['kind']}, was {old['kind']}")
        breaking += [f"{hook}.{argument} removed" for argument in old["arguments"] if argument not in new["arguments"]]
        additions += [f"{hook}.{argument} added" for argument in new["arguments"] if argument not in old["arguments"]]
    return Changes(tuple(breaking), tuple(additions))


def deprecations(cls: type, who: str) -> list[str]:
    """A sentence for every hook or argument on its way out that a plugin class uses."""
    found = []
    for name, about in DEPRECATED.items():
        hook, _, argument = name.partition(".")
        function = getattr(cls, hook, None)
        if function is None or (argument and argument not in inspect.signature(function).parameters):
            continue
        what = f"{hook}'s argument {argument!r}" if argument else hook
        found.append(
            f"{who} uses {what}, deprecated since hook API {about.since} and gone in {about.removed_in}: {about.instead}"
        )
    return found


if __name__ == "__main__":
    import json

    import click

    click.echo(json.dumps(record(), indent=2))
