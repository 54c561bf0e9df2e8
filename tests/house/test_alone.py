"""Tests of the core stand without plugins: they name none of this project's, and run on the probes of ``tests/probes``."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml"))
COMMON = {"diagnose", "graphs", "hard", "hello", "infer", "quantize", "ray", "robust", "smooth", "text", "torch"}
"""Names that are words of their own in a test: these count only where a plugin is asked for."""
FILES = [
    path for path in sorted((ROOT / "tests").rglob("*.py")) if "plugins" not in path.relative_to(ROOT / "tests").parts
]
ALLOWED = {}
"""Files that name plugins of this project all the same, each with its reason."""


def words_of(text: str) -> set[str]:
    """The plugins that a literal text names.

    >>> sorted(words_of("dm")), words_of("hard"), words_of("run --plugin=hard"), words_of("ddcore_kd.losses")
    (['dm'], set(), {'hard'}, {'kd'})
    """
    asked = set(re.findall(r"--plugin[ =]([\w-]+)", text)) | {
        m.replace("_", "-") for m in re.findall(r"\bddcore[-_]([\w-]+)", text)
    }
    named = {word for word in re.split(r"[^\w-]+", text) if word not in COMMON}
    return (asked | named) & {*PLUGINS}


def literals(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT / "tests")))
def test_a_test_of_the_core_names_no_plugin_of_this_project(file):
    named = {word for text in literals(file) for word in words_of(text)}
    named |= {
        module.partition(".")[0].removeprefix("ddcore_").replace("_", "-")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        for module in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
        )
        if module.startswith("ddcore_") and not module.startswith("ddcore_probes")
    }
    allowed, reason = ALLOWED.get(str(file.relative_to(ROOT / "tests")), ((), "none"))
    assert named <= {*allowed}, f"move it to tests/plugins or onto tests/probes ({reason})"
    assert {*allowed} <= named, "an allowance that nothing needs: take it away"
