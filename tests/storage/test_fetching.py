"""Weights at addresses: only public machines are asked, the very one that was looked over, and what is loaded is what was hashed."""

import hashlib
import io
import ipaddress
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from reliability import fuzz
from safetensors.torch import save

from ddcore.errors import InputError, StoreError
from ddcore.labels.encoders import Public
from ddcore.storage import fetching
from ddcore.storage.fetching import fetched, is_public, looked_up, taken_apart
from ddcore.storage.places import Place
from ddcore.storage.weights import content_of, hash_in_name, read_state

WEIGHTS = save({"w": torch.arange(3.0)})
PUBLIC = "93.184.215.14"


class Server:
    """A listener on this machine that answers as it is told and remembers what it was asked."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {"/w.safetensors": (200, {}, WEIGHTS)}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers)))
                status, headers, body = outer.pages.get(self.path.partition("?")[0], (404, {}, b""))
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.stop()


@pytest.fixture
def names(monkeypatch):
    """What names stand for, by turns; every look-up is remembered."""
    known: dict[str, list[str]] = {}
    looked: list[str] = []

    def look_up(host, port, *_, **__):
        looked.append(host)
        if host not in known:
            raise socket.gaierror(-2, "Name or service not known")
        answers = known[host]
        every = (answers.pop(0) if len(answers) > 1 else answers[0]).split()
        return [
            (
                socket.AF_INET6 if ":" in a else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (a, port) + ((0, 0) if ":" in a else ()),
            )
            for a in every
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.0)
    known["looked"] = looked
    return known


@pytest.fixture
def wires(monkeypatch):
    """Where connections go to, and who answers in their place."""
    went: list[tuple[str, int]] = []
    real, instead = socket.socket.connect, {}

    def connect(self, at):
        went.append(at[:2])
        if at[0] not in instead:
            raise ConnectionRefusedError(111, "Connection refused")
        return real(self, ("127.0.0.1", instead[at[0]]))

    monkeypatch.setattr(socket.socket, "connect", connect)
    return went, instead


@pytest.fixture
def secure(tmp_path, monkeypatch):
    """A listener with a certificate for ``weights.example.org`` of an authority that this process believes."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weights.example.org")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("weights.example.org")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (tmp_path / "cert.pem").write_bytes(made.public_bytes(encoding))
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    server = Server(context)
    yield server
    server.stop()


URL = "https://weights.example.org/w.safetensors"

# ---- who is asked ----------------------------------------------------------------------------------------------------

