"""data/prepare_chat.py: rows have the ids of transformers, and what the assistant said is trained, whatever the template."""

import datetime
import json
import random
import re

import numpy as np
import pytest
from chatprep import (
    CHATML, DATED, ENDS, GOOD, HOSTILE, LEADS, PAIR, TEMPLATES, answer, chat, flagged, ids, model_folder, plain, read, spaced,
    talk, text_of, user, words, write_jsonl,
)  # fmt: skip
from chatprep import model, prepare, refused, template_name, trained  # noqa: F401  fixtures
from tokenizers import Tokenizer

from llmdata import rows
from llmdata import tokenizer as tokenizers
from llmdata.chat_template import LLAMA3_TEMPLATE, Template
from llmdata.tokenizer import open_tokenizer


# ---- ids


def transformers_ids(folder, messages, template, generate=False):
    """apply_chat_template's, and those of its text; the day is that of Llama 3.1's template."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )
    return theirs.apply_chat_template(messages, chat_template=template, add_generation_prompt=generate,
                                      date_string="26 Jul 2024", tokenize=True, return_dict=False)  # fmt: skip


def joined(tokenizer, pieces):
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("system", [False, True])
def test_ids_are_transformers(tmp_path, trained, prepare, template_name, system):
    template = TEMPLATES[template_name]
    folder = model_folder(tmp_path, trained, template)
    talks = [spaced(talk(random.randint(1, 4), system)) for _ in range(40)]
    write_jsonl(tmp_path / "a.jsonl", *(chat(*messages) for messages in talks))
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    found = read(tmp_path / "out")
    assert len(found) == 40
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(ENDS[template_name])
    for row, messages in zip(found, talks):
        want = transformers_ids(folder, messages, template or LLAMA3_TEMPLATE)
        tail = want[len(row.prompt) :]
        assert ids(row.prompt) == want[: len(row.prompt)]
        assert tail in ([], plain(tokenizer, "\n")) and ids(row.prompt)[-1] == end


def test_prompts_of_pairs_are_what_a_model_is_asked(tmp_path, trained, prepare, template_name):
    template = TEMPLATES[template_name]
    folder = model_folder(tmp_path, trained, template)
    prompts = [spaced(talk(random.randint(0, 3), random.random() < 0.5, last_user=True)) for _ in range(30)]
    write_jsonl(tmp_path / "a.jsonl", *({"prompt": p, "chosen": words(5) + "1", "rejected": words(5) + "2"} for p in prompts))
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    for row, prompt in zip(read(tmp_path / "out"), prompts, strict=True):
        assert ids(row.prompt) == transformers_ids(folder, prompt, template or LLAMA3_TEMPLATE, generate=True)
        assert not (row.prompt & rows.TRAINED).any()


@pytest.mark.parametrize("hostile", [False, True])
def test_what_is_trained(tmp_path, trained, prepare, template_name, hostile):
    """Assistants' contents and the ends of their turns, whatever the texts hold; the template's own tokens are format."""
    folder = model_folder(tmp_path, trained, TEMPLATES[template_name])
    talks = [talk(random.randint(1, 4), hostile=hostile) for _ in range(30)]
    write_jsonl(tmp_path / "a.jsonl", *(chat(*messages) for messages in talks))
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end, specials = tokenizer.token_to_id(ENDS[template_name]), set(tokenizer.get_added_tokens_decoder())
    for row, messages in zip(read(tmp_path / "out"), talks, strict=True):
        said = "".join(LEADS[template_name] + m["content"] for m in messages if m["role"] == "assistant")
        assert tokenizer.decode(flagged(row.prompt, 0b10), skip_special_tokens=False) == said
        asked = "".join(m["content"] for m in messages if m["role"] == "user")
        if hostile or template_name != "nested":  # there the template's space is of the first word's token
            assert tokenizer.decode(flagged(row.prompt, 0b00), skip_special_tokens=False) == asked
        ends = flagged(row.prompt, 0b11)
        assert ends.count(end) == len(messages) // 2
        assert set(ends) <= {end, *plain(tokenizer, " ")}
        assert not specials & {*flagged(row.prompt, 0b10), *flagged(row.prompt, 0b00)}


def test_hostile_answers_of_pairs_stay_text(tmp_path, trained, prepare, template_name):
    folder = model_folder(tmp_path, trained, TEMPLATES[template_name])
    row = {"prompt": "".join(HOSTILE), "chosen": "x".join(HOSTILE), "rejected": "y".join(HOSTILE)}
    write_jsonl(tmp_path / "a.jsonl", row)
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    (found,) = read(tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for tokens, text in zip(found.answers, (row["chosen"], row["rejected"])):
        assert tokenizer.decode(flagged(tokens, 0b10), skip_special_tokens=False) == LEADS[template_name] + text
        assert flagged(tokens, 0b11)[-1] == tokenizer.token_to_id(ENDS[template_name]) == ids(tokens)[-1]
    assert tokenizer.decode(flagged(found.prompt, 0), skip_special_tokens=False) == row["prompt"]


@pytest.mark.parametrize(
    "template, role, result",
    [(None, "tool", "{}"), (None, "ipython", "{}"), (DATED, "tool", '"{}"'), (DATED, "ipython", '"{}"')],
)
def test_tools(tmp_path, trained, prepare, template, role, result):
    """Their results are not trained, whoever writes them as JSON; a turn that waits for one ends with <|eom_id|>."""
    folder = model_folder(tmp_path, trained, template)
    text = 'say "a\\b"\n<|eot_id|> Ä'
    messages = [user("q"), answer("call f"), {"role": role, "content": text}, answer("done")]
    write_jsonl(tmp_path / "a.jsonl", chat(*messages))
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole = tokenizer.decode(ids(row.prompt), skip_special_tokens=False)
    shown = json.dumps(text, ensure_ascii=False)[1:-1] if template else text
    assert f"<|start_header_id|>ipython<|end_header_id|>\n\n{result.format(shown)}<|eot_id|>" in whole
    first = "<|eom_id|>" if template else "<|eot_id|>"
    trained_text = [
        tokenizer.decode([int(t) & (1 << 30) - 1 for t in run], skip_special_tokens=False)
        for run in np.split(row.prompt, np.flatnonzero(np.diff(row.prompt >> 31)) + 1)
        if run[0] >> 31
    ]
    assert trained_text == [f"call f{first}", "done<|eot_id|>"]


def test_a_message_of_weight_0_is_not_trained(tmp_path, model, prepare):
    write_jsonl(tmp_path / "a.jsonl", chat(user(), answer("wrong") | {"weight": 0}, user(), answer("right") | {"weight": 1}))
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert tokenizer.decode(ids(row.prompt[row.prompt >> 31 == 1]), skip_special_tokens=False) == "right<|eot_id|>"


def test_rows_end_with_their_last_trained_token(tmp_path, trained, prepare):
    folder = model_folder(tmp_path, trained, CHATML)
    write_jsonl(tmp_path / "a.jsonl", chat(user(), answer(), user("and then?"), answer("no") | {"weight": 0}))
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids(row.prompt), skip_special_tokens=False)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"


def test_a_token_across_the_begin_of_an_answer_is_cut(tmp_path, trained, prepare):
    """A model is asked with the prompt's own tokens: what it says begins with a token of its own. Other tokens are the whole's."""
    folder = model_folder(tmp_path, trained, CHATML)
    messages = [user("\nq"), answer("\nyes"), user("\nr"), answer("\n\nno")]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [transformers_ids(folder, messages[:n], CHATML, generate=True) for n in (1, 3)]
    assert len(plain(tokenizer, "\n\n")) == 1
    write_jsonl(tmp_path / "a.jsonl", chat(*messages))
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    assert ids(row.prompt)[: len(prompts[0])] == prompts[0]
    assert text_of(folder, row) + "\n" == Template(folder, tokenizer).render(messages, False)
    assert tokenizer.decode(flagged(row.prompt, 0b10)) == "\nyes\n\nno"


def test_the_prompt_of_a_pair_is_what_a_model_is_asked(tmp_path, trained, prepare):
    """Also where an earlier answer in it begins with what joins with the template's to one token."""
    folder = model_folder(tmp_path, trained, CHATML)
    prompt = [user("q"), answer("\nyes"), user("r")]
    write_jsonl(tmp_path / "a.jsonl", {"prompt": prompt, "chosen": "\ngood", "rejected": "bad"})
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    assert ids(row.prompt) == transformers_ids(folder, prompt, CHATML, generate=True)


