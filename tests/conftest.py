"""Installed distributions for tests: dist-info folders with entry points on the path."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest

PLUGIN = """
    from attrs import frozen
    from ddcore import Plugin, hookimpl, option

    @frozen(kw_only=True, eq=False)
    class X(Plugin):
        summary = "one line"
        paper = "A title, 2024, arXiv:2401.00001"
        both: bool = option(True, help="both sides")
        {body}
"""
SETTING = "@hookimpl\n        def ddcore_setting(self, value): return value"


class Site:
    """A folder on the path that distributions are put into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def put(self, plugin: str, source: str, *, distribution: str = "", version: str = "1.2", value: str = "") -> str:
        distribution = distribution or f"ddcore-{plugin}"
        module = f"fake_{distribution}_{plugin}".replace("-", "_")
        (self.folder / f"{module}.py").write_text(dedent(source))
        about = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (about / "entry_points.txt").write_text(f"[ddcore]\n{plugin} = {value or module + ':X'}\n")
        self.modules.append(module)
        return module

    def plugin(self, plugin: str, body: str = SETTING, **more: str) -> str:
        return self.put(plugin, self.source(body), **more)

    @staticmethod
    def source(body: str = SETTING) -> str:
        return PLUGIN.format(body=body)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Site(tmp_path)
    yield made
    for name in [n for n in sys.modules if n in made.modules or n.startswith("ddcore_local_")]:
        del sys.modules[name]
