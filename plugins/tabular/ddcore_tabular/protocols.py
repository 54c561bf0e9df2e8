"""How networks are trained on rows of tables."""

from collections.abc import Mapping

from ddcore.training import Protocol

TABULAR = Protocol(
    name="tabular",
    summary="networks of table rows: AdamW 1e-3, cosine, 300 epochs",
    epochs=300,
    extra_epoch=False,
    optimizer="adamw",
    rate=1e-3,
    batch=256,
    weight_decay=0.01,
    decay_biases=False,
    schedule_name="cosine",
    augment="none",
    full_epochs=100,
)

PROTOCOLS: Mapping[str, Protocol] = {TABULAR.name: TABULAR}
