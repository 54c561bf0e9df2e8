"""The README.md of an artifact: a data card for people who find the folder without knowing ddcore."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

LONGEST_LICENCE = 20
"""Letters of a licence's short name; what is longer is a sentence, and stands in the text."""

CARD = """\
---
{head}
---
# {title}

![The images in class rows](preview.png)

{what} of {classes} classes, shape {shape}, with {labels} labels.

## Load

    from ddcore import load_artifact
    distilled = load_artifact("PATH OR URL OF THIS FOLDER")
    for images, targets in distilled.loader(batch_size=64, seed=0):    # each loop over it is a new epoch
        loss = distilled.loss(network(images), targets)                # the labels' own, at their temperature

Without ddcore: `images.safetensors` and `labels.safetensors` are plain tensors, and `manifest.json` says how to read them.

## Source data

{source}, from {origin}. Fingerprint: `{fingerprint}`.

Licence: {licence}. {bound}

## Method

{method}, {steps} steps, seed {seed}, network {network}, ddcore {version}. The manifest has every option.

{papers}

## How to train on it

{recipe}

## Classes

{names}

## Size

| part | bytes |
| --- | --- |
{sizes}

The total buys {equivalent:.1f} real images per class, stored as {stored} with a hard label each. Not counted: the
normalisation, which real images need as well.

## Intended use

Training small networks quickly, comparing methods, learning under a byte budget. {meant}

## Known gaps

{gaps}
- It was made with one network: others may learn less from it.
- {privacy}
- Pixels span {low:.2f} to {high:.2f} where real ones span 0 to 1; what lies outside is clipped when they are looked at.
"""


class Described(Protocol):
    """What is said about a finished set."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def method(self) -> str: ...

    @property
    def real_count(self) -> int: ...

    @property
    def ipc(self) -> float: ...

    @property
    def equivalent_ipc(self) -> float: ...

    def __len__(self) -> int: ...


def card(artifact: Described) -> str:
    """Markdown with a YAML head, as data hubs read it."""
    manifest = artifact.manifest
    source, made, size = manifest["source"], manifest["provenance"], manifest["bytes"]
    name = source.get("name", "unnamed data")
    title = f"{name}, distilled by {artifact.method}: {artifact.ipc:g} {'image' if artifact.ipc == 1 else 'images'} per class"
    low, high = manifest["value_range"]["pixels"]
    return CARD.format(
        head=_head(title, source, len(artifact)),
        title=title,
        **_nature(artifact),
        stored=source.get("stored", "uint8"),
        classes=len(artifact.classes),
        shape=" x ".join(map(str, manifest["shape"])),
        labels=manifest["labels"]["kind"],
        source=name,
        origin=source.get("origin") or "an unnamed place",
        licence=source.get("licence") or "not stated",
        fingerprint=source.get("fingerprint", "unknown"),
        method=artifact.method,
        **{key: made.get(key, "unknown") for key in ("steps", "seed", "network")},
        version=made.get("ddcore", "unknown"),
        papers=_listed(made.get("papers", []), "No paper is named."),
        recipe=_listed((f"{key}: {_plain(value)}" for key, value in manifest["recipe"].items()), "No recipe is given."),
        names=", ".join(artifact.classes),
        sizes="\n".join(f"| {part} | {size[part]:,} |" for part in ("images", "labels", "models", "total")),
        equivalent=artifact.equivalent_ipc,
        gaps=_listed(manifest["notes"], "- The method's own are in its paper."),
        low=low,
        high=high,
    )


def _nature(artifact: Described) -> dict[str, str]:
    """What the images are: learned, real, or both; and what follows for who uses them."""
    count, real = len(artifact), artifact.real_count
    traits = "The images may show traits of the real ones and give no guarantee of privacy."
    learned = "The images are learned to train networks,\nnot to look like their classes."
    if not real:
        bound = "What may be done with the synthetic images depends on it."
        return {"what": f"{count} synthetic images", "bound": bound, "meant": learned, "privacy": traits}
    whole = artifact.manifest["real"]["unchanged"]
    held = "unchanged" if whole else "with pixels rounded by how they are stored"
    shown = f"{real} of the images are real ones of the source: whoever is in them can be seen."
    if real == count:
        return {
            "what": f"{count} real images, chosen from the train part of the source and {held}; none is synthetic,",
            "bound": "It is the licence of these images: they are the source's own.",
            "meant": "The images were chosen, not learned.",
            "privacy": shown,
        }
    return {
        "what": f"{count} images, {count - real} synthetic and {real} real ones of the train part of the source, {held};",
        "bound": f"It is the licence of the {real} real images, and what may be done with the others depends on it.",
        "meant": learned,
        "privacy": f"{shown} The others may show traits of them.",
    }


def _head(title: str, source: Mapping[str, Any], count: int) -> str:
    """YAML, whose values are JSON: that is YAML too, whatever is in the names."""
    licence = re.sub("[^a-z0-9.]+", "-", str(source.get("licence") or "unknown").partition("(")[0].lower()).strip("-")
    size = "n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K" if count < 100_000 else "n>100K"
    head = {
        "pretty_name": title,
        "license": licence if len(licence) <= LONGEST_LICENCE else "other",
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "ddcore"],
        "size_categories": [size],
    }
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items())


def _listed(lines: Iterable[str], otherwise: str) -> str:
    return "\n".join(f"- {line}" for line in lines) or otherwise


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return json.dumps(value) if isinstance(value, dict) else "none" if value is None else str(value)
