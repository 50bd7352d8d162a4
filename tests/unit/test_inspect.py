"""Celery's ``inspect`` shows what a governed task in a worker waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from governor.clock import SECOND, as_datetime
from tests.unit.simulated_worker import SimulatedWorker


def test_a_waiting_task_says_what_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry has the state, the limit and the slot; a running one has no slot any more."""
    worker, requests = SimulatedWorker(tmp_path, monkeypatch), list[Any]()
    on_request = worker.dispatcher.on_request

    def seen(request: Any) -> None:
        requests.append(request)
        on_request(request)

    monkeypatch.setattr(worker.dispatcher, "on_request", seen)
    worker.send("again", "throttled")
    (request,) = requests
    # Its bucket has no burst yet, and its first slot is a few hundredths of a second away.
    shown = request.info()["governor"]
    assert shown == {
        "state": shown["state"], "upstream": "api", "limit": "50/s", "deferrals": 0,
        "until": as_datetime(worker.clock.now + SECOND // 50).isoformat(),
    }  # fmt: skip
    assert shown["state"] in {"held", "parking"}
