"""What a command does besides its answer: hosts asked, processes begun, files read and changed outside of named folders.

Audit hooks cannot be taken away, so ``guarded`` has one, which listens only within it. ``Watch`` is for a process of its own, and notes
reads as well. Compiled code that opens files tells no audit hook: ``Baits`` has the system say who opened some files.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ASKED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"}
BEGUN = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
CHANGED = {
    "os.mkdir": 0,
    "os.remove": 0,
    "os.rmdir": 0,
    "os.rename": 1,
    "os.link": 1,
    "os.symlink": 1,
    "os.truncate": 0,
    "shutil.rmtree": 0,
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FREE = ("/dev/null", "/dev/shm", "/proc")

_found: list[str] | None = None
_folders: tuple[str, ...] = ()
_hooked = False


def _hear(event: str, arguments: tuple) -> None:
    if _found is None:
        return
    if event in ASKED | BEGUN:
        _found.append(event)
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        _look(event, arguments[0])
    elif event in CHANGED:
        _look(event, arguments[CHANGED[event]])


def _look(event: str, path: object) -> None:
    if isinstance(path, str | bytes | os.PathLike):
        full = os.path.abspath(os.fsdecode(path))
        if not full.startswith((*_folders, *FREE)) and "__pycache__" not in full:
            assert _found is not None
            _found.append(f"{event} {full}")


@contextmanager
def guarded(folders: Sequence[Path]) -> Iterator[list[str]]:
    """Collect what is asked, begun, and changed outside of some folders."""
    global _found, _folders, _hooked
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    _folders, _found = tuple(str(folder) for folder in folders), []
    try:
        yield _found
    finally:
        _found = None


class Watch:
    """All that a process does from now on, as pairs of what and where: ``reads``, ``writes``, ``asks``, ``begins``."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, str], None] = {}
        self.idle = False

    def see(self, event: str, arguments: tuple) -> None:
        """Python calls this before whatever it is that happens."""
        if self.idle:
            return
        if event in ASKED:
            self.events["asks", address(event, arguments)] = None
        elif event in BEGUN:
            self.events["begins", f"{event} {str(arguments)[:200]}"] = None
        elif event in CHANGED:
            if event not in ("os.remove", "os.rmdir") or arguments[1] == -1:  # else a part of ``shutil.rmtree``
                self.note("writes", arguments[CHANGED[event]])
        elif event in ("os.listdir", "os.scandir"):
            self.note("reads", arguments[0] or ".")
        elif event == "open":
            self.note("writes" if isinstance(arguments[2], int) and arguments[2] & WRITES else "reads", arguments[0])

    def note(self, what: str, path: object) -> None:
        """A file or folder; one that is open already has no path, and of one that is not there nothing is read."""
        if isinstance(path, str | bytes | os.PathLike) and (what != "reads" or os.path.lexists(path)):
            self.events[what, os.path.abspath(os.fsdecode(path))] = None


def address(event: str, arguments: tuple) -> str:
    """The host that is asked, with its port where that is known."""
    if event == "socket.connect":
        return ":".join(map(str, arguments[1][:2])) if isinstance(arguments[1], tuple) else str(arguments[1])
    if event == "http.client.connect":
        return f"{arguments[1]}:{arguments[2]}"
    return str(arguments[0] if event != "socket.getaddrinfo" else f"{arguments[0]}:{arguments[1]}")


def of_the_system() -> tuple[str, ...]:
    """What any Python program reads: itself, its packages, this repository's code, and what belongs to the system."""
    root = Path(__file__).parents[2]
    code = {str(root), sys.prefix, sys.base_prefix, *(p for p in sys.path if p and "site-packages" in p)}
    every = {os.path.realpath(path) for path in code} | code
    return (
        *every,
        "/proc",
        "/sys",
        "/dev",
        "/usr",
        "/lib",
        "/etc/localtime",
        "/etc/ld.so",
        "/etc/mime.types",
        "/etc/apache2",
    )


class Baits:
    """Files that nothing may open: Linux says when something did, compiled code included."""

    OPENED = 0x20

    def __init__(self, files: Sequence[Path]) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self.handle = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.files = {
            library.inotify_add_watch(self.handle, os.fsencode(file), self.OPENED): file.name for file in files
        }

    def taken(self) -> list[str]:
        """Names of files that were opened since this was asked last."""
        try:
            told = os.read(self.handle, 2**16)
        except BlockingIOError:
            return []
        return sorted({self.files[struct.unpack_from("i", told, at)[0]] for at in range(0, len(told), 16)})

    def close(self) -> None:
        """Look no more."""
        os.close(self.handle)


def links(folder: Path) -> bytes:
    """A page that leads to the files of a folder."""
    return "".join(f'<a href="{file.name}">{file.name}</a>' for file in sorted(folder.iterdir())).encode()


class Listener:
    """A server of this machine that keeps what it is asked, and answers 404, or what lies in a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        requests = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(f"{self.command} {self.path}")
                file = None if folder is None else folder / self.path.strip("/")
                if file is None or not file.exists():
                    self.send_error(404)
                    return
                content = file.read_bytes() if file.is_file() else links(file)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_PUT = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self.server.shutdown()
        self.server.server_close()
