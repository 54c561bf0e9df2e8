"""What a run offers to those who are asked by it, as Protocols: the reference of ``run`` in every hook.

``Run`` holds the members that methods use. The others are what its members, and arguments of hooks, are: real data, labels,
teachers, experts, a finished set. Whoever has these members will do, so that a test can put something small in a run's place.
Shape letters: B rows of a batch, N rows of a set, C H W pixels, K classes, P weights, L tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from attrs import field, frozen

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor, nn

    from ddcore.api.types import Arm, Batch, Progress, Row, Seen, Segment, Task, Transform, Vote
    from ddcore.config import Config
    from ddcore.randomness import Key
    from ddcore.storage.checkpoints import Checkpoints
    from ddcore.storage.places import Place
    from ddcore.storage.progress import Tick


class Samples(Protocol):
    """Labelled samples that are fetched by index, normalised: ``run.real.train``, or what a student is trained on."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64 on the CPU."""

    def __len__(self) -> int: ...

    def inputs(self, index: Tensor) -> Tensor:
        """Images (n, C, H, W) in the run's float type, or tokens (n, L) int64, at ``index`` (n,) int64; on the run's device."""


class Source(Protocol):
    """Real data as loaded, train and test; what a modality pack's source has besides is between it and its users."""

    @property
    def name(self) -> str:
        """As records name it."""

    @property
    def train(self) -> Any:
        """What may be learned from: ``stored`` (N, C, H, W) uint8 in 0..255 or float32 in [0, 1], or tokens (N, L); ``labels`` (N,)."""

    @property
    def test(self) -> Any:
        """What only scores may touch."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the labels."""

    @property
    def modality(self) -> str:
        """``images``, ``text``, or what a modality pack says."""

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour; of text the size of its vocabulary."""

    @property
    def size(self) -> int:
        """Height and width in pixels; of text L."""

    @property
    def mirror_symmetric(self) -> bool:
        """Whether the mirror image of an image is a plausible member of its class."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over images, labels and class names."""

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of ``train`` in [0, 1]; empty of other data than images."""

    def counts(self) -> list[int]:
        """Train samples of each class."""


class Normalisation(Protocol):
    """Images in [0, 1] to normalised ones and back; float type and device are kept."""

    @property
    def pixelwise(self) -> bool:
        """Whether it acts on each pixel alone."""

    def apply(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1], normalised."""

    def inverse(self, images: Tensor) -> Tensor:
        """What ``apply`` maps to these; not clamped."""

    def header(self) -> dict[str, Any]:
        """JSON values that say which map it is."""

    def clamped(self, images: Tensor) -> Tensor:
        """The nearest images (B, C, H, W) whose ``inverse`` lies in [0, 1]."""


class RealPart(Samples, Protocol):
    """One part of the real data, which also knows where its classes are."""

    def of_class(self, cls: int) -> Tensor:
        """(n,) int64 on the CPU: where the samples of a class are, ascending."""


class Real(Protocol):
    """The real data, normalised, on the run's device."""

    @property
    def source(self) -> Source:
        """As loaded."""

    @property
    def normalisation(self) -> Normalisation:
        """What maps [0, 1] to the space of its images."""

    @property
    def train(self) -> RealPart:
        """The part that may be learned from."""

    @property
    def test(self) -> RealPart:
        """The part that only scores may touch."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the labels."""

    def counts(self) -> list[int]:
        """Train samples of each class."""

    def choose(self, cls: int, count: int, generator: Generator) -> Tensor:
        """(count,) int64 on the CPU: distinct random train samples of a class; of a smaller class in rounds."""

    def sample(self, cls: int, count: int, generator: Generator) -> Tensor:
        """Random train images (count, C, H, W) of a class."""


class Labels(Protocol):
    """Labels of N samples. A kind is derived from ``ddcore.labels.Labels``, which says how students are shown and told them."""

    @property
    def kind(self) -> str:
        """Its name in a manifest."""

    @property
    def classes(self) -> Tensor:
        """(N,) int64 on the CPU: the class each sample is of."""

    @property
    def class_count(self) -> int:
        """K."""

    def __len__(self) -> int: ...


@frozen(eq=False)
class StudentData:
    """What one student is trained on.

    Attributes:
        images: (N, C, H, W) normalised, or samples that are fetched by index.
        labels: ``ddcore.labels.Labels`` of the N images.
        bytes: what they cost, by ``images``, ``labels``, ``models`` and ``total``; empty: as much as so many real images of uint8.
    """

    images: Tensor | Samples
    labels: Any
    bytes: Mapping[str, int] = field(factory=dict)


class Executor(Protocol):
    """Does tasks somewhere."""

    def map(self, run_url: str, tasks: Sequence[Mapping[str, Any]], jobs: int, done: Callable[[str], None]) -> None:
        """Do every task, ``jobs`` at a time at most; ``done`` is called in this process with each finished task's key.

        A worker rebuilds everything from the ``run.json`` of ``run_url``; ``ddcore.runs.work`` reads descriptions of tasks and leaves
        results in the run's ``checkpoints`` folder.
        """


