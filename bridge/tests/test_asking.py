# SPDX-License-Identifier: AGPL-3.0-or-later
"""The platform away and back, and the file of what waits: against a real HTTP server of our own."""

import asyncio
import json
import logging
import tempfile
import unittest
from pathlib import Path

from aiohttp import web
from astrfleet_bridge.asking import Away, Platform, Refused, Seen
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

    def test_what_was_told_makes_room(self) -> None:
        journal = self.journal(bytes_max=1_000)
        with self.assertRaises(Full):
            for number in range(1_000):
                journal.append(entry(number))
        kept = len(journal.entries)
        for _ in range(kept - 1):
            journal.told()
        self.assertEqual(len(self.journal().entries), kept, "not yet written anew")
        for number in range(kept, 2 * kept - 1):
            journal.append(entry(number))
        self.assertEqual(list(self.journal().entries), [entry(number) for number in range(kept - 1, 2 * kept - 1)])
        self.assertLessEqual(self.path.stat().st_size, 1_000)

    def test_it_is_written_anew_when_most_of_it_was_told(self) -> None:
        journal = self.journal()
        large = {"path": "sent", "body": {"text": "x" * 40_000}}
        for _ in range(3):
            journal.append(large)
        journal.told()
        self.assertFalse(journal.is_wasteful)
        journal.told()
        self.assertTrue(journal.is_wasteful)
        journal.compact()
        self.assertFalse(journal.is_wasteful)
        self.assertEqual(list(self.journal().entries), [large])
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_it_is_emptied_only_when_all_of_it_was_told(self) -> None:
        journal = self.journal()
        journal.append(entry(0))
        journal.append(entry(1))
        journal.told()
        journal.clear()
        self.assertEqual(len(self.journal().entries), 2)
        journal.told()
        journal.clear()
        self.assertEqual(self.path.stat().st_size, 0)


class PlatformTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "waiting.jsonl"
        self.heard: list[tuple[str, dict]] = []
        self.status = 200
        self.refusals = 0
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
        self.bytes_max = max(getattr(self, "bytes_max", 0), request.content_length or 0)
        if self.refusals:
            self.refusals -= 1
            return web.json_response({}, status=429, headers={"Retry-After": "0.05"})
        if self.status == 200:
            self.heard.append((request.path.rsplit("/", 1)[1], body))
        return web.json_response({"verdict": "answer"}, status=400 if body.get("number") == -1 else self.status)

    async def come_back(self) -> None:
        app = web.Application()
        app.router.add_post("/bridge/v1/{path}", self.answer)
        self.runner = web.AppRunner(app, access_log=None)
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
        for status, seen in ((401, Seen.MUTE), (503, Seen.GONE), (403, Seen.MUTE), (503, Seen.GONE)):
            self.status = status
            with self.assertRaises(Away):
                await self.platform.ask("inbound", {"number": 0})
            self.assertEqual(self.platform.seen, seen, "away is something else than there and silent")
        await self.platform.tell("sent", {"number": -1})
        await self.platform.tell("sent", {"number": 1})
        self.status = 200
        with self.assertRaises(Refused):
            await self.platform.ask("inbound", {"number": -1})
        await self.until_told()
        self.assertEqual(self.heard[-1], ("sent", {"number": 1}))

    async def test_who_asks_too_often_waits_and_is_not_left_alone(self) -> None:
        self.refusals = 3
        self.assertEqual(await self.platform.ask("inbound", {"number": 1}), {"verdict": "answer"})
        self.assertIs(self.platform.seen, Seen.JUDGING)
        self.refusals, self.platform.busy_s_max = 3, 0.07
        with self.assertRaises(Away):
            await self.platform.ask("inbound", {"number": 2})
        self.assertIs(self.platform.seen, Seen.MUTE, "nobody judges: so nobody answers")

    async def test_an_answer_in_any_script_is_as_long_as_it_is(self) -> None:
        text = "\u7b54" * ((128 << 10) // 3)
        await self.platform.tell("sent", {"text": text, "umo": "tg1:FriendMessage:\ud800"})
        self.assertEqual(self.heard[0][1]["text"], text)
        self.assertLess(self.bytes_max, 132 << 10)

    async def test_a_platform_that_is_back_is_waited_for_until_it_knows_all(self) -> None:
        await self.go_away()
        for number in range(20):
            await self.platform.keep("inbound", {"number": number})
        await self.platform.catch_up()
        self.assertTrue(self.platform.is_away, "nobody waits for one that is not there")
        await self.come_back()
        async with asyncio.timeout(30):
            while self.platform.seen is not Seen.JUDGING:
                await asyncio.sleep(0)
        await self.platform.catch_up()
        self.assertFalse(self.platform.is_away)

    async def test_what_is_told_later_is_heard_of(self) -> None:
        answers = []

        async def heard(path: str, body: dict, answer: dict) -> None:
            answers.append((path, body, answer))

        await self.platform.stop()
        self.platform = Platform(self.platform.url, "token", Journal(self.path), self.platform.logger, heard)
        await self.platform.start()
        self.addAsyncCleanup(self.platform.stop)
        await self.go_away()
        await self.platform.keep("inbound", {"number": 1})
        await self.come_back()
        await self.until_told()
        self.assertEqual(answers, [("inbound", {"number": 1}, {"verdict": "answer"})])

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