INWARD = (
    *("127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.0.0.9", "192.88.99.1"),
    *("::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1"),
    *("fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "ff0e::1", "2001:db8::1", "3fff::1", "4000::1"),
    *("2606:4700::5efe:127.0.0.1", "2606:4700::200:5efe:a00:1", "100::1"),
)
OUTWARD = ("1.1.1.1", PUBLIC, "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1")


@pytest.mark.parametrize("number", INWARD)
def test_no_machine_inside_is_asked_whatever_name_it_has(number, names, wires):
    went, _ = wires
    assert not is_public(ipaddress.ip_address(number))
    for answers in (number, f"{PUBLIC} {number}", f"{number} {PUBLIC}"):
        names["weights.example.org"] = [answers]
        with pytest.raises(InputError, match="no public address, its name stands for"):
            fetched(URL)
    assert went == []


@pytest.mark.parametrize("number", OUTWARD)
def test_machines_on_the_internet_are_asked(number, names):
    names["weights.example.org"] = [number]
    ((_, at),) = looked_up(taken_apart(URL))
    assert at == (number, 443)


def test_a_scope_of_this_machine_is_none_of_the_internet(names):
    names["weights.example.org"] = ["2606:4700::1111%eth0"]
    with pytest.raises(InputError, match="no public address"):
        looked_up(taken_apart(URL))


ODD = (
    *("https://127.0.0.1\t/w", "https://127.0.0.1/w", "https://0x7f.1/w", "https://0177.1/w", "https://2130706433/w"),
    *("https://0x7f000001/w", "https://127.1/w", "https://017700000001/w", "https://127.0.0.1./w", "https://1.1.1.1/w"),
    *("https://[::1]/w", "https://[::ffff:127.0.0.1]/w", "https://[fe80::1%25eth0]/w", "https://localhost/w"),
    *("https://LOCALHOST./w", "https://a.localhost/w", "https://metadata.google.internal/w", "https://printer.local/w"),
    *("https://intranet/w", "https://x.home.arpa/w", "https://ex\tample.org/w", " https://example.org/w"),
    *(
        "https://example.org/w\n",
        "https://example.org\\@127.0.0.1/w",
        "https://example.org /w",
        "https://exa\x00mple.org/w",
    ),
    *("https://\uff11\uff12\uff17.0.0.1/w", "https://127\u30020\u30020\u30021/w", "https://\u24d4xample.org/w"),
    *("https:///w", "https:/127.0.0.1/w", "https:127.0.0.1", "//127.0.0.1/w", "https://example.org:99999/w"),
    *("https://example.org:8a/w", "https://[::1/w", "https://%31%32%37.0.0.1/w", "https://example..org/w"),
    *("https://x.0x7f/w", "https://1.2.3.4.5/w", "https://example.1/w", "https://-/w", f"https://{'a' * 300}.org/w"),
    *("http://example.org/w", "HTTP://example.org/w", "ftp://example.org/w", "file:///etc/passwd", "/etc/passwd", ""),
    *(
        "s3://bucket/w",
        "hf://a/b/w",
        "memory://w",
        "simplecache::https://example.org/w",
        "reference://::https://a.org/w",
    ),
    *("https://example.org/w::file:///etc/passwd", "github://a:b@/w", "data:,x", "jar:https://example.org/w!/x"),
)


@pytest.mark.parametrize("url", ODD)
def test_odd_spellings_and_other_protocols_ask_nobody(url, monkeypatch):
    monkeypatch.delenv("DDCORE_WEIGHTS", raising=False)
    if url == "https://example.org/w::file:///etc/passwd":  # a name with colons in it, to what fetches
        assert taken_apart(url).path == "/w::file:///etc/passwd"
        return
    with fuzz.watched() as seen, pytest.raises(InputError) as refusal:
        fetched(url)
    assert seen == [] and str(refusal.value).isprintable()
    if url:
        with fuzz.watched() as seen, pytest.raises(InputError, match="no public address"):
            Public("w", "0" * 64, 3, url).state()
        assert seen == []


def test_weights_that_are_not_named_by_themselves_are_not_reached_by_way_of_others():
    for url in ("simplecache::https://example.org/w.pt", "zip://a::http://example.org/w.zip"):
        with fuzz.watched() as seen, pytest.raises(InputError, match="by way of another protocol"):
            read_state(Place.at(url))
        assert seen == []
    with fuzz.watched() as seen, pytest.raises(InputError, match="no https address"):
        read_state(Place.at("http://example.org/w.pt"))
    assert seen == []


# ---- the machine that was looked over --------------------------------------------------------------------------------


def test_the_connection_goes_to_the_machine_that_was_looked_over(secure, names, wires):
    went, instead = wires
    names["weights.example.org"], instead[PUBLIC] = [PUBLIC, "127.0.0.1"], secure.port
    assert fetched(URL, sha256=hashlib.sha256(WEIGHTS).hexdigest()) == WEIGHTS
    assert went == [(PUBLIC, 443)] and names["looked"] == ["weights.example.org"]
    ((path, headers),) = secure.asked
    assert path == "/w.safetensors" and headers["Host"] == "weights.example.org" and "Authorization" not in headers


def test_the_certificate_has_to_be_that_of_the_name(secure, names, wires):
    _, instead = wires
    names["other.example.org"], instead[PUBLIC] = [PUBLIC], secure.port
    with pytest.raises(StoreError, match="certificate is not valid for 'other.example.org'"):
        fetched("https://other.example.org/w.safetensors")
    assert secure.asked == []


def test_a_certificate_of_an_unknown_authority_is_refused(secure, names, wires, monkeypatch):
    _, instead = wires
    monkeypatch.delenv("SSL_CERT_FILE")
    names["weights.example.org"], instead[PUBLIC] = [PUBLIC], secure.port
    with pytest.raises(StoreError, match="self-signed"):
        fetched(URL)
    assert secure.asked == []


def test_the_next_machine_of_a_name_is_asked_when_one_cannot_be_reached(secure, names, wires):
    went, instead = wires
    names["weights.example.org"], instead[PUBLIC] = [f"1.1.1.1 {PUBLIC}"], secure.port
    assert fetched(URL) == WEIGHTS and went == [("1.1.1.1", 443), (PUBLIC, 443)]
    names["weights.example.org"] = ["1.1.1.1"]
    with pytest.raises(StoreError, match="connection is refused"):
        fetched(URL)


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("http://weights.example.org/w.safetensors", "no https address"),
        ("https://127.0.0.1/w", "no public address"),
        ("https://inside.example.org/w", "its name stands for 10.0.0.7"),
        ("file:///etc/passwd", "no https address"),
        ("//inside.example.org/w", "its name stands for 10.0.0.7"),
        ("/again", "leads on more than 5 times"),
        ("", "leads on more than 5 times"),
        ("https://weights.example.org\t.inside.example.org/w", "letters that no address has|stands for|not known"),
    ],
)
def test_redirects_meet_the_same_conditions(secure, names, wires, location, sentence):
    went, instead = wires
    names["weights.example.org"], instead[PUBLIC] = [PUBLIC], secure.port
    names["inside.example.org"] = ["10.0.0.7"]
    secure.pages["/go"] = secure.pages["/again"] = (302, {"Location": location}, b"")
    with pytest.raises(InputError, match=sentence):
        fetched("https://weights.example.org/go")
    assert {host for host, _ in went} == {PUBLIC}


