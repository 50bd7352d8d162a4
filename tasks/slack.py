"""Slack: a message must not appear twice, and each channel has a pace of its own.

Published quota: one message per second per channel. "Rate limits",
https://docs.slack.dev/apis/web-api/rate-limits

``chat.postMessage`` knows no idempotency key, so the task is not idempotent: every message is
posted at most once. If a worker dies in the middle of the call, nobody knows whether the message
appeared; the task becomes a dead letter (``outcome_unknown``) for a person to look at.
"""

import os

import httpx

from governor import GovernedTask, Limit, Upstream
from tasks.answers import checked
from tasks.app import app

slack = Upstream("slack", Limit("1/s", per="channel"))


class SlackError(Exception):
    """Slack understood the call and refused it."""


@app.task(base=GovernedTask, upstream=slack)
def post_message(channel: str, text: str) -> str:
    """Post ``text``; returns the message's timestamp, which is its id.

    Raises:
        SlackError: for example ``channel_not_found``; Slack says so inside a 200.
    """
    response = httpx.post(
        f"{os.environ.get('SLACK_API_BASE', 'https://slack.com')}/api/chat.postMessage",
        headers={"Authorization": f"Bearer {os.environ.get('SLACK_BOT_TOKEN', 'example')}"},
        json={"channel": channel, "text": text},
        timeout=30,
    )
    answer = checked(response).json()
    if not answer["ok"]:
        raise SlackError(answer["error"])
    return str(answer["ts"])
