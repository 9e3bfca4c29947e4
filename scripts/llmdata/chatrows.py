"""Rows of chat data: a JSON object becomes messages, messages become the tokens of a row with what is trained of them.

Trained are what an assistant says and the token behind it that ends its turn; headers and everything else are not. All that
the template itself writes is FORMAT.
"""

import json
import re
from dataclasses import dataclass

import numpy as np

from llmtext.chat import Piece, Template

from .errors import InputError
from .rows import COMPARISONS, CONVERSATIONS, FORMAT, MOST_ANSWERS, TRAINED, Row

ROLES = ("system", "user", "assistant", "tool", "ipython")
KIND_NAMES = {CONVERSATIONS: "conversations", COMPARISONS: "comparisons"}

HALF_PAIR = re.compile("[\ud800-\udfff]")

# Why a row is left out: the keys under which meta.json counts them.
MALFORMED, UNKNOWN_ROLE, EMPTY, NO_ASSISTANT = "malformed", "unknown_role", "empty", "no_assistant_turn"
TEMPLATE, MASKED, TOO_LONG = "template", "nothing_trained", "too_long"
IDENTICAL, NO_DIFFERENCE, SPECIAL = "identical_answers", "no_difference_in_tokens", "special_token_in_text"
REASONS = (
    MALFORMED, UNKNOWN_ROLE, EMPTY, NO_ASSISTANT, TEMPLATE, MASKED, TOO_LONG, IDENTICAL, NO_DIFFERENCE, SPECIAL,
)  # fmt: skip


class BadRow(Exception):
    """A row that is left out: the reason it is counted under, and what is wrong in words."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


@dataclass
class Conversation:
    messages: list[dict]


@dataclass
class Comparison:
    """`answers`: messages behind those of the prompt, best first."""

    prompt: list[dict]
    answers: list[list[dict]]


# ---- what a row says


def kinds_of(row: dict) -> list[int]:
    """The kinds whose fields it has."""
    compares = "answers" in row or ("chosen" in row and "rejected" in row)
    return [CONVERSATIONS] * ("messages" in row) + [COMPARISONS] * compares


def read_row(row: dict, kind: int, system: str | None) -> Conversation | Comparison:
    for name in ("tools", "functions"):
        if row.get(name):
            raise BadRow(MALFORMED, f'"{name}": not read; write them into the system message')
    return _read_comparison(row, system) if kind == COMPARISONS else _read_conversation(row, system)


def _read_conversation(row: dict, system: str | None) -> Conversation:
    messages = with_system(read_messages("messages", row.get("messages")), system)
    _check_assistant("messages", messages)
    return Conversation(messages)


def read_messages(name: str, value, text_role: str | None = None) -> list[dict]:
    """A list of messages; or, where `text_role` says whose, a text that is a single one."""
    if isinstance(value, str) and text_role:
        value = [{"role": text_role, "content": value}]
    if not isinstance(value, list):
        raise BadRow(MALFORMED, f'"{name}": expected a list of messages{" or a text" if text_role else ""}')
    if not value:
        raise BadRow(EMPTY, f'"{name}": no message')
    messages = [_message(f"{name}[{number}]", message) for number, message in enumerate(value)]
    return [message for message in messages if message is not None]


def _message(where: str, value) -> dict | None:
    """{"role", "content"} and, if it is not to be trained, {"masked"}; an empty system message is none."""
    if not isinstance(value, dict):
        raise BadRow(MALFORMED, f'"{where}": expected an object with "role" and "content"')
    role, content, weight = value.get("role"), value.get("content"), value.get("weight")
    if not isinstance(role, str):
        raise BadRow(MALFORMED, f'"{where}": expected a text under "role"')
    if role not in ROLES:
        raise BadRow(UNKNOWN_ROLE, f'"{where}": role {_found(role)}, expected one of {", ".join(ROLES)}')
    if value.get("tool_calls") or value.get("function_call"):
        raise BadRow(MALFORMED, f'"{where}": calls of tools are not read; write them as what the assistant says')
    if not isinstance(content, str):
        raise BadRow(MALFORMED, f'"{where}": expected a text under "content"')
    if HALF_PAIR.search(content):
        raise BadRow(MALFORMED, f'"{where}": half a surrogate pair, expected Unicode text')
    if weight is not None and weight not in (0, 1):
        raise BadRow(MALFORMED, f'"{where}": weight {_found(weight)}, expected 0 or 1')
    if not content.strip():
        if role == "system":
            return None
        raise BadRow(EMPTY, f'"{where}": the {role} says nothing')
    return {"role": role, "content": content} | ({"masked": True} if weight == 0 else {})


def _found(value) -> str:
    """A row's value in few words; nothing in it begins a line or is a terminal's code."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value[:40] if isinstance(value, str) else value, default=str)[:250]


