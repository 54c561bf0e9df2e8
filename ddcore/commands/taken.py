"""What a command takes over from a finished set, where its own line says nothing.

A manifest is data about a set and configures nothing. Of it are taken: numbers and choices from a fixed list (seed,
share of validation, normalisation, numeric options of teachers, views and selected plugins), names of the core's own
networks, protocols and rules for labels. Nothing in it names a place to read, write or load from, a plugin to import, a
thread or a job.

All of it is taken from the run folder around the set, ``RUN/artifact``, if this user made that run
(``ddcore.storage.ownership``); and from the manifest where the user says ``--trust``. Data are found by their
fingerprint: embedded ones, and those that this user has loaded before (``ddcore.storage.known_data``).
"""

from __future__ import annotations

import math
import os
import re
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import attrs
from attrs import field, frozen

from ddcore.composing.discovery import Offer, add_packs, load_class, load_path
from ddcore.composing.options import CORE_GROUPS, at_their_place, convert, fields
from ddcore.composing.recipes import RULES
from ddcore.config import Config, as_meant
from ddcore.data.sources import open_source
from ddcore.errors import InputError, OptionError, PluginError
from ddcore.networks.zoo import knows
from ddcore.runs.record import read_record
from ddcore.scoring.validation import carve
from ddcore.storage import known_data
from ddcore.storage.ownership import is_own
from ddcore.storage.places import Place
from ddcore.storage.printing import printable_line
from ddcore.storage.published import from_home
from ddcore.storage.secrecy import restore
from ddcore.training.protocols import PROTOCOLS, stem_of

if TYPE_CHECKING:
    from ddcore.runs.run import Run

KEPT = (
    "dataset",
    "data_root",
    "split",
    "validation",
    "resize",
    "skip_broken",
    "resize_mode",
    "mirror",
    "normalise",
    "ipc",
    "network",
    "seed",
    "threads",
    "dtype",
    "cache",
)
"""Shared options of a run that hold for its set too, where the record is the user's own."""
NUMBERS = ("validation", "mirror", "normalise", "seed", "dtype")
"""Those of them that a manifest may say: numbers and choices."""
OF_DATA = ("dataset", "data_root", "split", "validation", "resize", "resize_mode", "skip_broken")
EMBEDDED = ("digits",)
"""Data that are part of the package."""
HERE = "train"
"""Weights of teachers that are trained here."""
MOST_EPOCHS = 10**6
LARGEST = 10_000
"""Of a network that a manifest names: the product of the numbers in its name."""
LONGEST = 200
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?")


