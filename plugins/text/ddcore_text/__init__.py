"""Sentences with a class each, and small transformers for them: the text side of students and their teachers.

A sentence becomes (CLS, word, word, ...), cut or filled up to one length L. Words are what stands between spaces; those
that the training part has at least ``least`` times get an id, the most frequent first. Shape letters: B sentences, L
places, D width, V words.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import frozen
from attrs.validators import ge
from torch import Generator, Tensor, nn

from ddcore import InputError, Plugin, Subject, hookimpl, option
from ddcore.data import TEXT, Source, Split, Wanted, classes_of, part_of, visible
from ddcore.errors import near
from ddcore.storage import Place
from ddcore.training import Protocol
from ddcore_text.embedded import network_of_rows, rows_of, vectors_of
from ddcore_text.protocols import PROTOCOLS

EMPTY, UNKNOWN, CLS = 0, 1, 2
SPECIAL = 3
TRANSFORMER = re.compile(r"transformer(?P<layers>\d+)(-w(?P<width>\d+))?(-h(?P<heads>\d+))?")
WIDTH, HEADS = 128, 4
TABLES = (".tsv", ".csv")
EMBEDDED = "embeddings"
"""The modality of sentences as rows (E, L) of their words' vectors."""
NAMED = {"embedded-sentences": EMBEDDED, "embedded-text": EMBEDDED, "sentences": TEXT, "text": TEXT}
"""Names of data to what they hold."""
PARTS = (("train", "train"), ("test", "dev"), ("test", "test"), ("test", "validation"))


def vocabulary_of(sentences: Sequence[str], least: int, most: int) -> dict[str, int]:
    """Word to id, from 3 on; the most frequent first, equally frequent ones in alphabetical order.

    Args:
        least: times that a word has to be there.
        most: ids in all, with the three that stand for no word.

    >>> vocabulary_of(["b a", "b c", "a"], least=2, most=9)
    {'a': 3, 'b': 4}
    """
    counts = Counter(word for sentence in sentences for word in sentence.split())
    frequent = sorted((-n, word) for word, n in counts.items() if n >= least)[: max(0, most - SPECIAL)]
    return {word: SPECIAL + at for at, (_, word) in enumerate(frequent)}


def encode(sentences: Sequence[str], words: Mapping[str, int], length: int) -> Tensor:
    """Token ids (N, L) int32: CLS, the words' ids (1 for one that has none), zeros.

    >>> encode(["b z", "a a a"], {"a": 3, "b": 4}, 3).tolist()
    [[2, 4, 1], [2, 3, 3]]
    """
    ids = torch.full((len(sentences), length), EMPTY, dtype=torch.int32)
    for row, sentence in zip(ids, sentences, strict=True):
        known = [CLS, *(words.get(word, UNKNOWN) for word in sentence.split()[: length - 1])]
        row[: len(known)] = torch.tensor(known, dtype=torch.int32)
    return ids


class Transformer(nn.Module):
    """Words and places, encoder layers (norm first, GELU, four times as wide inside), the first place through a linear
    layer.

    There is no dropout: students of one seed are the same bits.

    Args:
        vocabulary: V.
        length: L.
    """

    def __init__(self, vocabulary: int, length: int, classes: int, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=EMPTY)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for parameter in self.encoder.parameters():  # torch copies one layer: draw each anew
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    @property
    def taps(self) -> dict[str, str]:
        """``stage1`` and so on: what each layer gives, (B, L, D)."""
        return {f"stage{n + 1}": f"encoder.layers.{n}" for n in range(len(self.encoder.layers))}

    def embed(self, tokens: Tensor) -> Tensor:
        """The classifier's input (B, D) for token ids (B, L)."""
        hidden = self.encoder(self.words(tokens) + self.places, src_key_padding_mask=tokens == EMPTY)
        return self.norm(hidden[:, 0])  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(tokens))  # type: ignore[no-any-return]


