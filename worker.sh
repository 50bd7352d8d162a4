#!/bin/sh
# Start a worker on the example tasks: ./worker.sh [options of `celery worker`]
#
#   CELERY_BROKER_URL      default redis://localhost:6379/0; the limits are kept there too
#   GOVERNOR_REDIS_URL     where the limits are kept, needed when the broker is no Redis
#   GOVERNOR_DATABASE_URL  default sqlite:///governor.sqlite; where dead letters are written
#   STRIPE_API_KEY GITHUB_TOKEN SHOPIFY_ACCESS_TOKEN SLACK_BOT_TOKEN   of the APIs you call
#   STRIPE_API_BASE GITHUB_API_BASE SHOPIFY_API_BASE SLACK_API_BASE    another server's address
#
# Then, from Python:  from tasks.slack import post_message; post_message.delay("C123", "hello")
set -eu
cd "$(dirname "$0")"
export CELERY_BROKER_URL="${CELERY_BROKER_URL:-redis://localhost:6379/0}"
export GOVERNOR_DATABASE_URL="${GOVERNOR_DATABASE_URL:-sqlite:///governor.sqlite}"
[ -d .venv/bin ] && PATH="$PWD/.venv/bin:$PATH"

if ! command -v celery >/dev/null; then
    echo "worker.sh: celery is not installed. Run scripts/install first" >&2
    exit 1
fi
if ! python -c '
import os, sys
from kombu import Connection
try:
    Connection(os.environ["CELERY_BROKER_URL"], connect_timeout=3).ensure_connection(
        max_retries=1, interval_start=0.2, timeout=5
    )
except Exception as error:
    sys.exit(f"worker.sh: no broker answers ({error})")
'; then
    echo "Start a Redis on localhost:6379, or set CELERY_BROKER_URL to the broker to use." >&2
    exit 1
fi

governor db upgrade --database "$GOVERNOR_DATABASE_URL"
exec celery -A tasks.app worker --loglevel INFO "$@"
