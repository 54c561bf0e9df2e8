"""Frozen body: students take weights from a file, and learn their last linear layer only.

A plugin that **changes what a student is** (``ddcore_adapt_student``) and says so: by ``student_identity`` every row, column,
kept result and recipe tells these students from networks that were trained whole, and from those on another file.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from attrs import frozen
from torch import nn

from ddcore import InputError, Plugin, hookimpl, option
from ddcore.storage import Place, read_state, sha256_of
from ddcore.training import last_linear

if TYPE_CHECKING:
    from ddcore import Run


@frozen(kw_only=True, eq=False)
class FrozenBody(Plugin):
    """Train a last layer on given weights."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "students learn a last layer, on a body whose weights are given and stay"
    paper: ClassVar[str] = "none: an example of ddcore"
    role: ClassVar[str] = "student"

    weights: str = option("", help="file of the student's state dict; empty: the body stays as it is initialised")

    def student_identity(self, run: "Run") -> Mapping[str, object]:
        """The file's digest in the place of its path."""
        digest = sha256_of(Place.at(self.weights).read_bytes()) if self.weights else ""
        return {"body": digest, "trained": "the last layer"}

    @hookimpl
    def ddcore_adapt_student(self, network: nn.Module) -> nn.Module:
        """The student with its body filled and frozen."""
        last = last_linear(network)
        if self.weights:
            state = {n: t for n, t in read_state(Place.at(self.weights)).items() if not n.startswith(f"{last}.")}
            lacking = [n for n in network.state_dict() if n not in state and not n.startswith(f"{last}.")]
            if lacking:
                raise InputError(f"--frozen-body.weights lacks {lacking[0]!r}: give a file of such a student")
            network.load_state_dict(state, strict=False)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(f"{last}."))
        return network
