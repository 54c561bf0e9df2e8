"""How students are trained on series."""

from collections.abc import Mapping

from ddcore.training import Protocol

SERIES = Protocol(
    name="series",
    summary="networks on series: Adam 1e-3, cosine, 300 epochs, no augmentation",
    epochs=300,
    extra_epoch=False,
    optimizer="adam",
    rate=1e-3,
    batch=64,
    momentum=0.0,
    weight_decay=0.0,
    schedule_name="cosine",
    augment="none",
    full_epochs=300,
)

PROTOCOLS: Mapping[str, Protocol] = {"series": SERIES}
