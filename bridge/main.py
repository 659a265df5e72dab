# SPDX-License-Identifier: AGPL-3.0-or-later
"""The hooks of AstrBot: every message of an IM channel, everything that goes out to one."""

import asyncio
import os
import sys
import uuid
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

from astrbot.api.event import AstrMessageEvent, filter
from astrbot.api.star import Context, Star
from astrbot.core.platform.astr_message_event import current_message_event
from astrbot.core.star.star import star_map
from astrbot.core.utils.session_waiter import SessionWaiter

from . import words
from .asking import Away, Platform, Refused, Seen
from .course import Asked, Course, Leaving, begin, course_of
from .journal import Full, Journal
from .remembering import Held, Remembered
from .turns import Turns

try:
    from astrbot.core.pipeline.process_stage.follow_up import _ACTIVE_AGENT_RUNNERS as RUNNERS
except ImportError:  # Then an answer with tools has the tokens of its last request alone.
    RUNNERS = {}

# The chat of the bot's own pages and API is the platform's own way already.
WEBCHAT = "webchat"
# Before all of AstrBot's own, which begin at one less; and after all.
FIRST = sys.maxsize
LAST = -sys.maxsize
STOP_S = 2

TURNS = Turns()


class NotSent(Exception):
    """The platform does not let the bot speak there."""


class InOrder(filter.CustomFilter):
    """Lets everything pass, and notes in which order it came. Filters are asked before anything is waited for; by the time
    that a handler is called, a later message may have overtaken an earlier one."""

    def filter(self, event: AstrMessageEvent, cfg) -> bool:
        bridge = Bridge.placed
        if bridge and event.get_platform_name() != WEBCHAT:
            bridge.follow(event)
        return True


