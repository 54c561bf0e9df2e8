"""Files at public ``https`` addresses, taken from the very machine that was looked over.

An address may come from a stranger's artifact, and this process may reach what a stranger cannot: services on this
machine, in its network, of its cloud. So an address is taken apart once; its name is looked up once; every machine that
answers to it has to be on the public internet; and the connection goes to one of those, by number, while its
certificate has to be that of the name. A redirect is another address and meets the same conditions. Proxies that the
environment names are not used.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from threading import Event, Thread
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from attrs import frozen

from ddcore.errors import InputError, StoreError
from ddcore.storage.network import AGAIN, of_status, trouble
from ddcore.storage.printing import printable, printable_line
from ddcore.storage.secrecy import bare

SILENCE = 30.0
"""Seconds that nothing may come."""
PATIENCE = 60.0
SLOWEST = 20_000
"""Bytes a second, on average after ``PATIENCE`` seconds."""
MOST_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)
READ_AT_ONCE = 2**20
SECONDS_BETWEEN_LOOKS = 1.0
ATTEMPTS = 3
FIRST_WAIT = 0.5
"""Seconds; each wait is twice the one before."""
MOST = 2**35
"""Bytes of a file whose length nobody has said before."""

WAY_OUT = "download the file yourself and give its path"
ADDRESS = re.compile(r"[!-\[\]-~]+")
"""Letters of an address as they are sent: no spaces, no tabs, no line ends, no backslash, nothing beyond ASCII."""
NAME = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])\.?\Z")
"""Of a machine on the internet: with a dot, and no number however it is written,
for a number's last part begins with a digit."""
INWARDS = re.compile(
    r"(?:.*\.)?(?:localhost|local|internal|intranet|localdomain|lan|corp|home|private|home\.arpa)\.?\Z"
)
"""Names of private networks."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")
GIVEN_OUT = ipaddress.ip_network("2000::/3")
"""All that is public in IPv6, but for ``UNUSED``."""
UNUSED = tuple(map(ipaddress.ip_network, ("3fff::/20", "192.0.0.0/24", "192.88.99.0/24")))
"""What Python's registry does not know, or thinks public: examples, a network's own services, relays to IPv6."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@frozen
class Target:
    """An address taken apart.

    Attributes:
        url: what messages show.
        user: ``name:password`` as it is sent; empty for none.
        path: with the query.
    """

    url: str
    scheme: str
    host: str
    port: int
    user: str
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Who is asked: another origin gets no password."""
        return self.scheme, self.host, self.port


def fetched(url: str, *, most: int = MOST, trust: bool = False, sha256: str | None = None) -> bytes:
    """The content of a file at an ``https`` address.

    Args:
        most: bytes that it may have.
        trust: take it from anywhere, this machine and its network too, and by ``http``: for addresses that the user
            vouches for.
        sha256: what its SHA-256 has to be, or to begin with.

    Raises:
        InputError: no such address, or one that is not public; too many bytes; another SHA-256.
        StoreError: no answer, too slow a one, or one that says no.
    """
    asked = target = taken_apart(url, trust=trust)
    for _ in range(MOST_REDIRECTS + 1):
        found = _patiently(target, asked, most, trust)
        if isinstance(found, bytes):
            check_sha256(found, sha256, asked.url)
            return found
        target = taken_apart(found, trust=trust)
    raise InputError(f"{asked.url} leads on more than {MOST_REDIRECTS} times: {WAY_OUT}")


def check_sha256(content: bytes, sha256: str | None, where: str) -> None:
    """Compare the SHA-256 of some bytes with what it has to be, or to begin with, if that is known.

    Raises:
        InputError: it is another.
    """
    if sha256 is not None and not (sha256 and hashlib.sha256(content).hexdigest().startswith(sha256)):
        raise InputError(f"{where} has another SHA-256 than the {sha256[:12]}... that is due: get the right file")


def taken_apart(url: str, *, trust: bool = False) -> Target:
    """An address in its parts; nobody is asked.

    Raises:
        InputError: it is none, or by its letters alone none that is public.
    """
    shown = printable_line(bare(url))
    if not ADDRESS.fullmatch(url):
        raise InputError(f"{shown} has letters that no address has: write it without spaces, percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InputError(f"{shown} is no address: {WAY_OUT}") from None
    host, scheme = (parts.hostname or "").lower(), parts.scheme.lower()
    if scheme not in (("https", "http") if trust else ("https",)) or not host:
        raise InputError(f"{shown} is no https address, and no other is followed unasked: {WAY_OUT}")
    if not trust and (not NAME.match(host) or INWARDS.match(host)):
        raise InputError(f"{shown} is no public address, its host is not a name on the internet: {WAY_OUT}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(shown, scheme, host, port or (443 if scheme == "https" else 80), _user(parts), path)


def _user(parts: SplitResult) -> str:
    if parts.username is None and parts.password is None:
        return ""
    return f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"


def is_public(address: Address) -> bool:
    """Whether a machine's number is one on the public internet, whatever it may stand for in another network.

    >>> [is_public(ipaddress.ip_address(a)) for a in ("1.1.1.1", "10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::")]
    [True, False, False, False]
    """
    inner = list(_inside(address)) if isinstance(address, ipaddress.IPv6Address) else []
    if inner:
        return all(map(is_public, inner))
    if any(address in network for network in UNUSED) or (address.version == 6 and address not in GIVEN_OUT):
        return False
    inward = address.is_private or address.is_loopback or address.is_link_local
    return address.is_global and not (inward or address.is_multicast or address.is_reserved or address.is_unspecified)


def _inside(address: ipaddress.IPv6Address) -> Iterator[Address]:
    """Addresses of IPv4 that one of IPv6 is a spelling of."""
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in NAT64 or address.packed[8:12] in (b"\0\0\x5e\xfe", b"\2\0\x5e\xfe"):
        yield ipaddress.IPv4Address(address.packed[12:])


# ---- one question ----------------------------------------------------------------------------------------------------


class Passing(StoreError):
    """What may go well another time."""


def _patiently(target: Target, first: Target, most: int, trust: bool) -> bytes | str:
    for attempt in range(ATTEMPTS - 1):
        try:
            return _asked(target, first, most, trust)
        except Passing:
            time.sleep(FIRST_WAIT * 2**attempt)
    return _asked(target, first, most, trust)


def _asked(target: Target, first: Target, most: int, trust: bool) -> bytes | str:
    """A file's content, or the address that it is said to be at."""
    connection, closing = _Pinned(target, trust), ExitStack()
    watch = _Watch(connection)
    try:
        connection.request("GET", target.path, headers=_headers(target, first))
        answer = connection.getresponse()
        closing.callback(answer.close)
        if answer.status in REDIRECTS:
            return urljoin(_base(target), answer.getheader("Location") or "")
        if answer.status != 200:
            kind, way_out = Passing if answer.status in AGAIN else StoreError, of_status(answer.status).way_out
            said = f"{answer.status} {printable(answer.reason)[:60]}"
            raise kind(f"{target.url} cannot be read ({said}): {way_out}, or {WAY_OUT}")
        return _content(answer, target, most, watch)
    except UnicodeError:
        raise InputError(f"{target.url} is no address: {WAY_OUT}") from None
    except (OSError, HTTPException, ValueError) as error:
        found = trouble(error)
        why = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or type(error).__name__
        why = why if found is None else found.why
        kind = StoreError if watch.slow or isinstance(error, ssl.SSLError | ValueError) else Passing
        why = "it comes too slowly" if watch.slow else why
        way_out = "check the connection" if found is None else found.way_out
        raise kind(f"{target.url} cannot be read ({why}): {way_out}, or {WAY_OUT}") from None
    finally:
        watch.stop()
        closing.close()
        connection.close()


