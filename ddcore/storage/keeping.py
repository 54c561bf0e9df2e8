"""What is kept between runs: files in the cache, each under a name that is the hash of its key.

A key holds, as JSON values, everything that shapes the bits of what is kept: data, options, seeds, and by ``machine``
the software and hardware that computes. A file repeats its whole key in its header, under a seal over all of it, so
that one that was exchanged, renamed, cut short or altered is known: it counts as none, ``note`` is told in one line,
and it is made again. So is what lies where a file has to be and is none, such as a folder (which is renamed) or a pipe
(which is never opened). Two processes that make the same thing write the same bytes.

    KIND/DIGEST.safetensors              one file                   ``kept``
    KIND/DIGEST/PART.safetensors         several of one key         ``save``, ``load`` or ``found``, ``describe``
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen

from ddcore import devices
from ddcore.errors import InputError, StoreError
from ddcore.storage.places import Place, canonical, length_said, load_whole, read_metadata, save_tensors, sha256_of
from ddcore.storage.secrecy import clean

if TYPE_CHECKING:
    from torch import Tensor

Note = Callable[[str], None]
Shapes = Mapping[str, tuple[int, ...]]
TRIES = 3
KINDS = ("experts", "teachers", "full", "kcenter", "normalisations", "decoded")
"""Of the core; plugins have more."""
BEFORE_TORCH = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
"""Variables by which torch's libraries choose other kernels for the same processor."""
KEY, DIGEST, PART = "key", "digest", "part"


@frozen(eq=False)
class Found:
    """A file that is as it was written.

    Attributes:
        tensors: on the CPU.
        facts: other text in its header.
    """

    tensors: dict[str, Tensor] = field(repr=False)
    facts: dict[str, str] = field(factory=dict)


def machine(device: torch.device, dtype: torch.dtype | str) -> dict[str, Any]:
    """The part of a key that says what computes: torch, threads, device, precision and, on a CPU, the kind of kernels.

    How many operations go on side by side (``torch.get_num_interop_threads``) shapes no bit of an eager program and is
    left out.
    """
    computes: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "products": torch.get_float32_matmul_precision(),
    }
    if devices.is_cuda(device):
        return {**computes, "name": devices.described(device)}
    chosen = {name: os.environ[name] for name in BEFORE_TORCH if os.environ.get(name)}
    return {**computes, "kernels": torch.backends.cpu.get_cpu_capability(), **chosen}


def digest_of(key: Mapping[str, Any]) -> str:
    """Twenty letters that name what has this key."""
    return sha256_of(canonical(key))[:20]


def kept(
    cache: Place,
    kind: str,
    key: Mapping[str, Any],
    make: Callable[[], Mapping[str, Tensor]],
    *,
    note: Note,
    shapes: Shapes | None = None,
    facts: Mapping[str, str] | None = None,
    name: str | None = None,
) -> dict[str, Tensor]:
    """Tensors of a key: as kept, or made now and kept.

    Args:
        kind: the folder's name in the cache.
        make: called without arguments where nothing is kept.
        note: told in one line what is wrong with a file that is made again.
        shapes: that the tensors have to have, if it is known.
        facts: more text for the header, for people.
        name: of the file, where people look for it, as in a run's folder; the digest by default.
    """
    of = digest_of(key)
    place = cache / kind / f"{name or of}.safetensors"
    if (there := found(place, of, note=note, shapes=shapes)) is not None:
        return there.tensors
    made = dict(make())
    make_folder(cache, kind, note=note)
    save(place, made, key, facts=facts)
    try:
        return load(place, of).tensors
    except InputError:  # somebody removed it at once
        return {name: tensor.detach().cpu().contiguous() for name, tensor in made.items()}


def save(
    place: Place,
    tensors: Mapping[str, Tensor],
    key: Mapping[str, Any],
    part: str = "",
    facts: Mapping[str, str] | None = None,
) -> None:
    """Keep tensors of a key, or one part of them; what killed processes had begun beside it is removed.

    Args:
        part: its name within the folder of its key; nothing where the file is all there is.
    """
    if place.local_path() is not None and place.is_folder():
        place.set_aside()
    about = {KEY: canonical(clean(key)).decode(), DIGEST: digest_of(key), PART: part}
    save_tensors(place, tensors, {**(facts or {}), **about}, sealed=True)
    place.parent.remove_abandoned()


