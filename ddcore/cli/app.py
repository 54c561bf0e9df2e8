"""The command line: parse, call, print. Help and listings do without torch,
so what imports it is imported where it is needed."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import tempfile
from typing import Any

import click

from ddcore import config
from ddcore._version import __version__
from ddcore.cli.lists import data, plugins
from ddcore.cli.terminal import AS_JSON, emit
from ddcore.commands import doctor as doctors
from ddcore.composing.cells import cell_named, every_cell
from ddcore.composing.options import click_options, fields, to_toml, unknown
from ddcore.composing.options import explain as explained
from ddcore.composing.presets import every_preset, listed, listing_text
from ddcore.composing.selection import select, setup_from
from ddcore.composing.tables import row_json, scores_table, table
from ddcore.config import Config
from ddcore.errors import FULL, DdcoreError, InputError, NoSpace, OptionError
from ddcore.pages.board import board_text, entries, page, records_folder, records_in
from ddcore.pages.leaderboard import terminal
from ddcore.storage.places import Place
from ddcore.storage.printing import printable, printable_line
from ddcore.storage.progress import Reporter, on_signals
from ddcore.storage.secrecy import hidden, redact


def main() -> None:
    """Entry point of ``ddcore``: exit code 0 done, 2 usage or bad input, 3 to be gone on with, 1 bug."""
    raise SystemExit(invoke(sys.argv[1:]))


def invoke(arguments: list[str]) -> int:
    """Run one command line in this process and return its exit code."""
    try:
        with on_signals(_interrupt):
            code = ddcore_command.main(arguments, prog_name="ddcore", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return _refuse(_interrupted(arguments), 3, arguments)
    except click.ClickException as error:
        return _refuse(error.format_message(), 2, arguments)
    except NoSpace as error:
        return _refuse(_full(printable_line(str(error)), arguments), error.exit_code, arguments)
    except DdcoreError as error:
        return _refuse(printable_line(str(error)), error.exit_code, arguments)
    except KeyboardInterrupt:
        return _refuse(_interrupted(arguments), 3, arguments)
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = printable_line(str(error.filename or tempfile.gettempdir()))
        return _refuse(_full(f"{where} cannot be written, the disk is full: make room", arguments), 3, arguments)
    return code if isinstance(code, int) else 0


def _interrupt() -> None:
    raise KeyboardInterrupt


def _interrupted(arguments: list[str]) -> str:
    return f"interrupted; what was finished is kept: {_again(arguments)}"


def _full(sentence: str, arguments: list[str]) -> str:
    """What is said of a full disk, and how a person goes on once there is room."""
    said = "go on with" in sentence or "same command" in sentence
    return sentence if said else f"{sentence}, then {_again(arguments)}"


def _again(arguments: list[str]) -> str:
    return (
        f"go on with `ddcore {shlex.join(arguments)}`" if arguments[:1] == ["resume"] else "give the same command again"
    )


def _refuse(sentence: str, code: int, arguments: list[str]) -> int:
    sentence = printable(redact(hidden(sentence)))
    click.echo(f"{'stopped' if code == 3 else 'error'}: {sentence}", err=True)
    if "--json" in arguments:
        click.echo(json.dumps({"error": sentence, "exit_code": code}))
    return code


@click.group(name="ddcore", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ddcore")
def ddcore_command() -> None:
    """Dataset distillation with composable plugins.

    \b
    ddcore run --plugin fyi --plugin datm        distil, label, evaluate, save
    ddcore train --data D --student NETWORK      train a student on real data or a distilled set
    ddcore plugins                               what can be composed
    ddcore inspect runs/NAME/artifact            what a distilled set holds
    ddcore compare runs/A runs/B                 finished runs side by side
    """


class RunCommand(click.Command):
    """``run``: its options are the shared ones and those of the plugins that the same line selects."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Find the selected plugins first, then parse with their options."""
        wants_help = any(flag in args for flag in context.help_option_names)
        selection = context.meta["ddcore.selection"] = select(args, os.environ, strict=not wants_help)
        try:
            return super().parse_args(context, args)
        except click.NoSuchOption as error:
            if sentence := unknown(error.option_name, selection.groups):
                raise OptionError(sentence) from error
            raise

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        """The fixed options, then the shared ones, then the plugins'."""
        selection = context.meta.get("ddcore.selection")
        made: list[click.Parameter] = list(click_options(selection.groups if selection else {}))
        fixed = super().get_params(context)
        return [*fixed[:-1], *made, fixed[-1]]

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Group the options by what they belong to."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record:
                group = parameter.name.partition("__")[0] if parameter.name and "__" in parameter.name else ""
                groups.setdefault(group, []).append(record)
        for group, records in groups.items():
            with formatter.section(f"Options of {group}" if group else "Options"):
                formatter.write_dl(records)


