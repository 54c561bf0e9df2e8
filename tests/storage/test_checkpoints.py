"""A checkpoint gives back every kind of state, in place, and a damaged one is one sentence."""

import os

import pytest
import torch
from torch import nn

from ddcore.errors import InputError, StoreError
from ddcore.storage.checkpoints import Checkpoints, flatten, restore
from ddcore.storage.places import Place


def trained(seed: int) -> dict:
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(seed).get_state())
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    pixels = torch.ones(2, 3) * seed
    pixels.requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.1)
    for _ in range(seed):
        optimizer.zero_grad()
        network(pixels).square().sum().backward()
        optimizer.step()
    return {"pixels": pixels, "network": network, "adam": optimizer, "count": seed, "names": ["a", None, True, 0.5]}


def test_everything_comes_back_in_place(tmp_path):
    saved, fresh = trained(3), trained(1)
    checkpoints = Checkpoints(Place.at(tmp_path))
    checkpoints.save("task", 7, saved)
    pixels = fresh["pixels"]
    assert checkpoints.load("task", fresh) == 7
    assert fresh["pixels"] is pixels
    torch.testing.assert_close(pixels, saved["pixels"])
    assert (fresh["count"], fresh["names"]) == (3, ["a", None, True, 0.5])
    for name, value in saved["network"].state_dict().items():
        torch.testing.assert_close(fresh["network"].state_dict()[name], value)
    moments, due = fresh["adam"].state[pixels], saved["adam"].state[saved["pixels"]]
    torch.testing.assert_close(moments["exp_avg"], due["exp_avg"])
    assert moments["step"] == due["step"] == 3


def test_two_that_went_on_from_one_checkpoint_take_the_same_step(tmp_path):
    checkpoints = Checkpoints(Place.at(tmp_path))
    original = trained(3)
    checkpoints.save("task", 1, original)
    resumed = trained(1)
    checkpoints.load("task", resumed)
    for state in (original, resumed):
        state["adam"].zero_grad()
        state["pixels"].square().sum().backward()
        state["adam"].step()
    assert torch.equal(original["pixels"], resumed["pixels"])


def test_without_a_file_a_task_begins_at_zero(tmp_path):
    assert Checkpoints(Place.at(tmp_path)).load("task", {"a": torch.zeros(1)}) == 0


def test_flatten_and_restore_are_inverse_for_plain_values():
    state = {"a": {"b": [1, 2.5, None, "x", True, torch.arange(3)]}}
    tensors, tree = flatten(state)
    back = restore(tree, tensors)
    assert back["a"]["b"][:5] == [1, 2.5, None, "x", True]
    assert torch.equal(back["a"]["b"][5], torch.arange(3))


def test_a_state_of_another_shape_is_refused_with_the_file_and_the_way_out(tmp_path):
    checkpoints = Checkpoints(Place.at(tmp_path))
    checkpoints.save("task", 7, {"pixels": torch.zeros(3)})
    for other in ({"pixels": torch.zeros(4)}, {"pixels": torch.zeros(3), "labels": torch.zeros(3)}):
        with pytest.raises(InputError, match=r"task.safetensors does not fit this run.*remove the file"):
            checkpoints.load("task", other)


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(Place.at(tmp_path))
    checkpoints.save("task", 7, {"pixels": torch.zeros(300)})
    file = tmp_path / "task.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match="task.safetensors"):
        checkpoints.load("task", {"pixels": torch.zeros(300)})


def test_what_cannot_be_saved_without_pickle_is_named():
    with pytest.raises(TypeError, match="state 'a.b' is a set"):
        flatten({"a": {"b": {1, 2}}})


def test_finishing_keeps_the_result_and_drops_the_unfinished_state(tmp_path):
    checkpoints = Checkpoints(Place.at(tmp_path))
    checkpoints.save("task", 7, {"pixels": torch.zeros(3)})
    assert not checkpoints.finished("task")
    checkpoints.finish("task", {"pixels": torch.ones(3)}, {"roles": {"pixels": "pixels"}})
    assert checkpoints.finished("task")
    assert checkpoints.header("task") == {"roles": {"pixels": "pixels"}}
    assert torch.equal(checkpoints.result("task")["pixels"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["task.done.safetensors"]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_momentum_of_channels_last_weights_goes_on_where_it_was(tmp_path, kind):
    def begun():
        weight = torch.linspace(-1, 1, 108).reshape(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
        weight.requires_grad_()
        made = {"sgd": torch.optim.SGD, "adam": torch.optim.AdamW}[kind]
        options = {"momentum": 0.9} if kind == "sgd" else {}
        return {"weight": weight, "optimizer": made([weight], lr=0.1, fused=True, **options)}

    def steps(state, first, last):
        for step in range(first, last):
            state["optimizer"].zero_grad()
            (state["weight"] * torch.linspace(0, step + 1, 108).reshape(4, 3, 3, 3)).sin().sum().backward()
            state["optimizer"].step()

    whole, cut = begun(), begun()
    steps(whole, 0, 4)
    steps(cut, 0, 2)
    checkpoints = Checkpoints(Place.at(tmp_path))
    checkpoints.save("task", 2, cut)
    resumed = begun()
    checkpoints.load("task", resumed)
    steps(resumed, 2, 4)
    assert torch.equal(resumed["weight"], whole["weight"])


def test_a_file_of_another_task_is_refused_by_name(tmp_path):
    kept = Checkpoints(Place.at(tmp_path))
    for key in ("one", "two"):
        kept.finish(key, {"x": torch.zeros(1)}, {})
        kept.save(key, 1, {"x": torch.zeros(1)})
    for end in (".done.safetensors", ".safetensors"):
        (tmp_path / f"one{end}").rename(tmp_path / f"two{end}")
    for look in (kept.result, kept.header, lambda key: kept.load(key, {"x": torch.zeros(1)})):
        with pytest.raises(InputError, match=r"two.*safetensors is of task 'one'.*: remove"):
            look("two")
    assert not kept.is_sound("two")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to(path.name)], ids="pdl")
def test_what_is_no_file_in_the_place_of_one_is_one_sentence(tmp_path, put):
    kept = Checkpoints(Place.at(tmp_path))
    put(tmp_path / "task.safetensors")
    put(tmp_path / "task.done.safetensors")
    for look in (kept.result, kept.header, lambda key: kept.load(key, {})):
        with pytest.raises(InputError, match=r"is a (pipe|folder|link that leads in a circle).*: remove") as raised:
            look("task")
        assert not isinstance(raised.value, StoreError)
    assert not kept.is_sound("task")
    kept.drop("task")
    assert kept.load("task", {}) == 0
