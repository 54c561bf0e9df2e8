"""Sets and run folders of other people: they are data. Nothing in them says what is read, written, asked or imported here."""

import json
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch
from reliability.fuzz import hostile
from reliability.guard import Listener, guarded

import ddcore.commands.taken
import ddcore.commands.train
from ddcore.cli.app import invoke
from ddcore.commands.bench import _opened
from ddcore.composing.selection import select, setup_from
from ddcore.data.normalisation import MeanStd
from ddcore.data.sources import open_source
from ddcore.errors import InputError
from ddcore.labels import HardLabels, SoftLabels
from ddcore.sets.artifact import load_artifact, save_artifact
from ddcore.storage import known_data, ownership
from ddcore.storage.documents import parse_json
from ddcore.storage.ownership import KEY, is_own, key_file, signed
from ddcore.storage.places import Place
from ddcore.storage.published import published

CANARY = """
    import pathlib
    from attrs import frozen
    from ddcore import Plugin, hookimpl, option
    pathlib.Path({marker!r}).touch()

    @frozen(kw_only=True, eq=False)
    class X(Plugin):
        role = "student"
        summary = "leaves a mark when it is imported"
        weight: float = option(0.1, help="nothing")

        @hookimpl
        def ddcore_student_loss(self, output):
            return None
"""
SCORES = ["--protocol=quick-1", "--eval-seeds=1", "--full-epochs=1", "--threads=1"]


@pytest.fixture
def canary(site, tmp_path):
    """An installed plugin that leaves a file when it is imported: the file."""
    marker = tmp_path / "imported"
    site.put("canary", dedent(CANARY).format(marker=str(marker)))
    return marker


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of this user's, with nothing in it."""
    for name in ("home", "cache", "work"):
        (tmp_path / name).mkdir()
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("DDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def listener():
    """A server that nobody may ask."""
    made = Listener()
    yield made
    made.close()


@lru_cache
def digits():
    """The embedded data, read once."""
    return open_source("digits")


def record(**config):
    """What a run says of itself, as its maker's manifest holds it."""
    setup = setup_from(select(["--labels", "averaged"], {}), {"labels": "averaged"}, {})
    made = setup.as_json()
    return {**made, "config": {**made["config"], "network": "convnet2-w4", "seed": 3, **config}, "method": "canary"}


def artifact(place, provenance, *, soft=True, source=None, recipe=None) -> Path:
    """Two noisy images a class, "distilled" from the digits or from data that are not here."""
    classes = torch.arange(20) % 10
    pixels = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-0.5, 0.5)
    logits = torch.nn.functional.one_hot(classes, 10).float()
    save_artifact(
        place,
        tensors={"pixels": pixels},
        decoder=[{"op": "rows", "tensor": "pixels"}],
        labels=SoftLabels(logits, classes) if soft else HardLabels(classes, 10),
        classes=digits().classes,
        normalisation=MeanStd((0.5,), (0.5,)),
        recipe={"protocol": "quick-1"} if recipe is None else recipe,
        provenance={},
        source=digits().summary() if source is None else source,
    )
    edit(place, lambda m: m.update(provenance=provenance))
    return Path(place)


def edit(place, change):
    file = Path(place) / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    sys.set_int_max_str_digits(0)
    try:
        file.write_text(json.dumps(manifest))
    finally:
        sys.set_int_max_str_digits(4300)


@pytest.fixture
def unscored(monkeypatch):
    """``evaluate`` and ``train`` up to where work begins: the runs that they would do."""
    runs = []
    monkeypatch.setattr("ddcore.commands.evaluating.evaluate_on", lambda run, *_: runs.append(run) or [])
    monkeypatch.setattr("ddcore.cli.app._train", lambda run, *_: runs.append(run))
    return runs


def quiet(home, listener, seen):
    """Nothing was asked, begun, or written where it has no business."""
    assert listener.requests == [] and seen == [] and list(home.iterdir()) == []


# ---- the attacks -----------------------------------------------------------------------------------------------------

