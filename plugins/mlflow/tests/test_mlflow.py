"""What MLflow says of a run is what the run logged."""

import json

import pytest

from ddcore.testing import check_plugin, ddcore_cli  # noqa: F401  fixture

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed: pip install mlflow-skinny")
WORDS = ("--plugin", "dm", "--plugin", "mlflow", "--steps", 3)


class Client:
    """MLflow's, as far as the plugin knows it, in memory."""

    runs: dict = {}

    def __init__(self, tracking_uri=None):
        self.uri = tracking_uri

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return name

    def create_run(self, experiment, run_name):
        from types import SimpleNamespace

        known = f"{experiment}-{len(self.runs)}"
        self.runs[known] = {"name": run_name, "params": {}, "metrics": {}, "ended": 0}
        return SimpleNamespace(info=SimpleNamespace(run_id=known))

    def log_param(self, run_id, name, value):
        self.runs[run_id]["params"][name] = value

    def log_metric(self, run_id, name, value, step):
        self.runs[run_id]["metrics"].setdefault(name, []).append((step, value))

    def set_terminated(self, run_id):
        self.runs[run_id]["ended"] += 1


@pytest.fixture
def client(monkeypatch):
    monkeypatch.setattr("mlflow.tracking.MlflowClient", Client)
    monkeypatch.setattr(Client, "runs", {})
    return Client


def test_the_contract(monkeypatch, tmp_path):
    monkeypatch.setattr("mlflow.tracking.MlflowClient", Client)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path))
    check_plugin(
        "mlflow", only=("hooks", "declarations", "immutable", "public", "options", "seed", "global-randomness")
    )


def test_losses_and_scores_are_those_of_the_log_and_a_resumed_run_is_the_same_one(client, ddcore_cli, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    answer = ddcore_cli("run", *ddcore_cli.tiny, *WORDS, "--mlflow.experiment", "mine", "--out", out, "--json")
    assert answer.code == 0 and answer.json["warnings"] == [], answer.err
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in logged if line["event"] == "step"]
    ((known, run),) = client.runs.items()
    assert known == "mine-0" and run["name"] == "run" and run["ended"] == 1
    assert run["metrics"]["step/distil-000/loss"] == losses
    assert run["params"]["plugins"] == "dm+mlflow+tiny" and run["params"]["ipc"] == "2"
    for row in answer.json["rows"]:
        name = f"accuracy/{row['set']}/{row['labels']}/convnet2-w4/quick-1"
        assert run["metrics"][name] == [(0, row["accuracy"]["mean"])]
    assert ddcore_cli("resume", out).code == 0
    assert list(client.runs) == ["mine-0"]


def test_mlflow_itself_keeps_a_run(ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no SQLite
    uri = str(tmp_path / "runs")
    answer = ddcore_cli("run", *ddcore_cli.tiny, *WORDS, "--mlflow.uri", uri, "--out", tmp_path / "run", "--json")
    assert answer.code == 0 and answer.json["warnings"] == [], answer.err
    client = mlflow.tracking.MlflowClient(tracking_uri=uri)
    kept = client.get_run(json.loads((tmp_path / "run" / "mlflow.json").read_text())["run_id"])
    assert kept.data.params["plugins"] == "dm+mlflow+tiny" and kept.info.status == "FINISHED"
    assert "accuracy/distilled/hard/convnet2-w4/quick-1" in kept.data.metrics


def test_an_mlflow_that_fails_costs_one_warning(ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    def fail(*_, **__):
        raise RuntimeError("no such server")

    monkeypatch.setattr("mlflow.tracking.MlflowClient", fail)
    answer = ddcore_cli("run", *ddcore_cli.tiny, *WORDS, "--out", tmp_path / "run", "--json")
    assert answer.code == 0
    (warning,) = answer.json["warnings"]
    assert "ddcore_log of 'mlflow'" in warning and "no such server" in warning


def test_where_runs_are_kept_may_hold_a_password_and_stands_in_no_record(client, ddcore_cli, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    uri = "https://me:secret@host"
    assert ddcore_cli("run", *ddcore_cli.tiny, *WORDS, "--mlflow.uri", uri, "--out", out).code == 0
    assert "secret@" not in "".join(f.read_text() for f in [out / "run.json", out / "log.jsonl", out / "mlflow.json"])
