"""A distilled set in forms that other tools read, and what ``ddcore inspect`` says of it."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddcore.data.normalisation import Identity, MeanStd
from ddcore.errors import InputError, near
from ddcore.labels import HardLabels, Labels, SoftLabels, StaticMixedLabels
from ddcore.labels.losses import as_told
from ddcore.sets.artifact import Artifact
from ddcore.sets.packed import Packed
from ddcore.storage.holding import MARKS, held
from ddcore.storage.places import Place, canonical, sha256_of
from ddcore.storage.printing import printable_line

PER_SAMPLE = (SoftLabels, StaticMixedLabels)
"""Labels with logits for each sample. Those for views of samples fit ``pt`` only."""
OWN, HARD = "own", "hard"
LABELS = (OWN, HARD)
"""What an export holds: the set's own labels, or the class of each image in their place."""
FACTS, ARRAYS = "labels.json", "training.npz"
FORMULAS: Mapping[str, str] = {
    "mean-std": "(png / 255 - mean) / std, channel by channel in float32",
    "none": "png / 255",
    "zca": f"(png / 255 - mean) @ whiten of flattened images; the arrays are in {ARRAYS}",
}
"""How pictures, and test images, become what networks are trained on."""
BEGUN = ".export.part"
"""What is being written into a folder, until all of it is there: the same command goes on with it."""
MOST_LETTERS = 60
MOST_COUNTS = 10


def export(artifact: Artifact | Packed, to: str, out: str | PathLike[str] | Place, labels: str = OWN) -> Place:
    """Write a set for other tools, so that they can train on it as on what ``load_artifact`` gives.

    Args:
        to: ``folder``: class folders of PNG files; ``labels.json`` with class names as they are, normalisation, recipe
            and licence; ``training.npz`` with ``targets``, and with ``images`` (N, C, H, W) float32, normalised,
            wherever those of the PNG files, normalised, would be others. ``parquet``: Hugging Face's image layout, the
            same in columns ``target`` and ``pixels`` and under ``ddcore`` in the file's metadata. ``pt``: a dict of
            tensors and texts that ``torch.load(weights_only=True)`` reads, and that has labels of every kind whole.
            What is not images fits ``pt`` only, as the tensors that its plugin stored.
        out: a new folder, or one in which the same export was stopped; for the latter two a new file instead if it ends
            in .parquet, .pt or .pth.
        labels: ``own``, or ``hard``, which leaves them out and has classes in their place.

    Returns:
        The folder or file written; ``left_out`` says what it lacks.

    Raises:
        InputError: the place is taken, a format that is not known or not for what the set holds (labels of views,
            images that PNG cannot hold), or no pyarrow.
    """
    place = Place.at(out)
    if to not in FORMATS:
        raise InputError(f"no export format is named {to!r}: {near(to, FORMATS)}")
    if labels not in LABELS:
        raise InputError(f"an export has labels 'own' or 'hard', not {labels!r}")
    _refuse_taken(artifact, to, labels, place)
    if isinstance(artifact, Packed):
        if to != "pt":
            raise InputError(
                f"{to} is a format of images, and {artifact.place.url} holds {artifact.kind}: export --to pt"
            )
        write: Callable[[], Place] = partial(_packed_to_pt, artifact, place)
    else:
        write = partial(FORMATS[to], artifact, _labels(artifact, to, labels), place)
    if place.name.endswith(ENDINGS.get(to, ())):
        return write()
    with held(place, traceless=True):
        _refuse_taken(artifact, to, labels, place)
        return write()


def _refuse_taken(artifact: Artifact | Packed, to: str, labels: str, place: Place) -> None:
    """Refuse a place where there is something else than what the same export had begun."""
    there = place.exists()
    if there and place.is_folder():
        there = bool({*place.names()} - MARKS) and not _was_begun(artifact, to, labels, place)
    if there:
        raise InputError(f"{place.url} exists already: give --out a new place, so that nothing is overwritten")


