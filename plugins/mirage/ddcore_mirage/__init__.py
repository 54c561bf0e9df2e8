"""Mirage (Gupta et al., ICLR 2024, arXiv:2310.09486): distil graphs without training anything.

Data, students and rows are those of the modality pack ``ddcore-graphs``.

A message-passing network of L layers sees a graph as the multiset of its nodes' computation trees of L hops. Few trees
make up most of a data set, and they occur together; so the distilled set is, class by class, every set P of trees with

    support(P) = #{ graphs of the class whose trees contain P } >= theta

and a network trains on such sets, drawn in proportion to their support, by pooling the trees' roots only.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from attrs import frozen
from attrs.validators import deep_iterable, ge, gt, min_len, optional
from ddcore_graphs.sources import GRAPHS
from torch import Tensor

from ddcore import InputError, Learn, Plugin, Row, Synthetic, Task, hookimpl, option

if TYPE_CHECKING:
    from ddcore_graphs.choosing import Regime

    from ddcore import Run

FOREST = "mirage-forest"
MOVED = (
    "label_column",
    "layers",
    "width",
    "dropout",
    "pool",
    "jump",
    "student_steps",
    "full_steps",
    "batch",
    "rate",
    "weight_decay",
)
"""Options that were Mirage's and are the pack's now."""


@frozen(kw_only=True, eq=False)
class Mirage(Plugin):
    """Mine the frequent sets of computation trees of each class."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = (
        "mine frequent sets of computation trees of graphs; no training, any message-passing network"
    )
    paper: ClassVar[str] = (
        "Mirage: Model-Agnostic Graph Distillation for Graph Classification, ICLR 2024, arXiv:2310.09486"
    )
    role: ClassVar[str] = "matcher"
    modality: ClassVar[frozenset[str]] = frozenset({GRAPHS})
    steps: ClassVar[int | None] = 0
    packs: ClassVar[tuple[str, ...]] = ("graphs",)
    students: ClassVar[tuple[str, ...]] = ("gin", "gcn", "gat")
    moved: ClassVar[Mapping[str, str]] = {name: f"graphs.{name}" for name in MOVED}
    tiny: ClassVar[Mapping[str, object]] = {"hops": 1}
    presets: ClassVar[str | None] = "presets.toml"
    cells: ClassVar[str | None] = "cells.toml"

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
    sampling: Literal["support", "even", "each"] = option(
        "support", help="how students draw sets: by support (the paper), all alike, or each once an epoch (its code)"
    )
    epochs: int | None = option(
        None,
        help="epochs of students on the sets, in place of --graphs.student-steps",
        unit="epochs",
        validator=optional(ge(1)),
    )
    select: Literal["last", "validation"] = option(
        "last", help="the students that are scored: after the last step, or after the epoch best on the validation part"
    )
    average: Literal["all", "best-five-of-ten"] = option(
        "all", help="the students that rows are of: all, or those five of ten that are best on the validation part"
    )

    @hookimpl
    def ddcore_tasks(self, run: "Run") -> list[Task]:
        """A class each."""
        self.threshold_of(0, run.source.classes)
        self.regime().check(run.source, run.config.eval_seeds, "--mirage")
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
    def ddcore_evaluate(self, run: "Run") -> list[Row]:
        """ROC-AUC of students on the sets of trees, on random graphs of as many bytes, and on all graphs."""
        from ddcore_graphs.packing import elements
        from ddcore_graphs.rows import rows

        from ddcore_mirage.distilled import samples

        assert run.packed is not None
        distilled = samples(run.packed, self.sampling)
        sets, numbers = len(distilled.classes), elements(distilled.graphs)
        described = f"{sets} sets of trees, {numbers:,} numbers written out"
        return rows(run, distilled, described=described, regime=self.regime())

    def regime(self) -> "Regime":
        """How students are trained and judged."""
        from ddcore_graphs.choosing import Regime

        return Regime(self.sampling == "each", self.epochs, self.select, self.average)

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
