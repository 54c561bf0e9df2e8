"""``ddcore relabel``: other labels, the same images; what was done to what is in the manifest."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
from torch.utils.data import DataLoader

from ddcore.cli.app import invoke
from ddcore.composing.recipes import OF_VIEWS, RULES
from ddcore.data.normalisation import MeanStd
from ddcore.errors import InputError
from ddcore.images.views import changed
from ddcore.labels import HardLabels, SoftLabels, StaticMixedLabels, label_bytes, mean_logits
from ddcore.sets.artifact import Artifact, load_artifact, relabelled, save_artifact
from ddcore.sets.exports import describe
from ddcore.storage import places as storage
from ddcore.storage.places import sha256_of

SMALL = ["--network", "convnet2-w8", "--preset", "none", "--threads", "1", "--ipc", "2", "--steps", "1"]
pytestmark = pytest.mark.usefixtures("probes")
RUN = ["run", "--plugin", "pull", *SMALL, "--eval-seeds", "1", "--protocol", "quick-2"]
TEACHERS = ["--teachers.epochs", "2", "--teachers.no-check"]
VIEWS = ["--views.epochs", "3", "--views.batch", "8"]
N, K, E, B = 20, 10, 3, 8


@pytest.fixture(scope="module", autouse=True)
def no_cache_of_the_environment():
    """``DDCORE_CACHE`` counts more than the run's own cache for ``relabel``."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("DDCORE_CACHE", raising=False)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, probes) -> Path:
    """A run with hard labels, stored in uint8, and its cache."""
    folder = tmp_path_factory.mktemp("relabel")
    words = ["--full-epochs", "1", "--storage-dtype", "uint8", "--seed", "3", "--cache", str(folder / "cache")]
    assert invoke([*RUN, *words, "--out", str(folder / "run")]) == 0
    return folder


def relabel(finished: Path, out: object, rule: str, *words: str, of: object = None) -> int:
    source = str(of or finished / "run" / "artifact")
    given = [*TEACHERS, *VIEWS] if rule in RULES else []
    return invoke(["relabel", source, "--labels", rule, *given, "--out", str(out), *words])


@pytest.mark.parametrize("rule", ["hard", *RULES])
def test_images_stay_bit_for_bit_and_labels_cost_their_formula(finished, tmp_path, rule):
    assert relabel(finished, tmp_path / "new", rule) == 0
    old, new = (load_artifact(p) for p in (finished / "run" / "artifact", tmp_path / "new"))
    assert (new.place / "images.safetensors").read_bytes() == (old.place / "images.safetensors").read_bytes()
    same = ("decoder", "normalisation", "classes", "shape", "storage_dtype", "value_range", "source", "notes", "schema")
    assert all(new.manifest[name] == old.manifest[name] for name in same) and not new.altered()
    assert torch.equal(new.images(), old.images())
    k = {"k": 2} if rule == "top-k" else {}
    epochs = {"epochs": E, "batch": B, "seeded": True} if rule in OF_VIEWS else {}
    header = int.from_bytes((new.place / "labels.safetensors").read_bytes()[:8], "little") + 8
    assert new.nbytes["labels"] - header == new.labels.payload_bytes == label_bytes(rule, N, K, **epochs, **k)


def test_the_provenance_says_what_was_done_to_what_and_keeps_what_was_there(finished, tmp_path):
    assert relabel(finished, tmp_path / "new", "per-view") == 0
    source = finished / "run" / "artifact"
    old, new = (load_artifact(p).manifest["provenance"] for p in (source, tmp_path / "new"))
    (done,) = new.pop("relabelled")
    assert new == old
    assert done["manifest_sha256"] == sha256_of((source / "manifest.json").read_bytes())
    assert (done["labels"], done["was"], done["seed"]) == ("per-view", "hard", 3)
    assert done["options"]["views"]["epochs"] == E and done["options"]["teachers"]["epochs"] == 2
    assert done["options"]["pull"] == old["options"]["pull"] and done["config"]["dataset"] == "digits"
    recipe = load_artifact(tmp_path / "new").manifest["recipe"]
    assert recipe["protocol"] == "views-small" and recipe["labels"]["loss"] == "kl" and recipe["batch"] == B


