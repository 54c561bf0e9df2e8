"""What is tried on devices: whole runs of plugins, and commands. From (folder, device) to the tensors and scores they come to."""

import json

from ddcore.cli.app import invoke
from ddcore.composing.discovery import FIRST_PARTY, installed
from ddcore.composing.recipes import RULES
from ddcore.kit.contract import stage
from ddcore.kit.contract.stage import TINY
from ddcore.runs.distil import distil
from ddcore.storage.places import Place, load_tensors
from ddcore.testing import PROBE, tiny_words

HERE = [name for name in FIRST_PARTY if name in installed()]
ALONE = [name for name in HERE if name != "text"]
"""text brings data that nothing distils; students are trained on them below."""
ASIDE = {"mlflow", "ray", "submitit", "tensorboard"}
"""They compute nothing."""
NO_CHANCE = dict.fromkeys(("mirage", "graphs"), {"graphs__dropout": 0.0})
"""Dropout draws from a device's own generator: then the bits are not the CPU's."""


def whole_run(name, folder, device, *words, **more):
    """What a whole run of a plugin comes to: tensors of its artifact by name, and its scores."""
    subject = stage.find_subject(name, folder)
    here = {"executor": "here"} if subject.cls.executors else {}
    run = subject.run(*words, steps=2, device=device, **here, **NO_CHANCE.get(name, {}), **more)
    rows = distil(run)
    return tensors_in(run.place / "artifact"), [(r.set, r.labels, r.network, r.values, r.extra) for r in rows]


def tensors_in(place):
    """All tensors in a folder's files, by file and name."""
    files = sorted(name for name in place.names() if name.endswith(".safetensors"))
    return {f"{file}:{name}": tensor for file in files for name, tensor in load_tensors(place / file).items()}


SMALL = [*tiny_words(), "--threads=1", "--eval-seeds=1"]
TEACHERS = ["--teachers.epochs=1", "--teachers.no-check", "--teachers.networks=convnet2-bn-w4"]
VIEWS = ["--views.epochs=2", "--views.batch=4"]
OF_DATA = ["--threads=1", "--eval-seeds=1", "--protocol=quick-1"]


def words_of(*words, device, folder, out):
    """A command line on a device, its cache in a folder."""
    return [*map(str, words), f"--device={device}", f"--cache={folder / 'cache'}", f"--out={folder / out}"]


def told(folder):
    """What a run folder says: scores, and tensors of its set, its students."""
    scores = json.loads((folder / "scores.json").read_text())["rows"] if (folder / "scores.json").exists() else []
    places = [Place.at(str(folder / part)) for part in ("", "artifact", "students")]
    tensors = {f"{n}/{name}": t for n, p in enumerate(places) if p.exists() for name, t in tensors_in(p).items()}
    return tensors, [(row["set"], row["labels"], row["network"], row["accuracy"]["values"]) for row in scores]


TRAINED = {
    "data": ["--data=tiny", *TINY],
    "few, averaged": ["--data=tiny", *TINY, "--per-class=2", "--labels=averaged", *TEACHERS],
    "heed": ["--data=tiny", *TINY, "--plugin=heed", *TEACHERS],
    "kd": ["--data=tiny", *TINY, "--plugin=kd", *TEACHERS],
    "amp": ["--data=tiny", *TINY, "--plugin=kd", "--kd.feature=rkd", "--amp", *TEACHERS],
    "foreign": ["--data=tiny", *TINY, "--on=tiny:copies", "--labels=averaged", *TEACHERS],
    "a set": ["--data=SET", *TINY, "--plugin=kd", *TEACHERS],
    "a set, averaged": ["--data=SET", *TINY, "--labels=per-view", *TEACHERS, *VIEWS],
}


TRAINED = {what: words for what, words in TRAINED.items() if "--plugin=kd" not in words or "kd" in HERE}
KINDS = ("hard", *RULES)


def a_set(folder):
    """A set with hard labels, distilled on the CPU."""
    assert invoke(["run", *PROBE, *words_of(*SMALL, device="cpu", folder=folder, out="run")]) == 0
    return folder / "run" / "artifact"


def command(*words, **environment):
    """From (folder, device) to what a command came to there."""

    def make(folder, device):
        folder.mkdir(exist_ok=True)
        assert invoke(words_of(*words, device=device, folder=folder, out="run")) == 0
        return told(folder / "run")

    return make


def relabelled(rule, finished):
    """From (folder, device) to a set's other labels, and what students learn from them."""
    options = [*TEACHERS, *VIEWS] if rule != "hard" else []

    def make(folder, device):
        folder.mkdir()
        relabel = ["relabel", finished, f"--labels={rule}", *options, "--threads=1", *TINY]
        assert invoke(words_of(*relabel, device=device, folder=folder, out="other")) == 0
        evaluate = ["evaluate", folder / "other", *TINY, "--dataset=tiny", *OF_DATA]
        assert invoke(words_of(*evaluate, "--full-epochs=1", device=device, folder=folder, out="run")) == 0
        return tensors_in(Place.at(str(folder / "other"))), told(folder / "run")[1]

    return make


def trained(what, finished):
    """From (folder, device) to students."""
    words = [word.replace("SET", str(finished)) for word in TRAINED[what]]
    return command("train", "--student=convnet2-bn-w4", *words, *OF_DATA)
