"""A finished distilled set on storage: a folder that explains itself and that three lines of Python load.

    from ddcore import load_artifact
    distilled = load_artifact("runs/mine/artifact")
    for images, targets in distilled.loader(batch_size=64, seed=0):
        distilled.loss(network(images), targets).backward()

The manifest is written last, so a folder without it is not an artifact; it holds a checksum of every other file.
Nothing in a folder is executed when it is read, and nothing is a pickle. Shape letters: N samples, B of a batch, C H W
pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NotRequired, TypedDict, Unpack, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddcore import randomness
from ddcore.api import services
from ddcore.data.normalisation import Normalisation
from ddcore.data.source import OF_ROWS
from ddcore.errors import MISFITS, DdcoreError, InputError, in_short, near
from ddcore.images.preview import pictures_of, preview_png
from ddcore.labels import Labels, View, smallest_type
from ddcore.labels.losses import as_told, loss_of_told, needed
from ddcore.sets.brought import label_class
from ddcore.sets.card import card
from ddcore.sets.decoders import Decoder
from ddcore.sets.exact import exact_only, exact_tensors
from ddcore.sets.levels import are_levels, exact_names, stored_type, to_levels
from ddcore.sets.manifest import (
    AGAIN,
    KIND,
    MANIFEST,
    SCHEMA,
    SCHEMA_OF_REAL,
    altered_files,
    bytes_of,
    provider,
    read_manifest,
)
from ddcore.storage.documents import is_count
from ddcore.storage.places import Place, load_tensors, save_tensors, sha256_of
from ddcore.storage.published import SAID_OF_DATA, published, published_source, told

IMAGES, LABELS, NORMALISATION = "images.safetensors", "labels.safetensors", "normalisation.safetensors"
MODELS = "models.safetensors"
PREVIEW, CARD = "preview.png", "README.md"
PARTS = {IMAGES: "images", LABELS: "labels", MODELS: "models", NORMALISATION: "normalisation"}
OPTIONAL = (MODELS, NORMALISATION)
"""Files that an artifact has only if there is something to put into them."""
FLOATS = {"float32": torch.float32, "float16": torch.float16}
UINT8 = "uint8"
CHECKED_AT_ONCE = 2**22
REPEATED = ("network", "optimizer", "rate", "epochs", "batch")
"""What of a recipe a set says of itself in a line."""
OF_SOURCE = (*SAID_OF_DATA, "labelled", "stored", "mirror_symmetric", "mirror", "resize_mode", "notes")
"""What a manifest says of the real data, of their ``summary()``."""
Told = Tensor | dict[str, Tensor]
"""Targets of a batch: class ids, probabilities, or tensors by name."""


@final
class Artifact(Dataset[tuple[Tensor, Told]]):
    """A distilled set, loaded: what a network is trained on, how, and what is known of it.

        for epoch in range(300):
            for images, targets in artifact.loader(batch_size=64, seed=0):
                artifact.loss(network(images), targets).backward()

    Images are float32 (B, C, H, W), normalised as training wants them; ``normalisation.apply`` brings test pixels in
    [0, 1] to the same space, and ``manifest["recipe"]`` says network, optimiser, rate and epochs. Targets are what the
    labels' loss needs: class ids (B,) under hard labels; class probabilities (B, K), softened by the labels'
    temperature, where labels are logits; vectors (B, D) where they are no classes; else tensors by name. ``loss`` knows
    which loss that is.

    Labels that were made for views (crops, mirrors, mixes) speak of whole batches: ``loader`` gives their batches, in
    their order and size, with images changed as they say. Where nothing is known of single images, ``artifact[i]`` and
    so ``DataLoader(artifact)`` are refused; ``DataLoader(artifact.batches(...), batch_size=None)`` has the batches.

    Attributes:
        place: where it lies.
        manifest: all that it says of itself, plain values.
        tensors: stored tensors by name, as they lie on storage.
        labels: of the decoded samples.
        classes: names, in the order of class ids.
        normalisation: from [0, 1] to the images' space and back.
    """

    def __init__(
        self,
        place: Place,
        manifest: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        labels: Labels,
        normalisation: Normalisation,
    ) -> None:
        """See ``load_artifact`` and ``save_artifact``, which make these."""
        self.place, self.manifest, self.tensors = place, manifest, dict(tensors)
        self.labels, self.normalisation = labels, normalisation
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.decoder = Decoder(manifest["decoder"])
        self._begun: dict[int, int] = {}

    def __repr__(self) -> str:
        """What it is, how to train on it, and how to test what was trained: three lines."""
        shape, recipe = " x ".join(map(str, self.manifest["shape"])), self.manifest["recipe"]
        of = self.manifest["source"].get("name", "unnamed data")
        named = ", ".join(f"{key} {recipe[key]}" for key in REPEATED if recipe.get(key) is not None)
        return "\n".join(
            (
                f"<Artifact: {len(self)} images of {len(self.classes)} classes, {shape}, {self.labels.kind} labels, "
                f"by {self.method} from {of}",
                "  for images, targets in artifact.loader(batch_size=64, seed=0): artifact.loss(network(images), targets)",
                f"  {named or 'no recipe is given'}; test images: artifact.normalisation.apply(pixels in [0, 1])>",
            )
        )

    def __len__(self) -> int:
        return self.decoder.count(self.tensors)

    def __getitem__(self, at: int) -> tuple[Tensor, Told]:
        """A clean image (C, H, W) and its target.

        Raises:
            InputError: the labels are of views and say nothing of clean images.
        """
        if not -len(self) <= at < len(self):
            raise IndexError(f"sample {at} of {len(self)}")
        index = torch.tensor([at % len(self)])
        images = self.images(index)
        targets = self.labels.targets(View(index), images)
        if (need := needed(self.labels.recipe)) not in targets:
            raise InputError(
                f"{self.labels.kind} labels are of views of whole batches, and no single image has its {need}: train on "
                "artifact.loader(), or on DataLoader(artifact.batches(epochs=300), batch_size=None); artifact.images() and "
                "artifact.labels.classes are the clean images and their classes"
            )
        target = self._told(targets)
        return images[0], target[0] if isinstance(target, Tensor) else {n: value[0] for n, value in target.items()}

    def images(self, index: Tensor | None = None) -> Tensor:
        """Normalised images (B, C, H, W) float32 at ``index`` (B,) int64; all of them without it."""
        index = torch.arange(len(self)) if index is None else index
        return self.decoder.sample(self.tensors, index).float()

    def pixels(self, index: Tensor | None = None) -> Tensor:
        """The same images without normalisation, clipped to [0, 1]: to be looked at. Other rows are not clipped."""
        pixels = self.normalisation.inverse(self.images(index))
        return pixels.clamp(0, 1) if self.of_images else pixels

    @property
    def of_images(self) -> bool:
        """Whether its samples are images; else rows of one shape, of the manifest's ``kind``."""
        return bool(self.manifest["kind"] == KIND)

    def loader(self, batch_size: int = 64, seed: int = 0, epochs: int = 1, first: int | None = None) -> Loader:
        """Shuffled batches of (images, targets), in new epochs each time that it is gone through.

        Epoch n of a seed has the same batches on every machine. Each ``for`` goes on with the epochs after those that
        this artifact's loaders of the same seed have begun, whether over one loader or over a new one each time; so a
        loop over epochs does what it says, and a loaded artifact begins with epoch 0.

        Args:
            batch_size: images of a batch; the last of an epoch may be short. Of no effect on labels that were stored
                for batches of their own.
            epochs: how many of them one iteration goes through.
            first: the epoch that this loader begins with, to repeat some or to go on with a training; its later
                iterations follow it. None: as above.
        """
        return Loader(self, batch_size, seed, epochs, first)

    def batches(self, batch_size: int = 64, seed: int = 0, epochs: int = 1, first: int = 0) -> Batches:
        """The batches of ``epochs`` epochs from ``first`` on, by number, for workers of a
        ``torch.utils.data.DataLoader``; see ``Batches``. Going through them again gives the same ones: ask for as many
        epochs as a training has, or for ``epochs=1, first=epoch`` in a loop over epochs."""
        return Batches(self, batch_size, seed, epochs, first)

    def loss(self, outputs: Tensor, targets: Told) -> Tensor:
        """The labels' loss, as ddcore's own students are trained with it: mean over the batch, a scalar.

        Cross entropy with class ids; for logits cross entropy or KL divergence at their temperature, times its square
        where the labels say so; mean squared error of logits or vectors; or gaps of distances, with mixed
        cross entropy.

        Args:
            outputs: a network's logits (B, K) for images of the loader, before any softmax; (B, D) under vectors.
            targets: as the loader gives them with the images, on any device.

        Raises:
            InputError: outputs of another width than ``labels.width``, or targets that are not the loader's.
        """
        if outputs.dim() != 2 or outputs.shape[1] != self.labels.width:
            due = (
                "classes) is due: give logits"
                if self.labels.of_classes
                else "numbers) is due: give what the network says"
            )
            raise InputError(f"outputs have shape {tuple(outputs.shape)} where (batch, {self.labels.width} {due}")
        wide = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
        return loss_of_told(wide, targets, self.labels.recipe)

    def begin_epochs(self, seed: int, count: int) -> int:
        """The first of the next ``count`` epochs of a seed, which are then begun."""
        first = self._begun.get(seed, 0)
        self._begun[seed] = first + count
        return first

    def epoch(self, number: int, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Told]]:
        """The batches of one epoch in the labels' order."""
        yield from map(self.batch, self.labels.views(number, len(self), batch_size, generator))

    def batch(self, view: View) -> tuple[Tensor, Told]:
        """The images and targets of one of the labels' views."""
        images = self.labels.changed(view, self.images(view.fetched))
        return images, self._told(self.labels.targets(view, images))

    def _told(self, targets: Mapping[str, Tensor]) -> Told:
        return as_told(targets, self.labels.recipe, of_classes=self.labels.of_classes)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes on storage: ``images``, ``labels``, ``models`` and their ``total``;
        ``normalisation`` is not part of it."""
        return {part: int(size) for part, size in self.manifest["bytes"].items()}

    @property
    def payload_bytes(self) -> int:
        """What images, labels and models cost without their files' headers."""
        own = sum(t.numel() * t.element_size() for t in self.tensors.values())
        return own + self.labels.payload_bytes + self.labels.model_bytes

    @property
    def ipc(self) -> float:
        """Decoded images per class."""
        return len(self) / len(self.classes)

    @property
    def equivalent_ipc(self) -> float:
        """Real samples per class, as the data hold them with a hard label each, that cost as many bytes."""
        value = 4 if self.manifest["source"].get("stored") == "float32" else 1
        price = self.manifest.get("row_bytes")
        sample: int = price if is_count(price, 1) else value * math.prod(self.manifest["shape"])
        return self.nbytes["total"] / (sample + smallest_type(len(self.classes)).itemsize) / len(self.classes)

    @property
    def labelled(self) -> bool:
        """Whether it was made from data with classes."""
        return self.manifest["source"].get("labelled") is not False

    @property
    def source_rows(self) -> Tensor:
        """(N,) int64: the row of the data's train part that a sample is, -1 for those that are synthetic."""
        real = self.manifest.get("real")
        return torch.full((len(self),), -1) if real is None else torch.tensor(real["rows"], dtype=torch.int64)

    @property
    def real_count(self) -> int:
        """How many of its images are real ones."""
        return int((self.source_rows >= 0).sum())

    @property
    def learned_rate(self) -> float | None:
        """The student's learning rate that was learned with the set, if one was."""
        rate = self.manifest["recipe"].get("learned_rate")
        return None if rate is None else float(rate)

    @property
    def method(self) -> str:
        """Which plugins made it."""
        return str(self.manifest["provenance"].get("method", "an unnamed method"))

    def altered(self) -> list[str]:
        """Files that are missing or no longer what was written. Those that hold data were checked when they were read;
        card and preview are for people, who may change them."""
        return altered_files(self.place, self.manifest)


