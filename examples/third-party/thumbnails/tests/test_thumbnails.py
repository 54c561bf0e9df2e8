"""Priced to the byte, opened by entry point, learned by regression."""

import json

import torch
from thumbnails import ThumbnailLabels

from ddcore import View, load_artifact


def test_targets_are_shares_of_white():
    labels = ThumbnailLabels(torch.tensor([[0, 255], [51, 0]], dtype=torch.uint8), torch.tensor([0, 1]), 2)
    torch.testing.assert_close(labels.targets(View(torch.tensor([1])))["embedding"], torch.tensor([[0.2, 0.0]]))


def test_bytes_buy_what_they_say_and_the_set_opens(ddcore_cli, tmp_path):
    words = [word for word in ddcore_cli.tiny if word not in ("--ipc", "2")]
    words += ["--plugin", "low-rank", "--plugin", "thumbnails", "--labels", "thumbnails", "--steps=1", "--bytes=7kB"]
    answer = ddcore_cli("run", *words, "--protocol=pretrain-probe-2", "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    artifact = load_artifact(tmp_path / "run" / "artifact")
    budget = json.loads((tmp_path / "run" / "run.json").read_text())["budget"]
    assert budget["labels"] == artifact.nbytes["labels"] and artifact.nbytes["total"] <= 7000
    assert artifact[0][1].shape == (artifact.labels.width,)