class Bridge(Star):
    # The one that is at work.
    placed: "Bridge | None" = None

    def __init__(self, context: Context, config: dict | None = None) -> None:
        super().__init__(context)
        self.platform: Platform | None = None
        self.answers_when_away = True
        self.start = 0
        self.seen = Remembered()
        self.held: Held | None = None
        self.saving = asyncio.Lock()
        # Those that the platform has not heard of yet.
        self.unheard: weakref.WeakValueDictionary[tuple, Asked] = weakref.WeakValueDictionary()
        self.tasks: set[asyncio.Task] = set()
        self.undo: list[Callable[[], None]] = []

    async def initialize(self) -> None:
        url, token = os.environ.get("ASTRFLEET_BRIDGE_URL"), os.environ.get("ASTRFLEET_BRIDGE_TOKEN")
        self.answers_when_away = os.environ.get("ASTRFLEET_BRIDGE_WHEN_AWAY", "answer") != "silent"
        self.start = int(os.environ.get("ASTRFLEET_GENERATION", "0") or 0)
        self._protect(True)
        self._stand_in()
        Bridge.placed = self
        if not url or not token:
            self.logger.error("The platform's address is missing: IM channels are not answered.")
            return
        await self.open(url, token, Path(__file__).resolve().parents[2] / "plugin_data" / "astrfleet_bridge")

    async def open(self, url: str, token: str, folder: Path) -> None:
        """Goes on with what an earlier process left in a folder."""
        self.held = Held(folder / "held.json")
        try:
            await asyncio.to_thread(self.held.load)
        except OSError as error:
            self.logger.error("Where a person answers cannot be read: %s.", type(error).__name__)
        journal = Journal(folder / "waiting.jsonl")
        platform = Platform(url, token, journal, self.logger, self._heard)
        await platform.start()
        for entry in journal.entries:
            body = entry["body"]
            self.seen.note((body.get("umo"), body.get("platform_message_id")))
        self.platform = platform

    async def terminate(self) -> None:
        # What is reloaded must not pass for a part of AstrBot itself, which is looked for elsewhere.
        self._protect(False)
        while self.undo:
            self.undo.pop()()
        if Bridge.placed is self:
            Bridge.placed = None
        if self.tasks:
            await asyncio.wait(list(self.tasks), timeout=STOP_S)
        if self.platform:
            await self.platform.stop()

    def _protect(self, is_protected: bool) -> None:
        """As a part of AstrBot itself, no profile and no conversation goes without it."""
        metadata = star_map.get(type(self).__module__)
        if metadata:
            metadata.reserved = is_protected

    def _stand_in(self) -> None:
        """For the ways in and out that AstrBot has no hook for: a message that a plugin waits for, an event that is put
        into the queue once more, and what is said to a conversation by name."""
        bridge, queue = self, self.context.get_event_queue()
        trigger, send, put = SessionWaiter.trigger, Context.send_message, queue.put_nowait

        async def asked_first(cls, session_id, event) -> None:
            if event.get_platform_name() == WEBCHAT or await bridge.may_answer(event, is_meant=True):
                await trigger(session_id, event)

        async def fenced(context, session, message_chain) -> bool:
            return await bridge.say(str(session), message_chain, lambda: send(context, session, message_chain))

        def noted(event) -> None:
            course = course_of(event)
            if course:
                course.wait()
            put(event)

        self._replace(SessionWaiter, "trigger", classmethod(asked_first))
        self._replace(Context, "send_message", fenced)
        self._replace(queue, "put_nowait", noted)

    def _replace(self, owner, name: str, stand_in) -> None:
        if name in vars(owner):
            before = vars(owner)[name]
            self.undo.append(lambda: setattr(owner, name, before))
        else:
            self.undo.append(lambda: delattr(owner, name))
        setattr(owner, name, stand_in)

    # What comes in.

    def follow(self, event: AstrMessageEvent) -> Course:
        """Sees to it that nothing of an event goes out unasked, and that we hear of its end."""
        course = course_of(event) or begin(event, TURNS.enter(event.unified_msg_origin))
        course.run(event, self._let_out, self._ended)
        return course

    @filter.custom_filter(InOrder)
    @filter.event_message_type(filter.EventMessageType.ALL, priority=FIRST)
    async def arrived(self, event: AstrMessageEvent) -> None:
        if event.get_platform_name() != WEBCHAT and not await self.may_answer(event):
            event.stop_event()

    async def may_answer(self, event: AstrMessageEvent, is_meant: bool = False) -> bool:
        """The platform's word for a message, asked for once."""
        course = course_of(event) or self.follow(event)
        async with course.judging:
            if course.may_answer is None:
                course.may_answer = False
                try:
                    course.may_answer = await self._in_turn(event, course, is_meant)
                except Exception as error:  # Whatever it is, nobody is answered whom the platform knows nothing of.
                    self.logger.error("A message could not be judged: %s.", type(error).__name__)
            return course.may_answer

    async def _in_turn(self, event: AstrMessageEvent, course: Course, is_meant: bool) -> bool:
        try:
            await course.turn.wait()
            if self.platform is None:
                return False
            message_id = words.message_number(event) or uuid.uuid4().hex
            body = words.inbound(event, f"{self.start}-{uuid.uuid4().hex}", self.start, message_id, is_meant)
            course.asked = await self._judge(body, event.created_at)
            return course.asked is not None
        finally:
            TURNS.leave(course.umo, course.turn)

    async def _judge(self, body: dict, came_at: float) -> Asked | None:
        umo, message_id, is_addressed = body["umo"], body["platform_message_id"], body["addressed"]
        key = (umo, message_id)
        await self.platform.catch_up()
        if not self.platform.is_away:
            try:
                verdict = await self.platform.ask("inbound", body)
                self.seen.note(key)
                await self._heed(body, verdict)
                is_ours = verdict["verdict"] == "answer"
                return Asked(umo, message_id, is_addressed, verdict["generation"]) if is_ours else None
            except Refused as refused:
                self.logger.warning("The platform refused a message (%s): it is not answered.", refused)
                return None
            except Away:
                pass
        # Told twice while nobody can say so.
        if key in self.seen:
            return None
        answers = self._answers_by_itself(umo)
        body["late"] = ("answered" if answers else "silent") if is_addressed else None
        body["received_at_ms"] = int(came_at * 1000)
        asked = Asked(umo, message_id, is_addressed)
        if answers:
            self.unheard[key] = asked
        try:
            await self.platform.keep("inbound", body)
        except (Full, OSError) as error:
            self.logger.error("A message cannot be kept and is not answered: %s.", type(error).__name__)
            return None
        self.seen.note(key)
        return asked if answers else None

    def _answers_by_itself(self, umo: str) -> bool:
        """Whether the bot speaks while the platform is away. Not where it is there and does not judge: then its limits
        would count for nobody."""
        return self.answers_when_away and self.platform.seen is not Seen.MUTE and umo not in self.held

    async def _heed(self, body: dict, verdict: dict) -> None:
        word = verdict.get("verdict")
        if word == "hold":
            await self._remember(body["umo"], by_person=True)
        elif word == "answer" and not body.get("late"):
            await self._remember(body["umo"], by_person=False)

    async def _heard(self, path: str, body: dict, answer: dict) -> None:
        """What the platform says of something that it hears of later."""
        if path != "inbound":
            return
        await self._heed(body, answer)
        asked = self.unheard.pop((body.get("umo"), body.get("platform_message_id")), None)
        if asked:
            asked.hear(answer)

    async def _remember(self, umo: str, by_person: bool) -> None:
        """Who answers in a conversation; also over a start of the bot."""
        if not self.held.note(umo, by_person):
            return
        try:
            async with self.saving:
                await asyncio.to_thread(self.held.save, self.held.content())
        except OSError as error:
            self.logger.warning("Where a person answers cannot be kept: %s.", type(error).__name__)

    # What goes out.

    @filter.on_llm_response(priority=LAST)
    async def thought(self, event: AstrMessageEvent, response) -> None:
        course = course_of(event)
        usage = _usage(event, response)
        if course is None or course.asked is None or usage is None:
            return
        before = course.asked.usage or {"prompt_tokens": 0, "completion_tokens": 0}
        course.asked.usage = {
            "prompt_tokens": before["prompt_tokens"] + max(0, usage.input_other + usage.input_cached),
            "completion_tokens": before["completion_tokens"] + max(0, usage.output),
        }

    @filter.on_decorating_result(priority=LAST)
    async def departing(self, event: AstrMessageEvent) -> None:
        result = event.get_result()
        if event.get_platform_name() == WEBCHAT or result is None or not result.chain:
            return
        may = False
        try:
            # Whatever led here without having been asked about is asked about now.
            if await self._may_speak(event):
                course_of(event).leaving = Leaving(result, words.answer(result))
                may = True
        except Exception as error:  # AstrBot would send it all the same.
            self.logger.error("An answer could not be judged: %s.", type(error).__name__)
        if not may:
            event.clear_result()

    async def _may_speak(self, event: AstrMessageEvent) -> bool:
        if not await self.may_answer(event):
            return False
        asked = course_of(event).asked
        try:
            asked.is_denied = asked.is_denied or not await self._may_depart(asked)
        except BaseException:
            asked.is_denied = True
            raise
        return not asked.is_denied

    async def _may_depart(self, asked: Asked) -> bool:
        if not self.platform.is_away:
            if asked.generation is None:
                # The platform has refused what it was told of later.
                return False
            number = {"umo": asked.umo, "platform_message_id": asked.message_id}
            try:
                permission = await self.platform.ask("outbound", number | {"generation": asked.generation})
                # Where it may not go out, the platform has ended the message itself.
                asked.is_ended = not await self._permits(asked.umo, permission)
                return not asked.is_ended
            except Refused as refused:
                self.logger.warning("The platform refused an answer (%s): it is not sent.", refused)
                return False
            except Away:
                pass
        return self._answers_by_itself(asked.umo)

    async def _permits(self, umo: str, permission: dict) -> bool:
        if permission.get("reason") == "handed_over":
            await self._remember(umo, by_person=True)
        return permission.get("send") is True

    async def _let_out(self, event: AstrMessageEvent, course: Course, chain, send: Callable[[], Awaitable]):
        """Everything that an event sends: a result that was let out already, or something beside it, such as an error or
        what a tool has to show, which has no hook."""
        if not getattr(chain, "chain", None):
            return await send()
        leaving = course.leaving
        if leaving is not None and event.get_result() is leaving.result:
            leaving.sends.append(False)
            place = len(leaving.sends) - 1
            sent = await send()
            leaving.sends[place] = True
            return sent
        if not await self._may_speak(event):
            return None
        return await self._say(course, chain, send)

    async def say(self, umo: str, chain, send: Callable[[], Awaitable[bool]]) -> bool:
        """What is said to a conversation by name: by a tool, a timer or a plugin."""
        if umo.split(":")[0] == WEBCHAT:
            return await send()
        event = current_message_event.get()
        course = course_of(event) if event is not None and event.unified_msg_origin == umo else None
        if course is not None:
            if not await self._may_speak(event):
                raise NotSent("the platform does not let the bot speak here any more: nothing was sent")
            return await self._say(course, chain, send)
        if not await self._may_begin(umo):
            raise NotSent("a person answers in that conversation, or it is closed: nothing was sent")
        sent = await send()
        if sent is not False:
            told = {"umo": umo, "told_id": uuid.uuid4().hex, "outcome": "sent", "text": words.answer(chain)}
            await self.platform.tell("sent", told)
        return sent

    async def _say(self, course: Course, chain, send: Callable[[], Awaitable]):
        try:
            sent = await send()
        except Exception:
            course.has_failed_send = True
            raise
        # Which tool it uses is no part of the answer.
        if sent is not False and getattr(chain, "type", None) != "tool_call":
            course.asked.answers += 1
            await self._tell(course.asked, "sent", words.answer(chain))
        return sent

    async def _may_begin(self, umo: str) -> bool:
        """Whether the bot may say something that answers no message."""
        if self.platform is None:
            return False
        if not self.platform.is_away:
            try:
                return await self._permits(umo, await self.platform.ask("outbound", {"umo": umo}))
            except Refused as refused:
                self.logger.warning("The platform refused what a bot says by itself (%s): it is not sent.", refused)
                return False
            except Away:
                pass
        return self._answers_by_itself(umo)

    @filter.after_message_sent(priority=LAST)
    async def departed(self, event: AstrMessageEvent) -> None:
        course = course_of(event)
        if course is None or course.leaving is None:
            return
        leaving, course.leaving = course.leaving, None
        if leaving.sends:
            course.asked.answers += 1
            await self._tell(course.asked, "sent" if all(leaving.sends) else "not_sent", leaving.text)

    def _ended(self, event: AstrMessageEvent, course: Course, is_over: bool) -> None:
        # It may have been stopped before it came to us, and nobody is to wait for it.
        if not is_over or course.may_answer is False:
            TURNS.leave(course.umo, course.turn)
            return
        task = asyncio.get_running_loop().create_task(self._tell_end(event, course))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _tell_end(self, event: AstrMessageEvent, course: Course) -> None:
        # What AstrBot has kept from us, such as a command that is not for everybody, is stored all the same.
        if not await self.may_answer(event):
            return
        asked = course.asked
        if asked.answers or asked.is_ended or not asked.is_addressed:
            return
        is_merged = event.get_extra("_follow_up_captured")
        await self._tell(asked, "merged" if is_merged else "not_sent" if course.has_failed_send else "nothing", "")

    async def _tell(self, asked: Asked, outcome: str, text: str) -> None:
        usage, asked.usage = asked.usage, None
        body = {
            "umo": asked.umo,
            "platform_message_id": asked.message_id,
            "told_id": uuid.uuid4().hex,
            "outcome": outcome,
            "text": text,
            "usage": usage,
        }
        await self.platform.tell("sent", body)


def _usage(event: AstrMessageEvent, response):
    """What an answer took: all requests of the agent that gave it, or the last one where nobody has counted them."""
    runner = RUNNERS.get(event.unified_msg_origin)
    works_for = getattr(getattr(getattr(runner, "run_context", None), "context", None), "event", None)
    counted = getattr(getattr(runner, "stats", None), "token_usage", None) if works_for is event else None
    return counted if counted is not None and counted.total else getattr(response, "usage", None)
