"""Mirage (Gupta et al., ICLR 2024, arXiv:2310.09486): distil graphs without training anything.

A message-passing network of L layers sees a graph as the multiset of its nodes' computation trees of L hops. Few trees make up
most of a data set, and they occur together; so the distilled set is, class by class, every set P of trees with

    support(P) = #{ graphs of the class whose trees contain P } >= theta

and a network trains on such sets, drawn in proportion to their support, by pooling the trees' roots only.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import frozen
from attrs.validators import deep_iterable, ge, gt, lt, min_len, optional
from torch import Generator, Tensor, nn

from ddcore import InputError, Learn, Plugin, Row, Synthetic, Task, hookimpl, option
from ddcore_mirage.sources import GRAPHS, PYG, RINGS, SMILES, TU

if TYPE_CHECKING:
    from ddcore import Run
    from ddcore.data import Source
    from ddcore.sets import Operation

FOREST = "mirage-forest"
NETWORKS = ("gin", "gcn", "gat")


@frozen(kw_only=True, eq=False)
class Mirage(Plugin):
    """Mine the frequent sets of computation trees of each class."""

    summary: ClassVar[str] = (
        "mine frequent sets of computation trees of graphs; no training, any message-passing network"
    )
    paper: ClassVar[str] = (
        "Mirage: Model-Agnostic Graph Distillation for Graph Classification, ICLR 2024, arXiv:2310.09486"
    )
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({GRAPHS})
    steps: ClassVar[int | None] = 0
    datasets: ClassVar[tuple[str, ...]] = (RINGS, SMILES, TU, PYG)
    networks: ClassVar[tuple[str, ...]] = NETWORKS
    tiny: ClassVar[Mapping[str, object]] = {"hops": 1, "layers": 1, "width": 4, "student_steps": 2, "batch": 4}
    presets: ClassVar[str | None] = "presets.toml"

    hops: int = option(
        3,
        help="depth of the computation trees; exact for students of at most as many layers",
        symbol="H",
        unit="hops",
        validator=ge(0),
    )
    threshold: tuple[float, ...] = option(
        (0.2,),
        help="least support of a set of trees: below 1 a share of the class, else graphs; one for all classes or one for each",
        symbol="theta",
        unit="graphs",
        validator=[min_len(1), deep_iterable(gt(0))],
    )
    most: int = option(1000, help="sets of a class at which mining stops with a message", unit="sets", validator=ge(1))
    degrees: bool = option(True, help="store the degrees of the graph's nodes, which GCN needs on trees")
    label_column: str = option("", help="column of the label in a CSV file of SMILES; needed if there are several")
    sampling: Literal["support", "even"] = option(
        "support", help="how students draw sets: by support (the paper), or all alike (its code)"
    )
    layers: int = option(3, help="message-passing layers of students", symbol="L", unit="layers", validator=ge(1))
    width: int = option(128, help="width of students", unit="features", validator=ge(1))
    dropout: float = option(0.1, help="dropout of students after each layer", validator=[ge(0), lt(1)])
    pool: Literal["sum", "mean"] = option("sum", help="how students pool nodes, on trees the roots")
    jump: Literal["last", "sum"] = option(
        "last", help="jumping knowledge of students: the last layer, or the sum of all"
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

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> "Source | None":
        """``rings`` (computed), ``smiles:FILE.csv``, ``tu:FOLDER`` and ``pyg:NAME``."""
        from ddcore_mirage.sources import options_of, read

        return read(options_of(name, rest, options), self.label_column) if name in self.datasets else None

    @hookimpl
    def ddcore_network(
        self, name: str, channels: int, size: int, classes: int, generator: Generator
    ) -> nn.Module | None:
        """GIN, GCN and GAT; ``channels`` are features of a node, ``size`` those of an edge."""
        if name not in NETWORKS:
            return None
        from ddcore_mirage.students import Student

        shape = {
            "layers": self.layers,
            "width": self.width,
            "dropout": self.dropout,
            "pool": self.pool,
            "jump": self.jump,
        }
        return Student(name, features=channels, edge_features=size, classes=classes, **shape)  # type: ignore[arg-type]

    @hookimpl
    def ddcore_tasks(self, run: "Run") -> list[Task]:
        """A class each."""
        self.threshold_of(0, run.source.classes)
        return [
            Task("distil", f"mine-{cls:03d}", 0, index=cls, options={"class": cls})
            for cls in range(len(run.source.classes))
        ]

    @hookimpl
    def ddcore_learn(self, task: Task, run: "Run") -> Learn:
        """The frequent sets of trees of the task's class."""
        from ddcore_mirage.distilled import mined_tensors

        cls, source = int(task.options["class"]), run.source
        graphs = source.train.stored.select((source.train.labels == cls).nonzero()[:, 0])  # type: ignore[attr-defined]
        how = {
            "hops": self.hops,
            "threshold": self.threshold_of(cls, source.classes),
            "most": self.most,
            "degrees": self.degrees,
        }
        tensors, warning = mined_tensors(graphs, cls, source.classes[cls], **how)
        if warning:
            run.warn(warning)
        return Learn(tensors, {}, decoder=[{"op": FOREST, "distribution": "ddcore-mirage"}])

    @hookimpl
    def ddcore_assemble(self, tasks: Sequence[Task], results: Sequence[Mapping[str, Tensor]], run: "Run") -> Synthetic:
        """All classes' sets, and a picture of the most frequent trees."""
        from ddcore_mirage.distilled import lowered, merged
        from ddcore_mirage.forest import unpack
        from ddcore_mirage.preview import preview_png

        tensors, names = merged(results), run.source.classes
        said = [lowered(result, names[task.index]) for task, result in zip(tasks, results, strict=True)]
        return Synthetic(
            tensors,
            {},
            [{"op": FOREST, "distribution": "ddcore-mirage"}],
            tensors["set_class"].long(),
            preview=preview_png(unpack(tensors), names, f"{run.source.name}: most frequent trees of {self.hops} hops"),
            notes=tuple(filter(None, said)),
        )

    @hookimpl
    def ddcore_decoder(self, name: str) -> "Operation | None":
        """``mirage-forest``: sets of trees as graphs with marked roots."""
        from ddcore_mirage.distilled import Forest

        return Forest() if name == FOREST else None

    @hookimpl
    def ddcore_evaluate(self, run: "Run") -> list[Row]:
        """ROC-AUC of students on the sets of trees, on random graphs of as many bytes, and on all graphs."""
        from ddcore_mirage.rows import rows

        return rows(self, run)

    def threshold_of(self, cls: int, classes: Sequence[str]) -> float:
        """The threshold of a class.

        Raises:
            InputError: neither one nor as many as there are classes.
        """
        if len(self.threshold) not in (1, len(classes)):
            raise InputError(
                f"--mirage.threshold gives {len(self.threshold)} values for {len(classes)} classes: give one, or one for each"
            )
        return self.threshold[cls if len(self.threshold) > 1 else 0]