def left_out(artifact: Artifact | Packed, to: str, labels: str = OWN) -> list[str]:
    """What an export of a set lacks, or says in another way than one would think, a sentence each."""
    if isinstance(artifact, Packed):
        return ["what decodes the tensors: the plugin that made them reads them"]
    kind, lacking = artifact.labels.kind, []
    if labels == HARD and kind != HARD:
        lacking.append(
            f"the {kind} labels are left out: each image has its class instead, and cross entropy as its loss"
        )
    elif isinstance(artifact.labels, StaticMixedLabels):
        lacking.append(
            "the shifts, mirrors and mixes that a loader draws anew in each epoch are not made: the recipe says which"
        )
    if to != "pt" and not _is_png_exact(artifact):
        pixels = artifact.normalisation.inverse(artifact.images())
        outside = float(((pixels < 0) | (pixels > 1)).float().mean())
        where = f"images in {ARRAYS}" if to == "folder" else "the column pixels"
        clipped = f" and {outside:.1%} of these lie outside black to white and are clipped" if outside else ""
        lacking.append(
            f"the PNG pictures are to be looked at: 8 bits round their values{clipped}; train on {where}, which has them whole"
        )
    if to == "folder" and folder_names(artifact.classes) != list(artifact.classes):
        lacking.append(
            f"folders have numbers before names, which sort otherwise or are no names of folders; {FACTS} has the names"
        )
    return lacking


def _labels(artifact: Artifact, to: str, labels: str) -> Labels:
    """The labels that are written.

    Raises:
        InputError: they are of views, which the format does not hold.
    """
    own = artifact.labels
    if labels == HARD:
        return HardLabels(own.classes, own.class_count)
    if to != "pt" and not isinstance(own, (HardLabels, *PER_SAMPLE)):
        raise InputError(
            f"{own.kind} labels are of views of images, crops and mixes, which {to} does not hold: export --to pt, which has "
            "them whole, or leave them out by --labels hard"
        )
    return own


def _about(artifact: Artifact | Packed, to: str, labels: str) -> dict[str, Any]:
    return {"to": to, "labels": labels, "set": sha256_of(canonical(artifact.manifest))}


def _was_begun(artifact: Artifact | Packed, to: str, labels: str, place: Place) -> bool:
    """Whether a folder holds what the same export had written when it was stopped."""
    try:
        return bool((place / BEGUN).read_json() == _about(artifact, to, labels))
    except InputError:
        return False


def _choice(artifact: Artifact, labels: Labels) -> str:
    return OWN if labels is artifact.labels else HARD


def _facts(artifact: Artifact, labels: Labels, to: str) -> dict[str, Any]:
    """What a training needs to know besides images and targets."""
    manifest, exact = artifact.manifest, _is_png_exact(artifact)
    return {
        "classes": list(artifact.classes),
        "shape": manifest["shape"],
        "images": "png" if exact else ARRAYS if to == "folder" else "pixels",
        "normalisation": {"formula": FORMULAS[artifact.normalisation.kind], **artifact.normalisation.header()},
        "labels": {"kind": labels.kind, **labels.recipe},
        "recipe": {**manifest["recipe"], "labels": labels.recipe},
        "licence": str(manifest["source"].get("licence", "")),
        "source": str(manifest["source"].get("name", "")),
        "method": artifact.method,
        **({"real": manifest["real"]} if "real" in manifest else {}),
        "left_out": left_out(artifact, to, _choice(artifact, labels)),
    }


def _to_folder(artifact: Artifact, labels: Labels, place: Place) -> Place:
    folders, classes = folder_names(artifact.classes), artifact.labels.classes.tolist()
    pictures = _pngs(artifact)
    (place / BEGUN).write_json(_about(artifact, "folder", _choice(artifact, labels)))
    samples = []
    for at, (picture, cls) in enumerate(zip(pictures, classes, strict=True)):
        name = f"{folders[cls]}/{at:06d}.png"
        (place / name).write_bytes(picture)
        samples.append({"file": name, "class": cls, **_logits(labels, at)})
    arrays = {"targets": _targets(labels), "class": labels.classes}
    if not _is_png_exact(artifact):
        arrays["images"] = artifact.images()
    arrays |= {f"normalisation.{name}": tensor for name, tensor in artifact.normalisation.tensors().items()}
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **{name: tensor.numpy() for name, tensor in arrays.items()})
    (place / ARRAYS).write_bytes(packed.getvalue())
    (place / FACTS).write_json({**_facts(artifact, labels, "folder"), "folders": folders, "samples": samples})
    place.remove_abandoned(below=True)
    (place / BEGUN).remove()
    return place


