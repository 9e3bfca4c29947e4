"""Tasks of which lm-eval asks log-likelihoods: its own code makes the tokens, cuts them, asks the server and reads
its replies."""

import asyncio
import logging
import os
from abc import abstractmethod
from dataclasses import dataclass
from typing import Iterator

from llmdata.errors import Fault, InputError

from .asking import Asking
from .client import Refused
from .task import Item, Kind

os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval's bars would stand in ours; tqdm reads it when it is imported
AT_ONCE = 64  # items between two notes of what is done
DAY = 86400  # s


@dataclass(frozen=True)
class Likelihood:
    """How likely is each ending after the context? Texts, or token ids. Of a document the ending is all of it."""

    context: str | tuple[int, ...]
    endings: tuple[str, ...] | tuple[tuple[int, ...], ...]
    messages = None  # it is no chat

    @property
    def prompt(self) -> str:
        """For readers."""
        return self.context if isinstance(self.context, str) else f"{len(self.context)} tokens"


@dataclass(frozen=True)
class Likely:
    """An answer to it: natural logarithm of the probability, and whether greedy decoding writes this ending."""

    loglikelihood: float
    greedy: bool


def open_model(asking: Asking):
    """lm-eval's `local-completions`. Errors: InputError."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
    try:
        from lm_eval.models.openai_completions import LocalCompletionsAPI
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name}: not installed: scripts/setup.sh eval") from None
    client, model = asking.client, asking.served
    try:
        return LocalCompletionsAPI(f"{client.url}/v1/completions", "huggingface", model=model.name, tokenizer=str(model.folder),
                                   add_bos_token=True, max_length=model.context, num_concurrent=client.at_once, timeout=DAY,
                                   header={"Authorization": f"Bearer {client.key}"} if client.key else None)  # fmt: skip
    except (OSError, ValueError) as error:
        raise InputError(f"{model.folder}: transformers does not read its tokenizer: {str(error).splitlines()[0]}") from None


class Scored(Kind):
    @abstractmethod
    def likelihoods(self, asked, pairs: list[tuple]) -> list[tuple[float, bool]]:
        """Of (context, ending), as lm-eval returns them. asked: its model."""

    def ask_all(self, asking: Asking, items: list[Item]) -> Iterator[tuple[int, list[Likely] | Refused]]:
        asked = open_model(asking) if items else None
        for first in range(0, len(items), AT_ONCE):
            batch = [item.request for item in items[first : first + AT_ONCE]]
            pairs = [(request.context, ending) for request in batch for ending in request.endings]
            try:
                found = iter(self.likelihoods(asked, pairs))
            except (OSError, asyncio.TimeoutError, *_http_errors()) as error:
                raise Fault(f"{asking.client.url}: lm-eval had no answer: {error}") from None
            for number, request in enumerate(batch, first):
                yield number, [Likely(*next(found)) for _ in request.endings]


def _http_errors() -> tuple[type[Exception], ...]:
    import aiohttp
    import requests

    return aiohttp.ClientError, requests.RequestException


def instances(kind: str, arguments: list[tuple]) -> list:
    """lm-eval's requests."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]
