"""What packages lend can be had under its name whatever was imported before."""

from importlib import import_module
from pkgutil import iter_modules

import pytest

from ddcore.kit.contract.public import PACKAGES


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_is_lent_that_a_module_would_hide(package):
    held = import_module(package)
    modules = {module.name for module in iter_modules(held.__path__)}
    for name in modules & set(held.__all__):
        import_module(f"{package}.{name}")
        assert not hasattr(getattr(held, name), "__path__") and callable(getattr(held, name)), (package, name)
