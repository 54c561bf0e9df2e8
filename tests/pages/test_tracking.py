"""Trackers are told what the log says, and none can fail a run."""

import json

import pytest

from ddcore.pages.tracking import Number, numbers
from ddcore.storage.places import sha256_of
from ddcore.testing import ddcore_cli, tiny_run  # noqa: F401  fixtures

pytestmark = pytest.mark.usefixtures("probes")

TRACKER = """
    from collections.abc import Mapping
    from typing import Any
    from attrs import frozen
    from ddcore import Plugin, hookimpl

    @frozen(kw_only=True, eq=False)
    class X(Plugin):
        role = "tracker"
        summary = "keeps what it is told"

        @hookimpl
        def ddcore_log(self, event, fields, run):
            (run.place / "told.jsonl").append_line(__import__("json").dumps({"event": event, **fields}))
            if event in %r:
                raise %s
"""


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def put(site, name="watch", events=(), error="RuntimeError('no disk')"):
    site.put(name, TRACKER % (list(events), error))


def pixels(folder):
    return sha256_of((folder / "artifact" / "images.safetensors").read_bytes())


def test_trackers_hear_ddcore_log_for_every_line_of_the_log(site, ddcore_cli, tmp_path):  # noqa: F811
    put(site)
    out = tmp_path / "run"
    words = ["run", *ddcore_cli.tiny, "--plugin", "pull", "--plugin", "watch", "--steps", 2, "--out", out, "--json"]
    answer = ddcore_cli(*words)
    assert answer.code == 0, answer.err
    logged = [{n: v for n, v in line.items() if n != "time"} for line in lines(out, "log.jsonl")]
    assert lines(out, "told.jsonl") == logged
    events = [line["event"] for line in logged]
    assert events[0] == "begin" and events[-1] == "done" and events.count("step") == 2
    assert events.count("row") == len(answer.json["rows"]) and events.count("task") >= 1 + len(answer.json["rows"])
    assert [line for line in logged if line["event"] == "row"][0]["accuracy"] == answer.json["rows"][0]["accuracy"]


@pytest.mark.parametrize("error", ["RuntimeError('no disk')", "KeyError('x')", "ValueError()"])
def test_one_that_raises_is_warned_of_once_and_the_bits_stay(error, site, ddcore_cli, tmp_path):  # noqa: F811
    put(site, "faulty", ["step"], error)
    put(site, "sound")
    base = ["run", *ddcore_cli.tiny, "--plugin", "pull", "--steps", 3, "--json"]
    plain = ddcore_cli(*base, "--out", tmp_path / "plain")
    words = ["--plugin", "faulty", "--plugin", "sound", "--out", tmp_path / "run"]
    answer = ddcore_cli(*base, *words)
    assert plain.code == answer.code == 0, answer.err
    (warning,) = [w for w in answer.json["warnings"] if w not in plain.json["warnings"]]
    assert warning.startswith("ddcore_log of 'faulty' (ddcore-faulty 1.2) failed (") and "goes on" in warning
    assert "Traceback" not in answer.err
    told = [line["event"] for line in lines(tmp_path / "run", "told.jsonl")]
    assert told.count("step") == 3 + 1 and told.count("done") == 1  # the faulty one heard a single step
    assert pixels(tmp_path / "plain") == pixels(tmp_path / "run")


def test_a_run_that_trains_is_told_too(site, ddcore_cli, tmp_path):  # noqa: F811
    put(site)
    words = ["--plugin-path", ddcore_cli.tiny[1], "--data", "tiny", "--student", "convnet2-w4", "--protocol", "quick-1"]
    out = tmp_path / "run"
    answer = ddcore_cli("train", *words, "--plugin", "watch", "--eval-seeds", 1, "--threads", 1, "--out", out, "--json")
    assert answer.code == 0, answer.err
    events = [line["event"] for line in lines(out, "told.jsonl")]
    assert events[0] == "begin" and events[-1] == "done" and events.count("row") == len(answer.json["rows"])


def test_numbers_of_an_epoch_by_who_it_is_of():
    fields = {"expert": 2, "epoch": 5, "loss": 0.25, "teacher": "resnet/18", "fine": True, "words": "no"}
    assert numbers("expert", fields) == [Number("expert/2/resnet-18/loss", 0.25, 5)]


def test_rows_of_other_metrics_keep_their_name():
    row = {"set": "random", "labels": "hard", "network": "gin", "protocol": "its own", "metric": "auc"}
    assert numbers("row", {**row, "accuracy": {"mean": 1}}) == [Number("auc/random/hard/gin/its own", 1.0, 0)]
