"""Methods of first-party plugins that are killed or race go on to the bits of those that nothing ended, as the probes of the core do."""

import pytest
from reliability import kills

METHODS = {
    "trajectories": "run --plugin datm --plugin fyi --plugin dsa --steps 4 --datm.student-steps 3 --datm.max-start-epoch 2"
    " --datm.lr-img 10" + kills.EXPERTS + kills.DATA + kills.STUDENTS + kills.HERE,
    "distributions": "run --plugin dm --plugin dsa --steps 4 --dm.batch-real 8 --labels per-view --views.epochs 3"
    + kills.TEACHERS
    + kills.DATA
    + kills.STUDENTS
    + kills.HERE,
    "teaching": "train --plugin kd --teacher convnet2-bn-w4 --teachers.epochs 3 --teachers.no-check"
    + kills.LESSON
    + kills.HERE,
}

pytestmark = pytest.mark.skipif(not kills.LINUX, reason="the harness forks and reads Linux's CPU clocks and /proc")


@pytest.fixture(scope="module")
def ground():
    with pytest.MonkeyPatch.context() as patched, kills.ground(plots=False) as place:
        for name, line in METHODS.items():
            patched.setitem(kills.RECIPES, name, kills.Recipe(line))
        yield place


def test_methods_that_are_killed_give_the_same_bits(ground):
    found = kills.measure(
        10, seed=8, place=ground, cycle=("trajectories", "fit", "trajectories", "distributions", "teaching")
    )
    assert found["survived"] == found["attempts"] and found["kills"] >= 10, "\n\n".join(found["stories"])
    assert (found["lost"], found["differing"], found["tracebacks"], found["unsaid"]) == (0, 0, 0, 0), found["stories"]


def test_processes_that_fit_in_one_cache_all_end_with_the_same_bits(ground):
    recipe = kills.RECIPES["fit"]
    folders = [ground.fresh(recipe) for _ in range(2)]
    (folders[0] / "cache").mkdir()
    (folders[1] / "cache").symlink_to(folders[0] / "cache")
    ends = ground.parent.race([recipe.words] * 2, folders)
    assert [end.code for end in ends] == [0, 0], [end.said for end in ends]
    (folders[1] / "cache").unlink()
    due = {n: v for n, v in ground.whole("fit")[0].items() if n.startswith("run/")}
    for folder in folders:
        assert kills.differing({n: v for n, v in kills.result(folder).items() if n.startswith("run/")}, due) == []
    assert not any(end.traceback or "again" in end.said for end in ends)
