"""First-party plugins and templates say which hook API they were written for."""

import re
from pathlib import Path

from ddcore.api.hooks import API_VERSION


def test_every_plugin_of_the_house_and_every_template_pins_the_version_it_is_written_for():
    root = Path(__file__).parents[2]
    modules = [
        [file.read_text() for file in folder.rglob("*.py") if "tests" not in file.parts]
        for folder in root.glob("plugins/*")
        if (folder / "pyproject.toml").exists()
    ]
    pinned = re.compile(r'^    api: ClassVar\[str\] = "(\d+)\.(\d+)"$', re.M)
    major, newest = map(int, API_VERSION.split("."))
    versions = [{(int(of), int(minor)) for text in texts for of, minor in pinned.findall(text)} for texts in modules]
    assert len(modules) > 40 and all(versions)
    assert all(of == major and minor <= newest for found in versions for of, minor in found)
    templates = [file.read_text() for file in root.glob("ddcore/kit/templates/*/module.py.j2")]
    assert templates and all('    api: ClassVar[str] = "{{ api }}"' in text for text in templates)
