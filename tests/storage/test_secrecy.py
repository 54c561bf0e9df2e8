"""Credentials reach what needs them, and no record, log, report or screen."""

import io
import json
import shlex
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from attrs import frozen
from reliability.kills import Parent

from ddcore import Plugin, option
from ddcore.composing.options import as_json, from_json, resolve
from ddcore.errors import InputError
from ddcore.storage import secrecy
from ddcore.storage.places import Place
from ddcore.storage.secrecy import COVER, HANDED_ON, hand_on, hidden, keep, redact, restore, shown, whole, withhold

pytestmark = pytest.mark.usefixtures("probes")

FULL, BARE = "s3://key:canary-1@bucket/x?sig=canary-2", "s3://bucket/x"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(secrecy, "_addresses", {})
    monkeypatch.setattr(secrecy, "_options", {})
    monkeypatch.delenv(HANDED_ON, raising=False)


def test_an_address_is_shown_bare_and_known_whole():
    assert shown(FULL) == BARE and whole(BARE) == FULL
    assert shown("/data/what?/x#1") == "/data/what?/x#1" and whole("/data/what?/x#1") is None


# shapes in which people write credentials, the canary being what nobody may see
SHAPES = (
    *("s3://key:canary@bucket/x.npz", "https://user:canary-p@canary-s@host/x.npz", "https://user:canary#1@host/x.npz"),
    *("https://user:canary?1@host/x.npz", "https://user:can/canary@host/x.npz", "https://user:canary one@host/x.npz"),
    *("https://a canary:pass@host/x.npz", "https://user:canary;2@host/x.npz", "https://user:canary::b@host/x.npz"),
    *("https://user:1/canary@host/x.npz", "https://user:80#canary@host/x.npz", "https://canary-token@host/x.npz"),
    *(
        "https://user:p@1#canary@host/x.npz",
        "https://user:canary%40x@host/x.npz",
        "https://user:canary",
        "x://:canary@h",
    ),
    *("https://host/x.npz;token=canary", "https://host/a;token=canary/x.npz", "https://host/x.npz?token=canary"),
    *("https://host:8080/x.npz?a=b@canary", "https://host/x.npz?a=b@canary", "https://host/x.npz#canary"),
    *(
        "https://host/x.npz?url=https://u:canary@h/x",
        "https://u:canary@host/x.npz?token=canary@canary",
        "https://user:canary\t@h",
    ),
    *("https://host:8080?a=b@canary", "https://host#a@canary", "https://host;token=a@canary"),
    *("HTTPS://USER:canary@HOST/x.npz", "S3://key:canary@bucket/x.npz?X-Amz-Signature=canary", "Memory://u:canary@h/x"),
    *("simplecache::https://u:canary@h/x.npz", "filecache::zip://x.npz::s3://k:canary@b/y.zip?v=canary"),
    *("SimpleCache::HTTPS://u:canary@h/x.npz", "zip://*.npz::https://u:can@canary@h/y.zip;token=canary"),
    *(
        "https://user:canary\"quoted'@host/x.npz",
        "https://user:canary\\back@host/x.npz",
        "https://\u00fcser:canary@h\u00f6st/x",
    ),
    *("https://user:canary$HOME@[::1]:80/x.npz", "sftp://user:canary!@host:22/x", "https://user:canary,b@host/x.npz"),
)
PROSE = (
    "{}",
    "npz:{}",
    "--dataset=npz:{}",
    "{} cannot be read (403): try again",
    'GET "{}" failed',
    "see https://docs.example/x, not {}",
)


@pytest.mark.parametrize("address", SHAPES)
def test_no_shape_of_an_address_shows_what_is_secret(address):
    assert "canary" not in shown(address) + shown(f"npz:{address}") + repr(Place.at(address)) + Place.at(address).url
    assert whole(shown(address)) == address and shown(shown(address)) == shown(address)
    for text in PROSE:
        assert "canary" not in hidden(text.format(address)), text
        if "\t" not in address:
            assert "canary" not in redact(text.format(address)), text
    record = withhold({"config": {"dataset": f"npz:{address}", "many": [address]}}, "config")
    assert "canary" not in json.dumps(record) and restore(record)["config"]["many"] == [address]


@pytest.mark.parametrize("address", SHAPES)
def test_texts_of_any_spelling_lose_an_address_that_is_known(address):
    shown(address)
    for spelling in (json.dumps({"at": address}), json.dumps([address], ensure_ascii=False), repr(address)):
        assert "canary" not in hidden(spelling)


