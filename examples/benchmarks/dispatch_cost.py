"""What asking plugins costs in a DM step on digits: time inside the dispatcher, answer checks included, without the plugins' own
time, as a share of the step. Timers inside every call count as dispatch, so the figure is an upper bound.

    python examples/benchmarks/dispatch_cost.py [--rounds 60] [--threads 1]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from records import machine, write

from ddcore.composing.asking import Hooks
from ddcore.composing.selection import select, setup_from
from ddcore.runs.builtin import Core
from ddcore.runs.cutting import distillation_task
from ddcore.runs.loop import begin, outer_step
from ddcore.runs.run import Run
from ddcore.storage import Place

PLUGINS = ("dm", "dsa", "fyi")


class Timed(Hooks):
    """The dispatcher with a clock: ``spent`` seconds in it and in nothing it called, over ``calls`` questions."""

    spent = 0.0
    calls = 0
    depth = 0
    inside = 0.0

    def _timed(self, name: str, /, *arguments: Any, **named: Any) -> Any:
        start, before, outermost = time.perf_counter(), self.inside, self.depth == 0
        self.depth += 1
        try:
            return getattr(Hooks, name)(self, *arguments, **named)
        finally:
            self.depth -= 1
            if outermost:
                self.calls += 1
                self.spent += time.perf_counter() - start - (self.inside - before)

    def chain(self, *arguments: Any, **named: Any) -> Any:
        """Timed."""
        return self._timed("chain", *arguments, **named)

    def by_name(self, *arguments: Any, **named: Any) -> Any:
        """Timed."""
        return self._timed("by_name", *arguments, **named)

    def one(self, *arguments: Any, **named: Any) -> Any:
        """Timed; what its generator yields later is the matcher's time."""
        return self._timed("one", *arguments, **named)

    def _call(self, hook: str, impl: Any, arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return super()._call(hook, impl, arguments)
        finally:
            self.inside += time.perf_counter() - start


def main() -> None:
    """Time the steps, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    shares, steps, calls = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        words = [word for name in PLUGINS for word in ("--plugin", name)]
        given = {"plugins": PLUGINS, "threads": options.threads, "ipc": 10}
        run = Run(setup_from(select([*words, "--preset", "none"], {}), given, {}), Place.at(Path(folder) / "run"))
        run.hooks = Timed(run.setup.manager(Core()), run.setup.described())
        task = distillation_task(run)
        learn = begin(task, run)
        for step in range(options.rounds):
            spent, asked, start = run.hooks.spent, run.hooks.calls, time.perf_counter()
            outer_step(task, step, learn, run)
            seconds = time.perf_counter() - start
            if step:
                shares.append((run.hooks.spent - spent) / seconds)
                steps.append(seconds)
                calls = run.hooks.calls - asked
    record = {
        "what": "dispatch in a dm + dsa + fyi step, digits, 10 images a class, ConvNet of width 32",
        "command": "python examples/benchmarks/dispatch_cost.py",
        "seconds of a step, median": round(median(steps), 4),
        "questions a step": calls,
        "share of dispatch, median": round(median(shares), 5),
        "share of dispatch, largest": round(max(shares), 5),
        **machine(),
    }
    write("dispatch_cost", record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
