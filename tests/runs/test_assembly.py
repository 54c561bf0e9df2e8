"""What is asked before a run begins: wrong words and wrong places are refused before the plan is printed and anything is written."""

import pytest

from ddcore.runs import refusals, suggesting
from ddcore.storage.places import Place
from ddcore.storage.writable import unwritable
from ddcore.testing import PROBE, ddcore_cli, tiny_words  # noqa: F401  fixture

pytestmark = pytest.mark.usefixtures("probes")

WRONG = {
    "--init=nope": "--init 'nope'",
    "--baseline=nope": "--baseline 'nope'",
    "--protocol=nope": "no protocol is named 'nope'",
    "--network=nope": "no network is named 'nope'",
    "--eval-network=nope": "no network is named 'nope'",
    "--executor=nope": "no executor is named 'nope'",
    "--labels=nope": "--labels 'nope'",
    "--device=nope": "--device (from command line) is 'nope'",
    "--labels=averaged --teachers.networks=nope": "no network is named 'nope'",
    "--labels=averaged --teachers.weights=nope.pt": "--teachers.weights: there is nothing at nope.pt",
    "--labels=averaged --teachers.weights=a --teachers.weights=b": "names 2 files for 1 networks",
    "--cache=file/below": "the cache file/below cannot be used",
    "--out=file/below": "the run's folder file/below cannot be used",
    "--out=full": "full is not empty and holds no run",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_wrong_is_said_before_the_plan_and_nothing_is_written(words, ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    answer = ddcore_cli("run", *PROBE, *tiny_words(), *words.split())
    assert answer.code == 2 and WRONG[words] in answer.err and "plan:" not in answer.err
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "cache"] == before


def test_of_a_training_too(ddcore_cli, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    for words in (
        "--student=nope",
        "--student=convnet2-w4 --cache=file/below",
        "--student=convnet2-w4 --out=file/below",
    ):
        answer = ddcore_cli("train", "--data=digits", *words.split())
        assert answer.code == 2 and "train:" not in answer.err and ("nope" in answer.err or "file/below" in answer.err)


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path):
    assert unwritable(Place.at(tmp_path / "a" / "b")) is None and not list(tmp_path.iterdir())
    memory = Place.at("memory://somewhere/cache")
    assert unwritable(memory) is None and not memory.exists()


@pytest.mark.parametrize(
    ("words", "cores", "said"),
    [
        ("--threads=1", 1, None),
        ("", 1, None),
        ("--threads=8", 4, "--threads 4 fits"),
        ("--jobs=3 --threads=1", 4, None),
        ("--jobs=3 --threads=2", 4, "--jobs 3 with --threads 2 want 6 cores, and this machine has 4"),
        ("--jobs=9 --threads=1", 4, "--jobs 4 --threads 1 fits"),
    ],
)
def test_more_threads_than_cores_are_warned_of_where_somebody_asked_for_them(words, cores, said, tmp_path, monkeypatch):
    from ddcore.composing.selection import select, setup_from  # as the command line does
    from ddcore.runs.run import Run

    given = dict(word.removeprefix("--").split("=") for word in words.split())
    setup = setup_from(select([*PROBE, "--preset", "none"], {}), given, {})
    monkeypatch.setattr(refusals, "_cores", lambda: cores)
    found = refusals.more_than_cores(Run(setup, Place.at(tmp_path)))
    assert found is None if said is None else said in found


def test_a_run_without_a_matcher_is_told_of_those_for_its_data_and_plugins(ddcore_cli, tmp_path):  # noqa: F811
    answer = ddcore_cli("run", "--plugin", "turn", *tiny_words())
    assert answer.code == 2 and "try ddcore run --plugin turn --plugin " in answer.err
    assert "pull" in {*answer.err.partition("there are: ")[2].rstrip(")\n").split(", ")}
    costs = {"pull": 7, "rival": 3}

    class Run:
        plugins, of_images = {}, True

    assert suggested(Run(), costs, needs={}) == ["rival", "pull"]
    assert suggested(Run(), costs, needs={"rival": ("trajectories",)}) == ["pull", "rival"]


def suggested(run, costs, needs):
    """In which order matchers of these costs and needs are named."""
    with pytest.MonkeyPatch.context() as patched:
        found = {
            name: type(name, (), {"needs": needs.get(name, ()), "ddcore_matching_loss": None}) for name in sorted(costs)
        }
        run.source = type("Source", (), {"modality": "images"})
        patched.setattr(suggesting, "matchers_for", lambda modality, refused: found)
        patched.setattr(suggesting, "passes_with", lambda run, name: costs[name])
        return suggesting.known_matchers(run)
