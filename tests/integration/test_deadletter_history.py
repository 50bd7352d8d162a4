"""Counts and episodes of dead letters, in both databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import text

from governor.clock import SECOND
from governor.deadletter import schema
from governor.deadletter.engine import bounded, bounded_engine
from governor.deadletter.history import DeadCount, DeadLetterHistory, Episode, joined
from governor.deadletter.repository import SqlDeadLetters
from tests.deaths import DEAD_AT, death

Span = tuple[int, int | None]

JOINED: list[tuple[Sequence[Span], Sequence[Span]]] = [
    # nothing died
    ([], []),
    # one row, resolved
    ([(1, 5)], [(1, 5)]),
    # the second died before the first was resolved: one episode, to the later end
    ([(1, 5), (3, 9)], [(1, 9)]),
    # the second died and was resolved while the first lasted
    ([(1, 9), (2, 3)], [(1, 9)]),
    # the second died in the instant at which the first was resolved
    ([(1, 5), (5, 7)], [(1, 7)]),
    # the second died after the first was resolved: it came back
    ([(1, 5), (6, 7)], [(1, 5), (6, 7)]),
    # the first is not resolved: whatever follows is the same episode
    ([(1, None), (3, 4)], [(1, None)]),
    # the last is not resolved
    ([(1, 5), (3, None)], [(1, None)]),
    # an episode that ended, and one that has not
    ([(1, 2), (3, None), (9, 10)], [(1, 2), (3, None)]),
]


@pytest.mark.parametrize(("spans", "expected"), JOINED)
def test_spans_that_overlap_are_one(spans: Sequence[Span], expected: Sequence[Span]) -> None:
    """An episode lasts from its first death until none of its rows is unresolved."""
    assert list(joined(spans)) == list(expected)


@pytest.fixture
def letters(database_url: str) -> Iterator[SqlDeadLetters]:
    engine = bounded_engine(database_url, timeout=10)
    schema.upgrade(engine)
    yield SqlDeadLetters(engine, redact=str, timeout=10)
    engine.dispose()


@pytest.fixture
def history(database_url: str, letters: SqlDeadLetters) -> Iterator[DeadLetterHistory]:
    made = DeadLetterHistory(database_url, timeout=10)
    yield made
    made.close()


def test_counts(letters: SqlDeadLetters, history: DeadLetterHistory) -> None:
    """Rows are counted by state, reason and task, of a span that has no end if none is given."""
    letters.record(death("a"))
    letters.record(death("b"))
    letters.record(death("c", task_name=None, dead_at=DEAD_AT + SECOND))
    both = DeadCount("dead", "retries_exhausted", "billing.charge", 2)
    unnamed = DeadCount("dead", "retries_exhausted", None, 1)
    assert set(history.counts()) == {both, unnamed}
    assert history.counts(DEAD_AT, DEAD_AT + SECOND) == (both,)
    assert history.counts(DEAD_AT + SECOND) == (unnamed,)


def test_episodes(database_url: str, letters: SqlDeadLetters, history: DeadLetterHistory) -> None:
    """A group's episode ends when its last row is resolved; what happens later is not known yet."""
    first = letters.record(death("a"))
    letters.record(death("b", dead_at=DEAD_AT + SECOND))
    letters.record(death("c", exc_type="KeyError", exc_chain=("KeyError",)))
    engine = bounded_engine(database_url)
    with bounded(engine, write=True) as connection:
        connection.execute(
            text(
                "UPDATE governor_dead_letters SET state = 'resolved', state_at = dead_at + 5000000 "
                "WHERE task_id IN ('a', 'b')"
            )
        )
    engine.dispose()
    own = letters.get(first).fingerprint
    found = {each.fingerprint: each for each in history.episodes(DEAD_AT + 60 * SECOND)}
    assert found[own] == Episode(own, DEAD_AT, DEAD_AT + 6 * SECOND)
    (other,) = [each for fingerprint, each in found.items() if fingerprint != own]
    assert other.ended is None
    (then, _) = sorted(history.episodes(DEAD_AT + 5 * SECOND), key=lambda e: e.fingerprint != own)
    assert then == Episode(own, DEAD_AT, None)
    assert history.episodes(DEAD_AT) == ()
