"""``ddcore data check``: what is worth knowing of real data before anything is distilled from them.

Findings are facts (``ok``), what to keep in mind (``note``), and what makes results wrong or worth less
(``warning``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from attrs import asdict, field, frozen
from torch import Tensor

from ddcore.data.columns import MISSING
from ddcore.data.part_names import part_of, words
from ddcore.data.parts import LEFT_OUT
from ddcore.data.repeats import Repeats, leaked, listed, near_images, repeats, untested
from ddcore.data.source import TEXT, Source, Split
from ddcore.errors import InputError
from ddcore.images.statistics import mean_and_deviation

OK, NOTE, WARNING = "ok", "note", "warning"
UNEVEN, VERY_UNEVEN = 1.5, 10.0
"""Largest class over smallest."""
FEW_TESTED = 10
SMALLEST, LARGEST, FACTOR = 16, 256, 8
"""Sides of images that networks here are made for, and what they divide by."""
SHIFTED = 0.25
"""Of a channel's deviation: test means further off than this are another kind of image."""


@frozen
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        status: ``ok``, ``note`` or ``warning``.
        said: what was found, with numbers.
        way_out: what to do; empty where nothing is to be done.
        numbers: the same as JSON values.
    """

    check: str
    status: str
    said: str
    way_out: str = ""
    numbers: Mapping[str, Any] = field(factory=dict)

    @property
    def line(self) -> str:
        """All of it on one line."""
        return f"{self.status:<8} {self.check:<18} {self.said}" + (f": {self.way_out}" if self.way_out else "")

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def examine(source: Source) -> list[Finding]:
    """Every check that fits the data's modality, in the order of ``CHECKS``."""
    found = [finding for check in CHECKS for finding in check(source)]
    if source.modality == "images":
        return found + [finding for check in OF_IMAGES for finding in check(source)]
    tables = all(isinstance(split.stored, Tensor) and split.stored.ndim == 2 for split in source.parts.values())
    return found + ([*features(source)] if tables and source.modality != TEXT else [])


def sizes(source: Source) -> Iterator[Finding]:
    """How many samples of what shape, and whether there are enough to test on."""
    train, test, shape = len(source.train), len(source.test), source.shape
    numbers = {"train": train, "test": test, "classes": len(source.classes), "shape": list(shape)}
    what = " x ".join(map(str, shape))
    said = (
        f"{train} train and {test} test {source.samples}{f' of {what}' if what else ''}, {len(source.classes)} classes"
    )
    yield Finding("sizes", OK, said, numbers=numbers)
    counts = source.counts(source.test)
    tested = min(counts)
    if 0 < tested < FEW_TESTED:
        name = source.classes[counts.index(tested)]
        said = f"class {name!r} has {tested} test {source.samples}: one of them is {1 / tested:.0%} of its accuracy"
        yield Finding("sizes", NOTE, said, "test on more", {"least_tested": tested})


def classes(source: Source) -> Iterator[Finding]:
    """Samples of each class in each part."""
    counts = {part: source.counts(split) for part, split in source.parts.items()}
    for part, each in counts.items():
        few, most = min(each), max(each)
        spread = f"{few}" if few == most else f"{few} to {most}"
        yield Finding("classes", OK, f"{spread} {part} {source.samples} a class", numbers={f"{part}_per_class": each})
    absent = [name for name, count in zip(source.classes, counts["train"], strict=True) if not count]
    if absent:
        said = f"{len(absent)} of {len(source.classes)} classes have no train {source.samples} ({listed(absent)})"
        yield Finding("classes", WARNING, said, "add some or drop the class", {"without_train": absent})
    if missing := untested(source):
        without = [name for name, count in zip(source.classes, counts["test"], strict=True) if not count]
        yield Finding("classes", WARNING, *missing, {"without_test": without})
    few, most = min(counts["train"]), max(counts["train"])
    if few and most / few >= UNEVEN:
        of = [source.classes[counts["train"].index(count)] for count in (few, most)]
        said = f"class {of[1]!r} has {most} train {source.samples} and {of[0]!r} {few}, {most / few:.3g} times as many"
        way_out = f"--ipc is {few} at most for real images; look at accuracy by class"
        status = WARNING if most / few >= VERY_UNEVEN else NOTE
        yield Finding("imbalance", status, said, way_out, {"ratio": most / few, "least": few, "most": most})