@ddcore_command.command(cls=RunCommand)
@click.option("--plan-only", is_flag=True, help="Show who does what, and an estimate of time and memory; do nothing.")
@click.option("--explain", is_flag=True, help="Show every value and where it came from; do nothing.")
@click.option("--dump-config", is_flag=True, help="Print a TOML file for --config that repeats the run; do nothing.")
@AS_JSON
@click.pass_context
def run(
    context: click.Context, /, plan_only: bool, explain: bool, dump_config: bool, as_json: bool, **values: Any
) -> None:
    """Distil a data set: --plugin a matcher, and any enhancements."""
    from ddcore.runs.assembly import begin  # imports torch

    given = {n: v for n, v in values.items() if _on_command_line(context, n)}
    setup = setup_from(context.meta["ddcore.selection"], given, dict(os.environ))
    if explain:
        rows = explained(setup.resolved)
        emit(
            as_json,
            [dict(zip(("name", "value", "source"), row, strict=True)) for row in rows],
            lambda: table(["option", "value", "source"], [[str(c) for c in row] for row in rows]),
        )
        return
    if dump_config:
        text = to_toml(setup.resolved)
        emit(as_json, {"toml": text}, text.rstrip("\n"))
        return
    made = begin(setup, plan_only=plan_only, command=["ddcore", *sys.argv[1:]])
    if plan_only:
        _show_plan(made, as_json)
    else:
        _finish(made, as_json)


def _show_plan(made: Any, as_json: bool) -> None:
    from ddcore.runs.assembly import data_lines, of_data  # imports torch
    from ddcore.scoring.estimate import estimate

    costs = estimate(made)
    emit(
        as_json,
        {**made.plan.as_json(), **of_data(made.source), "estimate": costs.as_json()},
        lambda: "\n".join([*made.plan.lines(), *data_lines(made.source), costs.sentence()]),
    )


