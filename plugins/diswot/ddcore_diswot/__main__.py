"""``python -m ddcore_diswot``: rank students for a teacher, or search for one, without training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import torch
from attrs import define, field
from torch import Tensor

from ddcore.data import Real, Source, fit, open_source
from ddcore.errors import DdcoreError
from ddcore.randomness import generator
from ddcore_diswot.ranks import kendall
from ddcore_diswot.scoring import Init, Judge, Score, Used
from ddcore_diswot.search import Evolution, best_of, evolve
from ddcore_diswot.space import ResNet, Space, cost, maker

COMMON = (
    click.option("--data", required=True, help="Real data, a name or URL as for ddcore run."),
    click.option("--teacher", required=True, help="Name of the network that will teach; its weights are random here."),
    click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Scores are means over."),
    click.option(
        "--batch", type=click.IntRange(min=2), default=64, show_default=True, help="Images that are compared."
    ),
    click.option(
        "--init",
        type=click.Choice(["normal", "own"]),
        default="normal",
        show_default=True,
        help="N(0, 1), or each network's.",
    ),
    click.option(
        "--use",
        type=click.Choice(["both", "relation", "semantic"]),
        default="both",
        show_default=True,
        help="Part of the score.",
    ),
    click.option("--budget", type=click.IntRange(min=1), help="Parameters that a student may have. Default: any."),
    click.option("--device", default="cpu", show_default=True),
    click.option("--data-root", default=None, help="Folder that holds data sets by name."),
    click.option("--resize", type=click.IntRange(min=1), default=None, help="Height and width to bring images to."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)


def common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both commands have."""
    for option in reversed(COMMON):
        command = option(command)
    return command


@define(eq=False)
class Bench:
    """Data, teacher and what candidates cost."""

    data: str
    teacher: str
    seeds: int = field(default=3, kw_only=True)
    batch: int = field(default=64, kw_only=True)
    init: Init = field(default="normal", kw_only=True)
    use: Used = field(default="both", kw_only=True)
    device: str = field(default="cpu", kw_only=True)
    data_root: str | None = field(default=None, kw_only=True)
    resize: int | None = field(default=None, kw_only=True)
    source: Source = field(init=False)
    _shape: tuple[int, int, int] = field(init=False)
    _judge: Judge = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.source = open_source(self.data, data_root=self.data_root, resize=self.resize)
        batches = [drawn(self.source, self.batch, seed, self.device) for seed in range(self.seeds)]
        self._shape = (self.source.channels, self.source.size, len(self.source.classes))
        self._judge = Judge(maker(self.teacher, *self._shape), batches, self.init, self.use)

    def score(self, name: str) -> Score:
        """Of a student, by name."""
        return self._judge.score(maker(name, *self._shape))

    def parameters(self, name: str) -> int:
        """Of a student."""
        return cost(name, *self._shape).parameters

    def row(self, name: str, score: Score) -> dict[str, Any]:
        """One line of the table."""
        costs = cost(name, *self._shape)
        found = {"relation": score.relation, "semantic": score.semantic, "score": score.value(self.use)}
        found = {part: value for part, value in found.items() if value == value}
        return {"student": name, **found, "parameters": costs.parameters, "multiply_adds": costs.multiply_adds}