def names(source: Source) -> Iterator[Finding]:
    """Class names that say that something else was read as a label."""
    plain: dict[str, list[str]] = {}
    for name in source.classes:
        plain.setdefault(name.strip().casefold(), []).append(name)
    odd = {
        "stand for no label": [name for name in source.classes if name.strip() in MISSING or name == "-1"],
        "are names of parts": [name for name in source.classes if part_of(name) is not None and len(words(name)) == 1],
        "are hidden or left by a tool": [name for name in source.classes if name[:1] in (".", "_")],
        "differ in capitals or space only": [name for same in plain.values() if len(same) > 1 for name in same],
    }
    for what, found in odd.items():
        if found and not (what == "stand for no label" and set(source.classes) == {"-1", "1"}):
            said = f"{len(found)} of {len(source.classes)} class names {what} ({listed([repr(n) for n in found])})"
            yield Finding("labels", WARNING, said, "correct the labels, or leave these out", {"names": found})
    if not any(odd.values()):
        yield Finding("labels", OK, f"classes are {listed(source.classes)}", numbers={"classes": list(source.classes)})


def duplicates(source: Source) -> Iterator[Finding]:
    """Equal samples within train, across train and test, and with two labels."""
    try:
        found = repeats(source)
    except InputError as error:
        yield Finding("duplicates", NOTE, f"not looked for: {error}")
        return
    yield from _within(source, found)
    numbers = {"across": len(found.across), "pairs": [list(pair) for pair in found.across[:100]]}
    if leak := leaked(source, found):
        yield Finding("duplicates", WARNING, *leak, numbers)
    else:
        yield Finding("duplicates", OK, f"no test {source.samples} are train {source.samples} too", numbers=numbers)
    both = [f"train {a} = train {b}" for a, b in found.conflicts] + [f"train {a} = test {b}" for a, b in found.crossed]
    if both:
        said = f"{len(both)} equal {source.samples} have another label than the first ({listed(both)})"
        conflicts = {"within": len(found.conflicts), "across": len(found.crossed)}
        yield Finding("label conflicts", WARNING, said, "correct the labels or drop them", conflicts)


def _within(source: Source, found: Repeats) -> Iterator[Finding]:
    train = len(source.train)
    numbers = {"within": found.within, "groups": [list(group[:10]) for group in found.groups[:100]]}
    if found.within == train - 1:
        yield Finding(
            "duplicates", WARNING, f"all {train} train {source.samples} are equal", "get the data again", numbers
        )
    elif found.within:
        examples = listed([" = ".join(f"train {at}" for at in group[:3]) for group in found.groups])
        said = f"{found.within} of {train} train {source.samples} ({found.within / train:.1%}) are equal to an earlier one ({examples})"
        yield Finding("duplicates", NOTE, said, "drop them, or know that they count more than once", numbers)
    else:
        yield Finding("duplicates", OK, f"no train {source.samples} are equal", numbers=numbers)


def near(source: Source) -> Iterator[Finding]:
    """Images that are almost another one: compressed again, brightened, shifted by little."""
    pairs = near_images(source)
    if pairs is None:
        yield Finding("near duplicates", NOTE, "not looked for: there are too many images to compare them all")
        return
    numbers = {name: len(found) for name, found in pairs.items()}
    examples = listed([f"test {b} ~ train {a}" for a, b in pairs["across"]])
    examples = examples or listed([f"train {b} ~ train {a}" for a, b in pairs["within"]])
    said = f"{numbers['within']} train and {numbers['across']} test images are nearly an earlier train image"
    if not any(numbers.values()):
        yield Finding("near duplicates", OK, said, numbers=numbers)
    else:
        way_out = "look at them; accuracy on such test images counts what was learned by heart"
        yield Finding("near duplicates", NOTE, f"{said} ({examples})", way_out, numbers)


def constant(source: Source) -> Iterator[Finding]:
    """Images of one colour."""
    blank = {part: _blank(split) for part, split in source.parts.items()}
    numbers = {part: len(found) for part, found in blank.items()}
    said = f"{numbers['train']} train and {numbers['test']} test images are of one colour"
    if any(numbers.values()):
        examples = listed([f"{part} {at}" for part, found in blank.items() for at in found])
        yield Finding("constant images", WARNING, f"{said} ({examples})", "drop or replace them", numbers)
    else:
        yield Finding("constant images", OK, said, numbers=numbers)


def _blank(split: Split) -> list[int]:
    flat = split.stored.flatten(2)
    found: list[int] = (flat.amin(2) == flat.amax(2)).all(1).nonzero()[:, 0].tolist()
    return found


