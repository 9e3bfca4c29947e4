"""A guard over the models of a server: it judges what is asked and what is answered before a client sees it."""

import asyncio
import json
from typing import AsyncIterator

from llmdata.characters import on_one_line
from llmdata.guard import MOST_TOKENS, asks_by_itself, is_unsafe, question
from llmdata.messages import text_of
from llmtext.generator import SamplerOptions

from .answering import Answering
from .choice import Part
from .errors import ApiError
from .model import Model
from .openai_request import Wanted
from .openai_response import joined
from .state import Service

REFUSAL = "I can't help with that."
FILTERED = "content_filter"  # how an answer ends that the guard has taken back


class Guard:
    def __init__(self, service: Service, model: Model):
        self.service, self.model, self.by_itself = service, model, asks_by_itself(model.folder)

    async def judge(self, conversations: list[list[dict]]) -> list[str]:
        """Why the last message of each is filtered; nothing of those that are safe. Errors: ApiError where the guard has no
        room, so that the client tries again."""
        return await asyncio.gather(*map(self._judge, conversations))

    async def _judge(self, messages: list[dict]) -> str:
        asked = question(messages, self.by_itself)
        wanted = Wanted(None, 1, SamplerOptions(0, 0, 1), 0, MOST_TOKENS, [], False, False, messages=asked)
        try:
            prompts = await self.model.in_encoder(self.model.encode, wanted)
            async with Answering(self.service, self.model, wanted, prompts) as answering:
                verdict = "".join([part.text async for part in answering.parts()])
        except ApiError as error:
            if error.status == 429:
                raise
            return f"no verdict: {error}"
        unsafe = is_unsafe(verdict)
        if unsafe is None:
            return f"neither safe nor unsafe: {on_one_line(verdict.strip())[:80]}"
        return on_one_line(" ".join(verdict.split())) if unsafe else ""


class Guarded(Answering):
    """Answers of which nothing is given before the guard has found it safe. Those that it has not are replaced by REFUSAL. Of
    several prompts, one that is unsafe makes the whole request so."""

    def __init__(self, guard: Guard, *arguments):
        super().__init__(*arguments)
        self.guard, self.prompt_fault, self.answer_faults = guard, "", [""] * len(self.choices)

    async def __aenter__(self) -> "Guarded":
        found = await self.guard.judge([self._conversation(n) for n in range(len(self.prompts))])
        self.prompt_fault = next(filter(None, found), "")
        if not self.prompt_fault:
            await super().__aenter__()
        return self

    def _leave(self) -> None:
        if not self.prompt_fault:
            super()._leave()

    async def parts(self) -> AsyncIterator[Part]:
        if self.prompt_fault:
            for choice in self.choices:
                yield self._refuse(choice.index)
            return
        parts = [part async for part in super().parts()]
        answers = [joined(part for part in parts if part.index == n) for n in range(len(self.choices))]
        asked = [self._conversation(answer.index // self.wanted.n, answer.text) for answer in answers]
        self.answer_faults = await self.guard.judge(asked)
        for answer, fault in zip(answers, self.answer_faults):
            yield self._refuse(answer.index) if fault else answer

    def _refuse(self, index: int) -> Part:
        self.choices[index].row.finish = FILTERED
        return Part(index, REFUSAL, [], FILTERED)

    def _conversation(self, number: int, answer: str | None = None) -> list[dict]:
        """What the guard sees: all that the template gets, and the answer."""
        messages = list(self.wanted.messages) or [{"role": "user", "content": self.prompt_text(number)}]
        if answer is not None:
            begun = text_of(messages.pop()) if self.wanted.continues else ""
            messages.append({"role": "assistant", "content": begun + answer})
        if self.wanted.template_fields:
            given = json.dumps(self.wanted.template_fields, ensure_ascii=False)
            messages.insert(0, {"role": "system", "content": given})
        return messages

    def log(self) -> dict:
        faults = {"prompt": self.prompt_fault, "answer": "; ".join(filter(None, self.answer_faults))}
        return super().log() | {f"unsafe_{name}": fault for name, fault in faults.items() if fault}
