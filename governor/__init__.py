"""The governor: distributed limits, computed deferrals and dead letters for Celery."""

from governor.calls import Upstream
from governor.errors import DeclarationError, NotAdmitted, Throttled
from governor.governor import Governor
from governor.policy.limits import Limit
from governor.policy.retry import Retry
from governor.worker.task import GovernedTask

__version__ = "0.1.0"

__all__ = (
    "DeclarationError",
    "GovernedTask",
    "Governor",
    "Limit",
    "NotAdmitted",
    "Retry",
    "Throttled",
    "Upstream",
)
