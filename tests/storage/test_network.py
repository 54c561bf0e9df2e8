"""Trouble between machines is named as what it is, wherever an address is opened."""

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddcore.data.sources import open_source
from ddcore.errors import InputError, StoreError
from ddcore.sets.artifact import load_artifact
from ddcore.storage import fetching, places
from ddcore.storage.network import of_status, trouble
from ddcore.storage.places import Place
from ddcore.storage.weights import read_state

pytest.importorskip("aiohttp")


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(places, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.0)


@pytest.fixture(scope="module")
def server():
    """Answers with the number that a path begins with, and nothing else."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(int(self.path.split("/")[1]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    served.asked = asked
    yield served
    served.shutdown()
    served.server_close()


def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


OPENERS = {
    "data": lambda url: open_source(f"parquet:{url}/train.parquet"),
    "data by path": lambda url: open_source(f"{url}/train.parquet"),
    "folders": lambda url: open_source(f"folder:{url}"),
    "artifact": lambda url: load_artifact(url),
    "content": lambda url: Place.at(f"{url}/x").read_bytes(),
    "look": lambda url: Place.at(f"{url}/x").exists(),
    "list": lambda url: Place.at(url).names(),
    "weights": lambda url: read_state(Place.at(f"{url}/w.safetensors"), trust=True),
}
openers = pytest.mark.parametrize("opens", OPENERS.values(), ids=OPENERS)


@openers
@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "401 Unauthorized.*credentials"), (403, "403 Forbidden.*credentials"), (500, "500 Internal Server Error"),
     (503, "503 Service Unavailable.*later")],
)  # fmt: skip
def test_what_a_server_answers_is_said(server, opens, status, sentence):
    with pytest.raises(StoreError, match=sentence) as caught:
        opens(f"http://127.0.0.1:{server.server_port}/{status}")
    assert "there is nothing" not in str(caught.value) and caught.value.exit_code == 2


@openers
def test_a_name_that_stands_for_no_machine_is_said(opens, monkeypatch):
    look_up = socket.getaddrinfo

    def answer(host, *given, **more):
        """As a resolver does, which may take seconds where there is no network."""
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *given, **more)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(StoreError, match="nowhere.invalid.*its host is not known"):
        opens("http://nowhere.invalid/here")


@openers
def test_a_port_at_which_nobody_listens_is_said(opens):
    with pytest.raises(StoreError, match="refused"):
        opens(f"http://127.0.0.1:{closed_port()}/here")


@openers
def test_a_connection_that_cannot_be_secured_is_said(server, opens):
    with pytest.raises(StoreError, match="TLS fails"):
        opens(f"https://127.0.0.1:{server.server_port}/200")


@pytest.mark.parametrize("name", ["data", "data by path", "content", "artifact", "weights"])
def test_what_is_not_there_is_said_with_the_servers_answer(server, name):
    with pytest.raises(InputError, match="404 Not Found"):
        OPENERS[name](f"http://127.0.0.1:{server.server_port}/404")
    assert not Place.at(f"http://127.0.0.1:{server.server_port}/404/x").exists()


def test_what_will_not_change_is_asked_once_and_what_may_change_again(server):
    for status, most in ((403, 2), (503, 2 * places.ATTEMPTS)):
        server.asked.clear()
        with pytest.raises(StoreError):
            Place.at(f"http://127.0.0.1:{server.server_port}/{status}/x").exists()
        assert most // 2 <= len(server.asked) <= most


class Answered(Exception):
    """As requests, botocore, aiohttp and urllib keep a server's answer."""

    def __init__(self, **kept):
        super().__init__("said no")
        vars(self).update(kept)


class ConnectTimeoutError(Exception):
    """Named as botocore's."""


class NoCredentialsError(Exception):
    """Named as botocore's."""


class Response:
    status_code = 403


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (Answered(status=403), "403 Forbidden"),
        (Answered(code=502), "502 Bad Gateway"),
        (Answered(response=Response()), "403 Forbidden"),
        (Answered(response={"ResponseMetadata": {"HTTPStatusCode": 503}}), "503 Service Unavailable"),
        (TimeoutError(), "not answer in time"),
        (ConnectTimeoutError(), "not answer in time"),
        (ConnectionResetError(), "ends in the middle"),
        (ssl.SSLCertVerificationError("bad"), "TLS fails"),
        (socket.gaierror(-2, "no name"), "host is not known"),
        (OSError(113, "No route to host"), "does not reach it"),
        (NoCredentialsError(), "no credentials"),
    ],
)
def test_every_library_is_understood_however_deep_its_error_lies(error, sentence):
    assert sentence in trouble(error).why
    outer = FileNotFoundError("http://x")
    outer.__cause__ = RuntimeError("wrapped")
    outer.__cause__.__context__ = error
    assert sentence in trouble(outer).why
    kept = Answered(kwargs={"error": error})
    assert sentence in trouble(kept).why


def test_what_is_no_trouble_of_the_network_is_none():
    for error in (
        FileNotFoundError("x"),
        ValueError("x"),
        Answered(status=404),
        Answered(status=True),
        OSError(28, "full"),
    ):
        assert trouble(error) is None
    assert of_status(404).lasting and not of_status(500).lasting
