"""What fills up the texts of a batch that a reward model scores: one token, in all files, that no text ends with. A text has
the same score alone and beside longer ones in transformers, whichever way the model was made."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

import llmc
import trainrun
from checkpoints import SUMS, Failure, call, digest, write_sums
from finetuning import LORA, Finetuning, comparisons, rows
from modeltools import AVERAGE, MERGE
from trainrun import BOS, EOS, VOCAB

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import peft  # noqa: E402
import transformers  # noqa: E402

FIRST, SECOND = 258, 259  # ids of the special tokens behind begin and end
FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def edit(path, **fields):
    """Members of a JSON file, which is made if need be; None removes one."""
    found = (json.loads(path.read_text()) if path.exists() else {}) | fields
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def reward_folder(folder, specials, files):
    """A reward model's directory without weights: {file: members} beside what is always there."""
    folder.mkdir()
    trainrun.write_tokenizer(folder, specials)
    edit(folder / "config.json", **trainrun.CONFIG | dict(architectures=["LlamaForSequenceClassification"], num_labels=1,
         bos_token_id=BOS, eos_token_id=EOS))  # fmt: skip
    for name, fields in files.items():
        if isinstance(fields, str):
            (folder / name).write_text(fields)
        else:
            edit(folder / name, **fields)
    return folder


def settle(lib, folder):
    call(lib, "padding_settle_model", os.fsencode(folder))


def pads(folder):
    """What each file names; the token's id and its name."""
    found = {name: json.loads((folder / name).read_text()) for name in FILES if (folder / name).exists()}
    assert "config.json" in found
    named = {name: fields.get("pad_token" if "token" in name else "pad_token_id") for name, fields in found.items()}
    return {name: pad["content"] if isinstance(pad, dict) else pad for name, pad in named.items()}


def config(**fields):
    return {"config.json": fields}


def tokenizer(pad, **fields):
    return {"tokenizer_config.json": dict(pad_token=pad, **fields)}


PAD, OTHER = "<|pad|>", "<|other|>"
END = "<|end_of_text|>"
CASES = {
    "both agree": ([OTHER, PAD], config(pad_token_id=FIRST) | tokenizer(OTHER), FIRST),
    "tokenizer's alone": ([PAD, OTHER], tokenizer(OTHER), SECOND),
    "tokenizer's as an object": ([PAD, OTHER], tokenizer({"__type": "AddedToken", "content": OTHER}), SECOND),
    "model's alone": ([PAD, OTHER], config(pad_token_id=SECOND), SECOND),
    "model's is a letter": ([PAD, OTHER], config(pad_token_id=0) | tokenizer(OTHER), SECOND),
    "model's out of the vocabulary": ([PAD, OTHER], config(pad_token_id=VOCAB) | tokenizer(OTHER), SECOND),
    "tokenizer's is a letter": ([OTHER, PAD], tokenizer("!"), SECOND),
    "tokenizer's is unknown": ([OTHER, PAD], tokenizer("[PAD]"), SECOND),
    "they differ": ([OTHER, PAD], config(pad_token_id=SECOND) | tokenizer(OTHER), SECOND),
    "end token in both": ([OTHER, PAD], config(pad_token_id=EOS) | tokenizer(END), SECOND),
    "begin token in both": ([OTHER, PAD], config(pad_token_id=BOS) | tokenizer("<|begin_of_text|>"), SECOND),
    "one of several end tokens": ([PAD, OTHER], config(pad_token_id=FIRST, eos_token_id=[EOS, FIRST]) | tokenizer(PAD), SECOND),
    "tokenizer's own end token": ([PAD, OTHER], tokenizer(PAD, eos_token=PAD), SECOND),
    "generation's end token": ([PAD, OTHER], tokenizer(PAD) | {"generation_config.json": dict(eos_token_id=[EOS, FIRST], pad_token_id=FIRST)}, SECOND),  # noqa: E501
    "generation's only end token": ([PAD, OTHER], tokenizer(PAD) | {"generation_config.json": dict(eos_token_id=FIRST)}, SECOND),
    "template's": ([PAD, OTHER], tokenizer(PAD, chat_template="{{ messages[0].content }}<|pad|>"), SECOND),
    "a template's of several": ([PAD, OTHER], tokenizer(PAD, chat_template=[dict(name="default", template="x<|pad|>")]), SECOND),
    "template's in a file": ([PAD, OTHER], tokenizer(PAD) | {"chat_template.jinja": "{{ messages[0].content }}<|pad|>"}, SECOND),
    "map of special tokens": ([PAD, OTHER], {"special_tokens_map.json": dict(pad_token={"content": OTHER, "lstrip": False})}, SECOND),
    "map that differs": ([PAD, OTHER], tokenizer(OTHER) | {"special_tokens_map.json": dict(pad_token=PAD)}, FIRST),
    "by its name": ([OTHER, "<|finetune_right_pad_id|>"], {}, SECOND),
    "by its name in capitals": ([OTHER, "[PAD]"], {}, SECOND),
    "reserved": ([OTHER, "<|reserved_special_token_0|>"], {}, SECOND),
    "any other": ([OTHER, "<file_sep>"], {}, FIRST),
    "named for an end": (["<|eot_id|>", OTHER], config(pad_token_id=FIRST) | tokenizer("<|eot_id|>"), SECOND),
    "ends alone": (["<|im_end|>", "<|EOM|>"], {}, None),
    "none to spare": ([], {}, None),
    "none but the end": ([], config(pad_token_id=EOS) | tokenizer(END) | {"special_tokens_map.json": dict(pad_token=END)}, None),
}


