"""What a command does besides its answer: hosts asked, processes begun, files changed outside of named folders.

Audit hooks cannot be taken away, so there is one, which listens only within ``guarded``.
"""

from __future__ import annotations

import os
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


class Listener:
    """A server of this machine that keeps what it is asked, and answers 404."""

    def __init__(self) -> None:
        requests = self.requests = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(f"{self.command} {self.path}")
                self.send_error(404)

            do_HEAD = do_PUT = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self.server.shutdown()
        self.server.server_close()
