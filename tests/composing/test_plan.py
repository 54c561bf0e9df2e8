"""The plan: who does what, suggestions, and refusals before torch does any work."""

import attrs
import pluggy
import pytest
from attrs import frozen

from ddcore import Plugin, hookimpl
from ddcore.api import hooks as hookspecs
from ddcore.composing.asking import Hooks
from ddcore.composing.plan import Choices, data_warnings, recorded_order, refusal, refusal_unasked, refuse_idle, resolve
from ddcore.errors import PluginError

ANY = Choices(steps=None, network="convnet", init=None, labels=None)


@frozen(kw_only=True, eq=False)
class Matcher(Plugin):
    role = "matcher"
    steps = 10
    learns = ("pixels",)
    asks = ("initialize", "view:match", "augment:match")

    @hookimpl
    def ddcore_learn(self, task):
        """Nothing."""

    @hookimpl
    def ddcore_matching_loss(self, task):
        """Nothing."""


@frozen(kw_only=True, eq=False)
class Trajectories(Matcher):
    learns = ("pixels", "labels", "rate")
    needs = ("trajectories",)
    asks = ("initialize", "view:student_step", "setting:student_step.batch")
    initializers = ("correct",)
    labellers = ("experts",)


@frozen(kw_only=True, eq=False)
class Mirror(Plugin):
    role = "enhancement"
    view_phases = ("match", "student_step")
    assumes = {"mirror_symmetric": "digits are not"}

    @hookimpl
    def ddcore_view(self, batch):
        """Nothing."""


@frozen(kw_only=True, eq=False)
class Patches(Plugin):
    role = "enhancement"
    initializers = ("patches",)


@frozen(kw_only=True, eq=False)
class Crops(Plugin):
    role = "enhancement"
    settings = ("student_step.batch",)


def planned(choices: Choices = ANY, **plugins: Plugin):
    manager = pluggy.PluginManager("ddcore")
    manager.add_hookspecs(hookspecs)
    for name, plugin in plugins.items():
        manager.register(plugin, name)
    hooks = Hooks(manager, {name: f"{name!r} (ddcore-{name} 1.0)" for name in plugins})
    return resolve(hooks, plugins, choices, lambda: ["mine", "other"])


def test_order_of_plugins_does_not_change_who_does_what():
    one, other = planned(yours=Mirror(), mine=Matcher()), planned(mine=Matcher(), yours=Mirror())
    assert one == other
    assert one.matcher == "mine"
    match = next(stage for stage in one.stages if stage.name == "match")
    assert (match.what, match.provider, match.changed_by) == ("10 steps", "mine", ("yours",))


def test_a_matcher_brings_its_initialiser_labels_and_assets():
    plan = planned(paths=Trajectories())
    assert (plan.initializer, plan.labeller, plan.needs) == ("correct", "experts", ("trajectories",))
    assert [stage.name for stage in plan.stages][:3] == ["experts", "initialize", "match"]
    assert "learned, soft" in [stage.what for stage in plan.stages]


def test_an_enhancement_that_suggests_an_initialiser_wins_over_the_matcher_and_the_flag_over_both():
    assert planned(paths=Trajectories(), nrr=Patches()).initializer == "patches"
    chosen = Choices(steps=None, network="convnet", init="real", labels=None)
    assert planned(chosen, paths=Trajectories(), nrr=Patches()).initializer == "real"


@frozen(kw_only=True, eq=False)
class Selects(Matcher):
    steps = 0
    gives_way = True
    initializers = ("coreset", "scored")
    may_need = ("trajectories",)

    def assets(self, initializer):
        return ("trajectories",) if initializer == "scored" else ()


def test_a_matcher_that_gives_way_matches_alone_and_initialises_beside_another():
    alone = planned(chooser=Selects())
    assert (alone.matcher, alone.initializer, alone.steps) == ("chooser", "coreset", 0)
    for pair in ({"mine": Matcher(), "chooser": Selects()}, {"chooser": Selects(), "mine": Matcher()}):
        plan = planned(**pair)
        assert (plan.matcher, plan.initializer, plan.steps) == ("mine", "coreset", 10)
    with pytest.raises(PluginError, match="are both matchers"):
        planned(chooser=Selects(), tiles=Selects())


def test_a_matcher_without_a_matching_loss_takes_no_steps():
    @frozen(kw_only=True, eq=False)
    class Chooses(Plugin):
        role, steps, learns = "matcher", 0, ("pixels",)

    assert planned(chooser=Chooses()).steps == 0
    with pytest.raises(PluginError, match="learns nothing step by step, and --steps asks for 2: leave it out"):
        planned(attrs.evolve(ANY, steps=2), chooser=Chooses())


def test_assets_follow_the_initialisers_that_are_used_baselines_included():
    def with_(**more):
        return planned(attrs.evolve(ANY, **more), mine=Matcher(), chooser=Selects()).needs

    assert with_() == with_(init="real") == ()
    assert with_(init="scored") == with_(baselines=("noise", "scored")) == ("trajectories",)
    with pytest.raises(PluginError, match="--baseline 'scord'.*did you mean 'scored'"):
        with_(baselines=("scord",))


