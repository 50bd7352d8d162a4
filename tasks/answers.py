"""What an HTTP answer means to a task: fine, not now, try again, or wrong."""

import httpx


class ServerFault(httpx.HTTPStatusError):
    """The API failed (5xx): the call may have happened."""


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if it is fine.

    Raises:
        ServerFault: 5xx. An idempotent task is worth another attempt; a 503 with Retry-After
            is recognised by the governor and waited for.
        httpx.HTTPStatusError: 4xx. Repeating the call will not help; a 429 is recognised by the
            governor and waited for.
    """
    if response.is_server_error:
        message = f"{response.status_code} from {response.request.method} {response.request.url}"
        raise ServerFault(message, request=response.request, response=response)
    return response.raise_for_status()
