"""Responses of client libraries, those that the project knows and one that nobody does."""

from __future__ import annotations

import httpx
import requests


def httpx_response(status: int, headers: dict[str, str]) -> httpx.Response:
    return httpx.Response(status, headers=headers, request=httpx.Request("GET", "http://api/"))


def requests_response(status: int, headers: dict[str, str]) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    return response


class Bare:
    """A response of a client library nobody here knows, with a plain dict of headers."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.headers = headers


LIBRARIES = [httpx_response, requests_response, Bare]
