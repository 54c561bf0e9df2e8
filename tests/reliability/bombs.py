"""Small files that stand for enormous things: each is refused, or read, within a bound of memory.

Every bomb is made and read in processes of their own, forked from one that has imported everything and done nothing. The peak is what
Linux says of the reading process's resident memory (``VmHWM``, the counter behind ``ru_maxrss``, which a forked process would take
over from its parent), over what it had before.

    python bombs.py [NAME ...]      prints {"NAME": {"outcome": ..., "why": ..., "peak_bytes": ...}} as JSON
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from reliability import fuzz

MOST = 600_000_000
"""Bytes of resident memory that reading a bomb may take."""
SPARSE = 5 * 10**9
SECONDS = 60.0

# ---- making them -----------------------------------------------------------------------------------------------------


def zeros(count: int, *, wbits: int = -15) -> Iterator[bytes]:
    """A deflate stream of so many MiB of zeros, made from one MiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    head = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    yield head
    for _ in range(count - 1):
        yield part
    yield packer.flush()


def png(width: int, height: int, *, true: bool = False) -> bytes:
    """A grey picture of that size; unless it is a true one its pixels are missing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes(height * (width + 1))) if true else zlib.compress(bytes(1000))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def sparse(place: Path, head: bytes = b"") -> None:
    """A file of 5 GB, nearly all of it a hole."""
    with place.open("wb") as file:
        file.write(head)
        file.truncate(SPARSE)


def _npz(folder: Path, size: int, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH) + b"".join(zeros(size))
    full = len(header) + size * 2**20
    name = b"x_train.npy"
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(data), full, len(name), 0) + name
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(data), full, len(name), 0, 0, 0, 0, 0, 0
    )
    entry += name
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), len(local) + len(data), 0)
    (folder / "data.npz").write_bytes(local + data + entry + end)


def _npz_shape(folder: Path) -> None:
    with zipfile.ZipFile(folder / "data.npz", "w") as packed:
        for name, shape in (("x_train", (10**6, 10**6, 3)), ("y_train", (10**6,))):
            held = io.BytesIO()
            about = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(held, about)
            packed.writestr(f"{name}.npy", held.getvalue() + bytes(128))


def _npz_lying(folder: Path) -> None:
    """The 4 GB again, whose directory says that they are 100 bytes."""
    _npz(folder, 4000, "(20,)")
    data = bytearray((folder / "data.npz").read_bytes())
    at = data.rindex(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", 80)
    (folder / "data.npz").write_bytes(data)


def _idx(folder: Path) -> None:
    fuzz.EVERY["idx"].make(folder)
    (folder / "train-images-idx3-ubyte").unlink()
    with (folder / "train-images-idx3-ubyte.gz").open("wb") as file:
        for part in zeros(6000, wbits=31):
            file.write(part)


def _parquet(folder: Path, rows: list[bytes], compression: str = "none", *, once: bool = False) -> None:
    import pyarrow
    import pyarrow.parquet

    if once:
        index = pyarrow.array(np.zeros(200_000, np.int32))
        images: Any = pyarrow.DictionaryArray.from_arrays(index, pyarrow.array(rows, pyarrow.binary()))
    else:
        images = pyarrow.array(rows, pyarrow.large_binary())
    table = pyarrow.table({"image": images, "label": np.arange(len(images)) % 2})
    for part in ("train", "test"):
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet", compression=compression, store_schema=False)


def _pictures(folder: Path, picture: bytes, count: int = 2) -> None:
    for part in ("train", "test"):
        for cls in "ab":
            (folder / part / cls).mkdir(parents=True)
            for at in range(count):
                (folder / part / cls / f"{at}.png").write_bytes(picture)


def _noise() -> bytes:
    return fuzz.encoded(np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8))


def _header(folder: Path, length: int, text: bytes) -> None:
    (folder / "w.safetensors").write_bytes(length.to_bytes(8, "little") + text)


def _overflow(folder: Path) -> None:
    text = b'{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'
    _header(folder, len(text), text)


def _many_tensors(folder: Path) -> None:
    entries = ",".join(f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for n in range(1_500_000))
    _header(folder, len(entries) + 2, f"{{{entries}}}".encode())


def _manifest(kind: str, *path: str | int, value: Any) -> Callable[[Path], None]:
    """An artifact whose manifest says something else at one place."""

    def make(folder: Path) -> None:
        fuzz.EVERY[kind].make(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        at = manifest
        for word in path[:-1]:
            at = at[word]
        at[path[-1]] = value
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return make


def _named(name: str) -> Callable[[Path], None]:
    """An artifact that lists a file by such a name, with the checksum of one that is there."""

    def make(folder: Path) -> None:
        fuzz.EVERY["artifact, hard"].make(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = manifest["files"]["images.safetensors"]
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return make


def _deep_json(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"schema":1,"kind":' + "[" * 100_000 + "]" * 100_000 + "}")


def _spread(folder: Path) -> None:
    """Levels of one channel whose scales are of a million."""
    from ddcore.storage.places import Place, load_tensors, save_tensors

    fuzz.EVERY["artifact, soft, uint8, zca"].make(folder)
    place = Place.at(folder / "images.safetensors")
    import torch

    tensors = load_tensors(place)
    name = next(name for name in tensors if name.endswith("scale"))
    tensors |= {name: torch.ones(2**20), name.replace("scale", "offset"): torch.ones(2**20)}
    pixels = name.removesuffix(".scale")
    tensors[pixels] = torch.zeros(6, 1, 64, 64, dtype=torch.uint8)
    save_tensors(place, tensors)
    fuzz.sign(folder, "images.safetensors")


def _linked(folder: Path) -> None:
    inside = folder / "set"
    inside.mkdir()
    fuzz.EVERY["artifact, hard"].make(inside)
    (inside / "images.safetensors").rename(folder / "secret")
    (inside / "images.safetensors").symlink_to(folder / "secret")


def _pipe(folder: Path) -> None:
    fuzz.EVERY["artifact, hard"].make(folder)
    (folder / "images.safetensors").unlink()
    os.mkfifo(folder / "images.safetensors")


def _circles(folder: Path) -> None:
    for name in "abcdefgh":
        (folder / name).mkdir()
    for one in "abcdefgh":
        for other in "abcdefgh":
            (folder / one / other).symlink_to(folder / other)


def _sparse_artifact(folder: Path, head: bytes) -> None:
    fuzz.EVERY["artifact, hard"].make(folder)
    sparse(folder / "images.safetensors", head)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["images.safetensors"]["bytes"] = manifest["bytes"]["images"] = SPARSE
    manifest["bytes"]["total"] = SPARSE + manifest["bytes"]["labels"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _sparse_parquet(folder: Path) -> None:
    for part in ("train", "test"):
        sparse(folder / f"{part}.parquet", b"PAR1")


def _graphs(folder: Path) -> None:
    fuzz.EVERY["tu"].make(folder)
    (folder / "X_graph_indicator.txt").write_text("\n".join(["1"] * 19 + [str(2 * 10**9)]))


def _trees(folder: Path) -> None:
    """Trees of which each has the one before it twice: sixty tensors' entries for 2^60 nodes."""
    import torch

    from ddcore.storage.places import Place, save_tensors

    fuzz.EVERY["artifact, trees"].make(folder)
    count = 60
    tensors = {
        "node_rows": torch.tensor([[6, 1]]),
        "edge_rows": torch.tensor([[1]]),
        "subtree_label": torch.zeros(count, dtype=torch.int64),
        "child_count": torch.tensor([0] + [2] * (count - 1)),
        "child": torch.arange(count - 1).repeat_interleave(2),
        "child_edge": torch.zeros(2 * (count - 1), dtype=torch.int64),
        "set_class": torch.tensor([0, 1]),
        "set_support": torch.tensor([1, 1]),
        "set_size": torch.tensor([1, 1]),
        "set_tree": torch.tensor([count - 1, 0]),
        "degrees": torch.tensor(1, dtype=torch.uint8),
    }
    save_tensors(Place.at(folder / "graphs.safetensors"), tensors)
    fuzz.sign(folder, "graphs.safetensors")


