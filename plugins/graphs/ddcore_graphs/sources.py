"""Graph data: SMILES in a CSV file, the text format of the TU Dortmund collection,
and such data as torch_geometric keeps them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from ddcore import InputError, randomness
from ddcore.data import Source, Split, Wanted, classes_of, is_missing, visible
from ddcore.errors import in_short, near
from ddcore.storage import Place
from ddcore_graphs.graphs import Graphs, starts_of

MOST_BYTES = 2**28
"""Of a file of text; memory takes several times as much."""
GRAPHS = "graphs"
EDGES = "_A.txt"
"""End of the name of the file of edges in the TU collection."""
PARTS = (("train", "test"), ("train", "validation"))
"""That ``--split`` may name: 80 % are the train part, 10 % each the others."""
RINGS, SMILES, TU, PYG = "rings", "smiles", "tu", "pyg"


@frozen(eq=False)
class GraphSplit(Split):
    """Graphs and their classes (N,) int64."""

    stored: Graphs  # type: ignore[assignment]
    labels: Tensor

    def read_into(self, digest: Any) -> None:
        """Type, shape and bytes of graphs and labels, into a digest of hashlib's."""
        graphs = self.stored
        for tensor in (graphs.nodes, graphs.edges, graphs.bonds, graphs.node_starts, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


@frozen(eq=False, kw_only=True)
class GraphSource(Source):
    """A data set of graphs.

    Attributes:
        train, test: graphs and their classes.
        validation: neither, to choose by; None where the data have no such part.
        described: what the features of nodes and edges are.
    """

    train: GraphSplit
    test: GraphSplit
    validation: GraphSplit | None = None
    modality: str = GRAPHS
    described: str = ""

    @property
    def channels(self) -> int:
        """Features of a node."""
        return int(self.train.stored.nodes.shape[1])

    @property
    def size(self) -> int:
        """Features of an edge."""
        return int(self.train.stored.bonds.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over type, shape and bytes of graphs and labels of both splits, and the class names."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            split.read_into(digest)
        digest.update(json.dumps(self.classes).encode())
        return digest.hexdigest()

    def bytes_of(self, split: Split) -> Iterator[bytes]:
        """The bytes of each graph: the same for graphs whose nodes and edges are numbered alike."""
        graphs: Any = split.stored
        for at in range(len(graphs)):
            one = graphs.select(torch.tensor([at]))
            sizes = f"{tuple(one.nodes.shape)} {tuple(one.bonds.shape)}".encode()
            yield b"".join(
                [sizes, *(tensor.contiguous().numpy().tobytes() for tensor in (one.nodes, one.edges, one.bonds))]
            )

    def summary(self) -> dict[str, Any]:
        """What records and ``ddcore data show`` say about the data, as plain JSON values."""
        graphs = self.train.stored
        return {
            "name": self.name,
            "origin": self.origin,
            "licence": self.licence,
            "modality": self.modality,
            "shape": [self.channels, self.size],
            "stored": self.described,
            "train": len(self.train),
            "test": len(self.test),
            "classes": list(self.classes),
            "train_per_class": self.counts(),
            "test_per_class": self.counts(self.test),
            "nodes_per_graph": round(len(graphs.nodes) / len(graphs), 2),
            "edges_per_graph": round(graphs.edges.shape[1] / 2 / len(graphs), 2),
            "mirror_symmetric": True,
            "notes": list(self.notes),
            "fingerprint": self.fingerprint,
        }


def read(wanted: Wanted, label_column: str = "") -> Source:
    """The graphs that a ``--dataset`` name stands for.

    Raises:
        InputError: nothing there, or not what it has to be.
    """
    if wanted.name == RINGS:
        from ddcore_graphs.rings import rings

        return rings()
    if wanted.name == SMILES:
        return read_smiles(wanted, label_column)
    return read_tu(wanted, wanted.place() if wanted.name == TU else _kept_by_torch_geometric(wanted))


def read_smiles(wanted: Wanted, label_column: str) -> Source:
    """A CSV file with a column ``smiles`` and one of labels, split by scaffold; what RDKit cannot read is counted and
    left out.

    Raises:
        InputError: a column is missing, several may be the label, or no line is a molecule; parts of other names than
            these.
    """
    from ddcore_graphs.molecules import as_graphs, parsed, scaffold, scaffold_split

    place = wanted.place()
    tested = _tested(wanted, "molecules")
    columns, lines = _table(place)
    smiles, column = _columns(columns, label_column, place)
    pairs = [(parsed(line[smiles] or ""), line[column]) for line in lines]
    kept = [(molecule, label) for molecule, label in pairs if molecule is not None and not is_missing(label)]
    if not kept:
        raise InputError(f"no line of {place.url} is a molecule with a label: check columns {smiles!r} and {column!r}")
    share = wanted.share
    shares = (0.8, 0.1) if share is None else (share, 0.0)
    train, valid, test = scaffold_split([scaffold(molecule) for molecule, _ in kept], shares)
    sizes = {"train": len(train), "validation": len(valid), "test": len(test)}
    idle = "test" if tested == "validation" else "validation"
    said = [f"{size} {part}{' (kept apart)' if part == idle else ''}" for part, size in sizes.items()]
    notes = [f"split by Murcko scaffold: {', '.join(said)}"]
    if left := len(pairs) - len(kept):
        notes.append(f"{left} of {len(pairs)} lines have no label or SMILES that RDKit cannot read, and are left out")
    found = classes_of([label for _, label in kept], f"the labels in column {column!r} of {place.url}")
    graphs = as_graphs([molecule for molecule, _ in kept])
    described = "atoms (9 numbers), bonds (3), as the Open Graph Benchmark has them"
    apart = (sorted(train), *((sorted(valid), []) if tested == "validation" else (sorted(test), sorted(valid))))
    return _source(wanted, place, graphs, found.numbers, found.names or (), apart, notes, described)


def read_tu(wanted: Wanted, place: Place) -> Source:
    """A folder with ``NAME_A.txt``, ``NAME_graph_indicator.txt``, ``NAME_graph_labels.txt``, and labels of nodes and
    edges.

    Loops and repeated edges are dropped, as torch_geometric's reader does, and graphs without a label are left out.
    Nodes without labels are labelled by their degree. 80 % of each class are for training and the rest for the test,
    unless ``--split`` gives another share, or names parts: then a tenth each is validation and test part.

    Raises:
        InputError: a file is missing, or its lines do not fit the others.
    """
    tested = _tested(wanted, "graphs")
    names = visible(place.names())
    sets = sorted(name.removesuffix(EDGES) for name in names if name.endswith(EDGES))
    if not sets:
        raise InputError(f"{place.url} holds no NAME_A.txt: give a folder in the text format of the TU collection")
    if len(sets) > 1:
        raise InputError(f"{place.url} holds {len(sets)} sets, {', '.join(sets[:5])}: give each a folder of its own")
    name = sets[0]
    ends = _numbers(place, f"{name}_A.txt")
    graph_of = _numbers(place, f"{name}_graph_indicator.txt")[:, 0] - 1
    graph_label = _graph_labels(place / f"{name}_graph_labels.txt")
    graphs_named = len(graph_of) and int(graph_of.min()) >= 0 and int(graph_of.max()) < len(graph_label)
    if not graphs_named or (graph_of.diff() < 0).any():
        raise InputError(
            f"{(place / f'{name}_graph_indicator.txt').url} does not fit {name}_graph_labels.txt: restore both"
        )
    if ends.shape[1] != 2 or (len(ends) and (ends.min() < 1 or ends.max() > len(graph_of))):
        raise InputError(f"{(place / f'{name}_A.txt').url} does not fit {name}_graph_indicator.txt: restore both")
    edges, counts = ends.T - 1, torch.bincount(graph_of, minlength=len(graph_label))
    if (graph_of[edges[0]] != graph_of[edges[1]]).any():
        raise InputError(f"{(place / f'{name}_A.txt').url} has an edge from one graph to another: restore it")
    own = f"{name}_edge_labels.txt"
    bonds = _numbers(place, own) if own in names else torch.zeros(len(ends), 0, dtype=torch.int64)
    once, notes = _once(edges, bonds)
    fits = len(bonds) == len(ends)
    edges, bonds = edges[:, once], bonds[once] if fits else bonds
    degrees = torch.bincount(edges[1], minlength=len(graph_of))[:, None]
    own = f"{name}_node_labels.txt"
    nodes = _numbers(place, own) if own in names else degrees
    if not fits or (len(nodes), len(counts)) != (len(graph_of), len(graph_label)):
        raise InputError(f"the files of {name} in {place.url} differ in length: restore them")
    order = torch.argsort(graph_of[edges[0]], stable=True)
    edge_counts = torch.bincount(graph_of[edges[0]], minlength=len(counts))
    graphs = Graphs(nodes, edges[:, order], bonds[order], starts_of(counts), starts_of(edge_counts))
    found = classes_of(graph_label, f"the labels of graphs in {(place / f'{name}_graph_labels.txt').url}")
    if not found.labelled.any():
        raise InputError(f"no graph of {place.url} has a label: restore {name}_graph_labels.txt")
    if not found.labelled.all():
        graphs = graphs.select(found.labelled.nonzero()[:, 0])
    labels, classes = found.numbers, found.names or ()
    share = wanted.share or 0.8
    train, valid, rest = _cut(labels, share, 0.9 if wanted.named else share)
    parts = (train, valid, []) if tested == "validation" else (train, rest, valid)
    notes = [f"{share:.0%} of each class are for training", *notes, *found.notes]
    described = "node labels" if f"{name}_node_labels.txt" in names else "degrees"
    return _source(wanted, place, graphs, labels, classes, parts, notes, described)


def _tested(wanted: Wanted, what: str) -> str:
    """Which part is tested on.

    Raises:
        InputError: ``--split`` names parts that there are not.
    """
    if (named := wanted.named or PARTS[0]) not in PARTS:
        raise InputError(
            f"--split {wanted.split} names no parts of {what}: give train:validation, train:test or a share"
        )
    return named[1]


def _once(edges: Tensor, bonds: Tensor) -> tuple[Tensor, list[str]]:
    """Positions (n,) of the edges (2, E) that are no loop and no repetition of an earlier one, and what was dropped."""
    loops = edges[0] == edges[1]
    pairs = edges[0] * (1 + int(edges.max()) if edges.numel() else 1) + edges[1]
    order = torch.argsort(pairs, stable=True)
    repeated = torch.zeros_like(loops)
    repeated[order[1:]] = pairs[order].diff() == 0
    repeated &= ~loops
    notes = []
    if loops.any() or repeated.any():
        dropped = f"{int(loops.sum())} loops and {int(repeated.sum())} repetitions among {len(loops)} directed edges"
        notes.append(f"{dropped} were dropped, as torch_geometric's reader does")
    if bonds.shape[1] and len(bonds) == len(pairs) and repeated.any():
        first = torch.cummax(torch.where(repeated[order], 0, torch.arange(len(order))), 0).values
        other = (bonds[order] != bonds[order][first]).any(1) & repeated[order]
        notes += [f"{int(other.sum())} of them had another label than the one that was kept"] if other.any() else []
    return (~(loops | repeated)).nonzero()[:, 0], notes


def _source(
    wanted: Wanted,
    place: Place,
    graphs: Graphs,
    labels: Tensor,
    classes: Sequence[str],
    parts: Sequence[Sequence[int]],
    notes: Sequence[str],
    described: str,
) -> Source:
    train, test, kept = (torch.tensor(at, dtype=torch.int64) for at in parts)
    splits = []
    for part, index in (("train", train), ("test", test)):
        missing = [name for cls, name in enumerate(classes) if not (labels[index] == cls).any()]
        if missing:
            raise InputError(
                f"the {part} part of {place.url} has no graph of class {missing[0]!r}: give another --split"
            )
        splits.append(GraphSplit(graphs.select(index), labels[index]))
    if len(classes) < 2:
        raise InputError(f"{place.url} has one class only ({classes[0]}): at least 2 are needed")
    name = place.name.rpartition(".")[0] or place.name
    return GraphSource(
        name=name,
        train=splits[0],
        test=splits[1],
        validation=GraphSplit(graphs.select(kept), labels[kept]) if len(kept) else None,
        classes=classes,
        origin=wanted.shown,
        notes=tuple(notes),
        described=described,
    )


def _text(place: Place, encoding: str = "utf-8") -> str:
    data = place.read_bytes(0, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InputError(f"{place.url} is longer than {MOST_BYTES:,} bytes: divide it")
    return data.decode(encoding)


def _table(place: Place) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of a CSV file and its lines."""
    try:
        reader = csv.DictReader(io.StringIO(_text(place, "utf-8-sig"), newline=""))
        return [str(column) for column in reader.fieldnames or ()], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{place.url} is no CSV file in UTF-8 ({in_short(error)}): write it again") from error


def _columns(columns: list[str], label_column: str, place: Place) -> tuple[str, str]:
    smiles = next((column for column in columns if column.lower() == SMILES), None)
    others = [column for column in columns if column != smiles]
    if smiles is None:
        raise InputError(f"{place.url} has no column 'smiles' among {', '.join(columns) or 'none'}: name one so")
    if label_column and label_column not in others:
        raise InputError(f"{place.url} has no column {label_column!r}: {near(label_column, others)}")
    if not label_column and len(others) != 1:
        raise InputError(
            f"{place.url} has columns {', '.join(others) or 'of SMILES only'}: say which is the label, --graphs.label-column"
        )
    return smiles, label_column or others[0]


def _kept_by_torch_geometric(wanted: Wanted) -> Place:
    """``DATA_ROOT/NAME/raw``, where ``torch_geometric.datasets.TUDataset(DATA_ROOT, NAME)`` puts its text files."""
    place = Place.at(wanted.data_root or ".") / wanted.rest / "raw"
    if not place.exists():
        raise InputError(
            f"there is nothing at {place.url}: download it once with torch_geometric.datasets.TUDataset(ROOT, {wanted.rest!r}) "
            "and give --data-root ROOT"
        )
    return place


def _numbers(place: Place, name: str) -> Tensor:
    try:
        lines = _text(place / name).split("\n")
        rows = [[int(number) for number in line.split(",")] for line in lines if line.strip()]
        return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1 if rows else 2)
    except (ValueError, RuntimeError, OverflowError) as error:
        why = in_short(error)
        raise InputError(f"{(place / name).url} is not rows of whole numbers ({why}): restore it") from error


def _graph_labels(place: Place) -> list[str | None]:
    """A label a line, as numbers that need not be whole as written, None where there is none.

    Raises:
        InputError: other text.
    """
    try:
        cells = [line.partition(",")[0].strip() for line in _text(place).rstrip().split("\n")]
        numbers = [None if is_missing(cell) else float(cell) for cell in cells]
        if any(number is not None and not -(2**53) <= number <= 2**53 for number in numbers):
            raise ValueError("a label is far too large")
    except ValueError as error:
        raise InputError(f"{place.url} is not rows of whole numbers ({in_short(error)}): restore it") from error
    return [None if number is None else cell for cell, number in zip(cells, numbers, strict=True)]


def _cut(labels: Tensor, share: float, both: float) -> tuple[list[int], list[int], list[int]]:
    """Of each class that share first, then what is missing of the share ``both``, then the rest, in an order drawn once
    and for all."""
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for cls in labels.unique().tolist():
        rows = (labels == cls).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=randomness.generator(0, "split", cls))
        first = max(1, round(share * len(rows)))
        ends = (first, max(first, round(both * len(rows))), len(rows))
        for part, begin, end in zip(parts, (0, *ends[:-1]), ends, strict=True):
            part += rows[order[begin:end]].tolist()
    train, valid, rest = map(sorted, parts)
    return train, valid, rest


def recognised(place: Place) -> str | None:
    """Which data of this pack lie at a place: ``tu``, ``smiles`` or none."""
    if place.is_folder():
        return TU if any(name.endswith(EDGES) for name in visible(place.names())) else None
    if not place.name.lower().endswith(".csv"):
        return None
    head = place.read_bytes(0, 2**16).decode("utf-8-sig", errors="replace").partition("\n")[0]
    columns = next(csv.reader([head.strip()]), [])
    return SMILES if any(column.strip().lower() == SMILES for column in columns) else None


def options_of(name: str, rest: str, options: Mapping[str, Any]) -> Wanted:
    """What ``ddcore_data`` was asked for."""
    return Wanted(name, rest, options["data_root"], options["split"], options["resize"])
