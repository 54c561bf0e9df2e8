"""Training networks: experts, teachers, students, and the protocols they are trained by.
Names listed here are public."""

from typing import TYPE_CHECKING

from ddcore._later import later

if TYPE_CHECKING:
    from ddcore.training.experts import digest as expert_digest
    from ddcore.training.experts import sole_trainer
    from ddcore.training.label_rules import NEAR_CHANCE, longest, shown_by
    from ddcore.training.label_rules import label as label_by_teachers
    from ddcore.training.loop import (
        FETCHED_AT_ONCE,
        Changes,
        Descent,
        Epoch,
        Keeper,
        accuracy,
        is_finite,
        rate_at,
        still_statistics,
        train_student,
    )
    from ddcore.training.protocols import PROTOCOLS, Protocol
    from ddcore.training.teachers import IMAGENET, TRAINED_HERE, Renormalised, frozen_network, members_of, state_hash
    from ddcore.training.teachers import recipe as teacher_recipe
    from ddcore.training.teaching import EMBEDDING, STAGES, UNPOOLED, Teaching, last_linear, seen_of, tapped
    from ddcore.training.trajectory import UnrollOptions, choose_segment, trajectory_loss

__all__ = [
    "Changes",
    "Descent",
    "EMBEDDING",
    "Epoch",
    "FETCHED_AT_ONCE",
    "IMAGENET",
    "Keeper",
    "NEAR_CHANCE",
    "PROTOCOLS",
    "Protocol",
    "Renormalised",
    "STAGES",
    "UNPOOLED",
    "TRAINED_HERE",
    "Teaching",
    "UnrollOptions",
    "accuracy",
    "choose_segment",
    "expert_digest",
    "frozen_network",
    "is_finite",
    "label_by_teachers",
    "last_linear",
    "longest",
    "members_of",
    "rate_at",
    "seen_of",
    "shown_by",
    "sole_trainer",
    "state_hash",
    "still_statistics",
    "tapped",
    "teacher_recipe",
    "train_student",
    "trajectory_loss",
]

__getattr__ = later(
    __name__,
    {
        "experts": {"expert_digest": "digest", "sole_trainer": "sole_trainer"},
        "label_rules": {
            "NEAR_CHANCE": "NEAR_CHANCE",
            "label_by_teachers": "label",
            "longest": "longest",
            "shown_by": "shown_by",
        },
        "loop": (
            "Changes",
            "Descent",
            "Epoch",
            "FETCHED_AT_ONCE",
            "Keeper",
            "accuracy",
            "is_finite",
            "rate_at",
            "still_statistics",
            "train_student",
        ),
        "protocols": ("PROTOCOLS", "Protocol"),
        "teachers": {
            "IMAGENET": "IMAGENET",
            "Renormalised": "Renormalised",
            "TRAINED_HERE": "TRAINED_HERE",
            "frozen_network": "frozen_network",
            "members_of": "members_of",
            "state_hash": "state_hash",
            "teacher_recipe": "recipe",
        },
        "teaching": ("EMBEDDING", "STAGES", "UNPOOLED", "Teaching", "last_linear", "seen_of", "tapped"),
        "trajectory": ("UnrollOptions", "choose_segment", "trajectory_loss"),
    },
    once="loop",
)
