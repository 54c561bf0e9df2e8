"""State dicts out of files that ``torch.save`` wrote, without an unpickler: a pickle is a program, and this reads a few
of its words.

A word that makes tensors, containers, numbers or text is followed; any other, and any name that stands for something
else to call, is refused. Numbers are taken from where the file's own directory says that they lie, so that a file never
grows: nothing in it may be compressed, overlap, or be claimed to be longer than it is. Complex, sparse, quantised and
meta tensors are refused by their kind.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from ddcore.errors import MISFITS, InputError, in_short
from ddcore.storage.wrappers import state_within, without_heads

MOST_WORDS = 1_000_000
"""Of one pickle; a tensor takes about thirty."""
MOST_PICKLE = 2**23
"""Bytes of pickles in a file."""
MOST_DIRECTORY = 2**23
"""Bytes of a zip file's directory; an entry takes about a hundred."""
MOST_AXES = 16
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What a file of before torch 1.6 begins with."""
DTYPES = {
    **{"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    "Bool": torch.bool,
}
STORAGES = {f"torch {name}Storage": dtype for name, dtype in DTYPES.items()}
TENSORS = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
DICTS = ("collections OrderedDict",)
IDLE = (
    *("torch Size", "torch device", "_codecs encode", "builtins set", "__builtin__ set"),
    *(f"torch {str(dtype).removeprefix('torch.')}" for dtype in DTYPES.values()),
)
"""What may stand beside tensors and is not looked at."""
KINDS = {"sparse": "sparse", "meta": "meta", "qtensor": "quantised", "QInt": "quantised", "Complex": "complex"}


@frozen
class Name:
    """What a pickle would import."""

    text: str


@frozen
class Other:
    """Something that is no tensor, container, number or text, and was not made."""


@frozen
class Stored:
    """Numbers in a file, of which tensors are views."""

    key: str
    dtype: torch.dtype
    count: int


@frozen
class View:
    """A tensor before it is made."""

    stored: Stored
    offset: int
    shape: tuple[int, ...] = field(converter=tuple)
    stride: tuple[int, ...] = field(converter=tuple)


def state_of(content: bytes, name: str) -> dict[str, Tensor]:
    """The state dict in a file that ``torch.save`` wrote, by tensor name, on the CPU.

    Dicts that hold it, and the words of torch's wrappers before names, such as ``module.``, are seen through, see
    ``ddcore.storage.wrappers``. Tensors that share numbers in the file share memory.

    Args:
        content: the file.
        name: of the file, for messages.

    Raises:
        InputError: no state dict; one that only an unpickler would read; one whose tensors claim more than the file
            holds.
    """
    try:
        held, numbers = _opened(content)
        found = _state_dict(held, name)
        storages: dict[str, Tensor] = {}
        made = {key: _tensor(view, numbers, storages) for key, view in found.items()}
    except InputError:
        raise
    except (*MISFITS, zipfile.BadZipFile, struct.error, EOFError) as error:
        why = str(error) if isinstance(error, ValueError) else in_short(error)
        raise InputError(
            f"{name} cannot be read as tensors alone ({' '.join(why.split())[:200]}): save the state_dict of the network, "
            "best as safetensors"
        ) from error
    return {new: made[old] for new, old in without_heads(made).items()}


def _state_dict(held: Any, name: str) -> dict[str, View]:
    held = state_within(held, View, name)
    if not isinstance(held, dict):
        raise InputError(f"{name} holds no state dict: save network.state_dict()")
    for key, value in held.items():
        if not isinstance(key, str) or not isinstance(value, View):
            what = "is no tensor" if isinstance(key, str) else "is no name"
            raise InputError(f"{name} holds no state dict, its {str(key)[:60]!r} {what}: save network.state_dict()")
    return held


# ---- where numbers lie -----------------------------------------------------------------------------------------------

Numbers = Callable[[Stored], memoryview]


def _opened(content: bytes) -> tuple[Any, Numbers]:
    """What a file holds, and where the bytes of its numbers are."""
    if content[:4] == b"PK\3\4":
        return _zipped(content)
    if content[257:262] == b"ustar":
        raise ValueError("it is in a format of before torch 0.1.10")
    return _legacy(content)


def _zipped(content: bytes) -> tuple[Any, Numbers]:
    entries = dict(_entries(content))
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it holds {len(pickles)} pickles where torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    if bytes(entries.get(f"{folder}byteorder", memoryview(b"little"))) != b"little":
        raise ValueError("its numbers are in the byte order of another machine")
    if len(entries[pickles[0]]) > MOST_PICKLE:
        raise ValueError(f"its pickle is longer than {MOST_PICKLE:,} bytes")

    def numbers(stored: Stored) -> memoryview:
        return entries[f"{folder}data/{stored.key}"]

    return _followed(io.BytesIO(entries[pickles[0]])), numbers


def _entries(content: bytes) -> Iterator[tuple[str, memoryview]]:
    """The files in a zip file, none of which may be compressed: ``torch.save`` compresses nothing."""
    _check_directory(content)
    whole, left, seen = memoryview(content), len(content), set()
    for entry in zipfile.ZipFile(io.BytesIO(content)).infolist():
        left -= entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise ValueError("its content is compressed, which torch.save never does")
        if left < 0 or entry.filename in seen:
            raise ValueError("its directory lists more than the file holds")
        seen.add(entry.filename)
        sign, after_name, after_extra = struct.unpack_from("<4s22xHH", whole, entry.header_offset)
        begin = entry.header_offset + 30 + after_name + after_extra
        if sign != b"PK\3\4" or begin + entry.file_size > len(content):
            raise ValueError("it is cut short")
        yield entry.filename, whole[begin : begin + entry.file_size]


def _check_directory(content: bytes) -> None:
    """Refuse a zip file whose directory is too long to be looked at, before anything looks at it."""
    end = len(content) - 22
    sign, size = struct.unpack_from("<4s8xI", content, end)
    if sign != b"PK\5\6":
        raise ValueError("it is cut short")
    if content[end - 20 : end - 16] == b"PK\6\7":
        sign, size = struct.unpack_from("<4s36xQ", content, end - 76)
        if sign != b"PK\6\6":
            raise ValueError("it is cut short")
    if size > MOST_DIRECTORY:
        raise ValueError(f"its directory is longer than {MOST_DIRECTORY:,} bytes")


def _legacy(content: bytes) -> tuple[Any, Numbers]:
    """A file of before torch 1.6: five pickles, then the numbers of one storage after the other."""
    head = io.BytesIO(content[:MOST_PICKLE])
    if _followed(head) != MAGIC or _followed(head) != PROTOCOL:
        raise ValueError("torch.save did not write it")
    system = _followed(head)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are in the byte order of another machine")
    held, keys = _followed(head), _followed(head)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it does not say which numbers it holds")
    at, whole, widths = head.tell(), memoryview(content), {s.key: s.dtype.itemsize for s in _stored_in(held)}
    found: dict[str, memoryview] = {}
    for key in keys:
        (count,) = struct.unpack_from("<q", whole, at)
        size = count * widths[key]
        if count < 0 or at + 8 + size > len(whole) or key in found:
            raise ValueError("it is cut short")
        found[key], at = whole[at + 8 : at + 8 + size], at + 8 + size
    return held, lambda stored: found[stored.key]


def _stored_in(held: Any) -> Iterator[Stored]:
    """All that the tensors of nested containers need, each container once."""
    seen, left = set(), [held]
    while left:
        value = left.pop()
        if isinstance(value, View):
            yield value.stored
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, dict) else value


def _tensor(view: View, numbers: Numbers, storages: dict[str, Tensor]) -> Tensor:
    stored = view.stored
    if stored.key not in storages:
        part = numbers(stored)
        if len(part) != stored.count * stored.dtype.itemsize:
            raise ValueError("a tensor claims other numbers than the file holds")
        as_bytes = stored.dtype == torch.bool
        flat = torch.frombuffer(bytearray(part), dtype=torch.uint8 if as_bytes else stored.dtype) if part else None
        empty = torch.empty(0, dtype=stored.dtype)
        storages[stored.key] = empty if flat is None else flat != 0 if as_bytes else flat
    own = storages[stored.key]
    if own.dtype != stored.dtype:
        raise ValueError("two tensors take the same numbers for different types")
    return own.as_strided(view.shape, view.stride, view.offset)


# ---- the words of a pickle -------------------------------------------------------------------------------------------


def _followed(file: io.BytesIO) -> Any:
    """What one pickle at a file's position stands for; tensors are ``View``, what is not looked at is ``Other``."""
    machine = _Machine()
    for count, (word, value, _) in enumerate(pickletools.genops(file)):
        if word.name == "STOP":
            return machine.stack.pop()
        if count > MOST_WORDS:
            raise ValueError(f"its pickle has more than {MOST_WORDS:,} words")
        machine.do(word.name, value)
    raise ValueError("it is cut short")


