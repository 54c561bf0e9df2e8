"""Graphs for ddcore: what every method that distils graphs needs and no method owns.

Data (molecules as SMILES, the text files of the TU collection, computed rings), message-passing networks, their
training, rows of ROC-AUC or accuracy, sets of graphs as tensors, pictures. A method names the pack,
``packs = ("graphs",)``, and imports from its modules: ``graphs`` the value that passes through everything, ``packing``
sets on disk, ``rows`` the scores, ``preview`` pictures. ``probe`` is the smallest such method, and what the contract
kit tries plugins on graphs with.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import frozen
from attrs.validators import ge, gt, lt, optional
from torch import Generator, nn

from ddcore import Plugin, hookimpl, option
from ddcore_graphs.sources import GRAPHS, PYG, RINGS, SMILES, TU

if TYPE_CHECKING:
    from ddcore.data import Source
    from ddcore.storage import Place

OPERATION = "graphs"
NETWORKS = ("gin", "gcn", "gat", "sage")


@frozen(kw_only=True, eq=False)
class GraphPack(Plugin):
    """Read graphs, build and train networks on them, decode sets of them."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "graphs from SMILES and TU files; GIN, GCN, GAT and GraphSAGE students; what graph methods share"
    )
    paper: ClassVar[str] = "How Powerful are Graph Neural Networks?, ICLR 2019, arXiv:1810.00826"
    role: ClassVar[str] = "data"
    modality: ClassVar[frozenset[str]] = frozenset({GRAPHS})
    datasets: ClassVar[tuple[str, ...]] = (RINGS, SMILES, TU, PYG)
    networks: ClassVar[tuple[str, ...]] = NETWORKS
    tiny: ClassVar[Mapping[str, object]] = {"layers": 1, "width": 4, "student_steps": 2, "batch": 4}
    probe_file: ClassVar[str | None] = "probe.py"

    label_column: str = option("", help="column of the label in a CSV file of SMILES; needed if there are several")
    layers: int = option(3, help="message-passing layers of students", symbol="L", unit="layers", validator=ge(1))
    width: int = option(128, help="width of students", unit="features", validator=ge(1))
    dropout: float = option(0.1, help="dropout of students after each layer", validator=[ge(0), lt(1)])
    pool: Literal["sum", "mean"] = option("sum", help="how students pool nodes, or those marked as roots")
    jump: Literal["last", "sum"] = option(
        "last", help="jumping knowledge of students: the last layer, or the sum of all"
    )
    norm: Literal["batch", "none"] = option("batch", help="norm of students after each layer, and within GIN's")
    raw: bool = option(
        False,
        help="students of raw features: no linear map before the layers, GIN's messages ReLU(W [x, B e]), GAT without "
        "bonds, dropout of the pooled embedding too",
    )
    student_steps: int = option(
        500, help="steps of students; on all real graphs at least --full-epochs of them", unit="steps", validator=ge(1)
    )
    full_steps: int | None = option(
        None,
        help="steps of students on all real graphs, where --full-epochs of them take too long",
        unit="steps",
        validator=optional(ge(1)),
    )
    batch: int = option(32, help="samples of a student's step", unit="samples", validator=ge(1))
    rate: float = option(1e-3, help="learning rate of students (Adam)", validator=gt(0))
    weight_decay: float = option(1e-2, help="weight decay of students (Adam's L2 term)", validator=ge(0))
    metric: Literal["roc-auc", "accuracy"] = option("roc-auc", help="what rows score students by")

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> "Source | None":
        """``rings`` (computed), ``smiles:FILE.csv``, ``tu:FOLDER`` and ``pyg:NAME``."""
        from ddcore_graphs.sources import options_of, read

        return read(options_of(name, rest, options), self.label_column) if name in self.datasets else None

    def recognises(self, place: "Place") -> str | None:
        """``tu`` where ``NAME_A.txt`` and its companions lie, ``smiles`` for a table with a column of that name."""
        from ddcore_graphs.sources import recognised

        return recognised(place)

    @hookimpl
    def ddcore_network(
        self, name: str, channels: int, size: int, classes: int, generator: Generator
    ) -> nn.Module | None:
        """GIN, GCN, GAT and GraphSAGE; ``channels`` are features of a node, ``size`` those of an edge."""
        if name not in NETWORKS:
            return None
        from ddcore_graphs.students import Form, Student

        shape = {
            "layers": self.layers,
            "width": self.width,
            "dropout": self.dropout,
            "form": Form(self.pool, self.jump, self.norm, self.raw),
        }
        return Student(name, features=channels, edge_features=size, classes=classes, **shape)  # type: ignore[arg-type]
