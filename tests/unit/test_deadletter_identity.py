"""Ids of rows and of replays."""

from __future__ import annotations

from uuid import UUID

import pytest

from governor.deadletter.identity import replay_id, uuid7

NOW = 1_750_000_000_123_456


def test_an_id_is_a_uuid_of_version_7() -> None:
    """The time is kept to the millisecond, the variant and version bits are RFC 9562's."""
    made = UUID(uuid7(NOW, b"\xff" * 10))
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert made.int >> 80 == NOW // 1000


def test_ids_sort_by_time_as_text() -> None:
    """An id made a millisecond later is greater, whatever the random bits."""
    assert uuid7(NOW, b"\xff" * 10) < uuid7(NOW + 1000, b"\x00" * 10)


def test_entropy_makes_the_difference() -> None:
    """Two ids of one instant differ when their entropy does, in its first and last bits."""
    ids = {uuid7(NOW, bytes(9) + b"\x00"), uuid7(NOW, bytes(9) + b"\x01")}
    ids.add(uuid7(NOW, b"\x80" + bytes(9)))
    assert len(ids) == 3


def test_too_little_entropy_is_refused() -> None:
    """The field at fault is named."""
    with pytest.raises(ValueError, match="entropy"):
        uuid7(NOW, b"short")


def test_a_replay_has_one_task_id_per_generation() -> None:
    """The id depends on the dead letter and the generation, and on nothing else."""
    row = uuid7(NOW, bytes(10))
    assert replay_id(row, 0) == replay_id(row, 0)
    assert replay_id(row, 0) != replay_id(row, 1)
    assert replay_id(row, 0) != replay_id(uuid7(NOW, b"\x01" * 10), 0)
