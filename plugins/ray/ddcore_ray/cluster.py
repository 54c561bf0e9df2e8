"""A ray cluster of our own, or somebody else's: begun, joined and left without touching what we did not begin.

``ray.init()`` without an address joins whatever cluster it finds on the machine, and a cluster's files lie in one
folder for all users of it; so the address is always said, and a cluster of our own has a folder of its own.
"""

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import frozen

from ddcore.errors import InputError, OptionError

NAMESPACE = "ddcore"
LOCAL = "local"
LONGEST_FOLDER = 40
"""Letters of a cluster's folder: the addresses of its sockets, some sixty letters longer, may have 107."""
STORE_BYTES = 100 * 2**20
"""Of shared memory; answers are a line of text."""


@frozen
class Mine:
    """What this process holds: a cluster that it began, or a connection to another one.

    Attributes:
        cpus: of a cluster that it began.
        folder: of that cluster.
    """

    address: str
    cpus: float = 0.0
    folder: Path | None = None


_mine: Mine | None = None


def library() -> ModuleType:
    """The engine.

    Raises:
        InputError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "ray is not installed: pip install 'ddcore-ray[ray]', on every machine of the cluster"
        ) from error
    return ray


def resolved(address: str | None) -> str:
    """Which cluster: as given, else ``RAY_ADDRESS``, else one of our own."""
    found = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if found.startswith("ray://"):
        raise OptionError(
            f"--ray.address {found} is of Ray Client, which cannot stop tasks cleanly: begin the run on a machine of the cluster and give HOST:PORT"
        )
    return found


def connect(address: str, cpus: float, retries: int) -> ModuleType:
    """Be connected to a cluster; one that this process began stays until its end, for the next call.

    A process that has already called ``ray.init`` itself keeps its connection.

    Args:
        cpus: that the tasks take together; a cluster of our own is made that large.
        retries: of tasks that were killed for want of memory, in a cluster of our own.

    Raises:
        InputError: no cluster there, or one of another ray or Python.
    """
    global _mine
    ray = library()
    if ray.is_initialized():
        enough = _mine is None or (_mine.address == address and (address != LOCAL or _mine.cpus >= cpus))
        if enough:
            return ray
        leave()
    atexit.unregister(leave)
    atexit.register(leave)  # now, so that it comes before ray's own
    with _untouched_signals(), to_stderr():
        _mine = _begin(ray, max(cpus, os.cpu_count() or 1), retries) if address == LOCAL else _join(ray, address)
    return ray


def leave() -> None:
    """Stop a cluster that this process began, or disconnect from another; nothing where there is neither."""
    global _mine
    if _mine is not None:
        with to_stderr():
            library().shutdown()
        if _mine.folder is not None:
            shutil.rmtree(_mine.folder, ignore_errors=True)
    _mine = None


def end(ray: ModuleType, references: Sequence[Any]) -> None:
    """End tasks that would not stop; in a cluster of our own with all of it.

    Elsewhere by force, but never one that has ended: ray 2.60 takes the driver down when a task is ended by force whose
    answer is on its way.
    """
    left = [reference for reference in references if not ray.wait([reference], timeout=0)[0]]
    if left and _mine is not None and _mine.folder is not None:
        leave()
        return
    for reference in left:
        ray.cancel(reference, force=True)


def to_stderr() -> AbstractContextManager[Any]:
    """Keep what ray tells people, such as that a worker died, out of what ddcore prints for machines."""
    return redirect_stdout(sys.stderr)


def _begin(ray: ModuleType, cpus: float, retries: int) -> Mine:
    folder = Path(tempfile.mkdtemp(prefix="ddcore-ray-", dir=None if len(tempfile.gettempdir()) <= 20 else "/tmp"))
    own: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    own |= {"_temp_dir": str(folder), "_system_config": {"task_oom_retries": retries}}
    with _told(LOCAL), _no_statistics():
        ray.init(address=LOCAL, **own, **_quiet())
    return Mine(LOCAL, cpus, folder)


def _join(ray: ModuleType, address: str) -> Mine:
    with _told(address):
        ray.init(address=address, **_quiet())
    return Mine(address)


def _quiet() -> dict[str, Any]:
    return {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}


@contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, OSError, RuntimeError, TimeoutError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = "cannot be begun here" if address == LOCAL else f"at {address} cannot be joined"
        raise InputError(
            f"a ray cluster {where} ({why}): give --ray.address local, or HOST:PORT of a cluster with this ray"
        ) from error


@contextmanager
def _no_statistics() -> Iterator[None]:
    """A cluster that we begin does not report its use to ray's makers, unless the user's environment says so."""
    name = "RAY_USAGE_STATS_ENABLED"
    if name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextmanager
def _untouched_signals() -> Iterator[None]:
    """Keep the run's own handlers: ``ray.init`` puts one for SIGTERM in their place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # one that was not set from Python
                signal.signal(number, handler)
