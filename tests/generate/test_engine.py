"""Many requests over one model: what is said of a request against transformers, and that it has the same bits alone and among
others, whatever joins, leaves and shares pages with it."""

import ctypes
import json
import math
import random
import shutil

import pytest
import torch
import transformers

import compare
import hfmodels
from engines import PAGE, PROMPT_TOKENS, answer, drain, greedy, is_busy, open_engine, random_ids, random_request, same, step
from llmdata.errors import InputError
from seeds import how_often

VOCAB, CONTEXT = 193, 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    hfmodels.make_model(folder, vocab_size=VOCAB, max_position_embeddings=CONTEXT, eos_token_id=None, bos_token_id=None)
    return folder


@pytest.fixture
def engine(lib, folder):
    """make(rows, ...): engines that are closed at the end."""
    engines = []

    def make(*arguments, **named):
        engines.append(open_engine(lib, folder, *arguments, **named))
        return engines[-1]

    yield make
    for one in engines:
        one.close()


def is_clean(engine):
    counts = engine.counts()
    return (counts.pages_free, counts.pages_shared, counts.running, counts.waiting) == (counts.pages, 0, 0, 0)


# ---- what is said


def test_logprobs_are_those_of_the_full_pass(lib, engine, folder):
    """Of a prompt of several pages and of the drawn tokens, with the most probable ones."""
    ids = random_ids(150, VOCAB)
    told = answer(engine(3), greedy(ids, 20, 5, True))
    assert [t.prompt_index for t in told] == [*range(150)] + [-1] * 20
    assert [t.token for t in told[:150]] == ids and math.isnan(told[0].logprob) and not told[0].tops
    text = torch.tensor([[t.token for t in told]])
    kinds = [torch.float64] + ([torch.bfloat16] if lib.precision == "bf16" else [])
    expected = []
    for kind in kinds:
        model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=kind)
        with torch.no_grad():
            expected.append(model(text).logits[0, :-1].double().log_softmax(-1))
    chosen = [torch.gather(e, 1, text[0, 1:, None])[:, 0] for e in expected]
    compare.check("log-probabilities", torch.tensor([t.logprob for t in told[1:]]), *chosen, small=6e-2)
    tops = torch.tensor([[logprob for _, logprob in t.tops] for t in told[1:]])
    compare.check("most probable", tops, *(e.topk(5).values for e in expected), small=6e-2)
    for t in told[1:]:
        assert all(logprob == t.logprob for token, logprob in t.tops if token == t.token)
    assert all(t.tops[0][0] == t.token for t in told[150:]), "greedy draws the most probable"
    assert [t.finish for t in told] == [0] * 169 + [2]


@pytest.mark.checked
def test_ends(lib, engine, folder):
    """max_tokens, a full context, and nothing to draw at all."""
    one = engine(2, 100)
    assert one.context == 100
    assert [(t.token, t.finish) for t in answer(one, greedy([1, 2], 0))] == [(-1, 2)]
    assert [t.finish for t in answer(one, greedy([1, 2], 3))] == [0, 0, 2]
    assert [t.finish for t in answer(one, greedy(random_ids(97, VOCAB), 50))] == [0, 0, 0, 2]
    assert [t.finish for t in answer(one, greedy(random_ids(100, VOCAB), 50))] == [2]
    told = answer(one, greedy([7], 0, 0, True))
    assert [(t.token, t.prompt_index, t.finish) for t in told] == [(7, 0, 0), (-1, -1, 2)]
    assert engine(1, 100, 1).context == engine(1, 2**31 - 1, 1).context == PAGE, "no longer than all pages"
    assert is_clean(one)


def test_end_tokens(engine, lib, folder, tmp_path):
    """They are reported, and nothing behind them."""
    request = greedy([3, 4], 40)
    endless = [t.token for t in answer(engine(1), request)]
    end = endless[7]
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(json.dumps({"eos_token_id": [end]}))
    one = open_engine(lib, tmp_path / "model", 1)
    told = answer(one, request)
    assert [t.token for t in told] == endless[: endless.index(end) + 1]
    assert [t.finish for t in told] == [0] * endless.index(end) + [1]
    assert [i for i in range(VOCAB) if one.is_end(i)] == [end]
    one.close()


