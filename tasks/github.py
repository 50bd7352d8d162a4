"""GitHub: several limits at once, and an API that says "not now" in words of its own.

Published quota: 5,000 requests an hour for a token; at most 80 requests a minute and 500 an hour
that create content. "Rate limits for the REST API",
https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api

GitHub counts whole hours and minutes. A leaky bucket lets burst + rate through in a period, so
these two together are the published number.
"""

import os
import time

import httpx

from governor import GovernedTask, Limit, Retry, Throttled, Upstream
from tasks.answers import ServerFault, checked
from tasks.app import app

# The hour's quota may be gone when a task arrives: it waits for the next hour, and longer.
github = Upstream("github", Limit("4900/h", burst=100), max_wait=2 * 3600)


def call(method: str, path: str, **options: object) -> httpx.Response:
    """Call GitHub.

    Raises:
        Throttled: the quota is used up. GitHub answers 403 as often as 429, and says until when
            in Retry-After, in a header of its own, or not at all: then a minute is the rule.
    """
    response = httpx.request(
        method,
        f"{os.environ.get('GITHUB_API_BASE', 'https://api.github.com')}{path}",
        headers={
            "Authorization": f"Bearer {os.environ.get('GITHUB_TOKEN', 'example')}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
        timeout=30,
        **options,  # type: ignore[arg-type]
    )
    if response.status_code in (403, 429):
        headers = response.headers
        if "retry-after" in headers:
            raise Throttled(retry_after=float(headers["retry-after"]))
        if headers.get("x-ratelimit-remaining") == "0":
            until = float(headers["x-ratelimit-reset"])
            raise Throttled(retry_after=max(0.0, until - time.time()))
        if "secondary rate limit" in response.text:
            raise Throttled(retry_after=60)
    return checked(response)


@app.task(
    base=GovernedTask,
    upstream=github,
    idempotent=True,  # reading changes nothing
    retry=Retry(on=(httpx.TransportError, ServerFault)),
)
def open_issues(owner: str, repo: str) -> int:
    """How many issues are open."""
    return int(call("GET", f"/repos/{owner}/{repo}").json()["open_issues_count"])


@app.task(
    base=GovernedTask,
    upstream=github,
    # Each must allow the call, and the upstream's own limit too: one decision for all three.
    limits=[Limit("75/min", burst=5), Limit("450/h", burst=50)],
)
def create_issue(owner: str, repo: str, title: str, body: str = "") -> int:
    """Open an issue; returns its number. Not idempotent: a second call opens a second issue."""
    created = call("POST", f"/repos/{owner}/{repo}/issues", json={"title": title, "body": body})
    return int(created.json()["number"])