def _to_parquet(artifact: Artifact, labels: Labels, place: Place) -> Place:
    try:
        import pyarrow  # an extra
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "parquet needs pyarrow, which is not installed: pip install 'ddcore-torch[parquet]'"
        ) from error
    images = [{"bytes": picture, "path": f"{at:06d}.png"} for at, picture in enumerate(_pngs(artifact))]
    columns: dict[str, Any] = {"image": images, "label": labels.classes.tolist()}
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(artifact.classes), "_type": "ClassLabel"},
    }
    floats = {"logits": labels.logits, "target": _targets(labels)} if isinstance(labels, PER_SAMPLE) else {}
    if not _is_png_exact(artifact):
        floats["pixels"] = artifact.images().flatten(1)
    for name, values in floats.items():
        columns[name] = pyarrow.array(values.float().tolist(), pyarrow.list_(pyarrow.float32()))
        features[name] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    facts = _facts(artifact, labels, "parquet")
    about = {"huggingface": {"info": {"features": features, "license": facts["licence"]}}, "ddcore": facts}
    table = pyarrow.table(columns).replace_schema_metadata({name: json.dumps(said) for name, said in about.items()})
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content)
    return _written(place, "parquet", "train.parquet", content.getvalue())


def _to_pt(artifact: Artifact, labels: Labels, place: Place) -> Place:
    content: dict[str, Any] = {
        "images": artifact.images(),
        **{f"labels.{name}": tensor for name, tensor in labels.tensors().items()},
        **{f"labels.{name}": tensor for name, tensor in labels.models().items()},
        "labels": labels.classes,
        "labels.header": json.dumps({"kind": labels.kind, **labels.header()}),
        **{f"normalisation.{name}": tensor for name, tensor in artifact.normalisation.tensors().items()},
        "normalisation": json.dumps(artifact.normalisation.header()),
        "recipe": json.dumps({**artifact.manifest["recipe"], "labels": labels.recipe}),
        "licence": str(artifact.manifest["source"].get("licence", "")),
        "classes": list(artifact.classes),
    }
    return _saved(content, place)


def _packed_to_pt(packed: Packed, place: Place) -> Place:
    content: dict[str, Any] = {
        **{f"tensors.{name}": tensor for name, tensor in packed.tensors.items()},
        "decoder": json.dumps(packed.manifest["decoder"]),
        "classes": list(packed.classes),
        "kind": packed.kind,
    }
    return _saved(content, place)


def _saved(content: Mapping[str, Any], place: Place) -> Place:
    written = io.BytesIO()
    torch.save(dict(content), written)
    return _written(place, "pt", "distilled.pt", written.getvalue())


FORMATS: Mapping[str, Callable[[Artifact, Labels, Place], Place]] = {
    "folder": _to_folder,
    "parquet": _to_parquet,
    "pt": _to_pt,
}
ENDINGS: Mapping[str, tuple[str, ...]] = {"parquet": (".parquet",), "pt": (".pt", ".pth")}
"""Of names that are files; others are folders."""
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]|^[ .~-]|[ .]$')
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|labels\.json|training\.npz", re.IGNORECASE)
"""Names that are no folders on some system, or are other files of an export."""


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """Names of folders that sort in the order of the classes: their own wherever these do and are safe on every system,
    else numbered ones.

    >>> folder_names(("Katze", "Straße")), folder_names(("cat", "dog/wolf")), folder_names(("b", "a"))
    (['Katze', 'Straße'], ['0-cat', '1-dog_wolf'], ['0-b', '1-a'])
    """
    if all(map(_is_safe, classes)) and list(classes) == sorted({name.casefold(): name for name in classes}.values()):
        return list(classes)
    digits = len(str(len(classes) - 1))
    plain = ["".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in name) for name in classes]
    return [f"{at:0{digits}d}-{name[:MOST_LETTERS].strip()}" for at, name in enumerate(plain)]


