# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the bridge adds to a message before its answer goes out: asking once when it arrives and once when the answer
departs, by the bridge's own client, against the platform of the environment. Prints milliseconds as JSON."""

import asyncio
import json
import logging
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

from astrfleet_bridge.asking import Platform
from astrfleet_bridge.journal import Journal


async def one(platform: Platform, umo: str) -> list[float]:
    number = {"umo": umo, "platform_message_id": uuid.uuid4().hex}
    body = number | {
        "channel": umo.split(":")[0],
        "delivery": f"0-{uuid.uuid4().hex}",
        "start": 0,
        "sender": {"id": "1", "name": "cost"},
        "text": "What does it cost to ask?",
        "parts": [],
        "addressed": True,
    }
    times = [time.perf_counter()]
    verdict = await platform.ask("inbound", body)
    times.append(time.perf_counter())
    await platform.ask("outbound", number | {"generation": verdict["generation"]})
    times.append(time.perf_counter())
    await platform.ask("sent", number | {"told_id": uuid.uuid4().hex, "outcome": "sent", "text": "Nothing."})
    times.append(time.perf_counter())
    return [1_000 * (later - earlier) for earlier, later in zip(times, times[1:])]


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        platform = Platform(
            os.environ["ASTRFLEET_BRIDGE_URL"],
            os.environ["ASTRFLEET_BRIDGE_TOKEN"],
            Journal(Path(folder) / "waiting.jsonl"),
            logging.getLogger(),
        )
        await platform.start()
        umo = f"cost:FriendMessage:{uuid.uuid4().hex}"
        for _ in range(20):
            await one(platform, umo)
        took = [await one(platform, umo) for _ in range(count)]
        await platform.stop()
    columns = dict(zip(["inbound", "outbound", "sent"], zip(*took)))
    columns["added"] = [inbound + outbound for inbound, outbound, _ in took]
    shown = {}
    for name, times in columns.items():
        ordered = sorted(times)
        shown[name] = {f"p{q}": round(ordered[min(count - 1, count * q // 100)], 2) for q in (50, 95, 99)}
    print(json.dumps(shown))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
