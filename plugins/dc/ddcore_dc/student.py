"""A network at weights of its own: gradients of its loss in them, and how images change such a gradient.

The distance D of a gradient g(x) to a fixed one depends on the images x through g alone, so with d = dD/dg held fixed

    dD/dx = d/dx <d, g(x)>,

the image gradient of a slope: one forward pass that carries tangents, differentiated backwards
(``ddcore.networks.curvature``). The sum over images is a sum over parts that fit the processor's cache, and nothing of
a part is kept for the next.

Shape letters: B images, C H W pixels, P weights.
"""

import torch
from attrs import define
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ddcore import Batch, InputError
from ddcore.networks import (
    MICRO_BATCH,
    TRAINING_CHUNK,
    Crew,
    channels_last,
    chunk_of,
    flat_weights,
    quick_norms,
    slope,
    weights_view,
)


@define(eq=False)
class Student:
    """A network's architecture, its weights (P,) and its buffers; the network's own tensors are left alone.

    Methods that take a network are called by several threads, each with a copy.
    """

    network: nn.Module
    theta_P: Tensor
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module) -> "Student":
        """At the network's present weights.

        Raises:
            InputError: it draws random numbers, so that a second pass would be another function.
        """
        for name, module in network.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
                raise InputError(
                    f"the network's {name} is a dropout, which changes gradients at random: "
                    "match gradients with a --network without it"
                )
        return cls(network, flat_weights(network), {name: b.clone() for name, b in network.named_buffers()})

    def loss(self, network: nn.Module, theta_P: Tensor, images: Tensor, classes: Tensor) -> Tensor:
        """Cross entropy, mean over the images."""
        state = {**weights_view(network, theta_P), **self.buffers}
        return F.cross_entropy(functional_call(network, state, (images,)), classes)

    def layers(self, flat_P: Tensor) -> list[Tensor]:
        """Weights or a gradient, cut into the network's parameters."""
        return list(weights_view(self.network, flat_P).values())

    def gradient(self, network: nn.Module, batch: Batch) -> Tensor:
        """The gradient (P,) of the batch's mean loss, without a graph."""
        total = torch.zeros_like(self.theta_P)
        for part in cut(network, batch, TRAINING_CHUNK):
            theta = self.theta_P.detach().requires_grad_()
            with quick_norms(part.inputs):
                value = self.loss(network, theta, channels_last(part.inputs), part.targets["class"])
            total.add_(torch.autograd.grad(value, theta)[0], alpha=len(part) / len(batch))
        return total

    def slope_gradient(self, network: nn.Module, direction_P: Tensor, batch: Batch) -> Tensor:
        """The image gradient (B, C, H, W) of <direction, gradient of the batch's mean loss>."""
        found = []
        for part in cut(network, batch, MICRO_BATCH):
            images = channels_last(part.inputs).detach().requires_grad_()
            value = self._slope(network, direction_P, images, part.targets["class"])
            found.append(torch.autograd.grad(value, images)[0] * (len(part) / len(batch)))
        return torch.cat(found)

    def _slope(self, network: nn.Module, direction_P: Tensor, images: Tensor, classes: Tensor) -> Tensor:
        """By double backward where an operation has no tangent (BatchNorm)."""
        theta = self.theta_P.detach().requires_grad_()
        try:
            return slope(lambda point: self.loss(network, point, images, classes), theta, direction_P)
        except NotImplementedError:
            value = self.loss(network, theta, images, classes)
            return torch.autograd.grad(value, theta, create_graph=True)[0] @ direction_P

    def freeze_statistics(self, images: Tensor) -> None:
        """Move BatchNorm's running statistics by one batch, then use them."""
        self.network.train()
        with torch.no_grad():
            functional_call(self.network, {**weights_view(self.network, self.theta_P), **self.buffers}, (images,))
        self.network.eval()

    def descend(self, crew: Crew, batch: Batch, rate: float) -> None:
        """One step of plain SGD on the batch's mean loss."""
        parts = [(part,) for part in cut(self.network, batch, TRAINING_CHUNK)]
        gradient = torch.zeros_like(self.theta_P)
        for (part,), own in zip(parts, crew.each(self.gradient, parts), strict=True):
            gradient.add_(own, alpha=len(part) / len(batch))
        self.theta_P = self.theta_P - rate * gradient


def cut(network: nn.Module, batch: Batch, most: int) -> list[Batch]:
    """At most so many images of 32x32 pixels at a time; all at once where BatchNorm mixes them."""
    size = chunk_of(network, batch.inputs, most)
    return [batch.rows(slice(first, first + size)) for first in range(0, len(batch), size)]
