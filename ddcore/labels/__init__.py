"""Labels of a synthetic set: what is stored, in which order and under which changes it is visited, and what it costs.

A label kind answers ``views`` (which samples a batch holds, and what is done to them) and ``targets`` (what the student
is told about them, in the vocabulary of ``ddcore.api.types.TARGETS``). Kinds that store a label for each view own
order, batches, crops and mixes; hard and soft labels leave all of that to the protocol. Everything here is defined in
``ddcore.labels`` and ``ddcore.images.views``; this module is the name to import from.
"""

from ddcore.images.views import View
from ddcore.labels.encoders import CLIP_IMAGES, Encoder, Prompts, Public, feature_tensors, last_layer, resized
from ddcore.labels.labels import (
    Labels,
    Prospect,
    as_ids,
    at_rows,
    check_ids,
    float32_or_16,
    mixed_classes,
    smallest_type,
    stored,
)
from ddcore.labels.losses import (
    LOSSES,
    distance_gap,
    distances,
    kl_divergence,
    mixed_cross_entropy,
    soft_cross_entropy,
    student_loss,
)
from ddcore.labels.making import (
    agreement,
    answers,
    asking,
    draw_views,
    make_per_view,
    mean_logits,
)
from ddcore.labels.per_image import HardLabels, SoftLabels, StaticMixedLabels, check_temperature
from ddcore.labels.per_view import PerView, PerViewLabels, TopKLabels, TwoDistanceLabels, densified, spread, top_k
from ddcore.labels.sizes import label_bytes, label_parts
from ddcore.labels.vectors import VectorLabels
from ddcore.labels.view_records import DrawnViews, StoredViews, ViewRecord, batches_of

LABEL_KINDS = "ddcore.labels"
"""Entry points of kinds that plugins bring, by name: an artifact with such labels opens wherever the plugin is
installed."""
KINDS: dict[str, type[Labels]] = {
    kind.kind: kind
    for kind in (
        HardLabels,
        SoftLabels,
        StaticMixedLabels,
        PerViewLabels,
        TopKLabels,
        TwoDistanceLabels,
        VectorLabels,
    )
}

__all__ = [
    "CLIP_IMAGES",
    "KINDS",
    "LABEL_KINDS",
    "LOSSES",
    "DrawnViews",
    "Encoder",
    "HardLabels",
    "Labels",
    "PerView",
    "PerViewLabels",
    "Prompts",
    "Prospect",
    "Public",
    "SoftLabels",
    "StaticMixedLabels",
    "StoredViews",
    "TopKLabels",
    "TwoDistanceLabels",
    "VectorLabels",
    "View",
    "ViewRecord",
    "agreement",
    "answers",
    "as_ids",
    "asking",
    "at_rows",
    "batches_of",
    "check_ids",
    "check_temperature",
    "densified",
    "distance_gap",
    "distances",
    "draw_views",
    "feature_tensors",
    "float32_or_16",
    "kl_divergence",
    "label_bytes",
    "label_parts",
    "last_layer",
    "make_per_view",
    "mean_logits",
    "mixed_classes",
    "mixed_cross_entropy",
    "resized",
    "smallest_type",
    "soft_cross_entropy",
    "spread",
    "stored",
    "student_loss",
    "top_k",
]