@pytest.mark.parametrize("address", SHAPES)
def test_no_driver_says_what_is_secret(address, monkeypatch):
    """Drivers name the address as they understood it, or a piece of it: a port that is no number, a host that is not there."""

    def fail(self):
        raise said

    monkeypatch.setattr(Place, "_fs", fail)
    monkeypatch.setattr("ddcore.storage.places.FIRST_WAIT", 0.0)
    tail = address.partition("canary")
    for said in (
        OSError(f"no answer from {address}"),
        ValueError(f"Port could not be cast to integer value as {'canary' + tail[2][:3]!r}"),
        ConnectionError(f"Cannot connect to host canary{tail[2]} ssl:default"),
        FileNotFoundError(address),
        PermissionError(13, f"no: {address}"),
        ImportError(address),
    ):
        with pytest.raises(InputError) as refusal:
            Place.at(address).read_bytes()
        assert "canary" not in str(refusal.value), said


def test_what_is_not_secret_stays_and_what_a_driver_says_too():
    for address in (
        "https://host:8080/a/b.npz",
        "https://[::1]:80/x",
        "hf://datasets/me/set@main/x",
        "s3://b/x@v1",
        "a:b@c",
        "x",
    ):
        assert shown(address) == address and redact(f"see {address}, please") == f"see {address}, please"
    assert secrecy.without("403, message='Forbidden'", FULL) == "403, message='Forbidden'"
    assert secrecy.without("no port 'canary'", FULL) == ""


RUN_AT = "run --plugin pull --steps 1 --ipc 1 --network convnet2-w4 --protocol quick-1 --eval-seeds 1 --full-epochs 1 --preset none --threads 1"
RUN_AT += " --labels hard"


