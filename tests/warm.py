"""Worker processes that need not import torch: each is forked from one that has imported the core and done nothing.

Else they are what spawned ones are: they get a task, the environment, the folder and the path, and neither plugins nor
values nor open files of who starts them. ``workers_are_spawned`` has a test's workers begin as a user's do.
"""

import os
from multiprocessing.context import ForkServerContext, ForkServerProcess

IMPORTED = (
    "torch._dynamo",
    "ddcore.commands.train",
    "ddcore.runs.opening",
    "ddcore.runs.work",
    "ddcore.scoring.evaluate",
)
"""The first is what torch imports with a process's first optimiser; it takes as long as torch itself."""


class WarmProcess(ForkServerProcess):
    """A process with the environment of who starts it, not that of the one it is forked from."""

    def start(self):
        self.environment = dict(os.environ)
        super().start()

    def run(self):
        os.environ.clear()
        os.environ.update(self.environment)
        super().run()


class WarmContext(ForkServerContext):
    """Of such processes."""

    Process = WarmProcess


def context(method):
    """In the place of ``multiprocessing.get_context("spawn")``."""
    assert method == "spawn"
    warm = WarmContext()
    warm.set_forkserver_preload([*IMPORTED])
    return warm