@final
class Loader:
    """What ``Artifact.loader`` gives: each iteration has the next epochs of its seed."""

    def __init__(self, artifact: Artifact, batch_size: int, seed: int, epochs: int, first: int | None) -> None:
        _check_counts(batch_size, epochs, first or 0)
        self._artifact, self._batch_size, self._seed, self._epochs = artifact, batch_size, seed, epochs
        self._following = first

    def __iter__(self) -> Iterator[tuple[Tensor, Told]]:
        if self._following is None:
            first = self._artifact.begin_epochs(self._seed, self._epochs)
        else:
            first, self._following = self._following, self._following + self._epochs
        for number in range(first, first + self._epochs):
            generator = randomness.generator(self._seed, "order", number)
            yield from self._artifact.epoch(number, self._batch_size, generator)


@final
class Batches(Dataset[tuple[Tensor, Told]]):
    """Batches of an artifact by number, each an item, so that workers make them and samplers share them out:

        DataLoader(artifact.batches(epochs=300), batch_size=None, num_workers=4)

    A worker reads and decodes only the samples and labels of its own batches.
    """

    def __init__(self, artifact: Artifact, batch_size: int, seed: int, epochs: int, first: int = 0) -> None:
        _check_counts(batch_size, epochs, first)
        self._artifact, self._batch_size, self._seed, self._epochs = artifact, batch_size, seed, epochs
        self._first, self._number, self._views = first, first, self._epoch(first)

    def __len__(self) -> int:
        return self._epochs * len(self._views)

    def __getitem__(self, at: int) -> tuple[Tensor, Told]:
        if not -len(self) <= at < len(self):
            raise IndexError(f"batch {at} of {len(self)}")
        number, at = divmod(at % len(self), len(self._views))
        if self._first + number != self._number:
            self._number = self._first + number
            self._views = self._epoch(self._number)
        return self._artifact.batch(self._views[at])

    def _epoch(self, number: int) -> list[View]:
        generator = randomness.generator(self._seed, "order", number)
        return list(self._artifact.labels.views(number, len(self._artifact), self._batch_size, generator))


