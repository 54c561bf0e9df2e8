"""The hook reference of CONTRIBUTING.md, written from the hook specs: ``python -m ddcore.kit.reference``."""

from __future__ import annotations

import inspect

from ddcore.api import hooks as hookspecs

KIND_WORDS = {
    "by_name": "by name",
    "one": "one",
    "chain": "chain, in command-line order",
    "collect": "collect",
    "observe": "observe",
}


def hook_reference() -> str:
    """Markdown: each hook's signature, kind and contract, in the order a run calls them."""
    return "\n".join(entry(name) for name in hookspecs.KINDS)


def entry(name: str) -> str:
    """One hook."""
    spec = getattr(hookspecs, name)
    parameters = ", ".join(inspect.signature(spec).parameters)
    returns = str(inspect.signature(spec).return_annotation)
    text = inspect.getdoc(spec) or ""
    return f"### `{name}({parameters}) -> {returns}`\n\n*{KIND_WORDS[hookspecs.KINDS[name]]}*\n\n```text\n{text}\n```\n"


if __name__ == "__main__":
    import click

    click.echo(hook_reference())