class Decoder(Protocol):
    """How stored tensors become samples."""

    def count(self, tensors: Mapping[str, Tensor]) -> int:
        """How many samples there are."""

    def sample(self, tensors: Mapping[str, Tensor], index: Tensor) -> Tensor:
        """Samples (B, C, H, W), or of another modality what its operations make, at ``index`` (B,) int64."""


class Teaching(Protocol):
    """The teachers' answers to one batch, as the student sees it; nobody is asked before somebody looks."""

    @property
    def votes(self) -> tuple[Vote, ...]:
        """Who answers, with which weight."""

    @property
    def told(self) -> Tensor | None:
        """Logits (B, K) that the labels brought for these very rows: then nobody is asked for them."""

    @property
    def seen(self) -> tuple[Seen, ...]:
        """What each teacher makes of the batch, without gradient, in the order of the votes."""

    @property
    def logits(self) -> Tensor:
        """The teachers' logits (B, K), weighted and added up; those that the labels brought, where they did."""

    def __len__(self) -> int: ...


class Trajectories(Protocol):
    """Finished experts and their weights along the way."""

    @property
    def count(self) -> int:
        """Experts, numbered from 0."""

    @property
    def epochs(self) -> int:
        """Of each; weights are there for epochs 0 (as initialised) to ``epochs``."""

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Flat weights (P,) in ``parameters()`` order after so many epochs; -1 is the last.

        Raises:
            InputError: no such expert or epoch.
        """

    def segment(self, expert: int, epoch: int, ahead: int) -> Segment:
        """From ``epoch`` to ``epoch + ahead``, the target at the student's last step.

        Raises:
            InputError: the stretch leaves the trajectory.
        """

    def network(self, run: Any, expert: int, epoch: int = -1) -> nn.Module:
        """The expert itself, in eval mode, with its batch statistics if it has any; ``run`` is the one that asks."""


class Committee(Protocol):
    """The run's teachers, numbered from 0."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of each, for messages and records."""

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Of each on training images, in [0, 1]."""

    @property
    def said(self) -> str:
        """One line for people."""

    def __len__(self) -> int: ...

    def network(self, number: int) -> nn.Module:
        """A teacher in eval mode, its weights without gradient, on the run's device; always the same: never write to it."""

    def snapshots(self, number: int) -> list[nn.Module]:
        """Weaker copies of a teacher from along its training, weakest first.

        Raises:
            InputError: none were kept.
        """

    def nbytes(self, number: int) -> int:
        """What it costs to ship a teacher: its weights and buffers in float32."""

    def identity(self) -> list[str]:
        """The weights of each, as hashes: what depends on teachers is kept under them."""

    def votes(self) -> list[Vote]:
        """All of them, with equal weights that sum to 1."""


class Plan(Protocol):
    """Who does what in a run."""

    @property
    def matcher(self) -> str:
        """Its plugin's name."""

    @property
    def initializer(self) -> str:
        """Whose images the synthetic ones start from."""

    @property
    def labeller(self) -> str:
        """The rule that labels images whose labels are not learned."""

    @property
    def steps(self) -> int:
        """Outer steps of a task."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What is made before the tasks begin: ``trajectories``, ``teachers``."""


class FinishedSet(Protocol):
    """A finished set of images, as ``load_artifact`` gives it."""

    @property
    def labels(self) -> Any:
        """Its ``Labels``."""

    @property
    def nbytes(self) -> Mapping[str, int]:
        """Bytes on the disk of ``images``, ``labels``, ``models`` and ``total``."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What its maker says about it."""

    def __len__(self) -> int: ...

    def images(self, index: Tensor | None = None) -> Tensor:
        """Samples (B, C, H, W) float, normalised, on the CPU; all of them, or those at ``index``."""


