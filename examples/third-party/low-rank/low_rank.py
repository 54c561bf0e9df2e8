"""Low rank: all images of a set are weighted sums of a few learned ones, so that a set costs little more than those.

    x_i = sum_r codes_ir bases_r

and the mean image of each class is pulled to that of its real images. What is stored is codes and bases; the operation
``low-rank`` gives the images back. It has an entry point ``ddcore.decoders``, so a set opens wherever this package is
installed, in ``ddcore.load_artifact``, ``evaluate`` or ``inspect``, and nobody has to select the plugin.

Shape letters: N images, R bases, C channels, H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge, gt
from torch import Tensor

from ddcore import Batch, Learn, Loss, Plugin, Progress, Task, hookimpl, option

if TYPE_CHECKING:
    from ddcore import Run

DECODER = ({"op": "low-rank", "codes": "codes", "bases": "bases", "distribution": "low-rank"},)


def factors(images: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The codes (N, R) and bases (R, C, H, W) that come nearest to images (N, C, H, W), R at most ``rank`` and N.

    Bases are orthonormal; of each the largest value is positive.
    """
    left, size, right = torch.linalg.svd(images.flatten(1), full_matrices=False)
    bases = right[:rank]
    signs = bases.gather(1, bases.abs().argmax(1, keepdim=True)).sign()
    return left[:, :rank] * size[:rank] * signs.T, (bases * signs).unflatten(1, images.shape[1:])


class LowRankImages:
    """``{"op": "low-rank", "codes": NAME, "bases": NAME}``: sample i is the sum of bases weighted by ``codes[i]``."""

    def count(self, tensors: Mapping[str, Tensor], spec: Mapping[str, Any], before: int | None) -> int:
        """Rows of codes."""
        return len(tensors[spec["codes"]])

    def sample(
        self,
        tensors: Mapping[str, Tensor],
        spec: Mapping[str, Any],
        index: Tensor,
        before: Callable[[Tensor], Any] | None,
    ) -> Tensor:
        """Images (B, C, H, W) in the codes' type; differentiable in codes and bases."""
        codes, bases = tensors[spec["codes"]], tensors[spec["bases"]]
        return torch.tensordot(codes[index.to(codes.device)], bases.to(codes), 1)


@frozen(kw_only=True, eq=False)
class LowRank(Plugin):
    """Learn codes and bases."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "images that are weighted sums of a few learned ones"
    paper: ClassVar[str] = "none: an example of ddcore"
    role: ClassVar[str] = "matcher"
    steps: ClassVar[int | None] = 100
    learns: ClassVar[tuple[str, ...]] = ("pixels",)
    asks: ClassVar[tuple[str, ...]] = ("initialize", "view:match", "augment:match")
    tiny: ClassVar[Mapping[str, object]] = {"rank": 2, "batch_real": 8}

    rank: int = option(8, help="learned images that all others are made of", symbol="R", validator=ge(1))
    lr: float = option(0.02, help="learning rate of codes and bases", validator=gt(0))
    batch_real: int = option(64, help="real images of a class in a step", unit="images", validator=ge(1))

    @hookimpl
    def ddcore_learn(self, images: Tensor) -> Learn:
        """Both, from where the images begin."""
        found = zip(("codes", "bases"), factors(images, self.rank), strict=True)
        tensors = {name: tensor.contiguous().requires_grad_() for name, tensor in found}
        return Learn(tensors, {"both": torch.optim.SGD(tensors.values(), lr=self.lr)}, decoder=DECODER)

    @hookimpl
    def ddcore_matching_loss(self, task: Task, step: int, learn: Learn, run: "Run") -> Iterator[Loss]:
        """Squared distance of the two mean images, mean over pixels, a class at a time."""
        assert task.classes is not None
        decoder = run.decoder(learn.decoder)
        for cls in task.classes.unique().tolist():
            key = ("low-rank", step, cls)
            draw = run.draw("match", key=key, shared=True, progress=Progress(step, task.steps))
            images = run.real.sample(cls, self.batch_real, run.generator(*key))
            real = Batch(
                images,
                {"class": torch.full_like(images[:, 0, 0, 0], cls).long()},
                torch.arange(len(images)).to(run.device),
            )
            where = (task.classes == cls).nonzero()[:, 0].to(run.device)
            own = Batch(decoder.sample(learn.tensors, where), {"class": torch.full_like(where, cls)}, where)
            means = (draw(batch).inputs.mean(0) for batch in (real, run.view(own, "match")))
            yield Loss((next(means) - next(means)).square().mean())