class _Machine:
    """The stack, the marks in it and the memory of what a pickle's words act on."""

    PLAIN = frozenset(
        {"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
        | {"BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE8", "BINBYTES8", "UNICODE"}
    )
    CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
    PUT = frozenset({"BINPUT", "LONG_BINPUT", "PUT"})
    GET = frozenset({"BINGET", "LONG_BINGET", "GET"})
    TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memory: dict[int, Any] = {}

    def do(self, word: str, value: Any) -> None:
        """Act on one word with the value that stands beside it."""
        stack = self.stack
        if word in self.PLAIN:
            stack.append(value)
        elif word in self.CONSTANTS:
            stack.append(self.CONSTANTS[word])
        elif word in self.PUT or word == "MEMOIZE":
            self._memory[len(self._memory) if word == "MEMOIZE" else value] = stack[-1]
        elif word in self.GET:
            stack.append(self._memory[value])
        elif word in self.TUPLES:
            stack.append(tuple(self._last(self.TUPLES[word])))
        elif word in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_SET"):
            stack.append({} if word == "EMPTY_DICT" else [])
        elif word == "GLOBAL":
            stack.append(_known(Name(value)))
        elif word == "STACK_GLOBAL":
            stack.append(_known(_named(self._last(2))))
        elif word == "MARK":
            self._marks.append(len(stack))
        else:
            self._rarer(word)

    def _rarer(self, word: str) -> None:
        stack = self.stack
        if word == "TUPLE":
            stack.append(tuple(self._marked()))
        elif word in ("SETITEM", "SETITEMS"):
            pairs = self._last(2) if word == "SETITEM" else self._marked()
            _set(pairs, stack[-1])
        elif word in ("APPEND", "APPENDS", "ADDITEMS"):
            self._append(self._last(1) if word == "APPEND" else self._marked())
        elif word == "REDUCE":
            name, values = self._last(2)
            stack.append(_called(name, values))
        elif word == "BINPERSID":
            stack.append(_stored(stack.pop()))
        elif word == "BUILD":
            stack.pop()
        elif word not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle has the word {word}")

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("its pickle is damaged")
        self.stack[-1].extend(values)

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count + (self._marks[-1] if self._marks else 0):
            raise ValueError("its pickle is damaged")
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def _marked(self) -> list[Any]:
        found = self.stack[(at := self._marks.pop()) :]
        del self.stack[at:]
        return found


def _set(pairs: Sequence[Any], into: Any) -> None:
    if not isinstance(into, dict) or len(pairs) % 2:
        raise ValueError("its pickle is damaged")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**31):
            raise ValueError(f"it has a {type(key).__name__} as a key")
        into[key] = value


