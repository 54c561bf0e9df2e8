"""DisWOT: choose a student for a teacher without training either (CVPR 2023, arXiv:2303.15678).

The plugin brings the networks of the search space, ``diswot-resnet:5-5-7``; the search is a command of its own,

    python -m ddcore_diswot rank|search --data DATA --teacher NETWORK

which prints what to give to ``ddcore train --student``. The score is in ``scoring``, the networks in ``space``, the
evolution in ``search``.
"""

from typing import ClassVar

from attrs import frozen
from torch import Generator, nn

from ddcore import Plugin, hookimpl
from ddcore_diswot.space import ResNet


@frozen(kw_only=True, eq=False)
class DisWOT(Plugin):
    """ResNets of three stages of any depths and widths, as students."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "students whose architecture was chosen for a teacher without training: diswot-resnet:5-5-7"
    )
    paper: ClassVar[str] = (
        "DisWOT: Student Architecture Search for Distillation WithOut Training, CVPR 2023, arXiv:2303.15678"
    )
    role: ClassVar[str] = "student"
    networks: ClassVar[tuple[str, ...]] = (
        "diswot-resnet:1-1-1:8-8-8",
        "diswot-resnet:5-5-7",
        "diswot-resnet:1-2-2:8-16-64",
    )

    @hookimpl
    def ddcore_network(self, name: str, channels: int, classes: int, generator: Generator) -> nn.Module | None:
        """A ResNet by its depths and widths."""
        point = ResNet.named(name)
        return None if point is None else point.built(channels, classes, generator)
