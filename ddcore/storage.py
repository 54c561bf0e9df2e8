"""Where bytes lie: folders and files on any fsspec file system, local ones written atomically.

A ``Place`` is an address and nothing else, so it can be kept, compared and sent to another process. Its ``url`` is what
messages and records show: without credentials and query. Tensors are stored as safetensors, never as pickles.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import fsspec
from attrs import field, frozen
from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from ddcore.errors import InputError, near

if TYPE_CHECKING:
    from torch import Tensor

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

UNFINISHED = ".part"
"""End of the names of files that are still being written."""

SECONDS_BETWEEN_APPENDS = 2.0
"""A remote log is rewritten at most this often."""

LONGEST_HEADER = 100_000_000
"""Bytes; safetensors allows no longer header."""
READ_AT_ONCE = 2**24
MAPPED_FROM = 2**26
"""Bytes of a local file from which on its tensors stay in it: labels of views take gigabytes."""


@frozen
class Place:
    """A folder or file, there already or not yet.

    Attributes:
        address: path or fsspec URL as given, with credentials if it has any: to open, never to show.
    """

    address: str = field(repr=lambda address: repr(redact(address)))

    @classmethod
    def at(cls, url: str | os.PathLike[str] | Place) -> Place:
        """The place of a path or URL; a place stays what it is."""
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
        return redact(self.address)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.partition("::")[0].rstrip("/").rpartition("/")[2]

    def local_path(self) -> Path | None:
        """The path on this machine; None if it lies elsewhere."""
        if "::" in self.address:
            return None
        protocol, mark, path = self.address.partition("://")
        if not mark:
            return Path(self.address)
        return Path(path) if protocol in ("file", "local") else None

    def exists(self) -> bool:
        """Whether there is a file or folder here now."""
        with self._told("looked up"):
            fs, path = self._fresh()
            return bool(fs.exists(path))

    def is_folder(self) -> bool:
        """Whether there is a folder here now."""
        with self._told("looked up"):
            fs, path = self._fresh()
            return bool(fs.isdir(path))

    def names(self) -> list[str]:
        """Names of the children, sorted; files that are still being written are left out."""
        with self._told("listed"):
            fs, path = self._fresh()
            found = {entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False)}
        return sorted(name for name in found if not name.endswith(UNFINISHED))

    def files(self) -> list[str]:
        """Names of all files below, relative to this folder, sorted; local links are followed."""
        with self._told("listed"):
            fs, path = self._fresh()
            if not fs.isdir(path):
                raise FileNotFoundError(path)
            if self.local_path() is not None:
                return sorted(name for name in _below(path) if not name.endswith(UNFINISHED))
            found = [entry.lstrip("/").removeprefix(path.strip("/")).lstrip("/") for entry in fs.find(path)]
        return sorted(name for name in found if not name.endswith(UNFINISHED))

    def size(self) -> int:
        """Bytes of a file."""
        with self._told("read"):
            fs, path = self._fresh()
            return int(fs.size(path))

    def read_bytes(self) -> bytes:
        """A file's content."""
        flush_appended(self)
        with self._told("read"):
            fs, path = self._fs()
            content: bytes = fs.cat_file(path)
            return content

    def read_json(self) -> Any:
        """A JSON file's content.

        Raises:
            InputError: it is no JSON, which is what a file cut short looks like.
        """
        try:
            return json.loads(self.read_bytes())
        except ValueError as error:
            raise InputError(f"{self.url} is not valid JSON ({error}): restore or remake the file") from error

    def write_bytes(self, data: bytes) -> None:
        """Replace a file by ``data`` at once or not at all; folders on the way are made."""
        with self._told("written"):
            local = self.local_path()
            if local is not None:
                _replace(local, data)
                return
            fs, path = self._fs()
            try:
                fs.pipe_file(path, data)
            except FileNotFoundError:
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                fs.pipe_file(path, data)

    def write_json(self, content: Any) -> None:
        """Replace a file by JSON; numbers that are not finite are a ValueError."""
        self.write_bytes((json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())

    def append_line(self, text: str) -> None:
        """Add one line to a log.

        A local log is safe to share between processes. A remote one is rewritten as a whole, at most every
        ``SECONDS_BETWEEN_APPENDS`` and when the process ends; one process at a time should write it.
        """
        line = (text.rstrip("\n") + "\n").encode()
        local = self.local_path()
        if local is None:
            _append_remote(self, line)
            return
        with self._told("written"):
            local.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(local, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)

    def make_folder(self) -> None:
        """Make this folder and those above it; one that is there stays."""
        with self._told("made"):
            fs, path = self._fs()
            fs.makedirs(path, exist_ok=True)

    def remove(self) -> None:
        """Remove this file, or this folder with all in it; nothing there is no error."""
        _APPENDED.pop(self.address, None)
        with self._told("removed"), suppress(FileNotFoundError):
            fs, path = self._fresh()
            fs.rm(path, recursive=bool(fs.isdir(path)))

    def open(self, mode: str = "rb") -> IO[Any]:
        """A file object; for writing prefer ``write_bytes``, which is atomic."""
        with self._told("opened"):
            fs, path = self._fs()
            if "r" not in mode:
                fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            opened: IO[Any] = fs.open(path, mode)
            return opened

    def _fs(self) -> tuple[Any, str]:
        local = self.local_path()
        if local is not None:
            return fsspec.filesystem("file"), str(local.absolute())
        fs, path = url_to_fs(self.address)
        return fs, path

    def _fresh(self) -> tuple[Any, str]:
        fs, path = self._fs()
        fs.invalidate_cache()
        return fs, path

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """Turn what a driver raises into one sentence; drivers raise anything, so everything is caught here."""
        try:
            yield
        except (InputError, KeyboardInterrupt):
            raise
        except FileNotFoundError as error:
            raise InputError(f"there is nothing at {self.url}: check the path or URL") from error
        except ImportError as error:
            raise InputError(_missing_driver(self)) from error
        except Exception as error:
            if "Protocol not known" in str(error):
                protocol = self.address.partition("://")[0]
                known = near(protocol, [*DRIVERS, "file", "memory", "zip"])
                raise InputError(f"no file system is called {protocol!r} in {self.url}: {known}") from error
            why = getattr(error, "strerror", None) or redact(str(error).replace(self.address, self.url))
            why = f"{type(error).__name__}: {why}" if why else type(error).__name__
            raise InputError(f"{self.url} cannot be {done} ({why}): check access, credentials and space") from error


def redact(url: str) -> str:
    """An address without credentials, query and fragment; plain paths stay as they are.

    >>> redact("s3://key:secret@bucket/a.npz?versionId=7")
    's3://bucket/a.npz'
    """
    return re.sub(r"\w+://\S*", lambda link: "::".join(map(_shown, link.group().split("::"))), url)


def _shown(link: str) -> str:
    return re.sub(r"://(?:[^/@]*|[^/@:]+:[^@]*)@", "://", re.split(r"[?#]", link)[0] if "://" in link else link)


def sha256_of(data: bytes) -> str:
    """The hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """Plain values as JSON bytes that are the same for equal values, to be hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def save_tensors(place: Place, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Write tensors as one safetensors file; equal tensors and metadata give equal bytes.

    Args:
        tensors: any dtypes, shapes and devices; views and shared storage are fine, values are copied.
        metadata: text in the file's header.

    Returns:
        Bytes written.
    """
    packed = _packed(tensors, metadata)
    place.write_bytes(packed)
    return len(packed)


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes that ``save_tensors`` would write."""
    return len(_packed(tensors))


def load_tensors(place: Place, *, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU; those of a large local file are read when they are looked at.

    Args:
        sha256: what the file's bytes have to hash to, when it is known.

    Raises:
        InputError: the file is missing, cut short, altered or no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = place.local_path()
    mapped = path is not None and path.is_file() and path.stat().st_size >= MAPPED_FROM
    data = b"" if mapped else place.read_bytes()
    if sha256 is not None and (_sha256_in_parts(place) if mapped else sha256_of(data)) != sha256:
        raise InputError(f"{place.url} is altered or cut short, its SHA-256 is not the recorded one: restore a copy")
    try:
        return _mapped(place) if mapped else load(data)
    except (SafetensorError, ValueError) as error:
        raise InputError(_damaged(place, str(error))) from error


def _packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    from safetensors.torch import save

    copied = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return _sorted_header(save(copied, dict(metadata or {})))


def _mapped(place: Place) -> dict[str, Tensor]:
    """Tensors that stay in a local file; memory holds what is in use."""
    from safetensors import safe_open

    with safe_open(str(place.local_path()), framework="pt") as file:  # type: ignore[no-untyped-call]
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _sha256_in_parts(place: Place) -> str:
    digest = hashlib.sha256()
    with place.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            digest.update(part)
    return digest.hexdigest()


def read_metadata(place: Place) -> dict[str, str]:
    """The text in a safetensors file's header, without reading its tensors.

    Raises:
        InputError: the file is missing, cut short or no safetensors file.
    """
    with place.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= LONGEST_HEADER else b""
    try:
        header = json.loads(text)
        return {str(k): str(v) for k, v in header.get("__metadata__", {}).items()}
    except (ValueError, AttributeError) as error:
        raise InputError(_damaged(place, "no valid header")) from error


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


def _replace(path: Path, data: bytes) -> None:
    """Write beside the target, make it durable, then rename over it: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _below(folder: str) -> Iterator[str]:
    for above, _, names in os.walk(folder, followlinks=True):
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
