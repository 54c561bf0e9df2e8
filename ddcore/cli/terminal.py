"""What every command shares: its answer, as text for people or as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from ddcore.storage.printing import printable, printable_json
from ddcore.storage.secrecy import hidden

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One machine-readable object on standard output.")


def emit(as_json: bool, value: Any, text: str | Callable[[], str]) -> None:
    """A command's answer on standard output: JSON for machines, text for people."""
    if as_json:
        click.echo(printable_json(hidden(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))))
    else:
        click.echo(printable(hidden(text() if callable(text) else text)))
