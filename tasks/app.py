"""The Celery app of the example tasks. Everything that differs between places is environment."""

import os

from celery import Celery

from governor import Governor

app = Celery(
    "tasks",
    broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"),
    include=["tasks.github", "tasks.shopify", "tasks.slack", "tasks.stripe"],
)
app.conf.governor_database_url = os.environ.get(
    "GOVERNOR_DATABASE_URL", "sqlite:///governor.sqlite"
)
# Without it the limits are kept in the broker's Redis.
app.conf.governor_redis_url = os.environ.get("GOVERNOR_REDIS_URL")

Governor(app)
