"""No plugin's name decides anything in the core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import ddcore
from ddcore.composing import discovery

CORE = Path(ddcore.__file__).parent
PLUGINS = CORE.parent / "plugins"
WORDS = {"hard", "text", "graphs", "series", "tabular"}
"""Names that have a meaning of their own."""


def constants(source: str) -> Iterator[tuple[int, str]]:
    """Line and value of every string that is no docstring of a module, class or function."""
    tree = ast.parse(source)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    heads = [node.body[0] for node in ast.walk(tree) if isinstance(node, owners) and node.body]
    docstrings = {id(head.value) for head in heads if isinstance(head, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def named(names: set[str]) -> list[str]:
    """Where the core says one of these names."""
    files = [path for path in sorted(CORE.rglob("*.py")) if "templates" not in path.parts]
    found = []
    for path in files:
        hints = set(discovery.FIRST_PARTY) if path == Path(discovery.__file__) else set()
        said = [(line, text) for line, text in constants(path.read_text(encoding="utf-8")) if text in names - hints]
        found += [f"{path.relative_to(CORE)}:{line} {text!r}" for line, text in said]
    return found


def test_no_plugins_name_stands_in_the_core_but_in_the_list_of_what_to_install():
    plugins = {path.parent.name for path in PLUGINS.glob("*/pyproject.toml")}
    assert len(plugins) > 20
    assert named((plugins | set(discovery.FIRST_PARTY)) - WORDS) == []


def test_no_protocol_of_a_plugin_stands_in_the_core():
    words = {name for name in discovery.installed_protocols() if len(name) > 1}
    assert named(words - WORDS - set(discovery.FIRST_PARTY)) == []


def test_a_name_is_found_wherever_code_says_it_and_not_in_a_docstring():
    source = 'def f(x="word"):\n    """word"""\n    return x == "word" or "of word"\n'
    assert [text for _, text in constants(source)].count("word") == 2
    assert list(constants('class A:\n    "word"\n')) == []
