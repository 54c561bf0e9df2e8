"""A finished distilled set on storage: a folder that explains itself and that three lines of Python load.

    from ddcore import load_artifact
    distilled = load_artifact("runs/mine/artifact")
    for images, targets in distilled.loader(batch_size=64, seed=0): ...

``manifest.json`` is written last, so a folder without it is not an artifact; it holds a checksum of every other file. Nothing
in a folder is executed when it is read, and nothing is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddcore import randomness
from ddcore.card import card
from ddcore.decoders import Decoder
from ddcore.errors import DdcoreError, InputError
from ddcore.labels import KINDS, Labels, View
from ddcore.normalisation import Normalisation
from ddcore.preview import preview_png
from ddcore.storage import Place, load_tensors, save_tensors, sha256_of

SCHEMA = 1
MANIFEST = "manifest.json"
IMAGES, LABELS, NORMALISATION = "images.safetensors", "labels.safetensors", "normalisation.safetensors"
PARTS = {IMAGES: "images", LABELS: "labels", NORMALISATION: "normalisation"}
STORAGE = {"float32": torch.float32, "float16": torch.float16}


class Artifact(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set, loaded. As a ``Dataset`` it gives (image, target) pairs: the target is a class id under hard labels
    and class probabilities (K,) under soft ones. Images are float32 and normalised as training wants them.

    Attributes:
        manifest: all that is known about it, plain values.
        tensors: stored tensors by name, as they lie on storage.
        labels: of the decoded samples.
        classes: names, in the order of class ids.
        normalisation: from [0, 1] to the images' space and back.
    """

    def __init__(
        self,
        manifest: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        labels: Labels,
        normalisation: Normalisation,
    ) -> None:
        """See ``load_artifact`` and ``save_artifact``, which make these."""
        self.manifest, self.tensors = manifest, dict(tensors)
        self.labels, self.normalisation = labels, normalisation
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.decoder = Decoder(manifest["decoder"])

    def __len__(self) -> int:
        return self.decoder.count(self.tensors)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= at < len(self):
            raise IndexError(f"sample {at} of {len(self)}")
        index = torch.tensor([at % len(self)])
        return self.images(index)[0], self._answers(index)[0]

    def images(self, index: Tensor | None = None) -> Tensor:
        """Normalised images (B, C, H, W) float32 at ``index`` (B,); all of them without it."""
        index = torch.arange(len(self)) if index is None else index
        return self.decoder.sample(self.tensors, index).float()

    def pixels(self, index: Tensor | None = None) -> Tensor:
        """The same images de-normalised and clipped to [0, 1], to be looked at."""
        return self.normalisation.inverse(self.images(index)).clamp(0, 1)

    def loader(self, batch_size: int = 64, seed: int = 0, epochs: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches of (images, targets), the last of an epoch possibly short; the same for the same seed."""
        for epoch in range(epochs):
            for view in self.labels.views(epoch, len(self), batch_size, randomness.generator(seed, "loader", epoch)):
                yield self.images(view.index), self._answers(view.index)

    def _answers(self, index: Tensor) -> Tensor:
        targets = self.labels.targets(View(index), None)
        if "logits" in targets:
            temperature = float(self.labels.recipe.get("temperature", 1.0))
            return (targets["logits"] / temperature).softmax(1)
        return targets["class"]

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes on storage: ``images``, ``labels``, ``models`` and their ``total``; ``normalisation`` stands apart."""
        return {part: int(size) for part, size in self.manifest["bytes"].items()}

    @property
    def payload_bytes(self) -> int:
        """What images and labels cost by formula, without the files' headers."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values()) + self.labels.payload_bytes

    @property
    def ipc(self) -> float:
        """Decoded images per class."""
        return len(self) / len(self.classes)

    @property
    def equivalent_ipc(self) -> float:
        """Real images per class, uint8 with a hard label each, that cost as many bytes."""
        sample = 1
        for length in self.manifest["shape"]:
            sample *= int(length)
        return self.nbytes["total"] / (sample + 1) / len(self.classes)

    @property
    def learned_rate(self) -> float | None:
        """The student's learning rate that was learned with the set, if one was."""
        rate = self.manifest["recipe"].get("learned_rate")
        return None if rate is None else float(rate)

    @cached_property
    def method(self) -> str:
        """Which plugins made it."""
        return str(self.manifest["provenance"].get("method", "unknown"))


def save_artifact(
    url: str | PathLike[str] | Place,
    *,
    tensors: Mapping[str, Tensor],
    decoder: Sequence[Mapping[str, Any]],
    labels: Labels,
    classes: Sequence[str],
    normalisation: Normalisation,
    recipe: Mapping[str, Any],
    provenance: Mapping[str, Any],
    source: Mapping[str, Any],
    notes: Sequence[str] = (),
    storage_dtype: str = "float32",
) -> Artifact:
    """Write an artifact folder, its manifest last; the folder is one only then.

    Args:
        tensors: what the decoder reads; float images are stored as ``storage_dtype``.
        source: the real data's ``summary()``.
        recipe: how to train on it.
        provenance: how it was made.
    """
    place = Place.at(url)
    place.make_folder()
    stored, decoder = as_stored(tensors, decoder, storage_dtype)
    save_tensors(place / IMAGES, stored)
    save_tensors(place / LABELS, labels.tensors())
    if normalisation.tensors():
        save_tensors(place / NORMALISATION, normalisation.tensors())
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": source.get("modality", "images"),
        "classes": list(classes),
        "shape": list(source["shape"]),
        "decoder": [dict(op) for op in decoder],
        "storage_dtype": storage_dtype,
        "value_range": [float(min(t.min() for t in tensors.values())), float(max(t.max() for t in tensors.values()))],
        "normalisation": normalisation.header(),
        "labels": {"kind": labels.kind, **labels.header()},
        "recipe": dict(recipe),
        "provenance": dict(provenance),
        "source": {k: source[k] for k in ("name", "origin", "licence", "fingerprint", "train") if k in source},
        "notes": list(notes),
    }
    made = Artifact(manifest, stored, labels, normalisation)
    (place / "preview.png").write_bytes(preview_of(made))
    manifest["bytes"] = sizes(place)
    (place / "README.md").write_bytes(card(made, labels.payload_bytes).encode())
    names = [n for n in (IMAGES, LABELS, NORMALISATION, "preview.png", "README.md") if (place / n).exists()]
    manifest["files"] = {n: {"bytes": (place / n).size(), "sha256": sha256_of((place / n).read_bytes())} for n in names}
    (place / MANIFEST).write_json(manifest)
    return made