PLACES = ["{url}/cache", "{home}/victim", "memory://victim", "simplecache::{url}/x", "~/victim"]


@pytest.mark.parametrize("where", PLACES)
def test_caches_and_folders_of_a_manifest_are_not_used(where, home, listener, tmp_path, unscored):
    place = where.format(url=listener.url, home=home)
    made = artifact(
        tmp_path / "set", record(cache=place, out=place, data_root=place, threads=7, jobs=5, executor="ray")
    )
    with guarded([tmp_path / "cache", tmp_path / "work", Path(tempfile.gettempdir())]) as seen:
        assert invoke(["evaluate", str(made)]) == 0
    (run,) = unscored
    config = run.config
    assert (run.cache.address, config.data_root, config.threads) == (str(tmp_path / "cache"), None, 2)
    assert (config.jobs, config.executor, config.seed, config.network) == (1, "here", 3, "convnet2-w4")
    quiet(home, listener, seen)


def test_two_jobs_send_the_data_nowhere(home, listener, tmp_path):
    made = artifact(tmp_path / "set", record(cache=f"{listener.url}/cache"), soft=False)
    assert invoke(["evaluate", str(made), *SCORES, "--jobs=2"]) == 0
    quiet(home, listener, [])
    assert (tmp_path / "cache" / "decoded").is_dir()


DATA = ["parquet:{url}/train.parquet", "npz:{url}/d.npz", "npz:simplecache::{url}/d.npz", "folder:reference://{url}"]
DATA += ["parquet:{home}/private.parquet", "npz:filecache::{url}/d.npz", "hf:org/set", "idx:/etc", "canary:{url}"]


@pytest.mark.parametrize("words", DATA)
@pytest.mark.parametrize("command", ["evaluate", "relabel", "train"])
def test_data_that_a_manifest_names_are_not_opened(command, words, home, listener, tmp_path, capsys):
    named = words.format(url=listener.url, home=home)
    made = artifact(tmp_path / "set", record(dataset=named), source={"fingerprint": "0" * 64, "name": "theirs"})
    lines = {"evaluate": ["evaluate", str(made)], "relabel": ["relabel", str(made), "--labels=hard", "--out=new"]}
    lines["train"] = ["train", f"--data={made}", "--student=convnet2-w4"]
    with guarded([tmp_path / "cache"]) as seen:
        assert invoke(lines[command]) == 2
    said = capsys.readouterr().err
    assert "give --dataset" in said and named.partition("://")[0] in said and len(said.splitlines()) == 1
    quiet(home, listener, seen)


@pytest.mark.parametrize("weights", ["{url}/w.safetensors", "{home}/w.pt", "IMAGENET1K_V1", "simplecache::{url}/w.pt"])
def test_weights_that_a_manifest_names_are_not_loaded(weights, home, listener, tmp_path, capsys, unscored):
    named, said = weights.format(url=listener.url, home=home), record()
    said["options"]["teachers"] |= {"networks": ["resnet18"], "weights": [named]}
    made = artifact(tmp_path / "set", said)
    with guarded([tmp_path / "cache", tmp_path / "work", Path(tempfile.gettempdir())]) as seen:
        assert invoke(["evaluate", str(made)]) == 0
        assert invoke(["relabel", str(made), "--labels=averaged", "--out=new"]) == 2
    assert unscored[0].labeller == "hard"
    said = capsys.readouterr().err
    assert "was labelled by teachers with weights" in said and "give --teachers.weights" in said
    quiet(home, listener, seen)


def test_plugins_that_a_manifest_names_are_not_imported_but_with_trust(canary, home, tmp_path, unscored, capsys):
    named = [{"name": "canary", "request": "canary"}, {"name": "x", "path": str(tmp_path / "evil.py")}]
    made = artifact(tmp_path / "set", {**record(), "plugins": named})
    assert invoke(["evaluate", str(made)]) == 0 and not canary.exists()
    assert "--plugin canary --plugin x would ask them" in capsys.readouterr().err
    for line in (["relabel", str(made), "--labels=hard", "--out=new"], ["inspect", str(made)]):
        assert invoke(line) == 0 and not canary.exists()
    assert invoke(["train", f"--data={made}", "--student=convnet2-w4", "--out=t"]) == 0 and not canary.exists()
    assert invoke(["evaluate", str(made), "--trust"]) == 0 and canary.exists()
    assert list(unscored[-1].plugins) == ["canary"]


