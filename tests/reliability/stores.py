"""A real S3 server on this machine, and a proxy in front of it that fails as networks and stores do.

``server`` is moto's server as a process of its own, bound to 127.0.0.1. ``Proxy`` passes requests on and, as its plan says, answers
with an error of the server, does not answer, ends the connection in the middle of a body, or lists what was there a while ago.
"""

import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reliability.kills import End, Parent

ERROR, SILENCE, CUT, DROP, LAG = "error 500", "no answer", "cut in the middle", "dropped", "old listing"
KINDS = (ERROR, SILENCE, CUT, DROP, LAG)
QUIET_FOR = 0.8
"""Seconds that a request without an answer waits; clients here wait for less."""
Plan = Callable[[str, str, int], str | None]
"""Method, path and number of a request to a kind of fault, or none."""
SECRET = "canary-in-the-environment"
KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}

MISSING = next((name for name in ("moto", "flask", "s3fs", "boto3") if find_spec(name) is None), None)
"""What is not installed of what this needs."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def server() -> Iterator[str]:
    """An empty S3 store; its URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise RuntimeError("the S3 server ended")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


class Proxy(ThreadingHTTPServer):
    """Between clients and a store.

    Attributes:
        plan: which requests fail, and how; none does at first.
        injected: faults so far, by kind.
        requests: how many requests came.
    """

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urllib.parse.urlsplit(behind).netloc
        self.plan: Plan = lambda method, path, number: None
        self.injected: Counter[str] = Counter()
        self.requests = 0
        self.lock = threading.Lock()
        self.listed: dict[str, bytes] = {}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that gave up are what this is for."""


def at_random(rate: float, seed: int, kinds: tuple[str, ...] = KINDS) -> Plan:
    """Fail a share of requests, each drawn by its number."""

    def plan(method: str, path: str, number: int) -> str | None:
        draw = random.Random(f"{seed}-{number}")
        kind = draw.choice(kinds) if draw.random() < rate else None
        return None if kind == LAG and not is_listing(method, path) else kind

    return plan


def is_listing(method: str, path: str) -> bool:
    """Whether a request lists a bucket."""
    return method == "GET" and "list-type=2" in path


def settings(url: str) -> dict[str, str]:
    """The environment in which clients use a store and do not wait long for it."""
    config = '{"connect_timeout": 2, "read_timeout": 0.4, "retries": {"max_attempts": 0}}'
    return {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "FSSPEC_S3": f'{{"config_kwargs": {config}}}',
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.requests += 1
            fault = self.server.plan(self.command, self.path, self.server.requests)
            if fault:
                self.server.injected[fault] += 1
        if fault == SILENCE:
            time.sleep(QUIET_FOR)
        if fault in (SILENCE, DROP):
            self.close_connection = True
            return
        if fault == ERROR:
            self._answer(500, {"Content-Type": "application/xml"}, b"<Error><Code>InternalError</Code></Error>")
            return
        status, headers, content = self._ask(body)
        if is_listing(self.command, self.path):
            with self.server.lock:
                old = self.server.listed.setdefault(self.path, content)
            content = old if fault == LAG else content
        self._answer(status, headers, content, cut=fault == CUT)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

    def _ask(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        behind = http.client.HTTPConnection(self.server.behind, timeout=60)
        try:
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            behind.close()

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


# ---- runs on it ------------------------------------------------------------------------------------------------------

RUN = "run --plugin rival --plugin shake --steps 8 --labels averaged --teachers.networks convnet2-bn-w4 --teachers.no-check --experts.count 2 "
RUN += "--teachers.epochs 1 --experts.epochs 4 --eval-seeds 1 --protocol quick-3 --network convnet2-w4 --preset none --threads 1 --full-epochs 1"
FILES = ("images.safetensors", "labels.safetensors", "preview.png")


Made = tuple[dict[str, bytes], list[list[float]]]


def made(place: str, url: str | None = None) -> Made:
    """A run's artifact, file by file, and the accuracies of its students; from a store without faults at ``url``."""
    import boto3

    def read(name: str) -> bytes:
        if url is None:
            return Path(place, "run", name).read_bytes()
        bucket, _, key = f"{place.removeprefix('s3://')}/run/{name}".partition("/")
        content: bytes = boto3.client("s3", endpoint_url=url, **KEYS).get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    scores = json.loads(read("scores.json"))
    return {n: read(f"artifact/{n}") for n in FILES}, [row["accuracy"]["values"] for row in scores["rows"]]


def make_bucket(name: str, url: str) -> None:
    """An empty bucket."""
    import boto3

    boto3.client("s3", endpoint_url=url, **KEYS).create_bucket(Bucket=name)


@dataclass
class Shop:
    """A store, the proxy that clients see of it, and a warm process that does commands on it.

    Attributes:
        url: of the store itself, where nothing fails.
        folder: where commands are done.
    """

    url: str
    proxy: Proxy
    parent: Parent
    folder: Path
    buckets: int = 0

    def bucket(self) -> str:
        """The URL of a new bucket."""
        self.buckets += 1
        make_bucket(f"bucket-{self.buckets}", self.url)
        return f"s3://bucket-{self.buckets}"

    def run(self, place: str) -> End:
        """A small distillation with everything in it, all of whose files lie at ``place``."""
        return self.do(*RUN.split(), "--cache", f"{place}/cache", "--out", f"{place}/run")

    def again(self, place: str) -> End:
        """Go on with a run; begin it, where it stopped before it was one."""
        end = self.do("resume", f"{place}/run")
        return self.run(place) if end.code == 2 and "holds no run.json" in end.said else end

    def do(self, *words: str) -> End:
        """A command."""
        return self.parent.run(words, self.folder)


@contextmanager
def shop(folder: Path) -> Iterator[Shop]:
    """A store with everything around it; ``folder`` is an empty one."""
    with server() as url:
        proxy = Proxy(url)
        with Parent(environment=settings(proxy.url)) as parent:
            modules = ("ddcore.storage.places", "s3fs", "aiobotocore.session", "torch._dynamo", "jinja2")
            parent.learn(modules, {"ddcore.storage.places:FIRST_WAIT": 0.02, "s3fs.core:S3FileSystem.retries": 3})
            yield Shop(url, proxy, parent, folder)
        proxy.shutdown()
        proxy.server_close()


def measure(runs: int, rate: float, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Do runs on a store of whose requests a share fails, resume those that stopped, and compare them with a local one.

    Args:
        runs: how many, each with faults of its own.
        rate: share of requests that fail.
        folder: an empty one, for the local run.
    """
    found = dict.fromkeys(("finished", "stopped", "differing", "lost", "tracebacks"), 0)
    with shop(folder) as here:
        here.run(str(folder))
        due = made(str(folder))
        for number in range(runs):
            place = here.bucket()
            here.proxy.plan = at_random(rate, seed * runs + number)
            ends = [here.run(place)]
            while ends[-1].code == 2 and len(ends) < 6:
                ends.append(here.again(place))
            found["stopped"] += len(ends) - 1
            found["tracebacks"] += sum(end.traceback for end in ends)
            found["finished" if ends[-1].code == 0 else "lost"] += 1
            found["differing"] += ends[-1].code == 0 and made(place, here.url) != due
        injected, requests = here.proxy.injected, here.proxy.requests
    faults = {"faults": sum(injected.values()), "by_kind": dict(injected)}
    return {"runs": runs, "rate": rate, "requests": requests, **faults, **found}