def test_refused(engine):
    """One message each, and nothing waits."""
    one = engine(1, 64)
    for request, message in [
        (greedy([], 1), "the prompt is empty"),
        (greedy([1] * 65, 1), "the prompt has 65 tokens, the context holds 64"),
        (greedy([0, VOCAB], 1), f"token 1 has the id {VOCAB}, the model's vocabulary has {VOCAB} ids"),
        (greedy([0, -1], 1), "token 1 has the id -1"),
        (greedy([0], -1), "max_tokens -1"),
        (greedy([0], 1, 21), "logprobs 21"),
        (greedy([0], 1, -1, True), "prompt_logprobs without logprobs"),
    ]:
        with pytest.raises(InputError, match=message):
            one.add(request)
    request = greedy([0], 1)
    request.sampling.temperature = math.nan
    with pytest.raises(InputError, match="temperature nan"):
        one.add(request)
    assert one.step() == [] and is_clean(one) and one.counts().steps == 0
    for sizes in [(0,), (1, 0), (1, 64, -1)]:
        with pytest.raises(InputError, match="expected at least one request of one token"):
            engine(*sizes)


# ---- the same bits


GROWING = 3


def live(engine, requests):
    """Adds the requests at random times, the first few at once, and cancels some others; (what is said of each, which were
    cancelled)."""
    waiting, told, cancelled, of_number = list(range(len(requests))), [[] for _ in requests], set(), {}
    while waiting or is_busy(engine):
        while waiting and (waiting[0] < GROWING or random.random() < 0.4):
            index = waiting.pop(0)
            of_number[engine.add(requests[index])] = index
        for number, token in step(engine) if is_busy(engine) else []:
            told[of_number[number]].append(token)
        if of_number and random.random() < 0.02:
            number, index = random.choice(list(of_number.items()))
            if index >= GROWING:
                engine.cancel(number)
                cancelled.add(index)
    return told, cancelled


def check_company(engine, requests, rows, pages):
    """Returns the counts after the requests ran together."""
    together = engine(rows, CONTEXT, pages)
    told, cancelled = live(together, requests)
    for i, request in enumerate(requests):
        alone = answer(engine(1), request)
        ended = i not in cancelled or bool(told[i]) and told[i][-1].finish
        assert same(told[i], alone if ended else alone[: len(told[i])]), f"request {i}: {request}"
    assert is_clean(together)
    return together.counts()


@pytest.mark.checked
def test_company_changes_nothing(engine):
    """Requests with common beginnings join, leave and are put back, as there are too few pages."""
    beginnings = [random_ids(length, VOCAB) for length in (150, 90)]
    beginnings.append(beginnings[0][:100] + beginnings[1])
    requests = [greedy(random_ids(50, VOCAB), 120, 2) for _ in range(GROWING)]  # together more than all pages
    requests += [random_request(beginnings, VOCAB, 220) for _ in range(how_often(20, 400))]
    # three pages each, of which two are common: not all of these run before pages of one of them are there
    requests += [greedy(beginnings[0] + random_ids(20, VOCAB), 5) for _ in range(5)]
    counts = check_company(engine, requests, 4, 6)
    assert counts.prompt_tokens_shared > 0 and counts.put_back > 0


def test_many_rows_change_nothing(engine):
    """More at once than the product for few rows takes."""
    beginnings = [random_ids(length, VOCAB) for length in (70, 130)]
    check_company(engine, [random_request(beginnings, VOCAB, 160) for _ in range(40)], 24, 0)


def test_same_bits_in_any_order_of_threads(lib, engine):
    requests = [greedy(random_ids(length, VOCAB), 4, 3) for length in (3, 70, 20)]

    def run():
        one = engine(2)
        told = drain(one, [one.add(request) for request in requests])
        return torch.tensor([t.logprob for tokens in told.values() for t in tokens])

    lib.forms(run)


# ---- pages and steps


def test_a_beginning_is_computed_once(engine):
    """Whole pages of it, also of an answer; what is computed for one is another's at once."""
    one, ids = engine(2), random_ids(200, VOCAB)
    first = answer(one, greedy(ids, 30))
    assert one.counts().prompt_tokens_shared == 0
    answer(one, greedy(ids, 1))
    assert one.counts().prompt_tokens_shared == 3 * PAGE
    answer(one, greedy(ids[: 2 * PAGE], 1))  # its last token has to be computed
    assert one.counts().prompt_tokens_shared == 4 * PAGE
    answer(one, greedy(ids + [t.token for t in first][:20], 1))
    assert one.counts().prompt_tokens_shared == 7 * PAGE, "200 tokens are 3 pages"
    answer(one, greedy([ids[0] ^ 1, *ids[1:]], 1))
    assert one.counts().prompt_tokens_shared == 7 * PAGE, "another first token"
    a = one.add(greedy(ids, 50))
    one.step()
    b = one.add(greedy(ids, 50))
    one.step()
    assert one.counts().pages_shared == 3
    one.cancel(a)
    assert one.counts().pages_shared == 0 and one.counts().running == 1
    one.cancel(b), one.cancel(b), one.cancel(12345)
    assert is_clean(one)


