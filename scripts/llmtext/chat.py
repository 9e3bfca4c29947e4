"""A prompt for instruct models: the chat template of the model's own folder, or Llama 3's where it has none.

Templates are programs that came with a model, so they run in jinja2's sandbox. Their text is encoded in pieces: what the
template itself wrote may be special tokens, what the user wrote never is, whatever it looks like.
"""

import datetime
import json
import secrets
from pathlib import Path

from .errors import InputError

LLAMA3_TEMPLATE = """{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>

"""
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


def token_text(value) -> str:
    """tokenizer_config.json has a token as its text or as an object with it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def find_template(folder: Path, fields: dict) -> str | None:
    """chat_template.jinja, or the field of tokenizer_config.json: a text, or a list of named ones."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    template = fields.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


class Chat:
    """encode(text) → ids of a conversation in which the user says that and the assistant's turn begins."""

    def __init__(self, folder: Path, tokenizer, system: str | None):
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.tokenizer, self.system, self.folder = tokenizer, system, folder
        self.fields = read_json(folder / "tokenizer_config.json")
        self.bos = token_text(self.fields.get("bos_token"))
        template = find_template(folder, self.fields)
        if template is None:
            template, self.bos = LLAMA3_TEMPLATE, self.bos or LLAMA3_TOKENS[0]
            missing = [token for token in LLAMA3_TOKENS[1:] if tokenizer.token_to_id(token) is None]
            if missing:
                raise InputError(f"{folder}: --chat: no chat template, and the tokenizer has no {' '.join(missing)} for Llama 3's")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals.update(raise_exception=self.refuse, strftime_now=lambda form: datetime.datetime.now().strftime(form))
        try:
            self.template = environment.from_string(template)
        except jinja2.TemplateError as error:
            raise InputError(f"{folder}: chat template: {' '.join(str(error).split())}") from None

    def refuse(self, message: str) -> None:
        raise InputError(f"{self.folder}: the chat template says: {' '.join(str(message).split())}")

    def render(self, contents: list[tuple[str, str]]) -> str:
        messages = [{"role": role, "content": text} for role, text in contents]
        try:
            return self.template.render(messages=messages, add_generation_prompt=True, bos_token=self.bos,
                                        eos_token=token_text(self.fields.get("eos_token")))  # fmt: skip
        except InputError:
            raise
        except Exception as error:  # whatever a template may do wrong
            raise InputError(f"{self.folder}: chat template: {' '.join(str(error).split())}") from None

    def encode(self, text: str) -> list[int]:
        contents = ([("system", self.system)] if self.system else []) + [("user", text)]
        # the template sees marks that no text can hold by chance; the contents take their places after it has run
        marks = {secrets.token_hex(16): content.strip() for _, content in contents}
        whole = self.render([(role, mark) for (role, _), mark in zip(contents, marks)])
        if any(mark not in whole for mark in marks):
            raise InputError(f"{self.folder}: the chat template leaves out or changes the {' or '.join(r for r, _ in contents)} message")
        return encode_pieces(self.tokenizer, split_at(whole, marks))


def split_at(text: str, marks: dict[str, str]) -> list[tuple[str, bool]]:
    """(piece, is it the user's) in order, each mark replaced by what it stands for."""
    pieces = [(text, False)]
    for mark, content in marks.items():
        next_pieces = []
        for piece, users in pieces:
            if users:
                next_pieces.append((piece, True))
                continue
            for i, part in enumerate(piece.split(mark)):
                next_pieces += ([(content, True)] if i else []) + [(part, False)]
        pieces = next_pieces
    return [(piece, users) for piece, users in pieces if piece]


def encode_pieces(tokenizer, pieces: list[tuple[str, bool]]) -> list[int]:
    """Special tokens of the template's pieces are tokens, of the user's they are text."""
    ids = []
    for piece, users in pieces:
        tokenizer.encode_special_tokens = users
        ids += tokenizer.encode(piece, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    return ids
