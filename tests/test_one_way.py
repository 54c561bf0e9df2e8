"""Plugins import ddcore and modality packs, never a method; ddcore imports no plugin; listing and help do without torch."""

import ast
import importlib.util
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from ddcore.contract.public import PUBLIC
from ddcore.plugins import PACK, Plugin

ROOT = Path(__file__).parents[1]
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


def test_imports_of_the_core_run_one_way_even_within_functions():
    """But for ``ddcore.work``, which does tasks: a run maps tasks, and a task opens a run."""
    files = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in ROOT.glob("ddcore/**/*.py")}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph = {name: modules_of(path) & (set(files) - {"ddcore", "ddcore.work", name}) for name, path in files.items()}
    assert len(graph) > 50 and sum(map(len, graph.values())) > 200
    TopologicalSorter(graph).prepare()


def modules_of(path: Path) -> set[str]:
    """What a file imports, within functions too, but not for its types alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name for node in found for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))}


OUTSIDE = [
    *ROOT.glob("examples/third-party/*.py"),
    *ROOT.glob("plugins/*/ddcore_*/*.py"),
    *ROOT.glob("plugins/*/ddcore_*.py"),
]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_packages_import_only_public_names_of_public_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ddcore":
            assert node.module in PUBLIC, node.module
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]


def test_every_public_module_exists():
    for module in PUBLIC:
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("arguments", [["--help"], ["plugins"], ["run", "--help"]], ids=" ".join)
def test_help_and_listing_do_not_import_torch(arguments):
    code = f"import sys; from ddcore.cli import invoke; invoke({arguments!r}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
