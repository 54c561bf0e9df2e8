"""What `ddcore plugins` says: read from metadata and from source text, so that nothing heavy, or broken,
is imported."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from ddcore.api.hooks import KINDS
from ddcore.api.plugin import Plugin
from ddcore.composing.discovery import FIRST_PARTY, Offer, find, installed, load_class
from ddcore.composing.options import fields, flag
from ddcore.composing.presets import presets_of, published_text
from ddcore.composing.source_text import UNREADABLE, class_named, literals, source_file
from ddcore.composing.tables import table
from ddcore.errors import DdcoreError, near


def listing() -> list[dict[str, Any]]:
    """A row for every installed plugin: name, distribution, version, role, hooks, summary, paper, status."""
    rows = []
    for name, offers in installed().items():
        for offer in offers:
            row = {"name": name, "distribution": offer.distribution, "version": offer.version, **facts(offer)}
            if len(offers) > 1:
                row["status"] = f"clash: {' and '.join(o.distribution for o in offers)} offer this name"
            rows.append(row)
    return rows


def installed_matchers() -> list[str]:
    """Names of installed matchers, as far as their source tells without importing them."""
    return [row["name"] for row in listing() if row.get("role") == "matcher"]


def matchers_for(kinds: Collection[str], refused: Callable[[Any, str], bool]) -> dict[str, Any]:
    """The installed matchers that could do a run that has none, name to class; broken ones are left out.

    Args:
        kinds: of the data, one of which a matcher has to name; see ``plan.kinds_of``.
        refused: whether what is selected does not go with a matcher (its class and name).
    """
    found = {}
    for name in installed_matchers():
        with suppress(DdcoreError):
            cls: Any = load_class(name)[0]
            if cls.modality.intersection(kinds) and not refused(cls, name):
                found[name] = cls
    return found


def facts(offer: Offer) -> dict[str, Any]:
    """What a plugin's source says of it, without running it; a broken one has its reason in ``status``."""
    unknown = {"role": UNREADABLE, "hooks": [], "summary": "", "paper": ""}
    module, _, attribute = offer.value.partition(":")
    try:
        file = source_file(module)
        parsed = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, ImportError, ValueError) as error:
        return {**unknown, "status": f"broken: {type(error).__name__}: {error}"}
    if (node := class_named(parsed, attribute)) is not None:
        about = described(node)
        return {**about, "status": fault(parsed, about["hooks"]) or "ok"}
    if attribute in (bound := bound_names(parsed)) or "*" in bound:
        return {**unknown, "status": "not inspected: its class is made elsewhere"}
    return {**unknown, "status": f"broken: {module} has no {attribute}"}


def bound_names(parsed: ast.Module) -> set[str]:
    """Names that a module's top level makes by imports and assignments; ``*`` when it imports everything of another."""
    names: set[str] = set()
    for node in parsed.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names


def fault(parsed: ast.Module, hooks: list[str]) -> str | None:
    """Why a plugin cannot work, as far as its source tells: a module that is not installed,
    a hook that does not exist."""
    for statement in parsed.body:
        modules = [a.name for a in statement.names] if isinstance(statement, ast.Import) else []
        if isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
            modules = [statement.module]
        for top in (module.partition(".")[0] for module in modules):
            if top not in sys.modules and importlib.util.find_spec(top) is None:
                return f"broken: no module named {top!r}"
    unknown = [hook for hook in hooks if hook not in KINDS]
    return f"broken: {unknown[0]} is no hook: {near(unknown[0], KINDS)}" if unknown else None


def described(node: ast.ClassDef) -> dict[str, Any]:
    """Literal class attributes and hook names of a class."""
    found = literals(node, {"role": Plugin.role, "summary": "", "paper": ""})
    values = {name: str(value) for name, value in found.items()}
    hooks = [
        f.name for f in node.body if isinstance(f, ast.FunctionDef) and any(_is_hookimpl(d) for d in f.decorator_list)
    ]
    return {**values, "modality": _modality(node), "hooks": hooks}