def _check_counts(batch_size: int, epochs: int, first: int) -> None:
    if min(batch_size, epochs) < 1 or first < 0:
        raise ValueError(
            f"batch_size is {batch_size}, epochs is {epochs} and first is {first}: give at least 1, 1 and 0"
        )


class Contents(TypedDict):
    """What an artifact is made of.

    ``tensors`` is what ``decoder`` reads, on any device; ``classes`` are names; ``recipe`` says how to train on the set
    and ``provenance`` how it was made, as JSON values; ``source`` is the real data's ``summary()``; ``notes`` are known
    gaps; ``storage_dtype`` is float32 (default), float16 or uint8, 256 levels a channel; ``real`` says which samples
    are real images, see ``ddcore.sets.manifest``; ``preview`` draws the finished set as a PNG, or leaves it to the core
    by an empty one.
    """

    tensors: Mapping[str, Tensor]
    decoder: Sequence[Mapping[str, Any]]
    labels: Labels
    classes: Sequence[str]
    normalisation: Normalisation
    recipe: Mapping[str, Any]
    provenance: Mapping[str, Any]
    source: Mapping[str, Any]
    notes: NotRequired[Sequence[str]]
    storage_dtype: NotRequired[str]
    real: NotRequired[Mapping[str, Any] | None]
    preview: NotRequired[Callable[[Artifact], bytes]]


