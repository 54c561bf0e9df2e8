"""Local copies of remote files: read once, bounded, repaired, and no reason to stop."""

import os
import uuid

import pytest
import torch

from ddcore.errors import InputError, NoSpace, OptionError
from ddcore.storage import copies
from ddcore.storage import places as storage
from ddcore.storage.copies import tensors_of
from ddcore.storage.places import Place, save_tensors

SIZE = 4 * 250
"""Bytes of a file's tensor."""


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A remote folder, a folder for copies, and a list of what was read over the network."""
    monkeypatch.setenv(copies.FOLDER, str(tmp_path / "copies"))
    monkeypatch.setitem(storage.DRIVERS, "memory", "fsspec")
    read, plain = [], Place.read_bytes

    def counted(place, *part):
        if place.is_remote():
            read.append(place.name)
        return plain(place, *part)

    monkeypatch.setattr(Place, "read_bytes", counted)
    return Place.at(f"memory://{uuid.uuid4().hex}"), tmp_path / "copies", read


def put(store, name, value):
    save_tensors(store / name, {"weights": torch.full((250,), float(value))}, sealed=True)
    return store / name


def test_a_remote_file_is_read_once(store):
    remote, kept, read = store
    place = put(remote, "a", 3)
    for _ in range(3):
        assert torch.equal(tensors_of(place)["weights"], torch.full((250,), 3.0))
    assert read == ["a"] and len(list(kept.iterdir())) == 1


def test_a_local_file_is_not_copied(store, tmp_path):
    _, kept, _ = store
    assert tensors_of(put(Place.at(tmp_path), "a", 1))["weights"][0] == 1 and not kept.exists()


def test_copies_read_longest_ago_make_room(store, monkeypatch):
    remote, kept, read = store
    monkeypatch.setenv(copies.BOUND, str(3 * SIZE + 800))
    places = [put(remote, name, n) for n, name in enumerate("abcd")]
    for n, place in enumerate(places[:3]):
        tensors_of(place)
        for path in kept.iterdir():
            if path.stat().st_mtime > 1000:
                os.utime(path, (n, n))
    tensors_of(places[0])
    tensors_of(places[3])
    assert sum(path.stat().st_size for path in kept.iterdir()) <= 3 * SIZE + 800
    read.clear()
    for place in (places[0], places[3], places[2]):
        tensors_of(place)
    assert read == []
    assert tensors_of(places[1])["weights"][0] == 1 and read == ["b"]


def test_a_damaged_copy_is_made_again(store):
    remote, kept, read = store
    place = put(remote, "a", 3)
    tensors_of(place)
    copy = next(kept.iterdir())
    copy.write_bytes(copy.read_bytes()[:-1] + b"\xff")
    assert tensors_of(place)["weights"].sum() == 750 and read == ["a", "a"]
    copy.write_bytes(b"")
    assert tensors_of(place)["weights"].sum() == 750


def test_a_file_larger_than_the_bound_and_a_full_disk_are_read_directly(store, monkeypatch):
    remote, kept, _ = store
    place = put(remote, "a", 3)
    monkeypatch.setenv(copies.BOUND, "100")
    assert tensors_of(place)["weights"].sum() == 750 and not kept.exists()
    monkeypatch.delenv(copies.BOUND)

    def full(place, data):
        raise NoSpace("no room")

    monkeypatch.setattr(Place, "write_bytes", full)
    assert tensors_of(place)["weights"].sum() == 750 and not kept.exists()


def test_a_damaged_remote_file_and_a_bound_that_is_none_are_named(store, monkeypatch):
    remote, _, _ = store
    place = put(remote, "a", 3)
    place.write_bytes(place.read_bytes()[:-1] + b"\xff")
    with pytest.raises(InputError, match="altered or cut short"):
        tensors_of(place)
    monkeypatch.setenv(copies.BOUND, "much")
    with pytest.raises(OptionError, match="DDCORE_COPIES_BYTES is 'much'"):
        copies.bound()