def as_stored(
    tensors: Mapping[str, Tensor], decoder: Sequence[Mapping[str, Any]], storage_dtype: str
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors as they are stored, and the decoder that gives them back.

    ``uint8`` quantises each channel of a tensor of images to 256 levels between its own least and largest value.
    """
    stored: dict[str, Tensor] = {}
    operations = [dict(op) for op in decoder]
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if storage_dtype != "uint8" or tensor.dim() != 4:
            kept = tensor.to(STORAGE.get(storage_dtype, torch.float32)) if tensor.is_floating_point() else tensor
            stored[name] = kept.contiguous()
            continue
        low, high = tensor.amin(dim=(0, 2, 3)).float(), tensor.amax(dim=(0, 2, 3)).float()
        scale = ((high - low) / 255).clamp(min=1e-12)
        levels = ((tensor.float() - low[:, None, None]) / scale[:, None, None]).round().clamp(0, 255)
        stored |= {name: levels.to(torch.uint8).contiguous(), f"{name}.scale": scale, f"{name}.offset": low}
        for at, op in enumerate(operations):
            if op.get("op") == "rows" and op.get("tensor") == name:
                operations[at] = {"op": "dequantise", "tensor": name, "scale": f"{name}.scale", "offset": f"{name}.offset"}
    return stored, operations


def sizes(place: Place) -> dict[str, int]:
    """Bytes on storage by part; the normalisation's matrices, which real images need too, are not in the total."""
    found = {part: (place / name).size() for name, part in PARTS.items() if (place / name).exists()}
    counted = {part: found.get(part, 0) for part in ("images", "labels", "models")}
    return {**counted, "total": sum(counted.values()), "normalisation": found.get("normalisation", 0)}


def preview_of(artifact: Artifact) -> bytes:
    """``preview.png``: the images in class rows."""
    title = f"{artifact.manifest['source'].get('name', 'data')}: {artifact.method}, {artifact.ipc:g} per class"
    return preview_png(artifact.pixels(), artifact.labels.classes, artifact.classes, title)


def load_artifact(url: str | PathLike[str] | Place) -> Artifact:
    """Load an artifact from a folder or any fsspec URL. No plugin is needed for hard and soft labels.

    Raises:
        InputError: no artifact; a file is missing, truncated or altered; a newer schema; labels or a decoder of a plugin
            that is not here (names its distribution).
    """
    place = Place.at(url)
    manifest = read_manifest(place)
    try:
        images, labels = (load_tensors(place / n, sha256=_recorded(manifest, n, place)) for n in (IMAGES, LABELS))
        extra: dict[str, Tensor] = {}
        if NORMALISATION in manifest["files"]:
            extra = load_tensors(place / NORMALISATION, sha256=_recorded(manifest, NORMALISATION, place))
        kind = manifest["labels"]["kind"]
        made = label_class(manifest, place).load(manifest["labels"], labels)
        artifact = Artifact(manifest, images, made, Normalisation.load(manifest["normalisation"], extra))
        if len(artifact) != len(made):
            raise InputError(f"{place.url} has {len(artifact)} samples and {kind} labels of {len(made)}: write it again")
        _try_out(artifact)
        return artifact
    except DdcoreError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(f"{(place / MANIFEST).url} does not describe the files beside it ({what}): get the artifact again") from error


def read_manifest(place: Place) -> dict[str, Any]:
    """The manifest of an artifact folder.

    Raises:
        InputError: there is none, it is no manifest, or it is from a newer ddcore.
    """
    if not (place / MANIFEST).exists():
        where = f"; did you mean {(place / 'artifact').url}?" if (place / "artifact" / MANIFEST).exists() else ""
        hint = where or ": give the folder that holds manifest.json, or finish the run that writes it"
        raise InputError(f"{place.url} is no artifact, it has no {MANIFEST}{hint}")
    manifest = (place / MANIFEST).read_json()
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or not isinstance(schema, int):
        raise InputError(f"{(place / MANIFEST).url} is no manifest of an artifact: get the artifact again")
    if schema > SCHEMA:
        raise InputError(f"{place.url} has schema {schema}, this ddcore reads up to {SCHEMA}: pip install --upgrade ddcore-torch")
    return manifest


def label_class(manifest: Mapping[str, Any], place: Place) -> type[Labels]:
    """The class that reads this manifest's labels.

    Raises:
        InputError: a kind that no code here reads; names the distribution the manifest names.
    """
    kind = manifest["labels"]["kind"]
    if kind in KINDS:
        return KINDS[kind]
    if distribution := manifest["labels"].get("distribution"):
        raise InputError(f"{place.url} has labels of kind {kind!r}, which {distribution} reads: pip install {distribution}")
    raise InputError(f"{place.url} has labels of kind {kind!r}, which this ddcore does not read: upgrade ddcore-torch")


def _recorded(manifest: Mapping[str, Any], name: str, place: Place) -> str:
    record = manifest["files"].get(name)
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        raise InputError(f"{(place / MANIFEST).url} has no checksum of {name}: get the artifact again")
    return str(record["sha256"])


def _try_out(artifact: Artifact) -> None:
    """Decode and de-normalise one sample, so that a manifest that does not fit its files is found at once."""
    first = torch.zeros(min(1, len(artifact)), dtype=torch.int64)
    artifact.pixels(first)
    artifact._answers(first)
    if len(artifact.classes) < artifact.labels.class_count:
        raise InputError(f"the artifact names {len(artifact.classes)} classes and its labels have {artifact.labels.class_count}: get it again")
    float(json.dumps(artifact.learned_rate) if artifact.learned_rate is not None else 0)


