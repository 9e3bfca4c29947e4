"""scripts/serve.py as clients see it: OpenAI's client, texts against transformers', streams, probabilities, usage."""

import json

import openai
import pytest
import torch
from llmdata.tokenizer import open_tokenizer
from model import greedy_text
from serving import KEPT, PRECISION, Served, parrot_model, random_model

USER = [{"role": "user", "content": "Say it."}]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    parrot_model(folder / "parrot")
    parrot_model(folder / "endless", ends=False)
    reference = random_model(folder / "random")
    with Served(folder, {name: folder / name for name in ("random", "parrot", "endless")}, "--queue", 64) as server:
        server.reference, server.tokenizer = reference, open_tokenizer(folder / "random")
        yield server


@pytest.fixture(scope="module")
def client(place):
    return place.client()


def test_models(place, client):
    assert [model.id for model in client.models.list()] == ["random", "parrot", "endless"]
    model = client.models.retrieve("parrot")
    assert model.chat is True and model.max_model_len == 256
    with pytest.raises(openai.NotFoundError, match="no model 'nobody' here, expected one of: random, parrot, endless"):
        client.models.retrieve("nobody")


def test_chat(client):
    answer = client.chat.completions.create(model="parrot", messages=USER, temperature=0)
    (choice,) = answer.choices
    assert choice.message.content == KEPT and choice.message.role == "assistant" and choice.finish_reason == "stop"
    assert answer.usage.completion_tokens == len(KEPT.encode()) + 1 and answer.usage.total_tokens == sum(
        (answer.usage.prompt_tokens, answer.usage.completion_tokens))  # fmt: skip
    assert choice.logprobs is None and answer.id.startswith("chatcmpl-")


def test_stream_of_a_chat(client):
    """Characters are never split, the role comes first, the reason of the end and the usage last."""
    asked = dict(model="parrot", messages=USER, temperature=0, stream=True, stream_options={"include_usage": True})
    chunks = list(client.chat.completions.create(**asked))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant" and deltas[0].content == ""
    assert [delta.content for delta in deltas[1:] if delta.content] == list(KEPT)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(KEPT.encode()) + 1
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize(
    "stop, shown", [("-stop", "x{} é€😀"), ("€", "x{} é"), (["never", "p!"], "x{} é€😀-sto"), ("-stop?", KEPT)]
)
def test_stop_strings(client, stop, shown):
    """What may become a stop string is held back in a stream, and given when it does not become one."""
    asked = dict(model="parrot", messages=USER, temperature=0, stop=stop)
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.content == shown and whole.choices[0].finish_reason == "stop"
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(stream=True, **asked)]
    assert "".join(pieces) == shown and all("\ufffd" not in piece for piece in pieces)


def test_special_token_as_stop(place, client):
    text = client.completions.create(model="endless", prompt="\n", temperature=0, max_tokens=40).choices[0]
    assert text.finish_reason == "length" and text.text == (KEPT * 3).encode()[:40].decode(errors="replace")
    asked = dict(model="parrot", prompt="\n", temperature=0, max_tokens=40, stop="<|end_of_text|>")
    assert client.completions.create(**asked).choices[0].text == KEPT


def test_lengths(client):
    short = client.chat.completions.create(model="endless", messages=USER, temperature=0, max_completion_tokens=4)
    assert short.choices[0].message.content == KEPT[:4] and short.choices[0].finish_reason == "length"
    whole = client.chat.completions.create(model="endless", messages=USER, temperature=0)
    assert whole.choices[0].finish_reason == "length" and whole.usage.total_tokens == 256 + 1  # the last one needs no place


@pytest.mark.skipif(PRECISION == "bf16", reason="token for token in fp32")
def test_greedy_texts_are_transformers(place, client):
    prompts = ["Once upon a time", "a", "Zwölf Boxkämpfer"]
    answer = client.completions.create(model="random", prompt=prompts, max_tokens=24, temperature=0)
    for prompt, choice in zip(prompts, answer.choices):
        ids, _ = greedy_text(place.reference, place.tokenizer.encode(prompt).ids, 24)
        assert choice.text == place.tokenizer.decode(ids)
    assert answer.usage.prompt_tokens == sum(len(prompt.encode()) + 1 for prompt in prompts)


def test_prompts_of_ids(place, client):
    ids = place.tokenizer.encode("Once").ids
    asked = dict(model="random", max_tokens=8, temperature=0)
    texts = [client.completions.create(prompt=prompt, **asked).choices[0].text for prompt in ("Once", ids, [ids], ["Once"])]
    assert len(set(texts)) == 1


def test_seeds_and_choices(client):
    """Each answer has its own seed; an answer does not depend on those beside it."""
    asked = dict(model="random", max_tokens=12, temperature=1.2, top_p=0.9, extra_body={"top_k": 50})
    several = [c.text for c in client.completions.create(prompt=["ab", "cd"], n=3, seed=7, **asked).choices]
    assert len(set(several)) == 6
    assert [c.text for c in client.completions.create(prompt="cd", n=3, seed=7, **asked).choices] == several[3:]
    assert client.completions.create(prompt="ab", seed=8, **asked).choices[0].text == several[1]
    assert len({client.completions.create(prompt="ab", **asked).choices[0].text for _ in range(4)}) > 1  # a seed of its own
    chunks = client.completions.create(prompt=["ab", "cd"], n=3, seed=7, stream=True, **asked)
    streamed = [""] * 6
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == several


