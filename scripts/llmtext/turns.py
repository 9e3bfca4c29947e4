"""Encodes what a model reads: a prompt up to where it should answer, or a prompt together with an answer."""

from llmdata.bad_row import BadRow
from llmdata.chat_rows import Conversation
from llmdata.chat_template import Template
from llmdata.chat_tokens import RowEncoder
from llmdata.errors import InputError
from llmdata.rows import ID_MASK

from .prompts import Prompt


class Turns:
    def __init__(self, template: Template):
        self.template, self.rows = template, RowEncoder(template)

    def ask(self, prompt: Prompt) -> list[int]:
        try:
            return self.template.ask(prompt.messages, prompt.fields)
        except InputError as error:
            raise InputError(f"{prompt.source}: {error}") from None

    def answered(self, prompt: Prompt, text: str) -> list[int] | None:
        """The prompt and its answer as in a reward model's training data, including the token that ends the turn; None if the
        template cannot write it."""
        try:
            row = self.rows.encode(Conversation([*prompt.messages, {"role": "assistant", "content": text}], prompt.fields))
        except BadRow:
            return None
        return (row.prompt & ID_MASK).tolist()
