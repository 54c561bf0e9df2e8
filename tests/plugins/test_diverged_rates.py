"""A matcher that learns a rate, diverging without a NaN: said everywhere, and ended."""

import json

from two_classes import ran

MTT = ("--plugin", "mtt", "--mtt.student-steps", "4", "--mtt.expert-epochs", "1", "--experts.count", "1")
FAR = (*MTT, "--experts.epochs", "3", "--mtt.lr-lr", "10", "--mtt.lr-img", "1e8")


def test_a_diverged_run_says_so_everywhere(two, capsys):
    """The case ``diverged-without-a-word``."""
    assert ran(two, "diverged", *FAR, "--steps", "15") == 0
    said = capsys.readouterr().err
    scores = json.loads((two / "diverged" / "scores.json").read_text())
    notes = json.loads((two / "diverged" / "artifact" / "manifest.json").read_text())["notes"]
    report = (two / "diverged" / "report.html").read_text()
    for kind, option in (
        ("pixels lie between ", "--mtt.lr-img"),
        ("the learned rate has lain on its floor", "--mtt.lr-lr"),
    ):
        (text,) = [note for note in notes if kind in note]
        assert f"lower {option}, which is" in text and said.count(text) == 1 and text in scores["warnings"]
        assert kind in report
    assert "those of the data between 0 and 1" in said


def test_a_run_whose_rate_stays_on_its_floor_is_refused_and_keeps_its_state(two, capsys):
    assert ran(two, "stopped", *FAR, "--steps", "40") == 2
    assert "so the run is ended" in capsys.readouterr().err
    assert (two / "stopped" / "checkpoints" / "distil-000.safetensors").exists()
    assert not (two / "stopped" / "artifact").exists()
    assert ran(two, "on", *FAR, "--steps", "40", "--no-stop-diverged") == 0
