# SPDX-License-Identifier: AGPL-3.0-or-later
"""The hooks of AstrBot: every message of an IM channel, every answer to one."""

import asyncio
import os
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path

from astrbot.api.event import AstrMessageEvent, filter
from astrbot.api.star import Context, Star
from astrbot.core.star.star import star_map

from . import words
from .asking import Away, Platform, Refused
from .journal import Full, Journal

# The chat of the bot's own pages and API is the platform's own way already.
WEBCHAT = "webchat"
ASKED = "astrfleet_asked"
TURN = "astrfleet_turn"
REMEMBERED_MAX = 10_000
FIRST = 10_000
LAST = -10_000


@dataclass
class Asked:
    """A message that the bot may answer."""

    umo: str
    message_id: str
    generation: int
    # Nobody was asked: the platform was away.
    is_kept: bool
    is_addressed: bool
    is_denied: bool = False
    answers: int = 0
    text: str = ""
    sends: list[bool] = field(default_factory=list)
    usage: dict | None = None


class Remembered(OrderedDict):
    """The newest of many."""

    def note(self, key, value=True) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > REMEMBERED_MAX:
            self.popitem(last=False)


class Turns:
    """One after the other within a conversation, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Event]] = {}

    def enter(self, umo: str) -> asyncio.Event:
        """A place at the end of a conversation's queue."""
        turn = asyncio.Event()
        queue = self._waiting.setdefault(umo, deque())
        queue.append(turn)
        queue[0].set()
        return turn

    def leave(self, umo: str, turn: asyncio.Event) -> None:
        """Gives a place back; twice is the same as once."""
        queue = self._waiting.get(umo)
        if not queue or turn not in queue:
            return
        queue.remove(turn)
        if queue:
            queue[0].set()
        else:
            del self._waiting[umo]


TURNS = Turns()


class InOrder(filter.CustomFilter):
    """Lets everything pass, and notes in which order it came. Filters are asked before anything is waited for; by the time
    that a handler is called, a later message may have overtaken an earlier one."""

    def filter(self, event: AstrMessageEvent, cfg) -> bool:
        if event.get_platform_name() != WEBCHAT and event.get_extra(TURN) is None:
            umo = event.unified_msg_origin
            turn, clean_up = TURNS.enter(umo), event.cleanup_temporary_local_files
            event.set_extra(TURN, turn)

            def noted_end() -> None:
                # It may have been stopped before it came to us.
                TURNS.leave(umo, turn)
                clean_up()

            event.cleanup_temporary_local_files = noted_end
        return True


