"""Turns conversations and comparisons into rows of tokens, and marks those that are trained.

Trained are the assistant's turns: everything that the template writes from where a model would begin to answer up to and
including the token that ends the turn. That token, and what the template writes outside of these turns, is FORMAT.
"""

import itertools
import os
from collections import Counter
from dataclasses import replace

import numpy as np

from .bad_row import MASKED, NO_DIFFERENCE, SPECIAL, TEMPLATE, TOO_LONG, BadRow
from .chat_rows import Comparison, Conversation, compare
from .chat_template import ROW, Piece, Template
from .errors import InputError
from .messages import REASONING, has_words, is_trained
from .rows import FORMAT, TRAINED, Row

# Fields that carry content: if the template does not write one, it is reported. Any other unwritten field is metadata.
TOLD = ("content", *REASONING, "tool_calls", "function_call", "name")
IN_HEADER = ("name", "id", "tool_call_id")  # metadata, though a template may write it
ROW_FIELDS = ("tools", "documents")


class RowEncoder:
    """Encodes rows of one kind with one template. Rows over `longest` tokens are cut, or refused without `cut`.

    `end` is the id of the token that ends an assistant's turn: the special token that the template writes after it.
    `was_cut` and `unwritten` (the fields that the template did not write) are about the last row.
    """

    def __init__(self, template: Template, longest: int | None = None, cut: bool = False):
        self.template, self.longest, self.cut = template, longest, cut
        self.added = set(template.added_ids.tolist())
        self.end, self.header, self.opening = self._probe()
        python = template.tokenizer.token_to_id("<|eom_id|>")
        self.ends = {self.end} | ({python} if python is not None else set())
        self.never_text = np.array(sorted({*template.special_ids.tolist(), *self.ends}))
        self.was_cut = False
        self.unwritten: Counter[str] = Counter()
        self._headers: dict[str, str] = {}
        self._prompt = 0  # messages in a comparison's prompt, whose tokens are exactly those that a model is asked with

    def _probe(self) -> tuple[int, str, int | None]:
        """`end`; the header that the template writes where a model should answer; the added token that begins it, if any."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            pieces = self.template.pieces(messages, False)
        except InputError:
            messages = [{"role": "system", "content": "c"}, *messages]
            pieces = self.template.pieces(messages, False)
        last = max(number for number, piece in enumerate(pieces) if piece.message is not None)
        behind = Piece("".join(piece.text for piece in pieces[last + 1 :]))
        ids = self.template.encode([behind], [])[0]
        end = next((place for place, number in enumerate(ids.tolist()) if number in self.added), None)
        if end is None or self._words(ids[:end]):
            raise InputError(f"{self.template.folder}: the chat template writes no special token behind an assistant's turn: "
                             "a model would never learn to end one")  # fmt: skip
        asked, said = (self.template.render(messages[:-1], asks) for asks in (True, False))
        header = asked.removeprefix(said) if asked.startswith(said) else ""
        opening = self.template.encode([Piece(header)], [])[0][:1].tolist() if header else []
        return int(ids[end]), header, opening[0] if opening and opening[0] in self.added else None

    def _end_of_turn(self, ids: np.ndarray) -> int | None:
        """The place of the first of `ends`, or of another added token right in front of the next header."""
        header = next((n for n, number in enumerate(ids.tolist()) if number == self.opening and number not in self.ends), None)
        place = next((n for n, number in enumerate(ids[:header].tolist()) if number in self.ends), None)
        if place is not None or header is None:
            return place
        last = self._words(ids[:header]) - 1
        return last if last >= 0 and int(ids[last]) in self.added else None

    def _words(self, ids: np.ndarray) -> int:
        """How many ids there are up to the last one that is not white space."""
        blank = [number not in self.added and not self.template.tokenizer.decode([number]).strip() for number in ids.tolist()]
        return len(blank) - len(list(itertools.takewhile(bool, reversed(blank))))

    def encode(self, row: Conversation | Comparison) -> Row:
        self.was_cut = False
        self.unwritten.clear()
        self._headers.clear()
        self._prompt = len(row.prompt) if isinstance(row, Comparison) else 0
        return self._comparison(row) if isinstance(row, Comparison) else self._conversation(row)

    # ---- pieces of text and the turns they belong to

    def _pieces(self, messages: list[dict], fields: dict, told_from: int = 0) -> list[Piece]:
        """The template's pieces. Unwritten fields are counted from message `told_from` on."""
        try:
            pieces = self.template.pieces(messages, False, fields)
        except InputError as error:
            raise BadRow(TEMPLATE, str(error).removeprefix(f"{self.template.folder}: ")) from None
        written = {(piece.message, piece.field) for piece in pieces}
        told = list(enumerate(messages))[told_from:]
        said = [(number, name, message.get(name)) for number, message in told for name in TOLD]
        said += [(ROW, name, fields.get(name)) for name in ROW_FIELDS if not told_from]
        self.unwritten.update(name for number, name, value in said if has_words(value) and (number, name) not in written)
        return pieces

    def _turns(self, messages: list[dict], fields: dict, pieces: list[Piece]) -> tuple[list[Piece], list[int | None]]:
        """The pieces, cut where assistants' turns begin, and for each piece the message in whose turn it lies (or None)."""
        found: list[tuple[Piece, int | None]] = []
        held: list[Piece] = []  # the template's pieces since the last text, and names in an assistant's header
        last = None
        for piece in pieces:
            if piece.message is None:
                held.append(piece)
                continue
            speaker = piece.message if piece.message != ROW and messages[piece.message]["role"] == "assistant" else None
            if speaker is not None and speaker != last and piece.field in IN_HEADER:
                held.append(piece)
                continue
            if speaker is not None and speaker == last and self._is_other_header(held):
                speaker = None
            if speaker is not None and speaker != last:
                before, lead = _divide(held, self._begin(messages, fields, speaker, held))
                found += [(p, None) for p in before]
                held = lead
            found += [(p, speaker) for p in [*held, piece]]
            held, last = [], speaker
        found += [(piece, None) for piece in held]
        return [piece for piece, _ in found], [speaker for _, speaker in found]

    def _is_other_header(self, held: list[Piece]) -> bool:
        """Some templates put the name of a called function, a field of the call, into the header of its result."""
        text = "".join(piece.text for piece in held)
        return self.opening is not None and self.template.tokenizer.id_to_token(self.opening) in text and self.header not in text

    def _begin(self, messages: list[dict], fields: dict, number: int, held: list[Piece]) -> int:
        """How many of the characters in front of an assistant's words stand there before the model begins to answer."""
        named = max((place + 1 for place, piece in enumerate(held) if piece.message is not None), default=0)
        before, text = ("".join(piece.text for piece in part) for part in (held[:named], held[named:]))
        role = messages[number - 1]["role"] if number else ""
        header = self._headers.get(role)
        if header is None or not text.startswith(header):
            header = self._headers[role] = self._header(messages[:number], fields)
        if named:  # only the part of the header after the name can be compared
            header = next((header[place:] for place in range(len(header)) if text.startswith(header[place:])), "")
        same = os.path.commonprefix([text, header])
        if same != header:  # the prompt is for another sort of answer: what both have in common, in whole words and tags
            same = same[: max(same.rfind(end) for end in "\n >]") + 1]
        place = len(same) if same or not (header or named) else len(text.rstrip())
        if (not self._prompt or number < self._prompt) and text[place:].strip() and text[place:][:1].isspace():
            place = len(text[:place].rstrip())  # white space on both sides may form one token
        return len(before) + place

    def _header(self, messages: list[dict], fields: dict) -> str:
        """What the template writes after the last of these messages where a model should answer."""
        try:
            pieces = self.template.pieces(messages, True, fields)
        except InputError:  # the template may refuse a conversation that ends there
            return "\0"
        behind = itertools.takewhile(lambda piece: piece.message is None, reversed(pieces))
        return "".join(piece.text for piece in [*behind][::-1])

    # ---- tokens

    def _tokens(self, messages: list[dict], fields: dict, pieces: list[Piece]) -> tuple[list[np.ndarray], list]:
        """The ids of each piece with their flags, and the message in whose turn each piece lies."""
        pieces, inside = self._turns(messages, fields, pieces)
        owners = _generated(messages, pieces) if any(piece.generated for piece in pieces) else inside
        begins = [n for n, speaker in enumerate(inside)
                  if speaker is not None and speaker >= self._prompt and (n == 0 or inside[n - 1] is None)]  # fmt: skip
        parts, ending = [], False
        for piece, ids, speaker, owner in zip(pieces, self.template.encode(pieces, begins), inside, owners):
            if piece.message is not None and np.isin(ids, self.never_text).any():
                raise BadRow(SPECIAL, f"{_place(piece)} would become a token of the template")
            tokens = ids.astype(np.uint32)
            if owner is not None and is_trained(messages[owner]):
                tokens |= TRAINED
            if speaker is not None:
                ending = is_trained(messages[speaker])
            elif piece.message is not None:
                ending = False
            else:
                tokens |= FORMAT
                ending = ending and self._end_turn(ids, tokens, owners is not inside, piece.generated)
            parts.append(tokens)
        return parts, inside

    def _end_turn(self, ids: np.ndarray, tokens: np.ndarray, blocks: bool, generated: bool) -> bool:
        """Flags what a template writes after a trained turn, up to the token that ends it. True: that token is still to come.

        If the template has {% generation %} blocks, their content is trained, and so is the end token even outside of a block.
        """
        end = self._end_of_turn(ids)
        words = self._words(ids[:end])
        if (generated if blocks else end is not None) or (end is not None and not words):
            tokens[:words] &= ~FORMAT
            tokens[: 0 if end is None else end + 1] |= TRAINED
        return generated and end is None

    # ---- conversations

    def _conversation(self, row: Conversation) -> Row:
        pieces = self._pieces(row.messages, row.fields)
        tokens = np.concatenate(self._tokens(row.messages, row.fields, pieces)[0])
        tokens = _without_tail(tokens)
        if tokens.size < 2:
            raise BadRow(MASKED, "no token of it is trained")
        if self.longest is not None and tokens.size > self.longest:
            tokens = self._cut_conversation(tokens)
        return Row(tokens)

    def _too_long(self, length: int) -> BadRow:
        return BadRow(TOO_LONG, f"{length} tokens, --max-tokens {self.longest}")

    def _cut_conversation(self, tokens: np.ndarray) -> np.ndarray:
        """Drops the last messages, so that the row ends with a turn; of a single turn, keeps the beginning."""
        if not self.cut:
            raise self._too_long(tokens.size)
        self.was_cut = True
        kept = tokens[: self.longest]
        whole = np.flatnonzero((kept & (TRAINED | FORMAT)) == (TRAINED | FORMAT))
        kept = _without_tail(kept[: whole[-1] + 1] if whole.size else kept)
        if kept.size < 2:
            raise BadRow(TOO_LONG, f"{tokens.size} tokens, and no answer begins within --max-tokens {self.longest}")
        return kept

    # ---- comparisons

    def _comparison(self, row: Comparison) -> Row:
        prompts, answers = [], []
        self._headers[row.prompt[-1]["role"]] = self._header(row.prompt, row.fields)
        for messages in row.answers:
            whole = row.prompt + messages
            pieces = self._pieces(whole, row.fields, len(row.prompt) if answers else 0)
            parts, inside = self._tokens(whole, row.fields, pieces)
            if len(row.prompt) not in inside:
                raise BadRow(TEMPLATE, "the chat template writes nothing of an answer's first message")
            first = inside.index(len(row.prompt))
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
        compare(said, NO_DIFFERENCE, f"are the same tokens{' after cutting' if self.was_cut else ''}")
        return Row(prompts[0], answers)

    def _cut_answers(self, prompt: np.ndarray, answers: list[np.ndarray]) -> list[np.ndarray]:
        """Cuts the longest answers to one length, such that all fit."""
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