@pytest.mark.skipif(PRECISION == "bf16", reason="to six digits in fp32")
def test_log_probabilities_of_a_prompt(place, client):
    """As lm-eval asks for them: N+1 entries, the first null, the chosen token's number the same in both places."""
    ids = place.tokenizer.encode("Once upon é").ids
    answer = client.completions.create(model="random", prompt=[ids], max_tokens=1, logprobs=1, echo=True, temperature=0)
    found = answer.choices[0].logprobs
    with torch.no_grad():
        wanted = place.reference(torch.tensor([ids])).logits[0].log_softmax(-1)
    assert len(found.token_logprobs) == len(found.tokens) == len(found.top_logprobs) == len(ids) + 1
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    for place_, number in enumerate(ids[1:]):
        logprob, tops = found.token_logprobs[place_ + 1], found.top_logprobs[place_ + 1]
        assert logprob == pytest.approx(wanted[place_, number].item(), abs=1e-4)
        assert logprob in tops.values() and max(tops.values()) == pytest.approx(wanted[place_].max().item(), abs=1e-4)
        assert (logprob == max(tops.values())) == (wanted[place_].argmax().item() == number)
    assert found.tokens[1:3] == ["O", "n"] and found.tokens[11:13] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert found.text_offset[1:4] == [0, 1, 2] and answer.choices[0].text.startswith("<|begin_of_text|>Once upon é")
    only = client.completions.create(model="random", prompt=[ids], max_tokens=0, logprobs=1, echo=True).choices[0]
    assert only.logprobs.token_logprobs == found.token_logprobs[:-1] and only.finish_reason == "length"


def test_log_probabilities_of_a_chat(client):
    """The bytes of the tokens are the text, in a stream too, whatever of it is held back."""
    asked = dict(model="parrot", messages=USER, temperature=0, logprobs=True, top_logprobs=3)
    whole = client.chat.completions.create(**asked).choices[0].logprobs.content
    streamed = [entry for chunk in client.chat.completions.create(stream=True, **asked)
                if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]  # fmt: skip
    assert streamed == whole and bytes(b for entry in whole for b in entry.bytes).decode() == KEPT
    for entry in whole:
        assert len(entry.top_logprobs) == 3 and entry.top_logprobs[0].logprob == max(top.logprob for top in entry.top_logprobs)
        assert entry.token == entry.top_logprobs[0].token and entry.logprob == entry.top_logprobs[0].logprob
    assert whole[-1].token == "<|end_of_text|>" and whole[-1].bytes == []
    cut = client.chat.completions.create(stop="€", **asked).choices[0].logprobs.content
    assert bytes(b for entry in cut for b in entry.bytes).decode() == "x{} é"


def test_continued_message(client):
    messages = [*USER, {"role": "assistant", "content": KEPT[:5]}]
    asked = dict(model="parrot", messages=messages, temperature=0)
    answer = client.chat.completions.create(**asked, extra_body={"continue_final_message": True})
    assert answer.choices[0].message.content == KEPT[5:]


def test_messages_never_become_special_tokens(place):
    plain = place.ask("v1/chat/completions", {"messages": [{"role": "user", "content": "<|eot_id|>"}], "max_tokens": 1})[2]
    short = place.ask("v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1})[2]
    assert plain["usage"]["prompt_tokens"] - short["usage"]["prompt_tokens"] == len("<|eot_id|>") - 1


def test_parts_developers_and_tools_are_accepted(place, client):
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    answer = client.chat.completions.create(model="parrot", messages=messages, temperature=0, tools=tools, tool_choice="auto")
    assert answer.choices[0].message.content == KEPT


def test_tokenizer(place):
    ids = place.tokenizer.encode("é<|eot_id|>").ids
    assert place.ask("tokenize", {"prompt": "é<|eot_id|>"})[2] == {"tokens": ids, "count": 4, "max_model_len": 256}
    assert place.ask("tokenize", {"prompt": "é", "add_special_tokens": False})[2]["tokens"] == ids[1:3]
    assert place.ask("detokenize", {"tokens": ids[1:], "model": "parrot"})[2] == {"prompt": "é<|eot_id|>"}
    info = place.ask("tokenizer_info")[2]
    assert info["bos_token"] == "<|begin_of_text|>" and info["eos_token"] == "<|end_of_text|>"
    assert "header_id" in info["chat_template"]


def test_metrics_and_log(place, client):
    before = place.counters()
    client.completions.create(model="random", prompt="\nabc", max_tokens=3, temperature=0)
    after = place.counters()
    assert after['llmc_prompt_tokens_total{model="random"}'] - before['llmc_prompt_tokens_total{model="random"}'] == 5
    assert after['llmc_generated_tokens_total{model="random"}'] > before['llmc_generated_tokens_total{model="random"}']
    name = 'llmc_first_token_seconds_count{model="random"}'
    assert after[name] == before.get(name, 0) + 1
    assert after['llmc_first_token_seconds_bucket{model="random",le="+Inf"}'] == after[name]
    line = place.logged("POST /v1/completions 200", "model=random", "prompt=5", "finish=")
    assert line.split()[1] == "127.0.0.1"
    assert place.ask("health")[:1] + place.ask("health")[2:] == (200, {"status": "ok"})


def test_answers_are_small_in_a_stream(place):
    """Each event is JSON in one line, and the stream ends with [DONE]."""
    asked = {"prompt": "\n", "model": "parrot", "temperature": 0, "stream": True, "max_tokens": 9}
    status, headers, text = place.ask("v1/completions", asked)
    events = text.split("\n\n")
    assert status == 200 and headers["Content-Type"].startswith("text/event-stream") and events[-2:] == ["data: [DONE]", ""]
    assert "".join(json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-2]) == "x{} é€"
