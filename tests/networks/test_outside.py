"""Networks of timm and of torch's hub: by name, with ``embed``, and refused in a sentence where they cannot be."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddcore.commands.taken import known_network
from ddcore.errors import InputError
from ddcore.networks.outside import weights_url
from ddcore.networks.zoo import build, knows

HUB = """
import torch
dependencies = ["torch"]

def features(pretrained=True):
    assert not pretrained
    return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, stride=2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

def headed(pretrained=True):
    return torch.nn.Sequential(features(pretrained), torch.nn.Linear(5, 1000))

def number(pretrained=True):
    return 3
"""


class Tiny(nn.Module):
    """What timm's are like."""

    def __init__(self, channels, classes):
        super().__init__()
        self.stem, self.head = nn.Conv2d(channels, 4, 3), nn.Linear(4, classes)

    def get_classifier(self):
        return self.head

    def forward(self, images):
        return self.head(self.stem(images).mean((2, 3)))


def create_model(name, *, pretrained, num_classes, in_chans, **more):
    assert not pretrained
    made = Tiny(in_chans, num_classes)
    if name == "headless":
        made.get_classifier = nn.Identity
    if name == "vit_like":
        assert more == {"img_size": 32}
    return made


@pytest.fixture
def timm(monkeypatch):
    names = ["tiny", "headless", "vit_like"]
    weights = {"tiny": ("timm/tiny.in1k", ""), "vit_like": ("", "https://example.org/vit-0123abcd.pth")}

    def cfg(name, allow_unregistered):
        return (
            SimpleNamespace(**dict(zip(("hf_hub_id", "url"), weights[name], strict=True))) if name in weights else None
        )

    fake = {"is_model": names.__contains__, "list_models": lambda: names, "get_pretrained_cfg": cfg}
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, **fake))


def made(name, classes=7):
    return build(name, 3, 32, classes, torch.Generator().manual_seed(0))


def check(network, width):
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        network.eval()
        features, logits = network.embed(x), network(x)
        assert features.shape == (2, width) and logits.shape == (2, 7)
        torch.testing.assert_close(network._last[0](features), logits)


def test_timm_s_networks_by_name(timm):
    network = made("timm:tiny")
    assert all(m.training for m in network.modules())
    check(network, 4)
    check(made("timm:vit_like"), 4)
    torch.testing.assert_close(network.network.head.weight, made("timm:tiny").network.head.weight)


def test_timm_s_own_weights_have_an_address(timm):
    assert (
        weights_url("timm:tiny", "pretrained") == "https://huggingface.co/timm/tiny.in1k/resolve/main/model.safetensors"
    )
    assert weights_url("timm:vit_like", "pretrained").endswith("vit-0123abcd.pth")
    assert weights_url("timm:tiny", "mine.safetensors") is None and weights_url("mlp", "pretrained") is None
    with pytest.raises(InputError, match="timm has no weights of 'headless'"):
        weights_url("timm:headless", "pretrained")


def test_timm_s_networks_that_cannot_be(timm, monkeypatch):
    with pytest.raises(InputError, match="timm has no network named 'tinny': did you mean 'tiny'"):
        made("timm:tinny")
    with pytest.raises(InputError, match="no last linear layer"):
        made("timm:headless")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"pip install 'ddcore-torch\[timm\]'"):
        made("timm:tiny")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_real_timm_where_it_is_installed():
    pytest.importorskip("timm")
    check(made("timm:tf_efficientnet_lite0"), 1280)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "hub" / "owner_name_main"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(HUB)
    return folder


def test_a_folder_s_networks_get_a_head_for_these_classes(repository):
    check(made(f"hub:{repository}:features"), 5)
    check(made(f"hub:{repository}:headed"), 5)
    with pytest.raises(InputError, match=r"cannot be made .*feature.*: choose another network"):
        made(f"hub:{repository}:feature")
    with pytest.raises(InputError, match="is a int and no network"):
        made(f"hub:{repository}:number")
    with pytest.raises(InputError, match="write hub:OWNER/NAME:NETWORK"):
        made("hub:features")


def test_a_repository_runs_only_where_the_hub_trusts_it(repository, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(repository.parent))
    monkeypatch.setattr(torch.hub, "_get_torch_home", lambda: str(repository.parent.parent))
    with pytest.raises(InputError, match="does not trust 'owner/name:main' here, whose code would run"):
        made("hub:owner/name:main:features")
    (repository.parent / "trusted_list").write_text("owner_name\n")
    check(made("hub:owner/name:main:features"), 5)


def test_a_stranger_s_set_may_name_timm_s_networks_and_nothing_that_runs_a_repository(timm):
    assert known_network("timm:tiny", {}) and knows("hub:x:y") and not known_network("hub:x:y", {})
