"""How a task's arguments are shown."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.utils.saferepr import saferepr

from governor.redaction.argument_reprs import masks_kept, masks_of, shown
from governor.redaction.redactor import Redactor

ARGS = ("AB-private", {"nested": ("a", 1)})
KWARGS = {"password": "hunter2"}


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ((None, None), ("('AB-private',)", "{'password': '[redacted]'}")),
        (("(<account>,)", None), ("(<account>,)", "{'password': '[redacted]'}")),
        ((None, "{…}"), ("('AB-private',)", "{…}")),
        (("password=hunter2", "<none>"), ("password=[redacted]", "<none>")),
        (("", ""), ("", "")),
    ],
)
def test_the_callers_masks_stand_for_the_arguments(masks: Any, said: tuple[str, str]) -> None:
    """A mask is shown as it is, but for secrets in it; what has none is rendered."""
    assert shown(Redactor(), ARGS[:1], KWARGS, ("account",), masks) == said


@pytest.mark.parametrize(
    ("args", "kwargs", "kept"),
    [
        # the same arguments, in containers of their own
        (tuple(ARGS), dict(KWARGS), ("(<account>,)", "{<none>}")),
        # others
        (("other",), dict(KWARGS), (None, "{<none>}")),
        (tuple(ARGS), {"password": "other"}, ("(<account>,)", None)),
    ],
)
def test_a_next_attempt_shows_what_the_one_before_did(args: Any, kwargs: Any, kept: Any) -> None:
    """A retry with the same arguments keeps their masks; other arguments are not hidden by them."""
    request = SimpleNamespace(
        args=list(ARGS), kwargs=KWARGS, argsrepr="(<account>,)", kwargsrepr="{<none>}"
    )
    assert masks_kept((None, None), request, args, kwargs) == kept
    assert masks_kept(("own", "own"), request, args, kwargs) == ("own", "own")
    assert masks_kept((None, None), None, args, kwargs) == (None, None)


def test_celerys_own_representation_is_no_mask() -> None:
    """Celery's own text is not taken for the caller's mask, whatever serializing made of the
    arguments."""
    app = Celery("shown", set_as_current=False)
    headers = {"argsrepr": saferepr(ARGS), "kwargsrepr": saferepr(KWARGS)}
    received = ["AB-private", {"nested": ["a", 1]}]
    assert masks_of(app, headers, received, KWARGS) == (None, None)
    assert masks_of(app, {**headers, "argsrepr": "(<a>,)"}, received, KWARGS) == ("(<a>,)", None)
    assert masks_of(app, {}, received, KWARGS) == (None, None)
    app.close()
