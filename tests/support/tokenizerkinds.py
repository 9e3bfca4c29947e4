"""Folders with tokenizers of the kinds that Llama models come with, trained on made-up words."""

import io
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LETTERS = "etaoinshrdluäñ"
SPLIT = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TURNS = ["<|im_start|>", "<|im_end|>"]
ODD = ["  ", "\n", "\n\n", " \n ", "\t", "12", "é", "東京", "🦙", "▁", "don't", "—", "...", "<0x41>", "Ġ", "\u00a0"]

# A blank, a line end, a special token in front of what is said; line ends behind special tokens; SmolLM's manner and TinyLlama's.
TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "ends": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    "close": "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}",
    "inst": "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}",
}  # fmt: skip


def words(count, draw=random):
    made = ["".join(draw.choices(LETTERS, k=draw.randint(1, 6))) for _ in range(count)]
    return [draw.choice(ODD) if draw.random() < 0.2 else word for word in made]


def text(count=30, draw=random):
    return "".join(word + draw.choice([" ", " ", " ", ""]) for word in words(count, draw)).strip("\n") or "a"


def corpus():
    draw = random.Random(7)
    known = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 6))) for _ in range(150)]
    return [" ".join(draw.choices(known, k=12)) + draw.choice([".\n", " 12 345\n", "\n\n", "    "]) for _ in range(400)]


def _byte_level(pre_tokenizer, bos, eos):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in dict.fromkeys([bos, eos, *TURNS])])
    return tokenizer


def _sentencepiece(normalizer=None, pre_tokenizer=None, strip=True):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()] + [decoders.Strip(" ", 1, 0)] * strip
    tokenizer.decoder = decoders.Sequence(parts)
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special + BYTES, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    fields = json.loads(tokenizer.to_str())  # bytes' tokens are no added ones in what is published
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in TURNS])
    return tokenizer


def _around(tokenizer, template, *names):
    ids = [(name, tokenizer.token_to_id(name)) for name in names]
    tokenizer.post_processor = processors.TemplateProcessing(template, None, ids)
    return tokenizer


def _llama3_like():
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )


def _smollm_like():
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _prepend():
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def _metaspace(scheme):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


LLAMA3, ENDOFTEXT, LLAMA2 = ("<|begin_of_text|>", "<|end_of_text|>"), ("<|endoftext|>", "<|endoftext|>"), ("<s>", "</s>")
# name: (tokens of documents, the tokenizer)
KINDS = {
    "llama 3": (LLAMA3, lambda: _around(_byte_level(_llama3_like(), *LLAMA3), f"{LLAMA3[0]} $A", LLAMA3[0])),
    "smollm": (ENDOFTEXT, lambda: _byte_level(_smollm_like(), *ENDOFTEXT)),
    "smollm chat": (TURNS, lambda: _byte_level(_smollm_like(), *ENDOFTEXT)),
    "prefix": (ENDOFTEXT, lambda: _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), *ENDOFTEXT)),
    "llama 2": (LLAMA2, lambda: _around(_sentencepiece(normalizer=_prepend()), "<s> $A", "<s>")),
    "metaspace": (LLAMA2, lambda: _around(_sentencepiece(pre_tokenizer=_metaspace("first")), "<s> $A", "<s>")),
    "always": (LLAMA2, lambda: _sentencepiece(pre_tokenizer=_metaspace("always"))),
    "gemma": (LLAMA2, lambda: _around(_sentencepiece(normalizer=normalizers.Replace(" ", "▁"), strip=False), "<s> $A", "<s>")),
    "with an end": (LLAMA2, lambda: _around(_sentencepiece(normalizer=_prepend()), "<s> $A </s>", "<s>", "</s>")),
}
SENTENCEPIECE = [kind for kind, (tokens, _) in KINDS.items() if tokens == LLAMA2]


def write(folder, kind, template=None, **fields):
    """tokenizer.json and tokenizer_config.json; the tokenizer as it is read again."""
    (bos, eos), make = KINDS[kind]
    make().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    if template:
        config["chat_template"] = TEMPLATES[template]
    (folder / "tokenizer_config.json").write_text(json.dumps(config | fields))
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def write_model(path, sentences=(), **options):
    """A SentencePiece model as Llama 2's, by the library itself; `sentences`: trained on besides."""
    import sentencepiece

    llama2 = dict(model_type="bpe", vocab_size=500, byte_fallback=True, split_digits=True, add_dummy_prefix=True, num_threads=1,
                  remove_extra_whitespaces=False, normalization_rule_name="identity", allow_whitespace_only_pieces=True,
                  minloglevel=2)  # fmt: skip
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter([*corpus(), *sentences]), model_writer=out, **llama2 | options)
    path.write_bytes(out.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
