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
    pinned = re.compile(rf'^    api: ClassVar\[str\] = "{re.escape(API_VERSION)}"$', re.M)
    assert len(modules) > 40 and all(any(pinned.search(text) for text in texts) for texts in modules)
    templates = [file.read_text() for file in root.glob("ddcore/kit/templates/*/module.py.j2")]
    assert templates and all('    api: ClassVar[str] = "{{ api }}"' in text for text in templates)
