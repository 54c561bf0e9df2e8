"""The composition matrix: which plugin goes with which matcher, from what both declare; and a run of each pair."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from ddcore.composing.discovery import installed, load_class
from ddcore.composing.plan import refusal_unasked
from ddcore.errors import PluginError
from ddcore.kit.contract import stage


@frozen
class Pair:
    """A plugin and a matcher.

    Attributes:
        reason: why they do not go together; empty where they do.
        data: what the matcher works on.
    """

    plugin: str
    matcher: str
    reason: str = ""
    data: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "composes": not self.reason}


def matrix(names: Sequence[str] | None = None) -> list[Pair]:
    """Every plugin beside every matcher, by name.

    Args:
        names: plugins to look at; None takes all that are installed and can be loaded.
    """
    classes = _loaded(names)
    matchers = {name: cls for name, cls in classes.items() if cls.role == "matcher"}
    others = {name: cls for name, cls in classes.items() if cls.role != "matcher" or cls.gives_way}
    return [
        Pair(plugin, name, refusal_unasked(cls(), plugin, matcher(), name) or "", ", ".join(sorted(matcher.modality)))
        for plugin, cls in others.items()
        for name, matcher in matchers.items()
        if plugin != name and not matcher.gives_way
    ]


def _loaded(names: Sequence[str] | None) -> dict[str, Any]:
    found = {}
    for name in installed() if names is None else names:
        try:
            found[name] = load_class(name)[0]
        except PluginError:
            if names is not None:
                raise
    return found


def try_pairs(pairs: Sequence[Pair]) -> dict[Pair, str]:
    """A run of one step on tiny data, evaluation and all, with every pair that composes; what went wrong, by pair."""
    failures = {}
    with tempfile.TemporaryDirectory() as folder:
        for pair in pairs:
            if not pair.reason and (problem := to_the_end(pair, Path(folder))):
                failures[pair] = problem
    return failures


def to_the_end(pair: Pair, folder: Path) -> str:
    """Do a run of one step, scores and all; empty if all went well, else what went wrong.

    Args:
        folder: scratch, whose cache the runs in it share: what a matcher's experts and teachers are is trained once.
    """
    subject = stage.find_subject(pair.plugin, folder / f"{pair.plugin}-{pair.matcher}")
    return stage.to_the_end(subject, pair.matcher, cache=str(folder / "cache"))


def matrix_text(pairs: Sequence[Pair], failures: Mapping[Pair, str] | None = None) -> str:
    """Markdown: what each matcher works on (``dense``: rows of one shape, whatever of); a row a plugin, or for several
    that go with the same matchers, a column a matcher; the reasons below."""
    if not pairs:
        return "no pair of an enhancement and a matcher is installed"
    matchers = list(dict.fromkeys(pair.matcher for pair in pairs))
    reasons: list[str] = []
    rows: dict[str, dict[str, str]] = {}
    for pair in pairs:
        problem = (failures or {}).get(pair)
        reason = f"FAILED: {problem}" if problem else without_names(pair)
        if reason and reason not in reasons:
            reasons.append(reason)
        rows.setdefault(pair.plugin, {})[pair.matcher] = f"no ({reasons.index(reason) + 1})" if reason else "yes"
    lines = ["| | " + " | ".join(matchers) + " |", "| --- |" + " --- |" * len(matchers)]
    if any(data := {pair.matcher: pair.data for pair in pairs}.values()):
        lines.append(f"| *works on* | {' | '.join(data)} |")
    alike: dict[str, list[str]] = {}
    for plugin, cells in rows.items():
        alike.setdefault(" | ".join(cells.get(m, "") for m in matchers), []).append(plugin)
    lines += [f"| {', '.join(plugins)} | {cells} |" for cells, plugins in alike.items()]
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def without_names(pair: Pair) -> str:
    """The reason as it holds for other pairs too.

    >>> without_names(Pair("a", "m", "'a' needs experts, which 'm' does not offer"))
    'it needs experts, which the matcher does not offer'
    """
    return pair.reason.replace(repr(pair.plugin), "it").replace(repr(pair.matcher), "the matcher")


if __name__ == "__main__":
    import click

    from ddcore.composing.discovery import FIRST_PARTY

    click.echo(matrix_text(matrix([name for name in FIRST_PARTY if name in installed()])))
