"""The governor: distributed limits, computed deferrals and dead letters for Celery."""

from governor.errors import DeclarationError, Throttled
from governor.governor import Governor
from governor.policy.limits import Limit
from governor.policy.retry import Retry
from governor.policy.upstream import Upstream
from governor.worker.task import GovernedTask

__version__ = "0.1.0"

__all__ = (
    "DeclarationError",
    "GovernedTask",
    "Governor",
    "Limit",
    "Retry",
    "Throttled",
    "Upstream",
)