def test_the_same_relabelling_writes_the_same_files(finished, tmp_path):
    for name in "ab":
        assert relabel(finished, tmp_path / name, "per-view") == 0
    for file in (tmp_path / "a").iterdir():
        if file.name != "manifest.json":
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_labels_are_of_the_stored_images_and_by_the_runs_teachers(finished, tmp_path):
    assert relabel(finished, tmp_path / "new", "averaged", "--teachers.networks", "convnet2-bn-w4") == 0
    artifact = load_artifact(tmp_path / "new")
    (weights,) = [p for p in (finished / "cache" / "teachers").glob("*/recipe.json") if "bn-w4" in p.read_text()]
    from ddcore.networks.zoo import build

    teacher = build("convnet2-bn-w4", 1, 8, K, torch.Generator()).eval()
    teacher.load_state_dict(storage.load_tensors(storage.Place.at(weights.parent / "weights.safetensors")))
    torch.testing.assert_close(artifact.labels.logits, mean_logits(artifact.images(), teacher), rtol=1e-4, atol=1e-4)
    assert json.loads(weights.read_text())["seed"] == 3


def test_a_run_labels_the_images_it_stores_not_those_it_learned(finished, tmp_path):
    cache = ["--cache", str(finished / "cache")]
    words = ["--labels", "averaged", *TEACHERS, "--storage-dtype", "uint8", "--full-epochs", "1", "--seed", "3", *cache]
    assert invoke([*RUN, *words, "--out", str(tmp_path / "run")]) == 0
    assert relabel(finished, tmp_path / "new", "averaged", of=tmp_path / "run" / "artifact") == 0
    made, again = (load_artifact(p).labels for p in (tmp_path / "run" / "artifact", tmp_path / "new"))
    assert torch.equal(made.logits, again.logits)


def test_evaluate_works_on_the_result_and_labels_random_images_by_the_same_rule(finished, tmp_path, capsys):
    assert relabel(finished, tmp_path / "new", "two-distances") == 0
    capsys.readouterr()
    words = ["--eval-seeds", "1", "--protocol", "views-small-3", "--full-epochs", "1", "--json"]
    words += ["--cache", str(finished / "cache"), "--threads", "1"]
    assert invoke(["evaluate", str(tmp_path / "new"), *words]) == 0
    rows = {(r["set"], r["labels"]): r for r in json.loads(capsys.readouterr().out)["rows"]}
    ours, random = rows["distilled", "two-distances"], rows["random", "two-distances"]
    assert ours["steps"] == random["steps"] == 3 * 3
    assert random["bytes"]["labels"] == label_bytes("two-distances", N, K, E, B, seeded=True)
    assert random["note"] == "labelled by the rule 'two-distances'"
    assert len(list((finished / "cache" / "teachers").iterdir())) <= 2  # the set's own teachers label them


def test_hard_labels_throw_soft_ones_away_and_go_back_to_the_same_bytes(finished, tmp_path, capsys):
    assert relabel(finished, tmp_path / "soft", "per-view") == 0
    assert relabel(finished, tmp_path / "hard", "hard", of=tmp_path / "soft") == 0
    old, new = (load_artifact(p) for p in (finished / "run" / "artifact", tmp_path / "hard"))
    assert type(new.labels) is HardLabels and new.nbytes == old.nbytes
    assert (new.place / "labels.safetensors").read_bytes() == (old.place / "labels.safetensors").read_bytes()
    history = new.manifest["provenance"]["relabelled"]
    assert [done["labels"] for done in history] == ["per-view", "hard"]
    assert "hard to per-view, per-view to hard" in describe(new)
    capsys.readouterr()
    assert (
        invoke(
            [
                "evaluate",
                str(tmp_path / "hard"),
                "--eval-seeds",
                "1",
                "--full-epochs",
                "1",
                "--protocol",
                "quick-1",
                "--json",
            ]
        )
        == 0
    )
    assert {r["labels"] for r in json.loads(capsys.readouterr().out)["rows"]} == {"hard"}