def drawn(source: Source, batch: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Random training images (B, C, H, W), normalised, and their classes."""
    real = Real(source, fit("mean-std", source), device)
    index = torch.randperm(len(real.train), generator=generator(seed, "diswot", "batch"))[:batch]
    return real.train.inputs(index), real.train.labels[index].to(device)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def command() -> None:
    """Choose a student for a teacher without training either (DisWOT)."""


@command.command()
@common
@click.option("--student", "students", multiple=True, help="Network to score; repeatable. Default: depths 1, 3, 5, 7.")
def rank(students: tuple[str, ...], budget: int | None, as_json: bool, **given: Any) -> None:
    """Score students and print them, the best first, beside what they cost."""
    bench = Bench(**given)
    names = students or tuple(net.name for net in Space().every())
    affordable = [name for name in names if budget is None or bench.parameters(name) <= budget]
    if not affordable:
        raise click.ClickException(f"no student has {budget} parameters or fewer: raise --budget")
    show([bench.row(name, bench.score(name)) for name in affordable], as_json)


@command.command()
@common
@click.option(
    "--depth",
    "depths",
    type=click.IntRange(min=1),
    multiple=True,
    default=(1, 3, 5, 7),
    show_default=True,
    help="Blocks that a stage may have; repeatable.",
)
@click.option(
    "--widths", default="16/32/64", show_default=True, help="Channels that each stage may have: 8,16/16,32/64."
)
@click.option("--population", type=click.IntRange(min=1), default=36, show_default=True)
@click.option("--steps", type=click.IntRange(min=0), default=100, show_default=True, help="Children.")
@click.option("--sample", type=click.IntRange(min=1), default=8, show_default=True, help="Candidates of a tournament.")
@click.option(
    "--parents", type=click.IntRange(min=1), default=5, show_default=True, help="Of its best, one has the child."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the evolution.")
def search(
    depths: tuple[int, ...],
    widths: str,
    steps: int,
    seed: int,
    budget: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Evolve a student within a budget and print the best that were scored."""
    of_tournaments = {name: given.pop(name) for name in ("population", "sample", "parents")}
    space, bench = Space(tuple(sorted(set(depths))), choices(widths)), Bench(**given)
    scores: dict[ResNet, Score] = {}

    def score(net: ResNet) -> float:
        scores[net] = bench.score(net.name)
        return scores[net].value(bench.use)

    history = evolve(
        score,
        space.draw,
        space.mutated,
        lambda net: budget is None or bench.parameters(net.name) <= budget,
        Evolution(steps=steps if len(space.every()) > 1 else 0, **of_tournaments),
        generator=generator(seed, "diswot", "search"),
    )
    first = best_of(history)[0]
    rows = [bench.row(net.name, found) for net, found in scores.items()]
    show(sorted(rows, key=lambda row: row["student"] != first.name), as_json)


def choices(widths: str) -> tuple[tuple[int, ...], ...]:
    """Widths of each stage.

    >>> choices("8,16/32/64")
    ((8, 16), (32,), (64,))

    Raises:
        BadParameter: not three lists of numbers.
    """
    try:
        found = tuple(tuple(int(width) for width in stage.split(",")) for stage in widths.split("/"))
    except ValueError:
        found = ()
    if len(found) != 3 or min(min(stage) for stage in found) < 1:
        raise click.BadParameter(f"{widths!r} is not three lists of widths: write them as 8,16/16,32/64")
    return found


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """The table, the best first, what follows from it, and how far parameters alone would tell the same."""
    ordered = sorted(rows, key=lambda row: row["score"], reverse=True)
    tau = kendall([r["score"] for r in rows], [r["parameters"] for r in rows]) if len(rows) > 1 else float("nan")
    if as_json:
        found = {
            "students": ordered,
            "best": ordered[0]["student"],
            "kendall_with_parameters": tau if tau == tau else None,
        }
        click.echo(json.dumps(found))
        return
    wide = max(len(row["student"]) for row in ordered)
    click.echo(
        f"{'student':<{wide}}  {'M_r':>10}  {'M_s':>10}  {'score':>10}  {'parameters':>11}  {'multiply-adds':>13}"
    )
    for row in ordered:
        parts = (f"{row[part]:.3e}" if part in row else "-" for part in ("relation", "semantic", "score"))
        numbers = "  ".join(f"{part:>10}" for part in parts)
        click.echo(f"{row['student']:<{wide}}  {numbers}  {row['parameters']:>11,}  {row['multiply_adds']:>13,}")
    if tau == tau:
        click.echo(f"score against parameters alone: Kendall's tau {tau:.2f}")
    click.echo(f"ddcore train --plugin diswot --plugin kd --student {ordered[0]['student']} ...")


def invoke(arguments: Sequence[str]) -> int:
    """Run one command line in this process; its exit code."""
    try:
        command.main(list(arguments), prog_name="python -m ddcore_diswot", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        return _refuse(error.format_message())
    except DdcoreError as error:
        return _refuse(str(error))
    return 0


def _refuse(sentence: str) -> int:
    click.echo(f"error: {sentence}", err=True)
    return 2


if __name__ == "__main__":
    raise SystemExit(invoke(sys.argv[1:]))
