"""What goes wrong between machines, in words: one place for what fsspec, aiohttp, requests, botocore and sockets raise.

Drivers wrap one error into another, and some say of any of them that there is no such file. So the whole chain is
looked through, by what the errors hold and what they are called; no driver is imported.
"""

from __future__ import annotations

import errno
import http
import socket
import ssl
from collections.abc import Iterator

from attrs import frozen

LONGEST_CHAIN = 16
NOTHING_THERE = (404, 410)
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Answers that may be others another time."""
TRY_AGAIN = "check the connection, then try again"
UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN)


@frozen
class Trouble:
    """Why another machine could not give or take something.

    Attributes:
        why: for the middle of a sentence.
        way_out: for its end.
        lasting: whether trying again does not mend it.
    """

    why: str
    way_out: str
    lasting: bool = False


def trouble(error: BaseException) -> Trouble | None:
    """What went wrong in the network, if it was that; None also for an answer that there is no such file."""
    for each in _chain(error):
        if (status := _status(each)) is not None:
            return None if status in NOTHING_THERE else of_status(status)
        if (found := _of_one(each)) is not None:
            return found
    return None


def of_status(status: int) -> Trouble:
    """What a server's answer means.

    >>> of_status(403).why
    'the server answers 403 Forbidden'
    """
    known = {answer.value: answer.phrase for answer in http.HTTPStatus}
    why = f"the server answers {status} {known.get(status, '')}".rstrip()
    if status in NOTHING_THERE:
        return Trouble(why, "check the path", lasting=True)
    if status in (401, 403, 407):
        return Trouble(why, "check your access and credentials for it", lasting=True)
    if status in AGAIN:
        return Trouble(why, "it has trouble of its own or too much to do, try again later")
    return Trouble(why, "check the address", lasting=400 <= status < 500)


def _of_one(error: BaseException) -> Trouble | None:
    name, number = type(error).__name__, getattr(error, "errno", None)
    if isinstance(error, socket.gaierror) or "DNS" in name or name == "NameResolutionError":
        return Trouble("its host is not known", "check the address and the connection")
    if isinstance(error, ssl.SSLError) or name in (
        "SSLError",
        "ClientConnectorSSLError",
        "ClientConnectorCertificateError",
    ):
        said = getattr(error, "verify_message", "") or getattr(error, "reason", "") or "no secure connection"
        said = said if isinstance(said, str) else "no secure connection"
        way_out = "check the address, this machine's clock and its certificates"
        return Trouble(f"TLS fails: {said}", way_out, lasting=True)
    if isinstance(error, ConnectionRefusedError) or number == errno.ECONNREFUSED:
        return Trouble(
            "the connection is refused, nothing listens there", "check host and port, and that the server runs"
        )
    if isinstance(error, TimeoutError) or "Timeout" in name or number == errno.ETIMEDOUT:
        return Trouble("it does not answer in time", TRY_AGAIN)
    if number in UNREACHABLE:
        return Trouble("the network does not reach it", "check the connection")
    if isinstance(error, ConnectionError) or name in ("ServerDisconnectedError", "ClientOSError", "IncompleteRead"):
        return Trouble("the connection ends in the middle", TRY_AGAIN)
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return Trouble("no credentials for it are known here", "set them as its driver reads them", lasting=True)
    return None


def _status(error: BaseException) -> int | None:
    """The answer of an HTTP server, by the attribute that each library keeps it in."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        kept = response.get("ResponseMetadata", {})
        status = kept.get("HTTPStatusCode") if isinstance(kept, dict) else None
    else:
        status = (
            getattr(error, "status", None) or getattr(response, "status_code", None) or getattr(error, "code", None)
        )
    is_answer = isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600
    return status if is_answer else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The deepest first: an outer error may say less than what it wraps."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting and len(found) < LONGEST_CHAIN:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            context = None if each.__suppress_context__ else each.__context__
            kept = getattr(each, "kwargs", None)
            waiting += [each.__cause__ or context, getattr(each, "os_error", None), getattr(each, "reason", None)]
            waiting += [kept.get("error")] if isinstance(kept, dict) else []
    return reversed(found)
