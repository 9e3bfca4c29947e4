"""Conversations and comparisons as the tokens of a row, with what is trained of them.

Trained is what an assistant says: everything that the template writes between the start of its turn, which is where a model
goes on by itself, and the token that ends the turn, that token included. What the template writes outside of that, and the end,
is FORMAT.
"""

import itertools
import os
from collections import Counter
from dataclasses import replace

import numpy as np

from .chat_template import ROW, Piece, Template
from .errors import InputError

from .bad_row import MASKED, NO_DIFFERENCE, SPECIAL, TEMPLATE, TOO_LONG, BadRow
from .chat_rows import Comparison, Conversation, compare
from .messages import REASONING, has_words, is_trained
from .rows import FORMAT, TRAINED, Row

# Fields that say something: a template that writes none of it is told of. Any other is metadata where no template reads it.
TOLD = ("content", *REASONING, "tool_calls", "function_call", "name")
IN_HEADER = ("name", "id", "tool_call_id")  # what is only about a message, though a template may write it
ROW_FIELDS = ("tools", "documents")


class RowEncoder:
    """Rows of one kind under one template. `longest`: tokens a row may have (None: any), `cut`: shorten what is longer.

    `end` is the id of the token that ends an assistant's turn: the special token that the template writes behind it.
    Of the last row, `was_cut` says whether it was, `unwritten` what the template does not write of it.
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
        self._prompt = 0  # messages of a comparison's prompt, whose tokens are exactly what a model is asked

    def _probe(self) -> tuple[int, str, int | None]:
        """`end`; what the template writes where a model is to answer; and the token that this begins with, if it is one."""
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
        """The first of `ends`, or in front of the next header a token of another name."""
        header = next((n for n, number in enumerate(ids.tolist()) if number == self.opening and number not in self.ends), None)
        place = next((n for n, number in enumerate(ids[:header].tolist()) if number in self.ends), None)
        if place is not None or header is None:
            return place
        last = self._words(ids[:header]) - 1
        return last if last >= 0 and int(ids[last]) in self.added else None

    def _words(self, ids: np.ndarray) -> int:
        """How many of them there are up to the last that is more than white space."""
        blank = [number not in self.added and not self.template.tokenizer.decode([number]).strip() for number in ids.tolist()]
        return len(blank) - len(list(itertools.takewhile(bool, reversed(blank))))

    def encode(self, row: Conversation | Comparison) -> Row:
        self.was_cut = False
        self.unwritten.clear()
        self._headers.clear()
        self._prompt = len(row.prompt) if isinstance(row, Comparison) else 0
        return self._comparison(row) if isinstance(row, Comparison) else self._conversation(row)

    # what the template writes

    def _pieces(self, messages: list[dict], fields: dict, told_from: int = 0) -> list[Piece]:
        """`told_from`: of messages before that one it has been counted what is not written."""
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
        """The pieces, cut where an assistant's turn begins, and of each the message whose turn it is inside of."""
        found: list[tuple[Piece, int | None]] = []
        held: list[Piece] = []  # the template's since the last text, and a name that an assistant's header has
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
        """Some templates write whom a result is of, a field of the call, in front of it."""
        text = "".join(piece.text for piece in held)
        return self.opening is not None and self.template.tokenizer.id_to_token(self.opening) in text and self.header not in text

    def _begin(self, messages: list[dict], fields: dict, number: int, held: list[Piece]) -> int:
        """How much of what stands in front of an assistant's words is there before a model goes on by itself."""
        named = max((place + 1 for place, piece in enumerate(held) if piece.message is not None), default=0)
        before, text = ("".join(piece.text for piece in part) for part in (held[:named], held[named:]))
        role = messages[number - 1]["role"] if number else ""
        header = self._headers.get(role)
        if header is None or not text.startswith(header):
            header = self._headers[role] = self._header(messages[:number], fields)
        if named:  # of the header that is without a name the part behind it
            header = next((header[place:] for place in range(len(header)) if text.startswith(header[place:])), "")
        same = os.path.commonprefix([text, header])
        if same != header:  # a prompt for an answer of another sort: what both begin with, in whole words and tags
            same = same[: max(same.rfind(end) for end in "\n >]") + 1]
        place = len(same) if same or not (header or named) else len(text.rstrip())
        if (not self._prompt or number < self._prompt) and text[place:].strip() and text[place:][:1].isspace():
            place = len(text[:place].rstrip())  # white space on both sides may be one token
        return len(before) + place

    def _header(self, messages: list[dict], fields: dict) -> str:
        """What the template writes behind the last of what these say where a model is to answer."""
        try:
            pieces = self.template.pieces(messages, True, fields)
        except InputError:  # it may refuse a conversation that ends there
            return "\0"
        behind = itertools.takewhile(lambda piece: piece.message is None, reversed(pieces))
        return "".join(piece.text for piece in [*behind][::-1])

    # tokens

    def _tokens(self, messages: list[dict], fields: dict, pieces: list[Piece]) -> tuple[list[np.ndarray], list]:
        """Ids of each piece with their flags, and the messages in whose turns they are."""
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
        """Flags what a template writes behind a turn that is trained, up to its end; whether the end is still to come.

        With {% generation %} blocks what they hold is trained, and the token that ends the turn even if it stands behind one.
        """
        end = self._end_of_turn(ids)
        words = self._words(ids[:end])
        if (generated if blocks else end is not None) or (end is not None and not words):
            tokens[:words] &= ~FORMAT
            tokens[: 0 if end is None else end + 1] |= TRAINED
        return generated and end is None

    # conversations

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
        """Without the last messages, so that a turn's end is its last token; of a single turn the start."""
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
    """Whose each piece is that a {% generation %} block holds: its message's, or else that of the last text before it."""
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
    """How many a comparison takes in training: each answer has the prompt's last token in front of it."""
    return len(prompt) - 1 + sum(len(answer) + 1 for answer in answers)


def row_length(row: Row) -> int:
    return positions(row.prompt, row.answers) if row.answers else len(row.prompt)


def _without_tail(tokens: np.ndarray) -> np.ndarray:
    """Without what stands behind the last trained token: nothing learns from it."""
    trained = np.flatnonzero(tokens & TRAINED)
    return tokens[: trained[-1] + 1] if trained.size else tokens[:0]