class _Watch:
    """Ends a connection over which too little comes, in whatever the other side dawdles: a word of the answer,
    or the file."""

    def __init__(self, connection: _Pinned) -> None:
        self.received, self.slow = 0, False
        self._connection, self._began, self._done = connection, time.monotonic(), Event()
        self._thread = Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(SECONDS_BETWEEN_LOOKS):
            wire = self._connection.wire
            if time.monotonic() - self._began > PATIENCE + self.received / SLOWEST and wire is not None:
                self.slow = True
                with suppress(OSError):
                    wire.shutdown(socket.SHUT_RDWR)
                return

    def stop(self) -> None:
        """End the watch; the connection stays as it is."""
        self._done.set()
        self._thread.join()


def _base(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.scheme}://{host}:{target.port}{target.path}"


def _headers(target: Target, first: Target) -> Mapping[str, str]:
    """A password goes to who it was given for alone."""
    user = target.user or (first.user if target.origin == first.origin else "")
    signed = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()} if user else {}
    return {"User-Agent": "ddcore", "Accept-Encoding": "identity", "Connection": "close", **signed}


def _content(answer: HTTPResponse, target: Target, most: int, watch: _Watch) -> bytes:
    length = answer.getheader("Content-Length") or ""
    due = int(length) if re.fullmatch(r"\d{1,18}", length) else None
    if due is not None and due > most:
        raise InputError(f"{target.url} has {due:,} bytes where at most {most:,} are due: is it this file?")
    if answer.getheader("Content-Encoding") not in (None, "identity"):
        raise InputError(f"{target.url} comes compressed, though it was asked not to: {WAY_OUT}")
    found = bytearray()
    while part := answer.read1(READ_AT_ONCE):
        found += part
        watch.received = len(found)
        if len(found) > most:
            raise InputError(f"{target.url} has more than the {most:,} bytes that are due: is it this file?")
    if watch.slow:
        raise StoreError(f"{target.url} comes too slowly: {WAY_OUT}")
    if due is not None and len(found) != due:
        raise Passing(f"{target.url} came with {len(found):,} of {due:,} bytes: try again, or {WAY_OUT}")
    return bytes(found)


