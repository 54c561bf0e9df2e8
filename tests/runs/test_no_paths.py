"""Nothing that is handed on says where on a machine, and so whose, something lay."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddcore.cli.app import invoke
from ddcore.runs.opening import open_run
from ddcore.storage.published import at_home, from_home, shortened, told

pytestmark = pytest.mark.usefixtures("probes")
WHO = "canary-user"
QUICK = ["--eval-seeds=1", "--protocol=quick-2", "--network=convnet2-w4", "--threads=1", "--full-epochs=1"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "home" / WHO
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    drawn = np.random.default_rng(0)
    parts = {"train": 24, "test": 6}
    images = {f"x_{p}": drawn.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for p, n in parts.items()}
    np.savez(folder / "pets.npz", **images, **{f"y_{p}": np.arange(n) % 3 for p, n in parts.items()})
    return folder


def leaks(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path.relative_to(folder)) for path in files if WHO.encode() in path.read_bytes()]


def test_no_file_of_a_run_its_exports_or_pages_has_the_users_folder_and_it_goes_on_all_the_same(home, capsys):
    data, cache = f"npz:{home / 'pets.npz'}", f"--cache={home / 'cache'}"
    (home / "cache" / "full").parent.mkdir()
    (home / "cache" / "full").write_text("in the way, so that a warning names it")
    words = ["--plugin=pull", "--steps=1", "--preset=none", *QUICK, cache, f"--out={home / 'run'}"]
    assert invoke(["run", f"--dataset={data}", f"--evaluate-on={data}", "--ipc=1", *words]) == 0
    again = [*QUICK[:2], "--threads=1", "--full-epochs=1", cache]
    assert invoke(["evaluate", str(home / "run" / "artifact"), *again, f"--out={home / 'scored'}"]) == 0
    assert invoke(["relabel", str(home / "run" / "artifact"), "--labels=hard", f"--out={home / 'other'}"]) == 0
    train = ["train", f"--data={data}", "--student=convnet2-w4", *QUICK[:2], "--threads=1", cache]
    assert invoke([*train, f"--out={home / 'trained'}"]) == 0
    runs = [str(home / name) for name in ("run", "trained")]
    assert invoke(["compare", *runs, f"--out={home / 'pages' / 'compared.html'}"]) == 0
    for to in ("folder", "parquet", "pt"):
        assert invoke(["export", str(home / "run" / "artifact"), "--to", to, "--out", str(home / "given" / to)]) == 0
    for folder in ("run", "scored", "other", "trained", "pages", "given"):
        assert leaks(home / folder) == [], folder
    assert open_run(str(home / "run")).config.dataset == data
    assert invoke(["resume", str(home / "run")]) == 0
    warnings = json.loads((home / "run" / "scores.json").read_text())["warnings"]
    assert any("full" in text for text in warnings)


def test_a_suite_and_its_failures_have_none_either(home):
    (home / "suite.toml").write_text(
        f'ipc = [1, 99]\nseeds = [0]\n[run]\nthreads = 1\neval_seeds = 1\nfull_epochs = 1\nprotocol = ["quick-2"]\n'
        f'network = "convnet2-w4"\ncache = "{home}/cache"\n[[data]]\nname = "pets"\ndataset = "npz:{home}/pets.npz"\n'
        '[[method]]\nname = "pull"\nplugins = ["pull"]\nsteps = 1\n'
    )
    for _ in range(2):  # the second finds what is done
        assert invoke(["bench", str(home / "suite.toml"), f"--out={home / 'bench'}"]) in (0, 2)
    assert leaks(home / "bench") == []


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("cannot read /home/me/x.npz: get it again", "cannot read x.npz: get it again"),
        ("'/Users/me/a b/x' and (~/y/z) and ../up/w", None),
        (
            "s3://bucket/a/b, https://host/a/b and hf:org/set stay",
            "s3://bucket/a/b, https://host/a/b and hf:org/set stay",
        ),
        ("1/2 of them, and/or none; 3 x 8 / 2", "1/2 of them, and/or none; 3 x 8 / 2"),
        ("parquet:/data/me/t.parquet", "parquet:t.parquet"),
        ("file:///home/me/x", "x"),
    ],
)
def test_sentences_keep_their_words_and_lose_the_folders(text, due):
    found = told(text)
    assert "me/" not in found and (due is None or found == due)


def test_what_lies_at_home_is_said_so_and_found_again(home):
    record = {"config": {"dataset": f"npz:{home}/a.npz", "cache": f"{home}/c", "out": "runs/x", "ipc": 3}}
    record |= {"weights": [f"resnet={home}/w.pth", "s3://bucket/w", f"zip://x.csv::{home}/a.zip", f"{home}2/x"]}
    written = at_home(record)
    assert written["config"] == {"dataset": "npz:~/a.npz", "cache": "~/c", "out": "runs/x", "ipc": 3}
    assert written["weights"] == ["resnet=~/w.pth", "s3://bucket/w", "zip://x.csv::~/a.zip", f"{home}2/x"]
    assert from_home(written) == record and shortened(written["weights"][0]) == "resnet=w.pth"
