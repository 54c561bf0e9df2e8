"""A small variational autoencoder of images (Kingma and Welling, arXiv:1312.6114), to change them by its code; its
command trains one.

    python -m ddcore_hard.autoencoder --data DATA --out FILE

Shape letters: B images, C H W pixels, D numbers of a code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddcore.data import open_source
from ddcore.errors import DdcoreError, InputError
from ddcore.randomness import drawing_from, generator
from ddcore.storage import Place, load_tensors, read_metadata, save_tensors

KIND = "ddcore-hard autoencoder"
DEVIATION = 0.1
"""Of a pixel around what the decoder says."""


class Autoencoder(nn.Module):
    """Two convolutions of stride 2 and two linear layers to a code; the way back by a linear layer and two that double
    the sides.

    There is neither dropout nor batch norm: train and eval mode are the same.

    Args:
        channels: C.
        size: H and W; 4 or more.
        latent: D.
        width: of the first convolution; the second has twice as many channels.
    """

    def __init__(self, channels: int, size: int, latent: int, width: int = 32) -> None:
        super().__init__()
        half = (size + 1) // 2
        self.shape = {"channels": channels, "size": size, "latent": latent, "width": width}
        self.sizes = (size, half, (half + 1) // 2)
        units = 2 * width * self.sizes[2] ** 2
        self.down = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.mean, self.log_variance = nn.Linear(units, latent), nn.Linear(units, latent)
        self.first = nn.Linear(latent, units)
        self.up = nn.ModuleList([nn.Conv2d(2 * width, width, 3, 1, 1), nn.Conv2d(width, channels, 3, 1, 1)])

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of each image's code, (B, D) each, for images (B, C, H, W) in [0, 1]."""
        found = self.down(images)
        return self.mean(found), self.log_variance(found)

    def decode(self, code: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] for codes (B, D)."""
        small = self.first(code).relu().view(len(code), -1, self.sizes[2], self.sizes[2])
        middle = self.up[0](F.interpolate(small, self.sizes[1])).relu()
        return self.up[1](F.interpolate(middle, self.sizes[0])).sigmoid()  # type: ignore[no-any-return]

    def moved(self, images: Tensor, code: Tensor, shift: Tensor) -> Tensor:
        """Images (B, C, H, W) with what their codes say exchanged for what shifted ones say; what the codes leave out
        stays.

        Args:
            code, shift: (B, D); no shift leaves the images as they are.
        """
        return images + self.decode(code + shift) - self.decode(code)

    def write(self, place: Place) -> None:
        """Keep weights and shape in a sealed safetensors file."""
        save_tensors(place, self.state_dict(), {"kind": KIND, "shape": json.dumps(self.shape)}, sealed=True)


def negative_elbo(images: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over rows of -ELBO without its constant, a scalar, in nats (arXiv:1312.6114, eq. 10, of a normal decoder).

        sum (x - x')^2 / (2 0.1^2) + 1/2 sum (mean^2 + variance - 1 - log variance)

    Args:
        images, decoded: x and x', (B, C, H, W) in [0, 1].
        mean, log_variance: (B, D) of the codes.
    """
    pixels = (images - decoded).square().flatten(1).sum(1) / (2 * DEVIATION**2)
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
    return (pixels + divergence).mean()


def read(file: str, channels: int, size: int) -> Autoencoder:
    """An autoencoder that was written, for images of a size, with its weights held fixed.

    Raises:
        InputError: there is no such file, it holds something else, or it is for other images.
    """
    place = Place.at(file)
    about = read_metadata(place)
    try:
        if about.get("kind") != KIND:
            raise ValueError
        made = Autoencoder(**json.loads(about["shape"]))
        made.load_state_dict(load_tensors(place, sealed=True))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{file} holds no autoencoder: train one with python -m ddcore_hard.autoencoder") from error
    if (made.shape["channels"], made.shape["size"]) != (channels, size):
        was = f"{made.shape['channels']} channels and {made.shape['size']} pixels"
        raise InputError(f"{file} is for images of {was}, and these have {channels} and {size}: train one on these")
    return made.requires_grad_(False)


def fit(
    images: Tensor,
    latent: int,
    *,
    width: int = 32,
    epochs: int = 20,
    batch: int = 128,
    rate: float = 1e-3,
    seed: int = 0,
    told: Callable[[int, float], None] | None = None,
) -> Autoencoder:
    """Train an autoencoder by Adam.

    Args:
        images: (N, C, H, W) uint8, or float in [0, 1]; H and W the same.
        told: after each epoch, its number from 1 and the mean over its images of what is descended, in nats.
    """
    with drawing_from(generator(seed, "autoencoder")):
        network = Autoencoder(images.shape[1], images.shape[2], latent, width)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for epoch in range(epochs):
        draws, total = generator(seed, "autoencoder", epoch), 0.0
        for rows in torch.randperm(len(images), generator=draws).split(batch):
            taken = pixels_of(images[rows])
            mean, log_variance = network.encode(taken)
            code = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=draws)
            loss = negative_elbo(taken, network.decode(code), mean, log_variance)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        if told is not None:
            told(epoch + 1, total / len(images))
    return network


def pixels_of(images: Tensor) -> Tensor:
    """Images in [0, 1], float32 where they were stored as bytes."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


@torch.no_grad()
def left_out(network: Autoencoder, images: Tensor, batch: int = 512) -> float:
    """Root of the mean square of what codes leave out, over images and pixels, in shares of the range."""
    parts = [pixels_of(part) for part in images.split(batch)]
    squares = [(network.decode(network.encode(part)[0]) - part).square().double().sum() for part in parts]
    return float((torch.stack(squares).sum() / images.numel()).sqrt())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, help="Real data, a name or URL as for ddcore train.")
@click.option("--data-root", default=None, help="Folder that holds data sets by name.")
@click.option("--resize", type=click.IntRange(min=4), default=None, help="Height and width to bring images to.")
@click.option("--out", required=True, help="File to write, .safetensors.")
@click.option("--latent", type=click.IntRange(min=1), default=32, show_default=True, help="Numbers of a code.")
@click.option("--width", type=click.IntRange(min=1), default=32, show_default=True, help="Of the first convolution.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, help="Images a step.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True, help="Adam's.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
def main(
    data: str,
    data_root: str | None,
    resize: int | None,
    out: str,
    latent: int,
    threads: int,
    **training: Any,
) -> None:
    """Train an autoencoder on a data set's training images, for --hard.changes latent."""
    torch.set_num_threads(threads)
    try:
        source = open_source(data, data_root=data_root, resize=resize)
        if source.modality != "images" or source.train.stored.shape[2] != source.train.stored.shape[3]:
            raise InputError(f"{data} holds no square images: give --resize, or other data")
        made = fit(
            source.train.stored,
            latent,
            **training,
            told=lambda epoch, value: click.echo(f"epoch {epoch}: {value:.1f} nats an image", err=True),
        )
        made.write(Place.at(out))
    except DdcoreError as error:
        raise click.ClickException(str(error)) from error
    click.echo(
        f"{out}: codes of {latent} numbers leave out {left_out(made, source.test.stored):.3f} of the range on test images"
    )


if __name__ == "__main__":
    main()
