"""The order of plugins on the command line is in records where it decides something, and nowhere else."""

import itertools
from typing import ClassVar

import pytest
import torch

from ddcore import Plugin, hookimpl
from ddcore.cli.app import invoke
from ddcore.composing.plan import recorded_order

pytestmark = pytest.mark.usefixtures("probes")

RUN = "run --steps 2 --ipc 1 --network convnet2-w4 --protocol quick-1 --eval-seeds 1 --full-epochs 1 --preset none --threads 1 --labels hard"


def test_preview_card_and_manifest_are_the_same_in_any_order(tmp_path, monkeypatch):
    made, threads = {}, torch.get_num_threads()
    try:
        for number, order in enumerate(itertools.permutations(("turn", "pull", "shake"))):
            if number in (1, 2, 4):
                continue
            (tmp_path / str(number)).mkdir()
            monkeypatch.chdir(tmp_path / str(number))
            words = [word for name in order for word in ("--plugin", name)]
            assert invoke([*RUN.split(), *words, "--cache", "../cache", "--out", "run"]) == 0
            folder = tmp_path / str(number) / "run" / "artifact"
            made[order] = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    finally:
        torch.set_num_threads(threads)
    first, *others = made.values()
    assert {"manifest.json", "README.md", "preview.png", "images.safetensors"} <= set(first)
    for other in others:
        assert [name for name in first if first[name] != other.get(name)] == []
    assert b'"method": "pull + shake + turn"' in first["manifest.json"]


class One(Plugin):
    augment_phases: ClassVar[tuple[str, ...]] = ("match",)

    @hookimpl
    def ddcore_augment(self, batch):
        return batch


class Two(One):
    pass


class Watching(Plugin):
    @hookimpl
    def ddcore_log(self, event):
        pass


@pytest.mark.parametrize("names", list(itertools.permutations(("a", "b", "m"))))
def test_an_order_that_decides_something_stays(names):
    chained = {name: One() if name == "a" else Two() if name == "b" else Plugin() for name in names}
    assert recorded_order(chained, "m") == list(names)
    watching = {name: Plugin() if name == "m" else Watching() for name in names}
    assert recorded_order(watching, "m") == ["m", "a", "b"]
    assert recorded_order({}, "") == []