def test_trust_follows_what_a_manifest_names(home, tmp_path, unscored):
    made = artifact(tmp_path / "set", record(cache=str(tmp_path / "theirs"), dataset="digits", threads=1))
    assert invoke(["evaluate", str(made), "--trust"]) == 0
    assert (unscored[0].cache.address, unscored[0].config.threads) == (str(tmp_path / "theirs"), 1)


@pytest.mark.parametrize(
    "asked", ["quick-" + "9" * 5000, "quick-999999999999", "no-such", ["quick"], None, "-".join("1" * 99)]
)
def test_a_recipe_of_no_known_protocol_is_one_sentence(asked, home, tmp_path, capsys):
    made = artifact(tmp_path / "set", record(), recipe={"protocol": asked})
    assert invoke(["evaluate", str(made)]) == 2
    assert "which neither ddcore nor a selected plugin has: give --protocol" in capsys.readouterr().err


def test_a_protocol_of_a_plugin_that_is_not_selected_imports_nothing(home, tmp_path, unscored, capsys):
    made = artifact(tmp_path / "set", record(), recipe={"protocol": "mtt-2"})
    code = f"import sys\nfrom ddcore.cli.app import invoke\nassert invoke(['evaluate', {str(made)!r}]) == 2\n"
    code += "assert not [name for name in sys.modules if name.startswith('ddcore_')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "asks for the protocol 'mtt-2', which neither ddcore nor" in done.stderr, (
        done.stderr
    )
    for line in (["evaluate", str(made)], ["train", f"--data={made}", "--student=convnet2-w4", "--out=t"]):
        assert invoke(line) == 2 and not unscored
    for word in ("--plugin=mtt", "--trust", "--protocol=mtt-2"):
        assert invoke(["evaluate", str(made), word]) == 0, capsys.readouterr().err
        assert unscored.pop().config.protocol == ("mtt-2",)


# ---- a fuzz of provenance --------------------------------------------------------------------------------------------


def addresses(listener, home):
    url = listener.url
    found = [f"{url}/x", f"npz:{url}/x.npz", f"parquet:simplecache::{url}/x", f"reference://{url}", f"{home}/victim"]
    return [
        *found,
        f"file://{home}/victim",
        "~/victim",
        "canary",
        "dm",
        "/etc/passwd",
        f"zip://x::{url}/a.zip",
        "../up",
    ]


def readable(draw):
    """A hostile value; mostly one that a JSON document may hold."""
    value = hostile(draw)
    try:
        parse_json(json.dumps({"a": value}).encode())
    except ValueError:
        return value if draw.random() < 0.02 else readable(draw)
    return value


def fuzzed(draw, listener, home):
    """A provenance with hostile values, types and addresses in some of its fields."""
    places = addresses(listener, home)

    def value(depth=0):
        what = draw.random()
        if what < 0.55:
            return draw.choice(places)
        if what < 0.7 and depth < 2:
            return [value(depth + 1) for _ in range(draw.randrange(3))]
        if what < 0.75 and depth < 2:
            return {draw.choice(["dm", "teachers", "weights", "name", "path"]): value(depth + 1)}
        return readable(draw)

    made = record()
    for table in (made["config"], *made["options"].values()):
        for name in draw.sample(sorted(table), draw.randrange(1 + len(table))):
            table[name] = value()
    if draw.random() < 0.7:
        made["config"] |= {name: draw.choice(places) for name in ("cache", "out", "data_root", "dataset")}
    if draw.random() < 0.5:
        made["plugins"] = [{"name": draw.choice(places), "path": value(), "request": value(), "sha256": value()}]
    if draw.random() < 0.4:
        made["options"][draw.choice(["dm", "canary", "views"])] = {"weight": value(), "epochs": value()}
    if draw.random() < 0.4:
        made["plan"] = {"labeller": value()}
    if draw.random() < 0.3:
        made["relabelled"] = [{**made, "was": "hard", "labels": str(draw.choice(places))}]
    if draw.random() < 0.3:
        made[draw.choice(["config", "options", "plugins", "method", "papers", "seed", "withheld", "sources"])] = value()
    return made


