"""A distilled set in forms that other tools read, and what ``ddcore inspect`` says of it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import torch
from PIL import Image

from ddcore.errors import InputError, near
from ddcore.labels import SoftLabels, StaticMixedLabels
from ddcore.sets.artifact import Artifact
from ddcore.sets.packed import Packed
from ddcore.storage.places import Place, canonical, sha256_of
from ddcore.storage.printing import printable_line

LOSSY = (
    "8-bit images without normalisation; what lies outside [0, 1] is clipped, so students learn a little less from them"
)
PER_SAMPLE = (SoftLabels, StaticMixedLabels)
"""Labels with logits for each sample. Those for views of samples fit ``pt`` only; other forms get the class ids."""
BEGUN = ".export.part"
"""What is being written into a folder, until all of it is there: the same command goes on with it."""
MOST_LETTERS = 60
MOST_COUNTS = 10


def export(artifact: Artifact | Packed, to: str, out: str | PathLike[str] | Place) -> Place:
    """Write a set for other tools; what is not images fits ``pt`` only, as the tensors that its plugin stored.

    Labels for views of samples (per-view and its kin) go into ``pt`` whole; the other forms get the class ids.

    Args:
        to: ``folder``: class folders of PNG files beside labels.json. ``parquet``: Hugging Face's image layout.
            ``pt``: a dict of tensors and texts that ``torch.load(weights_only=True)`` reads, and that loses nothing.
        out: a new folder, or one in which the same export was stopped; for the latter two a new file instead if it ends
            in .parquet, .pt or .pth.

    Returns:
        The folder or file written.

    Raises:
        InputError: the place is taken, a format that is not known or not for what the set holds, images that PNG cannot
            hold, or no pyarrow.
    """
    place = Place.at(out)
    if to not in FORMATS:
        raise InputError(f"no export format is named {to!r}: {near(to, FORMATS)}")
    if place.exists() and (not place.is_folder() or (place.names() and not _was_begun(artifact, to, place))):
        raise InputError(f"{place.url} exists already: give --out a new place, so that nothing is overwritten")
    if isinstance(artifact, Packed):
        if to != "pt":
            raise InputError(
                f"{to} is a format of images, and {artifact.place.url} holds {artifact.kind}: export --to pt"
            )
        return _packed_to_pt(artifact, place)
    return FORMATS[to](artifact, place)


def _about(artifact: Artifact | Packed, to: str) -> dict[str, Any]:
    return {"to": to, "set": sha256_of(canonical(artifact.manifest))}


def _was_begun(artifact: Artifact | Packed, to: str, place: Place) -> bool:
    """Whether a folder holds what the same export had written when it was stopped."""
    try:
        return bool((place / BEGUN).read_json() == _about(artifact, to))
    except InputError:
        return False


def _to_folder(artifact: Artifact, place: Place) -> Place:
    folders, classes = folder_names(artifact.classes), artifact.labels.classes.tolist()
    (place / BEGUN).write_json(_about(artifact, "folder"))
    samples = []
    for at, (picture, cls) in enumerate(zip(_pngs(artifact), classes, strict=True)):
        name = f"{folders[cls]}/{at:06d}.png"
        (place / name).write_bytes(picture)
        samples.append({"file": name, "class": cls, **_logits(artifact, at)})
    facts = {
        "classes": list(artifact.classes),
        "folders": folders,
        "note": LOSSY,
        "recipe": artifact.manifest["recipe"],
    }
    (place / "labels.json").write_json({**facts, "samples": samples})
    place.remove_unfinished()
    (place / BEGUN).remove()
    return place


def _to_parquet(artifact: Artifact, place: Place) -> Place:
    try:
        import pyarrow  # an extra
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            "parquet needs pyarrow, which is not installed: pip install 'ddcore-torch[parquet]'"
        ) from error
    images = [{"bytes": picture, "path": f"{at:06d}.png"} for at, picture in enumerate(_pngs(artifact))]
    columns: dict[str, Any] = {"image": images, "label": artifact.labels.classes.tolist()}
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": list(artifact.classes), "_type": "ClassLabel"},
    }
    if isinstance(artifact.labels, PER_SAMPLE):
        rows = artifact.labels.logits.float().tolist()
        columns["logits"] = pyarrow.array(rows, pyarrow.list_(pyarrow.float32()))
        features["logits"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    about = {"features": features, "license": str(artifact.manifest["source"].get("licence", ""))}
    table = pyarrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": about})})
    held = io.BytesIO()
    pyarrow.parquet.write_table(table, held)
    return _written(place, (".parquet",), "train.parquet", held.getvalue())


def _to_pt(artifact: Artifact, place: Place) -> Place:
    content: dict[str, Any] = {
        "images": artifact.images(),
        **{f"labels.{name}": tensor for name, tensor in artifact.labels.tensors().items()},
        **{f"labels.{name}": tensor for name, tensor in artifact.labels.models().items()},
        "labels": artifact.labels.classes,
        "labels.header": json.dumps({"kind": artifact.labels.kind, **artifact.labels.header()}),
        **{f"normalisation.{name}": tensor for name, tensor in artifact.normalisation.tensors().items()},
        "normalisation": json.dumps(artifact.normalisation.header()),
        "recipe": json.dumps(artifact.manifest["recipe"]),
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
    held = io.BytesIO()
    torch.save(dict(content), held)
    return _written(place, (".pt", ".pth"), "distilled.pt", held.getvalue())


FORMATS: Mapping[str, Callable[[Artifact, Place], Place]] = {
    "folder": _to_folder,
    "parquet": _to_parquet,
    "pt": _to_pt,
}


def folder_names(classes: tuple[str, ...]) -> list[str]:
    """Class names as names of folders that sort in the order of the classes.

    >>> folder_names(("cat", "dog/wolf"))
    ['0-cat', '1-dog_wolf']
    """
    digits = len(str(len(classes) - 1))
    plain = ["".join(letter if letter.isalnum() or letter in "-_ " else "_" for letter in name) for name in classes]
    return [f"{at:0{digits}d}-{name[:MOST_LETTERS].strip()}" for at, name in enumerate(plain)]


def _pngs(artifact: Artifact) -> list[bytes]:
    pixels, made = artifact.pixels(), []
    if not artifact.of_images:
        raise InputError(f"this set holds {artifact.manifest['kind']}, of which nobody makes PNGs: export --to pt")
    if pixels.shape[1] not in (1, 3):
        raise InputError(f"PNG holds 1 or 3 channels, and these images have {pixels.shape[1]}: export --to pt")
    for levels in (pixels * 255).round().to(torch.uint8):
        array = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
        held = io.BytesIO()
        Image.fromarray(array).save(held, format="PNG")
        made.append(held.getvalue())
    return made


def _logits(artifact: Artifact, at: int) -> dict[str, list[float]]:
    labels = artifact.labels
    return {"logits": labels.logits[at].float().tolist()} if isinstance(labels, PER_SAMPLE) else {}


def _written(place: Place, endings: tuple[str, ...], name: str, content: bytes) -> Place:
    target = place if place.name.endswith(endings) else place / name
    target.write_bytes(content)
    return target


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
    held, real = ("pixels", "uint8 images") if artifact.of_images else ("values", "rows")
    facts = {
        "set": f"{len(artifact)} {manifest['kind']}{'' if artifact.of_images else ' rows'} of {len(artifact.classes)} classes ({each}), {shape}",
        "classes": _few(artifact.classes),
        "labels": f"{artifact.labels.kind}, {artifact.labels.payload_bytes:,} bytes without the file's header",
        held: f"stored as {manifest['storage_dtype']}, {low} to {high}, normalised by {manifest['normalisation']['kind']}",
        "bytes": f"{sizes['total']:,} ({parts}): as {artifact.equivalent_ipc:.1f} real {real} per class",
        "method": ", ".join([artifact.method, *_known(manifest["provenance"], ("steps", "seed", "network", "ddcore"))]),
        "relabelled": ", ".join(f"{d['was']} to {d['labels']}" for d in manifest["provenance"].get("relabelled", ())),
        "source": _origin(manifest),
        "train with": ", ".join(_known(manifest["recipe"], ("protocol", "rate", "epochs", "batch", "momentum"))),
        "altered": ", ".join(altered) + ": no longer as written" if altered else "",
    }
    return _lines(facts, manifest["notes"])


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
