"""What the source of an installed plugin says, read as text: nothing is imported, so nothing of it runs."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UNREADABLE = "?"


def source_file(module: str) -> Path:
    """The file of a module, found without importing it.

    Raises:
        ImportError: there is none.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        raise ImportError(f"no module named {top!r}")
    file = Path(spec.origin)
    for part in rest:
        file = file.parent / part / "__init__.py" if (file.parent / part).is_dir() else file.parent / f"{part}.py"
    return file


def class_named(parsed: ast.Module, name: str) -> ast.ClassDef | None:
    """The class of a module's top level; None where it is made elsewhere, or not at all."""
    return next((node for node in parsed.body if isinstance(node, ast.ClassDef) and node.name == name), None)


def literals(node: ast.ClassDef, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Class attributes by name, as the source writes them; ``UNREADABLE`` where that is no literal.

    Args:
        defaults: of those to look for.
    """
    values = dict(defaults)
    for statement in node.body:
        target: ast.expr | None = statement.target if isinstance(statement, ast.AnnAssign) else None
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
        if isinstance(target, ast.Name) and target.id in values and isinstance(statement, ast.Assign | ast.AnnAssign):
            try:
                values[target.id] = ast.literal_eval(statement.value) if statement.value else defaults[target.id]
            except ValueError:
                values[target.id] = UNREADABLE
    return values
