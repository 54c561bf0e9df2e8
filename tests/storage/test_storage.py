"""Places on local and remote file systems, atomic writing, logs, and safetensors that can be damaged."""

import copy
import json
import os
import shutil
import uuid
from pathlib import Path

import pytest
import torch

from ddcore.errors import InputError, NoSpace
from ddcore.storage import places as storage
from ddcore.storage.places import Place, load_tensors, read_metadata, save_tensors, sha256_of
from ddcore.storage.secrecy import redact


@pytest.fixture(params=["local", "file-url", "memory"])
def folder(request, tmp_path):
    where = {"local": str(tmp_path), "file-url": f"file://{tmp_path}", "memory": f"memory://{uuid.uuid4().hex}"}
    return Place.at(where[request.param]) / "a folder"


def test_what_is_written_is_read_back_listed_and_removed(folder):
    (folder / "b.bin").write_bytes(b"\x00\x01")
    (folder / "deep/a.json").write_json({"é": [1, None]})
    assert (folder / "b.bin").read_bytes() == b"\x00\x01" and (folder / "b.bin").size() == 2
    assert (folder / "deep/a.json").read_json() == {"é": [1, None]}
    assert folder.names() == ["b.bin", "deep"] and folder.files() == ["b.bin", "deep/a.json"]
    assert folder.is_folder() and not (folder / "b.bin").is_folder()
    folder.remove()
    folder.remove()
    assert not folder.exists()


def test_a_second_write_replaces_the_first(folder):
    (folder / "x").write_bytes(b"a long first content")
    (folder / "x").write_bytes(b"short")
    assert (folder / "x").read_bytes() == b"short"


def test_files_opened_for_writing_are_there_when_closed(folder):
    with (folder / "new/x").open("wb") as file:
        file.write(b"123")
    with (folder / "new/x").open() as file:
        assert file.read() == b"123"


def test_a_folder_can_be_made_twice(tmp_path):
    place = Place.at(tmp_path) / "x/y"
    place.make_folder()
    place.make_folder()
    assert place.is_folder() and place.names() == []


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    place = Place.at(tmp_path) / "x"
    place.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(
        InputError, match="cannot be written, the disk is full, 3 bytes are needed and .* are free: make room"
    ):
        place.write_bytes(b"new")
    assert place.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_unfinished_files_of_a_killed_process_are_not_listed(tmp_path):
    (tmp_path / ".x.123-ab.part").write_bytes(b"half")
    assert Place.at(tmp_path).names() == [] and Place.at(tmp_path).files() == []


def test_lines_are_appended_in_order(folder, monkeypatch):
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_APPENDS", 1000.0)
    for number in range(4):
        (folder / "log.jsonl").append_line(json.dumps(number))
    assert (folder / "log.jsonl").read_bytes() == b"0\n1\n2\n3\n"


def test_a_remote_log_is_rewritten_seldom_and_completed_when_the_process_ends(monkeypatch):
    monkeypatch.setattr(storage, "SECONDS_BETWEEN_APPENDS", 1000.0)
    log = Place.at(f"memory://{uuid.uuid4().hex}/log")
    log.append_line("first")
    log.append_line("second")
    assert log.size() == len("first\n")
    storage.flush_appended()
    assert log.size() == len("first\nsecond\n")


def test_links_to_folders_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x").write_text("x")
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen/link").symlink_to(tmp_path / "real")
    assert (Place.at(tmp_path) / "seen").files() == ["link/x"]


def test_members_of_a_zip_file_are_places(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("f/x.txt", "content")
    inside = Place.at(f"zip://::{tmp_path}/a.zip")
    assert inside.files() == ["f/x.txt"] and (inside / "f/x.txt").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://key:secret@bucket/a", "s3://bucket/a"),
        ("s3://key:sec/ret@bucket/a", "s3://bucket/a"),
        ("https://host:8080/a?token=t#f", "https://host:8080/a"),
        ("zip://a.npz::https://u:p@host/b.zip?sig=1", "zip://a.npz::https://host/b.zip"),
        ("hf://datasets/me/set@main/x", "hf://datasets/me/set@main/x"),
        ("/data/what?/me@home#1", "/data/what?/me@home#1"),
    ],
)
def test_credentials_and_queries_are_never_shown(address, shown):
    place = Place.at(address)
    assert place.url == shown and place.address == address
    assert redact(f"GET {address} failed") == f"GET {shown} failed"
    assert "secret" not in repr(place)


def test_a_child_of_a_url_keeps_its_query_and_chain():
    assert (Place.at("https://h/a?sig=1") / "b").address == "https://h/a/b?sig=1"
    assert (Place.at("zip://a::s3://b/c.zip") / "d").address == "zip://a/d::s3://b/c.zip"
    assert (Place.at("memory://") / "d").address == "memory://d"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "s3://x", "a::b"])
def test_a_name_cannot_lead_out_of_its_folder(name, tmp_path):
    with pytest.raises(InputError, match="is no name inside"):
        Place.at(tmp_path) / name