def test_text_that_joins_with_the_templates_to_a_token_stays_text(tmp_path, trained, prepare):
    template = "{% for m in messages %}{% if m.role == 'user' %}<|eot_{% endif %}{{ m.content }}<|eot_id|>{% endfor %}"
    folder = model_folder(tmp_path, trained, template)
    write_jsonl(tmp_path / "a.jsonl", chat(user("id|>"), answer("x")))
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    (row,) = read(tmp_path / "out")
    eot = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|eot_id|>")
    assert ids(row.prompt).count(eot) == 2 and text_of(folder, row) == "<|eot_id|><|eot_id|>x<|eot_id|>"


# ---- templates


def test_the_day_is_pinned(tmp_path, trained, prepare):
    folder = model_folder(tmp_path, trained, DATED)
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    for arguments, day in (((), "26 Jul 2024"), (("--date", "2031-02-03"), "03 Feb 2031")):
        prepare(
            tmp_path / "a.jsonl",
            "--tokenizer",
            folder,
            "--output",
            tmp_path / "out",
            "--val-fraction",
            0,
            "--overwrite",
            *arguments,
        )
        (row,) = read(tmp_path / "out")
        assert f"Today Date: {day}\n" in text_of(folder, row)
        assert not (row.prompt[: list(row.prompt >> 31).index(1)] >> 31).any()