def check_fuzz(cases, command, canary, home, listener, tmp_path, capsys):
    made, ends = artifact(tmp_path / "set", {}, soft=False), {0: 0, 2: 0}
    whole = (made / "manifest.json").read_text()
    allowed = [tmp_path / "cache", tmp_path / "work", *map(Path, (tempfile.gettempdir() + "/tmp",))]
    student = ["--student=convnet2-w4", "--out=trained"]
    lines = [["evaluate", str(made)], ["relabel", str(made), "--labels=hard", "--out=new"]]
    lines += [
        ["train", f"--data={made}", *student],
        ["inspect", str(made)],
        ["export", str(made), "--to=pt", "--out=pt"],
    ]
    for case in cases:
        draw = random.Random(case)
        (made / "manifest.json").write_text(whole)
        found = fuzzed(draw, listener, home)
        unknown = draw.random() < 0.2
        asked = "quick-1" if draw.random() < 0.8 else draw.choice(["auto", *addresses(listener, home)])
        source = {"fingerprint": draw.choice(["0" * 64, "../../x", 3])} if unknown else digits().summary()
        edit(made, lambda m: m.update(provenance=found, recipe={"protocol": asked}, source=source))  # noqa: B023
        for line in [lines[case % len(lines) if command is None else command]]:
            for left in ("new", "trained", "pt"):
                shutil.rmtree(tmp_path / "work" / left, ignore_errors=True)
            with guarded(allowed) as seen:
                ends[invoke(line)] += 1
            capsys.readouterr()
            assert not canary.exists() and not listener.requests and not seen and not list(home.iterdir()), (case, line)
    assert ends[0] > len(cases) // 5


@pytest.fixture
def read_once(monkeypatch):
    """The embedded data are read once: a thousand manifests ask for their fingerprint."""
    kept = lru_cache(maxsize=4)(lambda resize: open_source("digits", resize=resize))
    monkeypatch.setattr(ddcore.commands.taken, "open_source", lambda name, resize=None, **_: kept(resize))
    monkeypatch.setattr(
        "ddcore.runs.builtin.open_source", lambda name, **options: kept(options.get("resize")), raising=False
    )