def test_places_are_values_that_travel(tmp_path):
    place = Place.at(tmp_path) / "x"
    assert copy.deepcopy(place) == place == Place.at(place) and len({place, Place.at(place)}) == 1
    assert place.local_path() == tmp_path / "x" and place.name == "x"
    assert Place.at("s3://bucket/x").local_path() is None
    assert Place.at("~/x").local_path() == Path.home() / "x"


def test_a_missing_file_is_named_without_credentials():
    with pytest.raises(InputError, match="nothing at memory://bucket/none: check the path"):
        Place.at("memory://user:pass@bucket/none").read_bytes()


def test_a_missing_driver_names_the_pip_command(monkeypatch):
    def not_installed(address):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(storage, "url_to_fs", not_installed)
    with pytest.raises(InputError, match=r"s3://bucket/x needs a driver .*: pip install s3fs"):
        Place.at("s3://me:pw@bucket/x").read_bytes()


def test_an_unknown_file_system_gets_a_near_match():
    with pytest.raises(InputError, match="no file system is called 'memry' .*did you mean 'memory'"):
        Place.at("memry://x").exists()


def test_what_a_driver_says_is_passed_on_without_credentials(monkeypatch):
    def broken(address):
        raise RuntimeError(f"403 for {address}")

    monkeypatch.setattr(storage, "url_to_fs", broken)
    monkeypatch.setattr(storage, "FIRST_WAIT", 0.0)
    with pytest.raises(InputError, match="cannot be read .*RuntimeError: 403 for s3://bucket/x") as caught:
        Place.at("s3://me:pw@bucket/x?sig=2").read_bytes()
    assert "pw" not in str(caught.value) and "sig" not in str(caught.value)


def test_json_cut_short_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"a": 1')
    with pytest.raises(InputError, match="run.json is not valid JSON"):
        (Place.at(tmp_path) / "run.json").read_json()


def test_numbers_that_are_not_finite_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        (Place.at(tmp_path) / "x").write_json({"loss": float("nan")})
    assert not (tmp_path / "x").exists()


@pytest.fixture
def tensors():
    ramp = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "view": ramp.transpose(0, 2),
        "row": ramp[1],
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "scalar": torch.tensor(0.5, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "flags": ramp[0] > 2,
    }


def test_tensors_come_back_as_they_were(folder, tensors):
    written = save_tensors(folder / "t.safetensors", tensors, {"b": "2", "a": "1"})
    back = load_tensors(folder / "t.safetensors")
    assert written == (folder / "t.safetensors").size() and set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name
    assert read_metadata(folder / "t.safetensors") == {"a": "1", "b": "2"}


def test_saving_a_tensor_that_learns_leaves_it_alone(tmp_path):
    learned = torch.ones(3, requires_grad=True)
    save_tensors(Place.at(tmp_path) / "t", {"x": learned, "same": learned})
    assert learned.requires_grad and torch.equal(load_tensors(Place.at(tmp_path) / "t")["same"], torch.ones(3))


def test_equal_tensors_give_equal_bytes_in_any_order(tmp_path):
    # the library itself writes metadata in an order that changes from call to call
    for number, names in enumerate(("abcdef", "fedcba") * 3):
        tensors = {name: torch.arange(3.0) for name in names}
        save_tensors(Place.at(tmp_path) / str(number), tensors, {name: name for name in names})
    assert len({(tmp_path / str(number)).read_bytes() for number in range(6)}) == 1


def test_a_file_of_the_library_can_be_read(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.arange(3)}, tmp_path / "x", metadata={"k": "v"})
    assert torch.equal(load_tensors(Place.at(tmp_path) / "x")["x"], torch.arange(3))
    assert read_metadata(Place.at(tmp_path) / "x") == {"k": "v"}


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_truncated_tensor_file_is_named(tmp_path, keep):
    place = Place.at(tmp_path) / "images.safetensors"
    save_tensors(place, {"x": torch.arange(9.0)}, {"k": "v"})
    place.write_bytes(place.read_bytes()[:keep])
    with pytest.raises(InputError, match="images.safetensors is cut short"):
        load_tensors(place)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x10\0\0\0\0\0\0\0{"])
def test_metadata_of_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError, match="no safetensors file"):
        read_metadata(Place.at(tmp_path) / "t")


def test_an_altered_tensor_file_is_found_by_its_checksum(tmp_path):
    place = Place.at(tmp_path) / "t"
    save_tensors(place, {"x": torch.zeros(4)})
    recorded = sha256_of(place.read_bytes())
    assert load_tensors(place, sha256=recorded)["x"].sum() == 0
    place.write_bytes(place.read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="altered or cut short"):
        load_tensors(place, sha256=recorded)


