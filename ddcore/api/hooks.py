"""Every hook, top to bottom in the order a run calls them.

A hook answers in one of five ways, marked by its decorator:

* ``by_name``: many plugins may answer different names; the run picks one name (by flag, else suggested).
* ``one``: exactly one selected plugin may implement it; a second is an error that names both.
* ``chain``: folded over the selected plugins in command-line order; the first parameter is the value, None leaves it.
* ``collect``: every selected plugin is asked; answers are kept by plugin name.
* ``observe``: every selected plugin is told; nothing is expected back.

Every argument is passed by name and an implementation takes only those it needs. Arguments without defaults are
mandatory for the caller, and an implementation must not give defaults. What a matcher keeps across steps lies in
``learn.state``, saved in checkpoints.

Devices. What is computed with lies on ``run.device``, in arguments and in answers: images, batches (inputs, targets, index), learned
tensors, weights, losses, networks. What is counted or stored lies on the CPU: data as loaded, the classes of tasks, row numbers of
data, labels, results of tasks, sets. A docstring says so where it differs, and "on any device" where the core moves an answer;
any other is refused in a sentence. Generators are CPU generators, and the only randomness allowed: draw by them on the CPU, then
move what was drawn. Whatever draws from a device's own generator, as dropout does, stands under
``ddcore.randomness.drawing_from(generator, run.device)``; steps of students, experts and teachers already do. "cuda" and "cuda:0"
are not equal, so compare no devices: call ``to``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pluggy

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer

    from ddcore.api.services import Executor, Labels, Run, Samples, Source, StudentData, Teaching
    from ddcore.api.types import (
        Answers,
        Arm,
        Batch,
        Companion,
        Learn,
        Loss,
        Progress,
        Row,
        Seen,
        Segment,
        Synthetic,
        Task,
        Term,
        Transform,
        Unroll,
        Vote,
    )

API_VERSION = "2.1"
Kind = Literal["by_name", "one", "chain", "collect", "observe"]
F = TypeVar("F", bound=Callable[..., Any])
hookspec = pluggy.HookspecMarker("ddcore")
hookimpl = pluggy.HookimplMarker("ddcore")
KINDS: dict[str, Kind] = {}


def _kind(kind: Kind) -> Callable[[F], F]:
    def mark(spec: F) -> F:
        KINDS[spec.__name__] = kind
        return hookspec(spec)

    return mark


@_kind("by_name")
def ddcore_data(name: str, rest: str, options: Mapping[str, Any]) -> Source | None:  # type: ignore[empty-body]
    """Load the real data that a name stands for.

    Called once in the driver and once in every worker, before anything else.

    Args:
        name: what stands before the first colon of ``--dataset``, or all of it: ``digits``, ``parquet``, ``smiles``.
        rest: what follows the colon: a path or URL, possibly empty.
        options: of the run: ``data_root``, ``split`` (str or None), ``resize`` (int or None), ``resize_mode``, ``mirror`` (str) and
            ``skip_broken`` (bool).

    Returns: The source, train and test, on the CPU; None when the name is not yours. Two answers for one name are an error.
    Implemented by the core (``digits``, ``parquet``, ``folder``, ``idx``, ``npz``, torchvision's names). New in 1.0.
    """


@_kind("by_name")
def ddcore_network(  # type: ignore[empty-body]
    name: str, channels: int, size: int, classes: int, generator: Generator, shape: tuple[int, ...]
) -> nn.Module | None:
    """Build a freshly initialised classifier of K classes for images of ``size`` x ``size`` pixels, or other samples.

    Args:
        name: from ``--network`` or ``--eval-network``; called often (a matcher may build one a step), so stay quick.
        generator: all randomness of the initialisation; torch's global one already draws from it during the call.
        shape: of a sample: (C, H, W), (D,) with D channels and size 1, or (C, L) with size L; of text (L,). New in 2.1.

    Returns: A module on any device, float32, in train mode, from samples (B, *shape) to logits (B, K); its ``embed`` gives the input
        (B, D) of its last linear layer. None when the name is not yours. Implemented by the core (the field's zoo, torchvision, timm and torch's hub). New in 1.0.
    """


@_kind("by_name")
def ddcore_executor(name: str) -> Executor | None:  # type: ignore[empty-body]
    """Where independent tasks run.

    Called once, in the driver. The executor sees tasks only as JSON and results only as files, so that every executor
    gives the same bits. ``ddcore.runs.work`` has what executors of other processes need.

    Returns: An object with ``map(run_url, tasks, jobs, done)``: it does every task, at most ``jobs`` at a time, and calls ``done`` with
        each finished task's key. What a task was refused with it raises as it is, a task whose worker died it does again, and
        when the run is asked to stop it ends what runs, and raises ``Interrupted``. None when the name is not yours.
    Implemented by the core (``here``, ``processes``), ``ray`` and ``submitit``. New in 1.0.
    """


@_kind("chain")
def ddcore_expert_loss(value: Tensor, network: nn.Module, batch: Batch, clean: Batch, progress: Progress) -> Tensor:  # type: ignore[empty-body]
    """Change the loss that an expert descends.

    Called in every step of every expert that is trained, once for each part of the batch, with autograd on; not for experts
    that lie in the cache, where they are kept by what ``Plugin.expert_options`` says. Do not call ``backward``: the loop does.

    Args:
        value: scalar, mean over the rows of ``batch``: the cross entropy, or what the plugin before made of it.
        network: the expert, in train mode; call it, but do not write to it.
        batch, clean: rows as the network saw them, augmented; and before that, without gradient.
        progress: epochs of this expert.

    Returns: Scalar, a mean over the rows too, so that parts add up by their size; None leaves it.
    Implemented by ``smooth``. New in 1.0.
    """


@_kind("one")
def ddcore_expert_optimizer(params: Sequence[nn.Parameter], base: Optimizer, progress: Progress) -> Optimizer:  # type: ignore[empty-body]
    """Replace, or wrap, the optimiser of an expert.

    Called once when an expert's training begins or goes on, and once when its learning rate drops. The loop always calls
    ``step(closure)``; the closure clears the gradients and computes loss and gradients of one fixed augmented batch, so it may
    be called again after the parameters were moved. Only its first call of a step moves batch statistics.

    Args:
        params: the expert's parameters, the same as in ``base.param_groups``.
        base: SGD with the rate, momentum and decay of ``--experts``.
        progress: epochs of this expert.

    Returns: An optimiser whose ``step(closure)`` calls the closure with autograd on, whose ``param_groups`` tell the rate and whose
        ``state_dict`` holds all that the next step depends on. ``Plugin.expert_options`` says what it depends on besides.
    Implemented by ``ftd``. New in 1.0.
    """


@_kind("one")
def ddcore_teachers(purpose: str, task: Task | None, run: Run) -> list[Vote]:  # type: ignore[empty-body]
    """Choose who of the run's teachers votes, and with which weight; changing them is ``ddcore_adapt_teacher``'s.

    Called by whoever needs votes: a matcher at a task's start and at each resume, the rules for labels. Grad off.

    Args:
        purpose: ``match``, ``label`` or ``student``.
        task: for ``match``, the task that asks: teachers may differ from slot to slot; key random draws by ``task.slot``, since
            a slot may be cut into several tasks. None for the others.

    Returns: Votes of teachers of ``run.teachers``, on ``run.device``; None: all of them, with equal weights that sum to 1.
    Implemented by ``cv-dd`` (a committee). New in 1.1.
    """


@_kind("chain")
def ddcore_adapt_teacher(network: nn.Module, batch: Batch, purpose: str, task: Task, run: Run) -> nn.Module:  # type: ignore[empty-body]
    """Change a teacher for one task.

    Called for each vote at a task's start, and again, identically, at each resume. Grad off.

    Args:
        network: the teacher, or what the plugin before made of it: in eval mode, frozen. Other tasks use it too: never write to
            it, work on a copy.
        batch: the task's initial images under the view of its first step, with their classes.
        purpose: ``match``.

    Returns: A network in eval mode; None leaves it.
    Implemented by ``dwa``. New in 1.1.
    """


@_kind("by_name")
def ddcore_initialize(name: str, classes: Tensor, task: Task, generator: Generator, run: Run) -> Tensor | None:  # type: ignore[empty-body]
    """Images for the given classes, and nothing else, so that any initialiser serves any matcher, and is a baseline too.

    Called once at a task's start, and again, identically, at each resume; grad off.

    Args:
        name: from ``--init``, else what the only enhancement suggests, else the matcher, else ``real``; or from ``--rows``.
        classes: (N,) int64 on the CPU, the class of each image wanted, in any order, with repeats, any number of a class.
        task: the task that will learn from them.
        generator: the only source of randomness allowed.

    Returns: Images (N, C, H, W) float32 on any device, normalised like ``run.real``; None when the name is not yours. A plugin lists
        its names in ``initializers``; ``suggests``, or else the first listed, is what it suggests.
    Implemented by the core (``real``, ``noise``, ``kcenter``), ``datm``, ``smooth``, ``coresets``, ``rded``, ``cv-dd``, ``nrr-dd`` and
    ``hello``. New in 1.0.
    """


@_kind("one")
def ddcore_tasks(run: Run) -> list[Task]:  # type: ignore[empty-body]
    """Cut the distillation into independent tasks, which may run in several processes at a time. Do no work here.

    Called once in the driver, and again at each resume, when it must give the same tasks; finished ones are not done again.

    Returns: Tasks of kind ``distil``, their classes on the CPU, with keys of their own, in the order in which ``ddcore_assemble`` gets
        their results; it is needed where rows are not images of ``classes``. Without ``classes`` a task gets no initial images.
        None: one task that holds every class ``--ipc`` times.
    Implemented by ``mirage`` and ``rded`` (a class each), ``sre2l`` (slots and blocks of classes) and ``infer``. New in 1.0.
    """


@_kind("one")
def ddcore_learn(task: Task, images: Tensor | None, run: Run) -> Learn:  # type: ignore[empty-body]
    """Make what a task learns: tensors, their roles, their optimisers.

    Called once at each task's start and once at each resume, before the checkpoint is loaded: always with the initial
    images, and it must build the same thing again. Grad on.

    Args:
        images: initial images (N, C, H, W) float32 on ``run.device``, yours to keep: call ``requires_grad_()`` on them.
            None when ``task.classes`` is None.

    Returns: ``Learn``. Its optimisers hold leaf tensors on ``run.device`` only; whatever the matcher keeps across steps is in ``state``.
    Implemented by the matcher (dm, mtt, datm). New in 1.0.
    """


@_kind("collect")
def ddcore_companion(task: Task, learn: Learn, run: Run) -> Companion:  # type: ignore[empty-body]
    """Make what goes with a task from its first step to its last.

    Called after ``ddcore_learn``, at each task's start and at each resume, before the checkpoint is loaded: it must build the
    same thing again. Grad on. Clone what you keep of ``learn``.

    Returns: A ``Companion`` with what it keeps in ``state``; it is handed to this plugin's ``ddcore_project``. None: nothing goes along.
    Implemented by ``ftd`` (an average of the pixels, handed on in their place) and ``nrr-dd`` (masks). New in 2.0.
    """


@_kind("one")
def ddcore_matching_loss(task: Task, step: int, learn: Learn, run: Run) -> Iterator[Loss]:  # type: ignore[empty-body]
    """Score how well the synthetic set imitates the real one, in as many pieces as memory likes.

    A generator, called once per outer step with grad on. Everything with an inner loop calls the run's services itself:
    ``run.view``, ``run.draw``, ``run.setting``, ``run.real``, ``run.network``, ``run.trajectories``. Never yield inside
    ``no_grad``; do not call ``backward`` on learned tensors or ``step``: the loop does.

    Args:
        step: 0-based, of ``task.steps``.
        learn: tensors, state and fixed things made by ``ddcore_learn``; write to ``learn.state`` only.

    Yields: ``Loss`` on ``run.device``. Without ``update`` it is backpropagated at once and all optimisers step after the last one; with
        ``update`` the named ones step on it at once, in one of the two ways a step. Nothing yielded: nothing moves, nor momentum.
    Implemented by the matcher (dm, mtt, datm). New in 1.0.
    """


@_kind("chain")
def ddcore_segment(  # type: ignore[empty-body]
    segment: Segment, unroll: Unroll, network: nn.Module, task: Task, progress: Progress, run: Run
) -> Segment:
    """Change the stretch of an expert's training that an unrolled student imitates, and how the student is trained.

    Called once per outer step of a matcher that unrolls, grad off; a resumed or repeated step must see the same answer.

    Args:
        segment: the matcher's, one target at the student's last step; do not modify its tensors in place.
        unroll: N (``steps``) and T+ (``below``) of the matcher.
        network: the student's architecture, whose parameters in order make up the flat weights; do not write to it.
        task: for random keys.
        progress: outer steps of the task.

    Returns: ``Segment``, its weights of the same shape, dtype and device; None leaves it.
    Implemented by ``smooth``. New in 1.0.
    """


@_kind("chain")
def ddcore_setting(value: Any, name: str, progress: Progress) -> Any:  # type: ignore[empty-body]
    """Change one named number of a stage, as on a schedule; called each time it is needed, a pure function of its arguments.

    Args:
        value: the matcher's, or what the plugin before made of it.
        name: one of ``ddcore.api.types.SETTINGS``; a plugin lists those it changes in its class attribute ``settings``.

    Returns: The new value, of the same type; None leaves it.
    Implemented by ``fyi`` (halves ``student_step.batch``), ``cda`` and ``dwa``. New in 1.0.
    """


@_kind("chain")
def ddcore_view(batch: Batch, phase: str, run: Run) -> Batch:  # type: ignore[empty-body]
    """A transient change of the synthetic batch while distilling: never stored, never at evaluation, never on real data.

    Called by the matcher before augmentation, many times a step, with autograd on; deterministic, so that an exact
    recompute sees the same batch.

    Args:
        batch: synthetic rows; do not modify in place.
        phase: ``match``, ``inner`` or ``student_step``; only those that a plugin lists in ``view_phases``.

    Returns: A batch of the same axes, differentiable in the inputs, possibly with more rows: then ``targets`` and ``index``
        repeat alike. None leaves it. Group rows by ``targets["class"]``, never by position.
    Implemented by ``fyi`` and ``idc``. New in 1.0.
    """


@_kind("chain")
def ddcore_augment(  # type: ignore[empty-body]
    transform: Transform,
    phase: str,
    count: int,
    size: tuple[int, int],
    shared: bool,
    symmetric: bool,
    progress: Progress,
    generator: Generator,
) -> Transform:  # type: ignore[empty-body]
    """Draw an augmentation that can be replayed.

    Called whenever a stage needs a fresh draw; cheap.

    Args:
        transform: what the plugins before drew; return one that applies it first, then yours.
        phase: one of ``ddcore.api.types.PHASES``; only those that a plugin lists in ``augment_phases``.
        count: how many parameter sets; 1 if ``shared``.
        size: height and width in pixels.
        shared: every row of any batch gets the same parameters (Siamese); else row i gets set i.
        symmetric: whether a mirror image keeps its class in this data (false for digits).
        progress: of the stage, for schedules.
        generator: the plugin's own: no other plugin's draws move it.

    Returns: A transform that keeps the number of rows; when not shared it may mix rows, and then adds the targets ``mixed`` and
        ``lam``. None leaves it.
    Implemented by ``dsa`` and ``mixup-kd``. New in 1.0.
    """


@_kind("chain")
def ddcore_project(  # type: ignore[empty-body]
    after: Tensor, before: Tensor, name: str, role: str, task: Task, companion: Any, run: Run
) -> Tensor:
    """Put a learned tensor back where it belongs after its optimiser moved it.

    Called after each optimiser step, once for each moved tensor of ``Learn.tensors``; grad off. The matcher's own
    implementation runs last, so that its bounds hold whatever enhancements did.

    Args:
        after: the tensor as the optimiser, and the plugins before, left it; do not modify in place.
        before: as it was before the step.
        name, role: of the tensor; the role is one of ``ddcore.api.types.ROLES``, or empty.
        companion: what this plugin's ``ddcore_companion`` made, else None.

    Returns: The tensor to keep, same shape, dtype and device; None leaves it.
    Implemented by ``mtt`` and ``datm`` (a floor under the learned rate), ``sre2l`` (pixels that exist) and ``nrr-dd`` (critical
    regions stay). New in 1.0.
    """


@_kind("one")
def ddcore_assemble(  # type: ignore[empty-body]
    tasks: Sequence[Task], results: Sequence[Mapping[str, Tensor]], run: Run
) -> Synthetic:
    """Make one set of the results of ``ddcore_tasks``: the tensors of each task, in the same order, on the CPU.

    Called once in the driver when all tasks are done, grad off.

    Returns: ``Synthetic``, on the CPU; of data that are not images it also brings a preview. None, for a single task: its tensors,
        roles and decoder as they are.
    Implemented by ``mirage`` (what classes share is stored once) and ``infer``. New in 1.0.
    """


@_kind("chain")
def ddcore_store(synthetic: Synthetic, run: Run) -> Synthetic:  # type: ignore[empty-body]
    """Change how the finished set is stored: other tensors, and the decoder operations that give the samples back.

    Called in the driver when the tasks' results are one set, before ``--storage-dtype`` is applied and before labels are made, so
    that these are of the images as stored; again, identically, at each resume. With ``--bytes`` also before anything is
    distilled, with blank images in the set's place, to learn what so many images cost. Grad off. Do not write into the tensors of ``synthetic``, which lie on the CPU.

    Returns: As many samples of the same classes in the same order, on the CPU, or several for each (``ddcore.sets.several``); ``notes``
        say what is lost. None leaves it. Readers need your plugin, but for operations of the core (``ddcore.sets.decoders``).
    Implemented by ``quantize`` and ``idc``. New in 1.2.
    """


@_kind("by_name")
def ddcore_label(name: str, images: Tensor, classes: Tensor, run: Run) -> Labels | None:  # type: ignore[empty-body]
    """Label any images, because the baselines' real images are labelled by the same rule.

    Called after distillation, grad off, for the distilled set (unless its labels were learned) and for baselines.

    Args:
        name: from ``--labels``, else what the only enhancement suggests, else the matcher, else ``hard``.
        images: (N, C, H, W) float32, normalised, on ``run.device``.
        classes: (N,) int64 beside them.

    Returns: Labels of N samples, on the CPU; None when the name is not yours. A plugin lists its names in ``labellers``;
        ``suggests_labels``, or else the first listed, is what it suggests.
    Implemented by the core (``hard``, and the rules of ``ddcore.training.label_rules`` that ask teachers), ``datm`` (``experts``), ``cv-dd``
    (``bssl``), ``hello`` (``projector``), ``ferkd`` and ``reinforce``. New in 1.0.
    """


@_kind("chain")
def ddcore_adapt_student(network: nn.Module, seen: Seen, teachers: Teaching, run: Run) -> nn.Module:  # type: ignore[empty-body]
    """Put another network around a student: an adapter, a teacher's last layer.

    Called once for each student before its first step, and again, identically, when it goes on; grad off. Randomness as for
    ``ddcore_student_modules``.

    Args:
        network: the student, or what the plugin before made of it.
        seen, teachers: what it and they make of a few rows, with the features that ``Plugin.taps`` of all plugins name.

    Returns: A network with ``embed``, on any device, that holds the one it was given: it is what is trained, tested and kept, and the
        names of ``Plugin.taps`` are looked for in it. Parameters that shall not move have ``requires_grad`` False. None leaves it.
    Implemented by ``kd3``. New in 1.2.
    """


@_kind("collect")
def ddcore_student_modules(  # type: ignore[empty-body]
    network: nn.Module, seen: Seen, teachers: Teaching, run: Run, samples: Samples
) -> nn.Module:
    """Make what is trained beside a student for this plugin's loss: a regressor between feature widths, a critic.

    Called once for each student before its first step, and again, identically, when it goes on; grad off. All randomness of a
    module's initialisation is torch's global one, which then draws from the student's.

    Args:
        network: the student; do not keep it in the module.
        seen, teachers: what it and they make of a few rows, with the features that ``Plugin.taps`` of all plugins name.
        samples: what the student is trained on, as for ``ddcore_student_rows``. New in 1.2.

    Returns: A module on any device; it joins the student's checkpoints, and its optimiser unless ``Plugin.module_optimizer`` makes one;
        this plugin's ``ddcore_student_loss`` gets it as ``modules``, and it is thrown away with the student. None: nothing.
    Implemented by ``kd``, ``nd``, ``mi-alpha``, ``meal-v2``, ``hard``, ``kd3`` and ``distill-weighted``. New in 1.1.
    """


@_kind("chain")
def ddcore_student_rows(  # type: ignore[empty-body]
    rows: Tensor,
    samples: Samples,
    network: nn.Module,
    teachers: Sequence[Vote],
    epoch: int,
    progress: Progress,
    state: dict[str, Any],
    generator: Generator,
    run: Run,
) -> Tensor:
    """Choose which rows an epoch of a student visits.

    Called before each epoch of every student, grad off; not where labels have views of their own, which is an error.

    Args:
        rows: (n,) int64 on the CPU: all, or what the plugin before chose.
        samples: what the student is trained on. A row's number is its place there, and ``Batch.index`` of the loss.
        network: the student, in eval mode; do not write to it.
        teachers: who would answer in the loss; empty unless a plugin of the run needs teachers.
        epoch: counted from 0.
        progress: steps of this student.
        state: this plugin's, of this student, kept in checkpoints: write tensors, numbers, strings and lists to it.
        generator: drawn anew for each epoch.

    Returns: (m,) int64 on any device, at least one, in any order: an epoch visits them in a random one, a row as often as it is
        named. None leaves it. Say by ``Plugin.visited`` how many there will be.
    Implemented by ``rs2``, ``kd-pruning``, ``rad`` and ``kd3``. New in 1.2.
    """


@_kind("collect")
def ddcore_student_loss(  # type: ignore[empty-body]
    batch: Batch,
    output: Tensor,
    network: nn.Module,
    progress: Progress,
    run: Run,
    seen: Seen,
    teachers: Teaching,
    modules: nn.Module | None,
    generator: Generator,
) -> Term:
    """Add a term to the loss of every student that an evaluation trains, the distilled set's and the other rows' alike.

    Called in every step, once for each part that a batch is cut into (one, with ``Plugin.whole_batches``), with autograd on. Do not
    call ``backward``: the loop does.

    Args:
        batch: rows as the student sees them, augmented, with their targets.
        output: the student's logits (B, K) for them.
        network: the student, in train mode; do not write to it.
        progress: steps of this student.
        seen: its logits and the features that ``Plugin.taps`` names, with their graph. New in 1.1.
        teachers: their answers to these rows, without gradient; they pass them once, and only if somebody looks. Empty unless
            a plugin of the run needs teachers. New in 1.1.
        modules: what this plugin's ``ddcore_student_modules`` made. New in 1.1.
        generator: drawn anew for each student, step and part of a batch. New in 1.2.

    Returns: ``Term(name, value, weight, labels)``: ``weight * value`` is added to ``labels`` times the labels' own loss. The value is a
        scalar, a mean over the rows, so that parts add up by their size. None adds nothing.
    Implemented by ``kd``, most other student plugins and the student template of ``ddcore plugins new``. New in 1.0.
    """


@_kind("by_name")
def ddcore_protocol(name: str) -> Any | None:  # type: ignore[empty-body]
    """Give the evaluation recipe of a name: how fresh networks are trained on a finished set.

    Called whenever a name has to be known, in every process that trains a student. ``-EPOCHS`` behind a name, ``bare-`` and ``probed-`` before
    it are the core's.

    Args:
        name: one of the class attribute ``protocols``, or not yours.

    Returns:
        A ``ddcore.training.Protocol``, the same at every call; its summary says whose recipe it is. Its own name is what is
        recorded, and one of ``protocols`` too. None when the name is not yours. Two answers for one name are an error.

    A plugin with an entry point ``ddcore.protocols`` of the name answers it by its defaults where it is installed and not
    selected. Implemented by the core (``plain``, ``augmented``, ``learned-rate``, ``quick``, ``views``, ``views-small``,
    ``stepwise``) and by most plugins whose papers say how they evaluate. New in 2.0.
    """


@_kind("by_name")
def ddcore_student_data(name: str, student: int, run: Run) -> StudentData | None:  # type: ignore[empty-body]
    """Give what a student is trained on in one of your sets, so that it can be scored like the core's.

    Called for ``--rows NAME`` and for arms of ``run.score``, once for each student, in the process that trains it; no gradient.

    Args:
        name: of the set, one of the class attribute ``student_sets``.
        student: its number, from 0; the initial network of a number is the same for all sets.

    Returns: Images on any device, labels on the CPU and what they cost, a function of name, student and run alone: draw by
        ``run.generator``; ``run.artifact`` is the finished set. None when the name is not yours.
    Implemented by ``diagnose``. New in 1.2.
    """


@_kind("collect")
def ddcore_examine(  # type: ignore[empty-body]
    network: nn.Module, arm: Arm, student: int, data: StudentData, answers: Answers, run: Run
) -> dict[str, Tensor]:
    """Look at a student of an evaluation when it is trained and tested. Never choose anything by what is found on the test set.

    Called once for each student that an evaluation trains (not in ``ddcore train``), in the process that trains it; no gradient.

    Args:
        network: the student in eval mode on the run's device; yours to use up.
        arm: set, labels, protocol and network that it is of.
        student: its number, from 0; of its row.
        data: what it was trained on.
        answers: to the test images, or with ``--validation`` to the validation images, which ``run.real.test`` then are.

    Returns: Numbers by name, tensors of 0 or 1 axes on any device, a function of the arguments alone. They are kept in the student's
        result, and shown in its row's extras as ``PLUGIN.NAME``, seed by seed. None: nothing.
    Implemented by ``diagnose``. New in 1.2.
    """


@_kind("collect")
def ddcore_evaluate(run: Run) -> list[Row]:  # type: ignore[empty-body]
    """Score the finished artifact; rows go to ``scores.json`` and the table. Never choose anything on the test set.

    Called once after the artifact is saved, in the driver.

    Returns: Rows; a set's name may be one the core uses (``distilled``, ``random``, ``kcenter``, ``random-bytes``, ``full``) only under
        a network that no row of the core's has. Of data that are not dense the core has no rows.
    Implemented by the core (the honest rows). New in 1.0.
    """


@_kind("observe")
def ddcore_log(event: str, fields: Mapping[str, Any], run: Run) -> None:
    """Look at an event of the run, in any kind of run: to show it somewhere else.

    Called after each line of ``log.jsonl`` is written, in the process that writes it: steps and epochs in the one that does the
    task, everything else in the driver. Whatever it raises is warned of once, and the plugin is told nothing more in that
    process: the run goes on.

    Args:
        event: ``begin`` (what kind of run), ``step`` (of a distillation), ``expert`` and ``teacher`` (an epoch of one), ``labels``,
            ``task`` (one is done), ``warning``, ``row`` (of the scores), ``resume``, ``done``; plugins log events of their own.
        fields: plain JSON values, those of the line: ``step`` and ``loss`` of a step, those of ``scores.json`` of a row.
        run: its options, place and seed; change nothing. What you keep between calls belongs to ``run.address``.

    Implemented by ``tensorboard`` and ``mlflow``. New in 1.2.
    """