@frozen(kw_only=True, eq=False)
class Text(Plugin):
    """Reads sentences, as token ids or as rows of vectors, and builds networks of both."""

    api: ClassVar[str] = "2.1"
    summary: ClassVar[str] = (
        "sentences from tables (text:FOLDER, embedded-text:FOLDER), small transformers and convolutions"
    )
    paper: ClassVar[str] = "Attention Is All You Need, arXiv:1706.03762"
    role: ClassVar[str] = "data"
    protocols: ClassVar[tuple[str, ...]] = tuple(PROTOCOLS)
    modality: ClassVar[frozenset[str]] = frozenset({TEXT, EMBEDDED, "dense"})
    datasets: ClassVar[tuple[str, ...]] = tuple(NAMED)
    networks: ClassVar[tuple[str, ...]] = ("textcnn", "transformer2", "transformer2-w64", "transformer4-w128-h4")

    length: int = option(32, help="tokens of a sentence, the first one included", symbol="L", validator=ge(2))
    least: int = option(2, help="times that the training part has to have a word", validator=ge(1))
    words: int = option(20_000, help="most ids", symbol="V", validator=ge(4))
    dimensions: int = option(32, help="numbers of a word's vector in embedded-text", symbol="E", validator=ge(1))

    def suggests_protocol(self, subject: Subject) -> str | None:
        """``text`` for sentences, ``embedded`` for rows of their words' vectors."""
        return {TEXT: "text", EMBEDDED: "embedded"}.get(subject.modality)

    @hookimpl
    def ddcore_protocol(self, name: str) -> Protocol | None:
        """``text`` and ``embedded``."""
        return PROTOCOLS.get(name)

    @hookimpl
    def ddcore_data(self, name: str, rest: str, options: Mapping[str, Any]) -> Source | None:
        """``text:PATH``: a folder with train and dev (or test) tables; ``sentences``: a few computed ones; both as
        token ids, or ``embedded-`` as rows (E, L)."""
        if name not in NAMED:
            return None
        held = self._embedded if NAMED[name] == EMBEDDED else self._source
        if name.endswith("sentences"):
            return held(name, computed(400, 0), computed(200, 1), ("no", "yes"), ())
        wanted = Wanted(name, rest, options.get("data_root"), options.get("split"))
        place = wanted.place()
        skipped: list[str] = []
        train, test, file = tables(place, wanted.named, skipped if options.get("skip_broken") else None)
        found = classes_of([label for _, label in (*train, *test)], f"the labels of {place.url}")
        numbers = iter(found.numbers.tolist())
        kept = iter(found.labelled.tolist())
        seen, unseen = ([(text, next(numbers)) for text, _ in part if next(kept)] for part in (train, test))
        notes = (f"tested on {file}", *found.notes, *skipped)
        return held(place.name, seen, unseen, found.names or (), notes)

    def _source(
        self,
        name: str,
        train: Sequence[tuple[str, int]],
        test: Sequence[tuple[str, int]],
        classes: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> Source:
        words = vocabulary_of([text for text, _ in train], self.least, self.words)
        parts = [
            Split(encode([text for text, _ in part], words, self.length), torch.tensor([label for _, label in part]))
            for part in (train, test)
        ]
        return Source(
            name=name,
            train=parts[0],
            test=parts[1],
            classes=classes,
            modality=TEXT,
            vocabulary=SPECIAL + len(words),
            origin=name,
            notes=notes,
        )

    def _embedded(
        self,
        name: str,
        train: Sequence[tuple[str, int]],
        test: Sequence[tuple[str, int]],
        classes: tuple[str, ...],
        notes: tuple[str, ...],
    ) -> Source:
        words = {
            word: at - SPECIAL for word, at in vocabulary_of([t for t, _ in train], self.least, self.words).items()
        }
        seen, unseen = ([[words[w] for w in text.split() if w in words] for text, _ in part] for part in (train, test))
        if not words:
            raise InputError(f"no word of {name} is there {self.least} times: lower --text.least")
        vectors = vectors_of(seen, len(words), self.dimensions)
        parts = [
            Split(rows_of(rows, vectors, self.length), torch.tensor([label for _, label in part]))
            for rows, part in ((seen, train), (unseen, test))
        ]
        wordless = sum(not row for row in seen)
        return Source(
            name=name,
            train=parts[0],
            test=parts[1],
            classes=classes,
            modality=EMBEDDED,
            dense=True,
            row_bytes=self.length * (2 if len(words) < 2**15 else 4),
            mirror_symmetric=False,
            mean=(0.0,) * self.dimensions,
            std=(1.0,) * self.dimensions,
            origin=name,
            notes=(*notes, *([f"{wordless} train sentences have no known word, and are zeros"] if wordless else [])),
        )

    def recognises(self, place: Place) -> str | None:
        """``text`` for a folder with a table of sentences that is named after a part."""
        names = visible(place.names()) if place.is_folder() else []
        stems = {name.rpartition(".")[0]: name for name in names if name.lower().endswith(TABLES)}
        first = next((stems[stem] for stem in sorted(stems) if part_of(stem) is not None), None)
        if first is None:
            return None
        head = (place / first).read_bytes(0, 2**16).decode("utf-8-sig", errors="replace").partition("\n")[0]
        return "text" if {"sentence", "text"} & {column.strip() for column in re.split("[\t,]", head)} else None

    @hookimpl
    def ddcore_network(
        self, name: str, channels: int, size: int, classes: int, generator: Generator, shape: tuple[int, ...]
    ) -> nn.Module | None:
        """``transformerN-wD-hH`` of token ids: N layers of width D with H heads; ``textcnn-wD`` of rows (E, L)."""
        found = TRANSFORMER.fullmatch(name)
        if found is None:
            return network_of_rows(name, shape, classes)
        if len(shape) != 1:
            raise InputError(f"network {name!r} is of token ids, and samples here are {shape}: give --network textcnn")
        width, heads = int(found["width"] or WIDTH), int(found["heads"] or HEADS)
        if width % heads:
            raise InputError(
                f"network {name!r} has width {width}, which {heads} heads do not divide: add -h and a divisor"
            )
        return Transformer(channels, size, classes, int(found["layers"]), width, heads)


def computed(count: int, seed: int) -> list[tuple[str, int]]:
    """Sentences of digits' names; the class says whether 'seven' is among them."""
    names = ("one", "two", "three", "four", "five", "six", "eight", "nine")
    drawn = torch.randint(len(names), (count, 6), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = []
    for number, row in enumerate(drawn):
        words = [names[at] for at in row]
        if number % 2:
            words[number % 6] = "seven"
        rows.append((" ".join(words), number % 2))
    return rows


Rows = list[tuple[str, str]]


def tables(place: Place, named: tuple[str, str] | None, skipped: list[str] | None = None) -> tuple[Rows, Rows, str]:
    """Sentences and labels of a folder's training and test tables, ``.tsv`` or ``.csv`` with a header, and the latter's
    name.

    Raises:
        InputError: a part is not there or has no labels, or a table without the columns ``sentence`` (or ``text``) and
            ``label``.
    """
    if not place.is_folder():
        raise InputError(f"{place.url} is no folder: give text: and a folder with train.tsv and dev.tsv")
    files = {name.rpartition(".")[0]: name for name in visible(place.names()) if name.lower().endswith(TABLES)}
    found: dict[str, str] = {}
    for part, said in PARTS if named is None else zip(("train", "test"), named, strict=True):
        fitting = [stem for stem in files if (_says(stem, said) if named is None else stem.lower() == said.lower())]
        if len(fitting) > 1 and part not in found:
            several = ", ".join(sorted(files[stem] for stem in fitting))
            raise InputError(f"{place.url} has several {part} tables, {several}: say which by --split TRAIN:TEST")
        if fitting:
            found.setdefault(part, files[fitting[0]])
    for part in ("train", "test"):
        if part not in found:
            raise InputError(
                f"{place.url} has no {part} table among {', '.join(sorted(files.values())) or 'no tables'}: name the parts by --split TRAIN:TEST"
            )
    tested = [stem for part, said in PARTS for stem in files if part == "test" and _says(stem, said)]
    others = [stem for stem in tested if files[stem] != found["test"]]
    way_out = f"give --split {found['train'].rpartition('.')[0]}:{others[0]}" if others else "add its labels"
    train = table(place / found["train"], skipped=skipped)
    test = table(place / found["test"], way_out, skipped)
    for part, rows in (("train", train), ("test", test)):
        if classes_of([label for _, label in rows], "the labels").names in (None, ("-1",)):
            what = f"the labels of {(place / found[part]).url} are all missing or -1"
            raise InputError(f"{what}: {way_out if part == 'test' else 'add them'}")
    return train, test, found["test"]


def _says(stem: str, part: str) -> bool:
    """Whether a file's name speaks of a part: ``sst2_train``, ``Dev``."""
    return "dev" in re.split(r"[\W_]+", stem.lower()) if part == "dev" else part_of(stem) == part


def table(place: Place, without_labels: str = "", skipped: list[str] | None = None) -> Rows:
    """Rows (sentence, label) of one table; a label may say that there is none, as ``classes_of`` understands it.

    Args:
        without_labels: what to do where there is no column of labels.
        skipped: takes a note of lines that end before their sentence or label, which are left out; None: they are
            refused.

    Raises:
        InputError: columns or cells are missing; text that is not UTF-8.
    """
    try:
        text = place.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{place.url} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from error
    tabs = place.name.lower().endswith(".tsv")
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.DictReader(lines)
    columns = [str(name) for name in reader.fieldnames or ()]
    named = "sentence" if "sentence" in columns else "text"
    for column in (named, "label"):
        if column not in columns:
            way_out = without_labels if column == "label" and without_labels else near(column, columns)
            raise InputError(f"{place.url} has no column {column!r}: {way_out}")
    rows, broken = [], []
    for number, row in enumerate(reader, 2):
        if row[named] is None or row["label"] is None:
            broken.append(number)
            continue
        rows.append((row[named], row["label"]))
    if broken:
        which = ", ".join(map(str, broken[:10])) + (f" and {len(broken) - 10} more" if len(broken) > 10 else "")
        what = f"line{'s' if len(broken) > 1 else ''} {which}, ha{'ve' if len(broken) > 1 else 's'} no sentence or no label"
        if skipped is None:
            raise InputError(f"{place.url}, {what}: repair or drop what is broken, or leave it out by --skip-broken")
        skipped.append(f"{len(broken)} left out as broken (--skip-broken): {place.name}, {what}")
    if not rows:
        raise InputError(f"{place.url} has a header and no sentences: add some")
    return rows
