"""Which sets are scored: ``--rows`` and ``--baseline``, names of the core's rows, initialisers and plugins' sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ddcore.composing.plan import BASELINES, INITIALIZERS
from ddcore.errors import OptionError, near

if TYPE_CHECKING:
    from ddcore.config import Config

DISTILLED, RANDOM, RANDOM_BYTES, FULL = "distilled", "random", "random-bytes", "full"
CORE_SETS = (DISTILLED, RANDOM, *BASELINES, RANDOM_BYTES, FULL)
"""The core's rows, and what ``--rows default`` stands for."""
DEFAULT = "default"


def chosen_rows(config: Config) -> tuple[str, ...]:
    """The sets that have a row, each once, in the order of the table.

    Those of ``--rows``, of which ``default`` stands for the core's, and no ``--rows`` for ``default``; then those of
    ``--baseline``, before the rows of other sizes.

    >>> from ddcore.config import Config
    >>> chosen_rows(Config(baseline=("noise",)))
    ('distilled', 'random', 'kcenter', 'noise', 'random-bytes', 'full')
    >>> chosen_rows(Config(rows=("random,distilled",)))
    ('random', 'distilled')
    """
    named = [name for word in config.rows or (DEFAULT,) for name in (CORE_SETS if word == DEFAULT else (word,))]
    if config.baseline:
        others = (RANDOM_BYTES, FULL)
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
