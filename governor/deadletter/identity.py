"""Ids: of rows (ordered by time) and of replays (the same every time they are computed)."""

from __future__ import annotations

from uuid import UUID, uuid5


def uuid7(wall: int, entropy: bytes) -> str:
    """A UUIDv7: sorts by ``wall`` (microseconds since the epoch, kept to the millisecond).

    Args:
        entropy: ten random bytes; 74 of their bits are used.
    """
    if len(entropy) != 10:
        raise ValueError(f"entropy: {len(entropy)} bytes. Give 10")
    random = int.from_bytes(entropy, "big")
    millis = max(0, wall // 1000) & ((1 << 48) - 1)
    high = (millis << 16) | (0x7 << 12) | (random >> 68)  # version 7, 12 random bits
    low = (0b10 << 62) | (random & ((1 << 62) - 1))  # variant, 62 random bits
    return str(UUID(int=(high << 64) | low))


def replay_id(dead_letter_id: str, generation: int) -> str:
    """The task id of this dead letter's replay.

    The same for every claim of one generation: a copy sent twice is recognised by the
    worker's claim on the task id.
    """
    return str(uuid5(UUID(dead_letter_id), str(generation)))
