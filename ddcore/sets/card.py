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

![The {samples} in class rows](preview.png)

{what} of {classes} classes, shape {shape}, with {labels} labels.

## Load

    from ddcore import load_artifact
    distilled = load_artifact("PATH OR URL OF THIS FOLDER")
    for {samples}, targets in distilled.loader(batch_size=64, seed=0):    # each loop over it is a new epoch
        loss = distilled.loss(network({samples}), targets)                # the labels' own, at their temperature

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

The total buys {equivalent:.1f} real {samples} per class, stored as {stored} with a hard label each. Not counted: the
normalisation, which real {samples} need as well.

## Intended use

Training small networks quickly, comparing methods, learning under a byte budget. {meant}

## Known gaps

{gaps}
- It was made with one network: others may learn less from it.
- {privacy}
- {span}
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
    name, kind = source.get("name", "unnamed data"), manifest["kind"]
    samples = "images" if kind == "images" else "rows"
    title = f"{name}, distilled by {artifact.method}: {artifact.ipc:g} {samples[:-1] if artifact.ipc == 1 else samples} per class"
    low, high = manifest["value_range"]["pixels"]
    within = "Pixels span {:.2f} to {:.2f} where real ones span 0 to 1; what lies outside is clipped when they are looked at."
    span = within if kind == "images" else "Without normalisation their values lie between {:.4g} and {:.4g}."
    return CARD.format(
        head=_head(title, source, len(artifact), "image" if kind == "images" else kind),
        samples=samples,
        span=span.format(low, high),
        title=title,
        **_nature(artifact, samples),
        stored=source.get("stored", "uint8") if kind == "images" else f"{manifest.get('row_bytes')} bytes",
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
    )


def _nature(artifact: Described, samples: str) -> dict[str, str]:
    """What the samples are: learned, real, or both; and what follows for who uses them."""
    count, real = len(artifact), artifact.real_count
    traits = f"The {samples} may show traits of the real ones and give no guarantee of privacy."
    learned = f"The {samples} are learned to train networks,\nnot to look like their classes."
    if not real:
        bound = f"What may be done with the synthetic {samples} depends on it."
        return {"what": f"{count} synthetic {samples}", "bound": bound, "meant": learned, "privacy": traits}
    whole = artifact.manifest["real"]["unchanged"]
    held = (
        "unchanged" if whole else f"with {'pixels' if samples == 'images' else 'values'} rounded by how they are stored"
    )
    shown = f"{real} of the {samples} are real ones of the source: whoever is in them can be seen."
    if real == count:
        return {
            "what": f"{count} real {samples}, chosen from the train part of the source and {held}; none is synthetic,",
            "bound": f"It is the licence of these {samples}: they are the source's own.",
            "meant": f"The {samples} were chosen, not learned.",
            "privacy": shown,
        }
    return {
        "what": f"{count} {samples}, {count - real} synthetic and {real} real ones of the train part of the source, {held};",
        "bound": f"It is the licence of the {real} real {samples}, and what may be done with the others depends on it.",
        "meant": learned,
        "privacy": f"{shown} The others may show traits of them.",
    }


def _head(title: str, source: Mapping[str, Any], count: int, of: str) -> str:
    """YAML, whose values are JSON: that is YAML too, whatever is in the names."""
    licence = re.sub("[^a-z0-9.]+", "-", str(source.get("licence") or "unknown").partition("(")[0].lower()).strip("-")
    size = "n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K" if count < 100_000 else "n>100K"
    head = {
        "pretty_name": title,
        "license": licence if len(licence) <= LONGEST_LICENCE else "other",
        "task_categories": [f"{of}-classification"],
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
