"""Real images in a set: found, said, stored as the data hold them, and read back bit for bit."""

import json

import numpy as np
import pytest
import torch

from ddcore import InputError, load_artifact
from ddcore.cli.app import invoke
from ddcore.data.normalisation import fit
from ddcore.data.source import Real, Source, Split
from ddcore.runs.opening import open_run
from ddcore.sets.exports import describe

pytestmark = pytest.mark.usefixtures("probes")
COMMON = ["--eval-seeds=1", "--protocol=quick-2", "--network=convnet2-w4", "--preset=none", "--threads=1"]
COMMON += ["--full-epochs=1", "--steps=0", "--ipc=2"]
LABELS = np.arange(48) % 3
PIXELS = 3 * 8 * 8

MATCHER = """
    from attrs import frozen
    from ddcore import Learn, Plugin, Synthetic, hookimpl

    @frozen(kw_only=True, eq=False)
    class X(Plugin):
        summary = "changes every other image"
        role = "matcher"
        steps = 0
        learns = ("pixels",)
        asks = ("initialize",)
        initializers = ("darker",)
        of_real = {"darker": "real images made darker"}

        @hookimpl
        def ddcore_initialize(self, name, classes, run):
            return run.real.train.inputs(classes) - 0.01 if name == "darker" else None

        @hookimpl
        def ddcore_learn(self, images):
            %s
            return Learn({"pixels": images}, {}, roles={"pixels": "pixels"})
"""
ASSEMBLING = """
        @hookimpl
        def ddcore_assemble(self, tasks, results, run):
            import torch
            rows = torch.tensor([0, 3, 1, 4, 2, 5])
            images = run.real.train.inputs(rows)
            decoder = [{"op": "rows", "tensor": "mine"}]
            return Synthetic({"mine": images}, {"mine": "pixels"}, decoder, run.real.train.labels[rows], source_rows=%s)
"""


def pixels_of(dtype: str) -> np.ndarray:
    drawn = np.random.default_rng(0)
    if dtype == "uint8":
        return drawn.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    return drawn.random((60, 8, 8, 3), dtype=np.float32)


@pytest.fixture
def data(tmp_path):
    def write(dtype: str = "uint8") -> str:
        images = pixels_of(dtype)
        test = {"x_test": images[48:], "y_test": np.arange(12) % 3}
        np.savez(tmp_path / "data.npz", x_train=images[:48], y_train=LABELS, **test)
        return f"--dataset=npz:{tmp_path / 'data.npz'}"

    return write


@pytest.fixture
def run_of(tmp_path, data):
    def call(*words: str, dtype: str = "uint8"):
        given = ["run", data(dtype), *COMMON, f"--cache={tmp_path / 'cache'}", f"--out={tmp_path / 'run'}", *words]
        assert invoke(given) == 0
        return load_artifact(tmp_path / "run" / "artifact"), open_run(str(tmp_path / "run"))

    return call


def check_read_back(artifact, run) -> None:
    """What is said to be row i is row i of the data, to the bit."""
    rows = artifact.source_rows
    real = rows >= 0
    images = torch.from_numpy(pixels_of("uint8" if run.source.train.stored.dtype == torch.uint8 else "float32"))
    given = images.permute(0, 3, 1, 2)[rows[real]]
    unit = given.float() / 255 if given.dtype == torch.uint8 else given
    assert torch.equal(artifact.images()[real], run.normalisation.apply(unit))
    assert torch.equal(artifact.images()[real], run.real.train.inputs(rows[real]))
    assert torch.equal(run.real.train.labels[rows[real]], artifact.labels.classes[real])


@pytest.mark.parametrize("init", ["real", "kcenter"])
@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("normalise", ["mean-std", "none"])
def test_real_images_are_stored_as_the_data_hold_them_and_read_back_bit_for_bit(run_of, init, storage, normalise):
    artifact, run = run_of("--plugin=pull", f"--init={init}", f"--storage-dtype={storage}", f"--normalise={normalise}")
    check_read_back(artifact, run)
    assert artifact.manifest["real"]["unchanged"] and artifact.real_count == len(artifact) == 6
    assert artifact.payload_bytes == 6 * (PIXELS + 1) and artifact.manifest["storage_dtype"] == "uint8"
    assert artifact.tensors["pixels"].dtype == torch.uint8 and artifact.manifest["schema"] == 2