def test_redirects_to_other_public_machines_are_followed_without_the_password(secure, names, wires):
    _, instead = wires
    names["weights.example.org"] = [PUBLIC]
    instead[PUBLIC] = secure.port
    secure.pages["/go"] = (307, {"Location": "/w.safetensors?x=1"}, b"")
    secure.pages["/away"] = (301, {"Location": "https://weights.example.org:8443/w.safetensors"}, b"")
    assert fetched("https://me:canary@weights.example.org/go") == WEIGHTS
    assert fetched("https://me:canary@weights.example.org/away") == WEIGHTS
    signed = [(path, "Authorization" in headers) for path, headers in secure.asked]
    assert signed == [("/go", True), ("/w.safetensors?x=1", True), ("/away", True), ("/w.safetensors", False)]


# ---- how much, how long, and which ----------------------------------------------------------------------------------


def at(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def test_what_the_user_vouches_for_may_lie_on_this_machine(server):
    assert fetched(at(server, "/w.safetensors"), trust=True) == WEIGHTS
    assert torch.equal(read_state(Place.at(at(server, "/w.safetensors")), trust=True)["w"], torch.arange(3.0))
    found = Public.at(at(server, "/w.safetensors"), trust=True)
    assert torch.equal(found.state(trust=True)["w"], torch.arange(3.0)) and found.nbytes == len(WEIGHTS)
    with pytest.raises(InputError, match="no https address"):
        content_of(Place.at(at(server, "/w.safetensors")))


@pytest.mark.parametrize("length", [None, "", "5000"])
def test_no_more_is_read_than_is_due(server, length):
    server.pages["/w"] = (200, {} if length is None else {"Content-Length": length}, bytes(5000))
    with pytest.raises(InputError, match=r"5,000 bytes where at most 100|more than the 100 bytes"):
        fetched(at(server, "/w"), most=100, trust=True)


def test_what_comes_short_or_compressed_or_not_at_all_is_refused(server, monkeypatch):
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.0)
    server.pages["/short"] = (200, {"Content-Length": "500"}, bytes(100))
    server.pages["/packed"] = (200, {"Content-Encoding": "gzip"}, bytes(100))
    server.pages["/ill"] = (503, {}, b"")
    for path, sentence in (("/short", "100 of 500"), ("/packed", "compressed"), ("/none", "404"), ("/ill", "503")):
        with pytest.raises(InputError, match=sentence):
            fetched(at(server, path), trust=True)
    counts = {path: sum(asked == path for asked, _ in server.asked) for path in ("/short", "/none", "/ill")}
    assert counts == {"/short": fetching.ATTEMPTS, "/none": 1, "/ill": fetching.ATTEMPTS}


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n123"])
def test_who_dawdles_is_left(says, monkeypatch):
    monkeypatch.setattr(fetching, "PATIENCE", 0.1)
    monkeypatch.setattr(fetching, "SECONDS_BETWEEN_LOOKS", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def answer() -> None:
            kept.append(listener.accept()[0])
            kept[0].sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(StoreError, match="too slowly"):
            fetched(f"http://127.0.0.1:{listener.getsockname()[1]}/w", trust=True)
        thread.join()
        kept[0].close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # who was left is not asked again
            listener.accept()


def test_another_file_than_the_one_that_is_named_is_refused(server):
    name = hashlib.sha256(WEIGHTS).hexdigest()
    place = Place.at(at(server, "/w.safetensors"))
    assert set(read_state(place, trust=True, sha256=name[:8])) == {"w"}
    with pytest.raises(InputError, match="another SHA-256"):
        read_state(place, trust=True, sha256="f37072fd")
    assert (
        hash_in_name("https://h/resnet18-f37072fd.pth") == "f37072fd" and hash_in_name("https://h/resnet18.pth") is None
    )


def test_what_is_hashed_is_what_is_loaded(server):
    """Each time it is asked the server gives something else: one look-up, one answer, one buffer."""
    found = Public.at(at(server, "/w.safetensors"), trust=True)
    server.asked.clear()
    assert set(found.state(trust=True)) == {"w"} and len(server.asked) == 1
    server.pages["/w.safetensors"] = (200, {}, save({"w": torch.zeros(3)}))
    with pytest.raises(InputError, match="another SHA-256"):
        found.state(trust=True)


def test_a_local_file_is_read_once(tmp_path, monkeypatch):
    file = tmp_path / "w.pt"
    torch.save({"w": torch.ones(3)}, file)
    monkeypatch.setenv("DDCORE_WEIGHTS", str(tmp_path))
    found, reads, real = Public.at(str(file)), [], Place.read_bytes
    monkeypatch.setattr(Place, "read_bytes", lambda self, *a: reads.append(self.name) or real(self, *a))
    assert set(found.state()) == {"w"} and reads == ["w.pt"]
    other = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, other)
    file.write_bytes(other.getvalue())
    with pytest.raises(InputError, match="SHA-256"):
        found.state()
