"""A finished set that is neither images nor other rows of one shape: a folder with the matcher's tensors, what decodes
them, a picture and a card.

The manifest is that of an image artifact (see ``ddcore.sets.manifest``) without what only images have; its ``kind`` is
the data's modality, ``shape`` what their summary says of it, ``samples_per_class`` a count for each class. Labels lie
among the tensors. Nothing in a folder is executed when it is read, and nothing is a pickle.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, final

import torch
from torch import Tensor

from ddcore.api.types import VECTORS, Synthetic
from ddcore.errors import InputError
from ddcore.sets.artifact import Artifact, load_artifact
from ddcore.sets.manifest import AGAIN, MANIFEST, SCHEMA, altered_files, check_own_files, is_dense, read_manifest
from ddcore.storage.documents import is_count
from ddcore.storage.places import Place, load_tensors, save_tensors, sha256_of
from ddcore.storage.published import SAID_OF_DATA, published, published_source, told

PREVIEW, CARD = "preview.png", "README.md"
ABOUT = """\
# {name}, distilled by {method}

![The most frequent of what it holds]({preview})

{count} samples of {classes} classes as {kind}, {nbytes:,} bytes in `{file}`, plain tensors that `manifest.json` describes.

Source data: {name}, from {origin}; licence: {licence}; fingerprint `{fingerprint}`. What may be done with the set depends on
that licence.

{notes}
"""


@final
class Packed:
    """A distilled set that is not images, loaded.

    Attributes:
        place: where it lies.
        manifest: all that it says of itself, plain values.
        tensors: by name, as the plugin stored them.
    """

    def __init__(self, place: Place, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """See ``load_packed`` and ``save_packed``, which make these."""
        self.place, self.manifest, self.tensors = place, manifest, dict(tensors)
        self.classes: tuple[str, ...] = tuple(manifest["classes"])

    def __repr__(self) -> str:
        """What it is, what reads it, and how students are trained on it: three lines."""
        of = self.manifest["source"].get("name", "unnamed data")
        readers = ", ".join(f"{op.get('op')} of {op.get('distribution', 'ddcore')}" for op in self.manifest["decoder"])
        return (
            f"<Packed: {sum(self.samples_per_class)} samples as {self.kind} of {len(self.classes)} classes, by {self.method} from {of}\n"
            f"  stored: {', '.join(self.tensors)}; read by {readers}\n"
            f"  students are trained and tested on it by: ddcore evaluate {self.place.url}>"
        )

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes on storage, by part and in ``total``."""
        return {part: int(size) for part, size in self.manifest["bytes"].items()}

    @property
    def kind(self) -> str:
        """What it holds, the data's modality."""
        return str(self.manifest["kind"])

    @property
    def method(self) -> str:
        """The plugins that made it."""
        return str(self.manifest["provenance"].get("method", "unknown"))

    @property
    def samples_per_class(self) -> list[int]:
        """How many samples each class has."""
        return [int(count) for count in self.manifest["samples_per_class"]]

    def altered(self) -> list[str]:
        """Files that are missing or no longer what was written, as of card and preview, which people may change."""
        return altered_files(self.place, self.manifest)


def save_packed(
    url: str | PathLike[str] | Place,
    synthetic: Synthetic,
    *,
    kind: str,
    classes: tuple[str, ...],
    provenance: Mapping[str, Any],
    source: Mapping[str, Any],
    notes: tuple[str, ...] = (),
) -> Packed:
    """Write the folder, its manifest last, in place of one that was there; returns what a reader gets."""
    place, name = Place.at(url), f"{kind}.safetensors"
    place.make_folder()
    (place / MANIFEST).remove()
    nbytes = save_tensors(place / name, synthetic.tensors)
    said = {"notes": source["notes"]} if source.get("notes") else {}
    about = published_source({k: source.get(k, "") for k in SAID_OF_DATA} | said)
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": kind,
        "classes": list(classes),
        "shape": list(source.get("shape", ())),
        "decoder": [dict(op) for op in synthetic.decoder],
        "labels": {"kind": "hard"},
        "recipe": {},
        "provenance": published(provenance),
        "source": about,
        "notes": [told(note) for note in (*notes, *synthetic.notes)],
        "bytes": {kind: nbytes, "total": nbytes},
        "samples_per_class": torch.bincount(synthetic.classes, minlength=len(classes)).tolist(),
    }
    card = ABOUT.format(
        **{k: about[k] for k in ("name", "origin", "licence", "fingerprint")},
        method=provenance["method"],
        preview=PREVIEW,
        count=len(synthetic.classes),
        classes=len(classes),
        kind=kind,
        nbytes=nbytes,
        file=name,
        notes="\n".join(f"- {note}" for note in manifest["notes"]),
    )
    written = {PREVIEW: synthetic.preview, CARD: card.encode()}
    for other, content in written.items():
        (place / other).write_bytes(content)
    held = {name: (place / name).read_bytes(), **written}
    manifest["files"] = {n: {"bytes": len(data), "sha256": sha256_of(data)} for n, data in held.items()}
    (place / MANIFEST).write_json(manifest)
    return load_packed(place)


def load_packed(url: str | PathLike[str] | Place) -> Packed:
    """Load such a folder from a path or any fsspec URL.

    Raises:
        InputError: none there; a file is missing, truncated or altered; a damaged manifest or a newer schema; it holds
            images.
    """
    place = Place.at(url)
    manifest = read_manifest(place, images=False)
    name, url = f"{manifest['kind']}.safetensors", (place / MANIFEST).url
    if name not in manifest["files"]:
        raise InputError(f"{url} has no checksum of {name}: {AGAIN}")
    counts = manifest.get("samples_per_class")
    if not isinstance(counts, list) or len(counts) != len(manifest["classes"]) or not all(map(is_count, counts)):
        raise InputError(f"{url} is damaged, its 'samples_per_class' are no counts of its classes: {AGAIN}")
    if not isinstance(manifest.get("shape"), list):
        raise InputError(f"{url} is damaged, its 'shape' is missing: {AGAIN}")
    record = manifest["files"][name]
    return Packed(place, manifest, load_tensors(place / name, sha256=record["sha256"], size=record["bytes"]))


def load_either(url: str | PathLike[str] | Place) -> Artifact | Packed:
    """Load a distilled set, of images and other dense rows or of something else.

    Raises:
        InputError: see ``load_artifact`` and ``load_packed``.
    """
    place = Place.at(url)
    try:
        check_own_files(place, [MANIFEST])
        manifest = (place / MANIFEST).read_json() if (place / MANIFEST).exists() else {}
    except InputError:
        manifest = {}
    packed = isinstance(manifest, dict) and isinstance(manifest.get("kind"), str) and not is_dense(manifest)
    return load_packed(place) if packed else load_artifact(place)


def pixels_of(synthetic: Synthetic) -> dict[str, Tensor]:
    """What images are decoded from."""
    return {
        name: t for name, t in synthetic.tensors.items() if synthetic.roles.get(name) not in ("labels", "rate", VECTORS)
    }