@pytest.mark.parametrize(
    "address",
    [
        "memory://user:canary-p@canary-s#1@host/d.npz",
        "memory://user:canary one?2@host/d.npz",
        "memory://host/d.npz;token=canary",
        'memory://user:canary\\"/@host/d.npz',
        "simplecache::memory://user:canary-secret@host/d.npz",
    ],
)
def test_no_secret_of_any_shape_is_in_what_commands_leave_or_say(address, tmp_path, capfd):
    import fsspec
    from fsspec.core import url_to_fs

    from ddcore.cli.app import invoke

    made = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(made, x_train=pixels, x_test=pixels, y_train=np.arange(20) % 2, y_test=np.arange(20) % 2)
    fsspec.filesystem("memory").pipe_file(url_to_fs(address.rpartition("::")[2])[1], made.getvalue())
    out, cache, threads = str(tmp_path / "run"), str(tmp_path / "cache"), torch.get_num_threads()
    try:
        assert invoke([*RUN_AT.split(), "--dataset", f"npz:{address}", "--out", out, "--cache", cache]) == 0
        for words in (["report", out], ["inspect", f"{out}/artifact"], ["inspect", f"{out}/artifact", "--json"]):
            assert invoke(words) == 0
        assert invoke([*RUN_AT.split(), "--dataset", f"npz:{address}-none", "--out", f"{out}-none"]) == 2
        assert invoke([*RUN_AT.split(), "--dataset", "digits", "--out", f"{out}-none", "--nonsense", address]) == 2
        assert invoke(["inspect", address]) == 2
    finally:
        torch.set_num_threads(threads)
    said = capfd.readouterr()
    assert "canary" not in said.out + said.err and "Traceback" not in said.err
    assert not [str(path) for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


def test_texts_lose_whole_addresses_secret_options_and_secrets_of_the_environment(monkeypatch):
    shown(FULL)
    keep("turn.token", "canary-option")
    monkeypatch.setenv("HF_TOKEN", "canary-token")
    monkeypatch.setenv("MY_TOKEN", "short")
    monkeypatch.setenv("HOME_SWEET", "not-a-secret-at-all")
    said = hidden(f"{FULL} by canary-option, canary-token, short, not-a-secret-at-all")
    assert said == f"{BARE} by {COVER}, {COVER}, short, not-a-secret-at-all"


def test_what_is_withheld_from_a_document_is_named_and_put_back():
    document = {"config": {"dataset": f"npz:{FULL}", "many": ["a", FULL], "ipc": 1}, "paper": "https://host/p?id=1"}
    kept = withhold(document, "config")
    assert (
        kept["config"] == {"dataset": f"npz:{BARE}", "many": ["a", BARE], "ipc": 1}
        and kept["paper"] == document["paper"]
    )
    assert kept["withheld"] == ["config/dataset", "config/many/1"] and "canary" not in json.dumps(kept)
    assert {name: restore(kept)[name] for name in document} == document


def test_another_process_is_told_what_to_do_unless_it_was_handed_the_address(monkeypatch):
    kept = withhold({"config": {"dataset": FULL}, "options": {}}, "config")
    keep("turn.token", "canary with a space")
    hand_on()
    import os

    handed = os.environ[HANDED_ON]
    monkeypatch.setattr(secrecy, "_addresses", {})
    monkeypatch.setattr(secrecy, "_options", {})
    monkeypatch.setenv(HANDED_ON, "")
    with pytest.raises(InputError, match=f"{BARE} was recorded without its credentials: .* {HANDED_ON}"):
        restore(kept)
    assert restore(kept, strict=False)["config"]["dataset"] == BARE
    monkeypatch.setenv(HANDED_ON, handed)
    assert restore(kept)["config"]["dataset"] == FULL and secrecy.option("turn.token") == "canary with a space"


def test_nothing_to_hand_on_leaves_the_environment_alone(monkeypatch):
    hand_on()
    import os

    assert HANDED_ON not in os.environ


@pytest.mark.parametrize("path", ["config/none", "config/many/7", "config/many/x", "", "paper/deep/er"])
def test_a_record_that_names_what_it_does_not_hold_is_left_as_it_is(path):
    document = {"config": {"many": ["a"]}, "paper": "p", "withheld": [path]}
    assert restore(document) == document


@frozen(kw_only=True)
class Secretive(Plugin):
    summary = "one line"
    paper = "none: a test"
    token: str = option("", help="who we are", secret=True)
    place: str = option("", help="an address")


def test_secret_options_and_addresses_come_back_by_the_environment_only(monkeypatch):
    given = {"x__token": "canary-option", "x__place": FULL}
    made = resolve({"x": Secretive}, command_line=given, environment={})
    record = json.loads(json.dumps(as_json(made)))
    assert "canary" not in json.dumps(record) and hidden("by canary-option") == f"by {COVER}"
    back = from_json(restore(record), {"x": Secretive}).options["x"]
    assert (back.token, back.place) == ("canary-option", FULL)
    monkeypatch.setattr(secrecy, "_options", {})
    assert from_json(restore(record), {"x": Secretive}).options["x"].token == ""
    monkeypatch.setenv("DDCORE_X__TOKEN", "another")
    assert from_json(restore(record), {"x": Secretive}).options["x"].token == "another"


# ---- a run whose data need a token -----------------------------------------------------------------------------------

TOKEN = "canary-in-the-query"
RUN = "run --plugin pull --steps 2 --ipc 1 --network convnet2-w4 --protocol quick-1 --eval-seeds 2 --full-epochs 1 --preset none"
RUN += " --threads 1 --jobs 2 --cache cache --out run --dataset"


class Guarded(SimpleHTTPRequestHandler):
    """Gives files to who knows the token."""

    def do_GET(self):
        if TOKEN in self.path:
            super().do_GET()
        else:
            self.send_error(403)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def guarded(tmp_path):
    """The URL of a data set behind a token."""
    pytest.importorskip("aiohttp", reason="fsspec reads http through aiohttp")
    draw = torch.Generator().manual_seed(0)
    arrays = {
        f"x_{part}": torch.randint(0, 256, (40, 8, 8), generator=draw).numpy().astype("uint8")
        for part in ("train", "test")
    }
    arrays |= {f"y_{part}": np.arange(40) % 2 for part in ("train", "test")}
    (tmp_path / "served").mkdir()
    np.savez(tmp_path / "served" / "data.npz", **arrays)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"npz:http://127.0.0.1:{server.server_address[1]}/data.npz?token={TOKEN}"
    server.shutdown()
    server.server_close()


def test_no_secret_of_a_run_is_in_anything_that_it_leaves_or_says(guarded, tmp_path):
    secrets = {"HF_TOKEN": "canary-in-the-environment", "AWS_SECRET_ACCESS_KEY": "canary-of-a-store"}
    work = tmp_path / "work"
    work.mkdir()
    with Parent(environment=secrets) as parent:
        ends = [parent.run([*RUN.split(), guarded], work)]
        assert ends[0].code == 0, ends[0].said
        (work / "run/scores.json").unlink()
        (next((work / "run/checkpoints").glob("evaluate*"))).unlink()
        ends.append(parent.run(["resume", "run"], work))
        ends.append(parent.run(["evaluate", "run/artifact", "--protocol", "quick-1", "--eval-seeds", "1"], work))
        ends += [parent.run(["report", "run"], work), parent.run(["inspect", "run/artifact"], work)]
    assert ends[1].code == 2 and "was recorded without its credentials" in ends[1].said
    assert not any(end.traceback for end in ends)
    with Parent(environment={**secrets, HANDED_ON: shlex.quote(guarded)}) as parent:
        ends.append(parent.run(["resume", "run"], work))
    assert ends[-1].code == 0, ends[-1].said
    assert "canary" not in "".join(end.said for end in ends)
    leaks = [str(path) for path in work.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]
    assert not leaks
