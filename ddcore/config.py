"""The shared options of a run, one field each: its name on the command line, its type, its default, its help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, instance_of, lt, optional

from ddcore.storage.units import byte_count


def _is_size(instance: Any, attribute: Any, value: str) -> None:
    byte_count(value)


def _is_device(instance: Any, attribute: Any, value: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise ValueError("'device' must be auto, cpu, cuda or cuda:NUMBER")


def _names(words: Any) -> Any:
    """Names of a list whose entries may be several, with commas between; what is no list stays for the validators."""
    if not isinstance(words, list | tuple):
        return words
    return tuple(name for word in words for each in str(word).split(",") if (name := each.strip()))


def _shared(default: Any, help: str, validator: Any = None) -> Any:
    return field(default=default, validator=validator, metadata={"help": help})


@frozen(kw_only=True)
class Config:
    """What ``ddcore run`` takes besides plugins' own options."""

    plugins: tuple[str, ...] = _shared((), "Plugin to use, NAME or DISTRIBUTION/NAME; repeatable.")
    plugin_path: tuple[str, ...] = _shared((), "Local .py file with one plugin, to try an idea; repeatable.")
    dataset: str = _shared("digits", "Real data: a name or URL, see `ddcore data list`.")
    data_root: str | None = _shared(None, "Folder that holds data sets by name.")
    split: str | None = _shared(None, "TRAIN:TEST names of the parts, or a share such as 0.8 for data in one piece.")
    validation: float | None = _shared(
        None,
        "Share of each class's train images to score on instead of the test set, for any choice: 0.2.",
        optional(and_(gt(0), lt(1))),
    )
    resize: int | None = _shared(
        None, "Height and width to bring images to, in pixels.", optional(and_(ge(1), lt(16_385)))
    )
    skip_broken: bool = _shared(
        False, "Whether pictures that cannot be decoded are left out, with a note of their names, instead of refused."
    )
    resize_mode: Literal["crop", "pad", "squash"] = _shared(
        "crop", "How --resize makes a square: crop to the centre, pad, or squash whatever the proportion."
    )
    mirror: Literal["yes", "no", "auto"] = _shared(
        "auto", "Whether mirror images keep their class; auto: as is known of the data, else measured, else guessed."
    )
    normalise: Literal["mean-std", "zca", "none"] = _shared(
        "mean-std", "How pixels are normalised; its inverse is in the artifact."
    )
    ipc: int = _shared(1, "Images per class.", ge(1))
    bytes: str | None = _shared(
        None,
        "Instead of --ipc: as many images per class as cost so much with their labels, as stored: 2MB, 500kB.",
        optional(_is_size),
    )
    network: str = _shared(
        "auto", "Network to match and train with; auto: ConvNet, of width 32 on a CPU and 128 on CUDA."
    )
    steps: int | None = _shared(None, "Outer steps of the distillation; default: the matcher's.", optional(ge(0)))
    seed: int = _shared(0, "Seed of everything.", instance_of(int))
    device: str = _shared("auto", "Where to compute: auto, cpu, cuda, or cuda:1 of several.", _is_device)
    out: str | None = _shared(None, "Run folder, a path or URL; default: runs/NAME.")
    init: str | None = _shared(None, "Initial images: real, noise, kcenter, or what a plugin offers.")
    labels: str | None = _shared(
        None,
        "Labels: hard; averaged, per-view, top-k, two-distances or static-mixed of teachers; or what a plugin offers. Default: learned, or the matcher's.",
    )
    protocol: tuple[str, ...] = _shared(
        ("auto",),
        "Recipe of students: plain, augmented, learned-rate, quick, views, views-small, stepwise, or one of an installed plugin; NAME-EPOCHS; repeatable.",
    )
    rows: tuple[str, ...] = field(
        default=(),
        converter=_names,
        metadata={
            "help": "What is scored: names with commas between, of distilled, random, kcenter, random-bytes, full, default (all of these), "
            "an initialiser's (noise, or a plugin's) or a plugin's set; repeatable. Default: default."
        },
    )
    baseline: tuple[str, ...] = _shared(
        (), "Rows beside those of --rows, for example noise, or herding of a plugin; repeatable."
    )
    evaluate_on: tuple[str, ...] = _shared(
        (),
        "Other data of the same classes whose test part every student is tested on too, as for --dataset; repeatable.",
    )
    eval_network: tuple[str, ...] = _shared((), "Network to evaluate with; repeatable (cross-architecture).")
    eval_seeds: int = _shared(3, "Students a row.", ge(1))
    full_epochs: int | None = _shared(
        None,
        "Epochs of the row on all real data; default: the protocol's, or as many as 150,000 images make.",
        optional(ge(1)),
    )
    stop_diverged: bool = _shared(True, "Whether a learned rate that stays on its floor ends the run.")
    jobs: int = _shared(1, "Tasks at a time.", and_(ge(1), lt(1025)))
    executor: str = _shared("here", "Where tasks run: here, processes, or what a plugin offers.")
    threads: int = _shared(2, "CPU threads of a task; their number changes the bits.", and_(ge(1), lt(1025)))
    dtype: Literal["float32", "float64"] = _shared("float32", "Type to compute with.")
    amp: bool = _shared(False, "Whether students' passes are in bfloat16 where torch's autocast says so.")
    storage_dtype: Literal["float32", "float16", "uint8"] = _shared(
        "float32", "Type to store pixels with; float32 costs four times a real uint8 image."
    )
    cache: str | None = _shared(None, "Where experts and full-data rows are kept between runs.")