def test_a_provenance_of_any_values_asks_writes_and_imports_nothing(
    canary, home, listener, tmp_path, capsys, unscored, read_once
):
    check_fuzz(range(150), None, canary, home, listener, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", range(5), ids=["evaluate", "relabel", "train", "inspect", "export"])
def test_a_thousand_provenances_in_every_command(
    command, canary, home, listener, tmp_path, capsys, unscored, read_once
):
    check_fuzz(range(1000, 2000), command, canary, home, listener, tmp_path, capsys)


# ---- one's own -------------------------------------------------------------------------------------------------------

MADE = [
    "run",
    "--plugin=dm",
    "--dm.batch-real=4",
    "--network=convnet2-w4",
    "--preset=none",
    "--steps=1",
    "--ipc=1",
    *SCORES,
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of this user's on a file of data, with a cache of its own."""
    folder = tmp_path_factory.mktemp("own")
    parts = {"train": digits().train, "test": digits().test}
    arrays = {f"x_{part}": split.stored[::2].numpy() for part, split in parts.items()}
    arrays |= {f"y_{part}": split.labels[::2].numpy() for part, split in parts.items()}
    np.savez(folder / "my digits.npz", **arrays)
    words = [f"--dataset=npz:{folder / 'my digits.npz'}", f"--cache={folder / 'cache'}", "--seed=5"]
    assert invoke([*MADE, *words, f"--out={folder / 'run'}"]) == 0
    return folder


def test_ones_own_set_takes_data_cache_and_plugins_from_the_run_around_it(finished, home, unscored, monkeypatch):
    assert invoke(["evaluate", str(finished / "run" / "artifact")]) == 0
    (run,) = unscored
    assert run.cache.address == str(finished / "cache") and run.config.dataset == f"npz:{finished / 'my digits.npz'}"
    assert (list(run.plugins), run.config.threads, run.seed) == (["dm"], 1, 5)
    monkeypatch.setenv(KEY, "another user's")
    assert invoke(["evaluate", str(finished / "run" / "artifact")]) == 2


def test_a_copy_elsewhere_finds_data_that_this_user_loaded_before(finished, home, unscored, tmp_path, capsys):
    shutil.copytree(finished / "run" / "artifact", tmp_path / "set")
    assert invoke(["evaluate", str(tmp_path / "set")]) == 2
    assert "was made from 'npz:my digits.npz', and no data of its fingerprint are known here" in capsys.readouterr().err
    cache = f"--cache={finished / 'cache'}"
    assert invoke(["evaluate", str(tmp_path / "set"), cache]) == 0
    assert unscored[0].config.dataset == f"npz:{finished / 'my digits.npz'}" and not unscored[0].plugins
    shutil.copytree(finished / "cache", tmp_path / "shared")
    (note,) = (tmp_path / "shared" / "data").iterdir()
    note.write_text(note.read_text().replace("my digits", "others"))
    assert invoke(["evaluate", str(tmp_path / "set"), f"--cache={tmp_path / 'shared'}"]) == 2


def test_what_is_handed_on_names_no_folder_of_its_maker(finished, tmp_path):
    for name in ("manifest.json", "README.md"):
        text = (finished / "run" / "artifact" / name).read_text()
        assert str(finished) not in text and str(Path.home()) + "/" not in text and "npz:my digits.npz" in text
    made = json.loads((finished / "run" / "artifact" / "manifest.json").read_text())["provenance"]["config"]
    assert not {"out", "cache", "data_root"} & set(made)
    assert json.loads((finished / "run" / "run.json").read_text())["config"]["cache"] == str(finished / "cache")
    said = {
        "config": {"dataset": "folder:data/x", "plugin_path": ["/home/me/mine.py"], "cache": "/c"},
        "options": {"teachers": {"weights": ["train", "w/a.pt", "https://h/b.pt"]}, "text": {"words": "~/words.txt"}},
        "plugins": [{"name": "mine", "path": "/home/me/mine.py", "sha256": "1"}],
        "sources": {"ipc": "file /home/me/run.toml"},
    }
    assert published(said) == {
        "config": {"dataset": "folder:x", "plugin_path": ["mine.py"]},
        "options": {"teachers": {"weights": ["train", "a.pt", "https://h/b.pt"]}, "text": {"words": "words.txt"}},
        "plugins": [{"name": "mine", "path": "mine.py", "sha256": "1"}],
        "sources": {"ipc": "file run.toml"},
    }


# ---- run folders -----------------------------------------------------------------------------------------------------


def test_a_run_of_somebody_else_is_gone_on_with_only_by_trust(canary, finished, home, tmp_path, capsys):
    shutil.copytree(finished / "run", tmp_path / "run")
    file = tmp_path / "run" / "run.json"
    assert is_own(json.loads(file.read_text()))
    evil = tmp_path / "evil.py"
    evil.write_text(dedent(CANARY).format(marker=str(canary)))
    theirs = json.loads(file.read_text())
    theirs["plugins"].append({"name": "evil", "identity": "x", "request": "x", "path": str(evil)})
    theirs["options"]["evil"] = {}
    for made in (theirs, {**theirs, "signature": "0" * 64}, {n: v for n, v in theirs.items() if n != "signature"}):
        file.write_text(json.dumps(made))
        with guarded([]) as seen:
            assert invoke(["resume", str(tmp_path / "run")]) == 2 and not canary.exists()
        assert seen == []
        said = capsys.readouterr().err
        assert "was not written by you here" in said and "--trust" in said and len(said.splitlines()) == 1
    assert invoke(["resume", str(tmp_path / "run"), "--trust"]) == 2 and canary.exists()


def test_a_run_of_a_suite_goes_on_where_its_record_says_what_the_suite_says(home, tmp_path, monkeypatch):
    tables = {"dataset": "digits", "network": "convnet2-w4", "threads": 1, "cache": str(tmp_path / "cache")}
    cell, options = Place.at(tmp_path / "cell"), {"plugins": ["dm"], "tables": tables, "data": "none"}
    _opened(cell, options)
    monkeypatch.setenv(KEY, "of another machine of this user's")
    assert list(_opened(cell, options).plugins) == ["dm"]
    made = (cell / "run.json").read_json()
    (cell / "run.json").write_json({**made, "config": {**made["config"], "cache": "memory://theirs"}})
    with pytest.raises(InputError, match="was not written by you here"):
        _opened(cell, options)


def test_a_suite_is_looked_at_without_asking_for_its_data_or_importing_other_plugins(canary, home, listener, tmp_path):
    text = f'ipc = [1]\nseeds = [0]\n[[data]]\nname = "d"\ndataset = "npz:{listener.url}/d.npz"\n'
    (tmp_path / "suite.toml").write_text(text + '[[method]]\nname = "dm"\nplugins = ["dm"]\n')
    with guarded([]) as seen:
        assert invoke(["bench", str(tmp_path / "suite.toml"), "--plan-only"]) == 0
    assert not canary.exists()
    quiet(home, listener, seen)


def test_a_suite_names_no_plugin_file_outside_its_methods(canary, home, tmp_path, capsys):
    evil = tmp_path / "evil.py"
    evil.write_text(dedent(CANARY).format(marker=str(canary)))
    text = f'ipc = [1]\nseeds = [0]\n[run]\nplugin_path = ["{evil}"]\n[[data]]\nname = "d"\ndataset = "digits"\n'
    (tmp_path / "suite.toml").write_text(text + '[[method]]\nname = "dm"\nplugins = ["dm"]\n')
    assert invoke(["bench", str(tmp_path / "suite.toml"), "--plan-only"]) == 2 and not canary.exists()
    assert "outside its methods" in capsys.readouterr().err
    text = text.replace("plugin_path", "#")
    file = text + '[[method]]\nname = "x"\nplugins = ["' + str(evil) + '"]\n'
    (tmp_path / "suite.toml").write_text(file)
    assert invoke(["bench", str(tmp_path / "suite.toml"), "--plan-only"]) == 2 and not canary.exists()
    assert "no plugin named" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["report", "{run}"], ["compare", "{run}", "{run}"], ["inspect", "{run}/artifact"]])
