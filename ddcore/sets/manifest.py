"""``manifest.json``: what an artifact says of itself, checked before anything in it is believed.

Keys of schema 1: ``schema``; ``kind`` (``images``, or another modality of a plugin's data); ``dense``, where
samples of another modality are rows of one shape and the folder is else as one of images, and ``row_bytes``, the price
of a real one of them; ``classes``, names in the order of class ids; ``shape`` of a sample; ``storage_dtype``;
``value_range`` of the samples, normalised and as pixels; ``normalisation``, with its exact inverse; ``decoder``, a list
of operations; ``labels``, their kind and header; ``recipe`` for training; ``provenance``; ``source``, the real data;
``notes``; ``bytes`` by part; ``files``, bytes and SHA-256 of every other file. Schema 2 is that of sets with real
images among theirs: ``real`` has ``rows``, for each sample the row of the data's train part that it is, -1 for a
synthetic one, and ``unchanged``, whether a reader gets their very pixels; their decoder reads them as the data hold
them (``ddcore.sets.exact``). A decoder operation and a label kind that the core lacks name the ``distribution`` that
provides them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from os.path import realpath
from pathlib import Path
from typing import Any

from ddcore.errors import InputError
from ddcore.storage.documents import is_count
from ddcore.storage.places import Place, sha256_of

SCHEMA, SCHEMA_OF_REAL = 1, 2
NEWEST = SCHEMA_OF_REAL
MANIFEST = "manifest.json"
KIND = "images"
AGAIN = "get the artifact again"
MOST_NOTES = 1000
COUNTED = ("images", "labels", "models")
"""Parts of the total. The normalisation is not among them: real images that the set is compared with need it as
well."""

TYPES: Mapping[str, type] = {
    "kind": str,
    "classes": list,
    "shape": list,
    "storage_dtype": str,
    "value_range": dict,
    "normalisation": dict,
    "decoder": list,
    "labels": dict,
    "recipe": dict,
    "provenance": dict,
    "source": dict,
    "notes": list,
    "bytes": dict,
    "files": dict,
}


IN_FOLDER = re.compile(r"[^/\\:\x00-\x1f\x7f-\x9f]+")
"""A name that is one of a folder's own files on every system, and neither a path, an address nor a drive."""
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""The name of a package: a message that tells to install one repeats nothing else."""
OF_RECORD = {"config": dict, "options": dict, "plan": dict, "plugins": list, "relabelled": list, "papers": list}
"""What a provenance may say of the run that made it, each with its type."""

OF_IMAGES = ("shape", "storage_dtype", "value_range", "normalisation")
"""What only sets of images say."""


def is_dense(manifest: Mapping[str, Any]) -> bool:
    """Whether it is of images or other rows of one shape, so that ``ddcore.load_artifact`` reads it."""
    return manifest.get("kind") == KIND or manifest.get("dense") is True


def read_manifest(place: Place, *, images: bool = True) -> dict[str, Any]:
    """The manifest of an artifact folder that holds images or other dense rows, or one that holds something else.

    Raises:
        InputError: there is none, it is damaged, it is from a newer ddcore, or the artifact is of another kind.
    """
    if not (place / MANIFEST).exists():
        raise InputError(_no_artifact(place))
    url = (place / MANIFEST).url
    check_own_files(place, [MANIFEST])
    manifest = (place / MANIFEST).read_json()
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or not is_count(schema, least=1):
        raise InputError(f"{url} is no manifest of an artifact, it has no schema version: {AGAIN}")
    if schema > NEWEST:
        upgrade = "pip install --upgrade ddcore-torch"
        raise InputError(f"{place.url} has schema {schema}, and this ddcore reads schemas up to {NEWEST}: {upgrade}")
    if wrong := next(filter(None, _wrongs(manifest)), ""):
        raise InputError(f"{url} is damaged, {wrong}: {AGAIN}")
    if is_dense(manifest) != images:
        other = f"and this ddcore reads {KIND} here: load it" if images else "so load it"
        by = "by ddcore.sets.packed.load_packed, or upgrade ddcore-torch" if images else "by ddcore.load_artifact"
        raise InputError(f"{place.url} holds {manifest['kind']}, {other} {by}")
    check_own_files(place, manifest["files"])
    return manifest


def check_own_files(place: Place, names: Iterable[str]) -> None:
    """Refuse files of an artifact's folder that are not its own: links that lead out of it, pipes, devices.

    Raises:
        InputError: naming the file. One that is not there is left to whoever reads it.
    """
    folder = place.local_path()
    if folder is None:
        return
    for path in (folder / name for name in names):
        if path.is_symlink() and not Path(realpath(path)).is_relative_to(realpath(folder)):
            raise InputError(f"{path} is a link that leads out of its artifact: put the file itself there")
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no regular file: {AGAIN}")


def altered_files(place: Place, manifest: Mapping[str, Any]) -> list[str]:
    """An artifact's files that are missing or no longer what was written, by name."""
    there = set(place.names())
    files = manifest["files"].items()
    return [n for n, f in files if n not in there or sha256_of((place / n).read_bytes()) != f["sha256"]]


