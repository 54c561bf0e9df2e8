"""Parse, call, print."""

from ddcore.cli.app import invoke, main

__all__ = ["invoke", "main"]
