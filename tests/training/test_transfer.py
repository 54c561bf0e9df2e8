"""Pretrained students: a probe leaves what stands before the last layer alone, fine-tuning does not; both tell classes."""

from functools import partial

import pytest
import torch

from ddcore import randomness
from ddcore.api.types import Subject
from ddcore.errors import InputError
from ddcore.labels import feature_tensors
from ddcore.testing import tiny_run  # noqa: F401  fixture
from ddcore.training.loop import accuracy
from ddcore.training.protocols import auto_protocol, protocol
from ddcore.training.transfer import Transfer, transferred

pytestmark = pytest.mark.usefixtures("probes")


@pytest.mark.parametrize("kind", ["probe", "finetune"])
def test_a_student_of_any_width_learns_the_task(kind, tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "pull")
    student = run.network(run.generator("a"), "convnet2-bn-w8", classes=11)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    how = Transfer(kind=kind, steps=60, rate=0.1, batch=36)
    made = transferred(run, student, "convnet2-bn-w8", how, partial(randomness.generator, 0), "some-task")
    again = transferred(run, student, "convnet2-bn-w8", how, partial(randomness.generator, 0), "other-task")
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in before.items())
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in made.state_dict().items())
    due = feature_tensors(made, run.source.channels, run.source.size)
    same = [torch.equal(before[name], made.state_dict()[name]) for name in due]
    assert all(same) if kind == "probe" else not any(same)
    assert accuracy(made, run.real.test) > 0.8


def test_a_student_of_another_shape_is_refused(tiny_run):  # noqa: F811
    run = tiny_run("--plugin", "pull")
    student = run.network(run.generator("a"), "convnet2-bn-w8")
    with pytest.raises(InputError, match="cannot be probed or fine-tuned"):
        transferred(run, student, "convnet2-bn-w4", Transfer(), partial(randomness.generator, 0), "some-task")


def test_vectors_are_pretrained_on_by_default():
    assert auto_protocol(Subject("images", 32, "vectors")) == "pretrain-probe"
    assert protocol("pretrain-probe-7").transfer == Transfer()
