"""A distilled set in forms that other tools read, and what ``ddcore inspect`` says of it."""

from __future__ import annotations

import io
import json
from typing import Any

from ddcore.artifact import Artifact
from ddcore.errors import InputError
from ddcore.storage import Place

LOSSY = "8-bit images: pixels outside [0, 1] are clipped"


def export(artifact: Artifact, to: str, out: str) -> None:
    """Write ``folder`` (class folders of PNG, labels.json), ``parquet`` (Hugging Face image layout) or ``pt`` (a dict of
    tensors that ``torch.load(weights_only=True)`` reads).

    Raises:
        InputError: the place is taken, or pyarrow is missing for parquet.
    """
    place = Place.at(out)
    if place.exists() and (not place.is_folder() or place.names()):
        raise InputError(f"{place.url} exists already: give --out a new place, so that nothing is overwritten")
    {"folder": _folder, "parquet": _parquet, "pt": _pt}[to](artifact, place)


def _folder(artifact: Artifact, place: Place) -> None:
    names = _folder_names(artifact.classes)
    rows = []
    for at, (png, cls) in enumerate(zip(_pngs(artifact), artifact.labels.classes.tolist(), strict=True)):
        (place / names[cls]).make_folder()
        (place / names[cls] / f"{at:06d}.png").write_bytes(png)
        rows.append({"file": f"{names[cls]}/{at:06d}.png", "class": cls, **_soft(artifact, at)})
    facts = {"classes": list(artifact.classes), "note": LOSSY, "recipe": artifact.manifest["recipe"], "samples": rows}
    (place / "labels.json").write_json(facts)


def _parquet(artifact: Artifact, place: Place) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError("parquet needs pyarrow, which is not installed: pip install 'ddcore-torch[parquet]'") from error
    images = [{"bytes": png, "path": f"{at:06d}.png"} for at, png in enumerate(_pngs(artifact))]
    columns: dict[str, Any] = {"image": images, "label": artifact.labels.classes.tolist()}
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"names": list(artifact.classes), "_type": "ClassLabel"}}
    if _soft(artifact, 0):
        columns["logits"] = [_soft(artifact, at)["logits"] for at in range(len(artifact))]
        features["logits"] = {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    held = io.BytesIO()
    pq.write_table(table, held)
    (place if place.name.endswith(".parquet") else place / "train.parquet").write_bytes(held.getvalue())


def _pt(artifact: Artifact, place: Place) -> None:
    import torch

    tensors: dict[str, Any] = {"images": artifact.images(), **{f"labels.{n}": t for n, t in artifact.labels.tensors().items()}}
    plain = {"classes": list(artifact.classes), "recipe": json.dumps(artifact.manifest["recipe"])}
    plain["normalisation"] = json.dumps(artifact.normalisation.header())
    tensors |= {f"normalisation.{n}": t for n, t in artifact.normalisation.tensors().items()}
    held = io.BytesIO()
    torch.save({**tensors, **plain}, held)
    (place if place.name.endswith((".pt", ".pth")) else place / "distilled.pt").write_bytes(held.getvalue())


def _pngs(artifact: Artifact) -> list[bytes]:
    from PIL import Image

    made = []
    for levels in (artifact.pixels() * 255).round().byte():
        array = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
        held = io.BytesIO()
        Image.fromarray(array).save(held, format="PNG")
        made.append(held.getvalue())
    return made


def _soft(artifact: Artifact, at: int) -> dict[str, list[float]]:
    logits = artifact.labels.tensors().get("logits")
    return {} if logits is None else {"logits": [round(v, 6) for v in logits[at].float().tolist()]}


def _folder_names(classes: tuple[str, ...]) -> list[str]:
    """Class names as folder names: no separators, no duplicates, sorted in class order."""
    digits = len(str(len(classes) - 1))
    return [f"{at:0{digits}d}-" + "".join(c if c.isalnum() or c in "-_ " else "_" for c in name)[:60] for at, name in enumerate(classes)]


def inspect(artifact: Artifact) -> dict[str, Any]:
    """All there is to know, as plain values."""
    return {
        **artifact.manifest,
        "samples": len(artifact),
        "ipc": artifact.ipc,
        "payload_bytes": artifact.payload_bytes,
        "equivalent_ipc": round(artifact.equivalent_ipc, 3),
        "tensors": {n: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for n, t in artifact.tensors.items()},
    }


def describe(artifact: Artifact) -> str:
    """The same for people, one fact a line."""
    manifest, sizes = artifact.manifest, artifact.nbytes
    made, recipe = manifest["provenance"], manifest["recipe"]
    shape = " x ".join(str(n) for n in manifest["shape"])
    parts = ", ".join(f"{part} {size:,}" for part, size in sizes.items() if size)
    facts = {
        "set": f"{len(artifact)} {manifest['kind']} of {len(artifact.classes)} classes ({artifact.ipc:g} per class), {shape}",
        "classes": ", ".join(artifact.classes[:10]) + (", ..." if len(artifact.classes) > 10 else ""),
        "labels": f"{artifact.labels.kind}, {artifact.labels.payload_bytes:,} bytes",
        "pixels": f"{manifest['storage_dtype']}, normalised by {manifest['normalisation']['kind']}",
        "bytes": f"{parts}; as {artifact.equivalent_ipc:.1f} real uint8 images per class",
        "method": f"{artifact.method}, {made.get('steps')} steps, seed {made.get('seed')}, network {made.get('network')}",
        "source": f"{manifest['source'].get('name')}, {manifest['source'].get('licence')}",
        "train with": f"protocol {recipe.get('protocol')}, rate {recipe.get('rate'):.4g}, {recipe.get('epochs')} epochs, batch {recipe.get('batch')}",
    }
    notes = [f"note         {note}" for note in manifest["notes"]]
    return "\n".join([*(f"{name:<12} {text}" for name, text in facts.items()), *notes])
