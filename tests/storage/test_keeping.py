"""What is kept between runs: keys that hold whatever shapes bits, files that say whose they are, and what becomes of wrong ones."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from ddcore import devices
from ddcore.data.normalisation import fit
from ddcore.data.source import decoded_key, keep_decoded, load_decoded
from ddcore.errors import InputError, StoreError
from ddcore.kit.contract.tiny import tiny_images
from ddcore.storage import keeping
from ddcore.storage import places as storage
from ddcore.storage.keeping import digest_of, kept, load, machine, save
from ddcore.storage.places import Place, save_tensors

CPU = torch.device("cpu")
KEY = {"of": "numbers", "seed": 0}


@pytest.fixture
def cache(tmp_path):
    return Place.at(tmp_path / "cache")


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Maker:
    """Makes the same tensors each time, and counts."""

    def __init__(self, cache, key=KEY, **more):
        self.cache, self.key, self.more, self.made, self.notes = cache, key, more, 0, []

    def __call__(self):
        return kept(self.cache, "kind", self.key, self.make, note=self.notes.append, **self.more)["x"].tolist()

    def make(self):
        self.made += 1
        return {"x": torch.tensor([1.0, 2.0, float(self.key["seed"])])}

    @property
    def path(self):
        return self.cache.local_path() / "kind" / f"{digest_of(self.key)}.safetensors"


# ---- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_says_what_computes(monkeypatch):
    with threads(1):
        one = machine(CPU, "float32")
        assert one == machine(CPU, torch.float32)
    with threads(2):
        others = [machine(CPU, "float32")]
    with threads(1):
        others.append(machine(CPU, "float64"))
        with monkeypatch.context() as patched:
            patched.setattr(torch, "__version__", "9.9")
            others.append(machine(CPU, "float32"))
        with monkeypatch.context() as patched:
            patched.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
            others.append(machine(CPU, "float32"))
        with monkeypatch.context() as patched:
            patched.setattr(devices.cuda, "names", lambda: ["a GPU"])
            others.append(machine(torch.device("cuda"), "float32"))
        for name in keeping.BEFORE_TORCH:
            monkeypatch.setenv(name, "ANOTHER")
            others.append(machine(CPU, "float32"))
    assert len({digest_of(each) for each in (one, *others)}) == 1 + len(others)


def test_a_key_does_not_name_modules_of_the_core():
    assert "ddcore." not in json.dumps(machine(CPU, torch.float32))


def test_a_digest_is_that_of_equal_keys_in_any_order():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) == "0855bfc20eb6cfaa4be7"


# ---- one file --------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_made_once_and_says_its_whole_key(cache):
    make = Maker(cache)
    assert make() == make() == [1, 2, 0] and make.made == 1 and make.notes == []
    facts = storage.read_metadata(Place.at(make.path))
    assert json.loads(facts["key"]) == KEY and facts["digest"] == make.path.stem


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def altered(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def unsealed(path):
    save_tensors(Place.at(path), {"x": torch.zeros(3)}, {"digest": path.stem, "part": ""})


def shaped_otherwise(path):
    save(Place.at(path), {"x": torch.zeros(4)}, KEY)


def of_another_key(path):
    save(Place.at(path), {"x": torch.zeros(3)}, {**KEY, "seed": 1})


def empty(path):
    path.write_bytes(b"")


def instead(put):
    def change(path):
        path.unlink()
        put(path)

    change.__name__ = put.__name__
    return change


def folder(path):
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def pipe(path):
    os.mkfifo(path)


def sock(path):
    here = os.getcwd()
    os.chdir(path.parent)  # addresses of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def circle(path):
    path.symlink_to(path.name)


def nowhere(path):
    path.symlink_to("nothing")


WRONG = [truncated, altered, unsealed, shaped_otherwise, of_another_key, empty]
WRONG += [instead(put) for put in (folder, pipe, sock, circle, nowhere)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_wrong_content_is_made_again_with_one_line(cache, change):
    make = Maker(cache, shapes={"x": (3,)})
    make()
    change(make.path)
    assert make() == [1, 2, 0] and make.made == 2
    (note,) = make.notes
    assert note.endswith("it is made again") and "\n" not in note and f" kind/{make.path.name}" in f" {note}"
    assert str(make.path.parent) not in note
    make.notes.clear()
    assert make() == [1, 2, 0] and make.made == 2 and make.notes == []


def test_two_that_were_exchanged_are_both_made_again(cache):
    one, other = Maker(cache), Maker(cache, {**KEY, "seed": 1})
    one(), other()
    aside = one.path.with_suffix(".aside")
    one.path.rename(aside), other.path.rename(one.path), aside.rename(other.path)
    assert (one(), other()) == ([1, 2, 0], [1, 2, 1])
    assert (one.made, other.made, len(one.notes), len(other.notes)) == (2, 2, 1, 1)
    assert digest_of(other.key) in one.notes[0] and digest_of(one.key) in one.notes[0]


def test_a_folder_of_others_in_the_way_is_renamed_and_what_lies_in_it_stays(cache):
    make = Maker(cache)
    make()
    make.path.unlink()
    folder(make.path)
    make()
    (aside,) = make.path.parent.glob("*.aside-*")
    assert (aside / "mine.txt").read_text() == "mine"


def test_a_file_in_the_place_of_a_folder_is_renamed(cache):
    cache.make_folder()
    (cache.local_path() / "kind").write_text("mine")
    make = Maker(cache)
    assert make() == [1, 2, 0]
    (aside,) = cache.local_path().glob("kind.aside-*")
    assert aside.read_text() == "mine" and "is no folder" in make.notes[0]


def test_a_cache_that_is_a_file_is_refused_and_stays(tmp_path):
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(InputError, match=r"cache.* cannot be"):
        Maker(Place.at(tmp_path / "cache"))()
    assert (tmp_path / "cache").read_text() == "mine"


def test_an_unreadable_file_is_made_again(cache, monkeypatch):
    make, read = Maker(cache), Place.read_bytes
    make()

    def refused(place, *part):
        if make.made == 1:
            raise storage.StoreError(f"{place.url} cannot be read (PermissionError: Permission denied): check access")
        return read(place, *part)

    monkeypatch.setattr(Place, "read_bytes", refused)
    assert make() == [1, 2, 0] and make.made == 2 and "Permission denied" in make.notes[0]


def test_a_store_that_cannot_be_read_just_now_is_no_reason_to_make_anything_again(monkeypatch):
    make = Maker(Place.at("memory://keeping/cache"))
    make()

    def refused(place, *part):
        raise storage.StoreError(f"{place.url} cannot be read in 5 attempts: try again")

    monkeypatch.setattr(Place, "read_bytes", refused)
    with pytest.raises(storage.StoreError, match="try again"):
        make()
    assert make.made == 1


def test_what_is_removed_at_once_is_still_handed_out(cache, monkeypatch):
    make, written = Maker(cache), Place.write_bytes

    def removed(place, data):
        written(place, data)
        place.remove()

    monkeypatch.setattr(Place, "write_bytes", removed)
    assert make() == [1, 2, 0] and make.notes == []


# ---- what was begun to be written ------------------------------------------------------------------------------------


def test_what_others_abandoned_is_removed_and_what_they_write_stays(cache):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kind, here = cache.local_path() / "kind", storage._here()
    kind.mkdir(parents=True)
    left = {
        f".x.{ended.pid}-{here}01234567.part": False,  # its process is gone
        f".x.{os.getppid()}-{here}01234567.part": True,
        f".x.{ended.pid}-0000000001234567.part": True,  # of another machine
        f".x.{ended.pid}-01234567.part": True,  # of a machine that it does not say
        ".old.1-01234567.part": False,
        "mine.part": True,
    }
    for name in left:
        (kind / name).write_bytes(b"half")
    os.utime(kind / ".old.1-01234567.part", (1, 1))
    Maker(cache)()
    assert {name: (kind / name).exists() for name in left} == left


def test_a_run_tidies_the_kinds_of_the_core_and_nothing_else(cache):
    for name in ("experts/ab/expert-000", "decoded", "other"):
        place = cache.local_path() / name
        place.mkdir(parents=True)
        (place / ".x.1-01234567.part").write_bytes(b"half")
        os.utime(place / ".x.1-01234567.part", (1, 1))
    keeping.tidy(cache)
    assert [path.parent.name for path in cache.local_path().rglob("*.part")] == ["other"]


# ---- fits and decoded data -------------------------------------------------------------------------------------------


def test_a_fit_is_kept_for_what_computed_it(cache):
    source, notes = tiny_images(), []
    for count in (1, 2):
        with threads(count):
            fit("zca", source, cache, computed_by=machine(CPU, "float32"), note=notes.append)
    assert len((cache / "normalisations").names()) == 2 and notes == []


@pytest.mark.parametrize("change", [truncated, altered, instead(pipe)], ids=lambda change: change.__name__)
def test_a_damaged_fit_is_made_again(cache, change):
    source, notes = tiny_images(), []
    first = fit("zca", source, cache, note=notes.append)
    (path,) = (cache.local_path() / "normalisations").iterdir()
    change(path)
    again = fit("zca", source, cache, note=notes.append)
    assert torch.equal(first.whiten, again.whiten) and len(notes) == 1


def other_facts(path):
    """The header says another data set than the tensors are."""
    source = tiny_images()
    key = decoded_key(source.summary())
    there = load(Place.at(path), digest_of(key))
    there.tensors["train.labels"][0] = 1 - there.tensors["train.labels"][0].clamp(max=1)
    save(Place.at(path), there.tensors, key, facts=there.facts)


@pytest.mark.parametrize(
    "change", [truncated, altered, other_facts, instead(folder)], ids=lambda change: change.__name__
)
def test_damaged_decoded_data_are_none_and_are_written_again(cache, change):
    source, notes = tiny_images(), []
    key = decoded_key(source.summary())
    keep_decoded(source, cache, notes.append)
    (path,) = (cache.local_path() / "decoded").iterdir()
    change(path)
    assert load_decoded(cache, key, notes.append) is None and len(notes) == 1
    assert load_decoded(cache, key, notes.append) is None and len(notes) == 1
    keep_decoded(source, cache, notes.append)
    assert load_decoded(cache, key, notes.append).fingerprint == source.fingerprint and len(notes) == 1


def test_a_decoded_file_cut_short_is_seen_without_reading_it(cache):
    source, notes = tiny_images(), []
    keep_decoded(source, cache, notes.append)
    (path,) = (cache.local_path() / "decoded").iterdir()
    size = path.stat().st_size
    truncated(path)
    keep_decoded(source, cache, notes.append)
    assert path.stat().st_size == size and len(notes) == 1


def test_the_same_pixels_under_other_facts_are_other_data(cache):
    import attrs

    source = tiny_images()
    turned = attrs.evolve(source, mirror_symmetric=not source.mirror_symmetric)
    for each in (source, turned):
        keep_decoded(each, cache, pytest.fail)
    for each in (source, turned):
        found = load_decoded(cache, decoded_key(each.summary()), pytest.fail)
        assert found.mirror_symmetric == each.mirror_symmetric
    shutil.rmtree(cache.local_path())


def test_a_description_that_another_process_cleared_away_half_written_is_written_again(tmp_path, monkeypatch):
    real, left = Place.write_json, [InputError("there is nothing there")] * 2

    def write(place, content):
        if left:
            raise left.pop()
        real(place, content)

    monkeypatch.setattr(Place, "write_json", write)
    keeping.describe(Place.at(tmp_path), {"a": 1})
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"a": 1} and not left
    left.append(StoreError("no room"))
    with pytest.raises(StoreError):
        keeping.describe(Place.at(tmp_path), {"a": 2})