@frozen(eq=False)
class Taken:
    """What may be taken over from a set.

    Attributes:
        record: of what made its labels: the last relabelling, else the run.
        manifest: the set's.
        url: the set's, for messages.
        whole: whether the record is followed in all it says: the user's own, or trusted.
        said: which data its maker named.
        weights: the teachers' weights that its maker had and that are not taken, for messages.
    """

    record: Mapping[str, Any]
    manifest: Mapping[str, Any]
    url: str
    whole: bool
    said: str = ""
    weights: tuple[str, ...] = field(factory=tuple)

    def makers(self, here: Mapping[str, Any], *, needed: bool) -> tuple[dict[str, Offer], dict[str, type]]:
        """The plugins that made it, but for those that are selected, as far as they are installed; none of a
        stranger's.

        Args:
            here: classes of the plugins that are selected, by name.
            needed: whether nothing goes without them.

        Raises:
            PluginError: one that is needed is missing or not selected.
        """
        offers: dict[str, Offer] = {}
        classes: dict[str, Any] = {}
        for saved in self.record.get("plugins", []) if self.whole else []:
            if saved.get("name") in here:
                continue
            try:
                cls, offer = _loaded(saved)
            except PluginError:
                if needed:
                    raise
                continue
            offers[offer.name], classes[offer.name] = offer, cls
        add_packs(classes, offers, strict=needed)
        return offers, classes

    def plugin_names(self) -> list[str]:
        """The plugins that made it, by the names that look like some."""
        names = (saved.get("name") for saved in self.record.get("plugins", ()) if isinstance(saved, Mapping))
        return [name for name in names if isinstance(name, str) and NAME.fullmatch(name)]

    def config(self, classes: Mapping[str, Any], count: int | None = None) -> dict[str, Any]:
        """The shared options that hold for the set too, and the rule that labelled it or real images beside it.

        Args:
            classes: of the plugins that will be asked.
            count: samples of the set, if they are images.
        """
        said = _table(self.record, "config")
        rule = said.get("labels") or _table(self.record, "plan").get("labeller")
        offered = ["hard", *RULES, *(name for cls in classes.values() for name in cls.labellers)]
        labels = {"labels": rule} if isinstance(rule, str) and rule in offered else {}
        if self.whole:
            return {**{n: said[n] for n in KEPT if said.get(n) is not None}, **labels}
        if not labels or (self.weights and rule in RULES):
            labels = {"labels": "hard"}
        kept = _fitting(Config, (*NUMBERS, "resize", "resize_mode", "ipc"), said)
        shape = self.manifest.get("shape")
        if not isinstance(shape, list) or kept.get("resize") not in shape[-1:]:
            kept.pop("resize", None)
        if "resize" not in kept:
            kept.pop("resize_mode", None)
        if kept.get("ipc", 0) > (count or 0):
            kept.pop("ipc", None)
        kept |= {"network": said["network"]} if known_network(said.get("network"), classes) else {}
        kept |= {"split": said["split"]} if _is_share(said.get("split")) else {}
        return {**kept, **labels}

    def options(self, classes: Mapping[str, type]) -> dict[str, dict[str, Any]]:
        """Options of groups, as a config file has them: of a stranger's numbers and choices alone."""
        said = at_their_place(_table(self.record, "options"), classes)
        return {group: self._options_of(_table(said, group), group, cls) for group, cls in classes.items()}

    def _options_of(self, said: Mapping[str, Any], group: str, cls: type) -> dict[str, Any]:
        if self.whole:
            return {name: value for name, value in said.items() if name in fields(cls)}
        if group not in CORE_GROUPS and (cls.role in ("executor", "tracker", "data") or cls.executors):  # type: ignore[attr-defined]
            return {}
        kept = _fitting(cls, said, said)
        named = said.get("networks")
        if group == "teachers" and isinstance(named, list) and all(known_network(name, {}) for name in named):
            kept["networks"] = named
        return kept

    def data(self, cache: object) -> dict[str, Any]:
        """By which words its data are found here, as shared options; none where they are not known.

        Args:
            cache: path or URL of the user's cache.
        """
        source, said = self.manifest["source"], self.config({})
        if self.whole:
            return {name: said[name] for name in OF_DATA if name in said}
        if words := known_data.recall(Place.at(str(cache)), source.get("fingerprint")):
            return words
        name = next((name for name in EMBEDDED if _is(name, source.get("fingerprint"), said)), None)
        return {} if name is None else {"dataset": name}

    def protocol(self, classes: Mapping[str, Any]) -> str:
        """The recipe that the set asks for, ``auto`` if it asks for none.

        Args:
            classes: of the selected plugins: a stranger's set gets the core's recipes and theirs, since any other
            would import
                a plugin that nobody asked for.

        Raises:
            InputError: one that a set may not ask for.
        """
        asked = self.manifest["recipe"].get("protocol", "auto")
        offered = {*PROTOCOLS, *(name for cls in classes.values() for name in cls.protocols)}
        if asked == "auto" or (_names_protocol(asked) and (self.whole or stem_of(asked) in offered)):
            return str(asked)
        raise InputError(
            f"{self.url} asks for the protocol {_shown(asked)}, which neither ddcore nor a selected plugin has: give --protocol"
        )

    def unknown_data(self) -> InputError:
        """The sentence for data that nobody named and that are not known here."""
        said = f"was made from {_shown(self.said)}" if self.said else "does not say which data it was made from"
        return InputError(
            f"{self.url} {said}, and no data of its fingerprint are known here: give --dataset, as for `ddcore run`"
        )

    def remarks(self, run: Run) -> list[str]:
        """What a reader of the results should know of what was not taken over, in sentences.

        Raises:
            InputError: data were found by a note of the user's and are no longer those.
        """
        if self.whole:
            return []
        lines = []
        if names := [name for name in self.plugin_names() if name not in run.plugins]:
            words = " ".join(f"--plugin {name}" for name in names)
            lines.append(f"the set was made with plugins that are not asked here: {words} would ask them")
        if self.weights:
            loaded = ", ".join(self.weights)
            lines.append(
                f"its labels are of teachers with weights {loaded}: real images get such labels with --teachers.weights"
            )
        made, sources = self.manifest["source"].get("fingerprint"), run.setup.resolved.sources
        if made in (None, "", run.source.fingerprint):
            return lines
        if not any(sources[name] == "command line" for name in (*OF_DATA, "seed")):
            raise InputError(
                f"the data behind {run.config.dataset!r} are no longer those of {self.url}: give --dataset"
            )
        return [*lines, "the data are not those that the set was made from: their fingerprints differ"]


