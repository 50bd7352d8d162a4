"""Stripe: a call that moves money, made safe to repeat by an idempotency key.

Published quota: 100 requests a second for the whole account in live mode (25 in a sandbox),
25 a second for each endpoint. "Rate limits", https://docs.stripe.com/rate-limits

Stripe counts the requests of a second. A leaky bucket lets burst + rate through in a second,
so these two together are the published number.
"""

import os

import httpx

from governor import GovernedTask, Limit, Retry, Upstream
from tasks.answers import ServerFault, checked
from tasks.app import app

stripe = Upstream("stripe", Limit("90/s", burst=10))


@app.task(
    bind=True,
    base=GovernedTask,
    upstream=stripe,
    limits=[Limit("20/s", burst=5)],  # this endpoint's own
    # Stripe answers a repeated key with the first answer: calling twice charges once.
    idempotent=True,
    retry=Retry(on=(httpx.TransportError, ServerFault), attempts=5),
)
def charge(self: GovernedTask, customer: str, amount: int, currency: str = "usd") -> str:
    """Charge ``amount`` (in the currency's smallest unit); returns the payment intent's id."""
    response = httpx.post(
        f"{os.environ.get('STRIPE_API_BASE', 'https://api.stripe.com')}/v1/payment_intents",
        headers={
            "Authorization": f"Bearer {os.environ.get('STRIPE_API_KEY', 'sk_test_example')}",
            "Idempotency-Key": self.idempotency_key,
        },
        data={
            "customer": customer,
            "amount": str(amount),
            "currency": currency,
            "confirm": "true",
            "off_session": "true",
        },
        timeout=30,
    )
    return str(checked(response).json()["id"])
