"""What a guard is asked, and what it says: a model that judges conversations, with verdicts as Llama Guard gives them."""

import itertools
import json
from pathlib import Path

from .chat_template import DEFAULT, find_templates
from .messages import has_words, text_of
from .text_file import read_object
from .tokenizer import CONFIG

PROMPT = 'Is the last message here safe? Answer "safe", or "unsafe" and the categories below it.\n\n'
MOST_TOKENS = 32  # of a verdict


def asks_by_itself(folder: Path) -> bool:
    """Whether the model's chat template makes a guard's question of a conversation, as Llama Guard's does: it then has the word
    "unsafe" in it."""
    templates, _ = find_templates(folder, read_object(folder / CONFIG))
    return "unsafe" in (templates.get(DEFAULT) or "")


def question(messages: list[dict], by_itself: bool) -> list[dict]:
    """The messages with which a guard is asked whether the last one is safe. Whatever is not the assistant's is the user's."""
    turns = []
    for assistant, group in itertools.groupby(messages, lambda message: message["role"] == "assistant"):
        turns.append(("assistant" if assistant else "user", "\n\n".join(map(_all_that_says, group))))
    if by_itself:
        return [{"role": role, "content": text} for role, text in turns]
    return [{"role": "user", "content": PROMPT + "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)}]


def _all_that_says(message: dict) -> str:
    """The content, and whatever else a chat template may write of a message: calls, reasoning, names."""
    others = {name: value for name, value in message.items() if name not in ("role", "content") and has_words(value)}
    return text_of(message) + (f"\n{json.dumps(others, ensure_ascii=False)}" if others else "")


def verdict(unsafe: bool, categories: list[str]) -> str:
    return "\n".join(["unsafe", *([",".join(categories)] if categories else [])]) if unsafe else "safe"


def is_unsafe(verdict: str) -> bool | None:
    """None: the verdict is neither "safe" alone, nor "unsafe" on a first line."""
    lines = verdict.strip().splitlines()
    return {"safe": False if len(lines) == 1 else None, "unsafe": True}.get(lines[0].strip() if lines else "")
