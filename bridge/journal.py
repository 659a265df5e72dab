# SPDX-License-Identifier: AGPL-3.0-or-later
"""The file of what waits to be told: a line of JSON each, on the disk before anybody relies on it.

Bounded: what does not fit is refused. What was told makes room again. All of it blocks; whoever calls from an event loop
does so in a thread, one at a time.
"""

import json
import os
from collections import deque
from pathlib import Path

BYTES_MAX = 4 << 20
# What comes in leaves room for what goes out to it.
SHARE_OF_INBOUND = 0.8
# Less than this is not worth writing the file anew.
WASTE_BYTES_MIN = 64 << 10


class Full(Exception):
    """There is no room for another line."""


class Journal:
    def __init__(self, path: Path, bytes_max: int = BYTES_MAX) -> None:
        self.path = path
        self.bytes_max = bytes_max
        self.entries: deque[dict] = deque()
        self._size = 0
        # Of the file, what nobody needs any more.
        self._waste = 0

    def load(self) -> None:
        """Reads what an earlier process left. A last line without its end was never relied on."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        whole, end, _ = content.rpartition(b"\n")
        self.entries = deque(entry for entry in map(_read, whole.split(b"\n")) if entry is not None)
        self._size = len(whole) + len(end)
        self._waste = 0
        if self._size != len(content):
            with self.path.open("r+b") as file:
                file.truncate(self._size)
                _flush(file)

    def append(self, entry: dict, inbound: bool = False) -> None:
        """Adds a line. When this returns, it is on the disk."""
        line = _line(entry)
        room = int(self.bytes_max * SHARE_OF_INBOUND) if inbound else self.bytes_max
        if self._size + len(line) > room and self._waste:
            self.compact()
        if self._size + len(line) > room:
            raise Full
        is_new = not self.path.exists()
        with open(self.path, "ab", opener=_private) as file:
            # A line that was cut off by a full disk goes before the next one.
            file.truncate(self._size)
            file.seek(self._size)
            file.write(line)
            _flush(file)
        if is_new:
            _flush_folder(self.path.parent)
        self._size += len(line)
        self.entries.append(entry)

    def told(self) -> None:
        """The first entry was told. Its line stays until the file is written anew: told once more, it is the same."""
        self._waste += len(_line(self.entries.popleft()))

    @property
    def is_wasteful(self) -> bool:
        """Whether most of the file was told."""
        return self._waste >= WASTE_BYTES_MIN and 2 * self._waste >= self._size

    def compact(self) -> None:
        """Writes the file anew, with what was not told yet."""
        content = b"".join(map(_line, self.entries))
        put_down(self.path, content)
        self._size, self._waste = len(content), 0

    def clear(self) -> None:
        """Forgets everything: all of it was told."""
        if not self.entries and self._size:
            with self.path.open("r+b") as file:
                file.truncate(0)
                _flush(file)
            self._size = self._waste = 0


def put_down(path: Path, content: bytes) -> None:
    """A file that is always whole: the old one or the new one."""
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "wb", opener=_private) as file:
        file.write(content)
        _flush(file)
    os.replace(fresh, path)
    _flush_folder(path.parent)


def _line(entry: dict) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode(errors="replace") + b"\n"


def _read(line: bytes) -> dict | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "path" in entry and "body" in entry else None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _flush(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
