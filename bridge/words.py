# SPDX-License-Identifier: AGPL-3.0-or-later
"""A message of AstrBot as the platform reads it. Nothing here waits or asks anybody."""

import hashlib

TEXT_BYTES_MAX = 32 << 10
ANSWER_BYTES_MAX = 128 << 10
PARTS_MAX = 20
NUMBER_BYTES_MAX = 256
ACCOUNT_BYTES_MAX = 64
# What is part of the text, or of how it is shown.
NO_PARTS = {"plain", "at", "reply"}


def cut(text: str, bytes_max: int) -> str:
    """The beginning of a text, in whole letters."""
    encoded = text.encode(errors="replace")
    return encoded.decode() if len(encoded) <= bytes_max else encoded[:bytes_max].decode(errors="ignore")


def number(text: str) -> str:
    """What names something, without what no name has."""
    return cut("".join(letter for letter in text if letter.isprintable()), NUMBER_BYTES_MAX)


def message_number(event) -> str | None:
    """The IM platform's own number of a message; nothing where it has none. Some count for each account by itself, and
    a channel may get another account: so the account is part of it."""
    message = "".join(letter for letter in str(getattr(event.message_obj, "message_id", "") or "") if letter.isprintable())
    if not message:
        return None
    account = cut(number(str(event.get_self_id() or "")), ACCOUNT_BYTES_MAX)
    whole = f"{message}@{account}" if account else message
    if len(whole.encode(errors="replace")) <= NUMBER_BYTES_MAX:
        return number(whole)
    return f"{hashlib.sha256(whole.encode(errors='replace')).hexdigest()}@{account}"


def parts(chain) -> list[dict]:
    """Everything of a message that is no text."""
    found = []
    for component in chain or []:
        kind = str(getattr(getattr(component, "type", None), "value", "") or type(component).__name__).lower()
        if kind not in NO_PARTS and len(found) < PARTS_MAX:
            name = getattr(component, "name", None)
            found.append({"kind": kind, "name": cut(name, 512) if isinstance(name, str) else ""})
    return found


def inbound(event, delivery: str, start: int, message_id: str, is_meant: bool) -> dict:
    """A message that a channel brought. The bot is meant also where something of it waits for this message."""
    said = getattr(event.message_obj, "message_str", None)
    text, others = (said if isinstance(said, str) and said else event.message_str) or "", parts(event.get_messages())
    if not text and not others:
        # A mention and nothing else.
        text = event.get_message_outline()
    sender = number(event.get_sender_id()) or "unknown"
    return {
        "channel": event.get_platform_id(),
        "umo": event.unified_msg_origin,
        "platform_message_id": message_id,
        "delivery": delivery,
        "start": start,
        "sender": {"id": sender, "name": cut(event.get_sender_name() or "", 512)},
        "text": cut(text, TEXT_BYTES_MAX),
        "parts": others,
        "addressed": is_meant or bool(event.is_at_or_wake_command),
    }


def answer(result) -> str:
    """What is about to go out, with a line for everything that is no text."""
    lines = [result.get_plain_text()] if result.get_plain_text() else []
    for part in parts(result.chain):
        lines.append(f"[{part['kind']}: {part['name']}]" if part["name"] else f"[{part['kind']}]")
    return cut("\n".join(lines), ANSWER_BYTES_MAX)