def load(place: Place, of: str, part: str = "", shapes: Shapes | None = None) -> Found:
    """A kept file.

    Args:
        of: the digest of its key.

    Raises:
        InputError: it is missing or damaged, or is something else than it has to be.
    """
    tensors, facts = load_whole(place, sealed=True)
    facts = _checked(place, facts, of, part)
    if shapes is not None and (have := {name: tuple(t.shape) for name, t in tensors.items()}) != dict(shapes):
        raise InputError(f"{place.url} holds {_told(have)}, where {_told(shapes)} are due: remove it")
    return Found(tensors, facts)


def facts_of(place: Place, of: str, part: str = "") -> dict[str, str]:
    """The text in a kept file's header, without reading its tensors.

    Raises:
        InputError: as ``load``.
    """
    return _checked(place, read_metadata(place), of, part)


def facts_only(place: Place, of: str, part: str, shapes: Shapes | None) -> Found:
    """``load`` without the tensors, of a file of the right length.

    Raises:
        InputError: as ``load``, but for what only the seal tells.
    """
    facts = facts_of(place, of, part)
    if place.size() < (due := length_said(place)):
        raise InputError(f"{place.url} has {place.size():,} bytes, where {due:,} are due: remove it")
    return Found({}, facts)


def found(
    place: Place, of: str, part: str = "", *, note: Note, shapes: Shapes | None = None, read: Any = None
) -> Found | None:
    """A kept file; None if there is none, or one that is not what it has to be, which is then put away.

    Args:
        read: another reader than ``load``, called with place, digest, part and shapes.
    """
    if not place.is_there():
        return None
    try:
        made: Found = (read or load)(place, of, part, shapes)
        return made
    except InputError as error:
        if isinstance(error, StoreError) and place.local_path() is None:
            raise
        if place.is_there():
            note(wrong(place, error))
            place.put_away()
        return None


def wrong(place: Place, error: Exception) -> str:
    """One line on what is not as it was kept; it names the file within the cache, and no more of its path."""
    said = str(error).replace(place.url, short(place)).rpartition(": ")[0] or str(error)
    return f"{said}: it is made again"


def short(place: Place) -> str:
    """The end of a kept file's address, from its kind on.

    >>> short(Place.at("/home/me/.cache/ddcore/experts/0a1b/expert-000/epoch-001.safetensors"))
    'experts/0a1b/expert-000/epoch-001.safetensors'
    """
    parts = place.url.split("/")
    kind = max((at for at, part in enumerate(parts) if part in KINDS and at >= len(parts) - 4), default=len(parts) - 2)
    return "/".join(parts[kind:])


def make_folder(cache: Place, *names: str, note: Note) -> Place:
    """Make a folder in the cache; what lies in its way there, and is none, is renamed."""
    folder = cache
    for name in names:
        folder = folder / name
        if folder.local_path() is not None and folder.is_there() and not folder.is_folder():
            note(f"{short(folder)} is no folder: it is renamed, and a folder made")
            folder.set_aside()
    folder.make_folder()
    return folder


def describe(folder: Place, key: Mapping[str, Any]) -> None:
    """Put the key of a folder into its ``recipe.json``: for people; nothing reads it.

    Raises:
        StoreError: it cannot be written, but for what whoever works in the folder clears away meanwhile.
    """
    file = folder / "recipe.json"
    if file.is_folder():
        file.set_aside()
    for _ in range(TRIES):
        try:
            file.write_json(clean(key))
            return
        except StoreError:
            raise
        except InputError:  # half-written, it was taken for what a killed process left
            continue


def tidy(cache: Place) -> None:
    """Remove what killed processes had begun to write into a local cache."""
    local = cache.local_path()
    for kind in KINDS if local is not None else ():
        for folder in _folders(Path(str(local), kind)):
            Place(str(folder)).remove_abandoned()


def _folders(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield folder
        for above, names, _ in os.walk(folder):
            yield from (Path(above, name) for name in names)


def _checked(place: Place, facts: Mapping[str, str], of: str, part: str) -> dict[str, str]:
    there = facts.get(DIGEST), facts.get(PART)
    if there != (of, part):
        what = " ".join(filter(None, there))[:60] or "of no key"
        raise InputError(
            f"{place.url} is {what}, and its name is that of {' '.join(filter(None, (of, part)))}: remove it"
        )
    return {name: text for name, text in facts.items() if name not in (DIGEST, PART)}


def _told(shapes: Shapes) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in sorted(shapes.items())[:5]) or "nothing"
