"""Refusals of the limiter's server, and their reach."""

from __future__ import annotations

import pytest

from governor.stores.redis.client import address
from governor.stores.redis.refusals import concern
from governor.stores.redis.resp import Refused

_AT = "script: 7f, on @user_script:9."
_CALLED = "ERR Error running script (call to f_7f): @user_script:9:"

UPSTREAM = [
    # as Redis 7 and later say it, and as 6.2 does
    f"WRONGTYPE Operation against a key holding the wrong kind of value {_AT}",
    f"{_CALLED} WRONGTYPE Operation against a key",
    f"ERR user_script:29: attempt to perform arithmetic on a nil value {_AT}",
    f"{_CALLED} user_script:29: attempt to compare nil with number",
    "NOPERM No permissions to access a key",
    "NOPERM this user has no permissions to access one of the keys used as arguments",
    f"ERR ACL failure in script: No permissions to access a channel {_AT}",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN Hash slot not served",
]
STORE = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    f"{_CALLED} -OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist",
    "NOREPLICAS Not enough good replicas to write.",
    "NOAUTH Authentication required.",
    "NOPERM User u has no permissions to run the 'evalsha' command",
    f"ERR ACL failure in script: User u has no permissions to run the 'hset' command {_AT}",
    "ERR The user executing the script can't run this command or subcommand",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN The cluster is down",
    "ERR max number of clients reached",
    "ERR unknown command 'EVALSHA'",
    "SOMETHING new",
]


@pytest.mark.parametrize("said", UPSTREAM)
def test_what_is_wrong_with_one_upstreams_data_concerns_that_upstream(said: str) -> None:
    """A refusal about a key of an upstream leaves the others alone."""
    assert concern(Refused(*said.split(" ", 1))) == "upstream"


@pytest.mark.parametrize("said", STORE)
def test_what_the_server_refuses_to_everybody_concerns_the_store(said: str) -> None:
    """A server that serves nobody, or nobody like us, is away for every upstream."""
    assert concern(Refused(*said.split(" ", 1))) == "store"


@pytest.mark.parametrize(
    ("said", "node"),
    [
        ("3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        # the endpoint is not known: the host that answered
        ("3999 :6381", ("10.0.0.7", 6381)),
        ("3999 ?:6381", ("10.0.0.7", 6381)),
        ("3999 ::1:6381", ("::1", 6381)),
        ("3999 [2001:db8::5]:6381", ("2001:db8::5", 6381)),
        ("3999 node-3.cache.local:6381", ("node-3.cache.local", 6381)),
    ],
)
def test_where_a_cluster_sends_a_call_on_to(said: str, node: tuple[str, int]) -> None:
    """A node without a known endpoint is on the host that answered."""
    assert address(Refused("MOVED", said), "10.0.0.7") == node