def taken(manifest: Mapping[str, Any], place: Place, *, trust: bool) -> Taken:
    """What may be taken over from a set.

    Args:
        trust: follow its manifest in all that it says.
    """
    made = as_meant(labelling(manifest["provenance"]), {"modality": manifest["kind"], **manifest["source"]})
    said = _table(made, "config").get("dataset") or manifest["source"].get("origin") or manifest["source"].get("name")
    said = said if isinstance(said, str) else ""
    if (own := own_record(manifest, place)) is not None:
        record = from_home(restore(own, strict=False))
        return Taken(as_meant(record, own["data"]), manifest, place.url, True, said)
    if trust:
        return Taken(restore(made, strict=False), manifest, place.url, True, said)
    weights = _table(_table(made, "options"), "teachers").get("weights")
    loaded = tuple(_shown(word) for word in weights if word != HERE) if isinstance(weights, list) else ()
    return Taken(made, manifest, place.url, False, said, loaded)


def own_record(manifest: Mapping[str, Any], place: Place) -> dict[str, Any] | None:
    """``run.json`` of the run folder around a set, if this user made it and it is of the same data; else None."""
    if manifest["provenance"].get("relabelled"):
        return None
    address = place.address if place.local_path() is None else os.path.abspath(str(place.local_path()))
    folder, slash, name = address.rstrip("/").rpartition("/")
    if not slash or name != "artifact":
        return None
    with suppress(InputError):
        record = read_record(Place.at(folder))
        same = record["data"]["fingerprint"] == manifest["source"].get("fingerprint")
        return record if same and is_own(record) else None
    return None


def labelling(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of what made an artifact's labels: its last relabelling, else the run itself."""
    last: Mapping[str, Any] = [provenance, *provenance.get("relabelled", ())][-1]
    return last


def known_network(name: object, classes: Mapping[str, Any]) -> bool:
    """Whether a name is that of a network of the core, of a size that a stranger may ask for,
    or of a selected plugin."""
    if not isinstance(name, str) or len(name) > LONGEST:
        return False
    if any(name in cls.networks for cls in classes.values()):
        return True
    if name.startswith(("torchvision:", "timm:")):
        return True
    if name.startswith("hub:"):  # making it runs a repository's code
        return False
    return knows(name) and math.prod(int(number) for number in re.findall("[0-9]{1,9}", name)) <= LARGEST


def _names_protocol(name: object) -> bool:
    """Whether it could be a protocol's name, of a number of epochs that somebody may want."""
    if not isinstance(name, str) or len(name) > LONGEST:
        return False
    number = name.rpartition("-")[2]
    return not number.isdecimal() or 0 < int(number) <= MOST_EPOCHS


def _loaded(saved: Mapping[str, Any]) -> tuple[type, Offer]:
    path, sha256 = saved.get("path"), saved.get("sha256")
    if isinstance(path, str) and path:
        return load_path(path, sha256 if isinstance(sha256, str) else "")
    return load_class(saved["name"])


def _fitting(cls: type, names: Iterable[str], said: Mapping[str, Any]) -> dict[str, Any]:
    """Of some options the values that are numbers, switches or one of the option's choices, as the option's type;
    no others."""
    found = {name: _converted(fields(cls)[name], said.get(name)) for name in names if name in fields(cls)}
    return {name: value for name, value in found.items() if value is not None}


def _converted(attribute: attrs.Attribute, value: object) -> Any:
    if value is None or attribute.metadata.get("secret") or not _is_plain(attribute.type):
        return None
    with suppress(OptionError, ValueError, TypeError, AttributeError):
        converted = convert(value, attribute.type, attribute.name)
        if attribute.validator is not None:
            attribute.validator(None, attribute, converted)
        return converted
    return None


def _is_plain(kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return all(_is_plain(each) for each in get_args(kind) if each is not type(None))
    return kind in (int, float, bool) or get_origin(kind) is Literal


def _is_share(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"0?\.[0-9]{1,9}", value) is not None


def _is(name: str, fingerprint: object, said: Mapping[str, Any]) -> bool:
    """Whether embedded data, prepared as a set's were, have a fingerprint."""
    if not isinstance(fingerprint, str):
        return False
    with suppress(InputError, OptionError):
        source = open_source(name, **{option: said[option] for option in ("resize", "resize_mode") if option in said})
        share = said.get("validation")
        carved = source if share is None else carve(source, share, said.get("seed", 0))
        return carved.fingerprint == fingerprint
    return False


def _table(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}


def _shown(value: object) -> str:
    """A value of a stranger's for a sentence: on one line, not endless."""
    return (
        repr(printable_line(value[:LONGEST])) if isinstance(value, str) else f"a value of type {type(value).__name__}"
    )
