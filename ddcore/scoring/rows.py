"""Which sets are scored: ``--rows`` and ``--baseline``, names of the core's rows, initialisers and plugins' sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddcore.composing.plan import BASELINES, INITIALIZERS
from ddcore.errors import OptionError, near

if TYPE_CHECKING:
    from ddcore.config import Config

DISTILLED, RANDOM, RANDOM_BYTES, FULL = "distilled", "random", "random-bytes", "full"
UNTRAINED = "untrained"
"""The row of networks as initialised: what a probe sees where nothing was learned from any set."""
USUAL = (DISTILLED, RANDOM, *BASELINES, RANDOM_BYTES, FULL)
CORE_SETS = (*USUAL, UNTRAINED)
"""The core's rows."""
DEFAULT = "default"
"""Stands for ``USUAL`` and, under a protocol with a probe, for ``untrained`` too."""


def chosen_rows(config: Config, *, probed: bool = False) -> tuple[str, ...]:
    """The sets that have a row, each once, in the order of the table.

    Those of ``--rows``, of which ``default`` stands for the usual ones, and no ``--rows`` for ``default``; then those
    of ``--baseline``, before the rows of other sizes.

    Args:
        probed: whether it is of a protocol with a probe.

    >>> from ddcore.config import Config
    >>> chosen_rows(Config(baseline=("noise",)))
    ('distilled', 'random', 'kcenter', 'noise', 'random-bytes', 'full')
    >>> chosen_rows(Config(rows=("random,distilled",)))
    ('random', 'distilled')
    """
    usual = CORE_SETS if probed else USUAL
    named = [name for word in config.rows or (DEFAULT,) for name in (usual if word == DEFAULT else (word,))]
    if config.baseline:
        others = (RANDOM_BYTES, FULL, UNTRAINED)
        named = [n for n in named if n not in others] + list(config.baseline) + [n for n in named if n in others]
    return tuple(dict.fromkeys(named))


def sets_of(plugins: Mapping[str, Any]) -> list[str]:
    """The sets that selected plugins bring for students."""
    return [name for plugin in plugins.values() for name in plugin.student_sets]


def initialisers_among(names: Iterable[str], plugins: Mapping[str, Any]) -> tuple[str, ...]:
    """The rows that are images of an initialiser other than the core's own rows."""
    own = sets_of(plugins)
    return tuple(name for name in names if name not in CORE_SETS and name not in own)


def check_rows(config: Config, plugins: Mapping[str, Any]) -> None:
    """Refuse rows of no set.

    Raises:
        OptionError: nobody selected offers it; names the nearest that somebody does.
    """
    offered = [name for plugin in plugins.values() for name in plugin.initializers]
    known = dict.fromkeys([*CORE_SETS, *INITIALIZERS, *offered, *sets_of(plugins), DEFAULT])
    for flag, names in (("--rows", config.rows), ("--baseline", config.baseline)):
        for name in names:
            if name not in known:
                raise OptionError(
                    f"{flag} {name!r} is offered by none of the selected plugins, nor is it a row of the core: {near(name, known)}"
                )
