"""Turns conversations into text and token ids by the chat template in a model's folder, or Llama 3's where it has none.

Templates are programs that came with a model, so they run in jinja2's sandbox. Their text is split into pieces by origin: what
the template itself wrote may become special tokens, what a message says never does, whatever it looks like.
"""

import datetime
import functools
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import jinja2
import numpy as np

from . import text_file
from .characters import harmless
from .errors import InputError
from .messages import REASONING, TOKENS, has_words, text_of
from .prefix_space import without_prefix
from .provenance import GENERATED, LOST, Environment, of_source, runs
from .template_hints import PARTS, hint
from .tokenizer import CONFIG, token_text

LLAMA3_TEMPLATE = """{{ bos_token }}{% for message in messages %}<|start_header_id|>\
{{ 'ipython' if message['role'] == 'tool' else message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLAMA3_DATE = "2024-07-26"  # the date in Llama 3.1's own template
OWN, LLAMA3 = "chat_template.jinja", "Llama 3"  # origins of a template, beside CONFIG

DEFAULT, TOOL_USE = "default", "tool_use"  # names of templates; the second is for conversations with tools
MORE = "additional_chat_templates"  # the folder where transformers keeps all templates but the default

NOTHING = MappingProxyType({})
ROW = -1  # instead of a message's number: the tools, documents and arguments of the row


def find_templates(folder: Path, fields: dict) -> tuple[dict[str, str], str]:
    """The templates by name, and their origin: chat_template.jinja with the folder beside it, or the field of
    tokenizer_config.json, which is a text or a list of named texts."""
    own = folder / OWN
    if own.exists():
        more = folder / MORE / f"{TOOL_USE}.jinja"
        return {DEFAULT: text_file.read_text(own)} | ({TOOL_USE: text_file.read_text(more)} if more.exists() else {}), OWN
    given = fields.get("chat_template")
    named = _named_templates(given, folder / CONFIG) if isinstance(given, list) else {DEFAULT: given}
    return (named, CONFIG) if isinstance(named.get(DEFAULT), str) else ({}, LLAMA3)


def _named_templates(entries: list, path: Path) -> dict[str, str]:
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("name", "template")):
            raise InputError(f'{path}: "chat_template": expected a text, or a list of objects with texts under "name" and '
                             '"template"')  # fmt: skip
    return {entry["name"]: entry["template"] for entry in entries}


def _one_line(said: object) -> str:
    """A template's complaint on one line; it may quote a message."""
    return harmless(" ".join(str(said).split()))


@dataclass(frozen=True)
class Piece:
    """A stretch of a conversation's text: the template's own (`message` is None), or from a field of that message.

    `generated`: it lies in a {% generation %} block of the template.
    """

    text: str
    message: int | None = None
    field: str = ""
    generated: bool = False


class _Sources:
    """Numbers the fields of messages and of a row, so that their texts can be told apart from the template's."""

    def __init__(self):
        self.places = [(None, "")]

    def _texts(self, value, message: int, field: str):
        self.places.append((message, field))
        return of_source(value, len(self.places) - 1)

    def of_message(self, number: int, message: dict) -> dict:
        """The message with marked texts, without fields that are None. The role, which goes into headers, is not marked."""
        return {of_source(key, 0): value if key == "role" else self._texts(value, number, key)
                for key, value in message.items() if value is not None}  # fmt: skip

    def of_row(self, fields: dict) -> dict:
        return {key: self._texts(value, ROW, key) for key, value in fields.items()}

    def pieces(self, text: str) -> list[Piece]:
        found = []
        for part, number, flags in runs(text):
            message, field = self.places[number]
            if flags & LOST:
                raise InputError(f"the chat template changes {_named(message, field)} in a way that cannot be followed")
            found.append(Piece(part, message, field, bool(flags & GENERATED)))
        return found


def _named(message: int, field: str) -> str:
    return f'"{field}"' if message == ROW else f'"{field}" of message {message + 1}'


def _with_reasoning(message: dict) -> dict:
    """Copies the reasoning to the other names under which templates read it, as transformers does."""
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


