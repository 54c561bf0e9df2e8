"""Time series for ddcore: rows (C, L) of C channels and L values, from the files of the UCR and UEA archives.

Readers, networks in one dimension, a protocol and pictures. Series are dense: methods that work on rows of one shape
work on them, and labels, honest rows, ``evaluate``, ``train`` and ``compare`` are the core's.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import frozen
from attrs.validators import ge, optional
from torch import Generator, nn

from ddcore import Plugin, Subject, hookimpl, option

if TYPE_CHECKING:
    from ddcore.data import Source
    from ddcore.storage import Place
    from ddcore.training import Protocol

SERIES = "series"


@frozen(kw_only=True, eq=False)
class Series(Plugin):
    """Reads series and builds networks for them."""

    api: ClassVar[str] = "2.1"
    summary: ClassVar[str] = (
        "time series of UCR and UEA files (ts:PATH, aeon:NAME); ConvNet, ResNet and InceptionTime in 1-D"
    )
    paper: ClassVar[str] = "Time Series Classification from Scratch with Deep Neural Networks, arXiv:1611.06455"
    role: ClassVar[str] = "data"
    modality: ClassVar[frozenset[str]] = frozenset({SERIES, "dense"})
    datasets: ClassVar[tuple[str, ...]] = ("waves", "ts", "aeon")
    networks: ClassVar[tuple[str, ...]] = (
        *("convnet1d", "convnet1d3-w64", "resnet1d", "fcn1d", "inception-time", "inception-time3-w16"),
    )
    protocols: ClassVar[tuple[str, ...]] = ("series",)

    lengths: Literal["pad", "cut", "resample"] = option(
        "pad", help="what makes series of unequal length equal: their last value repeated, their end cut, or resampling"
    )
    length: int | None = option(
        None,
        help="length that all series are brought to; default: the longest train series', with cut the shortest's",
        symbol="L",
        unit="values",
        validator=optional(ge(2)),
    )
    z_normalise: bool = option(False, help="bring each channel of each series to mean 0 and deviation 1")

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> "Source | None":
        """``ts:PATH``: a folder, prefix or file; ``aeon:NAME``: a set inside the package aeon; ``waves``: computed."""
        if name not in self.datasets:
            return None
        if name == "waves":
            from ddcore_series.waves import waves

            return waves()
        from ddcore.data import Wanted
        from ddcore_series.sources import Shape, read

        wanted = Wanted(name, rest, options.get("data_root"), options.get("split"))
        return read(wanted, Shape(self.lengths, self.length, self.z_normalise))

    def recognises(self, place: "Place") -> str | None:
        """``ts`` for a ``.ts`` file with a header, and for a folder with ``NAME_TRAIN`` files of series."""
        from ddcore_series.sources import recognised

        return recognised(place)

    def preview(self, samples: Any, classes: Any, run: Any) -> bytes:
        """Small line plots, a row for each class."""
        from ddcore_series.preview import preview_png

        title = f"{run.source.name}: {len(samples)} series"
        return preview_png(samples, classes, run.source.classes, title) if samples.ndim == 3 else b""

    def suggests_protocol(self, subject: Subject) -> str | None:
        """``series`` for series whose rate was not learned."""
        return SERIES if subject.modality == SERIES and not subject.learned_rate else None

    @hookimpl
    def ddcore_protocol(self, name: str) -> "Protocol | None":
        """``series``."""
        from ddcore_series.protocols import PROTOCOLS

        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_network(
        self, name: str, channels: int, size: int, classes: int, generator: Generator, shape: tuple[int, ...]
    ) -> nn.Module | None:
        """``convnet1d``, ``resnet1d``, ``fcn1d`` and ``inception-time``; see ``ddcore_series.networks``."""
        from ddcore_series.networks import build

        return build(name, shape, classes)
