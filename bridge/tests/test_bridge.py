# SPDX-License-Identifier: AGPL-3.0-or-later
"""The hooks, with AstrBot's own events, its waiting for a next message and its way of sending; against a platform of our own."""

import asyncio
import copy
import tempfile
import unittest
from pathlib import Path
from types import SimpleNamespace

from aiohttp import web
from astrbot.api.event import MessageChain
from astrbot.core.message.components import Plain
from astrbot.core.message.message_event_result import MessageEventResult
from astrbot.core.platform.astr_message_event import AstrMessageEvent, event_context
from astrbot.core.platform.astrbot_message import AstrBotMessage, MessageMember
from astrbot.core.platform.message_type import MessageType
from astrbot.core.platform.platform_metadata import PlatformMetadata
from astrbot.core.provider.entities import LLMResponse, TokenUsage
from astrbot.core.star.context import Context
from astrbot.core.utils.session_waiter import FILTERS, USER_SESSIONS, SessionWaiter, session_waiter
from astrfleet_bridge import main, words
from astrfleet_bridge.course import course_of
from astrfleet_bridge.main import Bridge, InOrder
from astrfleet_bridge.turns import Turns

UMO = "tg1:FriendMessage:7"


class Event(AstrMessageEvent):
    """A message of a channel whose answers are caught."""

    def __init__(self, number: str, text: str, account: str = "bot_a", sent: list | None = None) -> None:
        message = AstrBotMessage()
        message.type, message.self_id, message.session_id = MessageType.FRIEND_MESSAGE, account, "7"
        message.message_id, message.sender = number, MessageMember("7", "ann")
        message.message, message.message_str, message.raw_message = [Plain(text)], text, None
        super().__init__(text, message, PlatformMetadata(name="telegram", description="", id="tg1"), "7")
        self.is_at_or_wake_command = True
        self.sent = [] if sent is None else sent
        self.fails = False

    async def send(self, message: MessageChain) -> None:
        if self.fails:
            raise OSError("cut")
        self.sent.append(message.get_plain_text())


class TurnsTest(unittest.IsolatedAsyncioTestCase):
    async def test_one_after_the_other_and_nobody_for_ever(self) -> None:
        turns = Turns()
        first, second, third = (turns.enter(UMO) for _ in range(3))
        other = turns.enter("tg1:FriendMessage:8")
        self.assertEqual([turn.is_set() for turn in (first, second, third, other)], [True, False, False, True])
        turns.leave(UMO, second)
        self.assertTrue(second.is_set(), "whoever waits at a place that was given back waits no longer")
        self.assertFalse(third.is_set())
        turns.leave(UMO, first)
        turns.leave(UMO, first)
        self.assertTrue(third.is_set())
        turns.leave(UMO, third)
        self.assertTrue(turns.enter(UMO).is_set())


class WordsTest(unittest.TestCase):
    def test_an_account_is_part_of_a_messages_number(self) -> None:
        self.assertEqual(words.message_number(Event("12", "")), "12@bot_a")
        self.assertEqual(words.message_number(Event("12", "", account="bot_b")), "12@bot_b")
        self.assertEqual(words.message_number(Event("12", "", account="")), "12")
        self.assertIsNone(words.message_number(Event("", "")))
        long = words.message_number(Event("x" * 300, "", account="\u7b54" * 100))
        self.assertLessEqual(len(long.encode()), words.NUMBER_BYTES_MAX)
        self.assertNotEqual(long, words.message_number(Event("x" * 301, "", account="\u7b54" * 100)))


class BridgeTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.calls: list[tuple[str, dict]] = []
        self.verdict = {"verdict": "answer", "generation": 3}
        self.permission = {"send": True}
        self.status = 200
        self.runner: web.AppRunner | None = None
        self.port = 0
        await self.come_back()
        self.queue: asyncio.Queue = asyncio.Queue()
        self.context = SimpleNamespace(get_event_queue=lambda: self.queue)
        self.bridge = await self.placed()
        self.addAsyncCleanup(self.go_away)
        self.addAsyncCleanup(self.ended)

    async def ended(self) -> None:
        await self.bridge.terminate()

    async def placed(self) -> Bridge:
        bridge = Bridge(self.context)
        bridge._stand_in()
        Bridge.placed = bridge
        await bridge.open(f"http://127.0.0.1:{self.port}/bridge/v1", "token", self.folder)
        return bridge

    async def answer(self, request: web.Request) -> web.Response:
        path, body = request.match_info["path"], await request.json()
        if self.status != 200:
            return web.json_response({}, status=self.status)
        self.calls.append((path, body))
        return web.json_response({"inbound": self.verdict, "outbound": self.permission, "sent": {}}[path])

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

    async def until(self, is_so) -> None:
        async with asyncio.timeout(30):
            while not is_so():
                await asyncio.sleep(0.01)

    def called(self, path: str) -> list[dict]:
        return [body for called, body in self.calls if called == path]

    def outcomes(self) -> list[tuple[str, str]]:
        return [(body["outcome"], body["text"]) for body in self.called("sent")]

    async def pipeline(self, event: Event, answer: str | None = "answer", stopped: bool = False, work=None) -> None:
        """What AstrBot does with an event, in its order."""

        async def run() -> None:
            with event_context(event):
                InOrder().filter(event, {})
                if stopped:
                    return
                for session_filter in tuple(FILTERS):
                    session_id = session_filter.filter(event)
                    if session_id in USER_SESSIONS:
                        await SessionWaiter.trigger(session_id, event)
                        event.stop_event()
                        return
                await self.bridge.arrived(event)
                if event.is_stopped():
                    return
                if work:
                    await work()
                if answer:
                    await self.respond(event, answer)

        await asyncio.create_task(run())
        await asyncio.sleep(0)
        if self.bridge.tasks:
            await asyncio.wait(list(self.bridge.tasks))

    async def respond(self, event: Event, text: str) -> None:
        event.set_result(MessageEventResult().message(text))
        await self.bridge.departing(event)
        result = event.get_result()
        if result is None:
            return
        try:
            await event.send(result.derive(result.chain))
        except OSError:
            pass
        await self.bridge.departed(event)
        event.clear_result()

    async def test_a_message_is_asked_about_answered_and_told_of(self) -> None:
        event = Event("1", "hello")
        await self.pipeline(event)
        self.assertEqual([path for path, _ in self.calls], ["inbound", "outbound", "sent"])
        self.assertEqual(self.called("inbound")[0]["platform_message_id"], "1@bot_a")
        self.assertEqual(self.called("outbound")[0]["generation"], 3)
        self.assertEqual((event.sent, self.outcomes()), (["answer"], [("sent", "answer")]))
        fails = Event("2", "hello")
        fails.fails = True
        await self.pipeline(fails)
        self.assertEqual(self.outcomes()[1:], [("not_sent", "answer")])

    async def test_it_comes_before_everything_of_astrbots_own(self) -> None:
        from astrbot.core.star.star_handler import EventType, star_handlers_registry

        import astrbot.builtin_stars.astrbot.main  # noqa: F401

        handlers = [
            handler
            for handler in star_handlers_registry._handlers
            if handler.event_type == EventType.AdapterMessageEvent
        ]
        self.assertGreater(len(handlers), 2)
        self.assertEqual((handlers[0].handler_name, handlers[0].handler_module_path), ("arrived", main.__name__))

    async def test_what_somebody_waits_for_is_asked_about_and_answered_in_a_copy(self) -> None:
        first, second = Event("1", "/"), Event("2", "the question")

        async def wait() -> None:
            @session_waiter(60)
            async def waiter(controller, event) -> None:
                # As AstrBot's own, for a message that is a mention alone.
                self.queue.put_nowait(copy.copy(event))
                event.stop_event()
                controller.stop()

            await self.respond(first, "yes?")
            await waiter(first)

        waiting = asyncio.create_task(self.pipeline(first, answer=None, work=wait))
        await self.until(lambda: USER_SESSIONS)
        await self.pipeline(second)
        self.assertEqual(len(self.called("inbound")), 2, "asked about before anybody hears of it")
        self.assertEqual(len(self.outcomes()), 1, "its end is that of its copy")
        again = self.queue.get_nowait()
        self.assertIsNot(again, second)
        await asyncio.wait_for(self.pipeline(again, "the answer"), 30)
        await asyncio.wait_for(waiting, 30)
        self.assertEqual([body["text"] for body in self.called("inbound")], ["/", "the question"])
        self.assertEqual(self.outcomes(), [("sent", "yes?"), ("sent", "the answer")])
        self.assertEqual(second.sent, ["the answer"])

        # Where a person answers, nothing waits for a message any more.
        waiting = asyncio.create_task(self.pipeline(Event("3", "/"), answer=None, work=wait))
        await self.until(lambda: USER_SESSIONS)
        self.verdict = {"verdict": "hold", "generation": 4}
        await self.pipeline(Event("4", "for a person"))
        self.assertTrue(self.queue.empty())
        USER_SESSIONS[UMO].session_controller.stop()
        await asyncio.wait_for(waiting, 30)

    async def test_what_was_stopped_before_is_stored_and_ends_without_an_answer(self) -> None:
        event = Event("1", "/provider")
        await self.pipeline(event, stopped=True)
        self.assertEqual([path for path, _ in self.calls], ["inbound", "sent"])
        self.assertEqual((event.sent, self.outcomes()), ([], [("nothing", "")]))
        overheard = Event("2", "among people")
        overheard.is_at_or_wake_command = False
        await self.pipeline(overheard, stopped=True)
        self.assertEqual((len(self.called("inbound")), len(self.outcomes())), (2, 1))

    async def test_what_nobody_asked_about_does_not_go_out(self) -> None:
        self.verdict = {"verdict": "hold", "generation": 4}
        event = Event("1", "hello")
        # As AstrBot refuses a command, before any handler is called.
        InOrder().filter(event, {})
        await event.send(MessageChain().message("not for you"))
        await self.respond(event, "answer")
        unseen = Event("2", "hello")
        await self.respond(unseen, "answer")
        self.assertEqual((event.sent, unseen.sent, len(self.called("inbound"))), ([], [], 2))

    async def test_what_a_tool_sends_is_fenced_and_stored(self) -> None:
        event = Event("1", "hello")

        async def goes_out(_context, session, chain) -> bool:
            event.sent.append(chain.get_plain_text())
            return True

        async def work() -> None:
            await event.send(MessageChain(type="tool_call").message("a tool is used"))
            await event.send(MessageChain().message("of the tool"))
            await Context.send_message(self.context, event.session, MessageChain().message("by name"))

        await self.bridge.terminate()
        before, Context.send_message = Context.send_message, goes_out
        try:
            self.bridge = await self.placed()
            await self.pipeline(event, answer=None, work=work)
            self.assertEqual(event.sent, ["a tool is used", "of the tool", "by name"])
            self.assertEqual(self.outcomes(), [("sent", "of the tool"), ("sent", "by name")], "and no word of nothing")

            self.permission = {"send": False, "reason": "handed_over"}
            event = Event("2", "hello")

            async def refused() -> None:
                await event.send(MessageChain().message("of the tool"))
                with self.assertRaises(main.NotSent):
                    await Context.send_message(self.context, event.session, MessageChain().message("by name"))

            await self.pipeline(event, answer=None, work=refused)
            self.assertEqual((event.sent, len(self.outcomes())), ([], 2))
            self.assertIn(UMO, self.bridge.held, "a person answers")

            # By a timer: it answers no message.
            with self.assertRaises(main.NotSent):
                await Context.send_message(self.context, UMO, MessageChain().message("it is noon"))
            self.permission = {"send": True}
            await Context.send_message(self.context, UMO, MessageChain().message("it is noon"))
            self.assertEqual(self.called("outbound")[-1], {"umo": UMO})
            self.assertNotIn("platform_message_id", self.called("sent")[-1])
            self.assertEqual((event.sent, self.outcomes()[2:]), (["it is noon"], [("sent", "it is noon")]))
        finally:
            await self.bridge.terminate()
            Context.send_message = before

    async def test_an_answer_that_cannot_be_judged_does_not_go_out(self) -> None:
        event = Event("1", "hello")

        async def work() -> None:
            self.bridge._permits = None
            event.set_result(MessageEventResult().message("answer"))
            await self.bridge.departing(event)
            self.assertIsNone(event.get_result(), "AstrBot would send it all the same")
            await event.send(MessageChain().message("answer"))

        with self.assertLogs(self.bridge.logger, "ERROR"):
            await self.pipeline(event, answer=None, work=work)
        self.assertEqual((event.sent, self.outcomes()), ([], [("nothing", "")]))

    async def test_a_person_is_remembered_until_the_platform_says_otherwise(self) -> None:
        self.verdict = {"verdict": "hold", "generation": 4}
        await self.pipeline(Event("1", "hello"))
        self.verdict = {"verdict": "drop", "generation": 4}
        await self.pipeline(Event("1", "hello"))
        self.assertIn(UMO, self.bridge.held, "told twice")
        await self.bridge.terminate()
        await self.go_away()
        self.bridge = await self.placed()
        event = Event("2", "anybody there")
        await self.pipeline(event)
        self.assertEqual(event.sent, [], "also over a start of the bot, and while the platform is away")
        self.assertEqual(self.bridge.platform.journal.entries[0]["body"]["late"], "silent")
        self.verdict = {"verdict": "answer", "generation": 5}
        await self.come_back()
        await self.until(lambda: not self.bridge.platform.is_away)
        event = Event("3", "and now")
        await self.pipeline(event)
        self.assertEqual(event.sent, ["answer"])
        self.assertNotIn(UMO, self.bridge.held)

    async def test_an_answer_begun_while_away_is_fenced_when_the_platform_is_back(self) -> None:
        for number, late, sent in (("1", "answer", ["answer"]), ("2", "drop", []), ("3", "fenced", [])):
            await self.go_away()
            event = Event(number, "hello")

            async def work() -> None:
                await self.come_back()
                await self.until(lambda: not self.bridge.platform.is_away)

            self.verdict = {"verdict": "drop" if late == "drop" else "answer", "generation": 7}
            self.permission = {"send": False, "reason": "handed_over"} if late == "fenced" else {"send": True}
            await self.pipeline(event, work=work)
            self.assertEqual(event.sent, sent, late)
        generations = [body["generation"] for body in self.called("outbound")]
        self.assertEqual(generations, [7, 7])
        await self.go_away()
        event = Event("4", "hello")
        await self.pipeline(event)
        self.assertEqual(event.sent, [], "a person answers: the platform has said so")

    async def test_nobody_is_answered_whom_the_platform_will_not_judge(self) -> None:
        self.status = 401
        event = Event("1", "hello")
        await self.pipeline(event)
        # Nor while that waits to be told.
        later = Event("2", "hello")
        await self.pipeline(later)
        self.assertEqual((event.sent, later.sent), ([], []))
        self.status = 200
        await self.until(lambda: not self.bridge.platform.is_away)
        self.assertEqual([body["late"] for body in self.called("inbound")], ["silent", "silent"])

    async def test_an_answer_has_the_tokens_of_all_its_requests(self) -> None:
        event = Event("1", "hello")
        counted = TokenUsage(input_other=30, input_cached=5, output=7)
        last = LLMResponse(role="assistant", usage=TokenUsage(input_other=10, output=2))

        async def work() -> None:
            await self.bridge.thought(event, last)

        runner = SimpleNamespace(
            run_context=SimpleNamespace(context=SimpleNamespace(event=event)),
            stats=SimpleNamespace(token_usage=counted),
        )
        main.RUNNERS[UMO] = runner
        self.addCleanup(main.RUNNERS.pop, UMO, None)
        await self.pipeline(event, work=work)
        self.assertEqual(self.called("sent")[0]["usage"], {"prompt_tokens": 35, "completion_tokens": 7})
        main.RUNNERS.pop(UMO)
        event = Event("2", "hello")
        await self.pipeline(event, work=work)
        self.assertEqual(self.called("sent")[1]["usage"], {"prompt_tokens": 10, "completion_tokens": 2})

    async def test_what_was_put_in_place_is_taken_away_again(self) -> None:
        stands_in = (vars(SessionWaiter)["trigger"], Context.send_message)
        await self.bridge.terminate()
        self.assertNotIn("put_nowait", vars(self.queue))
        self.assertNotIn(vars(SessionWaiter)["trigger"], stands_in)
        self.assertIsNone(course_of(Event("1", "hello")))


if __name__ == "__main__":
    unittest.main()