@pytest.mark.checked
@pytest.mark.parametrize("specials, files, expected", CASES.values(), ids=CASES)
def test_one_token_in_all_files(lib, tmp_path, specials, files, expected):
    folder = reward_folder(tmp_path / "a", specials, files)
    before = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    settle(lib, folder)
    name = None if expected is None else specials[expected - FIRST]
    assert pads(folder) == {file: name if "token" in file else expected for file in pads(folder)}
    for file, fields in before.items():  # and all else stays
        after = json.loads((folder / file).read_text())
        assert {k: v for k, v in after.items() if "pad_token" not in k} == {k: v for k, v in fields.items() if "pad_token" not in k}
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.pad_token_id == transformers.AutoConfig.from_pretrained(folder).pad_token_id == expected


@pytest.mark.checked
def test_what_is_right_is_not_touched(lib, tmp_path):
    folder = reward_folder(tmp_path / "a", [PAD], config(pad_token_id=FIRST) | tokenizer(PAD) | {"special_tokens_map.json": dict(pad_token=PAD)})
    language = reward_folder(tmp_path / "b", [PAD], config(architectures=["LlamaForCausalLM"], pad_token_id=EOS) | tokenizer(END))
    before = [trainrun.snapshot(f) for f in (folder, language)]
    for each in (folder, language):
        settle(lib, each)
    assert [trainrun.snapshot(f) for f in (folder, language)] == before


@pytest.mark.checked
def test_a_token_that_text_may_spell_is_none(lib, tmp_path):
    folder = reward_folder(tmp_path / "a", [PAD, OTHER], tokenizer(PAD))
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["added_tokens"][2]["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    settle(lib, folder)
    assert pads(folder) == {"config.json": SECOND, "tokenizer_config.json": OTHER}


@pytest.mark.checked
def test_unk_and_what_is_put_around_texts(lib, tmp_path):
    """Unknown characters do not end what a byte-level tokenizer reads; what its post-processor puts behind a text does."""
    folder = reward_folder(tmp_path / "a", ["<sep>", "<unk>"], {})
    fields = json.loads((folder / "tokenizer.json").read_text())
    fields["model"]["unk_token"] = "<unk>"
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    settle(lib, folder)
    assert pads(folder)["config.json"] == SECOND
    fields["model"]["unk_token"] = None
    around = dict(id="<sep>", ids=[FIRST], tokens=["<sep>"])
    fields["post_processor"] = dict(type="TemplateProcessing", single=[{"Sequence": dict(id="A", type_id=0)}], pair=[], special_tokens={"<sep>": around})
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    edit(folder / "config.json", pad_token_id=None)
    settle(lib, folder)
    assert pads(folder)["config.json"] == SECOND


@pytest.mark.checked
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"])
def test_unreadable_files_are_named(lib, tmp_path, name):
    folder = reward_folder(tmp_path / "a", [PAD], {})
    (folder / name).write_text('{"pad_token": ')
    with pytest.raises(Failure) as failure:
        settle(lib, folder)
    assert failure.value.code == 2 and str(folder / name) in failure.value.message


# ---- models as the programs make them


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A base that pads with its end token, in both files."""
    work = Finetuning(tmp_path_factory.mktemp("padding"), specials=[OTHER, PAD], steps=2)
    edit(work.base / "config.json", pad_token_id=EOS)
    for folder in (work.base, work.prefs):
        edit(folder / "tokenizer_config.json", pad_token=END)
        edit(folder / "special_tokens_map.json", pad_token=END)
    return work


def train(work, output, **changes):
    work.run(**work.task("reward", precision="fp32", output=output, steps=2, eval_every=0, val_data=None) | changes)
    return output / "checkpoint"


TEXTS = ["Hi<|end_of_text|>", "no, it is not so!<|end_of_text|>", "a", "said the old king<|end_of_text|>"]


def check_scores(folder, model=None):
    """Alone, filled up on either side, and by transformers' pipeline."""
    read = transformers.AutoTokenizer.from_pretrained(folder)
    model = model or transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    keep = ("input_ids", "attention_mask")

    def scores(texts, **how):
        given = read(texts, return_tensors="pt", **how)
        with torch.no_grad():
            return model(**{name: given[name] for name in keep}).logits[:, 0]

    alone = torch.cat([scores([text]) for text in TEXTS])
    assert alone.unique().numel() == len(TEXTS)
    for side in ("right", "left"):
        assert torch.allclose(scores(TEXTS, padding=True, padding_side=side), alone, atol=1e-5), side
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=read)
    found = [one["score"] for one in pipe(TEXTS, batch_size=len(TEXTS), function_to_apply="none")]
    assert torch.allclose(torch.tensor(found), alone, atol=1e-5)
    return pads(folder) if (folder / "config.json").exists() else None