def _is_safe(name: str) -> bool:
    short = 0 < len(name.encode()) <= 2 * MOST_LETTERS and name.isprintable()
    whole = unicodedata.normalize("NFC", name) == name
    return short and whole and not UNSAFE.search(name) and not RESERVED.fullmatch(name)


def _pngs(artifact: Artifact) -> list[bytes]:
    made = []
    for levels in _levels(artifact):
        array = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
        picture = io.BytesIO()
        Image.fromarray(array).save(picture, format="PNG")
        made.append(picture.getvalue())
    return made


def _levels(artifact: Artifact) -> Tensor:
    """The images (N, C, H, W) uint8 as pictures show them."""
    if not artifact.of_images:
        raise InputError(f"this set holds {artifact.manifest['kind']}, of which nobody makes PNGs: export --to pt")
    pixels = artifact.pixels()
    if pixels.shape[1] not in (1, 3):
        raise InputError(f"PNG holds 1 or 3 channels, and these images have {pixels.shape[1]}: export --to pt")
    return (pixels * 255).round().to(torch.uint8)


def _is_png_exact(artifact: Artifact) -> bool:
    """Whether pictures of 8 bits, normalised by numpy, are the images bit for bit."""
    normalisation = artifact.normalisation
    if not isinstance(normalisation, MeanStd | Identity):
        return False
    unit = _levels(artifact).numpy().astype(np.float32) / np.float32(255)
    if isinstance(normalisation, MeanStd):
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (normalisation.mean, normalisation.std))
        unit = (unit - mean) / std
    return bool(np.array_equal(unit, artifact.images().numpy()))


def _targets(labels: Labels) -> Tensor:
    """What ``artifact[i]`` gives beside each image: class ids (N,) int64, or probabilities (N, K) float32."""
    logits = {"logits": labels.logits.float()} if isinstance(labels, PER_SAMPLE) else {}
    told = as_told({"class": labels.classes, **logits}, labels.recipe)
    assert isinstance(told, Tensor)
    return told


def _logits(labels: Labels, at: int) -> dict[str, list[float]]:
    return {"logits": labels.logits[at].float().tolist()} if isinstance(labels, PER_SAMPLE) else {}


def _written(place: Place, to: str, name: str, content: bytes) -> Place:
    if not place.name.endswith(ENDINGS[to]):
        (place / name).write_bytes(content)
        return place / name
    if not place.write_new(content):
        raise InputError(f"{place.url} was made by another process meanwhile: give --out a new place")
    return place


def inspect(artifact: Artifact | Packed) -> dict[str, Any]:
    """All there is to know, as JSON values: the manifest, and what follows from it and the files."""
    if isinstance(artifact, Packed):
        return _inspect_packed(artifact)
    tensors = {n: {"shape": list(t.shape), "dtype": _name(t.dtype)} for n, t in artifact.tensors.items()}
    return {
        **artifact.manifest,
        "url": artifact.place.url,
        "method": artifact.method,
        "samples": len(artifact),
        "samples_per_class": torch.bincount(artifact.labels.classes, minlength=len(artifact.classes)).tolist(),
        "ipc": artifact.ipc,
        "payload_bytes": artifact.payload_bytes,
        "equivalent_ipc": artifact.equivalent_ipc,
        "learned_rate": artifact.learned_rate,
        "tensors": tensors,
        "altered": artifact.altered(),
    }


def _inspect_packed(packed: Packed) -> dict[str, Any]:
    return {
        **packed.manifest,
        "url": packed.place.url,
        "method": packed.method,
        "samples": sum(packed.samples_per_class),
        "tensors": {n: {"shape": list(t.shape), "dtype": _name(t.dtype)} for n, t in packed.tensors.items()},
        "altered": packed.altered(),
    }