def test_a_url_is_relabelled_to_a_url(finished, capsys):
    fs = fsspec.filesystem("memory")
    fs.put(str(finished / "run" / "artifact"), "/relabel/old", recursive=True)
    try:
        assert relabel(finished, "memory://relabel/new", "static-mixed", "--json", of="memory://relabel/old") == 0
        said = json.loads(capsys.readouterr().out)
        assert said["labels"] == "static-mixed" and said["artifact"].endswith("relabel/new")
        artifact = load_artifact("memory://relabel/new")
        assert type(artifact.labels) is StaticMixedLabels and said["bytes"] == artifact.nbytes
    finally:
        fs.rm("/relabel", recursive=True)


def test_options_that_only_matter_while_distilling_are_not_there(capsys):
    assert invoke(["relabel", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--dataset" in text and "--ipc" not in text and "--eval-seeds" not in text
    assert invoke(["relabel", "--labels", "per-view", "--help"]) == 0
    assert "--views.epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "{new}"], "was not told which labels to make: give --labels, one of hard, averaged, per-view"),
        (
            ["--labels", "per-veiw", "--out", "{new}"],
            "--labels 'per-veiw' is offered by none of the selected plugins: did",
        ),
        (["--labels", "hard"], "was not told where: give --out FOLDER"),
        (["--labels", "hard", "--out", "{run}"], "holds another run"),
        (["--labels", "hard", "--out", "{old}"], "is not empty and holds no run"),
        (["--labels", "hard", "--out", "{new}", "--dataset", "no"], "no data set is named 'no'"),
        (["--labels", "hard", "--out", "{new}", "--resize", "12"], "has images of 1x8x8, and the data"),
        (["--labels", "hard", "--out", "{new}", "--views.k", "2"], "give --labels averaged"),
        (["--labels", "per-view", "--out", "{new}", "--plugin", "no-such"], "no-such"),
        (["--labels", "top-k", "--out", "{new}", "--views.k", "11", *TEACHERS], "keep 11 of 10 classes"),
    ],
)
def test_what_cannot_be_relabelled_is_refused_in_one_sentence(finished, tmp_path, capsys, words, said):
    old = finished / "run" / "artifact"
    places = {"{new}": str(tmp_path / "new"), "{run}": str(finished / "run"), "{old}": str(old)}
    assert invoke(["relabel", str(old), *(places.get(word, word) for word in words)]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in error and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "said"), [("", "is no artifact but the run that made one"), ("no", "there is nothing")]
)
def test_what_is_no_artifact_is_refused(finished, tmp_path, capsys, name, said):
    assert relabel(finished, tmp_path / "new", "hard", of=finished / "run" / name) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_artifact_is_refused_before_anything_is_written(finished, tmp_path, capsys):
    shutil.copytree(finished / "run" / "artifact", tmp_path / "old")
    images = tmp_path / "old" / "images.safetensors"
    images.write_bytes(images.read_bytes()[:-1] + b"x")
    assert relabel(finished, tmp_path / "new", "hard", of=tmp_path / "old") == 2
    assert "altered or cut short" in capsys.readouterr().err and not (tmp_path / "new").exists()


# ---- an artifact of other hands --------------------------------------------------------------------------------------


def bare(place) -> Artifact:
    pixels = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-0.5, 0.5)
    return save_artifact(
        place,
        tensors={"pixels": pixels},
        decoder=[{"op": "rows", "tensor": "pixels"}],
        labels=HardLabels(torch.arange(N) % K, K),
        classes=tuple(map(str, range(K))),
        normalisation=MeanStd((0.5,), (0.5,)),
        recipe={},
        provenance={},
        source={},
    )