class _Pinned(HTTPConnection):
    """A connection to one of the machines that a name stood for when it was looked up, and to no other.

    Attributes:
        wire: what an answer is read from, also when ``sock`` is gone, as it is once an answer's headers are read whose
            end is that of the connection.
    """

    def __init__(self, target: Target, trust: bool) -> None:
        super().__init__(target.host, target.port, timeout=SILENCE)
        self.wire: socket.socket | None = None
        self._target, self._trust = target, trust
        if target.port == (443 if target.scheme == "https" else 80):
            self.default_port = target.port

    def connect(self) -> None:
        """Look the name up, look all answers over, and go to the first that can be reached."""
        target = self._target
        machines = looked_up(target, self._trust)
        for number, (family, at) in enumerate(machines):
            made = socket.socket(family, socket.SOCK_STREAM)
            try:
                made.settimeout(SILENCE)
                made.connect(at)
                if target.scheme == "https":
                    made = ssl.create_default_context().wrap_socket(made, server_hostname=target.host.rstrip("."))
                self.sock = self.wire = made
                return
            except ssl.SSLError:
                made.close()
                raise
            except OSError:
                made.close()
                if number + 1 == len(machines):
                    raise


def looked_up(target: Target, trust: bool = False) -> list[tuple[int, tuple[str, int]]]:
    """Family and socket address of each machine that a host's name stands for now.

    Raises:
        InputError: one of them is not on the public internet, and ``trust`` is not given.
        StoreError: there is none.
    """
    try:
        answers = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError:
        raise StoreError(f"{target.url} cannot be read, its host is not known: check the address") from None
    found: dict[str, tuple[int, tuple[str, int]]] = {}
    for family, _, _, _, at in answers:
        if family in (socket.AF_INET, socket.AF_INET6):
            number, _, zone = str(at[0]).partition("%")
            if not trust and (zone or not is_public(ipaddress.ip_address(number))):
                raise InputError(f"{target.url} is no public address, its name stands for {number}: {WAY_OUT}")
            found[str(at[0])] = (family, (str(at[0]), target.port))
    if not found:
        raise StoreError(f"{target.url} cannot be read, its host is not known: check the address")
    return list(found.values())
