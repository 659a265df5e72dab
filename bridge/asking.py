# SPDX-License-Identifier: AGPL-3.0-or-later
"""The platform, as the bridge knows it: what is asked now, and what is kept to be told later.

Nothing overtakes what waits: as long as anything does, everything new waits behind it.
"""

import asyncio
import contextlib
import enum
import json
from collections.abc import Awaitable, Callable

import aiohttp

from .journal import Full, Journal

ANSWER_S = 10
CONNECT_S = 2
RETRY_S = 0.5
RETRY_S_MAX = 5.0
CONNECTIONS_MAX = 64
# The platform counts calls by the minute: whoever waits for so long has its turn.
BUSY_S_MAX = 60.0
BUSY_S = 1.0
# How long a message waits until a platform that is back was told what was kept.
CATCH_UP_S = 10.0
# Answers that say nothing about the question: ask again later.
LATER = {408, 425}
# It is there, and does not judge: what it would say, nobody knows.
UNJUDGED = {401, 403}

# What was asked, with its path, and the answer.
Heard = Callable[[str, dict, dict], Awaitable[None]]


class Seen(enum.Enum):
    """The platform when it was asked last."""

    GONE = enum.auto()
    # It is there, and does not judge. Whoever answers then without a verdict answers whom they may not.
    MUTE = enum.auto()
    JUDGING = enum.auto()


class Away(Exception):
    """The platform does not answer."""


class Busy(Away):
    """It was asked too often: ask again when so much time is over."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("429")
        self.wait_s = wait_s


class Refused(Exception):
    """It answers that this cannot be: no use in asking again."""


async def _nobody(_path: str, _body: dict, _answer: dict) -> None:
    pass


class Platform:
    def __init__(self, url: str, token: str, journal: Journal, logger, heard: Heard = _nobody) -> None:
        self.url = url.rstrip("/")
        self.journal = journal
        self.logger = logger
        self.seen = Seen.GONE
        self.busy_s_max = BUSY_S_MAX
        self._token = token
        self._heard = heard
        self._session: aiohttp.ClientSession | None = None
        self._keeping = asyncio.Lock()
        self._telling: asyncio.Task | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self.journal.load)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        self._tell_later()

    async def stop(self) -> None:
        if self._telling:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
        if self._session:
            await self._session.close()

    @property
    def is_away(self) -> bool:
        """Whether anything waits to be told."""
        return bool(self.journal.entries)

    async def catch_up(self) -> None:
        """Waits until a platform that is back was told what waits; not for long."""
        if self.is_away and self.seen is Seen.JUDGING and self._telling:
            await asyncio.wait([self._telling], timeout=CATCH_UP_S)

    async def ask(self, path: str, body: dict) -> dict:
        """Asks now. Asking twice is the same as once, whatever is asked. Where it was asked too often, this waits."""
        left_s = self.busy_s_max
        while True:
            try:
                return await self._ask_now(path, body)
            except Busy as busy:
                if busy.wait_s > left_s:
                    raise
                left_s -= busy.wait_s
                await asyncio.sleep(busy.wait_s)

    async def _ask_now(self, path: str, body: dict) -> dict:
        try:
            return await self._ask_once(path, body)
        except (aiohttp.ClientConnectorError, asyncio.TimeoutError) as error:
            self.seen = Seen.GONE
            raise Away(type(error).__name__) from None
        except (aiohttp.ClientError, OSError):
            # Perhaps a connection that was kept open, and that the other side has closed meanwhile.
            pass
        try:
            return await self._ask_once(path, body)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            self.seen = Seen.GONE
            raise Away(type(error).__name__) from None

    async def _ask_once(self, path: str, body: dict) -> dict:
        if self._session is None or self._session.closed:
            raise Away("stopped")
        # In its own letters: escaped, an answer in Chinese is twice as long as the platform takes.
        data = json.dumps(body, ensure_ascii=False).encode(errors="replace")
        async with self._session.post(f"{self.url}/{path}", data=data) as answer:
            is_later = answer.status in LATER or answer.status >= 500
            is_mute = answer.status in UNJUDGED or answer.status == 429
            self.seen = Seen.GONE if is_later else Seen.MUTE if is_mute else Seen.JUDGING
            if answer.status == 200:
                try:
                    return await answer.json()
                except (aiohttp.ContentTypeError, ValueError):
                    raise Away("no JSON") from None
            if answer.status == 429:
                raise Busy(_seconds(answer.headers.get("Retry-After")))
            if is_later or is_mute:
                raise Away(str(answer.status))
            raise Refused(str(answer.status))

    async def tell(self, path: str, body: dict) -> None:
        """Tells now, or keeps it to be told later."""
        if not self.is_away:
            try:
                await self.ask(path, body)
                return
            except Refused as refused:
                self.logger.warning("The platform refused what was told (%s %s).", path, refused)
                return
            except Away:
                pass
        try:
            await self.keep(path, body)
        except (Full, OSError) as error:
            self.logger.error("What went out cannot be told to the platform: %s.", type(error).__name__)

    async def keep(self, path: str, body: dict) -> None:
        """Keeps something to be told later. When this returns, it is on the disk."""
        async with self._keeping:
            if not self.journal.entries:
                self.logger.warning("The platform is away: what comes in and goes out is kept, and told later.")
            await asyncio.to_thread(self.journal.append, {"path": path, "body": body}, path == "inbound")
        self._tell_later()

    def _tell_later(self) -> None:
        is_open = self._session is not None and not self._session.closed
        if is_open and self.journal.entries and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        wait = RETRY_S
        told = 0
        while True:
            while self.journal.entries:
                entry = self.journal.entries[0]
                try:
                    await self._heard(entry["path"], entry["body"], await self.ask(entry["path"], entry["body"]))
                except Away:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, RETRY_S_MAX)
                    continue
                except Refused as refused:
                    self.logger.warning("The platform refused what was kept (%s %s).", entry["path"], refused)
                wait = RETRY_S
                told += 1
                async with self._keeping:
                    self.journal.told()
                    if self.journal.is_wasteful:
                        await self._forgetting(self.journal.compact)
            async with self._keeping:
                if self.journal.entries:
                    continue
                await self._forgetting(self.journal.clear)
                self.logger.warning("The platform is back: %d entries were told.", told)
                return

    async def _forgetting(self, forget: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(forget)
        except OSError as error:
            self.logger.warning("What was told cannot be forgotten: %s.", type(error).__name__)


def _seconds(retry_after: str | None) -> float:
    try:
        return max(float(retry_after or BUSY_S), 0.05)
    except ValueError:
        return BUSY_S
