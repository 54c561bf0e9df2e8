"""A search over pipelines (AutoDistiller, arXiv:2109.11105): some are tried, all are ranked by what a regression
predicts.

    python -m ddcore_mi_alpha.search --data DATA --student NETWORK --teacher FILE --tries 8 [options of ddcore train]

What is predicted is a student's accuracy over its teacher's, from the pipeline's choices and the task's size; finished
tries of other tasks (``--known FILE``) help. Tries are runs of ``ddcore train``; those that are in ``--out`` already
are not made again.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import attrs
import click
import torch
from attrs import frozen
from torch import Tensor

from ddcore import DdcoreError, InputError, invoke
from ddcore.errors import Interrupted
from ddcore.storage import Place, canonical, sha256_of

Choices = Mapping[str, str]
"""Option of mi-alpha, as on a command line, to its value."""
GRID: Mapping[str, tuple[str, ...]] = {
    "intermediate": ("mi", "mse", "cos", "ce", "pkd"),
    "alpha": ("0.1", "0.5", "0.9"),
    "layers": ("skip", "last", "emd"),
    "logits": ("ce", "mse"),
    "label-weight": ("0", "1"),
}


@frozen
class Task:
    """What is known of a task beforehand.

    Attributes:
        examples: rows that students are trained on.
        classes: how many there are.
    """

    examples: int
    classes: int


@frozen
class Finished:
    """A pipeline that was tried.

    Attributes:
        ratio: the student's accuracy over its teachers' mean.
    """

    choices: Choices
    task: Task
    ratio: float

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Finished":
        """From what ``attrs.asdict`` wrote."""
        return cls(written["choices"], Task(**written["task"]), written["ratio"])


def candidates(grid: Mapping[str, Sequence[str]] = GRID) -> list[Choices]:
    """Every pipeline of a grid, each once; alpha is there where the loss in between is mi.

    >>> len(candidates())
    84
    """
    found: list[Choices] = []
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        if chosen.get("intermediate", "mi") != "mi":
            chosen.pop("alpha", None)
        if chosen not in found:
            found.append(chosen)
    return found


def encoded(choices: Choices, task: Task, grid: Mapping[str, Sequence[str]] = GRID) -> Tensor:
    """A pipeline for a task as numbers (d,), float64: a 1 for each value that was chosen, else 0;
    log10 of examples and of classes."""
    chosen = [float(choices.get(name) == value) for name, values in grid.items() for value in values]
    sizes = torch.tensor([task.examples, task.classes], dtype=torch.float64).log10()
    return torch.cat([torch.tensor(chosen, dtype=torch.float64), sizes])


def ridge(rows: Tensor, values: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights w (d,) and intercept b () that minimise sum (rows w + b - values)^2 + penalty ||w||^2.

    Args:
        rows: (n, d) float64, n >= 1; values: (n,); penalty: > 0.
    """
    middle, mean = rows.mean(0), values.mean()
    centred = rows - middle
    curvature = centred.T @ centred + penalty * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.linalg.solve(curvature, centred.T @ (values - mean))
    return weights, mean - middle @ weights


def ranked(
    finished: Sequence[Finished], task: Task, grid: Mapping[str, Sequence[str]] = GRID, penalty: float = 1.0
) -> list[tuple[float, Choices]]:
    """Predicted ratios of all pipelines of a grid for a task, best first; of equal ones as the grid has them.

    Args:
        finished: what is learned from, of this task and of others; at least one.
    """
    rows = torch.stack([encoded(one.choices, one.task, grid) for one in finished])
    ratios = torch.tensor([one.ratio for one in finished], dtype=torch.float64)
    weights, intercept = ridge(rows, ratios, penalty)
    every = [(float(encoded(choices, task, grid) @ weights + intercept), choices) for choices in candidates(grid)]
    return sorted(every, key=lambda pair: -pair[0])


def read(file: str) -> list[Finished]:
    """What a search wrote.

    Raises:
        InputError: it is no such file.
    """
    try:
        return [Finished.from_json(one) for one in Place.at(file).read_json()]
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} holds no tries: name the tries.json of a search") from error


def words_of(choices: Choices) -> list[str]:
    """A pipeline on a command line.

    >>> words_of({"alpha": "0.5"})
    ['--mi-alpha.alpha=0.5']
    """
    return [f"--mi-alpha.{name}={value}" for name, value in choices.items()]


