"""Files that somebody damaged or made to do harm, read the way users read them: each is read or refused, and nothing else happens.

A case is a folder with whole files of one kind of which one is changed: bits flipped, cut, spliced, overwritten; or, where the file is
JSON, TOML, CSV or has a JSON header, values of it replaced by hostile ones, keys removed, doubled and renamed, lists nested. Half of the
changed artifacts get fitting checksums, so that what lies behind the checksums is reached too. Equal seeds make equal cases.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import frozen

from ddcore.composing.discovery import installed

PROBES = str(Path(__file__).parents[1] / "probes")
"""The plugins of settings, suites and runs."""
SECONDS = 20.0
"""After which a case counts as one that hangs, on a busy machine too."""
READ, REFUSED, TRACEBACK, HANG, CODE, UNDETECTED = "read", "refused", "traceback", "hang", "code", "undetected"
FAILURES = (TRACEBACK, HANG, CODE, UNDETECTED)
RUNS_CODE = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
ASKS_NETWORK = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname"}
HUGE = (2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**12, 10**30, 10**5000)
NUMBERS = (*HUGE, *(-n for n in HUGE), -1, 0, 1, 2, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"))
TEXTS = (
    "",
    "a" * 5000,
    "\x1b[2J\x1b]0;x\x07",
    "\x00",
    "\ud800",
    "../../x",
    "/etc/passwd",
    "C:\\x",
    "http://127.0.0.1:9/x",
    "nan",
)
TEXTS = (
    *TEXTS,
    "__class__",
    "os.system",
    "\u202e",
    "none",
    "0",
    "1e999",
    "float32",
    "hard",
    "soft",
    "per-view",
    "drawn",
    "rows",
)


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    inner: Any = []
    for _ in range(depth):
        inner = [inner]
    return inner


# ---- changes ---------------------------------------------------------------------------------------------------------


def changed_bytes(data: bytes, draw: random.Random) -> bytes:
    """Bytes with one thing done to them that happens to files, or that somebody does."""
    changed, at = bytearray(data), draw.randrange(max(1, len(data)))
    end = min(len(data), at + draw.choice((1, 2, 4, 8, 64)))
    what = draw.choice(
        ("flip", "flip", "cut", "splice", "overwrite", "number", "insert", "drop", "empty", "double", "head")
    )
    if what == "flip":
        for _ in range(draw.choice((1, 1, 3, 20))):
            if changed:
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    elif what == "cut":
        del changed[at:]
    elif what == "splice":
        other = draw.randrange(max(1, len(data)))
        changed[at:end] = data[other : other + draw.choice((4, 32, 256))]
    elif what == "overwrite":
        changed[at:end] = bytes([draw.choice((0, 0x7F, 0x80, 0xFF))]) * (end - at)
    elif what == "number":
        size, order = draw.choice((2, 4, 8)), draw.choice(("big", "little"))
        changed[at : at + size] = draw.choice((0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size) - 1)).to_bytes(
            size, order
        )
    elif what == "insert":
        changed[at:at] = draw.randbytes(draw.choice((1, 8, 100)))
    elif what == "drop":
        del changed[at:end]
    elif what == "empty":
        changed.clear()
    elif what == "double":
        changed += data
    else:
        changed[:8] = draw.choice((2**63 - 1, 10**8, 10**7 - 1, len(data), 2)).to_bytes(8, "little")
    return bytes(changed)


def changed_value(value: Any, draw: random.Random) -> Any:
    """A JSON value, or one somewhere in it, replaced, removed, doubled, renamed or nested."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key, copy = draw.choice(sorted(value)), dict(value)
        what = draw.random()
        if what < 0.1:
            del copy[key]
        elif what < 0.15:
            copy[draw.choice(TEXTS)] = copy.pop(key)
        else:
            copy[key] = changed_value(value[key], draw)
        return copy
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        what = draw.random()
        if what < 0.1:
            return value[:at] + value[at + 1 :]
        if what < 0.2:
            return [*value, *value]
        return [*value[:at], changed_value(value[at], draw), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.3:
        return draw.choice((value + 1, value - 1, -value, float(value), value * 1000))
    return hostile(draw)


def hostile(draw: random.Random) -> Any:
    """Some value that nobody expects."""
    several = ([], {}, None, True, False, [1, 2, 3], {"a": 1}, ["x"], nested(50), nested(500), list(range(300)))
    return draw.choice((draw.choice(NUMBERS), draw.choice(TEXTS), draw.choice(several)))


def changed_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON document, changed as a document or as text."""
    if draw.random() < 0.15:
        return changed_bytes(data, draw)
    if draw.random() < 0.05:
        return b"[" * 100_000 if draw.random() < 0.5 else b'{"a":' * 50_000
    sys.set_int_max_str_digits(0)
    try:
        content = changed_value(json.loads(data), draw)
        text = json.dumps(content)
    finally:
        sys.set_int_max_str_digits(4300)
    if draw.random() < 0.1 and text.startswith('{"'):
        text = text[:-1] + ', "' + text[2 : text.index('"', 2)] + '": ' + json.dumps(draw.choice(TEXTS)) + "}"
    return text.encode()


def changed_header(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file, of which half of the changes are to the header's values."""
    length = int.from_bytes(data[:8], "little")
    if draw.random() < 0.5 or length > len(data):
        return changed_bytes(data, draw)
    header = changed_json(data[8 : 8 + length], draw)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


TOKENS = (
    "-1",
    "0",
    "1e999",
    "nan",
    "inf",
    "9" * 5000,
    "0x" + "f" * 2000,
    '""',
    '"\\u0000"',
    "[]",
    "{}",
    "[[1]]",
    "true",
)
TOKENS = (
    *TOKENS,
    "1979-05-27",
    "99:99:99",
    "[" * 2000,
    "{a=" * 500,
    '"""',
    "'",
    "2026-13-45",
    "a.b",
    "\x00",
    "\ufeff",
    "0.1",
)


def changed_toml(data: bytes, draw: random.Random) -> bytes:
    """A TOML document of which a value, a key or a line is another."""
    lines = data.decode().splitlines()
    at = draw.randrange(len(lines))
    what = draw.random()
    key, equals, _ = lines[at].partition("=")
    if what < 0.5 and equals:
        lines[at] = f"{key}= {draw.choice(TOKENS)}"
    elif what < 0.6 and equals:
        lines[at] = f"{draw.choice(('', 'a.' * 3000 + 'a', key + '.x', 'plugin', 'x' * 3000))} = 1"
    elif what < 0.7:
        lines.insert(at, draw.choice(lines))
    elif what < 0.8:
        del lines[at]
    else:
        return changed_bytes(data, draw)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


FIELDS = (
    "",
    "-1",
    "0",
    "1e9",
    "9" * 30,
    "10000000000",
    "2,3",
    "1,2,3,4",
    "x" * 200_000,
    "\x00",
    '"',
    "C" * 5000,
    "C1CC",
    "[C+99999]",
)
FIELDS = (
    *FIELDS,
    "(" * 5000,
    "[CH99999999999]",
    "c1" * 300,
    "[" + "9" * 400 + "C]",
    "C%99" * 50,
    "\udcff",
    "\r",
    "\x1b[2J",
    "1.5",
)


def changed_table(data: bytes, draw: random.Random) -> bytes:
    """A file of lines with fields between commas, of which some are others."""
    if draw.random() < 0.3:
        return changed_bytes(data, draw)
    lines = data.decode().splitlines()
    for _ in range(draw.choice((1, 1, 2, 10))):
        at = draw.randrange(len(lines))
        fields = lines[at].split(",")
        fields[draw.randrange(len(fields))] = draw.choice(FIELDS)
        lines[at] = ",".join(fields)
    if draw.random() < 0.2:
        del lines[draw.randrange(len(lines))]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def changed_npz(data: bytes, draw: random.Random) -> bytes:
    """An .npz file, of which half of the changes are to a header or a name in it."""
    if draw.random() < 0.5:
        return changed_bytes(data, draw)
    held = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(held, "w", method) as new:
        names = old.namelist()
        chosen = draw.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen and draw.random() < 0.8:
                content = _other_array(content, draw)
            elif name == chosen:
                name = draw.choice(("../x.npy", "/etc/x.npy", "x_train.npy", "\x1b[2J.npy", "x"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                new.writestr(name, content)
    return held.getvalue()


def _other_array(content: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.3:
        return changed_bytes(content, draw)
    if draw.random() < 0.2:
        held = io.BytesIO()
        np.save(held, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
        return held.getvalue()
    start = 10
    length = int.from_bytes(content[8:10], "little")
    header = content[start : start + length].decode("latin1")
    old = draw.choice(("|u1", "<i8", "False", "(", "12", "8", "descr", "<f4"))
    new = draw.choice(
        ("|O", "<U9999", "|V0", ">f8", "True", "-1", "((((", "9" * 20, "10**9", "[1]", "__import__('os')")
    )
    header = header.replace(old, new, 1)
    return content[:8] + len(header).to_bytes(2, "little") + header.encode("latin1") + content[start + length :]


# ---- kinds of files --------------------------------------------------------------------------------------------------

Change = Callable[[bytes, random.Random], bytes]


@frozen
class Kind:
    """Files that are read together.

    Attributes:
        make: writes whole ones into a folder.
        read: reads them the way users do.
        sealed: files whose every byte a checksum covers: a changed one may not be read.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], None]
    sealed: tuple[str, ...] = ()


def change_of(name: str) -> Change:
    """How a file of this name is changed."""
    ends = {".json": changed_json, ".safetensors": changed_header, ".toml": changed_toml, ".npz": changed_npz}
    ends |= {".csv": changed_table, ".txt": changed_table}
    return next((change for end, change in ends.items() if name.endswith(end)), changed_bytes)


def _artifact(labels: str, storage: str = "float32", bits: int = 8) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from ddcore.data.normalisation import ZCA, MeanStd
        from ddcore.sets.artifact import save_artifact
        from ddcore.sets.levels import to_levels

        images = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
        normalisation = ZCA(torch.zeros(48), torch.eye(48), torch.eye(48)) if storage == "uint8" else None
        normalisation = normalisation or MeanStd((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
        tensors, decoder = {"pixels": images}, [{"op": "rows", "tensor": "pixels"}]
        if bits < 8:
            tensors, decoder = to_levels(tensors, decoder, normalisation, bits)  # type: ignore[assignment]
        made = {
            "config": {"dataset": "digits", "ipc": 2},
            "options": {},
            "plugins": [{"name": "pull"}],
            "plan": {"steps": 5},
        }
        save_artifact(
            folder,
            tensors=tensors,
            decoder=decoder,
            labels=_labels(labels),
            classes=("cat", "dog", "tree frog"),
            normalisation=normalisation,
            recipe={"protocol": "quick", "learned_rate": 0.02},
            provenance={"method": "pull", "seed": 3, "relabelled": [{"labels": "soft", "was": "hard", **made}], **made},
            source={"name": "pets", "origin": "folder:pets", "licence": "CC0", "fingerprint": "f" * 64, "train": 60},
            notes=("frogs look like cats",),
            storage_dtype=storage,
        )

    return make


def _labels(kind: str) -> Any:
    from ddcore.images.views import RESIZED, SHIFTED
    from ddcore.labels import (
        HardLabels,
        PerViewLabels,
        SoftLabels,
        StaticMixedLabels,
        TwoDistanceLabels,
    )
    from ddcore.labels.encoders import Encoder
    from ddcore.labels.view_records import DrawnViews
    from ddcore.networks.zoo import build

    generator, classes = torch.Generator().manual_seed(1), torch.arange(3).repeat_interleave(2)
    logits = torch.randn(6, 3, generator=generator)
    drawn = DrawnViews(images=6, epochs=2, batch=4, size=(4, 4), draw=RESIZED.fitting(4, True), seed=5)
    views = torch.randn(12, 3, generator=generator)
    if kind == "projector":
        network = build("convnet1-w2-bn".replace("-w2-bn", "-bn-w2"), 3, 4, 3, generator)
        assert network is not None
        from ddcore_hello.projector import ProjectorLabels

        encoder = Encoder.of("convnet1-bn-w2", network, 3, 4)
        features = network.embed(torch.zeros(1, 3, 4, 4)).shape[1]
        return ProjectorLabels(classes=classes, encoder=encoder, head=torch.randn(3, features, generator=generator))
    made: dict[str, Callable[[], Any]] = {
        "hard": lambda: HardLabels(classes, 3),
        "soft": lambda: SoftLabels(logits, classes, temperature=2.0),
        "static-mixed": lambda: StaticMixedLabels(logits, classes, (4, 4), SHIFTED.fitting(4, True)),
        "per-view": lambda: PerViewLabels(views.half(), classes, drawn.store()),
        "top-k": lambda: PerViewLabels(views, classes, drawn).top(2),
        "two-distances": lambda: TwoDistanceLabels(views[:, :2].abs(), classes, 3, drawn.store(compact=True)),
    }
    return made[kind]()


def _read_artifact(folder: Path) -> None:
    from ddcore.sets.exports import describe, inspect
    from ddcore.sets.packed import load_either

    artifact = load_either(folder)
    describe(artifact)
    json.dumps(inspect(artifact), allow_nan=False)
    artifact.images()  # type: ignore[union-attr]
    for number, _ in enumerate(artifact.loader(batch_size=4)):  # type: ignore[union-attr]
        if number == 2:
            break


def _graphs(folder: Path) -> None:
    from ddcore_graphs.packing import DECODER, pack_graphs
    from ddcore_graphs.rings import rings

    from ddcore.api.types import Synthetic
    from ddcore.sets.packed import save_packed

    train, index = rings().train, torch.tensor([0, 1, 198, 199])
    tensors = pack_graphs(train.stored.select(index), train.labels[index])  # type: ignore[attr-defined]
    synthetic = Synthetic(tensors, {}, DECODER, train.labels[index], preview=b"png")
    source = {"name": "toy", "origin": "computed", "licence": "CC0", "fingerprint": "f", "train": 9, "shape": [1, 0]}
    save_packed(folder, synthetic, kind="graphs", classes=("a", "b"), provenance={"method": "probe"}, source=source)


def _read_graphs(folder: Path) -> None:
    from ddcore_graphs.packing import StoredGraphs

    from ddcore.sets.exports import describe
    from ddcore.sets.packed import load_packed

    packed = load_packed(folder)
    describe(packed)
    StoredGraphs().sample(packed.tensors, {}, torch.arange(len(packed.tensors["class"])), None)


def _trees(folder: Path) -> None:
    from ddcore_mirage.forest import Pattern, pack

    from ddcore.api.types import Synthetic
    from ddcore.sets.packed import save_packed

    leaf = ((6, 1), ())
    patterns = (Pattern(0, 5, (leaf, ((7, 2), (((1,), leaf), ((2,), leaf))))), Pattern(1, 3, (leaf,)))
    tensors, spec = (
        pack(patterns, edge_features=1, degrees=True),
        {"op": "mirage-forest", "distribution": "ddcore-mirage"},
    )
    synthetic = Synthetic(tensors, {}, [spec], torch.tensor([0, 1]), preview=b"png")
    source = {"name": "toy", "origin": "computed", "licence": "CC0", "fingerprint": "f", "train": 9, "shape": [1, 1]}
    save_packed(folder, synthetic, kind="graphs", classes=("a", "b"), provenance={"method": "mirage"}, source=source)


def _read_trees(folder: Path) -> None:
    from ddcore_mirage.distilled import training_graphs

    from ddcore.sets.exports import describe
    from ddcore.sets.packed import load_packed

    packed = load_packed(folder)
    describe(packed)
    training_graphs(packed.tensors)


def pictures(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 8, 8, 3) uint8 and labels, of three classes."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8), np.arange(count) % 3


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture as bytes of a file."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format=kind)
    return held.getvalue()


def _parquet(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    images, labels = pictures()
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features, "license": "mit"}})}
    for part, at in (("train", slice(0, 9)), ("test", slice(6, 12))):
        rows = [{"bytes": encoded(picture), "path": "x.png"} for picture in images[at]]
        table = pyarrow.table({"image": rows, "label": labels[at]}).replace_schema_metadata(about)
        pyarrow.parquet.write_table(
            table, folder / f"{part}.parquet", compression="snappy" if part == "test" else "none"
        )


def _npz(folder: Path) -> None:
    images, labels = pictures()
    np.savez(
        folder / "data.npz",
        x_train=images,
        y_train=labels,
        x_test=images[:6],
        y_test=labels[:6],
        classes=["a", "b", "c"],
    )


def _idx(folder: Path) -> None:
    import gzip

    images, labels = pictures()
    for part in ("train", "t10k"):
        pixels = b"".join(n.to_bytes(4, "big") for n in (0x803, 12, 8, 8)) + images[..., 0].tobytes()
        numbers = b"".join(n.to_bytes(4, "big") for n in (0x801, 12)) + labels.astype(np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(numbers, mtime=0))


def _folder(folder: Path) -> None:
    images, labels = pictures()
    formats = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
    for at, (picture, label) in enumerate(zip(images, labels, strict=True)):
        for part in ("train", "test"):
            kind = formats[at % len(formats)]
            place = folder / part / "abc"[label] / f"{at}.{kind.lower()}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encoded(picture, kind))


def _reader(name: str, file: str = "", **more: Any) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from ddcore.cli.app import invoke

        words = [word for option, value in more.items() for word in (f"--{option}", value)]
        code = invoke(["data", "show", f"{name}:{folder / file if file else folder}", *words])
        if code == 2:
            raise _Refused
        if code:
            raise AssertionError(f"exit code {code}")

    return read


def _smiles(folder: Path) -> None:
    molecules = ("CCO", "[Na+].[Cl-]", "Cc1ccccc1", "CC(=O)Oc1ccccc1", "C1CC1", "CC1CC1", "c1ccncc1", "Cc1ccncc1")
    lines = [f"{molecule},{label}" for molecule in molecules for label in (0, 1, 0, 1)]
    (folder / "m.csv").write_text("\n".join(["smiles,label", *lines]))


def _tu(folder: Path) -> None:
    edges = [(a + 1, b + 1) for at in range(0, 20, 2) for a, b in ((at, at + 1), (at + 1, at))]
    files = {"A": [f"{a},{b}" for a, b in edges], "graph_indicator": [at // 2 + 1 for at in range(20)]}
    files |= {
        "graph_labels": [1, -1] * 5,
        "node_labels": [at % 3 for at in range(20)],
        "edge_labels": [at // 2 % 2 for at in range(20)],
    }
    for name, lines in files.items():
        (folder / f"X_{name}.txt").write_text("\n".join(map(str, lines)))


SETTINGS = """plugins = ["pull", "turn"]
dataset = "digits"
ipc = 2
steps = 5
network = "convnet2-w4"
protocol = ["quick-3"]
eval_network = ["lenet", "mlp"]
labels = "averaged"
resize = 8
validation = 0.2
cache = "cache"
[teachers]
networks = ["convnet2-w4"]
[plugin.pull]
rate = 0.5
[plugin.turn]
both = false
"""
SUITE = """name = "small"
ipc = [1, 2]
seeds = [0, 1]
[run]
protocol = ["quick-3"]
network = "convnet2-w4"
[[data]]
name = "digits"
dataset = "digits"
[[method]]
name = "pull + turn"
plugins = ["pull", "turn"]
steps = 2
plugin.pull.rate = 1.0
"""


def _read_settings(folder: Path) -> None:
    from ddcore.cli.app import invoke

    code = invoke(["run", "--config", str(folder / "c.toml"), "--explain"])
    if code == 2:
        raise _Refused
    if code:
        raise AssertionError(f"exit code {code}")


def _read_suite(folder: Path) -> None:
    from ddcore.commands.bench import read_suite, setup_of

    for cell in read_suite(str(folder / "s.toml")).cells()[:3]:
        assert cell.key
        setup_of(cell.plugins, cell.tables)


def _run(folder: Path) -> None:
    from ddcore.composing.selection import select, setup_from
    from ddcore.runs.assembly import begin
    from ddcore.storage.progress import Reporter

    words = ["--plugin", "pull", "--plugin", "turn"]
    given = {"network": "convnet2-w4", "steps": 5, "protocol": ("quick-3",), "out": str(folder / "run"), "threads": 1}
    begin(setup_from(select(words, {}), given, {}), plan_only=False, command=["ddcore"], reporter=Reporter(quiet=True))
    for name in sorted((folder / "run").iterdir()):
        if name.name != "run.json":
            name.unlink()


def _read_run(folder: Path) -> None:
    from ddcore.runs.opening import open_run

    threads = torch.get_num_threads()
    try:
        assert open_run(str(folder / "run"), trust=True).plan
    finally:
        torch.set_num_threads(threads)


def _state() -> dict[str, Any]:
    network = torch.nn.Linear(3, 2)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return {
        "network": network,
        "optimiser": optimiser,
        "images": torch.ones(2, 3),
        "numbers": {"step": 3, "list": [1, 2.5, "a"]},
    }


def _checkpoint(folder: Path) -> None:
    from ddcore.storage.checkpoints import Checkpoints
    from ddcore.storage.places import Place

    kept = Checkpoints(Place.at(folder))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kept.finish("b", {"x": torch.ones(3)}, {"note": "done"})
        kept.save("a", 3, _state())


def _read_checkpoint(folder: Path) -> None:
    from ddcore.storage.checkpoints import Checkpoints
    from ddcore.storage.places import Place

    kept = Checkpoints(Place.at(folder))
    with torch.random.fork_rng():
        kept.load("a", _state())
    kept.header("b")
    kept.result("b")


def _weights(folder: Path) -> None:
    from ddcore.storage.places import Place, save_tensors

    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
    torch.save(state, folder / "new.pth")
    torch.save({"state_dict": state, "epoch": 3}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_tensors(Place.at(folder / "w.safetensors"), state, {"k": "v"})


def _read_weights(folder: Path) -> None:
    from ddcore.storage.places import Place, read_metadata
    from ddcore.storage.weights import read_state

    for name in ("new.pth", "old.pth", "w.safetensors"):
        read_state(Place.at(folder / name))
    read_metadata(Place.at(folder / "w.safetensors"))


TENSORS = ("images.safetensors", "labels.safetensors", "models.safetensors", "normalisation.safetensors")
EVERY: dict[str, Kind] = {
    "artifact, hard": Kind(_artifact("hard"), _read_artifact, TENSORS),
    "artifact, soft, uint8, zca": Kind(_artifact("soft", "uint8"), _read_artifact, TENSORS),
    "artifact, static-mixed, 4 bits": Kind(_artifact("static-mixed", bits=4), _read_artifact, TENSORS),
    "artifact, per-view": Kind(_artifact("per-view", "float16"), _read_artifact, TENSORS),
    "artifact, top-k": Kind(_artifact("top-k"), _read_artifact, TENSORS),
    "artifact, two-distances": Kind(_artifact("two-distances"), _read_artifact, TENSORS),
    "artifact, projector": Kind(_artifact("projector"), _read_artifact, TENSORS),
    "artifact, trees": Kind(_trees, _read_trees, ("graphs.safetensors",)),
    "artifact, graphs": Kind(_graphs, _read_graphs, ("graphs.safetensors",)),
    "parquet": Kind(_parquet, _reader("parquet")),
    "npz": Kind(_npz, _reader("npz", "data.npz")),
    "idx": Kind(_idx, _reader("idx")),
    "folder": Kind(_folder, _reader("folder")),
    "smiles": Kind(_smiles, _reader("smiles", "m.csv", plugin="graphs")),
    "tu": Kind(_tu, _reader("tu", plugin="graphs")),
    "settings": Kind(lambda folder: _write(folder / "c.toml", SETTINGS), _read_settings),
    "suite": Kind(lambda folder: _write(folder / "s.toml", SUITE), _read_suite),
    "run.json": Kind(_run, _read_run),
    "checkpoint": Kind(_checkpoint, _read_checkpoint, ("a.safetensors", "b.done.safetensors")),
    "weights": Kind(_weights, _read_weights),
}
READ_BY = {
    "artifact, projector": "hello",
    "artifact, trees": "mirage",
    "artifact, graphs": "graphs",
    "smiles": "graphs",
    "tu": "graphs",
}
"""Kinds of file that a plugin reads."""
KINDS = {name: kind for name, kind in EVERY.items() if READ_BY.get(name) in (None, *installed())}
"""What can be read here."""


def _write(place: Path, text: str) -> None:
    place.write_text(text)


# ---- cases -----------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """A command line said exit code 2."""


class _Late(BaseException):
    """The alarm rang; nothing that is tested catches it."""


@frozen
class Outcome:
    """What became of a case.

    Attributes:
        what: one of the words at the top.
        why: the sentence, or where the traceback ends.
    """

    what: str
    why: str = ""


_seen: list[str] | None = None


def _hear(event: str, arguments: tuple) -> None:
    if _seen is not None and event in RUNS_CODE | ASKS_NETWORK:
        _seen.append(event)


_hooked = False


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect what Python's audit hooks say of processes begun, classes unpickled and hosts asked.

    torch reads weights by an unpickler of its own, in Python, that knows tensors and a few plain types (``weights_only``); it
    does not tell of ``pickle.find_class``, as every unpickler of the module ``pickle`` does.
    """
    global _seen, _hooked
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    _seen = found = []
    try:
        yield found
    finally:
        _seen = None


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise ``_Late`` after some time."""

    def ring(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def outcome(read: Callable[[], object], seconds: float = SECONDS) -> Outcome:
    """Read something, and say what happened."""
    from ddcore.errors import DdcoreError

    out, err = io.StringIO(), io.StringIO()
    with watched() as seen, redirect_stdout(out), redirect_stderr(err):
        try:
            with alarm(seconds), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
            found = Outcome(READ)
        except _Refused:
            found = _said(err.getvalue().strip().removeprefix("error: "))
        except DdcoreError as error:
            found = (
                _said(str(error))
                if error.exit_code == 2
                else Outcome(TRACEBACK, f"exit code {error.exit_code}: {error}")
            )
        except _Late:
            found = Outcome(HANG, f"more than {seconds} s")
        except (Exception, SystemExit) as error:
            found = Outcome(TRACEBACK, f"{type(error).__name__}: {str(error)[:200]} at {_end_of(error)}")
    if seen:
        return Outcome(CODE, ", ".join(sorted(set(seen))))
    if escapes := set("\x1b\x07\x00\u202e") & set(out.getvalue() + err.getvalue()):
        return Outcome(TRACEBACK, f"printed {escapes}")
    return found


def _said(sentence: str) -> Outcome:
    return Outcome(REFUSED, sentence) if sentence else Outcome(TRACEBACK, "refused without a sentence")


def _end_of(error: BaseException) -> str:
    trace, ours = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        ours = f"{Path(file).name}:{trace.tb_lineno}" if "ddcore" in file else ours
        trace = trace.tb_next
    return ours


def case(kind: str, number: int, seed: int, whole: Path, scratch: Path) -> Outcome:
    """One case: a copy of whole files, one of them changed, read; the copy is removed."""
    draw = random.Random(f"{seed}/{kind}/{number}")
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    files = sorted(
        file for file in folder.rglob("*") if file.is_file() and file.name not in ("README.md", "preview.png")
    )
    weights = [4 if file.name == "manifest.json" else 1 for file in files]
    file = draw.choices(files, weights)[0]
    before = file.read_bytes()
    after = change_of(file.name)(before, draw)
    file.write_bytes(after)
    signed = file.name != "manifest.json" and (folder / "manifest.json").exists() and draw.random() < 0.5
    if signed:
        sign(folder, file.name)
    found = outcome(lambda: KINDS[kind].read(folder))
    if found.what == READ and file.name in KINDS[kind].sealed and not signed and after != before:
        return Outcome(UNDETECTED, f"{file.name} was changed and read")
    return found


def sign(folder: Path, name: str) -> None:
    """Write the size and checksum of a file, as it is now, into an artifact's manifest."""
    from ddcore.storage.places import sha256_of

    manifest, data = json.loads((folder / "manifest.json").read_text()), (folder / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": sha256_of(data)}
    part = name.removesuffix(".safetensors")
    manifest["bytes"][part] = len(data)
    manifest["bytes"]["total"] = sum(manifest["bytes"].get(p, 0) for p in ("images", "labels", "models", "graphs"))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def run(cases: int, seed: int = 0, kinds: tuple[str, ...] = tuple(KINDS)) -> Iterator[tuple[str, int, Outcome]]:
    """So many cases, kinds in turn; each with its number, by which ``case`` makes it again."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for at, kind in enumerate(kinds):
            (root / str(at)).mkdir()
            KINDS[kind].make(root / str(at))
        for number in range(cases):
            at = number % len(kinds)
            yield kinds[at], number, case(kinds[at], number, seed, root / str(at), root)


def measure(cases: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Outcomes of so many cases: in all, and by kind of file; and the process's peak of resident memory over its start."""
    import resource

    if PROBES not in sys.path:
        sys.path.append(PROBES)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    failures = []
    for kind, number, found in run(cases, seed):
        counts[kind][found.what] += 1
        if found.what in FAILURES:
            failures.append({"kind": kind, "number": number, "what": found.what, "why": found.why})
    every = sum(counts.values(), Counter())
    names = {
        "refused": REFUSED,
        "read": READ,
        "tracebacks": TRACEBACK,
        "hangs": HANG,
        "code_run": CODE,
        "undetected": UNDETECTED,
    }
    return {
        "cases": cases,
        "seed": seed,
        **{name: every[what] for name, what in names.items()},
        "peak_bytes_over_start": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        "by_kind": {kind: dict(found) for kind, found in counts.items()},
        "failures": failures,
    }