def test_reading_a_strangers_run_executes_and_asks_nothing(words, canary, finished, home, listener, tmp_path):
    shutil.copytree(finished / "run", tmp_path / "work" / "run")
    file = tmp_path / "work" / "run" / "run.json"
    theirs = json.loads(file.read_text())
    theirs["config"] |= {"dataset": f"npz:{listener.url}/x.npz", "cache": f"{listener.url}/c"}
    theirs["plugins"][0] |= {"path": str(tmp_path / "evil.py")}
    file.write_text(json.dumps(theirs))
    with guarded([tmp_path / "work"]) as seen:
        assert invoke([word.format(run=tmp_path / "work" / "run") for word in words]) in (0, 2)
    assert not canary.exists()
    quiet(home, listener, seen)


@pytest.mark.parametrize(
    "line",
    [["plugins"], ["data", "list"], ["inspect", "{set}"], ["export", "{set}", "--to=pt", "--out=pt"]],
    ids=" ".join,
)
def test_listing_and_reading_import_no_plugin_and_write_only_what_is_asked_for(line, canary, home, listener, tmp_path):
    made = artifact(tmp_path / "set", {**record(), "plugins": [{"name": "canary"}]})
    with guarded([tmp_path / "work"]) as seen:
        assert invoke([word.format(set=made) for word in line]) == 0
    assert not canary.exists()
    quiet(home, listener, seen)