def test_trained(work, tmp_path):
    """Then averaged, and trained on, from a directory whose files are as an earlier version left them."""
    expected = {name: PAD if "token" in name else SECOND for name in FILES}
    folder = train(work, tmp_path / "run")
    assert check_scores(folder) == expected
    shutil.copytree(folder, tmp_path / "old")
    for name in FILES:
        edit(tmp_path / "old" / name, **{"pad_token" if "token" in name else "pad_token_id": END if "token" in name else 0})
    AVERAGE.make(tmp_path / "average", tmp_path / "old", folder)
    assert check_scores(tmp_path / "average") == expected
    assert check_scores(train(work, tmp_path / "again", init_from=tmp_path / "old")) == expected


@pytest.mark.parametrize("where", ["model", "data"])
def test_unreadable_files_are_found_before_a_run_is_replaced(work, tmp_path, where):
    train(work, tmp_path / "run")
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(work.base, model)
    shutil.copytree(work.prefs, data)
    broken = {"model": model, "data": data}[where] / "special_tokens_map.json"
    broken.write_text("{")

    before = trainrun.snapshot(tmp_path / "run")
    task = work.task("reward", precision="fp32", output=tmp_path / "run", init_from=model, train_data=data / "train_*.bin")
    work.refused(str(broken), "not JSON", **task | dict(overwrite=True))
    assert trainrun.snapshot(tmp_path / "run") == before


def test_resumed(work, tmp_path):
    """A run that was begun with other files."""
    train(work, tmp_path / "run", steps=1, schedule_steps=2)
    whole, lib = tmp_path / "run/checkpoint", llmc.load("fp32")
    for name in FILES[1:3]:
        edit(whole / name, pad_token=END)
    edit(whole / "config.json", pad_token_id=0)
    named = [line.split("  ")[1] for line in (whole / SUMS).read_text().splitlines() if not line.startswith("#")]
    write_sums(lib, whole, [f"{digest(lib, (whole / name).read_bytes())}  {name}" for name in named])
    found = pads(train(work, tmp_path / "run", resume="auto", schedule_steps=2))
    assert found == {name: PAD if "token" in name else SECOND for name in FILES}


def test_adapters(work, tmp_path):
    """PEFT reads the base's configuration: whoever loads them names the pad token, or merges them."""
    adapters = train(work, tmp_path / "run", **LORA)
    read = transformers.AutoTokenizer.from_pretrained(adapters)
    assert read.pad_token == PAD
    model = peft.AutoPeftModelForSequenceClassification.from_pretrained(
        adapters, num_labels=1, pad_token_id=read.pad_token_id, dtype=torch.float32)  # fmt: skip
    check_scores(adapters, model)
    for name in FILES[1:3]:
        edit(adapters / name, pad_token=END)  # as PEFT users leave it
    MERGE.make(tmp_path / "merged", adapters)
    assert check_scores(tmp_path / "merged") == {name: PAD if "token" in name else SECOND for name in FILES}


def test_a_token_of_the_rows_is_none(work, tmp_path):
    folder = work.rows_folder(tmp_path.name)
    for split, token in (("train", SECOND), ("val", FIRST)):
        rows.write(folder, split, rows.COMPARISONS, spelling(token), VOCAB, bos=BOS, end=EOS, sha256=work.sha)
    found = train(work, tmp_path / "one", train_data=folder / "train_*.bin")
    assert pads(found)["config.json"] == FIRST
    found = train(work, tmp_path / "both", train_data=folder / "train_*.bin", val_data=folder / "val_*.bin")
    assert pads(found)["config.json"] is None
    assert pads(found)["tokenizer_config.json"] is None
    model = transformers.AutoModelForSequenceClassification.from_pretrained(found)
    with pytest.raises(ValueError, match="padding"):
        model(torch.zeros(2, 3, dtype=torch.long))


def spelling(token):
    """Comparisons in one of which an answer has that token."""
    made = comparisons(np.random.default_rng(torch.initial_seed()), 20)
    made[11].answers[0] = np.insert(made[11].answers[0], 1, token)
    return made
