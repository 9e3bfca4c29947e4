"""Turns a row (a JSON object) into a conversation, or into a prompt with answers to compare."""

from dataclasses import dataclass, field

from . import guard
from .bad_row import IDENTICAL, MALFORMED, NO_ASSISTANT, BadRow, found
from .formats import TALKS
from .messages import meaning, read_fields, read_messages, text_of, with_system
from .rows import COMPARISONS, CONVERSATIONS, MOST_ANSWERS

KIND_NAMES = {CONVERSATIONS: "conversations", COMPARISONS: "comparisons"}
EXPECTED = 'expected "messages", or "chosen" and "rejected", or "answers" (or "conversations", or "instruction" and "output", or "prompt" and "unsafe")'


@dataclass
class Conversation:
    """`fields` are for the template, beside the messages; see read_fields."""

    messages: list[dict]
    fields: dict = field(default_factory=dict)


@dataclass
class Comparison:
    """`answers` come best first; each is a list of messages that follow the prompt's."""

    prompt: list[dict]
    answers: list[list[dict]]
    fields: dict = field(default_factory=dict)


def kinds_of(row: dict) -> list[int]:
    """The kinds whose fields the row has. The row is in our fields; see formats.standard."""
    compares = "answers" in row or ("chosen" in row and "rejected" in row)
    return [CONVERSATIONS] * (any(name in row for name in TALKS) or _is_labelled(row)) + [COMPARISONS] * compares


def _is_labelled(row: dict) -> bool:
    """Whether it is a guard's: a conversation, and whether it is unsafe."""
    return "prompt" in row and "unsafe" in row and not any(name in row for name in (*TALKS, "chosen", "answers"))


def read_row(row: dict, kind: int, system: str | None) -> Conversation | Comparison:
    return _read_comparison(row, system) if kind == COMPARISONS else _read_conversation(row, system)


def read_talk(row: dict) -> tuple[str, list[dict]]:
    """The name of the field that holds the conversation, and its messages."""
    name = next(name for name in TALKS if name in row)
    return name, read_messages(name, row[name])


def _read_conversation(row: dict, system: str | None) -> Conversation:
    if _is_labelled(row):
        return Conversation(_read_verdict(row))
    name, messages = read_talk(row)
    if all(message["role"] != "assistant" for message in messages):
        raise BadRow(NO_ASSISTANT, f'"{name}": no assistant\'s turn')
    return Conversation(with_system(messages, row, system), read_fields(row))


def _read_verdict(row: dict) -> list[dict]:
    """What a guard is asked about the prompt and the answer, if there is one, and what it should say."""
    said = read_messages("prompt", row["prompt"], "user")
    if "answer" in row:
        said = said + read_messages("answer", row["answer"], "assistant")
    unsafe, categories = row["unsafe"], row.get("categories", [])
    if not isinstance(unsafe, bool):
        raise BadRow(MALFORMED, f'"unsafe": {found(unsafe)}, expected true or false')
    if not isinstance(categories, list) or not all(isinstance(name, str) and name.strip() for name in categories):
        raise BadRow(MALFORMED, f'"categories": {found(categories)}, expected a list of texts')
    return [*guard.question(said, False), {"role": "assistant", "content": guard.verdict(unsafe, categories)}]


def _named_answers(row: dict) -> dict:
    if "answers" not in row:
        edited = {"edited": row["edited"]} if row.get("edited") else {}
        return edited | {"chosen": row["chosen"], "rejected": row["rejected"]}
    answers = row["answers"]
    if not isinstance(answers, list) or not 2 <= len(answers) <= MOST_ANSWERS:
        found = f"{len(answers)}" if isinstance(answers, list) else "none"
        raise BadRow(MALFORMED, f'"answers": {found}, expected a list of 2 or {MOST_ANSWERS}, best first')
    return {f"answers[{number}]": answer for number, answer in enumerate(answers)}


def _read_comparison(row: dict, system: str | None) -> Comparison:
    named = {name: read_messages(name, value, "assistant") for name, value in _named_answers(row).items()}
    whole = [messages[0]["role"] != "assistant" for messages in named.values() if messages]
    prompt = read_messages("prompt", row["prompt"], "user") if row.get("prompt") is not None else None
    if any(whole):
        prompt = _common_prompt(named, row.get("prompt"), prompt)
        named = {name: messages[len(prompt) :] for name, messages in named.items()}
    elif prompt is None:
        raise BadRow(MALFORMED, 'no "prompt", and the answers are no whole conversations')
    for name, messages in named.items():
        if not messages or messages[0]["role"] != "assistant" or messages[-1]["role"] != "assistant":
            raise BadRow(NO_ASSISTANT, f'"{name}": expected an assistant\'s turn first and last after the prompt')
    _check_different(named)
    return Comparison(with_system(prompt, row, system), list(named.values()), read_fields(row))


def _common_prompt(named: dict[str, list[dict]], given, prompt: list[dict] | None) -> list[dict]:
    """The messages with which all conversations begin. The row's own prompt must be part of them."""
    first, *others = named.values()
    shortest = min(map(len, named.values()))
    count = 0
    while count < shortest - 1 and all(meaning(messages[count]) == meaning(first[count]) for messages in others):
        count += 1
    common = first[:count]
    if isinstance(given, str):
        if all(text_of(message).strip() != given.strip() for message in common):
            raise BadRow(MALFORMED, '"prompt": is not in what the answers have in common')
    elif prompt is not None and list(map(meaning, common[: len(prompt)])) != list(map(meaning, prompt)):
        raise BadRow(MALFORMED, '"prompt": is not how the answers begin')
    if not common:
        raise BadRow(MALFORMED, "the answers have no message in common that could be the prompt")
    return common


def _check_different(named: dict[str, list[dict]]) -> None:
    compare({name: list(map(meaning, messages)) for name, messages in named.items()}, IDENTICAL, "are the same")


def compare(answers: dict[str, object], reason: str, text: str) -> None:
    seen = {}
    for name, answer in answers.items():
        key = repr(answer)
        if key in seen:
            raise BadRow(reason, f'"{seen[key]}" and "{name}" {text}')
        seen[key] = name
