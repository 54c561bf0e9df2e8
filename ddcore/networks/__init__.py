"""Networks and exact passes through them. Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.networks.batch_statistics import FIRST, inversion_loss, require_layers
    from ddcore.networks.cifar_networks import staged_resnet
    from ddcore.networks.curvature import slope
    from ddcore.networks.outside import weights_url as torchvision_url
    from ddcore.networks.parts_of_loss import with_gradient
    from ddcore.networks.passes import (
        CHUNK,
        TRAINING_CHUNK,
        Crew,
        channels_last,
        chunk_of,
        embed,
        features,
        lay_out,
        logits,
        quick_norms,
    )
    from ddcore.networks.precision import unit_rows, wide
    from ddcore.networks.unroll import MICRO_BATCH, flat_weights, weights_view
    from ddcore.networks.vision import import_torchvision
    from ddcore.networks.zoo import build, mixes_samples, unknown_network

__all__ = [
    "CHUNK",
    "Crew",
    "FIRST",
    "MICRO_BATCH",
    "TRAINING_CHUNK",
    "build",
    "channels_last",
    "chunk_of",
    "embed",
    "features",
    "flat_weights",
    "import_torchvision",
    "inversion_loss",
    "lay_out",
    "logits",
    "mixes_samples",
    "quick_norms",
    "require_layers",
    "slope",
    "staged_resnet",
    "torchvision_url",
    "unit_rows",
    "unknown_network",
    "weights_view",
    "wide",
    "with_gradient",
]

__getattr__ = later(
    __name__,
    {
        "batch_statistics": ("FIRST", "inversion_loss", "require_layers"),
        "cifar_networks": ("staged_resnet",),
        "curvature": ("slope",),
        "outside": {"torchvision_url": "weights_url"},
        "parts_of_loss": ("with_gradient",),
        "passes": (
            "CHUNK",
            "Crew",
            "TRAINING_CHUNK",
            "channels_last",
            "chunk_of",
            "embed",
            "features",
            "lay_out",
            "logits",
            "quick_norms",
        ),
        "precision": ("unit_rows", "wide"),
        "unroll": ("MICRO_BATCH", "flat_weights", "weights_view"),
        "vision": ("import_torchvision",),
        "zoo": ("build", "mixes_samples", "unknown_network"),
    },
    once="zoo",
)
