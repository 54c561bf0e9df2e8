"""Names of data and of networks are taken in any case, of the core and of plugins."""

import json

import pytest

from ddcore.composing.options import resolve
from ddcore.composing.recipes import Teachers
from ddcore.testing import ddcore_cli  # noqa: F401

NAMED = '''
from typing import ClassVar
import torch
from attrs import frozen
from ddcore import Plugin, hookimpl
from ddcore.data import Source, Split


@frozen(kw_only=True, eq=False)
class Named(Plugin):
    """Data under a name with capitals, and in files that end in .pix."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "two shades"
    paper: ClassVar[str] = "none"
    role: ClassVar[str] = "data"
    datasets: ClassVar[tuple[str, ...]] = ("Shades",)

    def recognises(self, place):
        return "Shades" if place.name.endswith(".pix") else None

    @hookimpl
    def ddcore_data(self, name, rest, options):
        if name != "Shades":
            return None
        images, labels = torch.tensor([0, 255], dtype=torch.uint8).repeat(4)[:, None, None, None], torch.tensor([0, 1] * 4)
        part = Split(images.expand(8, 1, 8, 8).contiguous(), labels)
        return Source(name="shades", train=part, test=part, classes=("dark", "light"), origin=f"Shades:{rest}")
'''


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "named.py").write_text(NAMED)
    (tmp_path / "some.pix").write_bytes(b"x")
    return str(tmp_path / "named.py")


@pytest.mark.parametrize("name", ["Shades", "shades", "SHADES:x"])
def test_a_plugins_data_are_known_in_any_case(ddcore_cli, plugin, name):  # noqa: F811
    result = ddcore_cli("data", "show", name, "--plugin-path", plugin, "--json")
    assert result.json["name"] == "shades"


def test_a_plugin_recognises_what_it_reads(ddcore_cli, plugin, tmp_path):  # noqa: F811
    result = ddcore_cli("data", "show", f"{tmp_path}/some.pix", "--plugin-path", plugin, "--json")
    said = result.json
    assert said["origin"].startswith("Shades:") and said["origin"].endswith("/some.pix")
    assert "taken for Shades: by what lies there" in said["notes"]


def test_networks_are_spelt_as_those_who_build_them_do():
    class Capitals:
        networks = ("MyNet",)

    given = {
        "network": "ConvNet3-W32",
        "eval_network": ("MLP", "torchvision:ResNet18"),
        "teachers__networks": ("LeNet",),
    }
    plain = resolve({"teachers": Teachers}, command_line=given, environment={})
    assert (plain.config.network, plain.config.eval_network) == ("convnet3-w32", ("mlp", "torchvision:resnet18"))
    assert plain.options["teachers"].networks == ("lenet",)
    named = resolve({"teachers": Teachers}, command_line={"network": "AUTO"}, environment={})
    assert named.config.network == "auto"


@pytest.mark.usefixtures("probes")
def test_a_run_says_in_its_plan_what_a_path_was_taken_for_and_keeps_it(ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    from data_trees import pictures, tree

    monkeypatch.chdir(
        tree(tmp_path, pictures("photos/Training", "photos/Testing") | {"photos/Training/cat/9.png": b""})
    )
    words = ["run", "--plugin=pull", "--dataset=photos/", "--network=ConvNet-W4", "--steps=1", "--eval-seeds=1"]
    words += ["--protocol=quick-1", "--full-epochs=1", "--out=out", "--cache=cache", "--threads=1"]
    refused = ddcore_cli(*words)
    assert refused.code == 2 and "Training/cat/9.png" in refused.err and "--skip-broken" in refused.err
    result = ddcore_cli(*words, "--skip-broken")
    for line in (
        "data: taken for folder: by what lies there",
        "data: 1 left out as broken (--skip-broken): Training/cat/9.png",
    ):
        assert line in result.out + result.err
    manifest, scores, record = (json.loads((tmp_path / "out" / name).read_text()) for name in
                                ("artifact/manifest.json", "scores.json", "run.json"))  # fmt: skip
    for notes in (manifest["source"]["notes"], scores["dataset"]["notes"], record["data"]["notes"]):
        assert any("1 left out as broken" in note for note in notes) and str(tmp_path) not in str(notes)
    assert manifest["source"]["origin"] == "folder:photos"
    again = ddcore_cli(
        "evaluate",
        "out/artifact",
        "--eval-seeds=1",
        "--protocol=quick-1",
        "--full-epochs=1",
        "--threads=1",
        "--out=again",
    )
    assert "accuracy" in again.out
