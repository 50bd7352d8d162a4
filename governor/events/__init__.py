"""Events: what happens to tasks, upstreams and the limiter store, as values that anybody may
listen to.

``docs/events.md`` is the contract: every event, its fields, and when it is emitted; a test compares
the two. Nothing in the governor depends on an event being heard.
"""

from governor.events.emitter import Emitter, Listener
from governor.events.tasks import (
    ClaimLost,
    Event,
    TaskAdmitted,
    TaskDeferred,
    TaskDied,
    TaskDropped,
    TaskEvent,
    TaskHeld,
    TaskLate,
    TaskParked,
    TaskRefused,
    TaskReleased,
    TaskReplayed,
    TaskRetried,
    TaskStarted,
    TaskSucceeded,
    TaskThrottled,
    TransitionRefused,
)
from governor.events.upstreams import (
    BreakerMoved,
    LeaseExpired,
    LimitChanged,
    LoadShed,
    StateLost,
    StoreAnswered,
    StoreAway,
    StoreBack,
    UpstreamPaused,
)

__all__ = (
    "BreakerMoved",
    "ClaimLost",
    "Emitter",
    "Event",
    "LeaseExpired",
    "LimitChanged",
    "Listener",
    "LoadShed",
    "StateLost",
    "StoreAnswered",
    "StoreAway",
    "StoreBack",
    "TaskAdmitted",
    "TaskDeferred",
    "TaskDied",
    "TaskDropped",
    "TaskEvent",
    "TaskHeld",
    "TaskLate",
    "TaskParked",
    "TaskRefused",
    "TaskReleased",
    "TaskReplayed",
    "TaskRetried",
    "TaskStarted",
    "TaskSucceeded",
    "TaskThrottled",
    "TransitionRefused",
    "UpstreamPaused",
)
