"""What to distil with, where a run names no matcher: those installed ones that go with its data and plugins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ddcore.composing.inspection import matchers_for
from ddcore.composing.plan import kinds_of, refusal
from ddcore.composing.selection import select, setup_from
from ddcore.errors import DdcoreError
from ddcore.scoring.estimate import forward_passes

if TYPE_CHECKING:
    from ddcore.runs.opened import Whole


def known_matchers(run: Whole) -> list[str]:
    """Names of installed matchers for a run that has none, what to try first in front.

    Those that need no experts or teachers come first, then those that learn, then those that cost least.
    """

    def refused(matcher: Any, name: str) -> bool:
        return any(refusal(plugin, other, matcher, name) for other, plugin in run.plugins.items())

    def order(name: str) -> tuple[Any, ...]:
        learns = hasattr(found[name], "ddcore_matching_loss") or not run.dense
        return len(found[name].needs), not learns, passes_with(run, name), name

    found = matchers_for(kinds_of(run.source), refused)
    return sorted(found, key=order)


def passes_with(run: Whole, matcher: str) -> float:
    """Images that the run would pass forward with this matcher, under the settings that it has for such data; infinite
    where they do not go together."""
    offers = run.setup.offers.values()
    words = [word for o in offers for word in (("--plugin-path", o.path) if o.path else ("--plugin", o.request))]
    given = {"dataset": run.config.dataset, "ipc": run.config.ipc}
    try:
        made: Any = type(run)
        other = made(setup_from(select([*words, "--plugin", matcher], {}), given, {}), run.place)
        other.take(run.source)
        return float(other.plan.steps * forward_passes(other.matcher.cost(other)))
    except DdcoreError:
        return math.inf
