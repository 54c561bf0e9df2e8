"""Where bytes lie: folders and files on any fsspec file system, local ones written atomically.

A ``Place`` is an address and nothing else, so it can be kept, compared and sent to another process. Its ``url`` is what
messages and records show: without credentials and query. Tensors are stored as safetensors, never as pickles. What
fails on a remote store for a moment is tried again; what still fails, and a full disk, is one sentence.
"""

from __future__ import annotations

import atexit
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import fsspec
from attrs import field, frozen
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations
from safetensors import SafetensorError, safe_open

from ddcore.errors import FULL, MISFITS, InputError, NoSpace, StoreError, in_short, near
from ddcore.storage.documents import LONGEST, parse_json
from ddcore.storage.network import trouble
from ddcore.storage.printing import printable_line
from ddcore.storage.secrecy import bare, shown, without

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

DRIVERS = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface-hub",
    "smb": "smbprotocol",
    "dropbox": "dropboxdrivefs",
}
"""The distribution that brings each protocol's driver."""

SILENT = frozenset(DRIVERS) - {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl"}
"""Protocols whose drivers say of any trouble that nothing is there."""

UNFINISHED = ".part"
LEFT = re.compile(r"\..+\.(\d+)-([0-9a-f]{8})([0-9a-f]{8})?\.part", re.DOTALL)
"""Names of files that are still being written: of which process, and on which machine, if they say so."""
OLD = 6 * 3600.0
"""Seconds after which nobody is still writing a file."""

SECONDS_BETWEEN_APPENDS = 2.0
"""A remote log is rewritten at most this often."""

ATTEMPTS = 5
FIRST_WAIT = 0.5
"""Seconds; each wait is twice the one before."""
PATIENCE = 120.0
"""Seconds after which nothing is tried again: a driver that waits long for an answer has tried several times itself."""
LASTING: tuple[type[Exception], ...] = (
    *(FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError),
    *(ImportError, NotImplementedError, TypeError, ValueError, InputError),
)
"""What trying again does not mend."""
LONGEST_HEADER = 10_000_000
"""Bytes, a tenth of what safetensors allows: memory takes many times as much, and a thousand tensors need 100 kB."""
OPEN_SEAL = b"0" * 64
SEALED = re.compile(rb'"seal":"([0-9a-f]{64})"')
CLEARINGS = 2
"""How often a file that vanishes while it is written is written again."""
MOST_VISITS = 8
"""Of one folder, by links, when files are listed."""
READ_AT_ONCE = 2**24
MAPPED_FROM = 2**26
"""Bytes of a local file from which on its tensors stay in it: labels of views take gigabytes."""


@frozen
class Place:
    """A folder or file, there already or not yet.

    Attributes:
        address: path or fsspec URL as given, with credentials if it has any: to open, never to show.
    """

    address: str = field(repr=lambda address: repr(bare(address)))

    @classmethod
    def at(cls, url: str | os.PathLike[str] | Place) -> Place:
        """The place of a path or URL; a place stays what it is.

        Raises:
            InputError: the character NUL, which no path holds.
        """
        if not isinstance(url, Place) and "\0" in os.fspath(url):
            raise InputError(
                f"the path or URL {printable_line(bare(os.fspath(url)))} holds a NUL character: leave it out"
            )
        return url if isinstance(url, Place) else cls(os.path.expanduser(os.fspath(url)))

    def __truediv__(self, name: str) -> Place:
        """A child, or a deeper descendant (``"a/b"``).

        Raises:
            InputError: the name would lead out of this folder.
        """
        if name.startswith("/") or ".." in name.split("/") or "::" in name or "://" in name:
            raise InputError(f"{name!r} is no name inside {self.url}: use names without '..', '::' or a leading '/'")
        first, chain, rest = self.address.partition("::")
        path, mark, query = first.partition("?") if "://" in first else (first, "", "")
        return Place(path + ("" if path.endswith("/") else "/") + name + mark + query + chain + rest)

    @property
    def url(self) -> str:
        """The address as messages and records show it: no credentials, no query."""
        return shown(self.address)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.partition("::")[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Place:
        """The folder that it lies in."""
        first, chain, rest = self.address.partition("::")
        path, mark, query = first.partition("?") if "://" in first else (first, "", "")
        return Place(
            (path.rstrip("/").rpartition("/")[0] or ("/" if path.startswith("/") else "."))
            + mark
            + query
            + chain
            + rest
        )

    def local_path(self) -> Path | None:
        """The path on this machine; None if it lies elsewhere."""
        if "::" in self.address:
            return None
        protocol, mark, path = self.address.partition("://")
        if not mark:
            return Path(self.address)
        return Path(path) if protocol in ("file", "local") else None

    def is_remote(self) -> bool:
        """Whether it lies behind a network, by its outermost or any inner protocol."""
        return bool(self._protocols() & set(DRIVERS))

    def _protocols(self) -> set[str]:
        return {link.partition("://")[0] for link in self.address.split("::") if "://" in link}

    def exists(self) -> bool:
        """Whether there is a file or folder here now."""

        def there(fs: Any, path: str) -> bool:
            if not self._protocols() & SILENT:
                return bool(fs.exists(path))
            try:
                fs.info(path)
            except FileNotFoundError as error:
                if trouble(error) is not None:
                    raise
                return False
            return True

        return self._do("looked up", there, fresh=True)

    @property
    def nothing_there(self) -> str:
        """The beginning of a sentence that says so."""
        answer = " (its server answers 404 Not Found)" if self._protocols() & {"http", "https"} else ""
        return f"there is nothing at {self.url}{answer}"

    def is_folder(self) -> bool:
        """Whether there is a folder here now."""
        return bool(self._do("looked up", lambda fs, path: fs.isdir(path), fresh=True))

    def names(self) -> list[str]:
        """Names of the children, sorted; files that are still being written are left out."""
        listed = self._do("listed", lambda fs, path: fs.ls(path, detail=False), fresh=True)
        found = {entry.rstrip("/").rpartition("/")[2] for entry in listed}
        return sorted(name for name in found if not name.endswith(UNFINISHED))

    def files(self) -> list[str]:
        """Names of all files below, relative to this folder, sorted; local links are followed."""

        def find(fs: Any, path: str) -> list[str]:
            if not fs.isdir(path):
                raise FileNotFoundError(path)
            if self.local_path() is not None:
                return list(_below(path))
            return [entry.lstrip("/").removeprefix(path.strip("/")).lstrip("/") for entry in fs.find(path)]

        return sorted(name for name in self._do("listed", find, fresh=True) if not name.endswith(UNFINISHED))

    def size(self) -> int:
        """Bytes of a file."""
        return int(self._do("read", lambda fs, path: fs.size(path), fresh=True))

    def read_bytes(self, start: int | None = None, end: int | None = None) -> bytes:
        """A file's content, or the bytes from ``start`` up to ``end`` of it.

        Raises:
            InputError: there is none, or a folder, pipe, socket or device in its place, none of which is ever opened.
        """
        flush_appended(self)
        self.refuse_other_than_file()
        content: bytes = self._do("read", lambda fs, path: fs.cat_file(path, start=start, end=end))
        return content

    def is_there(self) -> bool:
        """Whether a name is taken here now, if only by a link that leads nowhere."""
        local = self.local_path()
        return self.exists() if local is None else os.path.lexists(local)

    def refuse_other_than_file(self) -> None:
        """Let a local place pass that is a file, or nothing yet; reading a pipe would never end.

        Raises:
            InputError: it is something else; says what.
        """
        if (local := self.local_path()) is not None and (kind := _other_kind(local)):
            raise InputError(f"{self.url} is {kind}, where a file has to be: remove it or give another path")

    def put_away(self) -> None:
        """Make room for a new file: what is here is removed, but for a local folder, which is set aside."""
        local = self.local_path()
        if local is not None and local.is_dir() and not local.is_symlink():
            self.set_aside()
        elif local is not None:
            self._do("removed", lambda fs, path: local.unlink(missing_ok=True))
        else:
            self.remove()

    def set_aside(self) -> None:
        """Give what is here, on a local disk, another name."""
        aside = f"{self._fs()[1]}.aside-{secrets.token_hex(4)}"
        self._do("renamed", lambda fs, path: os.rename(path, aside))

    def read_json(self) -> Any:
        """A JSON file's content.

        Raises:
            InputError: it is no JSON, which is what a file cut short looks like, or none that
                ``ddcore.storage.documents`` lets in.
        """
        try:
            return parse_json(self.read_bytes(0, LONGEST + 1))
        except ValueError as error:
            raise InputError(f"{self.url} is not valid JSON ({error}): restore or remake the file") from error

    def write_bytes(self, data: bytes) -> None:
        """Replace a file by ``data`` at once or not at all; folders on the way are made.

        Object stores replace whole objects themselves. Other remote stores may leave a file cut short when the
        connection ends in the middle: what reads it finds that out.

        Raises:
            NoSpace: the disk is full; the file that was there still is.
        """

        def write(fs: Any, path: str) -> None:
            local = self.local_path()
            if local is not None:
                _replace(local, data)
                return
            try:
                fs.pipe_file(path, data)
            except FileNotFoundError:
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                fs.pipe_file(path, data)

        self._do("written", write, size=len(data))

    def write_new(self, data: bytes) -> bool:
        """``write_bytes`` where there is nothing yet; False, and nothing is written, where there is.

        Of two processes on a local disk that do so at once one writes; a store behind a network is only asked before.

        Raises:
            NoSpace: the disk is full.
        """
        local = self.local_path()
        if local is None:
            if self.exists():
                return False
            self.write_bytes(data)
            return True
        return self._do("written", lambda fs, path: _replace(local, data, new=True), size=len(data))

    def write_json(self, content: Any) -> None:
        """Replace a file by JSON; numbers that are not finite are a ValueError."""
        self.write_bytes((json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())

    def append_line(self, text: str) -> None:
        """Add one line to a log, whole or not at all.

        A local log is safe to share between processes. A remote one is rewritten as a whole, at most every
        ``SECONDS_BETWEEN_APPENDS`` and when the process ends; one process at a time should write it.

        Raises:
            NoSpace: the disk is full.
        """
        line = (text.rstrip("\n") + "\n").encode()
        local = self.local_path()
        if local is None:
            _append_remote(self, line)
        else:
            self.refuse_other_than_file()
            self._do("written", lambda fs, path: _append(local, line), size=len(line))

    def make_folder(self) -> None:
        """Make this folder and those above it; one that is there stays."""
        self._do("made", lambda fs, path: fs.makedirs(path, exist_ok=True))

    def remove_unfinished(self) -> None:
        """Remove what killed processes had begun to write below this local folder,
        in which nobody else may be writing."""
        if (local := self.local_path()) is not None:
            for above, _, names in os.walk(local):
                for name in filter(LEFT.fullmatch, names):
                    with suppress(OSError):
                        Path(above, name).unlink()

    def remove_abandoned(self, *, below: bool = False) -> None:
        """Remove what was begun in this local folder, in which others may be writing, by processes that are gone,
        or long ago.

        Args:
            below: in the folders in it too.
        """
        local = self.local_path()
        with suppress(OSError):
            for path in () if local is None else local.rglob(".*") if below else local.iterdir():
                if (found := LEFT.fullmatch(path.name)) and is_abandoned(
                    path, int(found[1]), found[2] if found[3] else ""
                ):
                    path.unlink()

    def remove(self) -> None:
        """Remove this file, or this folder with all in it; nothing there is no error."""
        _APPENDED.pop(self.address, None)

        def remove(fs: Any, path: str) -> None:
            with suppress(FileNotFoundError):
                fs.rm(path, recursive=bool(fs.isdir(path)))

        self._do("removed", remove, fresh=True)

    def open(self, mode: str = "rb") -> IO[Any]:
        """A file object; for writing prefer ``write_bytes``, which is atomic."""

        self.refuse_other_than_file()

        def opened(fs: Any, path: str) -> IO[Any]:
            if "r" not in mode:
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            return fs.open(path, mode)  # type: ignore[no-any-return]

        return self._do("opened", opened)

    def _do(self, done: str, action: Callable[[Any, str], T], *, fresh: bool = False, size: int | None = None) -> T:
        """Do something by the file system's driver; on a remote store again, when it fails for a moment.

        Args:
            done: the participle of a sentence that says it cannot be done.
            fresh: forget what the driver remembers of listings.
            size: bytes that it writes.
        """
        began = time.monotonic()
        for attempt in range(ATTEMPTS):
            try:
                fs, path = self._fs()
                if fresh or attempt:
                    fs.invalidate_cache()
                return action(fs, path)
            except Exception as error:  # drivers raise anything
                last = attempt + 1 == ATTEMPTS or time.monotonic() - began > PATIENCE
                found = trouble(error) if self.is_remote() else None
                lasting = isinstance(error, LASTING) if found is None else found.lasting
                if last or not self.is_remote() or lasting:
                    raise self._sentence(done, error, attempt + 1, size) from error
            time.sleep(FIRST_WAIT * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _fs(self) -> tuple[Any, str]:
        local = self.local_path()
        if local is not None:
            return fsspec.filesystem("file"), str(local.absolute())
        fs, path = url_to_fs(self.address)
        return fs, path

    def _sentence(self, done: str, error: Exception, attempts: int, size: int | None) -> Exception:
        """What a driver raises, as one sentence."""
        if isinstance(error, InputError):
            return error
        found = trouble(error) if self.is_remote() else None
        tried = f" in {attempts} attempts" if attempts > 1 else ""
        if found is not None:
            return StoreError(f"{self.url} cannot be {done}{tried}, {found.why}: {found.way_out}")
        if isinstance(error, FileNotFoundError):
            return InputError(f"{self.nothing_there}: check the path or URL")
        if isinstance(error, ImportError):
            return InputError(_missing_driver(self))
        if getattr(error, "errno", None) in FULL:
            needed = "" if size is None else f", {size:,} bytes are needed and {_free(self)} are free"
            return NoSpace(f"{self.url} cannot be {done}, the disk is full{needed}: make room")
        if "Protocol not known" in str(error):
            protocol = self.address.partition("://")[0]
            known = near(protocol, [*DRIVERS, "file", "memory", "zip"])
            return InputError(f"no file system is called {protocol!r} in {self.url}: {known}")
        why = without(getattr(error, "strerror", None) or str(error), self.address)
        why = " ".join(f"{type(error).__name__}: {why}".split()) if why else type(error).__name__
        way_out = "check the connection, then try again" if attempts > 1 else "check access, credentials and space"
        return StoreError(f"{self.url} cannot be {done}{tried} ({why}): {way_out}")


def sha256_of(data: bytes) -> str:
    """The hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """Plain values as JSON bytes that are the same for equal values, to be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def save_tensors(
    place: Place, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, sealed: bool = False
) -> int:
    """Write tensors as one safetensors file; equal tensors and metadata give equal bytes.

    Args:
        tensors: any dtypes, shapes and devices; views and shared storage are fine, values are copied.
        metadata: text in the file's header.
        sealed: put a checksum of tensors and metadata into the header, by which ``load_tensors`` finds what was
            altered: for files whose checksum stands nowhere else.

    Returns:
        Bytes written.
    """
    packed = _packed(tensors, {**(metadata or {}), **({"seal": OPEN_SEAL.decode()} if sealed else {})})
    packed = packed.replace(OPEN_SEAL, sha256_of(packed).encode(), 1) if sealed else packed
    place.write_bytes(packed)
    return len(packed)


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that ``save_tensors`` would write."""
    return len(_packed(tensors))


def load_tensors(
    place: Place, *, sha256: str | None = None, size: int | None = None, sealed: bool = False
) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; those of a large local file are read when they are looked at.

    Args:
        sha256: what the file's bytes have to hash to, when it is known.
        size: how many there have to be, likewise; no more are read.
        sealed: whether the file has to bear a seal of its own, see ``save_tensors``; one that it bears counts anyhow.

    Raises:
        InputError: the file is missing, cut short, altered (by ``sha256``, or by its own seal) or no safetensors file.
    """
    return load_whole(place, sha256=sha256, size=size, sealed=sealed)[0]


def load_whole(
    place: Place, *, sha256: str | None = None, size: int | None = None, sealed: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """``load_tensors`` and ``read_metadata`` at once."""
    from safetensors.torch import load  # imports torch

    place.refuse_other_than_file()
    path = place.local_path()
    mapped = path is not None and path.is_file() and path.stat().st_size >= MAPPED_FROM
    data = b"" if mapped else place.read_bytes() if size is None else place.read_bytes(0, size + 1)
    there = place.size() if mapped else len(data)
    if size in (None, there):
        _header_bytes(place, place.read_bytes(0, 8) if mapped else data[:8], there)
    if size not in (None, there) or not _is_whole(_parts(place) if mapped else [data], sha256, sealed):
        raise InputError(
            f"{place.url} is altered or cut short, its SHA-256 is not the recorded one: restore a copy or make it again"
        )
    try:
        if mapped:
            return _mapped(place), read_metadata(place)
        return load(data), metadata_in(data)
    except (SafetensorError, *MISFITS) as error:
        raise InputError(_damaged(place, in_short(error))) from error


def tensors_in(content: bytes, url: str) -> dict[str, Tensor]:
    """The tensors in the bytes of a safetensors file; a seal that it bears counts.

    Raises:
        InputError: cut short, altered, or no safetensors file.
    """
    from safetensors.torch import load  # imports torch

    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(len(content), LONGEST_HEADER) or not _is_whole([content], None, sealed=False):
        raise InputError(f"{url} is altered, cut short or no safetensors file: restore a copy or make it again")
    try:
        return load(content)
    except (SafetensorError, *MISFITS) as error:
        raise InputError(
            f"{url} is no safetensors file ({in_short(error)}): restore a copy or make it again"
        ) from error


def _packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    from safetensors.torch import save  # imports torch

    copied = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return _sorted_header(save(copied, dict(metadata or {})))


def _mapped(place: Place) -> dict[str, Tensor]:
    """Tensors that stay in a local file; memory holds what is in use."""
    with safe_open(str(place.local_path()), framework="pt") as file:  # type: ignore[no-untyped-call]
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _parts(place: Place) -> Iterator[bytes]:
    with place.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            yield part


def _is_whole(parts: Iterable[bytes], sha256: str | None, sealed: bool) -> bool:
    """Whether a safetensors file is as it was written, as far as its own seal and a recorded checksum say."""
    whole, unsealed, seal = hashlib.sha256(), hashlib.sha256(), None
    for number, part in enumerate(parts):
        if number == 0 and (seal := SEALED.search(part, 8, 8 + int.from_bytes(part[:8], "little"))):
            unsealed.update(part[: seal.start(1)] + OPEN_SEAL + part[seal.end(1) :])
        elif seal:
            unsealed.update(part)
        if sha256 is not None:
            whole.update(part)
    own = not sealed if seal is None else seal.group(1).decode() == unsealed.hexdigest()
    return own and sha256 in (None, whole.hexdigest())


def read_metadata(place: Place) -> dict[str, str]:
    """The text in a safetensors file's header, but for its seal, without reading its tensors.

    Raises:
        InputError: the file is missing, cut short or no safetensors file.
    """
    try:
        return _metadata(place.read_bytes(8, 8 + _header_bytes(place, place.read_bytes(0, 8))))
    except (ValueError, AttributeError) as error:
        raise InputError(_damaged(place, "no valid header")) from error


def metadata_in(content: bytes) -> dict[str, str]:
    """The same of the bytes of a file that ``tensors_in`` has read."""
    return _metadata(content[8 : 8 + int.from_bytes(content[:8], "little")])


def length_said(place: Place) -> int:
    """Bytes that a safetensors file has to have by its header.

    Raises:
        InputError: it has none.
    """
    end = 8 + _header_bytes(place, place.read_bytes(0, 8))
    try:
        tensors = [value for name, value in parse_json(place.read_bytes(8, end)).items() if name != "__metadata__"]
        return end + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
    except MISFITS as error:
        raise InputError(_damaged(place, in_short(error))) from error


def _metadata(header: bytes) -> dict[str, str]:
    return {str(k): str(v) for k, v in parse_json(header).get("__metadata__", {}).items() if k != "seal"}


def _header_bytes(place: Place, head: bytes, size: int = LONGEST_HEADER) -> int:
    """The length of the header of a safetensors file of ``size`` bytes or less, by its first eight."""
    length = int.from_bytes(head, "little")
    if not 0 < length <= min(size, LONGEST_HEADER):
        raise InputError(_damaged(place, "no valid header"))
    return length


def flush_appended(place: Place | None = None) -> None:
    """Write lines that wait for a remote log (all logs without ``place``)."""
    for address in [place.address] if place is not None else list(_APPENDED):
        waiting = _APPENDED.get(address)
        if waiting is not None and waiting.lines:
            waiting.flush(Place(address))


class _Waiting:
    """Lines of one remote log that are not written yet."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.written = float("-inf")

    def flush(self, place: Place) -> None:
        lines, self.lines = self.lines, []
        before = place.read_bytes() if place.exists() else b""
        place.write_bytes(before + b"".join(lines))
        self.written = time.monotonic()


_APPENDED: dict[str, _Waiting] = {}
atexit.register(flush_appended)


def _append_remote(place: Place, line: bytes) -> None:
    waiting = _APPENDED.setdefault(place.address, _Waiting())
    waiting.lines.append(line)
    if time.monotonic() - waiting.written >= SECONDS_BETWEEN_APPENDS:
        waiting.flush(place)


def _replace(path: Path, data: bytes, *, new: bool = False) -> bool:
    """Write beside the target, make it durable, then rename over it: a reader sees the old file or the new one.

    Args:
        new: leave a file that is there as it is, and say False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(CLEARINGS):
        with suppress(FileNotFoundError):  # whoever began to work in the folder took it for what a killed process left
            return _replace_once(path, data, new=new)
    return _replace_once(path, data, new=new)


def _replace_once(path: Path, data: bytes, *, new: bool) -> bool:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{_here()}{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            return _named(unfinished, path)
        os.replace(unfinished, path)
        return True
    finally:
        unfinished.unlink(missing_ok=True)


def _named(unfinished: Path, path: Path) -> bool:
    """Give a file its name, unless that is taken."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            return False
        os.replace(unfinished, path)
    return True


def _here() -> str:
    """Eight letters that tell this machine from others."""
    return sha256_of(socket.gethostname().encode())[:8]


def is_abandoned(path: Path, pid: int, machine: str) -> bool:
    """Whether nobody writes a file any more that a process had begun;
    of other machines' processes only its age tells."""
    return (machine == _here() and not lives(pid)) or time.time() - path.lstat().st_mtime > OLD


def lives(pid: object) -> bool:
    """Whether there is such a process on this machine."""
    if isinstance(pid, bool) or not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _other_kind(path: Path) -> str:
    """What a path is that is neither a file, nor a link to one, nor missing."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link that leads in a circle" if error.errno == errno.ELOOP else ""
    return next((name for of_kind, name in KINDS if of_kind(mode)), "")


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        written = os.write(handle, line)
        if written < len(line):
            os.ftruncate(handle, os.fstat(handle).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(handle)


def _free(place: Place) -> str:
    """Bytes that are free where a local place lies."""
    path = place.local_path()
    return "none" if path is None else f"{shutil.disk_usage(standing(path)).free:,}"


def standing(path: Path) -> Path:
    """The nearest that is there of a path and the folders above it."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return there


def _below(folder: str) -> Iterator[str]:
    visits: Counter[tuple[int, int]] = Counter()
    for above, _, names in os.walk(folder, followlinks=True):
        found = os.stat(above)
        visits[found.st_dev, found.st_ino] += 1
        if visits[found.st_dev, found.st_ino] > MOST_VISITS:
            raise InputError(f"{above} is reached by more than {MOST_VISITS} ways: remove links that lead in circles")
        for name in names:
            yield Path(above, name).relative_to(folder).as_posix()


def _sorted_header(packed: bytes) -> bytes:
    """The same safetensors file with its header in sorted order: the library writes metadata in random order."""
    length = int.from_bytes(packed[:8], "little")
    header = json.dumps(json.loads(packed[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + packed[8 + length :]


def _damaged(place: Place, why: str) -> str:
    return f"{place.url} is cut short or no safetensors file ({why}): restore it from a copy or make it again"


def _missing_driver(place: Place) -> str:
    protocol = place.address.partition("://")[0]
    known = known_implementations.get(protocol, {}).get("err", "")
    way_out = f"pip install {DRIVERS[protocol]}" if protocol in DRIVERS else known or "see fsspec's list of drivers"
    return f"{place.url} needs a driver for {protocol}:// that is not installed: {way_out}"


def default_cache() -> str:
    """Where experts and full-data rows are kept between runs: ``DDCORE_CACHE``, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("DDCORE_CACHE") or os.path.join(home, "ddcore")