def with_system(messages: list[dict], system: str | None) -> list[dict]:
    if not system or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _check_assistant(name: str, messages: list[dict]) -> None:
    if not messages:
        raise BadRow(EMPTY, f'"{name}": no message')
    if all(message["role"] != "assistant" for message in messages):
        raise BadRow(NO_ASSISTANT, f'"{name}": no assistant\'s turn')


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
            raise BadRow(NO_ASSISTANT, f'"{name}": expected an assistant\'s turn at its begin and end, behind the prompt')
    _check_different(named)
    return Comparison(with_system(prompt, system), list(named.values()))


def _common_prompt(named: dict[str, list[dict]], given, prompt: list[dict] | None) -> list[dict]:
    """What whole conversations have in common at their begin; the prompt given beside them is a part of it."""
    first, *others = named.values()
    shortest = min(map(len, named.values()))
    count = 0
    while count < shortest - 1 and all(messages[count] == first[count] for messages in others):
        count += 1
    common = first[:count]
    if isinstance(given, str):
        if all(message["content"].strip() != given.strip() for message in common):
            raise BadRow(MALFORMED, '"prompt": is not in what the answers have in common')
    elif prompt is not None and common[: len(prompt)] != prompt:
        raise BadRow(MALFORMED, '"prompt": is not how the answers begin')
    if not common:
        raise BadRow(MALFORMED, "the answers have no message in common that could be the prompt")
    return common


def _check_different(named: dict[str, list[dict]]) -> None:
    said = {name: [(message["role"], message["content"].strip()) for message in messages] for name, messages in named.items()}
    _compare(said, IDENTICAL, "are the same")


def _compare(answers: dict[str, object], reason: str, text: str) -> None:
    seen = {}
    for name, answer in answers.items():
        key = repr(answer)
        if key in seen:
            raise BadRow(reason, f'"{seen[key]}" and "{name}" {text}')
        seen[key] = name


# ---- tokens


