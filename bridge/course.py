# SPDX-License-Identifier: AGPL-3.0-or-later
"""The course of a message: from its arrival to the end of everything that is done about it. AstrBot carries it in an event,
and sometimes on in a copy of that event; all of them have the same course. What is done at its turns is in `main`."""

import asyncio
import weakref
from dataclasses import dataclass, field

COURSE = "astrfleet_course"


@dataclass(eq=False)
class Asked:
    """A message that the bot may answer."""

    umo: str
    message_id: str
    is_addressed: bool
    # Of the session, as the verdict had it. Missing where the platform was away and has not heard of the message yet.
    generation: int | None = None
    # Nothing more goes out.
    is_denied: bool = False
    # The platform knows its end, or somebody else is to answer it.
    is_ended: bool = False
    # What was told of: whether it went out or not.
    answers: int = 0
    usage: dict | None = None

    def hear(self, verdict: dict) -> None:
        """What the platform says of a message that it hears of later."""
        self.generation = verdict.get("generation")
        if verdict.get("verdict") == "drop":
            self.is_denied = self.is_ended = True


@dataclass
class Leaving:
    """A result that was let out and is being sent, in one piece or in several."""

    result: object
    text: str
    sends: list[bool] = field(default_factory=list)


class Course:
    def __init__(self, event, turn: asyncio.Event) -> None:
        # As it is when it is asked about: AstrBot changes the words of the event later.
        self.umo: str = event.unified_msg_origin
        self.turn = turn
        self.judging = asyncio.Lock()
        # Nobody has judged yet.
        self.may_answer: bool | None = None
        # Only where the bot may answer.
        self.asked: Asked | None = None
        self.leaving: Leaving | None = None
        self.has_failed_send = False
        # Pipelines that it is in, and events of it that wait for one.
        self._running = 0
        self._waiting = 0
        self._carriers: weakref.WeakSet = weakref.WeakSet()

    def wait(self) -> None:
        """An event of it was put into the queue once more."""
        self._waiting += 1

    def run(self, event, send, ended) -> None:
        """An event of it is in a pipeline: from now on what it sends goes through `send`. When nothing is done about the
        message any more, `ended` is called."""
        if event not in self._carriers:
            # Of a copy, what it has here is the way of the event that it was made of.
            goes_out = type(event).send.__get__(event)
            self._carriers.add(event)

            async def let_out(message=None, *args, **kwargs):
                return await send(event, self, message, lambda: goes_out(message, *args, **kwargs))

            event.send = let_out
            # Half an answer cannot be kept back.
            event.set_extra("enable_streaming", False)
        self._running += 1
        self._waiting = max(0, self._waiting - 1)

        def done(_task: asyncio.Task) -> None:
            self._running -= 1
            if not self._running:
                ended(event, self, is_over=not self._waiting)

        task = asyncio.current_task()
        if task:
            task.add_done_callback(done)


def course_of(event) -> Course | None:
    return getattr(event, COURSE, None)


def begin(event, turn: asyncio.Event) -> Course:
    course = Course(event, turn)
    setattr(event, COURSE, course)
    return course
