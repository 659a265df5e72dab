# SPDX-License-Identifier: AGPL-3.0-or-later
"""The platform, as the bridge knows it: what is asked now, and what is kept to be told later.

Nothing overtakes what waits: as long as anything does, everything new waits behind it.
"""

import asyncio
import contextlib

import aiohttp

from .journal import Full, Journal

ANSWER_S = 10
CONNECT_S = 2
RETRY_S = 0.5
RETRY_S_MAX = 5.0
CONNECTIONS_MAX = 64
# Answers that say nothing about the question: ask again later.
LATER = {401, 403, 408, 425, 429}


class Away(Exception):
    """The platform does not answer."""


class Refused(Exception):
    """It answers that this cannot be: no use in asking again."""


class Platform:
    def __init__(self, url: str, token: str, journal: Journal, logger) -> None:
        self.url = url.rstrip("/")
        self.journal = journal
        self.logger = logger
        self._token = token
        self._session: aiohttp.ClientSession | None = None
        self._keeping = asyncio.Lock()
        self._telling: asyncio.Task | None = None

    async def start(self) -> None:
        await asyncio.to_thread(self.journal.load)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S),
            headers={"Authorization": f"Bearer {self._token}"},
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

    async def ask(self, path: str, body: dict) -> dict:
        """Asks now. Asking twice is the same as once, whatever is asked."""
        try:
            return await self._ask_once(path, body)
        except (aiohttp.ClientConnectorError, asyncio.TimeoutError) as error:
            raise Away(type(error).__name__) from None
        except (aiohttp.ClientError, OSError):
            # Perhaps a connection that was kept open, and that the other side has closed meanwhile.
            pass
        try:
            return await self._ask_once(path, body)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            raise Away(type(error).__name__) from None

    async def _ask_once(self, path: str, body: dict) -> dict:
        if self._session is None or self._session.closed:
            raise Away("stopped")
        try:
            async with self._session.post(f"{self.url}/{path}", json=body) as answer:
                if answer.status == 200:
                    return await answer.json()
                if answer.status in LATER or answer.status >= 500:
                    raise Away(str(answer.status))
                raise Refused(str(answer.status))
        except (aiohttp.ContentTypeError, ValueError):
            raise Away("no JSON") from None

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
        if self.journal.entries and (self._telling is None or self._telling.done()):
            self._telling = asyncio.create_task(self._tell_all())

    async def _tell_all(self) -> None:
        wait = RETRY_S
        told = 0
        while True:
            while self.journal.entries:
                entry = self.journal.entries[0]
                try:
                    await self.ask(entry["path"], entry["body"])
                except Away:
                    await asyncio.sleep(wait)
                    wait = min(wait * 2, RETRY_S_MAX)
                    continue
                except Refused as refused:
                    self.logger.warning("The platform refused what was kept (%s %s).", entry["path"], refused)
                wait = RETRY_S
                told += 1
                self.journal.entries.popleft()
            async with self._keeping:
                if self.journal.entries:
                    continue
                try:
                    await asyncio.to_thread(self.journal.clear)
                except OSError as error:
                    self.logger.warning("What was told cannot be forgotten: %s.", type(error).__name__)
                self.logger.warning("The platform is back: %d entries were told.", told)
                return
