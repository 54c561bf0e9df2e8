"""Installed distributions for tests: dist-info folders with entry points on the path."""

import os
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from two_classes import two  # noqa: F401

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


@pytest.fixture(scope="module")
def probes():
    """`pull` and `rival` (matchers), `turn` and `shake` (enhancements) as if `ddcore-probes` were installed, in child processes too."""
    folder = str(Path(__file__).parent / "probes")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        patched.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))))
        yield


HOSTILE = (
    "<script>document.title='run'<script>",
    "<img src=http:x.example onerror=alert(1)>",
    "\"quoted\" & 'single' {{ 7 * 7 }} $x^2$",
    "\u05e9\u05dc\u05d5\u05dd \u202eright-to-left",
    "longer-than-any-telephone-is-wide-" * 5,
)
"""Names of classes that a page has to show letter by letter."""


@pytest.fixture(scope="session")
def hostile_runs(tmp_path_factory):
    """A distillation, another one, and a training, on pictures whose classes have such names: folders by kind."""
    import numpy as np
    from PIL import Image

    from ddcore.cli.app import invoke
    from ddcore.testing import PROBE

    root = tmp_path_factory.mktemp("hostile")
    generator = np.random.default_rng(0)
    for number, name in enumerate(HOSTILE):
        for split, count in (("train", 6), ("test", 2)):
            (root / "data" / split / name).mkdir(parents=True)
            for n in range(count):
                pixels = generator.integers(40 * number, 40 * number + 90, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "data" / split / name / f"{n}.png")
    small = ("--protocol=quick-3", "--eval-seeds=2", "--threads=1", f"--cache={root / 'cache'}")
    here, data = Path.cwd(), f"--dataset=folder:{root / 'data'}"
    os.chdir(root)
    try:
        for name, ipc in (("distilled", 2), ("larger", 4)):
            line = (
                "run",
                *PROBE,
                data,
                f"--ipc={ipc}",
                "--steps=4",
                "--full-epochs=1",
                "--network=convnet2-w4",
                f"--out={name}",
            )
            assert invoke([*line, *small]) == 0
        line = ("train", f"--data=folder:{root / 'data'}", "--student=convnet2-w4", "--out=trained", "--per-class=4")
        assert invoke([*line, *small]) == 0
        assert invoke(["compare", "distilled", "larger", "trained", "--out=comparison.html"]) == 0
    finally:
        os.chdir(here)
    return root