def test_card_description_rows_and_report_say_that_the_images_are_real(run_of, tmp_path):
    artifact, run = run_of("--plugin=pull", "--init=real")
    card = (tmp_path / "run" / "artifact" / "README.md").read_text()
    assert "6 real images, chosen from the train part of the source and unchanged; none is synthetic" in card
    assert "It is the licence of these images" in card and "synthetic images" not in card
    assert "all images are rows of the data's train part, unchanged" in describe(artifact)
    report = (tmp_path / "run" / "report.html").read_text()
    assert "The images: 6 of 6 are real ones" in report and "synthetic images" not in report
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    by = {row["set"]: row for row in rows}
    assert "6 of its 6 images are real ones" in by["distilled"]["note"]
    assert by["random"]["bytes"]["total"] == artifact.payload_bytes


def test_learned_images_are_not_called_real(run_of, tmp_path):
    artifact, _ = run_of("--plugin=pull", "--init=real", "--steps=1", "--pull.rate=0.001")
    assert artifact.real_count == 0 and artifact.manifest["schema"] == 1 and "real" not in artifact.manifest
    assert "6 synthetic images" in (tmp_path / "run" / "artifact" / "README.md").read_text()


@pytest.mark.parametrize(("storage", "kept"), [("float32", True), ("float16", False)])
def test_of_float_data_the_floats_are_kept_and_what_is_rounded_is_said(run_of, storage, kept, tmp_path):
    artifact, run = run_of("--plugin=pull", "--init=real", f"--storage-dtype={storage}", dtype="float32")
    assert artifact.real_count == 6 and artifact.manifest["real"]["unchanged"] == kept
    assert artifact.payload_bytes == 6 * (PIXELS * (4 if kept else 2) + 1)
    assert ("rounded" in (tmp_path / "run" / "artifact" / "README.md").read_text()) == (not kept)
    if kept:
        check_read_back(artifact, run)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_floats_that_are_few_levels_are_held_as_these(tmp_path, storage):
    words = [word for word in COMMON if not word.startswith("--ipc")]
    given = ["--dataset=digits", "--ipc=1", f"--storage-dtype={storage}", "--plugin=pull", "--init=real"]
    assert invoke(["run", *words, *given, f"--out={tmp_path / 'run'}"]) == 0
    artifact, run = load_artifact(tmp_path / "run" / "artifact"), open_run(str(tmp_path / "run"))
    assert torch.equal(artifact.images(), run.real.train.inputs(artifact.source_rows))
    assert artifact.manifest["real"]["unchanged"] and artifact.payload_bytes == 650  # 10 digits of 64 pixels k / 16
    rows = json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]
    assert {row["set"]: row["bytes"]["total"] for row in rows}["random"] == 650


def test_whitened_images_are_known_as_real_though_they_stay_floats(run_of):
    artifact, run = run_of("--plugin=pull", "--init=real", "--normalise=zca")
    assert artifact.real_count == 6 and artifact.manifest["real"]["unchanged"]
    assert torch.equal(artifact.images(), run.real.train.inputs(artifact.source_rows))


@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_a_set_that_is_real_in_part_is_stored_in_parts(site, run_of, storage):
    site.put("half", MATCHER % "images[::2] += 0.3")
    artifact, run = run_of("--plugin=half", "--init=real", f"--storage-dtype={storage}")
    assert (artifact.source_rows >= 0).tolist() == [False, True] * 3
    check_read_back(artifact, run)
    each = {"float32": 4, "float16": 2, "uint8": 1}[storage]
    levels = 2 * 3 * 4 if storage == "uint8" else 0
    assert artifact.payload_bytes == 3 * PIXELS + 3 * PIXELS * each + levels + 6 + 6  # 6 places of a byte
    assert "6 images, 3 synthetic and 3 real ones" in (artifact.place / "README.md").read_bytes().decode()
    shuffled = torch.tensor([5, 0, 3])
    assert torch.equal(artifact.images(shuffled), artifact.images()[shuffled])


