"""Images without classes, for what needs none: a folder of pictures, or any other data with their labels left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch

from ddcore.data.part_names import visible
from ddcore.data.parts import Wanted
from ddcore.data.source import IMAGES, UNLABELLED, Source, Split
from ddcore.errors import InputError
from ddcore.images.pictures import stack

SHARE = 0.9
"""Of pictures in one piece that are the train part, unless ``--split`` says another."""


def read_unlabelled(wanted: Wanted, endings: tuple[str, ...], read: Callable[[str], Source], *, named: bool) -> Source:
    """``unlabelled:PICTURES`` or ``unlabelled:DATA``.

    Args:
        endings: of file names, that are pictures.
        read: reads other data by name, with their labels.
        named: whether the name of a data set or a reader follows the colon; else it is a path.

    Raises:
        InputError: nothing is named; data of another modality, whose labels cannot be left out; what readers refuse.
    """
    if not wanted.rest:
        raise InputError("'unlabelled' needs data after its colon: write unlabelled:FOLDER or unlabelled:DATA")
    if not named and wanted.place().is_folder():
        files = [name for name in sorted(visible(wanted.place().files())) if name.lower().endswith(endings)]
        if files and not any("/" in name for name in files):
            return _of_pictures(wanted, files)
    source = read(wanted.rest)
    if source.modality != IMAGES:
        raise InputError(f"unlabelled: is of images, and {wanted.rest!r} holds {source.modality}: leave it out")
    train, test = (Split(s.stored, torch.zeros_like(s.labels)) for s in (source.train, source.test))
    name = f"unlabelled-{source.name}"
    return attrs.evolve(source, name=name, train=train, test=test, classes=(UNLABELLED,), labelled=False)


def _of_pictures(wanted: Wanted, files: Sequence[str]) -> Source:
    place = wanted.place()
    broken: dict[int, str] = {}
    encoded = ((place / name).read_bytes() for name in files)
    images = stack(encoded, len(files), lambda at: (place / files[at]).url, wanted.resize, broken=broken)
    if broken and not wanted.skip_broken:
        at, why = next(iter(broken.items()))
        raise InputError(f"{(place / files[at]).url} {why}: repair it, or leave out what is broken by --skip-broken")
    count = len(images.values)
    if count < 2:
        raise InputError(f"{place.url} holds {count} picture that can be read: at least 2 are needed")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    kept = min(max(1, round((wanted.share or SHARE) * count)), count - 1)
    train, test = (
        Split(images.values[rows], torch.zeros(len(rows), dtype=torch.int64))
        for rows in (order[:kept].sort().values, order[kept:].sort().values)
    )
    left_out = [f"{len(broken)} broken pictures left out (--skip-broken)"] if broken else []
    resized = {} if wanted.resize is None else {"resize_mode": wanted.resize.mode}
    return Source(
        name=f"unlabelled-{place.name}",
        train=train,
        test=test,
        classes=(UNLABELLED,),
        labelled=False,
        origin=place.name,
        broken=tuple((files[at], why) for at, why in broken.items()),
        notes=(f"{kept} of {count} pictures are the train part", *left_out),
        **resized,  # type: ignore[arg-type]
    )