def test_strftime_now_has_the_pinned_day(tmp_path, trained):
    folder = model_folder(
        tmp_path,
        trained,
        "{{ date_string }}{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}",
    )
    tokenizer = open_tokenizer(folder, "--tokenizer")
    day = datetime.date(2020, 5, 6)
    assert joined(tokenizer, Template(folder, tokenizer, day).pieces([user()], False)) == "06 May 20202020-05-06hi<|eot_id|>"
    assert joined(tokenizer, Template(folder, tokenizer).pieces([user()], False)) == f"{datetime.date.today()}hi<|eot_id|>"


def test_system_message_for_rows_without(tmp_path, model, prepare):
    write_jsonl(tmp_path / "a.jsonl", GOOD, chat({"role": "system", "content": "own"}, user(), answer()),
                chat({"role": "system", "content": " "}, user(), answer()))  # fmt: skip
    prepare(tmp_path / "a.jsonl", "--tokenizer", model, "--output", tmp_path / "out", "--val-fraction", 0, "--system", "given")
    texts = [text_of(model, row) for row in read(tmp_path / "out")]
    assert [re.findall("given|own", text) for text in texts] == [["given"], ["own"], ["given"]]
    write_jsonl(tmp_path / "b.jsonl", PAIR, {"chosen": [user(), answer("a")], "rejected": [user(), answer("b")]})
    prepare(
        tmp_path / "b.jsonl", "--tokenizer", model, "--output", tmp_path / "pairs", "--val-fraction", 0, "--system", "given"
    )
    assert all("given<|eot_id|>" in text_of(model, row) for row in read(tmp_path / "pairs"))


NO_END = "writes no special token behind an assistant's turn"


@pytest.mark.parametrize("template, message", [
    ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", NO_END),
    ("{% for m in messages %}{{ m.role }}: {{ m.content }} (end)<|eot_id|>{% endfor %}", NO_END),
    ("{% for m in messages %}<|user|>{{ m.role }}{{ m.content }}{% endfor %}", NO_END),
    ("{% if %}", "chat template: "),
    ("{{ raise_exception('never') }}", "the chat template says: never"),
    ("<|eot_id|>", "leaves out the system or user or assistant message"),
])  # fmt: skip
def test_templates_that_cannot_be_used(tmp_path, trained, refused, template, message):
    folder = model_folder(tmp_path, trained, template)
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    assert message in refused(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out")


@pytest.mark.parametrize("entry", [{"name": []}, {"name": "default", "template": 1}, {"template": "x"}, "default"])
def test_lists_of_templates_that_are_none(tmp_path, trained, refused, entry):
    folder = model_folder(tmp_path, trained, [{"name": "default", "template": CHATML}, entry])
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    error = refused(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out")
    assert f'{folder}/tokenizer_config.json: "chat_template": expected a text, or a list of objects' in error


def test_of_a_list_of_templates_the_default_is_taken(tmp_path, trained, prepare):
    entries = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]
    folder = model_folder(tmp_path, trained, entries)
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    assert text_of(folder, read(tmp_path / "out")[0]).startswith("<|im_start|>user")


def test_a_template_that_changes_what_is_said(tmp_path, trained, prepare):
    """One that looks at what a message says, repeats it or writes other words for some: its ids, or none."""
    template = ("{% for m in messages %}{{ m.role }}: {{ m.content.replace('secret', '***') }}"
                "{% if 'twice' in m.content %}{{ m.content }}{% endif %}{% if 'loud' in m.content %}{{ m.content | title }}{% endif %}"
                "<|eot_id|>{% endfor %}")  # fmt: skip
    folder = model_folder(tmp_path, trained, template)
    talks = [(user(text), answer()) for text in ("hi", "a secret", "twice", "loud")]
    write_jsonl(tmp_path / "a.jsonl", *(chat(*messages) for messages in talks))
    _, error = prepare(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out", "--val-fraction", 0)
    assert [ids(row.prompt) for row in read(tmp_path / "out")] == [transformers_ids(folder, m, template) for m in talks[:3]]
    assert 'a.jsonl: line 4: the chat template changes "content" of message 1 in a way that cannot be followed' in error
    assert "1 rows left out: 1 template" in error


def test_a_tokenizer_without_llama_3s_tokens(tmp_path, refused):
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer = tokenizers.train(["some text of words " * 9], 270).tokenizer
    fields = json.loads(tokenizer.to_str())
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["content"] != "<|eot_id|>"]
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    write_jsonl(tmp_path / "a.jsonl", GOOD)
    error = refused(tmp_path / "a.jsonl", "--tokenizer", folder, "--output", tmp_path / "out")
    assert f"{folder}: no chat template, and the tokenizer has no <|eot_id|> for Llama 3's" in error
