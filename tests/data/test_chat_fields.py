"""All fields of a row reach the chat template: ids are those of transformers, what the
assistant produces is trained, and formats of other programs are read."""

import datetime
import itertools
import json
import random

import chattools
import pytest
from chatprep import (
    CHATML, GOOD, HOSTILE, PAIR, answer, chat, ids, model_folder, read, text_of, user, write_jsonl,
)  # fmt: skip
from chatprep import model, prepare, refused, trained  # noqa: F401  fixtures
from tokenizers import AddedToken, Tokenizer

from llmdata import rows
from llmdata.bad_row import BadRow
from llmdata.chat_rows import read_row
from llmdata.formats import parse_row as parse
from llmdata.chat_tokens import RowEncoder
from llmdata import provenance
from llmdata.chat_template import Template
from llmtext.prompts import read_prompts
from llmdata.tokenizer import open_tokenizer
from llmtext.turns import Turns

TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # tokens, but not special ones, of many tokenizers
DAY = datetime.date(2024, 7, 26)


@pytest.fixture(params=list(chattools.TEMPLATES))
def name(request):
    return request.param


@pytest.fixture
def folder(tmp_path, trained, name):
    folder = model_folder(tmp_path, trained, chattools.TEMPLATES[name])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.add_special_tokens([AddedToken(tag, special=True, normalized=False) for tag in ("<|call|>", "<|end|>", "<|return|>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def encoder_of(folder):
    return RowEncoder(Template(folder, open_tokenizer(folder, "--tokenizer"), DAY))


def encoded(encoder, row):
    return encoder.encode(read_row(parse(json.dumps(row).encode()), rows.CONVERSATIONS, None))


def theirs(folder, row, generate=False, mask=False):
    """What transformers makes of it: ids, or with `mask` of each whether an assistant generated it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )
    tools = row.get("tools")
    found = tokenizer.apply_chat_template(
        row["messages"], tools=(json.loads(tools) if isinstance(tools, str) else tools) or None, documents=row.get("documents"),
        chat_template=json.loads((folder / "tokenizer_config.json").read_text())["chat_template"], date_string="26 Jul 2024",
        add_generation_prompt=generate, return_assistant_tokens_mask=mask, **row.get("chat_template_kwargs", {}))  # fmt: skip
    return found["assistant_masks"] if mask else found["input_ids"]


def test_ids_are_transformers(folder, name):
    encoder = encoder_of(folder)
    for _ in range(40):
        row = chattools.row(name)
        found = ids(encoded(encoder, row).prompt)
        assert found == theirs(folder, row)[: len(found)], json.dumps(row)


def test_prompts_are_transformers(folder, name, tmp_path):
    """What rejection sampling asks, the prompts of pairs, and what it writes for training."""
    asked = [chattools.row(name) for _ in range(20)]
    for row in asked:
        last = max(n for n, message in enumerate(row["messages"]) if message["role"] == "user")
        row["messages"] = row["messages"][: last + 1]
    prompts, _ = read_prompts([write_jsonl(tmp_path / "p.jsonl", *asked)], None)
    encoder = encoder_of(folder)
    turns = Turns(encoder.template)
    for row, prompt in zip(asked, prompts, strict=True):
        assert turns.ask(prompt) == theirs(folder, row, generate=True)
        pair = {"prompt": prompt.messages, "chosen": "good", "rejected": "bad"} | prompt.fields
        found = encoder.encode(read_row(parse(json.dumps(pair).encode()), rows.COMPARISONS, None))
        assert turns.answered(prompt, "good") == ids(found.prompt) + ids(found.answers[0])
        if name != "thinking" or row.get("chat_template_kwargs", {}).get("enable_thinking", True):  # else it is asked with a thought
            assert ids(found.prompt) == turns.ask(prompt)
    assert len({prompt.key for prompt in prompts}) == len(prompts)


def test_texts_are_never_tokens_of_the_template(folder, name):
    """Whatever stands in calls, tools, documents, names or arguments: the special tokens are those of the same row without."""
    encoder = encoder_of(folder)
    for _ in range(25):
        row = json.dumps(chattools.row(name, hostile=True), ensure_ascii=False)
        plain = row
        for text in HOSTILE:
            plain = plain.replace(text, "zz")
        hostile, same = ([i for i in ids(encoded(encoder, json.loads(text)).prompt) if i in encoder.never_text] for text in (row, plain))
        assert hostile == same and hostile


def test_what_is_generated_is_trained(tmp_path, trained):
    """As transformers' mask has it, and the end of a turn that this template writes behind its block; nothing of other turns."""
    folder = model_folder(tmp_path, trained, chattools.BLOCKS)
    encoder = encoder_of(folder)
    for _ in range(30):
        row = chattools.row("blocks")
        found = encoded(encoder, row).prompt
        mask = theirs(folder, row, mask=True)
        ours = (found >> 31).tolist()
        ends = [n for n, number in enumerate(ids(found)) if number == encoder.end and mask[n - 1]]
        assert ours == [int(bit or n in ends) for n, bit in enumerate(mask[: len(ours)])] and not any(mask[len(ours) :])


# ---- what is trained


def runs(folder, tokens):
    """(text, flags) of tokens alike."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [(tokenizer.decode(ids(tokens[[*group]]), skip_special_tokens=False), int(flags))
            for flags, group in itertools.groupby(range(len(tokens)), lambda n: tokens[n] >> 30)]  # fmt: skip


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": "y"}}}
TALK = [
    user("ask"), answer("first") | {"reasoning_content": "old"}, user("again"),
    {"role": "assistant", "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "content": "result", "name": "f", "tool_call_id": "1"}, answer("done") | {"name": "me"},
]  # fmt: skip
TRAINED = {
    "thinking": [("first", "<|im_end|>"),
                 ('<think>\nhm\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {"x": "y"}}\n</tool_call>', "<|im_end|>"),
                 ("<think>\n\n</think>\n\ndone", "<|im_end|>")],
    "python": [("<think>old</think>first", "<|eot_id|>"), ('{"name": "f", "parameters": {"x": "y"}}', "<|eot_id|>"), ("done", "<|eot_id|>")],
    "brackets": [(" first", "<|end_of_text|>"), (' [CALLS] [{"arguments": {"x": "y"}, "id": "1", "name": "f"}]', "<|end_of_text|>"),
                 (" done", "<|end_of_text|>")],
    "blocks": [("<think>old</think>first", "<|im_end|>"), ("<think>hm</think><tool_call>f(x=y)</tool_call>", "<|im_end|>"),
               ("done", "<|im_end|>")],
    "channels": [(" final<|user|>first", "<|end|>"), (' to=functions.f<|user|>{"x": "y"}', "<|call|>"), (" final<|user|>done", "<|return|>")],
}  # fmt: skip


def trained_runs(folder, tokens):
    found = runs(folder, tokens)
    return [(said, end) for (said, flags), (end, last) in zip(found, found[1:]) if (flags, last) == (0b10, 0b11)]


def test_what_is_trained(folder, name):
    """Reasoning and calls with the tags that a model must write, as far as the template writes them, and the ends of turns."""
    assert trained_runs(folder, encoded(encoder_of(folder), chat(*TALK)).prompt) == TRAINED[name]


def test_an_answers_prompt_may_have_an_empty_thought(tmp_path, trained):
    """Which is the prompt's then, not the model's."""
    folder = model_folder(tmp_path, trained, chattools.THINKING)
    row = chat(user(), answer("yes"))
    for arguments, said in (({}, "<think>\n\n</think>\n\nyes"), ({"enable_thinking": False}, "yes")):
        found = encoded(encoder_of(folder), row | {"chat_template_kwargs": arguments}).prompt
        assert trained_runs(folder, found) == [(said, "<|im_end|>")]
        assert ids(found) == theirs(folder, row)[: len(found)]


def test_turns_of_two_parts(tmp_path, trained):
    """What a model writes between them is trained: it goes on by itself."""
    folder = model_folder(tmp_path, trained, chattools.CHANNELS)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<|call|>", "<|end|>", "<|return|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    found = encoded(encoder_of(folder), chat(user(), answer() | {"reasoning_content": "hm"})).prompt
    assert trained_runs(folder, found) == [(" analysis<|user|>hm<|end|><|im_start|>assistant final<|user|>yes", "<|return|>")]


@pytest.mark.parametrize("name", ["thinking"])
def test_one_token_from_a_prompt_to_an_answer(tmp_path, trained, folder):
    """A prompt that begins a thought, an answer whose thought is empty: white space of both is one token."""
    source = chattools.THINKING.replace("{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}", "{{ '' }}{% else %}{{ '<think>\\n' }}{% endif %}")
    fields = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(fields | {"chat_template": source}))
    row = chat(user(), answer())
    found = ids(encoded(encoder_of(folder), row).prompt)
    assert source != chattools.THINKING and found == theirs(folder, row)[: len(found)]


def test_calls_that_a_template_has_by_itself(tmp_path, trained):
    folder = model_folder(tmp_path, trained, chattools.PYTHON)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = encoded(encoder_of(folder), chat(*TALK) | {"chat_template_kwargs": {"builtin_tools": ["f"]}, "tools": [{"name": "f"}]}).prompt
    assert ('<|python_tag|>f.call(x="y")', "<|eom_id|>") in trained_runs(folder, found)
    assert "Environment: ipython" in tokenizer.decode(ids(found), skip_special_tokens=False)


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss": False}, {"train": 0}, {"weight": 0.0}, {"weight": 1, "loss": 0}])
def test_turns_that_are_not_trained(folder, name, flag):
    found = [message | flag if message.get("content") == "first" or "tool_calls" in message else message for message in TALK]
    found[-1] = found[-1] | {"train": True, "weight": 1}
    assert trained_runs(folder, encoded(encoder_of(folder), chat(*found)).prompt) == TRAINED[name][2:]


def test_answers_that_call_tools(tmp_path, trained):
    """What decides between a call and a text counts in DPO, the end of a turn does not; a result within an answer is not trained."""
    folder = model_folder(tmp_path, trained, chattools.THINKING)
    row = {"prompt": "ask", "chosen": TALK[3:], "rejected": [answer("no")], "tools": json.dumps([{"name": "f"}])}
    found = encoder_of(folder).encode(read_row(parse(json.dumps(row).encode()), rows.COMPARISONS, None))
    assert trained_runs(folder, found.answers[0]) == TRAINED["thinking"][1:]
    assert trained_runs(folder, found.answers[1]) == [("<think>\n\n</think>\n\nno", "<|im_end|>")]
    assert "result" in "".join(text for text, flags in runs(folder, found.answers[0]) if not flags)
    assert '<tools>\n{"name": "f"}' in text_of(folder, found)
    assert ids(found.prompt) == theirs(folder, chat(user("ask")) | {"tools": [{"name": "f"}]}, generate=True)


def test_tokens_of_tags_may_stand_in_a_text(tmp_path, trained, prepare):
    """Those that are not special: many answers have their thoughts in their content."""
    folder = model_folder(tmp_path, trained, CHATML)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    tokenizer.save(str(folder / "tokenizer.json"))
    row = chat(user("what is <think>?"), answer("<think>\nhm\n</think>\n\nyes"))
    assert ids(encoded(encoder_of(folder), row).prompt) + [*tokenizer.encode("\n").ids[-1:]] == theirs(folder, row)


# ---- fields that cannot be used, or are not written


IMAGE = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]


@pytest.mark.parametrize("bad, message", [
    (chat({"role": "user", "content": IMAGE}, answer()), '"messages[0]": "content" has a part of type "image_url", expected texts'),
    (chat({"role": "user", "content": [{"type": "text", "text": "a"}]}, answer()), '"content" of message 1 is a list of parts'),
    (chat(user(), answer() | {"tool_calls": "{"}), '"messages[1].tool_calls": "{", expected JSON'),
    (chat(user(), answer() | {"tool_calls": {"name": "f"}}), '"messages[1].tool_calls": an object, expected a list'),
    (chat(user(), answer() | {"train": "no"}), '"messages[1]": train "no", expected 0 or 1'),
    (chat(user(), answer() | {"loss": 0.5}), '"messages[1]": loss 0.5, expected 0 or 1'),
    (chat(user(), answer() | {"train_detail": [{"begin_offset": 0}]}), '"messages[1]": "train_detail" is not read'),
    (chat(user(), answer() | {"thinking": "\ud800"}), '"messages[1]": half a surrogate pair'),
    (GOOD | {"tools": "[{]"}, '"tools": "[{]", expected JSON'),
    (GOOD | {"tools": ["f"]}, '"tools": expected a list of objects'),
    (GOOD | {"tools": [{"name": "\ud800"}]}, '"tools": half a surrogate pair'),
    (GOOD | {"system": ["a"]}, '"system": a list, expected Unicode text'),
    (chat({"role": "system", "content": "a"}, *GOOD["messages"]) | {"system": "b"}, '"system": is not what the system message'),
    (GOOD | {"functions": [{"name": "f"}]}, '"functions": not read'),
    (GOOD | {"documents": {"text": "a"}}, '"documents": expected a list of objects'),
    (GOOD | {"chat_template_kwargs": [1]}, '"chat_template_kwargs": a list, expected an object'),
    (GOOD | {"chat_template_kwargs": {"tools": []}}, '"chat_template_kwargs": "tools" is not for a row to set'),
    (GOOD | {"chat_template_kwargs": {"eos_token": "x"}}, '"chat_template_kwargs": "eos_token" is not for a row to set'),
    (chat(user(), {"role": "assistant", "tool_calls": [CALL]}), "the chat template leaves out the assistant message"),
    ({"conversations": [{"from": "cat", "value": "a"}]}, '"conversations[0]": role "cat", expected one of'),
    ({"conversations": [{"from": "function_call", "value": "f()"}]}, '"conversations[0]": "f()", expected JSON'),
    ({"conversations": "talk"}, '"conversations": "talk", expected JSON'),
    ({"instruction": 1, "output": "a"}, '"instruction": 1, expected a text'),
    ({"instruction": "a", "output": "b", "history": ["c"]}, '"history": expected a list of pairs of texts'),
    ({"instruction": "a", "output": ""}, '"messages[1]": the assistant says nothing'),
])  # fmt: skip
def test_rows_left_out(tmp_path, model, prepare, refused, bad, message):
    path = write_jsonl(tmp_path / "a.jsonl", GOOD, bad)
    arguments = (path, "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    assert f"{path}: line 2: {message}" in refused(*arguments, "--strict")
    _, error = prepare(*arguments)
    assert message in error and "1 rows left out" in error and len(read(tmp_path / "out")) == 1


PARTS = [{"type": "text", "text": "a"}]
STRINGY = {"function": {"name": "f", "arguments": '{"x": "y"}'}}
CALLS = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for call in m.tool_calls %}
{{ call.function.name + '(' + call.function.ARGUMENTS + ')' }}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"""


@pytest.mark.parametrize("template, talk, advice", [
    (CHATML, [answer() | {"content": PARTS}], '"content" is a list of parts, write it as one text'),
    (CHATML.replace("m.content +", "(m.content if m.content is string else '') +"), [answer() | {"content": PARTS}],
     'leaves out the assistant message: "content" is a list of parts, write it as one text'),
    (CALLS.replace("ARGUMENTS", "arguments.items() | join"), [answer() | {"tool_calls": [STRINGY]}],
     '"arguments" of "tool_calls" is a text, write it as an object'),
    (CALLS.replace("ARGUMENTS", "arguments"), [answer() | {"tool_calls": [CALL]}],
     '"arguments" of "tool_calls" is an object, write it as a JSON text'),
])  # fmt: skip
def test_a_field_in_another_form_than_the_template_takes(tmp_path, trained, template, talk, advice):
    with pytest.raises(BadRow, match=f".*: {advice}$" if advice.startswith('"') else advice):
        encoded(encoder_of(model_folder(tmp_path, trained, template)), chat(user(), *talk))


def test_what_is_not_written_is_counted(tmp_path, model, prepare):
    """Fields that say something and that the template does not read: the row is as it would be without."""
    told = answer() | {"reasoning_content": "a", "name": "b", "tool_calls": [CALL], "time": "now", "id": "c"}
    path = write_jsonl(tmp_path / "a.jsonl", GOOD, chat(user(), told) | {"tools": [CALL]}, chat(user(), told, user(), told) | {"tools": "[]"})
    _, error = prepare(path, "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    assert error.splitlines() == [
        f"prepare_chat: {field} is not written by this chat template"
        for field in ("name of 3 messages", "reasoning_content of 3 messages", "tool_calls of 3 messages", "tools of 1 rows")
    ]
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert meta["not_written"] == {"name": 3, "reasoning_content": 3, "tool_calls": 3, "tools": 1}
    first, second, _ = read(tmp_path / "out")
    assert first.prompt.tolist() == second.prompt.tolist()


def test_a_template_for_tools(tmp_path, trained):
    entries = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": chattools.THINKING}]
    encoder = encoder_of(model_folder(tmp_path, trained, entries))
    plain, tools = encoded(encoder, GOOD), encoded(encoder, GOOD | {"tools": [{"name": "f"}]})
    decode = lambda row: encoder.template.tokenizer.decode(ids(row.prompt), skip_special_tokens=False)  # noqa: E731
    assert decode(plain) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>" and '<tools>\n{"name": "f"}' in decode(tools)


# ---- formats


def says(speaker, text, **more):
    return {"from": speaker, "value": text} | more


BRIEF = {"role": "system", "content": "Be brief."}
FORMATS = [
    ({"conversations": [says("human", "a"), says("gpt", "b")]}, chat(user("a"), answer("b"))),
    ({"conversations": [says("system", "Be brief."), says("user", "a"), says("chatgpt", "b")]}, chat(BRIEF, user("a"), answer("b"))),
    ({"conversations": [says("human", "a"), says("gpt", "b")], "system": "Be brief.", "tools": ""}, chat(BRIEF, user("a"), answer("b"))),
    ({"conversations": [BRIEF, user("a"), answer("b")], "system": "Be brief.\n"}, chat(BRIEF, user("a"), answer("b"))),
    (chat(user("a"), answer("b")) | {"system": "Be brief."}, chat(BRIEF, user("a"), answer("b"))),
    ({"conversation": [user("a"), answer("b")], "id": "x"}, chat(user("a"), answer("b"))),
    ({"messages": json.dumps([user("a"), answer("b")])}, chat(user("a"), answer("b"))),
    ({"conversations": [says("human", "a", weight=1), says("gpt", "b", weight=0), says("human", "c"), says("gpt", "d", weight=1)]},
     chat(user("a"), answer("b") | {"train": False}, user("c"), answer("d"))),
    ({"conversations": [says("human", "a"), says("function_call", '{"name": "f", "arguments": {"x": "y"}}'), says("observation", "r"),
                        says("gpt", "b")], "tools": '[{"name": "f"}]'},
     chat(user("a"), {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "r"}, answer("b")) | {"tools": [{"name": "f"}]}),
    ({"instruction": "a", "input": "", "output": "b"}, chat(user("a"), answer("b"))),
    ({"instruction": "a", "input": "c\n", "output": "b", "system": "Be brief.", "history": [["x", "y"]]},
     chat(BRIEF, user("x"), answer("y"), user("a\n\nc\n"), answer("b"))),
    ({"instruction": "a", "input": None, "output": "b", "history": None, "text": "a b"}, chat(user("a"), answer("b"))),
]  # fmt: skip
PAIRS = [
    {"conversations": [says("human", "hi")], "chosen": says("gpt", "good"), "rejected": says("gpt", "bad")},
    {"instruction": "hi", "input": "", "chosen": "good", "rejected": "bad"},
    {"input": {"messages": [user("hi")], "tools": [], "parallel_tool_calls": True}, "preferred_output": [answer("good")],
     "non_preferred_output": [answer("bad")]},
    {"prompt": [says("human", "hi")], "chosen": [says("gpt", "good")], "rejected": [says("gpt", "bad")]},
    {"chosen": [user("hi") | {"id": 1}, answer("good")], "rejected": [user("hi") | {"id": 2}, answer("bad")]},
]  # fmt: skip


@pytest.mark.parametrize("given", [*PAIRS, PAIR])
def test_a_rows_own_system_message(tmp_path, model, given):
    """Beside a prompt, as beside messages; it comes before that of the option."""
    encoder = encoder_of(model)
    found, same = (encoder.encode(read_row(parse(json.dumps(row).encode()), rows.COMPARISONS, system))
                   for row, system in ((given | {"system": "Be brief."}, "no"), (given, "Be brief.")))  # fmt: skip
    assert ids(found.prompt) == ids(same.prompt) and "Be brief." in text_of(model, found)
    path = write_jsonl(tmp_path / "p.jsonl", {"prompt": "hi", "system": "Be brief."}, {"prompt": "hi"})
    (prompt, other), _ = read_prompts([path], "no")
    assert [prompt.messages[0], other.messages[0]["content"]] == [BRIEF, "no"]


def tokens_of(folder, split="train"):
    return [[part.tolist() for part in row.parts()] for row in read(folder, split)]


@pytest.mark.parametrize("given, same", [([a for a, _ in FORMATS], [b for _, b in FORMATS]), (PAIRS, [PAIR] * len(PAIRS))])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_formats_of_others(tmp_path, trained, prepare, given, same, suffix):
    """All in one set; tables lack in each row what others have."""
    folder = model_folder(tmp_path, trained, chattools.THINKING)
    for name, found in (("given", given), ("same", same)):
        path = tmp_path / f"{name}.{suffix}"
        for number, row in enumerate(found) if suffix == "parquet" else []:
            write_table(tmp_path / name / f"{number:02d}.parquet", [row, row | {"only": {"here": 1}}])
        path = write_jsonl(path, *found) if suffix == "jsonl" else tmp_path / name
        _, error = prepare(path, "--tokenizer", folder, "--output", tmp_path / f"{name}_out", "--val-fraction", 0, "--strict")
        assert error == ""
    assert tokens_of(tmp_path / "given_out") == tokens_of(tmp_path / "same_out")
    assert len(tokens_of(tmp_path / "given_out")) == len(given) * (2 if suffix == "parquet" else 1)


def write_table(path, rows):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    path.parent.mkdir(exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    parquet.write_table(arrow.table({name: [row.get(name) for row in rows] for name in names}), path)


def test_fields_that_a_table_lacks(tmp_path, trained, prepare):
    """Messages of a table have all fields of all messages, most of them None: also within a call's arguments."""
    folder = model_folder(tmp_path, trained, chattools.THINKING)
    calls = [{"id": str(n), "type": "function", "function": {"name": "f", "arguments": {name: "y"}}} for n, name in enumerate("ab")]
    talk = [user("q"), {"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": "r"}, answer("z") | {"reasoning_content": "m"}]
    tools = [{"type": "function", "function": {"name": "f", "x": 1}}, {"type": "function", "function": {"name": "g"}}]
    found = [chat(*talk) | {"tools": tools}, GOOD]
    write_table(tmp_path / "a.parquet", found)
    for path in (tmp_path / "a.parquet", write_jsonl(tmp_path / "b.jsonl", *found)):
        prepare(path, "--tokenizer", folder, "--output", tmp_path / path.suffix[1:], "--val-fraction", 0, "--strict")
    assert tokens_of(tmp_path / "parquet") == tokens_of(tmp_path / "jsonl")


# ---- text with origins


def test_followed_text(tmp_path):
    """Of drawn texts through drawn expressions: what it is, and that no character is taken for another source's."""
    environment = provenance.Environment()
    letters = ["abc \n", "uvw \n", "xyz\" \n"]
    one = ["trim", "string", "list | join", "first", "last", "reverse", "upper", "replace('a', 'N')", "tojson", "indent", "default('N')",
           "batch(2) | map('join', '-') | join('+')"]  # fmt: skip
    parts = ["{0}.split()", "{0}.split('b')", "{0}.rsplit(' ', 1)", "{0}.splitlines()", "{0}.partition('b')", "{0}.rpartition({1})",
             "[{0}, {1}]", "{{'k': {0}, {1}: 1}}.keys() | list"]  # fmt: skip
    texts = ["{0}", "{0} ~ '[' ~ {1}", "{0} + {1}", "'[' + {0}", "{0}[1:]", "{0}[::-2]", "'%s|%s' % ({0}, {1})", "'{{}}'.format({0})",
             "{0}.strip('a\n')", "{0}.removeprefix('a')", "{0}.removesuffix('b')", "{0} * 2", "{0}.replace({1}, 'N')", "{0}.title()",
             "'N'.join([{0}, {1}])", "{0}.join(['N', {1}])", "'N{{a}}'.format(a={0})", "{0}.replace('', 'N')", "{0}.center(9)"]  # fmt: skip

    def drawn(depth):
        if depth == 0:
            return random.choice("xyz")
        a, b = drawn(depth - 1), drawn(depth - 1)
        some = f"({random.choice(parts).format(a, b)})"
        text = random.choice([random.choice(texts).format(a, b), f"{a} | {random.choice(one)}", f"{some} | join('N')", f"{some}[-1:] | join('N')"])
        return f"({text})"

    lost = 0
    for _ in range(400):
        given = {name: "".join(random.choices(kind, k=random.randint(1, 6))) for name, kind in zip("xyz", letters)}
        source = "{{ %s }}{%% set q %%}<{{ %s }}>{%% endset %%}{{ q }}" % (drawn(2), drawn(1))
        program = environment.from_string(source)
        try:
            want = program.render(given)
        except ValueError:  # an empty separator
            continue
        found = program.render({name: provenance.of_source(text, number) for number, (name, text) in enumerate(given.items(), 1)})
        assert found == want
        for text, number, flags in provenance.runs(found):
            lost += bool(flags & provenance.LOST)
            others = {letter for other, kind in enumerate(letters, 1) if other != number for letter in kind if letter.isalpha()}
            assert flags & provenance.LOST or not {*text} & others, (text, number, source, given)
    assert 0 < lost < 400


def test_parts_that_look_like_separators():
    """Their origins are those of where they stand."""
    text = provenance.Text("abbxaba", "1234567")
    assert [part._origins for part in text.split("ab")] == ["", "34", "7"]
    assert [part._origins for part in text.rsplit("ab", 1)] == ["1234", "7"]
    assert [part._origins for part in text.partition("bx")] == ["12", "34", "567"]
