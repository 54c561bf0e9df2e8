"""``ddcore plugins`` and ``ddcore data``: what can be composed, and what it can be composed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from ddcore.cli.terminal import AS_JSON, emit
from ddcore.composing.inspection import listing, listing_text, show, show_text
from ddcore.composing.tables import table
from ddcore.errors import OptionError
from ddcore.kit.scaffold import create, next_steps
from ddcore.storage.printing import printable_line


@click.group(invoke_without_command=True)
@AS_JSON
@click.pass_context
def plugins(context: click.Context, as_json: bool) -> None:
    """List the installed plugins; `show NAME` says all about one."""
    if context.invoked_subcommand is None:
        found = listing()
        emit(as_json, found, lambda: listing_text(found))


@plugins.command("show")
@click.argument("name")
@AS_JSON
def show_plugin(name: str, as_json: bool) -> None:
    """Paper, options with defaults, presets, hooks and file of one plugin."""
    found = show(name)
    emit(as_json, found, lambda: show_text(found))


@plugins.command("check")
@click.argument("plugin", metavar="NAME|PATH")
@click.option("--only", multiple=True, help="Name of a check; repeatable. Default: all.")
@AS_JSON
@click.pass_context
def check_plugin(context: click.Context, plugin: str, only: tuple[str, ...], as_json: bool) -> None:
    """Run the contract that every plugin has to keep, on tiny data, and list what it keeps."""
    from ddcore.kit.contract import examine, results_text  # imports torch

    try:
        results = examine(plugin, only)
    except ValueError as error:
        raise OptionError(str(error)) from error
    passed = all(result.status != "failed" for result in results)
    answer = {"plugin": plugin, "passed": passed, "checks": [result.as_json() for result in results]}
    emit(as_json, answer, lambda: results_text(plugin, results))
    context.exit(0 if passed else 2)


@plugins.command("new")
@click.argument("name")
@click.option(
    "--kind", required=True, metavar="KIND", help="matcher, enhancement, labels, student, evaluator, data or executor."
)
@click.option("--out", default=".", help="Folder to write ddcore-NAME into.", show_default=True)
@AS_JSON
def new_plugin(name: str, kind: str, out: str, as_json: bool) -> None:
    """Write a complete, working plugin package to start from; no network needed."""
    folder, files = create(name, kind, out)
    emit(as_json, {"folder": str(folder), "files": files}, lambda: next_steps(name, folder, files))


@plugins.command("matrix")
@click.option(
    "--try", "tried", is_flag=True, help="Take every pair that composes through a run of one step, to its scores."
)
@AS_JSON
@click.pass_context
def plugin_matrix(context: click.Context, tried: bool, as_json: bool) -> None:
    """Which installed plugins go with which matcher, and why the others do not."""
    from ddcore.kit.matrix import matrix, matrix_text, try_pairs  # imports torch

    pairs = matrix()
    failures = try_pairs(pairs) if tried else {}
    rows = [{**pair.as_json(), "failure": failures.get(pair)} for pair in pairs]
    emit(as_json, rows, lambda: matrix_text(pairs, failures))
    context.exit(2 if failures else 0)


@click.group()
def data() -> None:
    """Real data sets: what can be loaded, and what a name holds."""


@data.command("list")
@AS_JSON
def list_data(as_json: bool) -> None:
    """Names that --dataset takes."""
    from ddcore.data.sources import known_sources  # imports torch

    known = [{"name": name, "what": what} for name, what in known_sources()]
    emit(as_json, known, lambda: table(["name", "what"], [[k["name"], k["what"]] for k in known]))


@data.command("show")
@click.argument("name")
@click.option("--plugin", multiple=True, help="Plugin that offers it.")
@click.option("--plugin-path", multiple=True, help="File of a plugin that offers it.")
@click.option("--data-root", default=None, help="Folder that holds data sets by name.")
@click.option("--split", default=None, help="TRAIN:TEST names of the parts, or a share such as 0.8.")
@click.option("--resize", type=click.IntRange(min=1), default=None, help="Height and width to bring images to.")
@click.option("--skip-broken", is_flag=True, help="Leave out pictures that cannot be decoded, with a note.")
@click.option(
    "--resize-mode", type=click.Choice(["crop", "pad", "squash"]), default="crop", help="How --resize makes a square."
)
@click.option(
    "--mirror", type=click.Choice(["yes", "no", "auto"]), default="auto", help="Whether mirror images keep their class."
)
@AS_JSON
def show_data(name: str, plugin: tuple[str, ...], plugin_path: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Classes, counts, shape, mean and deviation, licence and fingerprint of a data set."""
    summary, _ = _look(name, plugin, plugin_path, options, check=False)
    emit(as_json, summary, lambda: summary_text(summary))


def check_data(name: str, plugin: tuple[str, ...], plugin_path: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Look over a data set: sizes and classes, duplicates, constant images, ranges, labels, what its reader changed.

    A line for each finding, with numbers and what to do: `ok`, `note` or `warning`. The exit code is 0 whatever is
    found, and 2 where the data cannot be read.
    """
    summary, found = _look(name, plugin, plugin_path, options, check=True)
    answer = {"data": summary, "findings": [finding.as_json() for finding in found]}
    emit(as_json, answer, lambda: "\n".join(printable_line(finding.line) for finding in found))


data.command("check", params=[*show_data.params])(check_data)


def _look(*named: Any, check: bool) -> Any:
    from ddcore.commands.looking import look  # imports torch

    return look(*named, check=check)


def summary_text(summary: Mapping[str, Any]) -> str:
    """A data set's facts, one a line."""
    return "\n".join(
        f"{name:<18} {printable_line(_plain(value))}"
        for name, value in summary.items()
        if value not in (None, "", [], {})
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)
