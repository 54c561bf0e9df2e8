"""Stores in runs: teachers are asked once, students replay, artifacts give records back and stores of two seeds are merged."""

import json

import pytest
import torch
from ddcore_reinforce import ReinforcedLabels, merged

import ddcore.commands.train
from ddcore import load_artifact
from ddcore.cli.app import invoke
from ddcore.kit.contract import check_plugin, stage
from ddcore.sets.artifact import relabelled
from ddcore.storage.places import Place, load_tensors

TEACHERS = ["--teachers.networks=convnet1-bn-w4", "--teachers.epochs=1", "--teachers.no-check"]
TRAIN = [
    "train",
    "--plugin=reinforce",
    "--labels=reinforce",
    "--data=digits",
    "--student=convnet2-w4",
    "--protocol=kd-3",
]
TRAIN += ["--per-class=5", "--eval-seeds=1", "--threads=1", *TEACHERS, "--reinforce.samples=2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def student(cache, out, *words):
    assert invoke([*TRAIN, f"--cache={cache}", f"--out={out}", *words]) == 0
    return load_tensors(Place.at(out / "students" / "student-0.safetensors"))


def test_the_contract_is_kept():
    check_plugin("reinforce")


def test_every_chain_trains_and_the_same_seed_gives_the_same_bits(cache, tmp_path):
    chains = ("rrc", "rrc-mix", "rrc-ra-re", "rrc-mix-ra-re")
    made = [student(cache, tmp_path / name, f"--reinforce.chain={name}") for name in chains]
    again = student(cache, tmp_path / "again", "--reinforce.chain=rrc-mix-ra-re")
    assert all(torch.equal(tensor, again[name]) for name, tensor in made[-1].items())
    assert (
        len(
            {
                tuple(weights["head.weight"].flatten().tolist()) if "head.weight" in weights else str(weights)
                for weights in made
            }
        )
        == 4
    )
    logged = [json.loads(line) for line in (tmp_path / "rrc" / "log.jsonl").read_text().splitlines()]
    (said,) = [line for line in logged if line["event"] == "reinforce"]
    assert said["bytes"] == 50 * (1 + 8 + 2 * said["record"])


def test_check_no_teacher_is_asked_while_a_student_trains(cache, tmp_path, monkeypatch):
    asked, during = [], []
    plain = ddcore.commands.train.train_and_test

    def watched(run, *given, **named):
        handles = [
            run.teachers.network(n).register_forward_hook(lambda *_: asked.append(1)) for n in range(len(run.teachers))
        ]
        before = len(asked)
        found = plain(run, *given, **named)
        during.append(len(asked) - before)
        for handle in handles:
            handle.remove()
        return found

    monkeypatch.setattr(ddcore.commands.train, "train_and_test", watched)
    student(cache, tmp_path / "a")
    assert during == [0]


def test_whitened_images_have_no_pixels(cache, tmp_path, capsys):
    assert invoke([*TRAIN, f"--cache={cache}", f"--out={tmp_path / 'a'}", "--normalise=zca"]) == 2
    assert "give --normalise mean-std" in capsys.readouterr().err


def test_a_finished_set_keeps_its_records_and_takes_those_of_another_seed(cache, tmp_path):
    probe = tmp_path / "probe.py"
    probe.write_text((stage.HERE / "probe.py").read_text())
    out = tmp_path / "set"
    words = [
        "--plugin-path",
        str(probe),
        "--plugin=reinforce",
        "--labels=reinforce",
        *TEACHERS,
        "--reinforce.samples=2",
    ]
    words += [
        "--ipc=1",
        "--steps=1",
        "--network=convnet2-w4",
        "--protocol=quick-3",
        "--eval-seeds=1",
        "--full-epochs=1",
    ]
    words += ["--threads=1", "--preset=none", "--init=real", "--reinforce.chain=rrc-mix-ra-re", "--storage-dtype=uint8"]
    assert invoke(["run", *words, f"--cache={cache}", f"--out={out}"]) == 0
    made = load_artifact(out / "artifact")
    assert isinstance(made.labels, ReinforcedLabels) and made.labels.samples == 2
    images, targets = next(iter(made.loader(batch_size=4)))
    assert images.shape == (4, 1, 8, 8)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    relabel = ["relabel", str(out / "artifact"), "--plugin=reinforce", "--labels=reinforce", *TEACHERS, "--seed=1"]
    relabel += ["--reinforce.samples=3", "--reinforce.chain=rrc-mix-ra-re", f"--cache={cache}", "--threads=1"]
    assert invoke([*relabel, f"--out={tmp_path / 'other'}"]) == 0
    other = load_artifact(tmp_path / "other")
    both = merged(made.labels, other.labels)
    said = {name: made.manifest[name] for name in ("recipe", "provenance")}
    again = relabelled(made, tmp_path / "both", both, **said)
    assert again.labels.samples == 5 and next(iter(again.loader(batch_size=4)))[0].shape == (4, 1, 8, 8)