def test_an_answer_is_kept_too(engine):
    one = engine(1)
    ids = random_ids(100, VOCAB)
    text = ids + [t.token for t in answer(one, greedy(ids, 60))]
    answer(one, greedy(text, 1))
    assert one.counts().prompt_tokens_shared == 2 * PAGE


def test_the_longest_unused_page_goes_first(engine):
    one = engine(1, 128, 4)
    first, second, third = (random_ids(2 * PAGE, VOCAB) for _ in range(3))
    for ids, shared in [(first, 0), (second, 0), (first, 1), (third, 0), (first, 1), (second, 0)]:
        before = one.counts().prompt_tokens_shared
        answer(one, greedy(ids, 0))
        assert one.counts().prompt_tokens_shared - before == shared * PAGE


def test_steps(engine):
    """A place that is left is taken in the next step, and prompts fill what texts leave of a step."""
    one = engine(3)
    told = drain(one, [one.add(greedy(random_ids(5, VOCAB), n)) for n in (10, 4, 7, 3, 3)])
    assert [len(t) for t in told.values()] == [10, 4, 7, 3, 3]
    assert one.counts().steps == 10, "10 | 4, then 3, then 3 | 7"
    before = one.counts().steps
    answer(one, greedy(random_ids(2 * (3 + PROMPT_TOKENS) + 1, VOCAB), 1))
    assert one.counts().steps - before == 3
    one.add(greedy(random_ids(5, VOCAB), 8))
    one.step()
    number = one.add(greedy(random_ids(200, VOCAB), 1))
    assert all(len(one.step()) == 1 for _ in range(3)), "the text goes on beside the prompt"
    assert [n for n, _ in one.step()].count(number) == 1


def test_cache_that_fits_into_memory(lib, engine):
    """Without a number of pages: those of all rows, if that share of the free memory holds them, or fewer, but one."""
    roomy = engine(64)
    assert roomy.counts().pages == 64 * CONTEXT // PAGE
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    lib.c.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    page_bytes = 2 * 2 * 2 * PAGE * 16 * lib.floatX.itemsize  # keys and values, layers, heads, tokens, width
    scarce = engine(64, CONTEXT, 0, 40.5 * page_bytes / free.value)
    assert 20 <= scarce.counts().pages <= 80, "other programs take and free memory at the same time"
    smallest = engine(64, CONTEXT, 0, 0)
    assert (smallest.counts().pages, smallest.context) == (1, PAGE)
    request = greedy([1, 2, 3], 20, 1)
    assert same(answer(smallest, request), answer(roomy, request))
    assert engine(2, CONTEXT, 5, 0).counts().pages == 5, "what is asked for is not cut"


def test_order(engine):
    """The oldest waiting request begins first, and the newest running one gives way."""
    one = engine(2, 192, 4)
    old, new = one.add(greedy(random_ids(100, VOCAB), 80)), one.add(greedy(random_ids(100, VOCAB), 80, 0, True))
    ended, of_prompt = [], []
    while is_busy(one):
        told = step(one)
        ended += [number for number, token in told if token.finish]
        of_prompt += [token.prompt_index for _, token in told if token.prompt_index >= 0]
    assert ended == [old, new] and one.counts().put_back == 1
    assert of_prompt == [*range(100)], "what was said is not said again"


def test_nothing_is_left_behind(engine):
    """Requests that are cut off at random: pages are free, memory does not grow."""
    one, beginnings = engine(8, CONTEXT, 20), [random_ids(100, VOCAB)]

    def serve(count):
        numbers = []
        for _ in range(count):
            numbers.append(one.add(random_request(beginnings, VOCAB, 200)))
            if random.random() < 0.3:
                one.cancel(random.choice(numbers))
            one.step()
        drain(one)
        assert is_clean(one)

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096

    serve(100)
    before = resident()
    serve(how_often(300, 10000))
    assert resident() - before < 8 << 20
