"""``--bytes``: the set fits, one more image a class would not, and it is said where it ends up."""

import json

import attrs
import pytest
import torch

from ddcore import load_artifact
from ddcore.composing.selection import select, setup_from
from ddcore.errors import InputError
from ddcore.labels.per_view import LARGEST_HEADER
from ddcore.runs.cutting import distillation_tasks
from ddcore.runs.distil import assemble, label, save
from ddcore.scoring.budget import budget_of, image_bytes, label_size, largest
from ddcore.storage.places import Place, save_tensors, size_of
from ddcore.storage.units import byte_count
from ddcore.testing import ddcore_cli, tiny_run  # noqa: F401  fixtures

pytestmark = pytest.mark.usefixtures("probes")

PULL = ("--plugin", "pull")


@pytest.mark.parametrize("text", ["", "MB", "-1kB", "0", "0.0MB", "2 furlongs", "1e6", "2MBMB"])
def test_what_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(ValueError, match="such as 2MB"):
        byte_count(text)


def test_the_largest_that_fits_is_found_whatever_the_limit():
    for most in range(12):
        for limit in range(-1, 14):
            assert largest(lambda n, limit=limit: n <= limit, most) == max(0, min(limit, most))


def test_the_size_of_a_file_is_known_before_it_is_written(tmp_path):
    tensors = {"b": torch.zeros(3, 4), "a": torch.zeros(7, dtype=torch.uint8), "view": torch.zeros(2).expand(5, 2)}
    assert size_of(tensors) == save_tensors(Place.at(tmp_path / "f"), tensors)


def made(run):
    """The artifact of a run."""
    tasks = distillation_tasks(run)
    run.map(tasks)
    synthetic = assemble(run, tasks)
    return save(run, synthetic, label(run, synthetic))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ((), {}),
        ((), {"storage_dtype": "float16"}),
        ((), {"storage_dtype": "uint8"}),
        (("--plugin", "coarse"), {"coarse__bits": 2}),
        (("--labels", "averaged"), {"labels": "averaged", "teachers__check": False, "teachers__epochs": 1}),
    ],
    ids=["float32", "float16", "uint8", "2 bits", "averaged"],
)
def test_what_is_bought_fits_to_the_byte_and_no_image_more_would(words, options, tiny_run):  # noqa: F811
    several = {n: tiny_run(*PULL, *words, ipc=n, steps=1, **options) for n in (2, 3)}
    cost = {n: made(run).nbytes["total"] for n, run in several.items()}
    run = several[2]
    for limit, ipc in ((cost[2], 2), (cost[3] - 1, 2), (cost[3], 3), (10**9, 12)):
        found = budget_of(run, limit)
        assert found.ipc == ipc and found.cost <= limit
    assert budget_of(run, cost[2]).cost == cost[2]
    with pytest.raises(InputError, match="buys no image a class: one of each costs .* bytes, .* quantize"):
        budget_of(run, 200)


@pytest.mark.parametrize(
    "views", [{}, {"views__seeded": False}, {"views__keep": 0.5}, {"labels": "top-k", "views__seeded": False}]
)
def test_labels_of_views_are_counted_by_their_formula_with_room_for_the_header(views, tiny_run):  # noqa: F811
    given = {
        "labels": "per-view",
        "teachers__check": False,
        "teachers__epochs": 1,
        "views__epochs": 3,
        "views__batch": 2,
    }
    run = tiny_run(*PULL, "--labels", given["labels"], ipc=2, steps=1, **{**given, **views})
    artifact = made(run)
    assert label_size(run)(2) - LARGEST_HEADER == artifact.labels.payload_bytes
    assert artifact.nbytes["labels"] <= label_size(run)(2) and (artifact.nbytes["images"], 2) == image_bytes(run, 2)


def test_what_does_not_follow_the_images_a_class_is_refused(tiny_run):  # noqa: F811
    run = tiny_run(*PULL)
    run.config = attrs.evolve(run.config, labels="projector")
    with pytest.raises(InputError, match="projector.* cost does not follow"):
        budget_of(run, 10**6)
    run = tiny_run(*PULL)
    run.__dict__["plan"] = run.plan

    class Assembling(type(run.matcher)):
        def ddcore_assemble(self): ...

    run.plugins["pull"] = Assembling()
    with pytest.raises(InputError, match="'pull' .* stores is not --ipc images a class"):
        budget_of(run, 10**6)


def test_a_run_says_what_its_bytes_bought_in_its_record_and_its_rows(ddcore_cli, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    words = [w for w in ddcore_cli.tiny if w not in ("--ipc", "2")]
    answer = ddcore_cli("run", *words, *PULL, "--steps", 1, "--bytes", "7kB", "--out", out, "--json")
    assert answer.code == 0, answer.err
    artifact, record = load_artifact(out / "artifact"), json.loads((out / "run.json").read_text())
    # 3 classes of 768 bytes an image: 3 images a class are 6912 bytes without headers, 2 are 4608
    assert artifact.ipc == record["config"]["ipc"] == record["budget"]["ipc"] == 2
    assert record["config"]["bytes"] == "7kB" and record["sources"]["ipc"] == "--bytes 7kB"
    assert record["budget"]["images"] + record["budget"]["labels"] == artifact.nbytes["total"] <= 7000
    assert {row["budget"] for row in json.loads((out / "scores.json").read_text())["rows"]} == {7000}
    assert "7,000 bytes buy 2 images per class" in answer.err
    assert ddcore_cli("resume", out, "--json").code == 0


def test_a_set_that_costs_more_than_was_expected_is_warned_of(tiny_run):  # noqa: F811
    run = tiny_run(*PULL, steps=1)
    run.config = attrs.evolve(run.config, bytes="1kB")
    made(run)
    assert "more than --bytes 1kB" in run.tasks.reporter.warnings[-1]


def test_two_answers_to_how_many_images_are_refused(ddcore_cli):  # noqa: F811
    answer = ddcore_cli("run", *ddcore_cli.tiny, *PULL, "--bytes", "7kB", "--plan-only")
    assert answer.code == 2 and "--ipc (from command line)" in answer.err
    words = [w for w in ddcore_cli.tiny if w not in ("--ipc", "2")]
    answer = ddcore_cli("run", *words, *PULL, "--bytes", "7 furlongs", "--plan-only")
    assert answer.code == 2 and "--bytes (from command line)" in answer.err and "such as 2MB" in answer.err


def test_a_dumped_configuration_asks_for_the_bytes_again(ddcore_cli, tmp_path):  # noqa: F811
    words = [w for w in ddcore_cli.tiny if w not in ("--ipc", "2")]
    dumped = ddcore_cli("run", *words, *PULL, "--bytes", "7kB", "--dump-config").out
    assert 'bytes = "7kB"' in dumped and "\nipc" not in dumped


def test_no_preset_is_taken_for_a_number_of_images_that_was_not_asked_for():
    selection = select(["--plugin", "pull"], {})
    given = {"dataset": "digits"}
    assert any(source.startswith("preset") for source in setup_from(selection, given, {}).resolved.sources.values())
    by_bytes = setup_from(selection, {**given, "bytes": "1MB"}, {})
    assert not any(source.startswith("preset") for source in by_bytes.resolved.sources.values())