def _on_command_line(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _finish(made: Any, as_json: bool) -> None:
    with made.tasks.stoppable():
        _distil(made, as_json)


def _distil(made: Any, as_json: bool) -> None:
    from ddcore.commands.reproduce import compare, comparison_text, reproduction_of  # imports torch
    from ddcore.runs.distil import distil

    reproduction = reproduction_of(made)
    rows = distil(made)
    answer = {"run": made.place.url, "artifact": (made.place / "artifact").url, "rows": [row_json(r) for r in rows]}
    text = scores_table(rows)
    if reproduction is not None:
        answer["reproduction"] = compare(made, reproduction, rows)
        text = f"{text}\n{comparison_text(answer['reproduction'])}"
    emit(as_json, {**answer, "warnings": made.tasks.reporter.warnings}, text)
    if not as_json:
        made.say(f"run: {made.place.url} (artifact/, scores.json, report.html)")


class ReproduceCommand(RunCommand):
    """``reproduce``: as ``run``, with the plugins and settings of the preset that its line names."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Find the preset first, then parse as ``run`` does with its plugins selected."""
        from ddcore.commands.reproduce import find_preset, line_of  # imports torch

        if any(flag in args for flag in context.help_option_names):
            return super().parse_args(context, args)
        preset = context.meta["ddcore.preset"] = find_preset(args)
        return super().parse_args(context, line_of(preset, args))


@ddcore_command.command(cls=ReproduceCommand)
@click.argument("wanted", metavar="PRESET")
@click.option(
    "--scale",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    help="Shorten steps, experts and epochs to this share, to see that it runs; the figure then means nothing.",
)
@click.option("--plan-only", is_flag=True, help="Show who does what, and an estimate of time and memory; do nothing.")
@AS_JSON
@click.pass_context
def reproduce(
    context: click.Context, /, wanted: str, scale: float, plan_only: bool, as_json: bool, **values: Any
) -> None:
    """Run a paper's setting, and say how far the result is from the published figure.

    PRESET is NAME or PLUGIN/NAME, as `ddcore presets` lists them. Options of `ddcore run` change it, for example
    --device, --seed, --data-root or --dataset parquet:PATH; what they change is said beside the result.
    """
    from ddcore.commands.reproduce import Reproduction  # imports torch
    from ddcore.runs.assembly import begin

    given = {n: v for n, v in values.items() if _on_command_line(context, n) and n not in ("config", "preset")}
    selection = context.meta["ddcore.selection"]
    made = Reproduction.of(context.meta["ddcore.preset"], selection, given, dict(os.environ), scale)
    try:
        begun = begin(made.setup, plan_only=plan_only, command=["ddcore", *sys.argv[1:]], more=made.marks())
    except InputError as error:
        raise made.data_error() or error from None
    if plan_only:
        _show_plan(begun, as_json)
        return
    _finish(begun, as_json)


@ddcore_command.command()
@click.option("--plugin", default=None, metavar="NAME", help="Only presets that use this plugin.")
@click.option("--dataset", default=None, metavar="NAME", help="Only presets for these data.")
@AS_JSON
def presets(plugin: str | None, dataset: str | None, as_json: bool) -> None:
    """List the papers' settings that the installed plugins bring; published accuracies are fractions.

    Plugins in brackets are those that the paper's runs use as well; the settings fit without them.
    """
    found = listed(every_preset(lambda sentence: click.echo(f"warning: {sentence}", err=True)), plugin, dataset)
    emit(as_json, [preset.as_json() for preset in found], lambda: listing_text(found))


@ddcore_command.command()
@click.argument("run_folder", metavar="RUN")
@click.option(
    "--trust",
    is_flag=True,
    help="Go on with a run that somebody else began: use the data, addresses and plugin files it names.",
)
@AS_JSON
def resume(run_folder: str, trust: bool, as_json: bool) -> None:
    """Go on with a run that was stopped; the result is the same, bit for bit, as if it had not been."""
    from ddcore.commands import train as training  # imports torch
    from ddcore.runs.opening import reopen

    run = reopen(run_folder, trust=trust)
    if run.of_artifact is not None:
        _evaluate(run, as_json)
    else:
        _train(run, training.train, as_json) if isinstance(run, training.TrainingRun) else _finish(run, as_json)


class PartCommand(RunCommand):
    """A command that does part of what ``run`` does: it takes those of its shared options that matter there."""

    shared: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        """``run``'s, without presets and the shared options that ``shared`` does not name; the help says which come
        from the set."""
        idle = {"preset", *fields(Config)} - {*self.shared}
        kept = [parameter for parameter in super().get_params(context) if parameter.name not in idle]
        for parameter in kept:
            if isinstance(parameter, click.Option) and parameter.name in self.taken:
                default = "[the set's]" if parameter.name == "dataset" else r"[the set's; else \1]"
                parameter.help = re.sub(r"\[([^\[\]]*)\]$", default, parameter.help or "")
        return kept


TRUST = click.option(
    "--trust",
    is_flag=True,
    help="Use the data, places, weights and plugins that the set's manifest names, as if you had.",
)


class EvaluateCommand(PartCommand):
    """``evaluate``."""

    shared, taken = config.EVALUATING, config.OF_THE_SET


class RelabelCommand(PartCommand):
    """``relabel``."""

    shared, taken = config.RELABELLING, config.OF_THE_SET


class TrainCommand(PartCommand):
    """``train``."""

    shared = config.TRAINING


@ddcore_command.command(cls=EvaluateCommand)
@click.argument("artifact")
@TRUST
@AS_JSON
@click.pass_context
def evaluate(context: click.Context, /, artifact: str, trust: bool, as_json: bool, **values: Any) -> None:
    """Train students on an artifact, beside the honest baselines.

    \b
    Values come from, the first that has one:
      1. this command line, then files for --config
      2. the run that made the set, if it is yours (RUN/artifact): data, cache, threads, plugins and their options,
         seed, validation and protocol; --plugin adds to its plugins, for example one that shapes students
      3. of other sets their manifest, in numbers and choices only, such as seed and protocol: name data (unless
         you used the same ones before) and plugins
      4. the default

    --eval-network, --eval-seeds and --baseline are of this evaluation. Without --out, scores are only printed.
    """
    from ddcore.commands.evaluating import evaluate_folder  # imports torch

    given = {n: v for n, v in values.items() if _on_command_line(context, n) and n != "config"}
    rows = evaluate_folder(artifact, given, context.meta["ddcore.selection"], trust=trust)
    emit(as_json, {"artifact": artifact, "rows": [row_json(r) for r in rows]}, lambda: scores_table(rows))


@ddcore_command.command(cls=RelabelCommand)
@click.argument("artifact")
@TRUST
@AS_JSON
@click.pass_context
def relabel(context: click.Context, /, artifact: str, trust: bool, as_json: bool, **values: Any) -> None:
    """Write an artifact once more under other --labels: its images stay as they are, bit for bit.

    Values come from this command line, the environment and files for --config; then from the run that made the set, if
    it is yours (RUN/artifact); of other sets from their manifest, in numbers and choices only, such as the seed; then
    they are the default.
    """
    from ddcore.commands.relabelling import relabel as relabelled  # imports torch
    from ddcore.sets.exports import describe

    given = {n: v for n, v in values.items() if _on_command_line(context, n) and n != "config"}
    made = relabelled(artifact, context.meta["ddcore.selection"], given, dict(os.environ), trust=trust)
    emit(
        as_json, {"artifact": made.place.url, "labels": made.labels.kind, "bytes": made.nbytes}, lambda: describe(made)
    )


@ddcore_command.command(cls=TrainCommand)
@click.option("--data", required=True, help="Real data, a name or URL as for run; or a distilled set, a folder or URL.")
@click.option("--student", required=True, help="Network to train.")
@click.option(
    "--teacher", "teachers", multiple=True, help="NAME of a network to train here, FILE, or NAME=FILE; repeatable."
)
@click.option("--per-class", type=click.IntRange(min=1), help="Real images of each class, at random. Default: all.")
@click.option(
    "--from", "start", help="File with weights that students begin with, plain ones too. Default: random ones."
)
@click.option(
    "--on",
    help="Other images to train on, a name or URL as for --data, brought to its size; their labels are not used.",
)
@click.option("--plain/--no-plain", default=True, show_default=True, help="Train the same student without plugins too.")
@TRUST
@AS_JSON
@click.pass_context
def train(
    context: click.Context,
    /,
    data: str,
    student: str,
    teachers: tuple[str, ...],
    trust: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Train a student on real data or on a distilled set, with teachers, labels and losses that plugins bring."""
    from ddcore.commands import train as training  # imports torch

    own = {name: values.pop(name) for name in ("per_class", "plain", "start", "on")}
    given = {n: v for n, v in values.items() if _on_command_line(context, n) and n != "config"} | {"network": student}
    finished = ":" not in data.partition("://")[0] and (Place.at(data) / "manifest.json").exists()
    if finished and own["per_class"] is not None:
        raise OptionError("--per-class chooses real images, and --data is a distilled set: leave it out")
    if own["on"] is not None and (finished or own["per_class"] is not None):
        raise OptionError("--on names the images to train on: leave out --per-class, and let --data be real data")
    if not finished and "dataset" in given:
        raise OptionError("--dataset names the real data of a distilled set, and --data is no such set: leave it out")
    selection = context.meta["ddcore.selection"]
    given |= training.of_artifact(data, given, selection.classes, trust=trust) if finished else {"dataset": data}
    lesson = training.Lesson(data if finished else None, **own)
    run = training.begin(selection, given, lesson, teachers, ["ddcore", *sys.argv[1:]])
    _train(run, training.train, as_json)


def _evaluate(run: Any, as_json: bool) -> None:
    from ddcore.commands.evaluating import evaluate_on  # imports torch
    from ddcore.sets.packed import load_either

    with run.tasks.stoppable():
        rows = evaluate_on(run, load_either(run.of_artifact))
    emit(as_json, {"artifact": run.of_artifact, "rows": [row_json(r) for r in rows]}, lambda: scores_table(rows))


def _train(run: Any, trained: Any, as_json: bool) -> None:
    rows = trained(run)
    answer = {"run": run.place.url, "rows": [row_json(r) for r in rows], "warnings": run.tasks.reporter.warnings}
    emit(as_json, answer, lambda: scores_table(rows))
    if not as_json:
        run.say(f"run: {run.place.url} (students/, scores.json, report.html)")


@ddcore_command.command()
@click.argument("artifact")
@AS_JSON
def inspect(artifact: str, as_json: bool) -> None:
    """Say what a distilled set holds, where it came from and what it costs in bytes."""
    from ddcore.sets.exports import describe  # imports torch
    from ddcore.sets.exports import inspect as inspected
    from ddcore.sets.packed import load_either

    loaded = load_either(artifact)
    emit(as_json, inspected(loaded), lambda: describe(loaded))


@ddcore_command.command()
@click.argument("artifact")
@click.option("--to", type=click.Choice(["folder", "parquet", "pt"]), required=True, help="What to write.")
@click.option("--out", required=True, help="Where: a folder or file, or a URL.")
@click.option(
    "--labels",
    type=click.Choice(["own", "hard"]),
    default="own",
    show_default=True,
    help="The set's own, or in their place the class of each image.",
)
@AS_JSON
def export(artifact: str, to: str, out: str, labels: str, as_json: bool) -> None:
    """Write a distilled set in a form that other tools read, and say what is left out."""
    from ddcore.sets import exports  # imports torch
    from ddcore.sets.packed import load_either

    loaded = load_either(artifact)
    exports.export(loaded, to, out, labels)
    lacking = exports.left_out(loaded, to, labels)
    said = "\n".join([f"wrote {to}: {out}", *(f"note: {sentence}" for sentence in lacking)])
    emit(as_json, {"out": out, "format": to, "labels": labels, "left_out": lacking}, said)


@ddcore_command.command()
@click.argument("run_folder", metavar="RUN")
@AS_JSON
def report(run_folder: str, as_json: bool) -> None:
    """Write report.html of a finished run again, of `run`, `train` or `evaluate --out`:
    one file that opens anywhere."""
    from ddcore.pages.report import write_report  # imports torch

    url = write_report(Place.at(run_folder))
    emit(as_json, {"report": url}, url)


@ddcore_command.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--out", metavar="FILE", help="Write it as a page too, for example comparison.html.")
@AS_JSON
def compare(runs: tuple[str, ...], out: str | None, as_json: bool) -> None:
    """Set finished runs side by side: equal protocols only in one column, accuracy against bytes."""
    from ddcore.pages.compare import compare as compared  # imports torch
    from ddcore.pages.compare import comparison_text, write_comparison

    comparison = compared(runs)
    page = {} if out is None else {"page": write_comparison(comparison, out)}
    emit(as_json, {**comparison, **page}, lambda: "\n".join([comparison_text(comparison), *page.values()]))


@ddcore_command.command()
@click.argument("suite")
@click.option("--out", default=None, help="Folder of the runs and the leaderboard; default: runs/bench-SUITE.")
@click.option("--jobs", type=click.IntRange(1, 1024), default=1, show_default=True, help="Runs at a time.")
@click.option(
    "--executor",
    default=None,
    metavar="NAME",
    help="Where runs are done: here, processes, or what an installed plugin offers. Default: processes with several jobs.",
)
@click.option("--only", default="", help="Only runs whose name holds this text; the names are those of the folders.")
@click.option("--plan-only", is_flag=True, help="Check every method and list the runs; do nothing.")
@click.option(
    "--trust", is_flag=True, help="Do the runs of a suite from a web address: use the data and places it names."
)
@AS_JSON
@click.pass_context
def bench(
    context: click.Context,
    /,
    suite: str,
    out: str | None,
    only: str,
    plan_only: bool,
    trust: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Run a table of methods, data sets, images per class and seeds, and make a leaderboard of it.

    What is done is not done again: the same command goes on after a stop, and after a change of SUITE.toml does what
    changed.
    """
    from ddcore.commands.bench import bench as benched  # imports torch
    from ddcore.commands.bench import chosen, read_suite, refuse_from_the_web

    found = read_suite(suite)
    if not plan_only and not trust:
        refuse_from_the_web(suite)
    place = Place.at(out or f"runs/bench-{Place.at(suite).name.removesuffix('.toml')}")
    cells, refused = chosen(found, only, place)
    reporter = Reporter()
    for why in dict.fromkeys(refused.values()):
        reporter.warn(f"{why}; the other runs of the suite are not held up")
    if plan_only:
        runs = [cell.key for cell in cells if cell.key not in refused]
        emit(as_json, {"runs": runs, "refused": refused}, lambda: "\n".join(runs))
        context.exit(2 if refused else 0)
    made = benched(found, cells, place, reporter=reporter, refused=refused, **where)
    emit(as_json, {"bench": place.url, **made}, lambda: f"{terminal(made)}\nleaderboard: {place.url}")
    if made["failed"]:
        context.exit(2)


class VerifyCommand(click.Command):
    """``verify``: with those of ``run``'s shared options that say on what, where and by how many students."""

    def get_params(self, context: click.Context) -> list[click.Parameter]:
        """Its own, then the shared ones."""
        fixed = super().get_params(context)
        shared = [option for option in click_options({}) if option.name in config.VERIFYING]
        defaults = {"dataset": "none: always say it", "eval_seeds": "the cell's", "out": "runs/verify-CELL"}
        for option in shared:
            if option.name in defaults:
                option.help = re.sub(
                    r"(; default: .*)?\s*\[[^\[\]]*\]$", f"  [{defaults[option.name]}]", option.help or ""
                )
        return [*fixed[:-1], *shared, fixed[-1]]


@ddcore_command.command(cls=VerifyCommand)
@click.argument("cell", required=False)
@click.option("--cells", multiple=True, metavar="FILE", help="TOML file with more cells, a path or URL; repeatable.")
@click.option(
    "--records",
    metavar="DIR",
    help="Where records are. Default: examples/benchmarks/results/cells if ddcore's repository is the working directory, else ddcore/cells of the user's data folder.",
)
@click.option("--differs", multiple=True, metavar="TEXT", help="What is otherwise than in the paper; repeatable.")
@click.option("--reason", default="", metavar="TEXT", help="Why the figure is missed, for the record.")
@click.option("--set", "artifact", default="", metavar="ARTIFACT", help="Of a cell that evaluates: the set.")
@click.option("--page", "to_page", metavar="FILE", help="Write the board there, as Markdown.")
@click.option("--plan-only", is_flag=True, help="Show who does what for the cell, and an estimate; do nothing.")
@AS_JSON
@click.pass_context
def verify(
    context: click.Context,
    /,
    cell: str | None,
    cells: tuple[str, ...],
    records: str | None,
    to_page: str | None,
    as_json: bool,
    **values: Any,
) -> None:
    """List published figures beside what is on record; or make one anew: CELL --dataset D.

    A cell is one figure of a paper's table, with its setting and the command that makes it; plugins bring them, and
    --cells names files with more. A cell's run, in runs/verify-CELL unless --out names a folder, can be stopped: the
    same command goes on, and writes the record when it is done.
    """
    known = every_cell(cells, lambda sentence: click.echo(f"warning: {sentence}", err=True))
    folder = records_folder(records)
    if cell is not None:
        if _verified(context, cell_named(cell, known), folder, as_json, values):
            return
        known = [cell_named(cell, known)]
    elif idle := [name for name, value in values.items() if value not in (None, (), "", False)]:
        written = "set" if idle[0] == "artifact" else idle[0].replace("_", "-")
        raise OptionError(f"--{written} is of one cell, and none is named: write ddcore verify CELL, or leave it out")
    board = entries(known, records_in(folder, known))
    if to_page is not None:
        Place.at(to_page).write_bytes(page(board).encode())
    emit(as_json, {"records": folder.url, "cells": board}, lambda: board_text(board))


def _verified(context: click.Context, cell: Any, folder: Place, as_json: bool, values: dict[str, Any]) -> bool:
    """Run one cell and write its record; True where only its plan was shown."""
    from ddcore.commands.verify import Attempt, record_of, write_record  # imports torch

    differs, reason, artifact, plan_only = (values.pop(name) for name in ("differs", "reason", "artifact", "plan_only"))
    said = {name: value for name, value in values.items() if _on_command_line(context, name)}
    attempt = Attempt.of(cell, said, dict(os.environ), artifact)
    found = attempt.do(plan_only)
    if plan_only:
        _show_plan(found, as_json)
        return True
    place = write_record(record_of(attempt, differs, reason), folder)
    click.echo(f"record: {place.url}", err=True)
    return False


@ddcore_command.command()
@AS_JSON
@click.pass_context
def doctor(context: click.Context, /, as_json: bool) -> None:
    """Look over the installation, and say what to do about what does not work."""
    found = doctors.examine()
    emit(as_json, doctors.as_json(found), lambda: doctors.findings_text(found))
    context.exit(0 if doctors.healthy(found) else 2)


for group in (plugins, data):
    ddcore_command.add_command(group)