# ---- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_is_made_at_first_use_for_its_user_alone(home, monkeypatch):
    monkeypatch.delenv(KEY)
    assert not is_own({"a": 1}) and not key_file().exists()
    made = signed({"a": 1, "b": (1, 2.5, "\u00e9")})
    assert is_own(json.loads(json.dumps(made))) and not is_own({**made, "a": 2}) and not is_own({**made, "more": 1})
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600 and key_file().parent == home / "ddcore"
    key_file().chmod(0o644)
    assert not is_own(made) and "signature" not in signed({"a": 1})
    key_file().chmod(0o600)
    key_file().write_bytes(b"")
    assert not is_own(made)


def test_a_home_that_cannot_be_written_leaves_records_unsigned(home, monkeypatch):
    monkeypatch.delenv(KEY)
    monkeypatch.setattr(ownership, "_make", lambda file: (_ for _ in ()).throw(PermissionError("read-only")))
    assert signed({"a": 1}) == {"a": 1}


def test_a_set_is_still_evaluated_by_what_its_manifest_may_say(home, tmp_path):
    made = artifact(tmp_path / "set", record(dataset="digits", normalise="none", validation=0.25))
    plain = load_artifact(made)
    source = ddcore.commands.taken.taken(plain.manifest, plain.place, trust=False)
    kept = source.config({}, len(plain))
    assert kept == {"normalise": "none", "validation": 0.25, "seed": 3, "dtype": "float32", "ipc": 1} | {
        "mirror": "auto",
        "network": "convnet2-w4",
        "labels": "averaged",
    }


def older(made, **config):
    """The record of a run of before there were ``--resize-mode`` and ``--mirror``."""
    kept = {name: value for name, value in made["config"].items() if name not in ("resize_mode", "mirror")}
    return {**made, "config": {**kept, **config}}


@pytest.mark.parametrize("trust", [False, True])
def test_a_set_of_before_means_squashed_images_and_the_symmetry_that_it_says(home, tmp_path, trust):
    made = artifact(tmp_path / "set", older(record(dataset="digits"), resize=8))
    plain = load_artifact(made)
    kept = ddcore.commands.taken.taken(plain.manifest, plain.place, trust=trust).config({}, len(plain))
    assert (kept["resize"], kept["resize_mode"], kept["mirror"]) == (8, "squash", "no")


def test_a_set_says_how_its_images_were_resized_and_whether_they_are_mirrored(home, tmp_path):
    said = {"resize": 8, "resize_mode": "pad", "mirror": "yes"}
    plain = load_artifact(artifact(tmp_path / "set", record(dataset="digits", **said)))
    kept = ddcore.commands.taken.taken(plain.manifest, plain.place, trust=False).config({}, len(plain))
    assert {name: kept[name] for name in said} == said
    given = ddcore.commands.train.of_artifact(str(tmp_path / "set"), {"dataset": "digits"}, {})
    assert {name: given[name] for name in said} == said


def test_a_note_of_before_means_squashed_images(home, tmp_path):
    cache, words = Place.at(tmp_path / "cache"), {"dataset": "folder:x", "resize": 8}
    known_data.remember(cache, "abc", words)
    assert known_data.recall(cache, "abc") == {**words, "resize_mode": "squash"}
    known_data.remember(cache, "abc", {**words, "resize_mode": "pad"})
    assert known_data.recall(cache, "abc") == {**words, "resize_mode": "pad"}
    known_data.remember(cache, "abd", {"dataset": "digits", "resize_mode": "crop"})
    assert known_data.recall(cache, "abd") == {"dataset": "digits"}