def _evil_picture(folder: Path) -> None:
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"
    _pictures(folder, script)


# ---- reading them ----------------------------------------------------------------------------------------------------


def _artifact(folder: Path) -> None:
    from ddcore.sets.artifact import load_artifact

    artifact = load_artifact(folder / "set" if (folder / "set").exists() else folder)
    next(iter(artifact.loader(batch_size=2)))


def _tensors(folder: Path) -> None:
    from ddcore.storage.places import Place, load_tensors, read_metadata

    with contextlib.suppress(Exception):
        read_metadata(Place.at(folder / "w.safetensors"))
    load_tensors(Place.at(folder / "w.safetensors"))


def _read_run(folder: Path) -> None:
    from ddcore.runs.opening import open_run

    open_run(str(folder), trust=True)


ARTIFACT, DRAWN = "artifact, hard", "artifact, top-k"
NPZ, PARQUET, FOLDER = fuzz.EVERY["npz"].read, fuzz.EVERY["parquet"].read, fuzz.EVERY["folder"].read
SMALL = fuzz._reader("folder", resize="8")
Pair = tuple[Callable[[Path], object], Callable[[Path], object]]
EVERY: dict[str, Pair] = {
    "npz of 4 GB of zeros": (lambda f: _npz(f, 4000, "(4194304000,)"), NPZ),
    "npz header of 3 TB": (_npz_shape, NPZ),
    "npz shorter in its directory": (_npz_lying, NPZ),
    "gzip of 6 GB of zeros": (_idx, fuzz.EVERY["idx"].read),
    "PNG of 60,000 x 60,000 in parquet": (lambda f: _parquet(f, [png(60_000, 60_000)] * 4), PARQUET),
    "PNG of 60,000 x 60,000 in a folder": (lambda f: _pictures(f, png(60_000, 60_000)), FOLDER),
    "PNG of 9,000 x 9,000": (lambda f: _pictures(f, png(9000, 9000, true=True), 1), SMALL),
    "PNGs of 8,000 x 8,000": (lambda f: _pictures(f, png(8000, 8000, true=True)), FOLDER),
    "PNGs of 8,000 x 8,000, resized": (lambda f: _pictures(f, png(8000, 8000, true=True)), SMALL),
    "PostScript under another name": (_evil_picture, FOLDER),
    "parquet value of 1 GB of zeros": (lambda f: _parquet(f, [bytes(10**9), b"x"], "zstd"), PARQUET),
    "parquet row 200,000 times": (lambda f: _parquet(f, [_noise()], once=True), PARQUET),
    "safetensors header of 2^63 bytes": (lambda f: _header(f, 2**63, b"{}"), _tensors),
    "safetensors header of a million tensors": (_many_tensors, _tensors),
    "safetensors shape that overflows": (_overflow, _tensors),
    "JSON of depth 100,000": (_deep_json, _artifact),
    "labels for 10^12 epochs of views": (_manifest(DRAWN, "labels", "views", "epochs", value=10**12), _artifact),
    "batches of 10^12 views": (_manifest(DRAWN, "labels", "views", "batch", value=10**12), _artifact),
    "views of 10^6 x 10^6 pixels": (_manifest(DRAWN, "labels", "views", "size", value=[10**6, 10**6]), _artifact),
    "shape of 10^6 x 10^6 pixels": (_manifest(ARTIFACT, "shape", value=[3, 10**6, 10**6]), _artifact),
    "10^12 classes": (_manifest(ARTIFACT, "labels", "classes", value=10**12), _artifact),
    "scales for a million channels": (_spread, _artifact),
    "encoder of width 9,999": (
        _manifest("artifact, projector", "labels", "encoder", "network", value="convnet2-bn-w9999"),
        _artifact,
    ),
    "encoder for 10^6 pixels": (_manifest("artifact, projector", "labels", "encoder", "size", value=10**6), _artifact),
    **{
        f"file named {name!r}": (_named(name), _artifact)
        for name in ("../x", "/etc/passwd", "C:\\x", "a\0b", "http://127.0.0.1:9/x", "..", "a/b", "\x1b[2J")
    },
    "link out of the artifact": (_linked, _artifact),
    "pipe in the artifact": (_pipe, _artifact),
    "links in circles": (_circles, FOLDER),
    "5 GB of holes as an artifact's images": (lambda f: _sparse_artifact(f, b""), _artifact),
    "5 GB of holes as an artifact's manifest": (lambda f: sparse(f / "manifest.json", b"{"), _artifact),
    "5 GB of holes as npz": (lambda f: sparse(f / "data.npz", b"PK\3\4"), NPZ),
    "5 GB of holes as parquet": (_sparse_parquet, PARQUET),
    "5 GB of holes as idx": (
        lambda f: (fuzz.EVERY["idx"].make(f), sparse(f / "train-images-idx3-ubyte")),
        fuzz.EVERY["idx"].read,
    ),
    "5 GB of holes as run.json": (lambda f: sparse(f / "run.json", b"{"), _read_run),
    "5 GB of holes as SMILES": (lambda f: sparse(f / "m.csv", b"smiles,label\n"), fuzz.EVERY["smiles"].read),
    "5 GB of holes as settings": (lambda f: sparse(f / "c.toml", b"a=1\n"), fuzz.EVERY["settings"].read),
    "TOML key of 100,000 parts": (
        lambda f: (f / "c.toml").write_text("a." * 100_000 + "a=1"),
        fuzz.EVERY["settings"].read,
    ),
    "graph 2,000,000,000": (_graphs, fuzz.EVERY["tu"].read),
    "tree of 2^60 nodes": (_trees, fuzz.EVERY["artifact, trees"].read),
}
LIKE = {
    "encoder of width 9,999": "artifact, projector",
    "encoder for 10^6 pixels": "artifact, projector",
    "5 GB of holes as SMILES": "smiles",
    "graph 2,000,000,000": "tu",
    "tree of 2^60 nodes": "artifact, trees",
}
"""The kinds of those that a plugin reads."""
BOMBS = {name: pair for name, pair in EVERY.items() if name not in LIKE or LIKE[name] in fuzz.KINDS}
"""What can be read here."""