class Bridge(Star):
    def __init__(self, context: Context, config: dict | None = None) -> None:
        super().__init__(context)
        self.platform: Platform | None = None
        self.answers_when_away = True
        self.start = 0
        self.seen = Remembered()
        self.held = Remembered()
        self.tasks: set[asyncio.Task] = set()

    async def initialize(self) -> None:
        url, token = os.environ.get("ASTRFLEET_BRIDGE_URL"), os.environ.get("ASTRFLEET_BRIDGE_TOKEN")
        self.answers_when_away = os.environ.get("ASTRFLEET_BRIDGE_WHEN_AWAY", "answer") != "silent"
        self.start = int(os.environ.get("ASTRFLEET_GENERATION", "0") or 0)
        self._protect(True)
        if not url or not token:
            self.logger.error("The platform's address is missing: IM channels are not answered.")
            return
        data = Path(__file__).resolve().parents[2]
        journal = Journal(data / "plugin_data" / "astrfleet_bridge" / "waiting.jsonl")
        platform = Platform(url, token, journal, self.logger)
        await platform.start()
        for entry in journal.entries:
            body = entry["body"]
            self.seen.note((body.get("umo"), body.get("platform_message_id")))
        self.platform = platform

    async def terminate(self) -> None:
        # What is reloaded must not pass for a part of AstrBot itself, which is looked for elsewhere.
        self._protect(False)
        for task in list(self.tasks):
            await asyncio.wait([task], timeout=2)
        if self.platform:
            await self.platform.stop()

    def _protect(self, is_protected: bool) -> None:
        """As a part of AstrBot itself, no profile and no conversation goes without it."""
        metadata = star_map.get(type(self).__module__)
        if metadata:
            metadata.reserved = is_protected

    @filter.custom_filter(InOrder)
    @filter.event_message_type(filter.EventMessageType.ALL, priority=FIRST)
    async def arrived(self, event: AstrMessageEvent) -> None:
        if event.get_platform_name() == WEBCHAT:
            return
        may_answer = False
        try:
            may_answer = self.platform is not None and await self._in_turn(event)
        except Exception as error:  # Whatever it is, nobody is answered whom the platform knows nothing of.
            self.logger.error("A message could not be judged: %s.", type(error).__name__)
        if not may_answer:
            event.stop_event()

    async def _in_turn(self, event: AstrMessageEvent) -> bool:
        umo = event.unified_msg_origin
        turn = event.get_extra(TURN) or TURNS.enter(umo)
        try:
            await turn.wait()
            return await self._judge(event, umo)
        finally:
            TURNS.leave(umo, turn)

    async def _judge(self, event: AstrMessageEvent, umo: str) -> bool:
        message_id = words.number(str(getattr(event.message_obj, "message_id", "") or "")) or uuid.uuid4().hex
        body = words.inbound(event, f"{self.start}-{uuid.uuid4().hex}", self.start, message_id)
        key = (umo, message_id)
        if not self.platform.is_away:
            try:
                verdict = await self.platform.ask("inbound", body)
                self.seen.note(key)
                return self._heed(event, verdict, body)
            except Refused as refused:
                self.logger.warning("The platform refused a message (%s): it is not answered.", refused)
                return False
            except Away:
                pass
        # Told twice while nobody can say so.
        if key in self.seen:
            return False
        answers = self.answers_when_away and umo not in self.held
        body["late"] = "answered" if answers and body["addressed"] else "silent" if body["addressed"] else None
        body["received_at_ms"] = int(event.created_at * 1000)
        try:
            await self.platform.keep("inbound", body)
        except (Full, OSError) as error:
            self.logger.error("A message cannot be kept and is not answered: %s.", type(error).__name__)
            return False
        self.seen.note(key)
        if answers:
            self._follow(event, Asked(umo, message_id, 0, True, body["addressed"]))
        return answers

    def _heed(self, event: AstrMessageEvent, verdict: dict, body: dict) -> bool:
        umo = body["umo"]
        if verdict["verdict"] == "hold":
            self.held.note(umo)
        else:
            self.held.pop(umo, None)
        if verdict["verdict"] != "answer":
            return False
        asked = Asked(umo, body["platform_message_id"], verdict["generation"], False, body["addressed"])
        self._follow(event, asked)
        return True

    def _follow(self, event: AstrMessageEvent, asked: Asked) -> None:
        """Sees to it that we hear how the answer goes."""
        event.set_extra(ASKED, asked)
        # Half an answer cannot be kept back.
        event.set_extra("enable_streaming", False)
        send, clean_up = event.send, event.cleanup_temporary_local_files

        async def noted_send(message, *args, **kwargs):
            asked.sends.append(False)
            place = len(asked.sends) - 1
            sent = await send(message, *args, **kwargs)
            asked.sends[place] = True
            return sent

        def noted_end() -> None:
            clean_up()
            self._ended(event, asked)

        event.send = noted_send
        # Called when everything that is done about a message is done.
        event.cleanup_temporary_local_files = noted_end

    @filter.on_llm_response(priority=LAST)
    async def thought(self, event: AstrMessageEvent, response) -> None:
        asked, usage = event.get_extra(ASKED), getattr(response, "usage", None)
        if asked is None or usage is None:
            return
        before = asked.usage or {"prompt_tokens": 0, "completion_tokens": 0}
        asked.usage = {
            "prompt_tokens": before["prompt_tokens"] + max(0, usage.input_other + usage.input_cached),
            "completion_tokens": before["completion_tokens"] + max(0, usage.output),
        }

    @filter.on_decorating_result(priority=LAST)
    async def departing(self, event: AstrMessageEvent) -> None:
        asked, result = event.get_extra(ASKED), event.get_result()
        if asked is None or result is None or not result.chain:
            return
        asked.is_denied = asked.is_denied or not await self._may_depart(asked)
        if asked.is_denied:
            event.clear_result()
            return
        asked.text, asked.sends = words.answer(result), []

    async def _may_depart(self, asked: Asked) -> bool:
        if asked.is_kept:
            return True
        if not self.platform.is_away:
            number = {"umo": asked.umo, "platform_message_id": asked.message_id}
            try:
                permission = await self.platform.ask("outbound", number | {"generation": asked.generation})
                return permission["send"] is True
            except Refused as refused:
                self.logger.warning("The platform refused an answer (%s): it is not sent.", refused)
                return False
            except Away:
                pass
        may = self.answers_when_away and asked.umo not in self.held
        if not may:
            await self._tell(asked, "nothing", "")
        return may

    @filter.after_message_sent(priority=LAST)
    async def departed(self, event: AstrMessageEvent) -> None:
        asked = event.get_extra(ASKED)
        if asked is None or asked.is_denied or not asked.sends:
            return
        outcome = "sent" if all(asked.sends) else "not_sent"
        asked.answers += 1
        text, asked.sends = asked.text, []
        await self._tell(asked, outcome, text)

    def _ended(self, event: AstrMessageEvent, asked: Asked) -> None:
        if asked.answers or asked.is_denied or not asked.is_addressed:
            return
        outcome = "merged" if event.get_extra("_follow_up_captured") else "nothing"
        task = asyncio.get_running_loop().create_task(self._tell(asked, outcome, ""))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

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