@pytest.mark.parametrize("mapped_from", [storage.MAPPED_FROM, 0])
def test_a_sealed_file_knows_itself_when_it_was_altered(tmp_path, monkeypatch, tensors, mapped_from):
    monkeypatch.setattr(storage, "MAPPED_FROM", mapped_from)
    monkeypatch.setattr(storage, "READ_AT_ONCE", 512)
    place = Place.at(tmp_path) / "t"
    save_tensors(place, tensors, {"step": "7"}, sealed=True)
    assert torch.equal(load_tensors(place)["view"], tensors["view"]) and read_metadata(place)["step"] == "7"
    whole = place.read_bytes()
    for at in (whole.index(b'"7"') + 1, len(whole) - 3, len(whole) // 2):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match="altered or cut short"):
            load_tensors(place)
    place.write_bytes(whole)
    assert set(load_tensors(place, sha256=sha256_of(whole))) == set(tensors)


def test_equal_tensors_are_sealed_alike(tmp_path):
    for name in "ab":
        save_tensors(Place.at(tmp_path) / name, {"x": torch.arange(3.0)}, {"k": "v"}, sealed=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Failing:
    """A file system that fails some calls before it answers, as drivers of remote stores do."""

    def __init__(self, errors):
        self.errors, self.calls = list(errors), 0

    def invalidate_cache(self):
        pass

    def cat_file(self, path, start=None, end=None):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return b"content"


@pytest.fixture
def remote(monkeypatch):
    waits = []
    monkeypatch.setattr(storage.time, "sleep", waits.append)

    def made(*errors):
        system = Failing(errors)
        monkeypatch.setattr(storage, "url_to_fs", lambda address: (system, address))
        return system

    return made, waits


def test_what_fails_for_a_moment_is_tried_again_with_growing_waits(remote):
    made, waits = remote
    system = made(TimeoutError("slow"), ConnectionResetError("cut"), OSError(5, "500"))
    assert Place.at("s3://bucket/x").read_bytes() == b"content"
    assert system.calls == 4 and waits == [0.5, 1.0, 2.0]


def test_what_keeps_failing_is_one_sentence_that_counts_the_attempts(remote):
    made, waits = remote
    system = made(*[TimeoutError("no answer\nfrom the store")] * 9)
    with pytest.raises(
        InputError, match="s3://bucket/x cannot be read in 5 attempts, it does not answer in time: check"
    ):
        Place.at("s3://k:secret@bucket/x").read_bytes()
    assert system.calls == storage.ATTEMPTS and waits == [0.5, 1.0, 2.0, 4.0]


@pytest.mark.parametrize("error", [PermissionError("403"), FileNotFoundError("404"), ValueError("bad name")])
def test_what_lasts_is_not_tried_again(remote, error):
    made, waits = remote
    made(error)
    with pytest.raises(InputError):
        Place.at("s3://bucket/x").read_bytes()
    assert waits == []


def test_after_a_long_wait_nothing_is_tried_again(remote, monkeypatch):
    made, waits = remote
    monkeypatch.setattr(storage, "PATIENCE", -1.0)
    made(TimeoutError("slow"))
    with pytest.raises(InputError, match="does not answer in time"):
        Place.at("s3://bucket/x").read_bytes()
    assert waits == []


def test_a_local_file_is_not_tried_again(monkeypatch, tmp_path):
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: pytest.fail("waited"))
    monkeypatch.setattr(storage, "_replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(InputError, match="cannot be written .OSError: Input/output error"):
        (Place.at(tmp_path) / "x").write_bytes(b"x")


def test_a_file_that_is_cleared_away_half_written_is_written_again(tmp_path, monkeypatch):
    """Who begins to work in a folder removes what killed processes left; a report may be on its way just then."""
    place, sync, times = Place.at(tmp_path / "run/report.html"), os.fsync, []

    def synced(handle):
        sync(handle)
        if len(times) < most:
            times.append(handle)
            Place.at(tmp_path).remove_unfinished()

    monkeypatch.setattr(os, "fsync", synced)
    most = 2
    place.write_bytes(b"whole")
    assert place.read_bytes() == b"whole" and len(times) == 2
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]
    most = 100
    with pytest.raises(InputError, match="there is nothing at"):
        place.write_bytes(b"other")
    assert place.read_bytes() == b"whole" and len(times) == 5


def test_a_folder_that_vanishes_while_a_file_is_written_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(InputError, match="there is nothing at"):
        Place.at(tmp_path / "run/a").write_bytes(b"a")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_no_others_place(tmp_path, monkeypatch, links):
    def without(*_):
        raise OSError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", without)
    place = Place.at(tmp_path / "a/b")
    assert place.write_new(b"one") and not place.write_new(b"other")
    assert place.read_bytes() == b"one" and [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    remote = Place.at(f"memory://{uuid.uuid4().hex}/b")
    assert remote.write_new(b"one") and not remote.write_new(b"other") and remote.read_bytes() == b"one"


def test_a_line_that_fits_only_in_part_is_taken_back(tmp_path, monkeypatch):
    log = Place.at(tmp_path) / "log.jsonl"
    log.append_line("first")
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    with pytest.raises(NoSpace, match="log.jsonl cannot be written, the disk is full, 7 bytes are needed"):
        log.append_line("second")
    monkeypatch.undo()
    log.append_line("third")
    assert log.read_bytes() == b"first\nthird\n"


def test_parts_of_a_file_are_read(folder):
    (folder / "x").write_bytes(b"0123456789")
    assert (folder / "x").read_bytes(2, 5) == b"234" and (folder / "x").read_bytes(8) == b"89"
