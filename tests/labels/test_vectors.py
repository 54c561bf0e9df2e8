"""Labels that are no classes: what they tell, cost and mean; every kind's price; the list of losses."""

import pytest
import torch
from torch.nn import functional as F

from ddcore.errors import InputError
from ddcore.images.views import View, mixup
from ddcore.labels import KINDS, LOSSES, Prospect, VectorLabels, student_loss
from ddcore.labels.labels import Labels
from ddcore.labels.losses import NEEDED, as_told, loss_of_told, needed
from ddcore.sets.brought import label_class
from ddcore.storage.places import size_of

CLASSES = torch.tensor([0, 1, 2, 0, 1])
VECTORS = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def vectors(dtype=torch.float32):
    return VectorLabels(VECTORS.to(dtype), CLASSES, 3)


def test_they_come_back_from_storage_and_cost_their_numbers_and_a_class_id():
    for dtype, each in ((torch.float16, 2), (torch.float32, 4), (torch.float64, 4)):
        labels = vectors(dtype)
        again = label_class("vectors").load(labels.header(), labels.tensors())
        assert labels.payload_bytes == 5 * 4 * each + 5 and torch.equal(again.vectors, labels.vectors)
        assert (again.width, again.class_count, again.of_classes, len(again)) == (4, 3, False, 5)


def test_the_loss_is_the_mean_squared_error():
    told = vectors().targets(View(torch.tensor([4, 0])))
    outputs = torch.arange(8.0).view(2, 4).requires_grad_()
    loss = student_loss(outputs, told, vectors().recipe)
    torch.testing.assert_close(loss, F.mse_loss(outputs, VECTORS[[4, 0]]))
    weighted = student_loss(outputs, {**told, "weight": torch.tensor([2.0, 0.0])}, vectors().recipe)
    torch.testing.assert_close(weighted, F.mse_loss(outputs[:1], VECTORS[[4]]))


def test_a_loop_of_ones_own_gets_the_vectors_alone_and_the_same_loss():
    labels, outputs = vectors(), torch.arange(8.0).view(2, 4)
    given = labels.targets(View(torch.tensor([4, 0])))
    told = as_told(given, labels.recipe, of_classes=labels.of_classes)
    assert torch.equal(told, VECTORS[[4, 0]])
    assert torch.equal(loss_of_told(outputs, told, labels.recipe), student_loss(outputs, given, labels.recipe))
    with pytest.raises(InputError, match="was given targets"):
        loss_of_told(outputs, told[:, :3], labels.recipe)
    weighted = {**given, "weight": torch.tensor([2.0, 0.0])}
    for more, recipe in ((weighted, labels.recipe), (given, {**labels.recipe, "hard": 0.5})):
        assert as_told(more, recipe, of_classes=False).keys() == more.keys()
    with pytest.raises(InputError, match="needs 'embedding'"):
        as_told({"class": CLASSES}, labels.recipe, of_classes=False)


def test_vectors_are_mixed_as_their_images_are():
    mix = torch.tensor([1, 0]), torch.tensor([0.25, 1.0])
    told = vectors().targets(View(torch.tensor([2, 3]), mix=mix))
    torch.testing.assert_close(told["embedding"], mixup(VECTORS[[2, 3]], *mix))
    torch.testing.assert_close(told["embedding"][0], 0.25 * VECTORS[2] + 0.75 * VECTORS[3])


@pytest.mark.parametrize("wrong", [VECTORS[:4], VECTORS[0], VECTORS[:, :0]])
def test_what_is_no_vector_a_sample_is_refused(wrong):
    with pytest.raises(InputError, match="one vector for each sample"):
        VectorLabels(wrong, CLASSES, 3)


def test_outputs_of_another_width_are_refused_not_spread():
    told = vectors().targets(View(torch.tensor([0])))
    with pytest.raises(InputError, match="as many outputs as the labels are wide"):
        student_loss(torch.zeros(1, 1), told, vectors().recipe)


# ---- prices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "how", "payload"),
    [
        ("hard", {}, 0),
        ("soft", {}, 3 * 4),
        ("soft", {"float_bytes": 2}, 3 * 2),
        ("static-mixed", {}, 3 * 4),
        ("vectors", {"width": 7}, 7 * 4),
        ("vectors", {"width": 7, "float_bytes": 2}, 7 * 2),
    ],
)
def test_a_price_is_the_file_of_such_labels(kind, how, payload):
    prospect = Prospect(CLASSES, 3, how)
    made = KINDS[kind].blank(prospect)
    assert KINDS[kind].price(prospect) == size_of(made.tensors())
    assert made.payload_bytes == 5 * (payload + 1)


def test_labels_of_views_are_priced_by_formula_and_others_say_that_they_cannot():
    price = KINDS["per-view"].price(Prospect(CLASSES, 3, {"epochs": 2, "batch": 5, "seeded": True}))
    assert price == 2048 + 5 + 2 * 5 * 3 * 2
    with pytest.raises(InputError, match="depends on 'width'"):
        VectorLabels.price(Prospect(CLASSES, 3))

    class Silent(VectorLabels.__bases__[0]):
        kind = "silent"

    with pytest.raises(InputError, match="what silent labels cost does not follow"):
        Silent.price(Prospect(CLASSES, 3))
    assert Silent.__bases__ == (Labels,)


# ---- losses ----------------------------------------------------------------------------------------------------------


def test_every_loss_is_listed_with_what_it_needs():
    targets = {"class": torch.tensor([0]), "logits": torch.zeros(1, 3), "distance": torch.zeros(1, 2)}
    numbers = {"temperature": 1.0, "tau_squared": False, "hard": 0.0, "norm": "squared", "weight": 1.0}
    assert list(LOSSES) == list(NEEDED)
    for loss, said in LOSSES.items():
        assert f"``{needed({'loss': loss})}``" in said
        assert torch.isfinite(student_loss(torch.zeros(1, 3), targets, {"loss": loss, **numbers}))
        with pytest.raises(KeyError):
            left = {name: value for name, value in targets.items() if name != NEEDED[loss]}
            student_loss(torch.zeros(1, 3), left, {"loss": loss, **numbers})
    with pytest.raises(InputError, match="does not know .*two-distances.*upgrade"):
        student_loss(torch.zeros(1, 3), targets, {"loss": "hinge"})


def test_every_loss_is_documented():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    section = text.partition("### Label kinds\n")[2].partition("\n##")[0]
    assert [loss for loss in LOSSES if f"| `{loss}` |" not in section] == []
