"""``ddcore plugins new``: a complete, working distribution from the templates in this package."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Any

from attrs import frozen

from ddcore.api.hooks import API_VERSION
from ddcore.composing.discovery import FIRST_PARTY, installed
from ddcore.errors import InputError, OptionError, near

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RESERVED = ("core", "experts", "probe", "teachers", "testing", "tiny", "torch", "views")


@frozen
class Kind:
    """What README, metadata and presets of a kind say; ``{name}`` is the plugin's name.

    Attributes:
        plugins, shared, settings: of the example in ``presets.toml``: whose it is, shared options, its own.
        no_presets: why there is none; empty where there is.
    """

    summary: str
    idea: str
    command: str
    options: str
    composes: str
    plugins: str = '["{name}", "dm"]'
    shared: str = "steps = 100"
    settings: str = ""
    no_presets: str = ""


KINDS: dict[str, Kind] = {
    "matcher": Kind(
        "match the mean image of each class",
        "Pulls the mean synthetic image of each class to the mean of its real images, under any view and augmentation.",
        "ddcore run --plugin {name} --dataset digits --ipc 1",
        "| `--{name}.lr-img` | | 10.0 | a step | learning rate of the pixels |\n"
        "| `--{name}.batch-real` | | 64 | images | real images of a class in a step |",
        "Every enhancement that changes the view or the augmentation in the phase `match`, and every initialiser.",
        plugins='["{name}"]',
        settings="lr_img = 10.0\nbatch_real = 64",
    ),
    "enhancement": Kind(
        "noise on every image that is compared",
        "Adds a little fresh noise to every image that is compared, so that single pixels cannot carry the match.",
        "ddcore run --plugin dm --plugin {name} --dataset digits --ipc 1",
        "| `--{name}.strength` | | 0.1 | of a normalised pixel | standard deviation of the noise; 0 changes nothing |",
        "Every matcher of images that draws augmentations in the phases `match`, `inner` or `student_step`.",
        settings="strength = 0.1",
    ),
    "labels": Kind(
        "label smoothing as a rule for any images",
        "Labels every image with its class, smoothed over all classes ([arXiv:1512.00567](https://arxiv.org/abs/1512.00567)).",
        "ddcore run --plugin dm --plugin {name} --labels {name} --dataset digits --ipc 1",
        "| `--{name}.share` | epsilon | 0.1 | | probability spread over all classes |",
        "Every matcher. Real images of the other rows are labelled by the same rule.",
        shared='steps = 100\nlabels = "{name}"',
        settings="share = 0.1",
    ),
    "student": Kind(
        "a penalty on students that are too sure",
        "Takes the mean entropy of a student's output off its loss ([arXiv:1701.06548](https://arxiv.org/abs/1701.06548)).",
        "ddcore run --plugin dm --plugin {name} --dataset digits --ipc 1",
        "| `--{name}.weight` | beta | 0.1 | | weight of the entropy; 0 changes nothing |",
        "Every matcher. All rows of an evaluation are trained alike, so they stay comparable.",
        settings="weight = 0.1",
    ),
    "evaluator": Kind(
        "a row for the nearest-mean classifier",
        "Adds a row to the table: how well the distilled images alone, without training, tell the test images apart.",
        "ddcore run --plugin dm --plugin {name} --dataset digits --ipc 1",
        "| none | | | | |",
        "Every matcher of images.",
        no_presets="None: it measures sets that others' settings made, and has no settings of its own.",
    ),
    "data": Kind(
        "computed images of bars, a class an angle",
        "Offers a data set that needs no file: bars at random places under noise, a class for each angle.",
        "ddcore run --plugin dm --plugin {name} --dataset {name} --ipc 1",
        "| `--{name}.classes` | K | 4 | | angles |\n"
        "| `--{name}.images` | | 40 | images | training images of a class; a quarter as many test images |\n"
        "| `--{name}.size` | | 8 | pixels | height and width |",
        "Every matcher of images.",
        no_presets="None: settings for these data are a method's, and stand in the presets of its plugin.",
    ),
    "executor": Kind(
        "do tasks again when disk or network fail",
        "Does tasks one after the other, each again when the disk or the network fails for a moment.",
        "ddcore run --plugin dm --plugin {name} --executor {name} --dataset digits --ipc 1",
        "| `--{name}.attempts` | | 3 | | times a task is tried |\n"
        "| `--{name}.pause` | | 1.0 | seconds | wait between attempts |",
        "Every matcher: an executor sees tasks, not methods.",
        no_presets="None: where tasks are done changes no result, so that no paper's settings name it.",
    ),
}


def create(name: str, kind: str, out: str) -> tuple[Path, list[str]]:
    """Write the distribution ``ddcore-NAME``.

    Args:
        name: small letters, digits and single hyphens.
        kind: one of ``KINDS``.
        out: folder that gets the folder ``ddcore-NAME``.

    Returns:
        The new folder, and its files.

    Raises:
        OptionError: an unknown kind, or a name that cannot be used or is taken.
        InputError: the folder exists, or cannot be written.
    """
    if kind not in KINDS:
        raise OptionError(f"--kind {kind!r} is no kind of plugin: {near(kind, KINDS)}")
    if not NAME.fullmatch(name) or name in RESERVED or keyword.iskeyword(name):
        raise OptionError(f"a plugin cannot be named {name!r}: use small letters, digits and hyphens, such as my-idea")
    if name in (*FIRST_PARTY, *installed()):
        raise OptionError(f"there is a plugin named {name!r} already: choose another name")
    folder = Path(out) / f"ddcore-{name}"
    if folder.exists():
        raise InputError(f"{folder} is there already: give another --out, or remove it")
    written = render(name, kind)
    try:
        for path, text in written.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error}): give another --out") from error
    return folder, sorted(written)


def render(name: str, kind: str) -> dict[str, str]:
    """Text of every file, by path in the distribution."""
    module = f"ddcore_{name.replace('-', '_')}"
    about = KINDS[kind]
    values: dict[str, Any] = {"name": name, "module": module, "module_name": name.replace("-", "_")}
    values |= {
        "cls": "".join(part.capitalize() for part in name.split("-")),
        "summary": about.summary,
        "api": API_VERSION,
        "idea": about.idea,
    }
    words = ("command", "options", "composes", "plugins", "shared", "settings", "no_presets")
    values |= {n: getattr(about, n).format(name=name) for n in words}
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
        f"{module}/__init__.py": f"{kind}/module.py.j2",
        "conftest.py": "conftest.py.j2",
        f"tests/test_{module.removeprefix('ddcore_')}.py": f"{kind}/test.py.j2",
    }
    if not about.no_presets:
        files[f"{module}/presets.toml"] = "presets.toml.j2"
    return {**{path: _rendered(template, values) for path, template in files.items()}, f"{module}/py.typed": ""}


def _rendered(template: str, values: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined  # of pages and templates only

    text = resources.files("ddcore.kit").joinpath("templates", template).read_text("utf-8")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(text).render(**values)


def next_steps(name: str, folder: Path, files: list[str]) -> str:
    """What a person does now."""
    lines = [f"wrote {folder}:", *(f"  {file}" for file in files), "next:"]
    lines += [f"  pip install -e {folder}[dev]", f"  ddcore plugins check {name}", f"  pytest {folder}"]
    return "\n".join(lines)
