"""One HTML file that opens from disk: all in it, nothing fetched, no scripts, every value from data escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from ddcore.storage.units import bytes_text

PLOTS_MISSING = (
    'Plots are drawn where matplotlib is installed: pip install "ddcore-torch[report]", then write this page again.'
)


def page(template: str, **values: Any) -> str:
    """A template of this package, filled in; templates build on ``page.html.j2``.

    Values that are ``Markup`` stand as they are: only plots are.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # of pages and templates only

    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"bytes": bytes_text, "words": words, "commas": "{:,}".format, "fixed": fixed}
    return environment.get_template(template).render(**values)


def _source(name: str) -> str:
    return resources.files("ddcore.pages").joinpath(name).read_text("utf-8")


def png_url(data: bytes) -> str:
    """A picture as an address that holds it; empty for no bytes."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}" if data else ""


def fixed(value: float) -> str:
    """A figure of three places.

    >>> fixed(0.87149)
    '0.871'
    """
    return f"{value:.3f}"


def words(value: Any) -> str:
    """A plain value for people.

    >>> words(["a", "b"]), words({"a": 1}), words(None), words(True)
    ('a, b', 'a 1', 'none', 'yes')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {words(v)}" for k, v in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(words, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
