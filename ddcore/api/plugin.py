"""``Plugin``, which every plugin class is derived from, and ``option``, which makes its fields; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs import field

from ddcore._documented import with_attributes
from ddcore.api import hooks as hookspecs

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from ddcore.api.services import Run
    from ddcore.api.types import Subject
    from ddcore.storage.places import Place

GROUP = "ddcore"
CORE_DISTRIBUTION = "ddcore-torch"
ASSETS: Mapping[str, str] = {"trajectories": "experts", "teachers": "teachers"}
"""What a run makes before its tasks begin, for plugins that need it, with the group of options that says how."""
PACK = "data"
DENSE = "dense"  # in ``Plugin.modality``: rows of one shape in numbers, (D,), (C, L) or (C, H, W), whatever of
ROLES = ("matcher", "enhancement", "labels", "student", "evaluator", PACK, "executor", "tracker")


@with_attributes
class Plugin:
    """What every plugin class is derived from: a method, or a part of one, that a run selects by ``--plugin NAME``.

    Its fields, made by ``option``, are the hyper-parameters; its methods marked ``@hookimpl`` are what it does, each called like
    a hook of ``ddcore.api.hooks``; class attributes and the methods below say what else a run has to know. Override what is not so.

        @frozen(kw_only=True, eq=False)
        class Soften(Plugin):
            view_phases: ClassVar[tuple[str, ...]] = ("match",)
            factor: float = option(0.5, help="what pixels are multiplied by", validator=gt(0))
            @hookimpl
            def ddcore_view(self, batch: Batch) -> Batch:
                return batch.with_inputs(self.factor * batch.inputs)

    ``ddcore plugins new`` writes a package of each kind. Attributes, with what they are unless overridden:
    """

    role: ClassVar[str] = "enhancement"  # one of ROLES; a run has exactly one matcher
    summary: ClassVar[str] = ""  # one line
    paper: ClassVar[str] = ""  # title, venue, arXiv id
    modality: ClassVar[frozenset[str]] = frozenset({"images"})  # what data may be: images, text, a pack's own, DENSE
    api: ClassVar[str] = hookspecs.API_VERSION  # which hook API it was written for; say it in the class itself
    presets: ClassVar[str | None] = None  # TOML resource of the package: settings by data and images per class
    cells: ClassVar[str | None] = None  # and one of published figures, each with the command that makes it anew
    neutral: ClassVar[Mapping[str, object]] = {}  # option values under which the plugin changes nothing
    tiny: ClassVar[Mapping[str, object]] = {}  # and under which a step on a few 8x8 images is cheap
    moved: ClassVar[Mapping[str, str]] = {}  # former option to where it is now, ``{"width": "graphs.width"}``

    # ---- what goes together ----
    needs: ClassVar[tuple[str, ...]] = ()  # assets, ``class_logits`` of students, words of a matcher's ``asks``
    may_need: ClassVar[tuple[str, ...]] = ()  # assets that only some option values need: see ``assets``
    conflicts: ClassVar[Mapping[str, str]] = {}  # plugin name to the reason why the two do not go together
    assumes: ClassVar[Mapping[str, str]] = {}  # fact about data (``mirror_symmetric``) to why: warned of if not so
    packs: ClassVar[tuple[str, ...]] = ()  # plugins of role ``data``, selected with it, that it may import
    probe_file: ClassVar[str | None] = None  # of a pack: file with a matcher that the contract kit tries plugins with
    # ---- of a matcher ----
    asks: ClassVar[tuple[str, ...]] = ()  # of enhancements, as ``view:match``; each ``setting:NAME`` must change steps
    learns: ClassVar[tuple[str, ...]] = ()  # roles of what it learns
    steps: ClassVar[int | None] = None  # default outer steps
    of_classes: ClassVar[bool] = True  # whether it looks at labels: what does not works on data without any
    students: ClassVar[tuple[str, ...]] = ()  # of other data than images: networks of rows; empty: all on offer
    gives_way: ClassVar[bool] = False  # beside another matcher it is an enhancement: neither learns nor suggests labels

    # ---- where hooks apply, and names they answer to ----
    view_phases: ClassVar[tuple[str, ...]] = ()  # of ``ddcore_view``
    augment_phases: ClassVar[tuple[str, ...]] = ()  # of ``ddcore_augment``
    settings: ClassVar[tuple[str, ...]] = ()  # of ``ddcore_setting``
    initializers: ClassVar[tuple[str, ...]] = ()  # for ``--init``, ``--rows``; it suggests the first, but for
    suggests: ClassVar[str | None] = None  # another, which may be the core's; empty: none
    of_real: ClassVar[Mapping[str, str]] = {}  # initialiser to "unchanged", or what it makes of real images, in words
    labellers: ClassVar[tuple[str, ...]] = ()  # for ``--labels``; the first is what it suggests, but for
    suggests_labels: ClassVar[str | None] = None  # another, which may be the core's; empty: none
    label_kinds: ClassVar[Mapping[str, str]] = {}  # labeller to the kind it makes, if not called like it
    protocols: ClassVar[tuple[str, ...]] = ()  # of ``ddcore_protocol``; an entry point ``ddcore.protocols`` for each
    student_sets: ClassVar[tuple[str, ...]] = ()  # of ``ddcore_student_data``, for ``--rows``, ``run.score``
    datasets: ClassVar[tuple[str, ...]] = ()  # for ``--dataset``
    networks: ClassVar[tuple[str, ...]] = ()  # for ``--network``; a pack suggests the first for its data, or
    suggests_network: ClassVar[str | None] = None  # another, which may be the core's
    metrics: ClassVar[Mapping[str, str]] = {}  # numbers of ``ddcore_examine`` with rows: ``larger`` or ``smaller``
    executors: ClassVar[tuple[str, ...]] = ()  # for ``--executor``
    exempt: ClassVar[Mapping[str, str]] = {}  # ``class-names`` or ``row-order``, checks of the kit, to why it fails
    decoders: ClassVar[Mapping[str, Any]] = {}  # of a local file: operation to class; else entry points are asked
    whole_batches: ClassVar[bool] = False  # whether its student loss compares rows: batches are not cut then

    def cost(self, run: Any) -> Any:
        """Of a matcher: what an outer step costs (``ddcore.Cost``), for the estimate before a run."""
        from ddcore.api.types import Cost  # imports torch

        return Cost()

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """Which of ``trajectories`` and ``teachers`` a run makes first: with ``initializer`` if that is one of this plugin's."""
        return tuple(asset for asset in self.needs if asset in ASSETS)

    def label_sizes(self, run: Any) -> Mapping[str, Any]:
        """What the price of labels that it makes or learns depends on, by the words of their kind: ``width`` of ``vectors``."""
        return {}

    def suggests_protocol(self, subject: Subject) -> str | None:
        """The protocol that fits such a set: what ``--protocol auto`` takes, of the first plugin selected that does not say None."""
        return None

    def recognises(self, place: Place) -> str | None:
        """Which of ``datasets`` lies at a place that exists and ``--dataset`` gives without a name before it; None: none of them."""
        return None

    def preview(self, samples: Any, classes: Any, run: Run) -> bytes:
        """Of a pack: a PNG of a finished set, samples (N, ...) in the data's units, classes (N,), on the CPU; empty: the core draws."""
        return b""

    def taps(self) -> tuple[str, ...]:
        """Features that ``ddcore_student_loss`` reads of students and teachers: see ``ddcore.training.teaching``."""
        return ()

    def visited(self, count: int) -> int:
        """How many of ``count`` rows ``ddcore_student_rows`` will choose for an epoch: a protocol's epochs become steps by it."""
        return count

    def student_identity(self, run: Any) -> Mapping[str, object] | None:
        """What students depend on that this plugin shapes, as JSON values: those with others never stand in one column.

        Add digests of what is loaded. ``network`` names what students are where ``--network`` is out of use. None: nothing is shaped.
        """
        return attrs.asdict(self, filter=lambda field, _: not field.metadata.get("secret"))  # type: ignore[arg-type]

    def label_factor(self) -> float:
        """``Term.labels`` of its terms, known before any training: an option ``label_weight`` if it has one; 0: labels are not learned."""
        return float(getattr(self, "label_weight", 1.0))

    def module_optimizer(self, modules: nn.Module, rate: float) -> Optimizer | None:
        """The optimiser of what ``ddcore_student_modules`` made, made once when a student begins or goes on.

        One over some of the parameters of ``modules``, stepped after the student's; None: they join the student's. ``rate`` is the
        student's, at its start; the optimiser's own rates rise and fall as the student's does.
        """
        return None

    def expert_options(self) -> Mapping[str, object] | None:
        """Which option values ``ddcore_expert_loss`` and ``ddcore_expert_optimizer`` depend on.

        Experts are kept, and found again, under these. None: they come out as without the plugin, and neither hook is asked.
        """
        return attrs.asdict(self)  # type: ignore[arg-type]


def option(
    default: Any,
    *,
    help: str,
    symbol: str = "",
    unit: str = "",
    validator: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
    secret: bool = False,
) -> Any:
    """A hyper-parameter of a plugin: a field of its attrs class, and ``--my-plugin.name`` on the command line.

    Args:
        default, symbol: the paper's.
        help: one line for ``--help``.
        unit: steps, epochs, images, pixels, a step.
        validator: attrs', for the range; of several all have to hold.
        secret: never written to a record.
    """
    said = {"help": help, "symbol": symbol, "unit": unit, "secret": secret}
    return field(default=default, validator=validator, metadata=said)
