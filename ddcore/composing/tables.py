"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ddcore.composing.verdict import verdicts
from ddcore.storage.printing import printable_line

if TYPE_CHECKING:
    from ddcore.api.types import Row


TEST = "test"
"""What rows of the data's own test set are on, where others stand beside them."""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; those whose cells all look like numbers are set right.

    >>> print(table(["set", "n"], [["random", "10"], ["full", "9"]]))
    set      n
    random  10
    full     9
    """
    rows = [[printable_line(cell) for cell in row] for row in rows]
    columns = list(zip(headings, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    right = [bool(rows) and all(cell[:1].isdigit() or cell in ("", "-") for cell in column[1:]) for column in columns]
    lines = []
    for line in (headings, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def row_json(row: Row) -> dict[str, Any]:
    """A row as ``scores.json`` has it: mean and population-free std (n - 1; 0 for one value) beside every value.

    They stand under ``accuracy``, whatever was measured; ``metric`` is named where it is another, and ``better``
    where it is ``smaller``.
    """
    import torch  # not where only --help is asked for

    values = torch.tensor(row.values, dtype=torch.float64)
    std = float(values.std()) if len(values) > 1 else 0.0
    accuracy = {"mean": float(values.mean()), "std": std, "values": list(row.values)}
    known = {k: getattr(row, k) for k in ("set", "protocol", "network", "labels", "ipc", "steps", "seconds", "note")}
    other = {} if row.metric == "accuracy" else {"metric": row.metric}
    other |= {} if row.better == "larger" else {"better": row.better}
    return {**known, "bytes": dict(row.bytes), "accuracy": accuracy, **other, **row.extra}


def scores_table(rows: Sequence[Row]) -> str:
    """What a run says at its end: one line a row, in the order measured, what its sets beat and what not, of which
    images if not of the test set, and notes.

    Where rows measure different things a column says what, and where they are of different images, of which.
    """
    metrics = list(dict.fromkeys(row.metric for row in rows)) or ["accuracy"]
    several = len(metrics) > 1
    score = "score" if several else metrics[0]
    places = list(dict.fromkeys(row.extra.get("on") for row in rows))
    apart = len(places) > 1
    headings = ["set", "labels", "ipc", "bytes", "network", "protocol", score, "seeds", "steps", "seconds"]
    cells = []
    for row in rows:
        accuracy = row_json(row)["accuracy"]
        cells.append(
            [
                row.set,
                row.labels,
                f"{row.ipc:g}",
                f"{row.bytes['total']:,}",
                row.network,
                row.protocol,
                f"{accuracy['mean']:.3f} ± {accuracy['std']:.3f}",
                str(len(row.values)),
                str(row.steps),
                f"{row.seconds:.1f}",
                *([row.metric] if several else []),
                *([str(row.extra.get("on") or TEST)] if apart else []),
            ]
        )
    notes = [f"{row.set} ({row.labels}): {row.note}" for row in rows if row.note]
    where = [] if apart else [f"scored on {on}, not on the test set" for on in places if on]
    students = dict.fromkeys(str(row.extra["student"]) for row in rows if row.extra.get("student"))
    where += [
        f"students shaped by {name}: {', '.join(dict.fromkeys(r.set for r in rows if r.extra.get('student') == name))}"
        for name in students
    ]
    shown = table([*headings, *(["of"] if several else []), *(["on"] if apart else [])], cells)
    return "\n".join([shown, *dict.fromkeys([*verdicts([row_json(row) for row in rows]), *where, *notes])])