class RowEncoder:
    """Rows of one kind under one template. `longest`: tokens a row may have (None: any), `cut`: shorten what is longer.

    `end` is the id of the token that ends an assistant's turn: the special token that the template writes behind it.
    """

    def __init__(self, template: Template, longest: int | None = None, cut: bool = False):
        self.template, self.longest, self.cut = template, longest, cut
        self.special_ids = set(template.special_ids.tolist())
        self.lead, self.end = self._probe()
        python = template.tokenizer.token_to_id("<|eom_id|>")
        self.ends = {self.end} | ({python} if python is not None else set())
        self.was_cut = False  # the last row

    def _probe(self) -> tuple[str, int]:
        """White space that the template writes between the prompt for a model's answer and that answer; and `end`."""
        folder = self.template.folder
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            pieces = self.template.pieces(messages, False)
        except InputError:
            messages = [{"role": "system", "content": "c"}, *messages]
            pieces = self.template.pieces(messages, False)
        last = max(number for number, piece in enumerate(pieces) if piece.message is not None)
        ids = self.template.encode(pieces[last + 1 :], [])[0] if last + 1 < len(pieces) else np.zeros(0, int)
        end = self._end_of_turn(ids, self.special_ids)
        if end is None:
            raise InputError(f"{folder}: the chat template writes no special token behind an assistant's turn: "
                             "a model would never learn to end one")  # fmt: skip
        prompt = self.template.render(messages[:-1], True)
        lead = "".join(piece.text for piece in pieces[:last]).removeprefix(prompt)
        return (lead if lead.isspace() else ""), int(ids[end])

    def _end_of_turn(self, ids: np.ndarray, ends) -> int | None:
        """Place of the first of `ends`, if nothing but white space is in front of it."""
        for place, number in enumerate(ids.tolist()):
            if number in ends:
                return place
            if number in self.special_ids or self.template.tokenizer.decode([number]).strip():
                return None
        return None

    def encode(self, row: Conversation | Comparison) -> Row:
        self.was_cut = False
        return self._conversation(row) if isinstance(row, Conversation) else self._comparison(row)

    def _pieces(self, messages: list[dict]) -> list[Piece]:
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            pieces = self.template.pieces(plain, False)
        except InputError as error:
            raise BadRow(TEMPLATE, str(error).removeprefix(f"{self.template.folder}: ")) from None
        return self._with_leads(messages, pieces) if self.lead else pieces

    def _with_leads(self, messages: list[dict], pieces: list[Piece]) -> list[Piece]:
        """What a model writes itself when its answer begins is the answer's."""
        result: list[Piece] = []
        for piece in pieces:
            leads = piece.message is not None and messages[piece.message]["role"] == "assistant"
            if leads and result and result[-1].message is None and result[-1].text.endswith(self.lead):
                result[-1] = Piece(result[-1].text.removesuffix(self.lead))
                piece = Piece(self.lead + piece.text, piece.message)
            result.append(piece)
        return [piece for piece in result if piece.text]

    def _tokens(self, messages: list[dict], pieces: list[Piece]) -> list[np.ndarray]:
        """Ids of each piece with their flags."""
        parts, ends_turn = [], False
        answers = [n for n, p in enumerate(pieces) if p.message is not None and messages[p.message]["role"] == "assistant"]
        for piece, ids in zip(pieces, self.template.encode(pieces, answers)):
            tokens = ids.astype(np.uint32)
            if piece.message is not None:
                if np.isin(ids, self.template.special_ids).any():
                    raise BadRow(SPECIAL, f"message {piece.message + 1} would become a token of the template")
                message = messages[piece.message]
                ends_turn = message["role"] == "assistant" and not message.get("masked")
                parts.append(tokens | TRAINED if ends_turn else tokens)
                continue
            end = self._end_of_turn(ids, self.ends) if ends_turn else None
            tokens |= FORMAT
            if end is not None:
                tokens[: end + 1] |= TRAINED
            parts.append(tokens)
            ends_turn = False
        return parts

    # conversations

    def _conversation(self, row: Conversation) -> Row:
        tokens = np.concatenate(self._tokens(row.messages, self._pieces(row.messages)))
        tokens = _without_tail(tokens)
        if tokens.size < 2:
            raise BadRow(MASKED, "no token of it is trained")
        if self.longest is not None and tokens.size > self.longest:
            tokens = self._cut_conversation(tokens)
        return Row(tokens)

    def _too_long(self, length: int) -> BadRow:
        return BadRow(TOO_LONG, f"{length} tokens, --max-tokens {self.longest}")

    def _cut_conversation(self, tokens: np.ndarray) -> np.ndarray:
        """Without the last messages, so that a turn's end is its last token; of a single turn the begin."""
        if not self.cut:
            raise self._too_long(tokens.size)
        self.was_cut = True
        kept = tokens[: self.longest]
        whole = np.flatnonzero((kept & (TRAINED | FORMAT)) == (TRAINED | FORMAT))
        kept = _without_tail(kept[: whole[-1] + 1] if whole.size else kept)
        if kept.size < 2:
            raise BadRow(TOO_LONG, f"{tokens.size} tokens, and no answer begins within --max-tokens {self.longest}")
        return kept

    # comparisons

    def _comparison(self, row: Comparison) -> Row:
        prompts, answers = [], []
        for messages in row.answers:
            whole = row.prompt + messages
            pieces = self._pieces(whole)
            parts = self._tokens(whole, pieces)
            first = next(number for number, piece in enumerate(pieces) if piece.message == len(row.prompt))
            prompts.append(np.concatenate([np.zeros(0, np.uint32), *parts[:first]]) & ~TRAINED)
            answers.append(_without_tail(np.concatenate(parts[first:])))
        if any(not np.array_equal(prompt, prompts[0]) for prompt in prompts):
            raise BadRow(TEMPLATE, "the chat template writes the prompt differently for each answer")
        if not prompts[0].size:
            raise BadRow(TEMPLATE, "the chat template writes nothing in front of the answers")
        if self.longest is not None and positions(prompts[0], answers) > self.longest:
            answers = self._cut_answers(prompts[0], answers)
        for number, answer in enumerate(answers, 1):
            if not ((answer & (TRAINED | FORMAT)) == TRAINED).any():
                raise BadRow(MASKED, f"no token of answer {number} is trained")
        said = {f"answer {number}": answer.tolist() for number, answer in enumerate(answers, 1)}
        _compare(said, NO_DIFFERENCE, f"are the same tokens{' after cutting' if self.was_cut else ''}")
        return Row(prompts[0], answers)

    def _cut_answers(self, prompt: np.ndarray, answers: list[np.ndarray]) -> list[np.ndarray]:
        """The longest ones are cut to one length, so that all fit."""
        length = positions(prompt, answers)
        if not self.cut:
            raise self._too_long(length)
        self.was_cut = True
        room = self.longest - positions(prompt, [np.zeros(0)] * len(answers))
        limit = 0
        for left, size in zip(range(len(answers), 0, -1), sorted(map(len, answers))):
            limit = room // left
            if size > limit:
                break
            room -= size
        if limit < 1:
            raise BadRow(TOO_LONG, f"{length} tokens, and no answer begins within --max-tokens {self.longest}")
        return [answer[:limit] for answer in answers]


def positions(prompt: np.ndarray, answers: list[np.ndarray]) -> int:
    """How many a comparison takes in training: each answer has the prompt's last token in front of it."""
    return len(prompt) - 1 + sum(len(answer) + 1 for answer in answers)


def row_length(row: Row) -> int:
    return positions(row.prompt, row.answers) if row.answers else len(row.prompt)


def _without_tail(tokens: np.ndarray) -> np.ndarray:
    """Without what stands behind the last trained token: nothing learns from it."""
    trained = np.flatnonzero(tokens & TRAINED)
    return tokens[: trained[-1] + 1] if trained.size else tokens[:0]