def save_artifact(url: str | PathLike[str] | Place, **contents: Unpack[Contents]) -> Artifact:
    """Write an artifact folder, its manifest last, in place of one that was there.

    Returns:
        What a reader gets, stored types and all.

    Raises:
        InputError: values that are not finite, labels of another number of samples, an unknown storage type.
    """
    place, labels, normalisation = Place.at(url), contents["labels"], contents["normalisation"]
    storage_dtype = contents.get("storage_dtype", "float32")
    stored, operations = as_stored(contents["tensors"], contents["decoder"], storage_dtype, normalisation)
    manifest: dict[str, Any] = {
        "schema": SCHEMA_OF_REAL if contents.get("real") else SCHEMA,
        "kind": str(contents["source"].get("modality", KIND)),
        **{name: contents["source"][name] for name in OF_ROWS if name in contents["source"]},
        "classes": list(contents["classes"]),
        "storage_dtype": _type_of(stored, operations, storage_dtype),
        "normalisation": normalisation.header(),
        "decoder": operations,
        "labels": _said_of(labels),
        "recipe": dict(contents["recipe"]),
        "provenance": published(contents["provenance"]),
        "source": published_source({k: v for k, v in contents["source"].items() if k in OF_SOURCE and v != []}),
        "notes": [told(note) for note in contents.get("notes", ())],
        **({"real": dict(real)} if (real := contents.get("real")) else {}),
    }
    artifact = Artifact(place, manifest, stored, labels, normalisation)
    if len(artifact) != len(labels):
        raise InputError(
            f"an artifact of {len(artifact)} samples was given labels of {len(labels)}: give one label a sample"
        )
    manifest |= {"shape": list(artifact.images(torch.tensor([0])).shape[1:]), "value_range": _ranges(artifact)}
    draw = contents.get("preview")
    return _write(artifact, manifest, draw(artifact) if draw else b"")