def _modality(node: ast.ClassDef) -> list[str]:
    """What a class works on: the words of its attribute, names of constants in small letters."""
    found = [s for s in node.body if isinstance(s, ast.AnnAssign | ast.Assign) and s.value is not None]
    for statement in found:
        target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
        if isinstance(target, ast.Name) and target.id == "modality":
            parts = [part for part in ast.walk(statement.value) if isinstance(part, ast.Constant | ast.Name)]  # type: ignore[arg-type]
            words = {str(p.value) if isinstance(p, ast.Constant) else p.id.lower() for p in parts}
            return sorted(words - {"frozenset"})
    return sorted(Plugin.modality)


def _is_hookimpl(decorator: ast.expr) -> bool:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return (isinstance(name, ast.Name) and name.id == "hookimpl") or (
        isinstance(name, ast.Attribute) and name.attr == "hookimpl"
    )


def listing_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table, with the interpreter that sees them."""
    headings = ["name", "version", "role", "works on", "hooks", "summary", "status"]
    cells = [
        [r["name"], r["version"], r["role"], on, _short(r["hooks"]), r["summary"], r["status"]]
        for r, on in ((row, ", ".join(row.get("modality", ()))) for row in rows)
    ]
    absent = [name for name in FIRST_PARTY if name not in {r["name"] for r in rows}]
    foot = [f"python {sys.executable}; `ddcore plugins show NAME` says more"]
    if absent:
        foot.append(f"not installed: {', '.join(absent)} (pip install ddcore-NAME)")
    return "\n".join([table(headings, cells), *foot])


def _short(hooks: list[str]) -> str:
    return " ".join(h.removeprefix("ddcore_") for h in hooks)


def show(name: str) -> dict[str, Any]:
    """Everything about one plugin; it is imported, and if that fails, the reason is its status.

    Raises:
        PluginError: there is no such plugin.
    """
    offer = find(name)
    row = {
        "name": offer.name,
        "distribution": offer.distribution,
        "version": offer.version,
        "entry": offer.value,
        **facts(offer),
    }
    try:
        loaded, _ = load_class(offer.request)
    except DdcoreError as error:
        return {**row, "status": f"broken: {error}"}
    cls: Any = loaded
    declared = (
        "modality",
        "view_phases",
        "augment_phases",
        "settings",
        "initializers",
        "labellers",
        "asks",
        "learns",
        "needs",
        "packs",
        "students",
    )
    words = {n: sorted(getattr(cls, n)) for n in declared if getattr(cls, n)}
    options = [
        {
            "flag": flag(offer.name, n),
            "default": _default(a.default),
            "help": a.metadata.get("help", ""),
            "symbol": a.metadata.get("symbol", ""),
            "unit": a.metadata.get("unit", ""),
        }
        for n, a in fields(cls).items()
    ]
    presets = [preset.as_json() for preset in presets_of(offer.name, cls).values()]
    reasons = {n: dict(getattr(cls, n)) for n in ("conflicts", "assumes", "exempt") if getattr(cls, n)}
    words |= {"suggests": found} if (found := [w for w in (cls.suggests, cls.suggests_labels) if w]) else {}
    return {
        **row,
        "api": cls.api,
        **words,
        **reasons,
        "options": options,
        "presets": presets,
        "file": str(source_file(offer.value.partition(":")[0])),
    }


def _default(value: Any) -> Any:
    """A default as JSON can hold it."""
    return value if value is None or isinstance(value, bool | int | float | str | tuple) else "(made anew)"


def show_text(found: dict[str, Any]) -> str:
    """``show`` for people."""
    plain = {k: v for k, v in found.items() if k not in ("options", "presets")}
    lines = [f"{k:<15} {_words(v)}" for k, v in plain.items()]
    if found.get("options"):
        cells = [[o["flag"], o["symbol"], _words(o["default"]), o["unit"], o["help"]] for o in found["options"]]
        lines += ["", table(["option", "symbol", "default", "unit", "meaning"], cells)]
    if found.get("presets"):
        cells = [
            [p["name"], p["dataset"], str(p["ipc"]), published_text(p["published"]), p["source"]]
            for p in found["presets"]
        ]
        lines += ["", table(["preset", "data", "ipc", "published", "source"], cells)]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value) or "none"
    return "none" if value is None else str(value)