def test_no_plugin_takes_the_name_of_an_initialiser_of_the_core():
    @frozen(kw_only=True, eq=False)
    class Own(Plugin):
        role, initializers = "enhancement", ("own", "kcenter")

    with pytest.raises(PluginError, match="own.* offers the initialiser 'kcenter', which is the core's: rename it"):
        planned(mine=Matcher(), own=Own())


def test_a_matcher_may_suggest_an_initialiser_of_the_core_or_another_of_its_own():
    @frozen(kw_only=True, eq=False)
    class FromNoise(Matcher):
        suggests = "noise"

    @frozen(kw_only=True, eq=False)
    class FromItsSecond(Trajectories):
        initializers = ("correct", "wrong")
        suggests = "wrong"

    @frozen(kw_only=True, eq=False)
    class FromTheCore(Trajectories):
        suggests = "kcenter"

    def start(choices: Choices = ANY, **plugins: Plugin) -> tuple[str, str]:
        stage = next(s for s in planned(choices, **plugins).stages if s.name == "initialize")
        return stage.what, stage.provider

    assert start(drag=FromNoise()) == ("noise", "core")
    assert start(paths=FromItsSecond()) == ("wrong", "paths")
    assert start(paths=FromTheCore()) == ("kcenter", "core")
    assert start(drag=FromNoise(), tiles=Patches()) == ("patches", "tiles")
    assert start(attrs.evolve(ANY, init="real"), drag=FromNoise()) == ("real", "core")
    assert start(drag=Matcher()) == ("real", "core")


def test_a_suggestion_that_nobody_offers_is_refused():
    @frozen(kw_only=True, eq=False)
    class Wrong(Matcher):
        suggests = "nosie"

    with pytest.raises(
        PluginError, match=r"'drag' .*suggests 'nosie', which neither it nor the core offers.*--init real"
    ):
        planned(drag=Wrong())


def test_two_enhancements_that_suggest_one_are_settled_by_the_flag():
    two = {"paths": Trajectories(), "a": Patches(), "b": Patches()}
    with pytest.raises(
        PluginError, match=r"'a' \(ddcore-a 1.0\) and 'b' \(ddcore-b 1.0\) each suggest.*--init patches"
    ):
        planned(**two)
    planned(Choices(steps=None, network="convnet", init="noise", labels=None), **two)


def test_an_unknown_initialiser_is_refused_with_a_near_match():
    with pytest.raises(PluginError, match="--init 'nois'.*did you mean 'noise'"):
        planned(Choices(steps=None, network="convnet", init="nois", labels=None), mine=Matcher())


def test_two_matchers_are_refused_by_name():
    with pytest.raises(PluginError, match=r"'mine' \(ddcore-mine 1.0\) and 'other' \(ddcore-other 1.0\)"):
        planned(mine=Matcher(), other=Matcher())


def test_no_matcher_is_refused_with_a_command_that_works():
    with pytest.raises(
        PluginError,
        match=r"try ddcore run --plugin yours --plugin mine \(for these data and plugins there are: mine, other\)",
    ):
        planned(yours=Mirror())


def test_an_enhancement_that_the_matcher_would_never_ask_is_refused():
    with pytest.raises(PluginError, match="'crops' changes setting:student_step.batch, none of which 'mine' asks for"):
        planned(mine=Matcher(), crops=Crops())
    planned(other=Trajectories(), crops=Crops())


def test_needs_that_the_matcher_does_not_offer_are_named():
    @frozen(kw_only=True, eq=False)
    class Needy(Mirror):
        needs = ("teachers:match",)

    assert "needs teachers:match, which 'mine' does not offer" in (refusal(Needy(), "needy", Matcher(), "mine") or "")


def test_a_declared_conflict_gives_its_reason_whichever_side_declares_it():
    @frozen(kw_only=True, eq=False)
    class Shy(Mirror):
        conflicts = {"mine": "both mirror already"}

    for plugins in ({"mine": Matcher(), "shy": Shy()}, {"shy": Shy(), "mine": Matcher()}):
        with pytest.raises(PluginError, match="both mirror already"):
            planned(**plugins)


def test_another_modality_is_refused():
    @frozen(kw_only=True, eq=False)
    class Graphs(Matcher):
        modality = frozenset({"graphs"})

    with pytest.raises(PluginError, match="'yours' works on images, 'trees' on graphs"):
        planned(trees=Graphs(), yours=Mirror())


def test_steps_on_the_command_line_win():
    assert planned(Choices(steps=3, network="convnet", init=None, labels=None), mine=Matcher()).steps == 3


def test_what_a_plugin_assumes_and_the_data_are_not_is_a_warning_with_its_reason():
    assert data_warnings({"yours": Mirror()}, {"mirror_symmetric": True}) == ()
    (warning,) = data_warnings({"yours": Mirror()}, {"mirror_symmetric": False})
    assert "yours assumes" in warning and "digits are not" in warning