_EVERYWHERE = (
    "plugins",
    "plugin_path",
    "dataset",
    "data_root",
    "protocol",
    "mirror",
    "seed",
    "device",
    "threads",
    "out",
)
_TASKS = ("jobs", "executor", "cache")
EVALUATING = (
    *_EVERYWHERE,
    *_TASKS,
    "validation",
    "rows",
    "baseline",
    "evaluate_on",
    "eval_network",
    "eval_seeds",
    "full_epochs",
    "amp",
)
RELABELLING = (*_EVERYWHERE, *_TASKS, "labels", "split", "resize", "resize_mode", "skip_broken", "network")
TRAINING = (
    *_EVERYWHERE,
    *_TASKS,
    "labels",
    "split",
    "validation",
    "resize",
    "skip_broken",
    "resize_mode",
    "normalise",
    "eval_seeds",
    "dtype",
    "amp",
)
VERIFYING = (
    *("dataset", "data_root", "split", "skip_broken", "seed", "eval_seeds"),
    *("device", "threads", "out", *_TASKS),
)
"""Which of these options ``evaluate``, ``relabel``, ``train`` and ``verify`` take too."""
OF_THE_SET = (
    "dataset",
    "data_root",
    "split",
    "validation",
    "resize",
    "resize_mode",
    "mirror",
    "network",
    "seed",
    "threads",
    "cache",
    "protocol",
)
"""Those that ``evaluate`` and ``relabel`` take from the set, or from the run that made it, if they are not given."""

OF_DATA = ("data_root", "split", "resize", "resize_mode", "mirror", "skip_broken")
"""Which of them say, beside ``dataset``, what data are: what ``ddcore_data`` is told."""


def as_meant(record: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a run with the options that it is older than, as they then were: images were squashed, and whether
    mirror images keep their class was found otherwise.

    Args:
        data: what it says of its data.
    """
    config = record.get("config")
    if not isinstance(config, Mapping):
        return dict(record)
    said = dict(config)
    if said.get("resize") is not None:
        said.setdefault("resize_mode", "squash")
    if data.get("modality") == "images" and isinstance(data.get("mirror_symmetric"), bool):
        said.setdefault("mirror", "yes" if data["mirror_symmetric"] else "no")
    return {**record, "config": said}
