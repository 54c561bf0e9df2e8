"""Post-training quantisation of a distilled set's images: 8, 4 or 2 bits a pixel instead of a float's 32.

    level = round((x - low_c) / s_c),  s_c = (high_c - low_c) / (2^b - 1)

in each channel c, when everything is learned; low and high are the channel's ends. Uniform affine quantisation as of
networks' weights (Nagel et al., A White Paper on Neural Network Quantization, arXiv:2106.08295, equations 4 to 7),
applied to pixels. The core decodes it, so a reader needs no plugin, and labels that are made of the images are made of
the quantised ones.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

import attrs
import torch
from attrs import frozen
from attrs.validators import and_, ge, in_, lt
from torch import Tensor

from ddcore import Plugin, Synthetic, hookimpl, option
from ddcore.sets import BITS, Quality, quality, to_levels

if TYPE_CHECKING:
    from ddcore import Decoder, Normalisation, Run

AT_ONCE = 256
"""Images that are compared at a time."""


def error_of(
    exact: tuple["Decoder", Mapping[str, Tensor]],
    stored: tuple["Decoder", Mapping[str, Tensor]],
    normalisation: "Normalisation",
) -> Quality:
    """How far images decoded from ``stored`` are from those of ``exact``, where real pixels span 0 to 1."""

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.arange(exact[0].count(exact[1])).split(AT_ONCE):
            one, other = (normalisation.inverse(decoder.sample(held, index)) for decoder, held in (exact, stored))
            yield one, other

    return quality(pairs())


@frozen(kw_only=True, eq=False)
class Quantize(Plugin):
    """Store fewer bits."""

    api: ClassVar[str] = "2.0"
    summary: ClassVar[str] = "stores pixels in 8, 4 or 2 bits, and says what that costs"
    paper: ClassVar[str] = "A White Paper on Neural Network Quantization, 2021, arXiv:2106.08295"
    modality: ClassVar[frozenset[str]] = frozenset({"images", "dense"})

    bits: int = option(8, help="of a stored pixel: 8, 4 or 2", symbol="b", unit="bits", validator=in_(BITS))
    clip: float = option(
        0.0,
        help="share of a channel's values at each end that may become the end, for finer levels between",
        validator=and_(ge(0), lt(0.5)),
    )

    @hookimpl
    def ddcore_store(self, synthetic: Synthetic, run: "Run") -> Synthetic:
        """Levels instead of floats, and the error among the notes."""
        normalisation = run.normalisation
        tensors, decoder = to_levels(synthetic.tensors, synthetic.decoder, normalisation, self.bits, self.clip)
        exact, stored = run.decoder(synthetic.decoder), run.decoder(decoder)
        found = error_of((exact, synthetic.tensors), (stored, tensors), normalisation)
        if run.source.modality == "images":
            note = f"pixels are stored in {self.bits} bits: {found}, where real pixels span 0 to 1"
        else:
            note = f"values are stored in {self.bits} bits, off by at most {found.largest:.3g} in the data's units"
        return attrs.evolve(synthetic, tensors=tensors, decoder=decoder, notes=(*synthetic.notes, note))
