"""Fixtures and the contract kit for tests of plugins: ``pytest_plugins = ["ddcore.testing"]``, ``from ddcore.testing import check_plugin``."""

from ddcore.kit import testing
from ddcore.kit.testing import *  # noqa: F403

__all__ = testing.__all__