def relabelled(
    artifact: Artifact,
    url: str | PathLike[str] | Place,
    labels: Labels,
    *,
    recipe: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Artifact:
    """Write an artifact's images, untouched, under other labels, in place of an artifact that was there.

    Raises:
        InputError: labels of another number of samples.
    """
    if len(artifact) != len(labels):
        raise InputError(f"{len(artifact)} samples were given {len(labels)} labels: give one label a sample")
    changes = {
        "labels": _said_of(labels),
        "recipe": dict(recipe),
        "provenance": published(provenance),
        "source": published_source(artifact.manifest["source"]),
    }
    manifest = {**artifact.manifest, **changes}
    kept = b"" if artifact.of_images else (artifact.place / PREVIEW).read_bytes()
    return _write(Artifact(Place.at(url), manifest, artifact.tensors, labels, artifact.normalisation), manifest, kept)


def _write(artifact: Artifact, manifest: dict[str, Any], preview: bytes) -> Artifact:
    """Write every file, and what they are to the manifest, the artifact's own; then read it all again."""
    place = artifact.place
    place.make_folder()
    place.remove_abandoned()
    (place / MANIFEST).remove()
    manifest["files"] = files = _write_data(artifact)
    manifest["bytes"] = bytes_of(files, PARTS)
    for name, content in ((PREVIEW, preview or preview_of(artifact)), (CARD, card(artifact).encode())):
        (place / name).write_bytes(content)
        files[name] = {"bytes": len(content), "sha256": sha256_of(content)}
    (place / MANIFEST).write_json(manifest)
    return load_artifact(place)


def _write_data(artifact: Artifact) -> dict[str, dict[str, Any]]:
    held = {
        IMAGES: artifact.tensors,
        LABELS: artifact.labels.tensors(),
        MODELS: artifact.labels.models(),
        NORMALISATION: artifact.normalisation.tensors(),
    }
    files = {}
    for name, tensors in held.items():
        place = artifact.place / name
        if tensors or name not in OPTIONAL:
            size = save_tensors(place, tensors)
            files[name] = {"bytes": size, "sha256": sha256_of(place.read_bytes())}
        else:
            place.remove()
    return files


def _ranges(artifact: Artifact) -> dict[str, list[float]]:
    """Least and largest value of all samples, normalised and without normalisation."""
    images = artifact.images()
    pixels = artifact.normalisation.inverse(images)
    return {name: [float(t.min()), float(t.max())] for name, t in (("normalised", images), ("pixels", pixels))}


def as_stored(
    tensors: Mapping[str, Tensor],
    decoder: Sequence[Mapping[str, Any]],
    storage_dtype: str,
    normalisation: services.Normalisation,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors as they are stored, and the decoder that gives them back.

    uint8 is for images that ``rows`` or ``sum`` decodes, see ``ddcore.sets.levels``. What is levels already stays as it
    is, and what levels stand for stays float32.

    Raises:
        InputError: an unknown type, one that these tensors cannot have, values that are not finite.
    """
    operations = [dict(op) for op in decoder]
    if storage_dtype not in (*FLOATS, UINT8):
        raise InputError(f"no storage type is named {storage_dtype!r}: {near(storage_dtype, (*FLOATS, UINT8))}")
    kept = {name: _finite(name, t.detach().cpu()) for name, t in tensors.items()}
    if storage_dtype in FLOATS or are_levels(operations) or exact_only(operations):
        exact = exact_names(operations) | exact_tensors(operations)
        dtype = FLOATS.get(storage_dtype, torch.float32)
        small = {n: t.to(dtype) if t.is_floating_point() and n not in exact else t for n, t in kept.items()}
        return {name: _finite(name, t, storage_dtype) for name, t in small.items()}, operations
    try:
        return to_levels(kept, operations, normalisation)
    except InputError as error:
        raise InputError(
            "storage type uint8 needs images that the decoder reads as rows or sums: use float16 or float32"
        ) from error


def _type_of(tensors: Mapping[str, Tensor], decoder: Sequence[Mapping[str, Any]], otherwise: str) -> str:
    """The name of the type that pixels are stored in; of real ones that of the data."""
    if exact_only(decoder):
        return str(tensors[decoder[0]["tensor"]].dtype).removeprefix("torch.")
    return stored_type(decoder, otherwise)


def _finite(name: str, tensor: Tensor, dtype: str = "") -> Tensor:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        where = f" as {dtype}: use float32" if dtype else ": go back to a checkpoint before it diverged"
        raise InputError(f"tensor {name!r} of the set has values that are not finite{where}")
    return tensor


def preview_of(artifact: Artifact) -> bytes:
    """``preview.png``: the samples in class rows; what is no images as ``pictures_of`` has it."""
    title = f"{artifact.manifest['source'].get('name', 'data')}: {artifact.method}, {artifact.ipc:g} per class"
    pixels = artifact.pixels() if artifact.of_images else pictures_of(artifact.pixels())
    return preview_png(pixels, artifact.labels.classes, artifact.classes, title)


def load_artifact(url: str | PathLike[str] | Place) -> Artifact:
    """Load an artifact from a folder or any fsspec URL. No plugin is needed for the kinds of ``ddcore.labels``.

    Raises:
        InputError: no artifact; a file is missing, truncated or altered; a newer schema; labels or a decoder of a
            plugin (names its distribution).
    """
    place = Place.at(url)
    manifest = read_manifest(place)
    kind = _label_class(manifest, place)
    try:
        held = {name: _held(place, manifest, name) for name in PARTS if _due(name, manifest)}
        labels = kind.load(manifest["labels"], {**held[LABELS], **held.get(MODELS, {})})
        normalisation = Normalisation.load(manifest["normalisation"], held.get(NORMALISATION, {}))
        artifact = Artifact(place, manifest, held[IMAGES], labels, normalisation)
        _try_out(artifact)
        return artifact
    except DdcoreError:
        raise
    except MISFITS as error:
        what = in_short(error)
        raise InputError(f"{(place / MANIFEST).url} does not describe the files beside it ({what}): {AGAIN}") from error


def _due(name: str, manifest: Mapping[str, Any]) -> bool:
    return name not in OPTIONAL or name in manifest["files"]


def _held(place: Place, manifest: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    if name not in manifest["files"]:
        raise InputError(f"{(place / MANIFEST).url} has no checksum of {name}: {AGAIN}")
    record = manifest["files"][name]
    return load_tensors(place / name, sha256=record["sha256"], size=record["bytes"])


def _said_of(labels: Labels) -> dict[str, Any]:
    """What the manifest says of labels: their kind, who reads them if that is not the core, and their own numbers."""
    reader = {"distribution": labels.distribution} if labels.distribution else {}
    return {"kind": labels.kind, **reader, **labels.header()}


def _label_class(manifest: Mapping[str, Any], place: Place) -> type[Labels]:
    kind, distribution = manifest["labels"]["kind"], provider(manifest["labels"])
    if (found := label_class(kind)) is not None:
        return found
    if distribution:
        raise InputError(
            f"{place.url} has labels of kind {kind!r}, which {distribution} reads: pip install {distribution}"
        )
    raise InputError(
        f"{place.url} has labels of kind {kind!r}, which this ddcore does not read: upgrade ddcore-torch, or install the plugin that made them"
    )


def _try_out(artifact: Artifact) -> None:
    """Decode one sample and compare all that is said twice, so that a manifest that does not fit is found at once.

    Raises:
        ValueError: how it does not fit.
    """
    manifest, labels, count = artifact.manifest, artifact.labels, len(artifact)
    if not count == len(labels) > 0:
        raise ValueError(f"{count} samples, {len(labels)} labels")
    if "real" in manifest and len(manifest["real"]["rows"]) != count:
        raise ValueError(f"{len(manifest['real']['rows'])} rows of the source for {count} samples")
    if len(artifact.classes) != labels.class_count:
        raise ValueError(f"{len(artifact.classes)} names for the {labels.class_count} classes of the labels")
    if labels.size is not None and list(labels.size) != manifest["shape"][1:]:
        raise ValueError(f"labels of views of {labels.size} where samples are {manifest['shape']}")
    if manifest["bytes"] != bytes_of(manifest["files"], PARTS):
        raise ValueError("bytes of the parts that are not those of the files")
    for name, tensor in (*artifact.tensors.items(), *labels.tensors().items(), *labels.models().items()):
        parts = torch.split(tensor.flatten(), CHECKED_AT_ONCE)
        if tensor.is_complex() or not all(bool(torch.isfinite(part).all()) for part in parts):
            raise ValueError(f"tensor {name!r} has values that are no finite real numbers")
    image = artifact.images(torch.tensor([count - 1]))[0]
    if not labels.elsewhere:
        labels.targets(View(torch.tensor([count - 1])), image[None])
    artifact.pixels(torch.tensor([0]))
    if list(image.shape) != manifest["shape"] or not bool(torch.isfinite(image).all()):
        raise ValueError(f"samples of shape {tuple(image.shape)} where finite ones of {manifest['shape']} are due")
