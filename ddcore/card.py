"""The README.md of an artifact: a data card for people who find the folder without knowing ddcore."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddcore.artifact import Artifact


def card(artifact: Artifact, label_bytes: int) -> str:
    """Markdown with a YAML head, as data hubs read it."""
    manifest: Any = artifact.manifest
    source, made, recipe = manifest["source"], manifest["provenance"], manifest["recipe"]
    sizes = manifest["bytes"]
    head = {"license": "other", "task_categories": ["image-classification"], "tags": ["dataset-distillation", "ddcore"], "size": len(artifact)}
    papers = "\n".join(f"- {paper}" for paper in made.get("papers", [])) or "- none named"
    gaps = "\n".join(f"- {note}" for note in manifest["notes"]) or "- none known beyond those of the data and of the method"
    rows = "\n".join(f"| {part} | {size:,} |" for part, size in sizes.items())
    training = "\n".join(f"- {name}: {_plain(value)}" for name, value in recipe.items())
    return f"""---
{chr(10).join(f"{key}: {json.dumps(value)}" for key, value in head.items())}
---
# {source.get("name", "data")}, distilled by {artifact.method}: {artifact.ipc:g} images per class

![The images in class rows](preview.png)

{len(artifact)} synthetic images of {len(artifact.classes)} classes, shape {_plain(manifest["shape"])}, {manifest["labels"]["kind"]} labels.

## Load

    from ddcore import load_artifact
    distilled = load_artifact("PATH OR URL OF THIS FOLDER")
    for images, targets in distilled.loader(batch_size=64, seed=0): ...

Without ddcore: `images.safetensors` and `labels.safetensors` are plain tensors, `manifest.json` says how to read them.

## Source data

{source.get("name", "unknown")}, from {source.get("origin") or "an unnamed place"}. Licence: {source.get("licence") or "not stated"}.
Fingerprint of the data: `{source.get("fingerprint", "unknown")}`.

## Method

{artifact.method}, {made.get("steps", "?")} steps, seed {made.get("seed", "?")}, network {made.get("network", "?")}, ddcore {made.get("ddcore", "?")}.

{papers}

## How to train on it

{training}

## Size

| part | bytes |
| --- | --- |
{rows}

The labels alone are {label_bytes:,} bytes; the total buys {artifact.equivalent_ipc:.1f} real images per class stored as uint8.

## Intended use

Training small networks quickly, comparing methods, continual and federated learning under a byte budget. The images are learned
to train networks, not to look like their classes; they may still show traits of the source images.

## Known gaps

{gaps}
"""


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(str(v) for v in value) if all(isinstance(v, int) for v in value) else ", ".join(str(v) for v in value) or "none"
    return json.dumps(value) if isinstance(value, dict) else str(value)