def test_images_that_were_made_of_real_ones_are_not_these_and_the_card_says_what_they_are(site, run_of):
    site.put("half", MATCHER % "pass")
    artifact, _ = run_of("--plugin=half", "--init=darker")
    assert artifact.real_count == 0 and artifact.tensors["pixels"].dtype == torch.float32
    assert artifact.manifest["notes"][-1] == "nothing was learned: the images are real images made darker"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("rows", ""),
        ("rows.flip(0)", "names source_rows that are other images"),
        ("rows[:2]", "not one row of the 48 train images a sample"),
        ("rows + 48", "not one row of the 48 train images a sample"),
    ],
)
def test_an_assembler_may_say_which_rows_are_real_and_is_not_believed_blindly(
    site, data, tmp_path, capsys, given, words
):
    site.put("half", MATCHER % "pass" + ASSEMBLING % given)
    code = invoke(["run", data(), *COMMON, "--plugin=half", "--init=real", f"--out={tmp_path / 'run'}"])
    if words:
        assert code == 2 and words in capsys.readouterr().err
    else:
        artifact = load_artifact(tmp_path / "run" / "artifact")
        assert artifact.source_rows.tolist() == [0, 3, 1, 4, 2, 5] and artifact.tensors["mine"].dtype == torch.uint8


def test_bytes_buy_real_images_at_their_price(data, tmp_path):
    words = [word for word in COMMON if not word.startswith("--ipc")]
    out = tmp_path / "run"
    assert invoke(["run", data(), *words, "--plugin=pull", "--init=real", "--bytes=6000", f"--out={out}"]) == 0
    # 3 classes x (192 + 1) bytes: 10 of each, less the headers
    artifact = load_artifact(out / "artifact")
    assert 9 <= artifact.ipc <= 10 and artifact.nbytes["total"] <= 6000


def test_random_images_are_priced_as_the_data_hold_them(run_of, tmp_path):
    artifact, _ = run_of("--plugin=pull", "--init=noise", dtype="float32")
    by = {row["set"]: row for row in json.loads((tmp_path / "run" / "scores.json").read_text())["rows"]}
    assert by["random"]["bytes"]["total"] == 6 * (4 * PIXELS + 1)
    assert by["full"]["bytes"]["images"] == 48 * 4 * PIXELS
    assert by["random-bytes"]["images"] == artifact.nbytes["total"] // (4 * PIXELS + 1)
    assert "as many float32 images as fit" in by["random-bytes"]["note"]
    assert artifact.equivalent_ipc == artifact.nbytes["total"] / (4 * PIXELS + 1) / 3


def test_a_manifest_whose_real_rows_do_not_fit_gets_one_sentence(run_of, tmp_path):
    artifact, _ = run_of("--plugin=pull", "--init=real")
    place = tmp_path / "run" / "artifact" / "manifest.json"
    manifest = json.loads(place.read_text())
    for real in ({"rows": [0], "unchanged": True}, {"rows": ["a"] * 6, "unchanged": True}, {"rows": [0] * 6}, None, []):
        place.write_text(json.dumps({**manifest, "real": real}))
        with pytest.raises(InputError, match="manifest.json"):
            load_artifact(place.parent)
    for changed in (
        {"mean": [0.5]},
        {"std": [0.0] * 3},
        {"mean": "x"},
        {"white": 0},
        {"white": "x"},
        {"at": "pixels"},
        {"tensor": "none"},
    ):
        place.write_text(json.dumps({**manifest, "decoder": [{**manifest["decoder"][0], **changed}]}))
        with pytest.raises(InputError):
            load_artifact(place.parent)


# ---- finding rows ----------------------------------------------------------------------------------------------------


def source(dtype: str = "uint8") -> Source:
    images = torch.from_numpy(pixels_of(dtype)).permute(0, 3, 1, 2).contiguous()
    images[30] = images[6]
    images[31] = images[6]
    labels = torch.from_numpy(LABELS)
    return Source(
        name="x", train=Split(images[:48], labels), test=Split(images[48:], labels[:12]), classes=("a", "b", "c")
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("kind", ["mean-std", "none", "zca"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_rows_are_found_by_all_their_pixels(dtype, kind, precision):
    part = Real(source(dtype), fit(kind, source(dtype)), dtype=precision).train
    rows = torch.tensor([47, 3, 0, 6])
    images = part.inputs(rows)
    images[1, 2, 0, 1] = torch.nextafter(images[1, 2, 0, 1], torch.tensor(9.0, dtype=precision))  # no pixel of the key
    assert part.rows_of(images).tolist() == [47, -1, 0, 6]
    assert part.rows_of(part.inputs(torch.tensor([30, 31]))).tolist() == [6, 6]
    assert part.rows_of(part.inputs(torch.tensor([30])), torch.tensor([1])).tolist() == [31]  # row 31 is of class 1
    assert part.rows_of(torch.randn(5, 3, 8, 8, dtype=precision)).tolist() == [-1] * 5
    assert part.rows_of(images[:0]).tolist() == []