@frozen(kw_only=True, eq=False)
class Flat(Plugin):
    role = "enhancement"
    needs = ("expert_optimizer",)

    @hookimpl
    def ddcore_expert_optimizer(self, base):
        """Nothing."""

    @hookimpl
    def ddcore_companion(self):
        """Nothing."""


@frozen(kw_only=True, eq=False)
class Steady(Plugin):
    role = "enhancement"

    @hookimpl
    def ddcore_segment(self, segment):
        """Nothing."""


def test_what_shapes_experts_and_what_goes_along_stand_in_the_plan():
    stages = {stage.name: stage.changed_by for stage in planned(paths=Trajectories(), flat=Flat()).stages}
    assert stages["experts"] == stages["companion"] == ("flat",)
    assert "companion" not in {stage.name for stage in planned(paths=Trajectories()).stages}


def test_what_shapes_experts_is_refused_without_experts():
    with pytest.raises(PluginError, match="'flat' needs expert_optimizer, which 'mine' does not offer"):
        planned(mine=Matcher(), flat=Flat())


def test_segments_are_changed_only_under_matchers_that_ask_for_it():
    class Unrolls(Trajectories):
        asks = (*Trajectories.asks, "segment")

    assert ("steady",) in [
        s.changed_by for s in planned(other=Unrolls(), steady=Steady()).stages if s.name == "segment"
    ]
    with pytest.raises(PluginError, match="'steady' changes segment, none of which 'paths' asks for"):
        planned(paths=Trajectories(), steady=Steady())


def test_two_optimisers_for_experts_are_refused():
    with pytest.raises(PluginError, match="both provide ddcore_expert_optimizer, of which a run has one"):
        planned(paths=Trajectories(), flat=Flat(), flatter=Flat())


@frozen(kw_only=True, eq=False)
class Recipe(Plugin):
    protocols = ("mine",)

    @hookimpl
    def ddcore_protocol(self, name):
        """Nothing."""


@frozen(kw_only=True, eq=False)
class Both(Recipe):
    view_phases = ("inner",)


def test_a_protocol_is_nothing_that_is_done_to_a_set():
    assert refusal(Recipe(), "recipe", Matcher(), "mine") is None
    said = refusal(Both(), "both", Matcher(), "mine")
    assert said == "'both' changes view:inner, none of which 'mine' asks for: it would do nothing"
    assert recorded_order({"z": Recipe(), "a": Recipe(), "m": Matcher()}, "m") == ["m", "a", "z"]


def test_who_brings_a_protocol_alone_is_not_idle():
    hooks = Hooks(pluggy.PluginManager("ddcore"), {})
    refuse_idle(hooks, {"recipe": Recipe()}, "mine")
    with pytest.raises(PluginError, match="was asked nothing in the first step: leave out --plugin both"):
        refuse_idle(hooks, {"both": Both()}, "mine")


@frozen(kw_only=True, eq=False)
class Rows(Plugin):
    role = "student"

    @hookimpl
    def ddcore_student_rows(self, samples):
        """Nothing."""


@frozen(kw_only=True, eq=False)
class Batches(Plugin):
    role = "student"
    augment_phases = ("evaluate",)

    @hookimpl
    def ddcore_augment(self, transform):
        """Nothing."""


@frozen(kw_only=True, eq=False)
class Logits(Plugin):
    role = "student"
    needs = ("class_logits",)

    @hookimpl
    def ddcore_student_loss(self, output):
        """Nothing."""


class Views(Matcher):
    suggests_labels = "per-view"


class OwnViews(Matcher):
    labellers = ("mine",)
    label_kinds = {"mine": "static-mixed"}


class Vectors(Matcher):
    learns = ("pixels", "vectors")


@pytest.mark.parametrize(
    ("matcher", "student", "reason"),
    [
        (Views, Rows, "chooses the rows of students' epochs, which labels of views say already"),
        (OwnViews, Rows, "chooses the rows of students' epochs, which labels of views say already"),
        (Views, Batches, "changes students' batches, and labels of views were made for these"),
        (Vectors, Logits, "what learns vectors tells none"),
    ],
)
def test_what_shapes_students_is_refused_beside_labels_that_leave_it_nothing_and_goes_with_hard_ones(
    matcher, student, reason
):
    assert reason in refusal_unasked(student(), "s", matcher(), "m")
    with pytest.raises(PluginError, match=f"'s' .*{reason}.* \\(--labels hard, for one\\), or leave out --plugin s"):
        planned(m=matcher(), s=student())
    assert planned(attrs.evolve(ANY, labels="hard"), m=matcher(), s=student()).labeller == "hard"


@pytest.mark.parametrize("student", [Rows, Batches, Logits])
def test_what_shapes_students_goes_with_hard_and_learned_labels(student):
    for matcher in (Matcher, Trajectories):
        assert refusal_unasked(student(), "s", matcher(), "m") is None
        assert planned(m=matcher(), s=student()).matcher == "m"
