"""Fixtures and the contract kit for the tests of this package."""

pytest_plugins = ["ddcore.testing"]
