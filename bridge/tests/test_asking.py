# SPDX-License-Identifier: AGPL-3.0-or-later
"""The platform away and back, and the file of what waits: against a real HTTP server of our own."""

import asyncio
import json
import logging
import tempfile
import unittest
from pathlib import Path

from aiohttp import web
from astrfleet_bridge.asking import Away, Platform, Refused
from astrfleet_bridge.journal import Full, Journal


def entry(number: int) -> dict:
    return {"path": "inbound", "body": {"number": number}}


class JournalTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "plugin_data" / "waiting.jsonl"

    def journal(self, **options) -> Journal:
        journal = Journal(self.path, **options)
        journal.load()
        return journal

    def test_what_was_kept_is_there_after_a_crash_without_a_broken_last_line(self) -> None:
        journal = self.journal()
        for number in range(3):
            journal.append(entry(number))
        with self.path.open("ab") as file:
            file.write(b'{"path": "inbound", "bo')
        again = self.journal()
        self.assertEqual(list(again.entries), [entry(number) for number in range(3)])
        again.append(entry(3))
        self.assertEqual(list(self.journal().entries), [entry(number) for number in range(4)])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_it_is_bounded_and_leaves_room_for_what_goes_out(self) -> None:
        journal = self.journal(bytes_max=1_000)
        with self.assertRaises(Full):
            for number in range(1_000):
                journal.append(entry(number), inbound=True)
        self.assertLessEqual(self.path.stat().st_size, 800)
        journal.append(entry(0))
        with self.assertRaises(Full):
            for number in range(1_000):
                journal.append(entry(number))
        self.assertLessEqual(self.path.stat().st_size, 1_000)

    def test_it_is_emptied_only_when_all_of_it_was_told(self) -> None:
        journal = self.journal()
        journal.append(entry(0))
        journal.append(entry(1))
        journal.entries.popleft()
        journal.clear()
        self.assertEqual(len(self.journal().entries), 2)
        journal.entries.popleft()
        journal.clear()
        self.assertEqual(self.path.stat().st_size, 0)


class PlatformTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "waiting.jsonl"
        self.heard: list[tuple[str, dict]] = []
        self.status = 200
        self.runner: web.AppRunner | None = None
        self.port = 0
        await self.come_back()
        logger = logging.getLogger("quiet")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        self.platform = Platform(f"http://127.0.0.1:{self.port}/bridge/v1", "token", Journal(self.path), logger)
        await self.platform.start()
        self.addAsyncCleanup(self.go_away)
        self.addAsyncCleanup(self.platform.stop)

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer token":
            return web.Response(status=500)
        body = await request.json()
        if self.status == 200:
            self.heard.append((request.path.rsplit("/", 1)[1], body))
        return web.json_response({"verdict": "answer"}, status=400 if body.get("number") == -1 else self.status)

    async def come_back(self) -> None:
        app = web.Application()
        app.router.add_post("/bridge/v1/{path}", self.answer)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def go_away(self) -> None:
        if self.runner:
            await self.runner.cleanup()
            self.runner = None

    async def until_told(self) -> None:
        async with asyncio.timeout(30):
            while self.platform.is_away:
                await asyncio.sleep(0.02)

    async def test_what_happens_while_it_is_away_is_told_in_order_and_once(self) -> None:
        self.assertEqual(await self.platform.ask("inbound", {"number": 0}), {"verdict": "answer"})
        await self.go_away()
        with self.assertRaises(Away):
            await self.platform.ask("inbound", {"number": 1})
        await self.platform.keep("inbound", {"number": 1})
        await self.platform.tell("sent", {"number": 2})
        self.assertTrue(self.platform.is_away)
        self.assertEqual(len(self.path.read_text().splitlines()), 2)
        await self.come_back()
        # Nothing overtakes what waits.
        await self.platform.tell("sent", {"number": 3})
        await self.until_told()
        numbers = [("inbound", 0), ("inbound", 1), ("sent", 2), ("sent", 3)]
        self.assertEqual(self.heard, [(path, {"number": number}) for path, number in numbers])
        self.assertEqual(self.path.stat().st_size, 0)

    async def test_an_answer_that_says_nothing_counts_as_away_and_a_refusal_holds_nobody_up(self) -> None:
        for status in (401, 429, 503):
            self.status = status
            with self.assertRaises(Away):
                await self.platform.ask("inbound", {"number": 0})
        await self.platform.tell("sent", {"number": -1})
        await self.platform.tell("sent", {"number": 1})
        self.status = 200
        with self.assertRaises(Refused):
            await self.platform.ask("inbound", {"number": -1})
        await self.until_told()
        self.assertEqual(self.heard[-1], ("sent", {"number": 1}))

    async def test_another_process_goes_on_where_this_one_was_killed(self) -> None:
        await self.go_away()
        await self.platform.keep("inbound", {"number": 1})
        await self.platform.stop()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.assertEqual(lines, [{"path": "inbound", "body": {"number": 1}}])
        await self.come_back()
        self.platform = Platform(self.platform.url, "token", Journal(self.path), self.platform.logger)
        await self.platform.start()
        await self.until_told()
        await self.platform.stop()
        self.assertEqual(self.heard, [("inbound", {"number": 1})])


if __name__ == "__main__":
    unittest.main()
