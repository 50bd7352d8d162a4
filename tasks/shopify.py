"""Shopify: a leaky bucket per shop, filled by what a query costs, refusing inside a 200.

Published quota: 100 points a second for each app and shop on the standard plan (the GraphQL
Admin API, "calculated query cost"); one query may cost at most 1,000 points. "Shopify API
limits", https://shopify.dev/docs/api/usage/limits
"""

import os
from typing import Any

import httpx

from governor import GovernedTask, Limit, Retry, Throttled, Upstream
from tasks.answers import ServerFault, checked
from tasks.app import app

QUERY = "query($first: Int!) { products(first: $first) { nodes { id title } } }"


def points(shop: str, first: int = 50) -> int:
    """Shopify's estimate of the query below, rounded up: a connection, and each object in it."""
    return 2 + first


# Shopify's bucket is a leaky one too, so rate and burst are its own. A bucket that must hold
# one query of any size holds 1,000 points.
shopify = Upstream("shopify", Limit("100/s", burst=1000, per="shop", cost=points))


@app.task(
    base=GovernedTask,
    upstream=shopify,
    idempotent=True,  # reading changes nothing
    retry=Retry(on=(httpx.TransportError, ServerFault)),
)
def products(shop: str, first: int = 50) -> list[str]:
    """The titles of a shop's first products.

    Raises:
        Throttled: the bucket is full after all, because something else called for this app.
    """
    base = os.environ.get("SHOPIFY_API_BASE", f"https://{shop}.myshopify.com")
    response = httpx.post(
        f"{base}/admin/api/2025-07/graphql.json",
        headers={"X-Shopify-Access-Token": os.environ.get("SHOPIFY_ACCESS_TOKEN", "example")},
        json={"query": QUERY, "variables": {"first": first}},
        timeout=30,
    )
    answer: dict[str, Any] = checked(response).json()
    for error in answer.get("errors", ()):
        if error.get("extensions", {}).get("code") == "THROTTLED":
            raise Throttled(retry_after=_until_it_leaked(answer["extensions"]["cost"]))
        raise ValueError(error["message"])
    return [node["title"] for node in answer["data"]["products"]["nodes"]]


def _until_it_leaked(cost: dict[str, Any]) -> float:
    """Seconds until the bucket has room for what was asked."""
    bucket = cost["throttleStatus"]
    missing = cost["requestedQueryCost"] - bucket["currentlyAvailable"]
    return float(max(0.0, missing / bucket["restoreRate"]))
