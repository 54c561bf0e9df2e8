"""Real images without classes are enough to distil from; a set made of them is scored on data that have some."""

import json

from ddcore import load_artifact
from ddcore.cli.app import invoke

TINY = [f"--krr-st.{w}" for w in ("target-epochs=1", "batch=32", "pool=2", "online=3", "target-batch=32")]
SMALL = ("--network", "convnet2-w8", "--threads", "1")


def test_a_set_of_unlabelled_images_is_distilled_and_scored_by_a_probe(tmp_path, capsys):
    out, cache = tmp_path / "run", ["--cache", str(tmp_path / "cache")]
    words = [
        "run",
        "--plugin",
        "krr-st",
        "--dataset",
        "unlabelled:digits",
        "--ipc",
        "12",
        "--steps",
        "3",
        *TINY,
        *SMALL,
    ]
    assert invoke([*words, *cache, "--out", str(out)]) == 0
    assert "no row is scored" in capsys.readouterr().err
    assert json.loads((out / "scores.json").read_text())["rows"] == []
    artifact = load_artifact(out / "artifact")
    assert not artifact.labelled and len(artifact) == 12 and artifact.labels.kind == "vectors"

    scored = [
        "evaluate",
        str(out / "artifact"),
        "--dataset",
        "digits",
        "--protocol",
        "pretrain-probe",
        "--eval-seeds",
        "1",
    ]
    words = [*scored, "--eval-network", "convnet2-w8", "--rows", "distilled,random,untrained", "--threads", "1", *cache]
    assert invoke([*words, "--out", str(tmp_path / "scored")]) == 0
    rows = json.loads((tmp_path / "scored/scores.json").read_text())["rows"]
    assert [(row["set"], row["labels"]) for row in rows] == [
        ("distilled", "vectors"),
        ("random", "vectors"),
        ("untrained", "hard"),
    ]
    assert rows[0]["probe"]["images"] == 1437
