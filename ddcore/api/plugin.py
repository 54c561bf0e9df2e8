"""Finding plugins: by entry point, one by one, and only those that were named. Nothing here imports torch.

A plugin is an attrs class: its fields are the method's hyper-parameters, its ``@hookimpl`` methods are the method. What
else ddcore has to know about it before a run stands in class attributes of ``Plugin``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from attrs import field

from ddcore.api import hooks as hookspecs

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

GROUP = "ddcore"
CORE_DISTRIBUTION = "ddcore-torch"
ASSETS: Mapping[str, str] = {"trajectories": "experts", "teachers": "teachers"}
"""What a run makes before its tasks begin, for plugins that need it, with the group of options that says how."""
PACK = "data"
ROLES = ("matcher", "enhancement", "labels", "student", "evaluator", PACK, "executor", "tracker")


class Plugin:
    """What every plugin class is derived from; override what is not so.

    Attributes:
        role: one of ``ROLES``; a run has exactly one matcher.
        summary: one line.
        paper: title, venue, arXiv id.
        modality: what the data may be: images, text, graphs, features.
        view_phases, augment_phases, settings: where ``ddcore_view``, ``ddcore_augment``, ``ddcore_setting`` apply.
        initializers, labellers: names offered for ``--init`` and ``--labels``; the first is what the plugin suggests.
        suggests, suggests_labels: the initialiser that runs start from, and the rule that labels, unless told otherwise, if not
            the first offered; may be the core's; empty: it suggests none.
        label_kinds: the kind of labels that a labeller makes, where it is not called like that: it says which protocol is meant.
        student_sets: names that ``ddcore_student_data`` answers, for ``run.score``.
        datasets, networks, executors: names offered for ``--dataset``, ``--network``, ``--executor``.
        decoders: operation of decoders that a local file brings to its class; an installed plugin has an entry point
            ``ddcore.decoders`` for each (see ``ddcore.sets.decoders``), so that its sets open where it is not selected.
        packs: modality packs that it stands on: plugins of role ``data``, selected with it, whose modules it may import.
        probe: of a modality pack: file in its package with a matcher that the contract kit tries plugins of the modality with.
        students: of a matcher on other data than images: networks that score its sets unless ``--eval-network`` names others; empty:
            all that the run's plugins offer.
        moved: option that it had once to where that is now, ``{"width": "graphs.width"}``: the old one is refused by name, and
            what was saved under it is read as the new.
        asks: of a matcher: what it asks of enhancements, for example ``view:match``; else it would be ignored. Of each
            ``setting:NAME`` among them the value must change what its steps do.
        learns: of a matcher: roles of what it learns.
        steps: of a matcher: default outer steps.
        needs: what has to be there: ``trajectories``, ``teachers``, or words of a matcher's ``asks``.
        may_need: assets that only some option values need: see ``assets``.
        gives_way: of a matcher: beside another matcher it is an enhancement; its ``ddcore_learn`` is not asked, and what it
            suggests for labels is not heard.
        conflicts: plugin name to the reason why the two do not go together.
        assumes: fact about the data (``mirror_symmetric``) to the reason why the method needs it: a warning where not so.
        whole_batches: whether its student loss compares the rows of a batch, so that batches are not cut into parts.
        neutral: option values under which the plugin changes nothing.
        tiny: option values under which a step on a few 8x8 images is cheap, for the contract kit.
        presets: TOML resource in the plugin's package with settings per data set and images per class.
        api: hook API version it was written for, as text in the class itself: ``plugins check`` wants it.
    """

    role: ClassVar[str] = "enhancement"
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    modality: ClassVar[frozenset[str]] = frozenset({"images"})
    view_phases: ClassVar[tuple[str, ...]] = ()
    augment_phases: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[tuple[str, ...]] = ()
    initializers: ClassVar[tuple[str, ...]] = ()
    labellers: ClassVar[tuple[str, ...]] = ()
    suggests: ClassVar[str | None] = None
    suggests_labels: ClassVar[str | None] = None
    label_kinds: ClassVar[Mapping[str, str]] = {}
    student_sets: ClassVar[tuple[str, ...]] = ()
    datasets: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ()
    executors: ClassVar[tuple[str, ...]] = ()
    decoders: ClassVar[Mapping[str, Any]] = {}
    packs: ClassVar[tuple[str, ...]] = ()
    probe: ClassVar[str | None] = None
    students: ClassVar[tuple[str, ...]] = ()
    moved: ClassVar[Mapping[str, str]] = {}
    asks: ClassVar[tuple[str, ...]] = ()
    learns: ClassVar[tuple[str, ...]] = ()
    steps: ClassVar[int | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    may_need: ClassVar[tuple[str, ...]] = ()
    gives_way: ClassVar[bool] = False
    conflicts: ClassVar[Mapping[str, str]] = {}
    assumes: ClassVar[Mapping[str, str]] = {}
    whole_batches: ClassVar[bool] = False
    neutral: ClassVar[Mapping[str, object]] = {}
    tiny: ClassVar[Mapping[str, object]] = {}
    presets: ClassVar[str | None] = None
    api: ClassVar[str] = hookspecs.API_VERSION

    def cost(self, run: Any) -> Any:
        """Of a matcher: what an outer step costs (``ddcore.Cost``), for the estimate before a run."""
        from ddcore.api.types import Cost

        return Cost()

    def assets(self, initializer: str | None) -> tuple[str, ...]:
        """What the run has to make before its tasks begin, of ``trajectories`` and ``teachers``, under these option values.

        Args:
            initializer: one that the run uses and this plugin offers, else None.
        """
        return tuple(asset for asset in self.needs if asset in ASSETS)

    def taps(self) -> tuple[str, ...]:
        """Features that ``ddcore_student_loss`` reads of students and teachers: ``stage2``, ``embedding``, a module's path.

        ``stage*`` reads all stages that each of them has. See ``ddcore.training.teaching``.
        """
        return ()

    def visited(self, count: int) -> int:
        """How many of ``count`` rows an epoch of a student visits under ``ddcore_student_rows``, as far as known beforehand.

        A protocol's epochs become steps by it; where the rows turn out otherwise, the steps stay.
        """
        return count

    def label_factor(self) -> float:
        """What this plugin's terms multiply the labels' own loss by, ``Term.labels``, as known before any training.

        An option ``label_weight``, where a plugin has one, is taken for it. 0: students do not learn their labels.
        """
        return float(getattr(self, "label_weight", 1.0))

    def module_optimizer(self, modules: nn.Module, rate: float) -> Optimizer | None:
        """The optimiser of what ``ddcore_student_modules`` made, made once when a student begins or goes on.

        Args:
            rate: the student's, at its start. The optimiser's own rates rise and fall as the student's does.

        Returns:
            One over some of the parameters of ``modules``, stepped after the student's; None: they join the student's.
        """
        return None

    def expert_options(self) -> Mapping[str, object] | None:
        """Which option values ``ddcore_expert_loss`` and ``ddcore_expert_optimizer`` depend on.

        Experts are kept, and found again, under these. None: with these values the experts come out as without the plugin,
        so that neither hook is asked.
        """
        return attrs.asdict(self)  # type: ignore[arg-type]


def option(
    default: Any,
    *,
    help: str,
    symbol: str = "",
    unit: str = "",
    validator: Callable[..., Any] | None = None,
    secret: bool = False,
) -> Any:
    """A hyper-parameter of a plugin: a field of its attrs class.

    Args:
        default: the paper's.
        help: one line for ``--help``.
        symbol: the paper's.
        unit: steps, epochs, images, pixels, a step.
        validator: attrs', for the range.
        secret: never written to a record.
    """
    metadata_ = {"help": help, "symbol": symbol, "unit": unit, "secret": secret}
    return field(default=default, validator=validator, metadata=metadata_)
