"""Failures of every kind, as task bodies meet them; and what has to be known of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import requests

HERE = __name__


class NeedsKeyword(Exception):
    """As openai's errors: it cannot be made again from its arguments."""

    def __init__(self, text: str, *, response: Any = None) -> None:
        self.response = response
        super().__init__(text)


class ClientError(Exception):
    """As botocore's: the response is a mapping."""

    def __init__(self, status: int, operation: str) -> None:
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}}}
        super().__init__(f"An error occurred when calling the {operation} operation")


class Terminated(Exception):
    """Not billiard's."""


class WorkerLostError(Exception):
    """Not billiard's."""


class NoText(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class NoResponse(Exception):
    @property
    def response(self) -> Any:
        raise KeyboardInterrupt


class Untraced(Exception):
    """Exception that denies where it was raised, and from which other one."""

    __traceback__ = __cause__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Kind:
    """Facts wanted of a failure: its classes, the response's status, the own function."""

    chain: tuple[str, ...]
    status: int | None = None
    frame: str = ""
    outcome: str = "failed"


def httpx_error(status: int) -> None:
    response = httpx.Response(status, request=httpx.Request("GET", "http://api/charges"))
    response.raise_for_status()


def requests_error(status: int) -> None:
    response = requests.Response()
    response.status_code = status
    response.raise_for_status()


def httpx_401() -> None:
    httpx_error(401)


def httpx_500() -> None:
    httpx_error(500)


def httpx_unreached() -> None:
    raise httpx.ConnectError("refused")


def requests_502() -> None:
    requests_error(502)


def openai_500() -> None:
    raise NeedsKeyword("overloaded", response=httpx.Response(500))


def botocore_503() -> None:
    raise ClientError(503, "PutItem")


def keyword() -> None:
    raise NeedsKeyword("no such thing")


def local_class() -> None:
    class Local(Exception): ...

    raise Local("no such thing")


def caused() -> None:
    try:
        httpx_error(500)
    except httpx.HTTPStatusError as error:
        raise NeedsKeyword("the bank is away") from error


def in_context() -> None:
    try:
        httpx_error(404)
    except httpx.HTTPStatusError:
        raise ValueError("while it was handled")


def grouped() -> None:
    errors: list[Exception] = []
    for call in (httpx_unreached, httpx_unreached, keyword):
        try:
            call()
        except Exception as error:
            errors.append(error)
    raise ExceptionGroup("3 calls", errors)


def terminated() -> None:
    raise Terminated


def worker_lost() -> None:
    raise WorkerLostError


def no_text() -> None:
    raise NoText


def no_response() -> None:
    raise NoResponse("no such thing")


def untraced() -> None:
    raise Untraced("no such thing")


KINDS = {
    httpx_401: Kind(("httpx.HTTPStatusError",), 401, "httpx_error", "success"),
    httpx_500: Kind(("httpx.HTTPStatusError",), 500, "httpx_error"),
    httpx_unreached: Kind(("httpx.ConnectError",)),
    requests_502: Kind(("requests.exceptions.HTTPError",), 502, "requests_error"),
    openai_500: Kind((f"{HERE}.NeedsKeyword",), 500),
    botocore_503: Kind((f"{HERE}.ClientError",), 503),
    keyword: Kind((f"{HERE}.NeedsKeyword",)),
    local_class: Kind((f"{HERE}.local_class.<locals>.Local",)),
    caused: Kind((f"{HERE}.NeedsKeyword", "httpx.HTTPStatusError"), 500),
    in_context: Kind(("ValueError", "httpx.HTTPStatusError"), 404),
    grouped: Kind(("ExceptionGroup", "httpx.ConnectError", f"{HERE}.NeedsKeyword")),
    terminated: Kind((f"{HERE}.Terminated",)),
    worker_lost: Kind((f"{HERE}.WorkerLostError",)),
    no_text: Kind((f"{HERE}.NoText",)),
    no_response: Kind((f"{HERE}.NoResponse",)),
    untraced: Kind((f"{HERE}.Untraced",)),
}
