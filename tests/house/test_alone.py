"""Tests of the core stand without plugins: they name none of this project's, and run on the probes of ``tests/probes``."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml"))
COMMON = {
    "diagnose",
    "graphs",
    "hard",
    "hello",
    "infer",
    "quantize",
    "ray",
    "robust",
    "series",
    "smooth",
    "tabular",
    "text",
    "torch",
}
"""Names that are words of their own in a test: these count only where a plugin is asked for."""
FILES = [
    path
    for path in sorted((ROOT / "tests").rglob("*.py"))
    if "plugins" not in path.relative_to(ROOT / "tests").parts and path != Path(__file__)
]
HINTS = "what is not installed is named by the core's list of what could be"
INSTALLED = "every plugin that is installed is run on a device there"
READERS = "files that plugins read are broken too, where these are installed"
ALLOWED: dict[str, tuple[set[str], str]] = {
    "commands/test_strangers.py": ({"dm", "hard", "mtt"}, "its records are of runs of matchers that are not there"),
    "composing/test_options.py": ({"fyi", "datm"}, HINTS),
    "composing/test_plugins.py": ({"datm"}, HINTS),
    "house/test_cuda.py": ({"datm", "fyi"}, INSTALLED),
    "house/test_randomness.py": ({"dm"}, "a key whose numbers are written down"),
    "house/test_stand_in_device.py": ({"datm", "fyi", "text"}, INSTALLED),
    "kit/test_contract.py": ({"dm", "mtt"}, "the kit composes with these where they are installed"),
    "kit/test_scaffold.py": ({"dm"}, HINTS),
    "on_devices.py": ({"graphs", "kd", "mirage", "mlflow", "ray", "submitit", "tensorboard", "text"}, INSTALLED),
    "reliability/bombs.py": ({"graphs", "mirage", "hello"}, READERS),
    "reliability/fuzz.py": ({"graphs", "mirage", "hello"}, READERS),
    "reliability/kills.py": ({"hello"}, "its recipe ``fit`` is for tests/plugins and benchmarks"),
}
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
    allowed, _ = ALLOWED.get(str(file.relative_to(ROOT / "tests")), (set(), ""))
    assert named <= allowed, "run it on tests/probes, or move it to tests/plugins"