def provider(spec: Mapping[str, Any]) -> str:
    """The distribution that reads what a manifest describes, where it names one that could be installed;
    else nothing."""
    name = spec.get("distribution")
    return name if isinstance(name, str) and DISTRIBUTION.fullmatch(name) else ""


def bytes_of(files: Mapping[str, Mapping[str, Any]], parts: Mapping[str, str]) -> dict[str, int]:
    """Bytes by part, from the record of files and the part each belongs to."""
    found = {part: int(files[name]["bytes"]) for name, part in parts.items() if name in files}
    counted = {part: found.get(part, 0) for part in COUNTED}
    return {**counted, "total": sum(counted.values()), "normalisation": found.get("normalisation", 0)}


def _wrongs(manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with it, an empty text for all that is right."""
    of_images = is_dense(manifest)
    for name, kind in TYPES.items():
        if not isinstance(manifest.get(name), kind) and (of_images or name not in OF_IMAGES):
            return [f"its {name!r} is missing or not what it has to be"]
    return [*_wrongs_of_any(manifest), *(_wrongs_of_images(manifest) if of_images else ())]


def _wrongs_of_images(manifest: Mapping[str, Any]) -> list[str]:
    rate, span = manifest["recipe"].get("learned_rate"), manifest["value_range"].get("pixels")
    ranged = isinstance(span, list) and len(span) == 2 and all(map(_finite, span))
    return [
        "" if manifest["shape"] and all(is_count(n, 1) for n in manifest["shape"]) else "its 'shape' is no shape",
        "" if isinstance(manifest["normalisation"].get("kind"), str) else "its normalisation has no kind",
        "" if rate is None or _finite(rate) else "its recipe's learned rate is no number",
        "" if ranged else "its 'value_range' is no range",
        "" if _rows(manifest.get("real", NO_ROWS)) else "its 'real' names no rows of the data",
    ]


NO_ROWS: Mapping[str, Any] = {"rows": [], "unchanged": True}


def _rows(real: object) -> bool:
    known = isinstance(real, Mapping) and isinstance(real.get("unchanged"), bool) and isinstance(real.get("rows"), list)
    return known and all(row == -1 or (is_count(row) and row < 2**63) for row in real["rows"])  # type: ignore[index]


def _wrongs_of_any(manifest: Mapping[str, Any]) -> list[str]:
    lists = {"classes": str, "decoder": dict, "notes": str}
    return [
        *("" if _all(manifest[n], of) else f"its {n!r} holds something else than it has to" for n, of in lists.items()),
        "" if len(manifest["notes"]) <= MOST_NOTES else f"it has {len(manifest['notes']):,} notes",
        "" if manifest["classes"] else "it names no classes",
        "" if isinstance(manifest["labels"].get("kind"), str) else "its labels have no kind",
        "" if manifest["bytes"].get("total") is not None and all(map(is_count, manifest["bytes"].values())) else SIZES,
        _wrong_provenance(manifest["provenance"]),
        *map(_wrong_file, manifest["files"], manifest["files"].values()),
    ]


SIZES = "its 'bytes' are no sizes"


def _wrong_provenance(record: Mapping[str, Any]) -> str:
    """What is wrong with what is said of the run that made it, or of one that labelled it again."""
    if wrong := next((n for n, kind in OF_RECORD.items() if not isinstance(record.get(n, kind()), kind)), ""):
        return f"its provenance has {wrong!r} that are not what they have to be"
    if not _all([*record.get("options", {}).values(), *record.get("relabelled", ())], dict):
        return "its provenance holds something else than it has to"
    if not all(isinstance(p, dict) and isinstance(p.get("name"), str) for p in record.get("plugins", ())):
        return "its provenance names no plugins"
    return next(filter(None, map(_wrong_relabelling, record.get("relabelled", ()))), "")


def _wrong_relabelling(record: Mapping[str, Any]) -> str:
    told = "relabelled" not in record and all(isinstance(record.get(name), str) for name in ("was", "labels"))
    return _wrong_provenance(record) if told else "its provenance does not say what was labelled again"


def _all(values: list[Any], of: type) -> bool:
    return all(isinstance(value, of) for value in values)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong_file(name: str, record: object) -> str:
    if name in (".", "..") or not IN_FOLDER.fullmatch(name):
        return f"it lists {name!r}, which is no file of its folder"
    whole = isinstance(record, dict) and isinstance(record.get("sha256"), str) and is_count(record.get("bytes"))
    return "" if whole else f"it has no checksum of {name}"


def _no_artifact(place: Place) -> str:
    inside = place / "artifact"
    if (inside / MANIFEST).exists():
        return f"{place.url} is no artifact but the run that made one: give {inside.url}"
    if not place.exists():
        return f"{place.nothing_there}: check the path or URL"
    return f"{place.url} has no {MANIFEST}, so it is no finished artifact: give another folder, or finish the run that writes it"