def tried(choices: Choices, words: Sequence[str], folder: Place) -> Finished:
    """Train a student by a pipeline, or read what came of it before.

    Args:
        words: further words of ``ddcore train``.
        folder: where tries are; each has a folder in it, named after what shaped it.

    Raises:
        InputError: the run failed; Interrupted: it was stopped.
    """
    place = folder / f"try-{sha256_of(canonical([list(words), dict(choices)]))[:12]}"
    if not (place / "scores.json").exists():
        begun = (place / "run.json").exists()
        fresh = ["train", *words, "--plugin=mi-alpha", "--no-plain", f"--out={place.address}", *words_of(choices)]
        if code := invoke(["resume", place.address] if begun else fresh):
            kind = Interrupted if code == 3 else InputError
            raise kind(f"the try in {place.url} ended with exit code {code}: mend what it says above, and search again")
    scores = (place / "scores.json").read_json()
    of = {name: [row for row in scores["rows"] if row["set"] == name] for name in ("teacher", "student")}
    teachers = [row["accuracy"]["mean"] for row in of["teacher"]]
    if not sum(teachers):
        raise InputError(f"the teachers of {place.url} are never right, so nothing is a share of them: name others")
    (student,) = of["student"]
    task = Task(student["images"], len(scores["dataset"]["classes"]))
    return Finished(choices, task, student["accuracy"]["mean"] * len(teachers) / sum(teachers))


def search(
    words: Sequence[str],
    folder: Place,
    *,
    tries: int,
    seed: int = 0,
    known: Sequence[Finished] = (),
    grid: Mapping[str, Sequence[str]] = GRID,
    penalty: float = 1.0,
) -> tuple[list[Finished], list[tuple[float, Choices]]]:
    """Try some pipelines at random, each at most once, and rank all.

    Args:
        words: of ``ddcore train``: data, student, teachers and what else is to be as it says.
        folder: for the tries, and their results in ``tries.json``.
        tries: how many; 1 or more.
        known: finished tries of other tasks.

    Returns:
        What was tried, and ``ranked`` for this task.
    """
    every = candidates(grid)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:tries].tolist()
    finished = [tried(every[at], words, folder) for at in order]
    (folder / "tries.json").write_json([attrs.asdict(one) for one in finished])
    return finished, ranked([*known, *finished], finished[0].task, grid, penalty)


def table(finished: Sequence[Finished], ranking: Sequence[tuple[float, Choices]]) -> str:
    """A ranking for people, with what was measured."""
    lines = ["rank  predicted  measured  pipeline"]
    for rank, (predicted, choices) in enumerate(ranking, 1):
        measured = [f"{one.ratio:.3f}" for one in finished if one.choices == choices] or ["-"]
        lines.append(f"{rank:>4}  {predicted:>9.3f}  {measured[0]:>8}  {' '.join(words_of(choices))}")
    return "\n".join(lines)


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, help="As for ddcore train.")
@click.option("--student", required=True, help="Network to train.")
@click.option("--teacher", "teachers", multiple=True, required=True, help="NAME, FILE or NAME=FILE; repeatable.")
@click.option("--tries", type=click.IntRange(min=1), default=8, show_default=True, help="Pipelines that are trained.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses which.")
@click.option("--out", default="runs/search", show_default=True, help="Folder for the tries.")
@click.option("--known", multiple=True, help="tries.json of another task's search; repeatable.")
@click.option(
    "--penalty", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Of ridge."
)
@click.option("--show", type=click.IntRange(min=1), default=10, show_default=True, help="Lines of the ranking.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def main(
    data: str,
    student: str,
    teachers: tuple[str, ...],
    out: str,
    known: tuple[str, ...],
    show: int,
    more: tuple[str, ...],
    **given: Any,
) -> None:
    """Try some of mi-alpha's pipelines and rank all of them; further words go to ddcore train."""
    words = [f"--data={data}", f"--student={student}", *(f"--teacher={name}" for name in teachers), *more]
    try:
        learned = [one for file in known for one in read(file)]
        finished, ranking = search(words, Place.at(out), known=learned, **given)
    except DdcoreError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table(finished, ranking[:show]))
    click.echo("ratios are those of the part that the runs tested on: choose on a part of the training data (--split)")


if __name__ == "__main__":
    main()
