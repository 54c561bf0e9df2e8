"""Fixtures for the tests of all plugins."""

from ddcore.testing import tiny_run  # noqa: F401
