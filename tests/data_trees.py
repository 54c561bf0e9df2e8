"""Small data sets in the layouts that people keep: class folders of pictures, parquet files."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ddcore.storage.places import Place


def grey(value, size=8):
    file = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def jpeg(seed=0, size=8):
    file = io.BytesIO()
    noise = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def tree(root, files):
    for name, data in files.items():
        Place.at(root / name).write_bytes(data)
    return root


def pictures(*folders, classes=("cat", "dog"), each=2):
    """Class folders below each of some folders, every picture another grey."""
    names = [f"{folder}/{cls}/{n}.png" for folder in folders for cls in classes for n in range(each)]
    return {name.lstrip("/"): grey(at) for at, name in enumerate(names)}


def shard(place, values, names=None, labels=None):
    """Pictures of these greys whose class is their hundreds, numbered by the file's own names a, b, c."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    due = ["abc"[value // 100] for value in values]
    numbers = labels or [(names or ["a", "b", "c"]).index(cls) for cls in due]
    image = pa.array(
        [{"bytes": grey(v), "path": None} for v in values], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    table = pa.table({"image": image, "label": pa.array(numbers)})
    if names:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    file = io.BytesIO()
    pq.write_table(table, file)
    Place.at(place).write_bytes(file.getvalue())


FIRST, SECOND, TESTED = [0, 100, 200, 1, 101, 201], [2, 102, 202, 3], [50, 150, 250]
