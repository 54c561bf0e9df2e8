"""Plugins import ddcore and modality packs, never a method; ddcore imports no plugin; listing and help do without torch."""

import ast
import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ddcore import _moved
from ddcore.api.plugin import PACK, Plugin
from ddcore.kit.contract.public import PACKAGES, is_public, listed

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(p.parent.name for p in ROOT.glob("plugins/*/pyproject.toml"))
MODULES = {f"ddcore_{name.replace('-', '_')}" for name in PLUGINS}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", sorted(ROOT.glob("ddcore/**/*.py")), ids=lambda p: p.name)
def test_the_core_imports_no_plugin(path):
    assert not imported(path) & MODULES


def class_attributes(name: str) -> dict[str, object]:
    """``role`` and ``packs`` as a plugin's class declares them, and the distributions its own depends on; nothing is imported."""
    project = tomllib.loads((ROOT / "plugins" / name / "pyproject.toml").read_text())["project"]
    module, _, wanted = project["entry-points"]["ddcore"][name].partition(":")
    file = ROOT / "plugins" / name / module
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    (body,) = [n.body for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef) and n.name == wanted]
    declared = {"role": Plugin.role, "packs": Plugin.packs}
    for line in body:
        if isinstance(line, ast.AnnAssign) and line.target.id in declared:
            declared[line.target.id] = ast.literal_eval(line.value)
    return declared | {"dependencies": {word.partition(">")[0] for word in project["dependencies"]}}


DECLARED = {name: class_attributes(name) for name in PLUGINS}


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_imports_no_other_but_the_modality_packs_that_it_declares(name):
    packs = DECLARED[name]["packs"]
    allowed = {f"ddcore_{word.replace('-', '_')}" for word in (name, *packs)}
    files = [p for p in (ROOT / "plugins" / name).rglob("*.py") if "tests" not in p.parts]
    assert files
    for path in files:
        assert not imported(path) & (MODULES - allowed), path


@pytest.mark.parametrize("name", [name for name in PLUGINS if DECLARED[name]["packs"]])
def test_what_a_plugin_declares_as_a_pack_is_one_and_is_installed_with_it(name):
    for pack in DECLARED[name]["packs"]:
        assert DECLARED[pack]["role"] == PACK
        assert f"ddcore-{pack}" in DECLARED[name]["dependencies"]


def test_graphs_and_text_are_packs_and_packs_stand_on_packs_only():
    packs = {name for name in PLUGINS if DECLARED[name]["role"] == PACK}
    assert {"graphs", "text"} <= packs
    assert all(set(DECLARED[name]["packs"]) <= packs for name in packs)


OUTSIDE = [
    *ROOT.glob("examples/third-party/*/*.py"),
    *ROOT.glob("plugins/*/ddcore_*/*.py"),
    *ROOT.glob("plugins/*/ddcore_*.py"),
]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_packages_import_only_public_names_of_public_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ddcore":
            assert not [(node.module, a.name) for a in node.names if not is_public(node.module, a.name)]


def test_the_public_surface_is_the_recorded_one():
    record = json.loads((ROOT / "tests" / "public_api.json").read_text())
    assert listed() == record, "write it again: python -m ddcore.kit.contract.public > tests/public_api.json"
    assert len({name for package, names in record.items() if package != "ddcore" for name in names}) <= 200


@pytest.mark.parametrize("package", PACKAGES)
def test_whatever_a_package_lists_is_there(package):
    module = importlib.import_module(package)
    assert all(hasattr(module, name) for name in module.__all__)


def test_layers_hold():
    """The list is ``tool.importlinter`` in ``pyproject.toml``: types and imports within functions count."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [pair for pair in _moved.MOVED.items() if pair[0].count(".") == 1][::9],
    ids=lambda name: name.rpartition(".")[2],
)
def test_a_module_is_found_under_its_old_name_with_a_word_about_the_new_one(old, new):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(new) and found.__spec__.name == new


def test_names_of_a_module_that_is_a_package_now_are_found_with_a_word_too():
    with pytest.warns(DeprecationWarning, match="ddcore.training.answers_of is now ddcore.training.loop.answers_of"):
        assert callable(importlib.import_module("ddcore.training").answers_of)


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["run", "--help"]], ids=" ".join)
def test_help_and_listing_do_not_import_torch(arguments):
    code = f"import sys; from ddcore.cli import invoke; invoke({arguments!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def inside(path: Path) -> list[tuple[str, bool]]:
    """Functions that import from ddcore, once for each import, and whether a reason stands beside their first one."""
    lines, found = path.read_text().splitlines(), []
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            own = [node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)]
            first = "#" in lines[min((node.lineno for node in own), default=1) - 1]
            core = [n for n in own if isinstance(n, ast.ImportFrom) and (n.module or "").partition(".")[0] == "ddcore"]
            found += [(function.name, first) for _ in core]
    return found


MOST_INSIDE = 34


@pytest.fixture(scope="module")
def importing_inside():
    return {path: inside(path) for path in ROOT.glob("ddcore/**/*.py") if "templates" not in path.parts}


def test_few_imports_stand_inside_functions_each_with_its_reason(importing_inside):
    assert sum(map(len, importing_inside.values())) <= MOST_INSIDE
    assert not [(path.name, name) for path, found in importing_inside.items() for name, why in found if not why]


def test_imports_stand_inside_functions_only_of_modules_that_do_without_torch(importing_inside):
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p, found in importing_inside.items() if found]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names!r}]; sys.exit('torch' in sys.modules)"
    assert names and subprocess.run([sys.executable, "-c", code]).returncode == 0, names