def _divide(pieces: list[Piece], place: int) -> tuple[list[Piece], list[Piece]]:
    before, behind = [], []
    for piece in pieces:
        parts = piece.text[: max(0, place)], piece.text[max(0, place) :]
        place -= len(piece.text)
        for part, side in zip(parts, (before, behind)):
            if part:
                side.append(replace(piece, text=part))
    return before, behind


def _generated(messages: list[dict], pieces: list[Piece]) -> list[int | None]:
    """For each piece in a {% generation %} block the message it belongs to: its own, or that of the last text before it."""
    owners: list[int | None] = []
    last = None
    for generated, run in itertools.groupby(pieces, lambda piece: piece.generated):
        run = list(run)
        said = [piece.message for piece in run if piece.message is not None]
        first = said[0] if said else last
        for number, piece in enumerate(run):
            last = piece.message if piece.message is not None else last
            begun = any(earlier.message is not None for earlier in run[: number + 1])
            owner = last if begun else first
            owners.append(owner if generated and owner not in (None, ROW) and messages[owner]["role"] == "assistant" else None)
    return owners


def _place(piece: Piece) -> str:
    return f'"{piece.field}"' if piece.message == ROW else f"message {piece.message + 1}"


def positions(prompt: np.ndarray, answers: list[np.ndarray]) -> int:
    """How many positions a comparison takes in training: each answer is preceded by the prompt's last token."""
    return len(prompt) - 1 + sum(len(answer) + 1 for answer in answers)


def row_length(row: Row) -> int:
    return positions(row.prompt, row.answers) if row.answers else len(row.prompt)


def _without_tail(tokens: np.ndarray) -> np.ndarray:
    """Drops what follows the last trained token, since nothing is learned from it."""
    trained = np.flatnonzero(tokens & TRAINED)
    return tokens[: trained[-1] + 1] if trained.size else tokens[:0]
