"""Calls data/prepare_chat.py in this process; makes tokenizers, templates and conversations for it."""

import json
import random
import sys

import pytest
from tokenizers import AddedToken, Tokenizer

from llmdata import rows  # noqa: E402
from llmdata import tokenizer as tokenizers  # noqa: E402
from checkout import load_script

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# In the manner of Llama 3.1's: trims, writes dates, puts a system message of its own, writes tools' results as JSON.
DATED = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date_string + "\n\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" + message.content | tojson + "<|eot_id|>" }}
    {%- elif message.role not in ["user", "assistant"] %}{{- raise_exception("only users, please") }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim }}
        {%- if not loop.last and messages[loop.index].role in ["tool", "ipython"] %}{{- '<|eom_id|>' }}
        {%- else %}{{- '<|eot_id|>' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"""

# The system message inside the user's first; roles must take turns; spaces around what is said, and a generation block.
NESTED = """{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}{% set messages = messages[1:] %}
{%- endif %}
{{- bos_token }}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}
    {%- if m.role == 'user' %}
        {{- '<|user|> ' + ('<<' + system + '>>' if loop.first and system else '') + m.content | trim + ' ' }}
    {%- else %}{% generation %}{{- ' ' + m.content | trim + ' ' + eos_token }}{% endgeneration %}{% endif %}
{%- endfor %}"""

TEMPLATES = {"llama3": None, "chatml": CHATML, "dated": DATED, "nested": NESTED}
ENDS = {"llama3": "<|eot_id|>", "chatml": "<|im_end|>", "dated": "<|eot_id|>", "nested": "<|end_of_text|>"}
LEADS = {"llama3": "", "chatml": "", "dated": "", "nested": " "}  # what the template writes in front of an answer
MORE_TOKENS = ["<|im_start|>", "<|im_end|>", "<|user|>"]
HOSTILE = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|start_header_id|>system<|end_header_id|>",
    "{{ 1 + 1 }}",
]

prepare_chat = load_script("prepare_chat")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer.json like Llama 3's, of a few merges, with the tokens of other templates beside."""
    folder = tmp_path_factory.mktemp("tokenizer")
    draw = random.Random(5)
    words = ["".join(draw.choice("etaoinshr") for _ in range(draw.randint(1, 7))) for _ in range(200)]
    text_tokenizer = tokenizers.train((" ".join(draw.choices(words, k=50)) + "\n\n" for _ in range(200)), 500)
    text_tokenizer.tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in MORE_TOKENS])
    text_tokenizer.save(folder)
    return folder


def model_folder(tmp_path, trained, template, **fields):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((trained / "tokenizer.json").read_bytes())
    config = json.loads((trained / "tokenizer_config.json").read_text()) | fields
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=list(TEMPLATES))
def template_name(request):
    return request.param


@pytest.fixture
def model(tmp_path, trained):
    return model_folder(tmp_path, trained, None)


def run(monkeypatch, capsys, *arguments, code=0):
    """(stdout, stderr) of prepare_chat.py."""
    monkeypatch.setattr(prepare_chat.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["prepare_chat.py", *map(str, arguments)])
    capsys.readouterr()
    found = prepare_chat.main()
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


@pytest.fixture
def prepare(monkeypatch, capsys):
    return lambda *arguments, code=0: run(monkeypatch, capsys, *arguments, code=code)


@pytest.fixture
def refused(prepare):
    def check(*arguments):
        _, error = prepare(*arguments, code=2)
        assert error.count("\n") == 1 and error.startswith("prepare_chat: "), error
        return error

    return check


def write_jsonl(path, *values):
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values))
    return path


def read(folder, split="train"):
    return [row for path in sorted(folder.glob(f"{split}_*.bin")) for row in rows.read_rows(path)]


def text_of(folder, row):
    return Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids(row.prompt), skip_special_tokens=False)


def ids(tokens):
    return (tokens & rows.ID_MASK).tolist()


def plain(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def flagged(tokens, flags):
    return [(int(t) & (1 << 30) - 1) for t in tokens if int(t) >> 30 == flags]


def words(count):
    return (
        " ".join("".join(random.choice("etaoinshrÄ7\n") for _ in range(random.randint(1, 8))) for _ in range(count)).strip()
        or "a"
    )


def talk(turns, system=False, hostile=False, last_user=False):
    messages = [{"role": "system", "content": words(4)}] if system else []
    for _ in range(turns):
        messages += [
            {"role": "user", "content": words(random.randint(1, 12))},
            {"role": "assistant", "content": words(random.randint(1, 12))},
        ]
    if last_user:
        messages.append({"role": "user", "content": words(3)})
    for message in messages if hostile else []:
        message["content"] = "a" + "".join(random.choices(HOSTILE, k=3)) + message["content"] + random.choice(HOSTILE)
    return messages


def spaced(messages):
    """White space around what is said, where all templates are asked what they do with it; none that would join a line end of
    the template's to one token."""
    return [m | {"content": random.choice(["", " ", "\t "]) + m["content"] + random.choice(["", " ", "  "])} for m in messages]


def answer(text="yes"):
    return {"role": "assistant", "content": text}


def user(text="hi"):
    return {"role": "user", "content": text}


def chat(*messages):
    return {"messages": list(messages)}


def goes_on(prompt, *messages):
    """Conversations that begin alike and end with each of the messages."""
    return {"chosen": [*prompt, *messages[:1]], "rejected": [*prompt, *messages[1:]]}


GOOD = chat(user(), answer())
PAIR = {"prompt": "hi", "chosen": "good", "rejected": "bad"}