def pixels(source: Source) -> Iterator[Finding]:
    """Range, channels, means and deviations."""
    stored = {part: split.stored for part, split in source.parts.items()}
    ends = {part: (images.min().item(), images.max().item()) for part, images in stored.items()}
    full = 255 if source.train.stored.dtype == torch.uint8 else 1.0
    kind = str(source.train.stored.dtype).removeprefix("torch.")
    said = ", ".join(f"{part} {low:g} to {high:g}" for part, (low, high) in ends.items())
    yield Finding("range", OK, f"{said} of 0 to {full:g} ({kind})", numbers={part: list(e) for part, e in ends.items()})
    for part, (low, high) in ends.items():
        if low < high < full / 16:
            way_out = "they may have been scaled twice: store 0 to 255 as uint8, or floats in [0, 1]"
            yield Finding("range", WARNING, f"{part} images are nearly black, at most {high:g} of {full:g}", way_out)
    spread = {part: mean_and_deviation(images) for part, images in stored.items()}
    means = ", ".join(f"{mean:.4f}" for mean in spread["train"][0])
    deviations = ", ".join(f"{deviation:.4f}" for deviation in spread["train"][1])
    numbers = {part: {"mean": list(mean), "std": list(std)} for part, (mean, std) in spread.items()}
    yield Finding("mean and std", OK, f"train {means} and {deviations}", numbers=numbers)
    far = [
        abs(a - b) / max(s, 1e-6)
        for a, b, s in zip(spread["train"][0], spread["test"][0], spread["train"][1], strict=True)
    ]
    if max(far) > SHIFTED:
        said = f"test means are {max(far):.2f} train deviations off"
        yield Finding("mean and std", WARNING, said, "look whether both parts were stored alike", {"off": far})
    yield from _channels(source)


def _channels(source: Source) -> Iterator[Finding]:
    images = source.train.stored
    grey = images.shape[1] == 3 and all(
        bool((chunk[:, :1] == chunk).all()) for split in source.parts.values() for chunk in split.stored.split(1024)
    )
    said = f"{images.shape[1]} ({'grey' if images.shape[1] == 1 else 'colour'})"
    if grey:
        said, way_out = "3, all equal: grey images stored in colour", "store one channel, a third of the bytes and work"
        yield Finding("channels", NOTE, said, way_out, {"channels": 3, "grey": True})
    else:
        yield Finding("channels", OK, said, numbers={"channels": int(images.shape[1]), "grey": images.shape[1] == 1})


def unusual(source: Source) -> Iterator[Finding]:
    """Sides that networks here are not made for, and the mirror symmetry that augmentation goes by."""
    side = source.size
    if side < SMALLEST or side > LARGEST or side % FACTOR:
        said = f"images are {side}x{side}, where {SMALLEST} to {LARGEST} in steps of {FACTOR} are usual"
        yield Finding("image size", NOTE, said, "give --resize N if a network does not take them", {"size": side})
    else:
        yield Finding("image size", OK, f"{side}x{side}", numbers={"size": side})
    answer = "yes: augmentation may mirror them" if source.mirror_symmetric else "no: augmentation does not mirror them"
    yield Finding("mirror symmetric", OK, answer, numbers={"mirror_symmetric": source.mirror_symmetric})


def features(source: Source) -> Iterator[Finding]:
    """Of a table (N, D): values that are no numbers, and columns that say nothing."""
    for part, split in source.parts.items():
        values = split.stored.double()
        bad = (~torch.isfinite(values)).any(1).nonzero()[:, 0].tolist()
        if bad:
            said = f"{len(bad)} {part} rows hold NaN or infinite values ({listed([f'{part} {at}' for at in bad])})"
            yield Finding("range", WARNING, said, "repair or drop them", {part: len(bad)})
        else:
            ends = [values.min().item(), values.max().item()]
            yield Finding("range", OK, f"{part} {ends[0]:g} to {ends[1]:g}", numbers={part: ends})
    values = source.train.stored.double()
    still = (values.amin(0) == values.amax(0)).nonzero()[:, 0].tolist()
    if still:
        said = f"{len(still)} of {values.shape[1]} features are the same in all train rows (columns {listed(still)})"
        yield Finding("constant features", NOTE, said, "drop them", {"columns": still})


def reader(source: Source) -> Iterator[Finding]:
    """What the reader dropped, converted or took for granted."""
    for note in source.notes:
        if LEFT_OUT in note:
            way_out = "replace or drop what is broken, or leave it out by --skip-broken"
            numbers = {"broken": [list(each) for each in source.broken]}
            yield Finding("broken files", WARNING, note, way_out, numbers)
        else:
            yield Finding("reader", NOTE, note)


CHECKS: tuple[Callable[[Source], Iterator[Finding]], ...] = (sizes, classes, names, duplicates, reader)
OF_IMAGES: tuple[Callable[[Source], Iterator[Finding]], ...] = (near, constant, pixels, unusual)
