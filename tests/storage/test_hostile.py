"""Hostile input: files that were damaged or made to do harm are read or refused in one sentence, within bounds, and run nothing."""

import ast
import copy
import json
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reliability import bombs, fuzz

from ddcore.cli.app import invoke
from ddcore.data.readers import read_arrays
from ddcore.data.source import Source, Split
from ddcore.data.sources import open_source
from ddcore.errors import MOST_KNOWN, DdcoreError, InputError, near
from ddcore.images.framing import Resize
from ddcore.images.pictures import AHEAD, decode, stack
from ddcore.labels.encoders import Public
from ddcore.runs.opening import open_run
from ddcore.sets.artifact import load_artifact
from ddcore.sets.manifest import provider
from ddcore.sets.packed import load_either
from ddcore.storage.checkpoints import Checkpoints
from ddcore.storage.documents import DEEPEST, parse_json, parse_toml
from ddcore.storage.ownership import signed
from ddcore.storage.places import LONGEST_HEADER, Place, load_tensors, save_tensors
from ddcore.storage.printing import printable, printable_json, printable_line
from ddcore.storage.weights import read_state

pytestmark = pytest.mark.usefixtures("probes")

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "ddcore").rglob("*.py"), *(ROOT / "plugins").glob("*/ddcore_*/**/*.py")]
QUICK = (
    *("npz header of 3 TB", "PNG of 60,000 x 60,000 in parquet", "PNG of 60,000 x 60,000 in a folder"),
    *("PostScript under another name", "safetensors header of 2^63 bytes", "safetensors shape that overflows"),
    *("JSON of depth 100,000", "labels for 10^12 epochs of views", "views of 10^6 x 10^6 pixels", "10^12 classes"),
    *(
        "shape of 10^6 x 10^6 pixels",
        "encoder of width 9,999",
        "encoder for 10^6 pixels",
        "scales for a million channels",
    ),
    *("link out of the artifact", "pipe in the artifact", "links in circles", "TOML key of 100,000 parts"),
    *(
        "5 GB of holes as an artifact's images",
        "5 GB of holes as npz",
        "5 GB of holes as parquet",
        "5 GB of holes as idx",
    ),
    *("5 GB of holes as run.json", "5 GB of holes as settings", "graph 2,000,000,000", "tree of 2^60 nodes"),
)
"""Bombs that take a second or less to make and to read."""


