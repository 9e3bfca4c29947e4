"""Requests of OpenAI's interface, read and checked: the body of /v1/completions and of /v1/chat/completions."""

import secrets
from dataclasses import dataclass, field

from llmdata.bad_row import BadRow, found
from llmdata.characters import is_text
from llmdata.messages import read_fields, read_messages, text_of
from llmtext.generator import SamplerOptions

from .engine import MOST_TOPS
from .errors import ApiError, bad_field
from .fields import Fields

MOST_CHOICES = 128  # answers to one request
MOST_STOPS, LONGEST_STOP = 16, 256  # stop strings; characters of one
MOST_TOKENS = 2**31 - 1
# They have no influence on an answer.
IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
})  # fmt: skip


@dataclass
class Wanted:
    """What a request asks for. `prompts` are texts or token ids; those of a chat are in `messages`."""

    model: str | None
    n: int
    sampling: SamplerOptions
    seed: int
    max_tokens: int | None  # None: as many as there is room for
    stops: list[str]
    stream: bool
    include_usage: bool
    logprobs: int = -1  # how many probable tokens beside each token's own; -1: no probabilities
    prompts: list[str | list[int]] = field(default_factory=list)
    echo: bool = False
    messages: list[dict] = field(default_factory=list)
    template_fields: dict = field(default_factory=dict)
    continues: bool = False  # the last message, which is the assistant's


def _read_common(fields: Fields, max_tokens: int | None) -> Wanted:
    for name in ("frequency_penalty", "presence_penalty"):
        fields.only(name, 0)
    fields.only("logit_bias", {})
    stream, options = fields.flag("stream"), fields.take("stream_options", {})
    if not isinstance(options, dict) or (options and not stream):
        raise bad_field("stream_options", found(options), 'an object, together with "stream": true')
    options = Fields(options)
    include_usage = options.flag("include_usage")
    options.finish(frozenset({"include_obfuscation"}))
    sampling = SamplerOptions(fields.number("temperature", 1, 0, 2), fields.integer("top_k", 0, 0, MOST_TOKENS),
                              fields.number("top_p", 1, 0, 1))  # fmt: skip
    seed = fields.integer("seed", secrets.randbits(64), -(2**63), 2**64 - 1) % 2**64
    return Wanted(
        fields.text("model"), fields.integer("n", 1, 1, MOST_CHOICES), sampling, seed, max_tokens,
        _read_stops(fields.take("stop", [])), stream, include_usage,
    )  # fmt: skip


def _read_stops(value) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise bad_field("stop", f"{len(stops)} texts" if isinstance(stops, list) else found(stops), f"up to {MOST_STOPS} texts")
    for stop in stops:
        if not isinstance(stop, str) or not is_text(stop) or not 0 < len(stop) <= LONGEST_STOP:
            raise bad_field("stop", found(stop), f"texts of 1 to {LONGEST_STOP} characters")
    return stops


def read_completion(body: dict) -> Wanted:
    fields = Fields(body)
    wanted = _read_common(fields, fields.integer("max_tokens", 16, 0, MOST_TOKENS))
    wanted.logprobs = fields.integer("logprobs", -1, 0, MOST_TOPS) if "logprobs" in fields.left else -1
    wanted.echo, wanted.prompts = fields.flag("echo"), _read_prompts(fields.take("prompt"))
    if wanted.max_tokens == 0 and not wanted.echo:
        raise bad_field("max_tokens", "0", '1 or more, or "echo": true')
    if len(wanted.prompts) * wanted.n > MOST_CHOICES:
        raise bad_field("n", f"{wanted.n} answers to each of {len(wanted.prompts)} prompts", f"{MOST_CHOICES} answers or fewer")
    fields.only("suffix", "")
    fields.only("best_of", wanted.n, 1)
    fields.finish(IGNORED)
    return wanted


def _read_prompts(value) -> list[str | list[int]]:
    """A text, a list of texts, a list of ids, or a list of lists of ids."""
    prompts = [value] if isinstance(value, str) or _are_ids(value) else value
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) or _are_ids(p) for p in prompts):
        raise bad_field("prompt", found(value), "a text, a list of token ids, or a list of such that is not empty")
    if len(prompts) > MOST_CHOICES:
        raise bad_field("prompt", f"{len(prompts)} prompts", f"{MOST_CHOICES} or fewer")
    for prompt in prompts:
        if isinstance(prompt, str):
            Fields({"prompt": prompt}).text("prompt")
    return prompts


def _are_ids(value) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) is int for number in value)  # true is an int, too


def read_chat(body: dict) -> Wanted:
    fields = Fields(body)
    most = fields.integer("max_tokens", None, 1, MOST_TOKENS)  # the older name
    wanted = _read_common(fields, fields.integer("max_completion_tokens", most, 1, MOST_TOKENS))
    tops = fields.integer("top_logprobs", 0, 0, MOST_TOPS)
    if fields.flag("logprobs"):
        wanted.logprobs = tops
    elif tops:
        raise bad_field("top_logprobs", str(tops), '0, or "logprobs": true')
    wanted.continues = fields.flag("continue_final_message")
    fields.only("add_generation_prompt", not wanted.continues)
    fields.only("response_format", {"type": "text"})
    fields.only("modalities", ["text"])
    if fields.take("tool_choice", "auto") not in ("auto", "none"):
        raise ApiError(400, '"tool_choice": expected "auto" or "none": a call cannot be forced', "tool_choice")
    wanted.messages = _read_messages(fields.take("messages"), wanted.continues)
    wanted.template_fields = _read_template_fields(fields)
    fields.finish(IGNORED)
    return wanted


def _read_messages(value, continues: bool) -> list[dict]:
    if not isinstance(value, list) or not value:
        raise bad_field("messages", found(value), "a list of messages")
    renamed = [m | {"role": "system"} if isinstance(m, dict) and m.get("role") == "developer" else m for m in value]
    try:
        messages = read_messages("messages", renamed)
    except BadRow as bad:
        raise ApiError(400, str(bad), "messages") from None
    if continues and messages[-1]["role"] != "assistant":
        raise ApiError(400, '"continue_final_message": expected a last message of the assistant', "messages")
    return [m | {"content": text_of(m)} if isinstance(m.get("content"), list) else m for m in messages]


def _read_template_fields(fields: Fields) -> dict:
    given = {name: fields.take(name) for name in ("tools", "documents", "chat_template_kwargs")}
    try:
        return read_fields(given)
    except BadRow as bad:
        raise ApiError(400, str(bad)) from None
