"""Functions are short and take few parameters: under 60 lines, docstring and all, and at most 8."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for path in sorted([*ROOT.glob("ddcore/**/*.py"), *ROOT.glob("plugins/*/ddcore_*/**/*.py")])
    if not {"tests", "templates"} & {*path.relative_to(ROOT).parts}
]
LINES, PARAMETERS = 60, 8
BOUND = {"self", "cls", "ctx"}
"""What a method is called on; ``ctx`` is that of ``torch.autograd.Function``."""
LEFT = {("projector.py", "__init__")}
"""Over the limits still."""


def functions(node: ast.AST, of_class: bool = False) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Every function with its number of parameters."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            given = child.args
            names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            names = names[1:] if of_class and names and names[0] in BOUND else names
            yield child, len(names) + bool(given.vararg) + bool(given.kwarg)
        yield from functions(child, isinstance(child, ast.ClassDef))


def too_large(source: str) -> list[tuple[str, int, int]]:
    """Name, lines and parameters of the functions over a limit; hooks take as many parameters as they have to tell."""
    found = [(f.name, f.end_lineno - f.lineno + 1, count) for f, count in functions(ast.parse(source))]
    return [
        (name, lines, count)
        for name, lines, count in found
        if lines >= LINES or (count > PARAMETERS and not name.startswith("ddcore_"))
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: "-".join(path.relative_to(ROOT).parts[-3:]))
def test_functions_are_short_and_take_few_parameters(path):
    assert not [each for each in too_large(path.read_text()) if (path.name, each[0]) not in LEFT]


def test_what_is_counted():
    nine = ", ".join(f"p{n}" for n in range(9))
    assert too_large(f"def one({nine}): ...") == [("one", 1, 9)]
    assert too_large("def one(a, /, b, c, d, e, *f, g, h, **i): ...") == [("one", 1, 9)]
    assert too_large(f"class A:\n  def ddcore_one(self, {nine}): ...\n  def one(self, {nine[:-4]}): ...") == []
    assert too_large("def one():\n" + "  1\n" * 59) == [("one", 60, 0)]
    assert too_large("def one():\n" + "  1\n" * 58) == []
    inner = f"class A:\n  def one(self):\n    def two(self, {nine[:-4]}): ..."
    assert too_large(inner) == [("two", 1, 9)]