def test_an_artifact_that_names_no_run_is_relabelled_by_what_is_given(finished, tmp_path):
    bare(tmp_path / "old")
    cache = ["--cache", str(finished / "cache"), "--network", "convnet2-w8", "--threads", "1"]
    assert relabel(finished, tmp_path / "new", "averaged", "--dataset", "digits", *cache, of=tmp_path / "old") == 0
    assert type(load_artifact(tmp_path / "new").labels) is SoftLabels


def test_teachers_see_images_as_they_know_them_whatever_the_set_is_normalised_by(finished, tmp_path):
    old = bare(tmp_path / "old")
    cache = ["--dataset", "digits", "--cache", str(finished / "cache"), "--network", "convnet2-w8", "--threads", "1"]
    normal = load_artifact(finished / "run" / "artifact").normalisation
    twin = {"pixels": normal.apply(old.normalisation.inverse(old.images()))}
    contents = {name: old.manifest[name] for name in ("decoder", "classes", "recipe", "provenance", "source")}
    save_artifact(tmp_path / "twin", tensors=twin, labels=old.labels, normalisation=normal, **contents)
    for name in ("old", "twin"):
        assert relabel(finished, tmp_path / f"{name}-new", "averaged", *cache, of=tmp_path / name) == 0
    ours, theirs = (load_artifact(tmp_path / f"{name}-new").labels.logits for name in ("old", "twin"))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_labels_of_other_samples_are_refused(tmp_path):
    with pytest.raises(InputError, match="20 samples were given 3 labels"):
        relabelled(bare(tmp_path / "old"), tmp_path / "new", HardLabels(torch.arange(3), K), recipe={}, provenance={})


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def viewed(finished, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("viewed") / "new"
    assert relabel(finished, place, "per-view", "--views.no-seeded") == 0
    return place


@pytest.mark.parametrize("workers", [0, 2])
def test_an_ordinary_data_loader_with_workers_delivers_the_views_and_their_labels(viewed, workers):
    artifact = load_artifact(viewed)
    own = list(artifact.loader(epochs=4))
    got = list(DataLoader(artifact.batches(epochs=4), batch_size=None, num_workers=workers))
    assert len(own) == len(got) == 4 * 3
    for (x, told), (y, same), number in zip(own, got, range(12), strict=True):
        view = artifact.labels.record.view(number % 9)
        assert torch.equal(x, y) and torch.equal(told, same)
        assert torch.equal(x, changed(view, artifact.images(view.index)))
        torch.testing.assert_close(told, (artifact.labels.logits[view.rows].float() / 30).softmax(1))


def test_batches_are_shared_out_by_number(viewed, finished):
    for place in (viewed, finished / "run" / "artifact"):
        artifact = load_artifact(place)
        batches, whole = (make(batch_size=8, seed=2, epochs=3) for make in (artifact.batches, artifact.loader))
        whole = list(whole)
        halves = [list(DataLoader(batches, batch_size=None, sampler=range(rank, 9, 2))) for rank in (0, 1)]
        for number, (x, told) in enumerate(whole):
            y, same = halves[number % 2][number // 2]
            assert torch.equal(x, y) and torch.equal(told, same)
        assert torch.equal(batches[-1][0], whole[-1][0])
        with pytest.raises(IndexError, match="batch 9 of 9"):
            batches[9]


def test_large_labels_stay_in_their_file_and_are_checked_all_the_same(viewed, tmp_path, monkeypatch):
    whole = load_artifact(viewed)
    monkeypatch.setattr(storage, "MAPPED_FROM", 1)
    monkeypatch.setattr(storage.Place, "read_bytes", refuse_tensors(storage.Place.read_bytes))
    lazy = load_artifact(viewed)
    for (x, told), (y, same) in zip(whole.loader(epochs=2), lazy.loader(epochs=2), strict=True):
        assert torch.equal(x, y) and torch.equal(told, same)
    shutil.copytree(viewed, tmp_path / "copy")
    file = tmp_path / "copy" / "labels.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="altered or cut short"):
        load_artifact(tmp_path / "copy")


def refuse_tensors(read):
    def only_small(place, *part):
        assert part or not place.name.endswith(".safetensors"), "a large file was read whole"
        return read(place, *part)

    return only_small
