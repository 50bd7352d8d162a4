"""How a task's arguments are shown: as the caller's ``argsrepr`` and ``kwargsrepr`` say, or as the
redactor renders them; without secrets in any case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery
from celery.utils.saferepr import saferepr

from governor.redaction.redactor import Redactor

Masks = tuple[Any, Any]
"""Texts that stand for args and for kwargs; ``None`` where the caller gave none."""

NO_MASKS: Masks = (None, None)


def shown(
    redactor: Redactor, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str],
    masks: Masks,
) -> tuple[str, str]:  # fmt: skip
    """Render a call's arguments, and redact the caller's masks instead where there are any."""
    rendered = NO_MASKS if None not in masks else redactor.arguments(args, kwargs, names)
    own, own_kwargs = (
        text if mask is None else redactor.text(str(mask))
        for mask, text in zip(masks, rendered, strict=True)
    )
    return own, own_kwargs


def masks_kept(masks: Masks, request: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Masks:
    """Add what the running ``request`` shows instead of arguments that its next attempt has too:
    Celery's retry forgets it."""
    if request is None:
        return masks
    before, before_kwargs = request.args or (), request.kwargs or {}
    # Celery copies containers; comparing their values could run anybody's code.
    same = [*map(id, args)] == [*map(id, before)]
    same_kwargs = {k: id(v) for k, v in kwargs.items()} == {
        k: id(v) for k, v in before_kwargs.items()
    }
    own, own_kwargs = masks
    if own is None and same:
        own = getattr(request, "argsrepr", None)
    if own_kwargs is None and same_kwargs:
        own_kwargs = getattr(request, "kwargsrepr", None)
    return own, own_kwargs


def masks_of(app: Celery, headers: Mapping[str, Any], args: Any, kwargs: Any) -> Masks:
    """Find what a received message's caller wants to be shown.

    Celery writes its own representation where the caller gives none; serializing may have made
    lists of tuples since then.
    """
    amqp, levels = app.amqp, app.conf.task_repr_maxlevels
    given = []
    for name, value, most in (
        ("argsrepr", args, amqp.argsrepr_maxsize),
        ("kwargsrepr", kwargs, amqp.kwargsrepr_maxsize),
    ):
        said = headers.get(name)
        own = isinstance(said, str) and _bare(said) != _bare(
            saferepr(value, most, maxlevels=levels)
        )
        given.append(said if own else None)
    return given[0], given[1]


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text))