class Run(Protocol):
    """One run, as the plugins that it asks see it. Nothing here may be written to."""

    # ---- what it is about ----

    @property
    def config(self) -> Config:
        """The shared options: ``run.config.ipc``, ``run.config.steps`` and so on."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Option instances by group: plugins by name, and the core's ``experts``, ``teachers`` and ``views`` where they are used."""

    @property
    def plugins(self) -> Mapping[str, Any]:
        """The selected plugins by name, in command-line order."""

    @property
    def setup(self) -> Any:
        """What it was begun with: ``as_json()`` says it without secrets."""

    @property
    def plan(self) -> Plan:
        """Who does what."""

    @property
    def matcher(self) -> Any:
        """The matcher's plugin instance."""

    @property
    def matcher_name(self) -> str:
        """The matcher as messages name it."""

    @property
    def network_name(self) -> str:
        """The network that is matched and trained with."""

    @property
    def labeller(self) -> str:
        """The rule that labels images whose labels are not learned."""

    @property
    def seed(self) -> int:
        """Of everything; draw by ``generator``."""

    @property
    def device(self) -> torch.device:
        """Where tensors of hooks live."""

    @property
    def dtype(self) -> torch.dtype:
        """Floating type to compute with."""

    @property
    def machine(self) -> dict[str, Any]:
        """What computes, as JSON values: part of the key of whatever is kept between runs."""

    @property
    def place(self) -> Place:
        """The run's folder; what a plugin keeps there belongs in a subfolder of its name."""

    @property
    def address(self) -> str:
        """Tells this run from others of the same process."""

    @property
    def cache(self) -> Place:
        """What outlives the run, kept under a hash of everything that shaped it."""

    @property
    def checkpoints(self) -> Checkpoints:
        """Results of finished tasks, and the state of unfinished ones."""

    # ---- data ----

    @property
    def source(self) -> Source:
        """The real data as loaded."""

    @property
    def real(self) -> Real:
        """The real data, normalised, on the run's device."""

    @property
    def normalisation(self) -> Normalisation:
        """What maps [0, 1] to the space in which everything is trained and distilled."""

    @property
    def artifact(self) -> FinishedSet | None:
        """The finished set of images, once there is one."""

    @property
    def packed(self) -> Any:
        """The finished set of other data, once there is one."""

    # ---- randomness ----

    def generator(self, *key: Key) -> Generator:
        """A fresh CPU generator for this run's seed and a key of names and numbers such as ("dm", "network", step)."""

    # ---- what a matcher asks for ----

    def network(self, generator: Generator, name: str | None = None, **other: int) -> nn.Module:
        """A freshly initialised classifier (B, C, H, W) -> (B, K) for these data, on the run's device, in train mode.

        Args:
            other: ``channels``, ``size`` or ``classes`` of other data.
        """

    def initialize(self, classes: Tensor, task: Task, name: str | None = None) -> Tensor:
        """Images (N, C, H, W) for classes (N,) by an initialiser, the plan's unless named, on the run's device."""

    def view(self, batch: Batch, phase: str) -> Batch:
        """The synthetic batch as enhancements show it to the matcher in this phase."""

    def draw(
        self, phase: str, *, key: Sequence[Key], count: int = 1, shared: bool = False, progress: Progress | None = None
    ) -> Transform:
        """Draw an augmentation for one batch of ``count`` rows, or (``shared``) for any number of batches alike; a key draws the same again."""

    def setting(self, name: str, value: Any, progress: Progress | None = None) -> Any:
        """A number of a stage, as enhancements change it; ``name`` is one of ``ddcore.api.types.SETTINGS``."""

    def segment(self, segment: Segment, unroll: Any, network: nn.Module, task: Task, progress: Progress) -> Segment:
        """A stretch to imitate, as enhancements change it."""

    def decoder(self, spec: Sequence[Mapping[str, Any]]) -> Decoder:
        """How stored tensors become samples, by operations of the core and of plugins."""

    @property
    def trajectories(self) -> Trajectories:
        """Experts trained on the real data, with their weights along the way; trained at the first use."""

    @property
    def teachers(self) -> Committee:
        """Networks trained on the real data that answer for it; trained, or loaded, at the first use."""

    def votes(self, purpose: str, task: Task | None = None, batch: Batch | None = None) -> list[Vote]:
        """Who of the teachers has a say for ``match``, ``label`` or ``student``, and with which weight.

        Args:
            task: that asks, for ``match``.
            batch: a task's initial images under its first view: plugins then may change the teachers for the task.
        """

    # ---- labels and scores ----

    def label(self, images: Tensor, classes: Tensor) -> Any:
        """``Labels`` of any images (N, C, H, W) of classes (N,) by the run's rule."""

    def arm(self, set: str, labels: str = "hard") -> Arm:
        """An arm under the run's first protocol, in the first network that students are tested in."""

    def score(self, arms: Sequence[Arm], seeds: int | None = None) -> list[Row]:
        """A row for each arm, of students that are trained unless their results are there; ``--eval-seeds`` of each unless told."""

    def matching_loss(self, images: Tensor, classes: Tensor, step: int = 0) -> float | None:
        """The sum of the matcher's losses of given images (N, C, H, W) at a step, as they stand; None where it has none."""

    # ---- talking and stopping ----

    def say(self, text: str) -> None:
        """One line of information."""

    def warn(self, text: str) -> None:
        """One warning: shown, and kept for the report."""

    def progress(self, label: str, total: int, unit: str = "steps") -> AbstractContextManager[Tick]:
        """A context manager that yields ``tick(n=1, note="")``."""

    def log(self, event: str, **fields: Any) -> None:
        """One line of ``log.jsonl``, which trackers are told of; ``fields`` are JSON values."""

    @property
    def stopping(self) -> bool:
        """Whether SIGINT or SIGTERM came: save what you have, then call ``check_stop``."""

    def check_stop(self) -> None:
        """Call once a step or epoch, after saving.

        Raises:
            Interrupted: the run was told to stop.
        """
