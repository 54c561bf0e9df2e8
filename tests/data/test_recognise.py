"""Paths that are given without a reader are read by what lies there; names of data in any case."""

import shutil

import numpy as np
import pytest
from data_trees import FIRST, TESTED, pictures, shard, tree

from ddcore.data.recognise import taken_for
from ddcore.data.sources import open_source
from ddcore.errors import InputError


def idx(root):
    for part, count in (("train", 4), ("t10k", 2)):
        for kind, magic, values in (("images-idx3", 0x803, (count, 4, 4)), ("labels-idx1", 0x801, (count,))):
            head = b"".join(number.to_bytes(4, "big") for number in (magic, *values))
            tree(
                root,
                {
                    f"{part}-{kind}-ubyte": head
                    + bytes([n % (251 if len(values) > 1 else 2) for n in range(int(np.prod(values)))])
                },
            )


def every_kind(root):
    tree(root / "photos", pictures("train", "test"))
    shard(root / "tables/Train.parquet", FIRST)
    shard(root / "tables/Test.parquet", TESTED)
    shard(root / "one.PARQUET", FIRST)
    images, labels = np.arange(4, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2), np.array([0, 1, 0, 1])
    np.savez(root / "arrays.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    (root / "arrays").mkdir()
    for part in ("train", "test"):
        np.savez(root / "arrays" / f"{part}.npz", images=images, labels=labels)
    idx(root / "digits-idx")


KINDS = {
    "photos": "folder", "photos/": "folder", "tables": "parquet", "tables/Train.parquet": "parquet",
    "one.PARQUET": "parquet", "arrays.npz": "npz", "arrays": "npz", "digits-idx": "idx",
}  # fmt: skip


@pytest.mark.parametrize(("path", "kind"), KINDS.items())
def test_a_path_is_read_by_what_lies_there(tmp_path, monkeypatch, path, kind):
    every_kind(tmp_path)
    assert taken_for(f"{tmp_path}/{path}") == taken_for(path, str(tmp_path)) == kind
    split = "0.7" if path.lower().endswith(".parquet") else None
    monkeypatch.chdir(tmp_path)
    source = open_source(path, split=split)
    assert source.notes[0] == f"taken for {kind}: by what lies there" and source.origin == f"{kind}:{path}"
    assert source.fingerprint == open_source(f"{kind}:{path}", split=split).fingerprint
    monkeypatch.chdir("/")
    assert source.fingerprint == open_source(path, split=split, data_root=str(tmp_path)).fingerprint


def test_a_path_with_data_of_two_kinds_is_refused(tmp_path):
    every_kind(tmp_path)
    shutil.move(tmp_path / "tables", tmp_path / "photos/tables")
    with pytest.raises(InputError, match="data of 2 kinds: say which, folder:.*/photos or parquet:.*/photos"):
        open_source(f"{tmp_path}/photos")


def test_leftovers_are_no_second_kind(tmp_path):
    every_kind(tmp_path)
    shutil.copytree(tmp_path / "tables", tmp_path / "photos/.cache")
    (tmp_path / "photos/._arrays.npz").write_bytes(b"\0\5\x16\7")
    assert taken_for(f"{tmp_path}/photos") == "folder"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("notes.txt", "notes.txt is there, and no data that ddcore reads unasked: write READER:PATH"),
        ("x.zip", "no data that ddcore reads unasked: unpack it, and give the folder"),
        ("artifact", "is a distilled set: --dataset names real data"),
        ("fotos/", "there is nothing at .*fotos/.*: check the path"),
    ],
)
def test_what_is_no_data_is_said(tmp_path, name, sentence):
    tree(tmp_path, {"notes.txt": b"x", "x.zip": b"PK", "artifact/manifest.json": b'{"provenance": {}}'})
    with pytest.raises(InputError, match=sentence):
        open_source(f"{tmp_path}/{name}")


def test_readers_and_embedded_data_are_known_in_any_case(tmp_path):
    assert open_source("DIGITS").fingerprint == open_source("digits").fingerprint
    tree(tmp_path, pictures("train", "test"))
    assert len(open_source(f"Folder:{tmp_path}").train) == 4