def _named(words: Sequence[Any]) -> Name:
    if not all(type(word) is str for word in words):
        raise ValueError("its pickle is damaged")
    return Name(" ".join(words))


def _known(name: Name) -> Name:
    """A name that is not called, or whose call is known.

    Raises:
        ValueError: any other.
    """
    if name.text in STORAGES or name.text in (*TENSORS, *PARAMETERS, *DICTS, *IDLE):
        return name
    for part, kind in KINDS.items():
        if name.text.startswith("torch") and part in name.text:
            raise ValueError(f"it holds {kind} tensors")
    raise ValueError(
        f"it wants {name.text.replace(' ', '.')[:80]} to be run, and nothing that a file names is run here"
    )


def _called(name: Any, values: Any) -> Any:
    if not isinstance(name, Name) or not isinstance(values, tuple):
        raise ValueError("its pickle is damaged")
    if name.text in TENSORS:
        return _view(*values[:4])
    if name.text in PARAMETERS:
        return values[0]
    if name.text in DICTS:
        if values and values != ([],):
            raise ValueError("its pickle is damaged")
        return {}
    return values[0] if name.text == "torch Size" else Other()


def _stored(identity: Any) -> Stored:
    """What a pickle says of numbers that lie elsewhere in the file.

    Raises:
        ValueError: it says something else, or nothing that can be.
    """
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage" or any(identity[5:]):
        raise ValueError("it holds whole modules or views of before torch 0.4")
    _, name, key, _, count = identity[:5]
    dtype = STORAGES.get(name.text) if isinstance(name, Name) else None
    if dtype is None or not isinstance(key, str) or not _is_count(count):
        raise ValueError("its pickle is damaged")
    return Stored(key, dtype, count)


def _view(stored: Any, offset: Any, shape: Any, stride: Any) -> View:
    """A tensor, if it lies within its numbers and does not count any twice.

    Raises:
        ValueError: it does not.
    """
    counts = isinstance(shape, tuple) and isinstance(stride, tuple) and all(map(_is_count, (*shape, *stride, offset)))
    if not isinstance(stored, Stored) or not counts or len(shape) != len(stride) or len(shape) > MOST_AXES:
        raise ValueError("its pickle is damaged")
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if math.prod(shape) > stored.count or (0 not in shape and last >= stored.count):
        raise ValueError(f"a tensor of shape {shape} claims more than the {stored.count:,} numbers that it has")
    return View(stored, offset, shape, stride)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62
