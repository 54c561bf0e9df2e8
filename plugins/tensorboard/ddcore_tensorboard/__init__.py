"""A run's numbers as TensorBoard shows them: every line of its log, as it is written.

TensorBoard is described in section 9.1 of TensorFlow's white paper (Abadi et al., 2016, arXiv:1603.04467).
"""

import atexit
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from attrs import frozen

from ddcore import InputError, Plugin, hookimpl, option
from ddcore.pages import numbers

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ddcore import Run

SECONDS_BETWEEN_WRITES = 5
_open: dict[str, "SummaryWriter"] = {}


@frozen(kw_only=True, eq=False)
class TensorBoard(Plugin):
    """Write events for TensorBoard."""

    role: ClassVar[str] = "tracker"
    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "shows losses and scores in TensorBoard"
    paper: ClassVar[str] = "TensorFlow: Large-Scale Machine Learning on Heterogeneous Systems, 2016, arXiv:1603.04467"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "text", "graphs", "features", "dense"})

    folder: str | None = option(None, help="where events are written; none: tensorboard/ in the run's folder")

    @hookimpl
    def ddcore_log(self, event: str, fields: Mapping[str, Any], run: "Run") -> None:
        """A point a number."""
        folder = self.folder or _beside(run)
        if event == "done":
            close(folder)
            return
        for number in numbers(event, fields):
            writer_of(folder).add_scalar(number.name, number.value, number.step)


def writer_of(folder: str) -> "SummaryWriter":
    """The writer of a folder, one in each process."""
    if folder not in _open:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError("TensorBoard is not installed: pip install 'ddcore-tensorboard[tensorboard]'") from error
        _open[folder] = SummaryWriter(folder, flush_secs=SECONDS_BETWEEN_WRITES)
    return _open[folder]


def close(folder: str) -> None:
    """Write what waits and forget the writer."""
    if folder in _open:
        _open.pop(folder).close()


def _beside(run: "Run") -> str:
    local = run.place.local_path()
    if local is None:
        raise InputError(f"{run.place.url} is no folder of this machine: give --tensorboard.folder")
    return str(local / "tensorboard")


@atexit.register
def _close_all() -> None:
    for folder in list(_open):
        close(folder)
