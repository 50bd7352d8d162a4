"""The governor: distributed limits, computed deferrals and dead letters for Celery."""

from governor.calls import Upstream
from governor.errors import DeclarationError, NotAdmitted, Overloaded, Throttled
from governor.governor import Governor
from governor.policy.limits import Concurrency, Limit, Quota, Window
from governor.policy.retry import Retry
from governor.policy.upstream import Adaptive, Breaker
from governor.worker.task import GovernedTask

__version__ = "0.1.0"

__all__ = (
    "Adaptive",
    "Breaker",
    "Concurrency",
    "DeclarationError",
    "GovernedTask",
    "Governor",
    "Limit",
    "NotAdmitted",
    "Overloaded",
    "Quota",
    "Retry",
    "Throttled",
    "Upstream",
    "Window",
)
