"""Tables for ddcore: rows of numbers and categories with a class each, from CSV, TSV and Parquet files.

What the train rows say turns columns into numbers that gradients reach (``encoding``), and such rows back into a table;
a multi-layer perceptron learns from them, and scikit-learn's trees and nearest neighbours stand beside it as students
that no gradient trains (``students``). Methods that work on dense data distil them; the pack has no method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from attrs import frozen
from attrs.validators import ge
from torch import Generator, Tensor, nn

from ddcore import Answers, Arm, InputError, Plugin, Row, StudentData, Subject, hookimpl, option
from ddcore_tabular.protocols import PROTOCOLS, TABULAR

if TYPE_CHECKING:
    from ddcore import Run
    from ddcore.data import Source
    from ddcore.storage import Place
    from ddcore_tabular.sources import Reading, TableSource

TABLE, KMEANS = "table", "k-means"
BUILTIN = ("breast-cancer", "wine", "iris", "applicants")


@frozen(kw_only=True, eq=False)
class Tabular(Plugin):
    """Read tables, build networks for their rows, score trees and nearest neighbours beside them."""

    api: ClassVar[str] = "2.1"
    summary: ClassVar[str] = "tables from CSV, TSV and Parquet; an MLP, scikit-learn's trees and nearest neighbours"
    paper: ClassVar[str] = "Revisiting Deep Learning Models for Tabular Data, NeurIPS 2021, arXiv:2106.11959"
    role: ClassVar[str] = "data"
    modality: ClassVar[frozenset[str]] = frozenset({TABLE, "dense"})
    datasets: ClassVar[tuple[str, ...]] = (*BUILTIN, TABLE)
    networks: ClassVar[tuple[str, ...]] = ("tab-mlp", "tab-mlp-d3-w256")
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    student_sets: ClassVar[tuple[str, ...]] = (KMEANS,)
    metrics: ClassVar[Mapping[str, str]] = {"balanced_accuracy": "larger", "auc": "larger"}
    tiny: ClassVar[Mapping[str, object]] = {"fitted": "decision-tree"}

    label: str = option("", help="column of the label; none: the one called label, class, target or y")
    test: str = option("", help="a second file, of test rows, beside the train rows of table:FILE")
    drop: str = option("", help="columns to leave out, with commas between them")
    categorical: str = option("", help="columns of numbers that are categories, with commas between them")
    scale: Literal["standard", "quantile"] = option(
        "standard", help="numbers less their mean over their deviation, or the normal quantiles of their ranks"
    )
    most_categories: int = option(
        64, help="places for the categories of a column; the rarer ones of more count as one", validator=ge(2)
    )
    fitted: str = option(
        "decision-tree,random-forest,gradient-boosting,nearest-neighbours",
        help="students of scikit-learn that have rows too, with commas between them; empty: none",
    )

    def __attrs_post_init__(self) -> None:
        from ddcore_tabular.students import STUDENTS

        for name in words_of(self.fitted):
            if name not in STUDENTS:
                raise InputError(f"--tabular.fitted {name!r} is none of {', '.join(STUDENTS)}: choose among them")

    def suggests_protocol(self, subject: Subject) -> str | None:
        """``tabular`` for rows of tables with hard or soft labels."""
        return TABULAR.name if subject.modality == TABLE else None

    def recognises(self, place: Place) -> str | None:
        """``table`` for a CSV or TSV file, or a folder of them, with a column that is called like a label."""
        from ddcore_tabular.sources import recognised

        return recognised(place)

    @property
    def reading(self) -> Reading:
        """What the options say about tables."""
        from ddcore_tabular.sources import Reading

        return Reading(
            label=self.label,
            test=self.test,
            categories=words_of(self.categorical),
            drop=words_of(self.drop),
            scale=self.scale,
            most=self.most_categories,
        )

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> Source | None:
        """``table:PATH``, ``table:NAME`` and NAME of a built-in table."""
        if name not in self.datasets:
            return None
        from ddcore.data import Wanted
        from ddcore_tabular.sources import read

        if name != TABLE and rest:
            raise InputError(
                f"--dataset {name}:{rest}: {name} is a built-in table and takes no path: give table:{rest}"
            )
        wanted = Wanted(
            TABLE,
            rest or (name if name != TABLE else ""),
            options.get("data_root"),
            options.get("split"),
            skip_broken=bool(options.get("skip_broken")),
        )
        return read(wanted, self.reading)

    @hookimpl
    def ddcore_network(
        self, name: str, channels: int, size: int, classes: int, generator: Generator, shape: tuple[int, ...]
    ) -> nn.Module | None:
        """``tab-mlp``, and ``tab-mlp-dN-wW`` of N layers of width W."""
        from ddcore_tabular.networks import network

        return network(name, shape, classes)

    @hookimpl
    def ddcore_protocol(self, name: str) -> Any | None:
        """``tabular``."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_student_data(self, name: str, student: int, run: Run) -> StudentData | None:
        """``k-means``: as many centres of the real rows of each class as the set has rows, at their own price."""
        if name != KMEANS:
            return None
        from ddcore_tabular.students import as_data, set_of

        return as_data(run, set_of(run, KMEANS, student))

    @hookimpl
    def ddcore_examine(
        self, network: nn.Module, arm: Arm, student: int, data: StudentData, answers: Answers, run: Run
    ) -> dict[str, Tensor]:
        """Balanced accuracy and AUC on the test rows."""
        from ddcore_tabular.scores import area, balanced_accuracy

        assert answers.logits is not None
        found = {
            "balanced_accuracy": balanced_accuracy(answers.classes, answers.labels),
            "auc": area(answers.logits.double().softmax(1), answers.labels),
        }
        return {n: torch.tensor(value, dtype=torch.float64) for n, value in found.items() if value == value}

    @hookimpl
    def ddcore_evaluate(self, run: Run) -> list[Row]:
        """A row for each student of scikit-learn and each set; the set as a table in ``tabular/`` of the run."""
        from ddcore_tabular.students import rows_of

        if run.artifact is None or run.source.modality != TABLE:
            return []
        write_table(run)
        return rows_of(run, words_of(self.fitted))

    def preview(self, samples: Tensor, classes: Tensor, run: Run) -> bytes:
        """The first rows of each class, as a table."""
        from ddcore_tabular.tables import preview_png

        source: TableSource = run.source  # type: ignore[assignment]
        return preview_png(source.encoding, samples, classes, run.real.classes, source.label)


def write_table(run: Run) -> None:
    """The finished set as ``tabular/table.csv`` of the run, and ``tabular/encoding.json``, which decodes its rows."""
    from ddcore_tabular.tables import csv_text

    source: TableSource = run.source  # type: ignore[assignment]
    made = run.artifact
    assert made is not None
    rows = run.normalisation.inverse(made.images().float())
    folder = run.place / "tabular"
    (folder / "encoding.json").write_json({**source.encoding.as_json(), "label": source.label})
    text = csv_text(source.encoding, rows, made.labels.classes.cpu(), run.real.classes, source.label)
    (folder / "table.csv").write_bytes(text.encode())


def words_of(names: str) -> tuple[str, ...]:
    """Names with commas between them.

    >>> words_of("a, b,"), words_of("")
    (('a', 'b'), ())
    """
    return tuple(name.strip() for name in names.split(",") if name.strip())
