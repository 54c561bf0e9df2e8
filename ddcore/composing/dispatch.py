"""Asking hooks, in the five ways that ``hookspecs`` names. Written once, over pluggy's public calls.

pluggy calls the last registered plugin first, lets it win silently, and cannot fold a value through plugins; here the
order is the command line's, two answers where one is due are an error that names both, and chains fold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pluggy

from ddcore.api.hooks import KINDS
from ddcore.errors import DdcoreError, PluginError

CORE = "core"
LOOKED_UP = "ddcore_protocol"
"""The hook that says nothing of whether a plugin is of use, unless it answers: everybody is asked for every name."""
Asked = Callable[[Any], bool]
Check = Callable[[Any, str], Any]
"""From an answer and who gave it ("ddcore_view of 'fyi' (ddcore-fyi 0.1.0)") to the answer, or a refusal."""
LinkCheck = Callable[[Any, Any, str], Any]
"""The same for a link of a chain; the value before it stands second."""


class Dispatch:
    """The selected plugins' hooks.

    Attributes:
        asked: how often each plugin was asked, to find one that a run never uses.
    """

    def __init__(self, manager: pluggy.PluginManager, describe: Mapping[str, str]) -> None:
        """``describe`` says for messages what a plugin is: name to "'dm' (ddcore-dm 0.1.0)"."""
        self._manager = manager
        self._describe = describe
        self.asked: Counter[str] = Counter()
        self._deaf: set[str] = set()
        self._gave_way = _those_that_give_way(manager)

    def providers(self, hook: str) -> list[pluggy.HookImpl]:
        """Implementations in command-line order, the core's first."""
        caller = getattr(self._manager.hook, hook)
        return list(caller.get_hookimpls())

    def names(self, hook: str) -> list[str]:
        """Names of the plugins that implement a hook, in command-line order."""
        return [impl.plugin_name for impl in self.providers(hook)]

    def who(self, plugin: str) -> str:
        """A plugin as messages name it."""
        return self._describe.get(plugin, "the core" if plugin == CORE else repr(plugin))

    def source(self, hook: str, plugin: str) -> str:
        """A hook of a plugin as messages name it."""
        return f"{hook} of {self.who(plugin)}"

    def by_name(self, hook: str, *, check: Check | None = None, **arguments: Any) -> Any:
        """The answer of the one plugin that knows ``arguments["name"]``, or None.

        Raises:
            PluginError: two plugins answer the same name.
        """
        self._check(hook, "by_name")
        answers = [(impl.plugin_name, self._call(hook, impl, arguments)) for impl in self.providers(hook)]
        given = [(plugin, answer) for plugin, answer in answers if answer is not None]
        if len(given) > 1:
            both = " and ".join(self.who(plugin) for plugin, _ in given)
            raise PluginError(f"{both} both answer {hook} for {arguments.get('name')!r}: select one of them only")
        if not given:
            return None
        plugin, answer = given[0]
        return answer if check is None else check(answer, self.source(hook, plugin))

    def sole(self, hook: str) -> pluggy.HookImpl | None:
        """The one implementation of a hook of which a run has at most one.

        Raises:
            PluginError: a second one, naming both.
        """
        self._check(hook, "one")
        providers = [impl for impl in self.providers(hook) if impl.plugin_name not in self._gave_way]
        if len(providers) > 1:
            both = " and ".join(self.who(impl.plugin_name) for impl in providers)
            raise PluginError(f"{both} both provide {hook}, of which a run has one: keep one of them")
        return providers[0] if providers else None

    def one(self, hook: str, *, check: Check | None = None, optional: bool = False, **arguments: Any) -> Any:
        """The answer of the only implementation; None when there is none, or, where ``optional``,
        it leaves it to the core."""
        impl = self.sole(hook)
        if impl is None:
            return None
        answer = self._call(hook, impl, arguments)
        if check is None or (optional and answer is None):
            return answer
        return check(answer, self.source(hook, impl.plugin_name))

    def chain(
        self, hook: str, value: Any, *, only: Asked | None = None, check: LinkCheck | None = None, **arguments: Any
    ) -> Any:
        """Fold ``value`` through the plugins in command-line order; a plugin that answers None leaves it.

        Args:
            only: asks just the plugins for which this is true.
            check: looks at each answer.
            arguments: the same for every plugin, or a function of the plugin's name where each needs its own.
        """
        self._check(hook, "chain")
        for impl in self.providers(hook):
            if only is not None and not only(impl.plugin):
                continue
            answer = self._call(hook, impl, {self._first(hook): value, **arguments})
            if answer is not None:
                value = answer if check is None else check(answer, value, self.source(hook, impl.plugin_name))
        return value

    def collect(self, hook: str, *, check: Check | None = None, **arguments: Any) -> dict[str, Any]:
        """Every plugin's answer by plugin name; None is left out."""
        self._check(hook, "collect")
        answers = {impl.plugin_name: self._call(hook, impl, arguments) for impl in self.providers(hook)}
        given = {plugin: answer for plugin, answer in answers.items() if answer is not None}
        if check is None:
            return given
        return {plugin: check(answer, self.source(hook, plugin)) for plugin, answer in given.items()}

    def observe(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin."""
        self._check(hook, "observe")
        for impl in self.providers(hook):
            self._call(hook, impl, arguments)

    def tell(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Exception]]:
        """Tell every plugin, except those that raised here before.

        Yields:
            Who raised, as messages name it, and what.
        """
        self._check(hook, "observe")
        for impl in self.providers(hook):
            if impl.plugin_name in self._deaf:
                continue
            try:
                self._call(hook, impl, arguments)
            except Exception as error:
                self._deaf.add(impl.plugin_name)
                yield self.source(hook, impl.plugin_name), error

    def _call(self, hook: str, impl: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
        plugin = impl.plugin_name
        own = {n: v(plugin) if isinstance(v := arguments[n], PerPlugin) else v for n in impl.argnames}
        self.asked[plugin] += hook != LOOKED_UP
        with self.noted(hook, plugin):
            answer = impl.function(**own)
        self.asked[plugin] += hook == LOOKED_UP and answer is not None
        return answer

    @contextmanager
    def noted(self, hook: str, plugin: str) -> Iterator[None]:
        """A stretch in which a plugin's own code runs: whatever it raises says whose it is."""
        try:
            yield
        except DdcoreError:
            raise
        except Exception as error:
            error.add_note(f"in {self.source(hook, plugin)}")
            raise

    def _check(self, hook: str, kind: str) -> None:
        if KINDS[hook] != kind:
            raise TypeError(f"{hook} is a {KINDS[hook]} hook, asked as {kind}")

    def _first(self, hook: str) -> str:
        spec = getattr(self._manager.hook, hook).spec
        return str(spec.argnames[0])


def _those_that_give_way(manager: pluggy.PluginManager) -> frozenset[str]:
    """Matchers that are enhancements in this run, because another one matches."""
    matchers = {name: plugin for name, plugin in manager.list_name_plugin() if getattr(plugin, "role", "") == "matcher"}
    return frozenset(n for n, plugin in matchers.items() if len(matchers) > 1 and getattr(plugin, "gives_way", False))


class PerPlugin:
    """An argument that is different for each plugin: a function of its name."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make

    def __call__(self, plugin: str) -> Any:
        return self._make(plugin)


ALONE = PerPlugin(lambda plugin: None)
"""Plugins' companions, where a task has none."""