@pytest.fixture
def whole(tmp_path):
    """Whole files of a kind, in a folder of their own."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind.replace(", ", "-")
        folder.mkdir()
        fuzz.KINDS[kind].make(folder)
        return folder

    return make


def change(folder: Path, edit) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


# ---- many cases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_whole_files_are_read(whole, kind):
    folder = whole(kind)
    assert fuzz.outcome(lambda: fuzz.KINDS[kind].read(folder)) == fuzz.Outcome(fuzz.READ)


def test_changed_files_are_read_or_refused():
    found = fuzz.measure(cases=247, seed=0)
    assert found["failures"] == []
    assert found["refused"] + found["read"] == 247 and min(found["refused"], found["read"]) > 10
    assert set(found["by_kind"]) == set(fuzz.KINDS) and found["peak_bytes_over_start"] < bombs.MOST


@pytest.mark.slow
def test_two_thousand_changed_files_are_read_or_refused():
    found = fuzz.measure(cases=2000, seed=1)
    assert found["failures"] == [] and found["refused"] + found["read"] == 2000


def test_a_case_can_be_made_again():
    one, other = ([(k, n, o.what) for k, n, o in fuzz.run(20, 7, ("npz", "settings"))] for _ in range(2))
    assert one == other
    draws = [fuzz.changed_bytes(b"0123456789" * 9, fuzz.random.Random(seed)) for seed in range(50)]
    assert len(set(draws)) > 40


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=8), below, max_size=4),
    max_leaves=12,
)
GIVEN = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifact")
    fuzz.KINDS["artifact, top-k"].make(folder)
    return folder, json.loads((folder / "manifest.json").read_text())


@GIVEN
@given(data=st.data(), value=JSON)
def test_whatever_stands_in_a_manifest(artifact, data, value):
    folder, manifest = artifact
    changed = copy.deepcopy(manifest)
    key = data.draw(st.sampled_from(sorted(changed)))
    if isinstance(changed[key], dict) and data.draw(st.booleans()):
        changed[key][data.draw(st.sampled_from(sorted(changed[key])))] = value
    else:
        changed[key] = value
    (folder / "manifest.json").write_text(json.dumps(changed))
    found = fuzz.outcome(lambda: fuzz.KINDS["artifact, top-k"].read(folder))
    assert found.what in (fuzz.READ, fuzz.REFUSED), found


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("npz", "data.npz"),
        ("parquet", "train.parquet"),
        ("idx", "train-images-idx3-ubyte"),
        ("settings", "c.toml"),
        ("suite", "s.toml"),
        ("weights", "new.pth"),
        ("weights", "w.safetensors"),
        *([("smiles", "m.csv")] if "smiles" in fuzz.KINDS else []),
        ("run.json", "run/run.json"),
    ],
)
def test_whatever_bytes_a_file_holds(whole, kind, name):
    folder = whole(kind)
    head = (folder / name).read_bytes()[:12]

    @settings(GIVEN, max_examples=12)
    @given(st.binary(max_size=300), st.booleans())
    def read(data, with_head):
        (folder / name).write_bytes(head + data if with_head else data)
        found = fuzz.outcome(lambda: fuzz.KINDS[kind].read(folder))
        assert found.what in (fuzz.READ, fuzz.REFUSED), found

    read()


# ---- bombs -----------------------------------------------------------------------------------------------------------


def within_bounds(found):
    return {name: one for name, one in found.items() if one["outcome"] != "refused" or one["peak_bytes"] > bombs.MOST}


def test_small_files_that_stand_for_enormous_things_are_refused():
    named = tuple(name for name in bombs.BOMBS if name.startswith("file named"))
    assert within_bounds(bombs.measure_bombs(tuple(name for name in (*QUICK, *named) if name in bombs.BOMBS))) == {}


@pytest.mark.slow
def test_every_bomb_stays_within_its_bound():
    found = bombs.measure_bombs()
    assert set(found) == set(bombs.BOMBS)
    large = found.pop("PNGs of 8,000 x 8,000, resized")
    assert large["outcome"] == "read" and large["peak_bytes"] < bombs.MOST
    assert within_bounds(found) == {}


# ---- the harness notices ---------------------------------------------------------------------------------------------


def ring():
    time.sleep(30)


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda: 1 / 0, fuzz.TRACEBACK),
        (lambda: print("\x1b[2J"), fuzz.TRACEBACK),
        (lambda: pickle.loads(pickle.dumps(Path("x"))), fuzz.CODE),
        (lambda: __import__("os").system("true"), fuzz.CODE),
        (lambda: __import__("socket").getaddrinfo("127.0.0.1", 9), fuzz.CODE),
        (lambda: open_source("npz:/nowhere.npz"), fuzz.REFUSED),
        (lambda: exec("raise SystemExit(3)"), fuzz.TRACEBACK),
    ],
)
def test_what_may_not_happen_is_noticed(read, what):
    assert fuzz.outcome(read).what == what


def test_a_case_that_hangs_is_noticed():
    assert fuzz.outcome(ring, seconds=0.1).what == fuzz.HANG


def test_a_change_that_a_checksum_covers_is_noticed_when_it_is_read(monkeypatch, tmp_path):
    broken = fuzz.Kind(fuzz.KINDS["artifact, hard"].make, lambda folder: None, fuzz.TENSORS)
    monkeypatch.setitem(fuzz.KINDS, "artifact, hard", broken)
    assert fuzz.UNDETECTED in {found.what for _, _, found in fuzz.run(40, 0, ("artifact, hard",))}


# ---- no pickle, nothing run ------------------------------------------------------------------------------------------

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}


def calls_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_reads_pickles_or_runs_text(file):
    tree = ast.parse(file.read_text("utf-8"))
    imported = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    imported += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert not {name.partition(".")[0] for name in imported} & PICKLES
    for name, words in calls_of(tree):
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "yaml.load"), name
        assert not name.endswith("torch.load"), name
        assert words.get("allow_pickle", "False") == "False", name
        assert words.get("shell", "False") == "False", name


def test_reading_unpickles_nothing(monkeypatch, whole):
    """Whatever runs what a pickle says goes through one of these, or through ``find_class``, which ``fuzz`` listens to."""

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    folders = {kind: whole(kind) for kind in fuzz.KINDS}
    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    for kind, folder in folders.items():
        assert fuzz.outcome(lambda: fuzz.KINDS[kind].read(folder)).what == fuzz.READ, kind  # noqa: B023


class Evil:
    def __reduce__(self):
        return (print, ("it ran",))


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_are_a_program_are_refused(tmp_path, capsys, zipped):
    torch.save({"a": Evil()}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"w\.pth cannot be read as tensors alone"):
        read_state(Place.at(tmp_path / "w.pth"))
    assert "it ran" not in capsys.readouterr().out


def test_arrays_of_python_objects_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", images=np.array([Evil()], dtype=object), labels=np.zeros(1, int))
    with pytest.raises(InputError, match="holds Python objects"):
        read_arrays(Place.at(tmp_path / "x.npz"))
    assert "it ran" not in capsys.readouterr().out


# ---- documents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[" * (DEEPEST + 2) + "]" * (DEEPEST + 2), "nested too deeply"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ("1e999", "too large a number"),
        (str(2**64), "beyond 64 bits"),
        ('["\\ud800"]', "no Unicode"),
        ('{"\\udfff": 1}', "no Unicode"),
        ("9" * 5000, "Exceeds the limit"),
        ("{", "Expecting"),
    ],
)
def test_json_that_later_code_would_stumble_over_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse_json(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a=" + "[" * 5000, "nested too deeply"),
        ("a." * 100_000 + "a=1", "nested too deeply"),
        ('""."".' * 1000 + "a=1", "nested too deeply"),
        ("a=0x" + "f" * 3000, "beyond 64 bits"),
        ("a=1\n" * 100_000, "longer than"),
        ("a=\xff", "Invalid value|decode"),
    ],
)
def test_toml_that_later_code_would_stumble_over_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse_toml(text.encode("latin1"))


@pytest.mark.timeout(120)
def test_a_long_word_takes_no_quadratic_time():
    with pytest.raises(ValueError, match="Exceeds"):
        parse_toml(b"a=" + b"9" * 200_000)  # eight minutes, when each digit began a search of its own


def test_a_file_of_a_million_names_makes_a_short_sentence():
    said = near("x" * 10**6, [f"{n:06d}{'y' * 300 if n % 2 else ''}" for n in range(10**5)])
    assert len(said) < 10 * MOST_KNOWN and said.endswith(f"and {10**5 - MOST_KNOWN} more")


# ---- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2**63, LONGEST_HEADER + 1, 0])
def test_absurd_headers_are_refused_before_they_are_read(tmp_path, length):
    (tmp_path / "t").write_bytes(struct.pack("<Q", length) + b"{}" + bytes(100))
    with pytest.raises(InputError, match="no valid header"):
        load_tensors(Place.at(tmp_path / "t"))


def test_a_file_of_another_size_than_recorded_is_not_read(tmp_path):
    place = Place.at(tmp_path / "t")
    size = save_tensors(place, {"x": torch.ones(3)})
    assert set(load_tensors(place, size=size)) == {"x"}
    for other in (size - 1, size + 1):
        with pytest.raises(InputError, match="altered or cut short"):
            load_tensors(place, size=other)


def test_a_checkpoint_without_its_seal_is_refused(tmp_path):
    kept = Checkpoints(Place.at(tmp_path))
    kept.finish("a", {"x": torch.ones(3)}, {"n": 1})
    file = tmp_path / "a.done.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"seal"', b'"meal"'))
    with pytest.raises(InputError, match="altered or cut short"):
        kept.result("a")


@pytest.mark.parametrize("step", ["-1", "1e3", "x", "9" * 19, "\u0663x"])
def test_a_checkpoint_at_no_step_is_refused(tmp_path, step):
    save_tensors(
        Place.at(tmp_path / "a.safetensors"), {}, {"step": step, "state": '{"dict": {}}', "task": "a"}, sealed=True
    )
    with pytest.raises(InputError, match=r"does not fit this run.*remove the file"):
        Checkpoints(Place.at(tmp_path)).load("a", {})


# ---- artifacts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../x", "/x", "C:\\x", "C:x", "a\\b", "a\0b", "http://h/x", "..", "", "a\x1b[2Jb", "a\nb"]
)
def test_an_artifact_lists_files_of_its_own_folder_only(whole, name):
    folder = change(whole("artifact, hard"), lambda m: m["files"].update({name: {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(InputError, match="which is no file of its folder"):
        load_artifact(folder)


@pytest.mark.parametrize("name", ["manifest.json", "images.safetensors", "README.md"])
def test_links_out_of_an_artifact_are_refused_and_others_followed(whole, tmp_path, name):
    folder = whole("artifact, hard")
    (folder / name).rename(folder / "real")
    (folder / name).symlink_to("real")
    assert len(load_artifact(folder)) == 6
    (folder / "real").rename(tmp_path / "outside")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=f"{name} is a link that leads out of its artifact"):
        load_either(folder)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(whole):
    import os

    folder = whole("artifact, hard")
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    found = fuzz.outcome(lambda: load_either(folder), seconds=5)
    assert found.what == fuzz.REFUSED and "no regular file" in found.why


def test_an_artifact_in_a_folder_that_is_a_link_is_read(whole, tmp_path):
    (tmp_path / "link").symlink_to(whole("artifact, hard"))
    assert len(load_artifact(tmp_path / "link")) == 6


@pytest.mark.parametrize("name", ["x; rm -rf ~", "--index-url http://h x", "a b", "", 3, "git+https://h/x", "x\x1b[2J"])
def test_only_names_of_packages_are_told_to_be_installed(whole, name):
    assert provider({"distribution": name}) == ""
    folder = change(whole("artifact, hard"), lambda m: m["labels"].update(kind="other", distribution=name))
    with pytest.raises(InputError, match="upgrade ddcore-torch") as refusal:
        load_artifact(folder)
    assert "pip install" not in str(refusal.value) and provider({"distribution": "ddcore-x"}) == "ddcore-x"


@pytest.mark.parametrize(
    "url",
    ["http://a.example/w", "https://127.0.0.1/w", "https://[::1]/w", "https://localhost/w", "https://intranet/w"]
    + [
        "https://169.254.169.254/latest",
        "https://u@10.0.0.1:8/w",
        "https://x.internal/w",
        "file:///etc/passwd",
        "/etc/passwd",
    ],
)
def test_weights_are_not_asked_for_at_addresses_inside_the_own_network(monkeypatch, url):
    monkeypatch.delenv("DDCORE_WEIGHTS", raising=False)
    with fuzz.watched() as seen, pytest.raises(InputError, match="no public address"):
        Public("w", "0" * 64, 3, url).place()
    assert seen == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["provenance"].update(relabelled=[{"was": "hard"}]),
        lambda m: m["provenance"].update(relabelled="soft"),
        lambda m: m["provenance"].update(config=[1]),
        lambda m: m["provenance"].update(papers=None),
        lambda m: m["provenance"].update(plugins=[{}]),
        lambda m: m["provenance"].update(options={"pull": 3}),
        lambda m: m["bytes"].update(total="many"),
    ],
)
def test_a_provenance_that_commands_would_stumble_over_is_refused(whole, capsys, edit):
    assert invoke(["inspect", str(change(whole("artifact, hard"), edit))]) == 2
    assert "is damaged" in capsys.readouterr().err


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda r: r.pop("plugins"), "it has no plugins"),
        (lambda r: r.update(config=3), "it has no config"),
        (lambda r: r["plugins"].append({"name": "x"}), "which plugins it had"),
        (lambda r: r["plugins"][0].update(path=3), "a plugin at no path"),
        (lambda r: r["options"].update(other={}), "not those of its plugins"),
        (lambda r: r["data"].pop("fingerprint"), "which data it had"),
        (lambda r: r.update(artifact=[]), "no address"),
        (lambda r: r.update(withheld=[3]), "what it withholds"),
        (lambda r: r.update(train={"other": 1}), "is damaged"),
        (lambda r: r.update(train={"per_class": "x"}), "is damaged"),
        (lambda r: r.update(schema=10**9), "upgrade ddcore-torch"),
    ],
)
def test_a_damaged_record_is_refused(whole, edit, why):
    file = whole("run.json") / "run" / "run.json"
    record = json.loads(file.read_text())
    edit(record)
    file.write_text(json.dumps(signed(record)))
    threads = torch.get_num_threads()
    with pytest.raises(DdcoreError, match=why):
        open_run(str(file.parent))
    torch.set_num_threads(threads)


# ---- data ------------------------------------------------------------------------------------------------------------


def test_class_names_that_are_no_unicode_are_refused():
    split = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"'a\\\\udcff' has a name that is no Unicode"):
        Source(name="x", train=split, test=split, classes=("a\udcff", "b"))


def test_pipes_in_a_data_folder_are_refused_and_links_followed(whole, tmp_path):
    import os

    folder = whole("folder")
    (folder / "train" / "a" / "link.png").symlink_to(next((folder / "test" / "a").iterdir()))
    assert len(open_source(f"folder:{folder}").train) == 13
    os.mkfifo(folder / "train" / "a" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png is no regular file"):
        open_source(f"folder:{folder}")


def test_fewer_pictures_than_promised_are_refused():
    picture = fuzz.encoded(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="the last of 2 pictures where 3 are due"):
        stack([picture] * 2, 3, lambda at: f"picture {at}")


def test_large_pictures_are_decoded_a_few_ahead():
    taken = []

    def pictures():
        for at in range(60):
            taken.append(at)
            yield noise

    noise = fuzz.encoded(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    assert len(noise) > 16_384 > AHEAD
    assert stack(pictures(), 60, str).shape == (60, 3, 90, 90) and len(taken) == 60
    odd = [noise, fuzz.encoded(np.zeros((8, 8, 3), np.uint8)), *[noise] * 30]
    with pytest.raises(InputError, match="1 is 8x8 pixels"):
        stack(odd, 32, str)


def test_a_picture_of_too_many_pixels_is_not_decoded():
    with pytest.raises(OSError, match="81,000,000 pixels"):
        decode(bombs.png(9000, 9000))


def test_test_labels_outside_the_classes_are_refused(tmp_path):
    rows = [fuzz.encoded(picture) for picture in fuzz.pictures()[0]]
    import pyarrow
    import pyarrow.parquet

    for part, labels, names in (("train", [0, 1] * 6, ["a", "b"]), ("test", [0, 7] * 6, ["b", "a"])):
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = pyarrow.table({"image": rows, "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pyarrow.parquet.write_table(table, tmp_path / f"{part}.parquet")
    with pytest.raises(InputError, match="labels of none of its classes"):
        open_source(f"parquet:{tmp_path}")


# ---- what a terminal sees --------------------------------------------------------------------------------------------

NAME = "\x1b[2J\x9b31m\u202ecat\r\n\x07"


def test_commands_to_a_terminal_are_shown_as_escapes():
    assert printable("a\x1b\x9b\u202e\udcffb\nc") == "a\\x1b\\x9b\\u202e\\udcffb\nc"
    assert printable_line("a\nb\t" + "c" * 5000).startswith("a\\x0ab\\x09ccc")
    assert json.loads(printable_json(json.dumps({"a": NAME}, ensure_ascii=False))) == {"a": NAME}
    assert printable("é 漢字 ± –") == "é 漢字 ± –"


def raw(text):
    return set(text) & set("\x1b\x9b\u202e\r\x07")


def test_class_names_reach_no_terminal_as_commands(whole, capsys):
    folder = change(whole("artifact, hard"), lambda m: m.update(classes=[NAME, "b", "c"]))
    assert invoke(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[2J\\x9b31m\\u202ecat\\x0d\\x0a\\x07" in out and not raw(out)
    assert invoke(["inspect", str(folder), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["classes"][0] == NAME and not raw(out)


def test_names_of_files_and_folders_reach_no_terminal_as_commands(tmp_path, capsys):
    for part in ("train", "test"):
        for grey, name in enumerate(("\x1b[2Jcat", "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.png").write_bytes(fuzz.encoded(np.full((8, 8), grey, np.uint8)))
    assert invoke(["data", "show", f"folder:{tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[2Jcat" in out and not raw(out)
    (tmp_path / "train" / "\x1b[2Jcat" / "\udcff\n2.png").write_bytes(b"x")
    assert invoke(["data", "show", f"folder:{tmp_path}", "--json"]) == 2
    found = capsys.readouterr()
    assert "\\udcff\\x0a2.png cannot be decoded" in found.err and not raw(found.err + found.out)
    assert len(found.err.splitlines()) == 1


def test_a_plugin_file_that_is_another_one_is_refused_before_it_runs(tmp_path):
    from ddcore.composing.discovery import load_path
    from ddcore.errors import PluginError

    (tmp_path / "mine.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(PluginError, match="another one than the run was begun with"):
        load_path(str(tmp_path / "mine.py"), "0" * 64)


# ---- numbers and names beyond all bounds -----------------------------------------------------------------------------


def invoked(words, capsys):
    """What the command line says to these words: one sentence."""
    threads = torch.get_num_threads()
    try:
        assert invoke(words) == 2
    finally:
        torch.set_num_threads(threads)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


SHORT_RUN = (
    "run --plugin pull --steps 1 --network convnet2-w4 --protocol quick-1 --preset none --threads 1 --labels hard"
)


@pytest.mark.parametrize("option", ["--resize", "--jobs", "--threads"])
def test_absurd_numbers_are_refused(option, capsys, tmp_path):
    words = [*SHORT_RUN.split(), "--out", str(tmp_path / "run"), option, str(10**9)]
    assert f"{option} " in invoked(words, capsys) and not (tmp_path / "run").exists()


def test_images_that_no_memory_holds_are_refused_before_they_are_made(capsys, tmp_path):
    words = [*SHORT_RUN.split(), "--out", str(tmp_path / "run"), "--resize", "16384"]
    assert "do not fit the memory" in invoked(words, capsys)
    with pytest.raises(InputError, match="do not fit the memory"):
        stack([bombs.png(4, 4, true=True)] * 3, 10**7, str, resize=Resize(8192))


def test_a_bench_of_a_billion_jobs_is_refused(capsys, tmp_path):
    assert "--jobs" in invoked(["bench", str(tmp_path / "s.toml"), "--jobs", str(10**9)], capsys)


@pytest.mark.parametrize(
    "option",
    [
        *("--out", "--cache", "--data-root", "--dataset", "--init", "--network", "--split", "--labels", "--executor"),
        *("--config", "--plugin-path", "--plugin", "--preset", "--protocol", "--baseline", "--eval-network", "--bytes"),
    ],
)
def test_no_option_takes_a_nul(option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "\0" not in invoked([*SHORT_RUN.split(), option, "a\0b"], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        *(["resume"], ["evaluate"], ["inspect"], ["report"], ["relabel", "--labels", "hard"], ["reproduce"], ["bench"]),
        *(["compare", "x"], ["export", "--to", "folder", "--out", "x"], ["train", "--data"], ["data", "show"]),
    ],
)
def test_no_command_takes_a_nul(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "\0" not in invoked([*words, "a\0b"], capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("count", "sentence"), [(10**7, "it holds more than 1,000,000 values"), (1001, "1,001 notes")])
def test_a_manifest_of_notes_without_end_is_refused(whole, count, sentence, capsys):
    file = whole("artifact, hard") / "manifest.json"
    text = json.dumps(json.loads(file.read_text()) | {"notes": ["NOTE"]})
    file.write_text(text.replace('"NOTE"', ",".join(['""'] * count)))
    assert sentence in invoked(["inspect", str(file.parent)], capsys)


def test_a_document_of_many_empty_tables_is_refused():
    for text in ("[" + "[]," * 10**6 + "0]", '{"a":[' + "{}," * 10**6 + "0]}", b"[" + b"0," * 10**6 + b"0]"):
        with pytest.raises(ValueError, match="more than 1,000,000 values"):
            parse_json(text)
