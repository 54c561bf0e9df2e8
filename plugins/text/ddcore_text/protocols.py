"""How small transformers are trained on sentences."""

from collections.abc import Mapping

from ddcore.training import Protocol

TEXT = Protocol(
    name="text",
    summary="small transformers on sentences: AdamW 5e-4, warm-up, cosine",
    epochs=10,
    warmup=1,
    extra_epoch=False,
    optimizer="adamw",
    rate=5e-4,
    batch=64,
    weight_decay=0.01,
    decay_biases=False,
    schedule_name="cosine",
    augment="none",
)

EMBEDDED = Protocol(
    name="embedded",
    summary="small networks on few rows of word vectors: AdamW 1e-3, cosine",
    epochs=300,
    extra_epoch=False,
    optimizer="adamw",
    rate=1e-3,
    batch=64,
    weight_decay=0.01,
    decay_biases=False,
    schedule_name="cosine",
    augment="none",
    full_epochs=3,
)

PROTOCOLS: Mapping[str, Protocol] = {each.name: each for each in (TEXT, EMBEDDED)}
