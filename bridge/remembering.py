# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the bridge remembers, never more than so much of it."""

import json
from collections import OrderedDict
from pathlib import Path

from .journal import put_down

REMEMBERED_MAX = 10_000


class Remembered(OrderedDict):
    """The newest of many."""

    def note(self, key, value=True) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > REMEMBERED_MAX:
            self.popitem(last=False)


class Held:
    """The conversations in which a person answers, as far as the platform has said so. They are on the disk, since it may
    be away when the bot starts again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._umos = Remembered()

    def __contains__(self, umo: str) -> bool:
        return umo in self._umos

    def note(self, umo: str, by_person: bool) -> bool:
        """Says whether that is news."""
        if by_person == (umo in self._umos):
            return False
        if by_person:
            self._umos.note(umo)
        else:
            del self._umos[umo]
        return True

    def load(self) -> None:
        """Reads what an earlier process left. Blocks."""
        try:
            umos = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return
        for umo in umos if isinstance(umos, list) else []:
            self._umos.note(str(umo))

    def content(self) -> bytes:
        """As it is to be written."""
        return json.dumps(list(self._umos)).encode()

    def save(self, content: bytes) -> None:
        """Puts it on the disk. Blocks."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        put_down(self.path, content)