def describe(artifact: Artifact | Packed) -> str:
    """The same for people, one fact a line."""
    if isinstance(artifact, Packed):
        return _describe_packed(artifact)
    manifest, sizes, altered = artifact.manifest, artifact.nbytes, artifact.altered()
    shape = " x ".join(str(n) for n in manifest["shape"])
    low, high = (f"{float(value):.2f}" for value in manifest["value_range"]["pixels"])
    parts = ", ".join(
        f"{part} {size:,}" for part, size in sizes.items() if size and part in ("images", "labels", "models")
    )
    each = f"{artifact.ipc:g} per class" if len(artifact) != 1 else "one image"
    held, real = (
        ("pixels", f"{manifest['source'].get('stored', 'uint8')} images") if artifact.of_images else ("values", "rows")
    )
    facts = {
        "set": f"{len(artifact)} {manifest['kind']}{'' if artifact.of_images else ' rows'} of {len(artifact.classes)} classes ({each}), {shape}",
        "real": _real(artifact),
        "classes": _few(artifact.classes),
        "labels": f"{artifact.labels.kind}, {artifact.labels.payload_bytes:,} bytes without the file's header",
        held: f"stored as {manifest['storage_dtype']}, {low} to {high}, normalised by {manifest['normalisation']['kind']}",
        "bytes": f"{sizes['total']:,} ({parts}): as {artifact.equivalent_ipc:.1f} real {real} per class",
        "method": ", ".join([artifact.method, *_known(manifest["provenance"], ("steps", "seed", "network", "ddcore"))]),
        "relabelled": ", ".join(f"{d['was']} to {d['labels']}" for d in manifest["provenance"].get("relabelled", ())),
        "source": _origin(manifest),
        "train with": ", ".join(_known(manifest["recipe"], ("protocol", "rate", "epochs", "batch", "momentum"))),
        "students": _students(manifest["recipe"]),
        "altered": ", ".join(altered) + ": no longer as written" if altered else "",
    }
    return _lines(facts, manifest["notes"])


def _students(recipe: Mapping[str, Any]) -> str:
    """Who shaped those that its rows are of, and what they are; nothing of plain ones."""
    told = recipe.get("students")
    return f"{told.get('name')}, {recipe.get('network')}" if isinstance(told, Mapping) else ""


def _describe_packed(packed: Packed) -> str:
    manifest, altered, counts = packed.manifest, packed.altered(), packed.samples_per_class
    each = ", ".join(str(count) for count in counts[:MOST_COUNTS]) + (", ..." if len(counts) > MOST_COUNTS else "")
    decoders = [f"{op.get('op')} of {op.get('distribution', 'ddcore')}" for op in manifest["decoder"]]
    facts = {
        "set": f"{sum(counts)} samples as {packed.kind}, of {len(counts)} classes ({each})",
        "classes": _few(packed.classes),
        "bytes": f"{packed.nbytes['total']:,}",
        "tensors": ", ".join(f"{n} {'x'.join(map(str, t.shape)) or '1'}" for n, t in packed.tensors.items()),
        "read by": ", ".join(decoders),
        "method": ", ".join([packed.method, *_known(manifest["provenance"], ("seed", "ddcore"))]),
        "source": _origin(manifest),
        "altered": ", ".join(altered) + ": no longer as written" if altered else "",
    }
    return _lines(facts, manifest["notes"])


def _real(artifact: Artifact) -> str:
    if not artifact.real_count:
        return ""
    held = "unchanged" if artifact.manifest["real"]["unchanged"] else "rounded by how they are stored"
    which = "all images are" if artifact.real_count == len(artifact) else f"{artifact.real_count} images are"
    return f"{which} rows of the data's train part, {held}: its licence holds for them"


def _lines(facts: Mapping[str, str], notes: list[str]) -> str:
    said = [(name, text) for name, text in facts.items() if text] + [("note", note) for note in notes]
    return "\n".join(f"{name:<12} {printable_line(text)}" for name, text in said)


def _few(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:MOST_COUNTS]) + (
        f" and {len(classes) - MOST_COUNTS} more" if len(classes) > MOST_COUNTS else ""
    )


def _origin(manifest: Mapping[str, Any]) -> str:
    return ", ".join(map(str, filter(None, (manifest["source"].get(n) for n in ("name", "origin", "licence")))))


def _known(values: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    shown = {name: values[name] for name in names if values.get(name) is not None}
    return [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
