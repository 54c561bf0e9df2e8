"""State dicts out of torch's files: the same as torch reads, without an unpickler, and within the bounds of the file's own size."""

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save

from ddcore.cli.app import invoke
from ddcore.errors import InputError
from ddcore.networks.zoo import build
from ddcore.storage.places import Place, save_tensors
from ddcore.storage.torch_files import MOST_DIRECTORY, MOST_PICKLE, state_of
from ddcore.storage.weights import read_state

TYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint8, torch.bool),
)
ALONE = "cannot be read as tensors alone"


def packed(state, legacy=False) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def rewritten(content: bytes, change=lambda name, data: data, compression=zipfile.ZIP_STORED) -> bytes:
    """A file of torch's, its parts changed."""
    made, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(made, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return made.getvalue()


def with_words(words: bytes, content: bytes | None = None) -> bytes:
    """A file of torch's whose pickle is of these words."""
    return rewritten(content or packed({"x": torch.ones(3)}), lambda n, d: words if n.endswith("data.pkl") else d)


BASE = torch.arange(24.0).reshape(4, 6)
STATES = {
    "types": {str(dtype): torch.tensor([0, 1, 2]).to(dtype) for dtype in TYPES},
    "views": {"a": BASE, "b": BASE.t(), "c": BASE[1:3, ::2], "d": torch.tensor(3.0), "e": torch.empty(0, 3)},
    "gradients": {"p": torch.nn.Parameter(torch.ones(2)), "r": torch.ones(2, requires_grad=True)},
    "network": build("resnet18-bn", 3, 32, 5, torch.Generator().manual_seed(0)).state_dict(),
    "checkpoint": {
        "state_dict": {"module.w": torch.ones(2)},
        **{"epoch": 3, "size": torch.Size([3]), "device": torch.device("cpu"), "dtype": torch.float32},
        **{"many": [1, 2.5, None, "x", (1, 2)], "set": {1, 2}, "bytes": b"abc"},
        "optimiser": torch.optim.Adam([torch.nn.Parameter(torch.ones(3))]).state_dict(),
    },
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", STATES)
def test_what_torch_reads_is_read_alike(kind, legacy):
    content = packed(STATES[kind], legacy)
    due = torch.load(io.BytesIO(content), weights_only=True)
    due = {name.removeprefix("module."): t for name, t in due.get("state_dict", due).items()}
    found = state_of(content, "x")
    assert list(found) == list(due)
    for name, tensor in due.items():
        assert torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype, name
        assert found[name].stride() == tensor.stride() and not found[name].requires_grad


def test_tensors_that_share_numbers_in_the_file_share_memory():
    found = state_of(packed(STATES["views"]), "x")
    assert found["a"].untyped_storage().data_ptr() == found["b"].untyped_storage().data_ptr()


class Named:
    """Pickled as a call of something."""

    def __init__(self, function, *values):
        self.call = (function, values)

    def __reduce__(self):
        return self.call


REFUSED = {
    "whole numbers as names": ({0: torch.ones(1), 1: torch.ones(1)}, "its '0' is no name"),
    "no tensors": ({"a": 3}, "its 'a' is no tensor"),
    "a list": ([torch.ones(1)], "holds no state dict"),
    "sparse": ({"a": torch.eye(3).to_sparse()}, "sparse tensors"),
    "meta": ({"a": torch.empty(10**9, device="meta")}, "meta tensors"),
    "complex": ({"a": torch.ones(2, dtype=torch.complex64)}, "complex tensors"),
    "quantised": ({"a": Named(torch._utils._rebuild_qtensor, 1)}, "quantised tensors"),
    "expanded": ({"a": torch.ones(1).expand(10**6, 10**6)}, "claims more than the 1 numbers that it has"),
    "bytes without end": ({"a": Named(bytearray, 10**11)}, "wants .*bytearray to be run"),
    "an empty tensor without end": ({"a": Named(torch.Tensor, 10**5, 10**5)}, "wants torch.Tensor to be run"),
    "a program": ({"a": Named(print, "it ran")}, "print to be run"),
    "a whole network": (torch.nn.Linear(2, 2), "to be run"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_state_dict_is_refused_by_its_kind(kind, legacy, capsys):
    made, sentence = REFUSED[kind]
    with pytest.raises(InputError, match=sentence) as refusal:
        state_of(packed(made, legacy), "x.pt")
    assert str(refusal.value).startswith("x.pt ") and "\n" not in str(refusal.value)
    assert "it ran" not in capsys.readouterr().out


def swap(old: bytes, new: bytes, legacy: bool) -> bytes:
    """A tensor of three ones, its description changed."""
    content = packed({"x": torch.ones(3)}, legacy)
    if legacy and old == b"K\x03tq":  # beside the count stands that it is no part of other numbers
        old, new = (part.replace(b"tq", b"Ntq") for part in (old, new))
    made = content.replace(old, new) if legacy else rewritten(content, lambda n, d: d.replace(old, new))
    assert made != (content if legacy else rewritten(content))
    return made


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x03tq", b"J\xff\xff\xff\x7ftq"),
        (b"K\x03tq", b"J\xff\xff\xff\xfftq"),
        (b"QK\x00", b"QK\x01"),
        (b"QK\x00", b"QJ\xff\xff\xff\xff"),
        (b"QK\x00K\x03", b"QK\x00K\x04"),
        (b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
        (b"K\x01\x85", b"K\x02\x85"),
    ],
    ids=["huge storage", "negative storage", "offset", "negative offset", "shape", "huge shape", "stride"],
)
def test_tensors_that_claim_other_numbers_than_are_there_are_refused(old, new, legacy):
    with pytest.raises(InputError, match=ALONE):
        state_of(swap(old, new, legacy), "x")


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02K\x01.",
        b"\x80\x02}K\x01s.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02](K\x01u.",
        b"\x80\x02}]K\x01s.",
        b"\x80\x02}}K\x01s.",
        b"\x80\x02K\x01K\x02e.",
        b"\x80\x02t.",
        b"\x80\x02h\x07.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
        b"\x80\x02(iposix\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02I" + b"9" * 5000 + b"\n.",
    ],
)
def test_words_that_make_no_sense_are_refused(words):
    with pytest.raises(InputError):
        state_of(with_words(words), "x")


def test_a_compressed_file_is_refused_however_small():
    with pytest.raises(InputError, match="its content is compressed"):
        state_of(rewritten(packed({"x": torch.ones(3)}), compression=zipfile.ZIP_DEFLATED), "x")


def test_damaged_files_are_refused():
    for content in (
        packed({"x": torch.ones(3)}),
        packed({"x": torch.ones(3)}, True),
        b"",
        b"PK\3\4",
        b"PK\3\4" + bytes(99),
    ):
        for cut in {0, len(content) // 3, len(content) // 2, len(content) - 5, len(content) - 1} - {-1, -5}:
            with pytest.raises(InputError, match=ALONE):
                state_of(content[: max(cut, 0)], "x")
    other = rewritten(packed({"x": torch.ones(3)}), lambda n, d: b"big" if n.endswith("byteorder") else d)
    with pytest.raises(InputError, match="byte order"):
        state_of(other, "x")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as old:
        old.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(InputError, match="before torch 0.1.10"):
        state_of(made.getvalue(), "x")
    with pytest.raises(InputError, match="did not write it"):
        state_of(pickle.dumps({"a": 1}, 2), "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("end", ["pt", "safetensors"])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, dtype, end):
    state, file = {"w": torch.tensor([[1.0, value]], dtype=dtype)}, tmp_path / f"w.{end}"
    if end == "pt":
        torch.save(state, file)
    else:
        save_tensors(Place.at(file), state)
    with pytest.raises(InputError, match=r"not finite in 'w'"):
        read_state(Place.at(file))
    with pytest.raises(InputError, match=r"another SHA-256 than the 000"):
        read_state(Place.at(file), sha256="000")


def test_complex_weights_are_refused_in_safetensors(tmp_path):
    (tmp_path / "c.safetensors").write_bytes(save({"w": torch.ones(2, dtype=torch.complex64)}))
    with pytest.raises(InputError, match="complex"):
        read_state(Place.at(tmp_path / "c.safetensors"))


# ---- bombs -----------------------------------------------------------------------------------------------------------

MOST = 400_000_000
"""Bytes of memory that a small file may take."""
MEASURE = """
import json, sys
from pathlib import Path
from ddcore.errors import InputError
from ddcore.storage import Place
from ddcore.storage.weights import read_state

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

for name in sys.argv[1:]:
    before, said = peak(), ""
    try:
        read_state(Place.at(name))
    except InputError as error:
        said = str(error)
    print(json.dumps([Path(name).name, said, peak() - before]), flush=True)
"""


def deflated(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + part * (megabytes - 1) + packer.flush()


def zeros_in_a_zip(megabytes: int) -> bytes:
    """One tensor of so many MiB of zeros, compressed as only other programs than torch do."""
    words = rewritten(
        packed({"x": torch.ones(3)}),
        lambda n, d: d.replace(b"K\x03tq", b"J" + struct.pack("<i", megabytes * 2**18) + b"tq"),
    )
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        old = zipfile.ZipFile(io.BytesIO(words))
        for name in old.namelist():
            if "data/0" not in name:
                new.writestr(name, old.read(name))
        data, entry = deflated(megabytes), zipfile.ZipInfo("archive/data/0")
        entry.compress_type, at = zipfile.ZIP_DEFLATED, made.tell()
        entry.header_offset, entry.compress_size, entry.file_size, entry.CRC = at, len(data), megabytes * 2**20, 0
        made.write(entry.FileHeader() + data)
        new.filelist.append(entry)
        new.NameToInfo[entry.filename] = entry
        new.start_dir, new._didModify = made.tell(), True
    return made.getvalue()


def one_part_a_hundred_times() -> bytes:
    """Entries of a directory that all name the same 20 MB."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        new.writestr("archive/data/0", np.random.default_rng(0).bytes(20 * 10**6))
        first = new.getinfo("archive/data/0")
        for number in range(1, 100):
            entry = zipfile.ZipInfo(f"archive/data/{number:02d}")
            entry.header_offset, entry.file_size, entry.compress_size, entry.CRC = (
                0,
                first.file_size,
                first.file_size,
                first.CRC,
            )
            new.filelist.append(entry)
        new._didModify = True
    return made.getvalue()


def wide_directory() -> bytes:
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 46 * 10**6, 0, 0)
    return b"PK\3\4" + b"PK\1\2".ljust(46, b"\0") * 10**6 + end


BOMBS = {
    "compressed.pt": lambda: zeros_in_a_zip(2000),
    "overlapping.pt": one_part_a_hundred_times,
    "directory.pt": wide_directory,
    "lists.pt": lambda: with_words(b"\x80\x02" + b"]" * (MOST_PICKLE - 100) + b"."),
    "long.pt": lambda: with_words(b"\x80\x02" + b"]" * (MOST_PICKLE + 100) + b"."),
    "old-lists.pt": lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2)[:-1] + b"]" * 30_000_000 + b".",
    "bytes.pt": lambda: packed({"a": Named(bytearray, 3 * 10**9)}),
    "meta.pt": lambda: packed({"a": torch.empty(10**12, device="meta")}),
    "expanded.pt": lambda: packed({"a": torch.ones(1).expand(10**5, 10**5)}),
    "old.pt": lambda: swap(b"K\x03tq", b"J\xff\xff\xff\x7ftq", legacy=True),
}


def test_small_files_of_weights_take_little_memory(tmp_path):
    files = []
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
        files.append(str(tmp_path / name))
    assert (tmp_path / "compressed.pt").stat().st_size < 2.2e6 and MOST_DIRECTORY < 46 * 10**6
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, _, _ in found] == list(BOMBS), done.stderr
    for name, said, grown in found:
        assert ALONE in said and grown < MOST, (name, said, grown)


@pytest.mark.usefixtures("probes")
def test_the_command_line_says_one_sentence(tmp_path, capsys):
    (tmp_path / "w.pt").write_bytes(packed({0: torch.ones(1)}))
    words = [
        "run",
        "--plugin",
        "pull",
        "--labels",
        "averaged",
        "--network",
        "convnet2-w4",
        "--preset",
        "none",
        "--steps",
        "1",
        "--threads",
        "1",
    ]
    words += ["--teachers.networks", "convnet2-bn-w4", "--teachers.weights", str(tmp_path / "w.pt")]
    words += ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--protocol", "quick-1"]
    threads = torch.get_num_threads()
    try:
        assert invoke(words) == 2
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().err
    assert "its '0' is no name" in said and "Traceback" not in said
