# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who comes first within a conversation. Nothing here knows what comes, nor asks anybody about it."""

import asyncio
from collections import deque


class Turns:
    """One after the other within a conversation, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Event]] = {}

    def enter(self, umo: str) -> asyncio.Event:
        """A place at the end of a conversation's queue; it is set when everybody before it has left."""
        turn = asyncio.Event()
        queue = self._waiting.setdefault(umo, deque())
        queue.append(turn)
        queue[0].set()
        return turn

    def leave(self, umo: str, turn: asyncio.Event) -> None:
        """Gives a place back; twice is the same as once. Whoever still waits at it waits no longer."""
        turn.set()
        queue = self._waiting.get(umo)
        if not queue or turn not in queue:
            return
        queue.remove(turn)
        if queue:
            queue[0].set()
        else:
            del self._waiting[umo]