class Template:
    """The chat template of a folder. `date` is what a template that writes the date gets; None: today."""

    def __init__(self, folder: Path, tokenizer, date: datetime.date | None = None):
        self.folder, self.tokenizer, self.date = folder, tokenizer, date
        self.fields = text_file.read_object(folder / CONFIG)
        self.tokens = {name: token for name in TOKENS if (token := token_text(self.fields.get(name)))}
        named, self.origin = find_templates(folder, self.fields)
        if not named:
            named = {DEFAULT: LLAMA3_TEMPLATE}
            self.tokens.setdefault("bos_token", LLAMA3_TOKENS[0])
            missing = [token for token in LLAMA3_TOKENS[1:] if tokenizer.token_to_id(token) is None]
            if missing:
                raise InputError(f"{folder}: no chat template, and the tokenizer has no {' '.join(missing)} for Llama 3's")
        self.bos = self.tokens.get("bos_token", "")
        sources = [named[name] for name in (DEFAULT, TOOL_USE) if name in named]
        self.sha256 = hashlib.sha256("".join(sources).encode()).hexdigest()
        self.program, self.tool_program = self._compile(sources[0]), self._compile(sources[-1])
        self.added_ids = np.array(sorted(tokenizer.get_added_tokens_decoder()), int)
        self.special_ids = np.array(sorted(n for n, token in tokenizer.get_added_tokens_decoder().items() if token.special), int)

    def _compile(self, source: str):
        environment = Environment()
        environment.globals.update(raise_exception=self._refuse, strftime_now=self._now)
        if self.date is not None:
            environment.globals["date_string"] = self.date.strftime("%d %b %Y")
        try:
            return environment.from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"{self.folder}: chat template: {_one_line(error)}") from None

    def _refuse(self, message: str) -> None:
        raise InputError(f"{self.folder}: the chat template says: {_one_line(message)}")

    def _now(self, form: str) -> str:
        now = datetime.datetime.now()
        return (now if self.date is None else datetime.datetime.combine(self.date, datetime.time())).strftime(form)

    def render(self, messages: list[dict], add_generation_prompt: bool, fields: dict = NOTHING) -> str:
        """The conversation as text. `fields` are the row's tools, documents and chat_template_kwargs."""
        messages = [_with_reasoning({key: value for key, value in message.items() if value is not None}) for message in messages]
        variables = self.tokens | fields.get("chat_template_kwargs", {})
        variables |= {"tools": fields.get("tools"), "documents": fields.get("documents")}
        program = self.tool_program if fields.get("tools") else self.program
        render = functools.partial(program.render, variables, add_generation_prompt=add_generation_prompt)
        try:
            return render(messages=messages)
        except InputError:
            raise
        except Exception as error:  # a template may raise anything
            raise InputError(f"{self.folder}: chat template: {_one_line(error)}{hint(render, messages)}") from None

    def pieces(self, messages: list[dict], add_generation_prompt: bool, fields: dict = NOTHING) -> list[Piece]:
        """The conversation's text as pieces in order."""
        plain = self.render(messages, add_generation_prompt, fields)
        sources = _Sources()
        followed = [sources.of_message(number, message) for number, message in enumerate(messages)]
        whole = self.render(followed, add_generation_prompt, sources.of_row(fields))
        try:
            pieces = sources.pieces(whole)
        except InputError as error:
            raise InputError(f"{self.folder}: {error}") from None
        self._check(messages, pieces)
        if whole != plain:
            raise InputError(f"{self.folder}: the chat template writes the same conversation in two ways")
        return pieces

    def _check(self, messages: list[dict], pieces: list[Piece]) -> None:
        """Refuses a template that leaves out a message's content, or all that an assistant's message says."""
        written = {(piece.message, piece.field) for piece in pieces}
        silent = []
        for number, message in enumerate(messages):
            fields = [key for key, value in message.items() if key != "role" and has_words(value)]
            needed = fields if message["role"] == "assistant" else [key for key in fields if key == "content"]
            if needed and not any((number, key) in written for key in needed):
                silent.append(message)
        if silent:
            roles = " or ".join(dict.fromkeys(message["role"] for message in silent))
            hint = f": {PARTS}" if any(isinstance(message.get("content"), list) for message in silent) else ""
            raise InputError(f"{self.folder}: the chat template leaves out the {roles} message{hint}")
        for number, message in enumerate(messages):
            if isinstance(message.get("content"), list):
                self._check_parts(number, text_of(message), pieces)

    def _check_parts(self, number: int, said: str, pieces: list[Piece]) -> None:
        """Refuses a template that writes a list of parts as Python would print it."""
        found = "".join(piece.text for piece in pieces if (piece.message, piece.field) == (number, "content"))
        if "".join(found.split()) not in "".join(said.split()):
            raise InputError(f'{self.folder}: "content" of message {number + 1} is a list of parts, of which the chat template '
                             "writes more than the texts: write them as one text")  # fmt: skip

    def ask(self, messages: list[dict], fields: dict = NOTHING) -> list[int]:
        """The ids of the prompt that the model should answer."""
        return np.concatenate(self.encode(self.pieces(messages, True, fields), [])).tolist()

    def encode(self, pieces: list[Piece], begins: list[int]) -> list[np.ndarray]:
        """The ids of each piece. Special tokens are tokens in the template's pieces, and text in a message's.

        The text is encoded as a whole, and a token belongs to the piece in which it begins. If a token would cross the start of
        a piece in `begins`, the text is cut there. If a message's text would become a special token, each piece is encoded by
        itself.
        """
        encoding = self.tokenizer.encode("".join(piece.text for piece in pieces), add_special_tokens=False)
        ids, offsets = np.array(encoding.ids), np.array(encoding.offsets).reshape(-1, 2)
        starts = np.array([0, *itertools.accumulate(len(piece.text) for piece in pieces)])
        owner = np.searchsorted(starts, offsets[:, 0], "right") - 1
        cuts = [n for n in begins if ((offsets[:, 0] < starts[n]) & (starts[n] < offsets[:, 1])).any()]
        if self._joins_to_special(pieces, ids, owner, offsets[:, 1] > starts[np.minimum(owner + 1, len(pieces))]):
            return self._encode_apart(pieces)
        if not cuts:
            return np.split(ids, np.searchsorted(owner, np.arange(1, len(pieces))))
        if self._bare[0] is not self.tokenizer:  # it would put a space after each cut
            return self._encode_apart(pieces)
        edges = itertools.pairwise([0, *cuts, len(pieces)])
        return [part for a, b in edges for part in self.encode(pieces[a:b], [n - a for n in begins if a < n < b])]

    def _joins_to_special(self, pieces: list[Piece], ids: np.ndarray, owner: np.ndarray, across: np.ndarray) -> bool:
        of_message = np.array([piece.message is not None for piece in pieces], bool)[np.minimum(owner, len(pieces) - 1)]
        wrong = np.isin(ids, self.special_ids) & (of_message | across)
        return bool(wrong.any() or (np.diff(owner) < 0).any())

    @functools.cached_property
    def _bare(self):
        """The two results of without_prefix."""
        return without_prefix(self.tokenizer)

    def _encode_apart(self, pieces: list[Piece]) -> list[np.ndarray]:
        """Encodes each piece by itself. The prefix space of some tokenizers appears only where the whole text would have it."""
        found: list[np.ndarray] = []
        behind_special = False
        for piece in pieces:
            goes_on = bool(found) and not (behind_special and self._bare[1])
            ids = self._encode_piece(piece.text, piece.message is not None, goes_on)
            found.append(np.array(ids, int))
            behind_special = bool(ids) and ids[-1] in self.special_ids
        return found

    def _encode_piece(self, text: str, said: bool, goes_on: bool) -> list[int]:
        """`said`: by a message, so that nothing in it is a special token. `goes_on`: the text continues another."""
        if not goes_on:
            return self._encode_as(self.tokenizer, text, said).ids
        bare, behind_specials = self._bare
        encoding = self._encode_as(bare, text, said)
        special = next((place for place, number in enumerate(encoding.ids) if number in self.special_ids), None)
        if special is None or not behind_specials:
            return encoding.ids
        return encoding.ids[:special] + self._encode_as(self.tokenizer, text[encoding.offsets[special][0] :], said).ids

    @staticmethod
    def _encode_as(tokenizer, text: str, said: bool):
        tokenizer.encode_special_tokens = said
        encoding = tokenizer.encode(text, add_special_tokens=False)
        tokenizer.encode_special_tokens = False
        return encoding


class Chat:
    """encode(text) returns the ids of a prompt in which the user says that and the assistant should answer."""

    def __init__(self, folder: Path, tokenizer, system: str | None):
        self.template, self.system = Template(folder, tokenizer), system

    def encode(self, text: str) -> list[int]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return self.template.ask([*messages, {"role": "user", "content": text}])
