"""A model that is served: its engine, its tokenizer and its chat template."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from llmdata.chat_template import DEFAULT, LLAMA3, Piece, Template, find_templates
from llmdata.errors import InputError
from llmdata.text_file import read_object
from llmdata.tokenizer import CONFIG, open_tokenizer, token_text

from .engine import Engine, Sequence
from .errors import ApiError
from .openai_request import Wanted
from .tokens import TokenTexts


class Model:
    def __init__(self, name: str, folder: Path, engine: Engine):
        self.name, self.folder, self.engine, self.created = name, folder, engine, int(time.time())
        # Two, for two threads: that which encodes changes a setting of its tokenizer, which must not be in use then.
        self.tokenizer, self.encoding_tokenizer = open_tokenizer(folder), open_tokenizer(folder)
        self.texts = TokenTexts(self.tokenizer)
        try:
            self.template: Template | None = Template(folder, self.encoding_tokenizer)
        except InputError as error:
            self.template, self.no_template = None, self._without_folder(error)
        self.busy = 0  # sequences that have not ended
        self.encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")

    def describe(self) -> dict:
        chat = self.template is not None and self.template.origin != LLAMA3
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "llmc",
                "max_model_len": self.engine.context, "chat": chat}  # fmt: skip

    def tokenizer_info(self) -> dict:
        """As vLLM's: what a client needs to write prompts by itself."""
        fields = read_object(self.folder / CONFIG)
        tokens = {name: token_text(fields.get(name)) or None for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        templates, _ = find_templates(self.folder, fields)
        return tokens | {"chat_template": templates.get(DEFAULT), "model_max_length": self.engine.context}

    async def in_encoder(self, work, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self.encoder, work, *arguments)

    def encode_text(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return self.encoding_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def encode(self, wanted: Wanted) -> list[list[int]]:
        """The prompts as token ids. Runs in the encoder's thread."""
        if wanted.messages:
            found = [self._encode_chat(wanted)]
        else:
            found = [self.encode_text(prompt) if isinstance(prompt, str) else prompt for prompt in wanted.prompts]
        for ids in found:
            self._check(ids, wanted)
        return found

    def _encode_chat(self, wanted: Wanted) -> list[int]:
        if self.template is None:
            raise ApiError(400, f"model {self.name} cannot chat ({self.no_template}): use /v1/completions", "model")
        self._check_length(len(wanted.messages), "messages")  # each is a token at least
        *before, last = wanted.messages
        try:
            if not wanted.continues:
                return self.template.ask(wanted.messages, wanted.template_fields)
            if not before:
                raise ApiError(400, '"continue_final_message": expected a message in front of the last one', "messages")
            asked = self.template.pieces(before, True, wanted.template_fields)
            return np.concatenate(self.template.encode([*asked, Piece(last["content"], len(before), "content")], [])).tolist()
        except InputError as error:
            raise ApiError(400, self._without_folder(error), "messages") from None

    def _without_folder(self, error: InputError) -> str:
        """The message for a client, who need not know where the model lies."""
        return str(error).replace(f"{self.folder}: ", "").replace(str(self.folder), self.name)

    def _check(self, ids: list[int], wanted: Wanted) -> None:
        name = "messages" if wanted.messages else "prompt"
        if not ids:
            raise ApiError(400, f'"{name}": the tokenizer makes no token of it', name)
        wrong = next((number for number in ids if not 0 <= number < self.engine.vocab_size), None)
        if wrong is not None:
            raise ApiError(400, f'"{name}": found token id {str(wrong)[:20]}, expected 0 to {self.engine.vocab_size - 1}', name)
        self._check_length(len(ids), name)

    def _check_length(self, length: int, name: str) -> None:
        if length > self.engine.context:
            said = f'"{name}": found at least {length} tokens, expected the context\'s {self.engine.context} or fewer'
            raise ApiError(400, said, name, "context_length_exceeded")

    def sequences(self, wanted: Wanted, prompts: list[list[int]]) -> list[Sequence]:
        """One for each answer: n to the first prompt, n to the second and so on. Answers to a prompt differ by their seeds."""
        most = wanted.max_tokens if wanted.max_tokens is not None else self.engine.context
        report = wanted.echo and wanted.logprobs >= 0
        return [Sequence(ids, wanted.sampling, (wanted.seed + k) % 2**64, most, wanted.logprobs, report)
                for ids in prompts for k in range(wanted.n)]  # fmt: skip
