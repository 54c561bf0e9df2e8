"""What is done to pixels: augmentation, views, patches, selection, pictures. Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.images.augment import DSA_COLOUR, DSA_DIGITS, draw, flip, parse_strategy
    from ddcore.images.patches import (
        MOSAICS,
        Ranks,
        crop_boxes,
        cut,
        fittest,
        of_slot,
        patch_losses,
        patches_a_side,
        ranked,
        stitch,
    )
    from ddcore.images.selection import kcenter, random_choice
    from ddcore.images.shared_view import Cropping, ViewRule, seen_in_step
    from ddcore.images.tiles import formed, tile_count, tiled
    from ddcore.images.views import (
        ATTEMPTS,
        LARGE,
        RESIZED,
        SHIFTED,
        Draw,
        beta,
        changed,
        crop_resize,
        cutmix,
        cutmix_box,
        drawn,
        mixup,
        transform,
    )

__all__ = [
    "ATTEMPTS",
    "Cropping",
    "DSA_COLOUR",
    "DSA_DIGITS",
    "Draw",
    "LARGE",
    "MOSAICS",
    "RESIZED",
    "Ranks",
    "SHIFTED",
    "ViewRule",
    "beta",
    "changed",
    "crop_boxes",
    "crop_resize",
    "cut",
    "cutmix",
    "cutmix_box",
    "draw",
    "drawn",
    "fittest",
    "flip",
    "formed",
    "kcenter",
    "mixup",
    "of_slot",
    "parse_strategy",
    "patch_losses",
    "patches_a_side",
    "random_choice",
    "ranked",
    "seen_in_step",
    "stitch",
    "tile_count",
    "tiled",
    "transform",
]

__getattr__ = later(
    __name__,
    {
        "augment": ("DSA_COLOUR", "DSA_DIGITS", "draw", "flip", "parse_strategy"),
        "patches": (
            "MOSAICS",
            "Ranks",
            "crop_boxes",
            "cut",
            "fittest",
            "of_slot",
            "patch_losses",
            "patches_a_side",
            "ranked",
            "stitch",
        ),
        "selection": ("kcenter", "random_choice"),
        "shared_view": ("Cropping", "ViewRule", "seen_in_step"),
        "tiles": ("formed", "tile_count", "tiled"),
        "views": (
            "ATTEMPTS",
            "Draw",
            "LARGE",
            "RESIZED",
            "SHIFTED",
            "beta",
            "changed",
            "crop_resize",
            "cutmix",
            "cutmix_box",
            "drawn",
            "mixup",
            "transform",
        ),
    },
)