# ---- processes -------------------------------------------------------------------------------------------------------


def measure_bombs(names: tuple[str, ...] = tuple(BOMBS)) -> dict[str, dict[str, Any]]:
    """What became of each bomb, and the bytes of resident memory that reading it took at most."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *names], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"the bombs' process ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak() -> int:
    """Bytes of resident memory that this process has had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _alone(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do something in a forked process; what kills it, and what it leaves unsaid, is an answer too."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        answer: dict[str, Any] = {"outcome": "traceback", "why": "it could not be made", "peak_bytes": 0}
        try:
            answer = act()
        finally:
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(process, 0)
    return json.loads(said) if said else {"outcome": "killed", "why": f"status {status}", "peak_bytes": 0}


def _made(make: Callable[[Path], object], folder: Path) -> dict[str, Any]:
    make(folder)
    return {}


def _read(read: Callable[[Path], object], folder: Path) -> dict[str, Any]:
    before = _peak()
    found = fuzz.outcome(lambda: read(folder), SECONDS)
    return {"outcome": found.what, "why": found.why[:300], "peak_bytes": _peak() - before}


def _measure(names: list[str]) -> dict[str, dict[str, Any]]:
    import tempfile

    with suppress(ModuleNotFoundError):
        import ddcore_graphs.sources  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch

    torch.set_num_threads(1)
    found = {}
    for name in names or BOMBS:
        make, read = BOMBS[name]
        with tempfile.TemporaryDirectory() as scratch:
            failed = _alone(lambda make=make, scratch=scratch: _made(make, Path(scratch)))
            found[name] = failed or _alone(lambda read=read, scratch=scratch: _read(read, Path(scratch)))
            found[name]["why"] = found[name]["why"].replace(scratch, "FOLDER")
    return found


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1:])))
