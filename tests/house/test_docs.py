"""Documents say what the code does."""

from pathlib import Path

from ddcore.api import hooks as hookspecs
from ddcore.kit.reference import hook_reference

ROOT = Path(__file__).parents[2]


def test_the_hook_reference_in_contributing_is_the_hook_specs():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    written = text.partition("## Hook reference\n")[2].strip()
    assert written == hook_reference().strip(), "write it again: python -m ddcore.kit.reference"


def test_every_hook_is_named_in_a_test():
    tests = "".join(p.read_text() for p in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/*.py")])
    assert [name for name in hookspecs.KINDS if name not in tests] == []


def test_every_plugin_stands_in_the_readme_and_has_a_readme_with_its_sections():
    readme = (ROOT / "README.md").read_text()
    for folder in sorted((ROOT / "plugins").iterdir()):
        if not (folder / "pyproject.toml").exists():
            continue
        assert f"`{folder.name}`" in readme, folder.name
        own = (folder / "README.md").read_text()
        assert "arXiv" in own or "arxiv" in own, folder.name
        for section in ("## Install", "## Options", "## Composes with", "## Results", "## Where we differ"):
            assert section in own, f"{folder.name}: {section}"
