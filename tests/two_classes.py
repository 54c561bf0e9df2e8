"""Two easy classes of images in a file, and quick runs on them, for tests of learning that goes wrong."""

import numpy as np
import pytest

from ddcore.cli.app import invoke


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two classes of noise, dark and light."""
    folder, draw = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 40), ("test", 10)):
        labels = np.repeat(np.arange(2), count)
        images = draw.integers(0, 100, (2 * count, 8, 8)) + 120 * labels[:, None, None]
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(folder / "two.npz", **arrays)
    return folder


def ran(two, out, *words):
    quick = ["--ipc", "1", "--threads", "1", "--protocol", "quick-2", "--eval-seeds", "1", "--network", "convnet1-w4"]
    where = ["--dataset", f"npz:{two}/two.npz", "--out", str(two / out), "--cache", str(two / "cache")]
    return invoke(["run", *words, *where, *quick])
