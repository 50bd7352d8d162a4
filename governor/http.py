"""Ready parts for HTTP clients: hooks that read rate headers, and a transport for ``httpx`` that
keeps every request within an upstream's limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from sys import exc_info
from typing import Any

import httpx
from celery import Celery

from governor.calls import Upstream, governor_of, plan_of
from governor.policy import cost as costs


def httpx_hooks(
    upstream: Upstream, *, app: Celery | None = None, **arguments: Any
) -> dict[str, list[Callable[..., None]]]:
    """``event_hooks`` of an ``httpx.Client``: every response corrects the upstream's limits by
    what it says is left.

    Args:
        app: whose governor; by default the running task's, or the current app's.
        arguments: the values that ``per=`` limits ask for.

    Raises:
        DeclarationError: an argument that a ``per=`` limit needs is missing.
    """
    return {"response": [requests_hook(upstream, app=app, **arguments)]}


def requests_hook(
    upstream: Upstream, *, app: Celery | None = None, **arguments: Any
) -> Callable[..., None]:
    """The same for ``requests``: ``session.hooks["response"].append(requests_hook(…))``."""
    plan = plan_of(upstream)
    buckets = costs.buckets(plan, arguments)

    def observe(response: Any, *_: Any, **__: Any) -> None:
        governor_of(app).corrections.observe(plan, buckets, response)

    return observe


class GovernedTransport(httpx.BaseTransport):
    """A transport that makes each request an ``upstream.call()``: admitted before, observed after.

    A request that is not admitted raises :class:`~governor.NotAdmitted`, which is no error of
    ``httpx``. A lease under a concurrency limit is held until the response is closed, which
    ``httpx`` does when it was read.

    Args:
        upstream: whose limits.
        transport: what makes the requests; by default ``httpx.HTTPTransport()``.
        wait: seconds that a request may block for its slot.
        arguments: a function of the request that answers what ``per=`` limits and cost functions
            ask for.
        app: whose governor; by default the running task's, or the current app's.
    """

    def __init__(
        self,
        upstream: Upstream,
        transport: httpx.BaseTransport | None = None,
        *,
        wait: float = 0.0,
        arguments: Callable[[httpx.Request], Mapping[str, Any]] | None = None,
        app: Celery | None = None,
    ) -> None:
        self._upstream = upstream
        self._transport = transport or httpx.HTTPTransport()
        self._wait = wait
        self._arguments = arguments
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        arguments = {} if self._arguments is None else self._arguments(request)
        with ExitStack() as stack:
            call = self._upstream.call(wait=self._wait, app=self._app, **arguments)
            opened = stack.enter_context(call)
            response = self._transport.handle_request(request)
            opened.observe(response)
            if not response.is_closed:
                assert isinstance(response.stream, httpx.SyncByteStream)
                response.stream = _Stream(response.stream, stack.pop_all())
        return response

    def close(self) -> None:
        self._transport.close()


class _Stream(httpx.SyncByteStream):
    """A response's body; with its end the call ends."""

    def __init__(self, body: httpx.SyncByteStream, call: ExitStack) -> None:
        self._body = body
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._body
        except Exception:
            self._call.__exit__(*exc_info())
            raise

    def close(self) -> None:
        with self._call:
            self._body.close()
