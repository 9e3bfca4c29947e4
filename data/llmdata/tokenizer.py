"""Makes the tokenizer.json of a data set: trains it on the text, takes an existing one, or converts a tokenizer.model."""

import base64
import binascii
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from . import sentencepiece_model as sentencepiece
from .characters import harmless
from .errors import InputError
from .text_file import copy_unmarked, read_object, refuse_mark

# How Llama 3 splits text before merging bytes (contractions; letters; up to 3 digits; punctuation; white space).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
NAMED_SPECIALS = [
    BOS, EOS, PAD, "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
]  # fmt: skip
SMALLEST_VOCABULARY = 256 + len(NAMED_SPECIALS)

# Meta's file has 128,000 ranks; 256 special tokens follow, of which Llama 3.1 names these.
META_RANKS = 128_000
META_SPECIALS = 256
META_NAMES = {
    0: BOS, 1: EOS, 4: PAD, 6: "<|start_header_id|>", 7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>",
    10: "<|python_tag|>",
}  # fmt: skip

# Usual names of the tokens that begin and end a text, for tokenizers whose tokenizer_config.json does not name them.
KNOWN_BOS = (BOS, "<s>", "<|endoftext|>")
KNOWN_EOS = (EOS, "</s>", "<|endoftext|>")
CONFIG = "tokenizer_config.json"

# The decoders that train_llama3 knows (llmc/loader/token_decoder.c), as the sequence of their parts.
DECODERS = re.compile(r"ByteLevel( Fuse)*|(Replace|Metaspace)( ByteFallback)?(( Fuse)+( Strip)?)?")


@dataclass
class TextTokenizer:
    """A tokenizer, and the ids of the tokens around a document. `eos` is None where one token is both begin and end.

    `guessed` lists the options that would name a token for which a usual name was assumed.
    """

    tokenizer: Tokenizer
    vocab_size: int
    bos: int
    eos: int | None
    config: Path | None = None  # the tokenizer_config.json to copy
    source: Path | None = None  # the tokenizer.json to copy
    guessed: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        # byte for byte, so that train_llama3 recognizes a published model's tokenizer
        if self.source is not None:
            shutil.copyfile(self.source, folder / "tokenizer.json")
        else:
            self.tokenizer.save(str(folder / "tokenizer.json"))
        if self.config is not None:
            copy_unmarked(self.config, folder / CONFIG)
            return
        name = self.tokenizer.id_to_token
        fields = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name(self.bos),
            "eos_token": name(self.bos if self.eos is None else self.eos),
            "clean_up_tokenization_spaces": False,
        }
        if self.tokenizer.token_to_id(PAD) is not None:
            fields["pad_token"] = PAD
        (folder / CONFIG).write_text(json.dumps(fields, indent=2) + "\n")


def encoder(path: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json, set so that text which looks like a special token stays text."""
    tokenizer = Tokenizer.from_buffer(path.read_bytes())
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def train(texts: Iterable[str], vocab_size: int) -> TextTokenizer:
    """Trains a byte-level BPE like Llama 3's. `vocab_size` counts the 256 bytes, the merges and the special tokens."""
    tokenizer = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(NAMED_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size() + len(NAMED_SPECIALS)
    if found < vocab_size:
        raise InputError(f"--vocab-size {vocab_size}: this text gives only {found} tokens, expected a value up to {found}, "
                         "or --tokenizer")  # fmt: skip
    _add_specials(tokenizer, NAMED_SPECIALS)
    return _with_ids(tokenizer, BOS, EOS)


def load(path: Path, bos: str | None, eos: str | None) -> TextTokenizer:
    """Loads a tokenizer.json, Meta's or SentencePiece's tokenizer.model, or the one in a folder."""
    path = find(path)
    tokenizer, *own = _read(path)
    check_kind(tokenizer, path)
    config = path.parent / CONFIG
    fields = read_object(path.parent / "special_tokens_map.json") | read_object(config)
    said = [token_text(fields.get(name)) for name in ("bos_token", "eos_token")]
    result = _with_ids(tokenizer, *(option or name or known for option, name, known in zip((bos, eos), said, own)))
    result.source = path if path.suffix == ".json" else None
    result.config = config if config.is_file() else None
    return result


def token_text(value) -> str:
    """A token's text in tokenizer_config.json, where it stands plainly or inside an object; empty if there is none."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def find(path: Path) -> Path:
    """The file itself, or a folder's tokenizer.json, or else its tokenizer.model."""
    if path.is_dir():
        names = [path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).is_file()]
        if not names:
            raise InputError(f"{path}: expected tokenizer.json or tokenizer.model in this folder")
        path = names[0]
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path


def read(path: Path) -> Tokenizer:
    """The tokenizer in a file that `find` returned, converted if necessary, without truncation and padding."""
    tokenizer = _read(path)[0]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _read(path: Path) -> tuple[Tokenizer, str | None, str | None]:
    """The tokenizer, and the tokens that begin and end a document if the file names them."""
    if path.suffix != ".json":
        return _convert(path)
    refuse_mark(path)
    try:
        return Tokenizer.from_buffer(path.read_bytes()), None, None
    except Exception as error:  # the library raises bare Exception
        raise InputError(f"{path}: not a tokenizer.json ({str(error).splitlines()[0]})") from None


def _convert(path: Path) -> tuple[Tokenizer, str | None, str | None]:
    with open(path, "rb") as file:
        has_pieces = file.read(1) == sentencepiece.MAGIC
    if not has_pieces:
        return from_ranks(read_meta_ranks(path)), BOS, EOS
    model, fields = sentencepiece.read(path), read_object(path.parent / CONFIG)
    # Llama's tokenizers put the begin token in front of a text unless told not to
    tokenizer = sentencepiece.convert(model, bool(fields.get("add_bos_token", True)), bool(fields.get("add_eos_token", False)))
    return tokenizer, model.bos, model.eos


def check_kind(tokenizer: Tokenizer, path: Path) -> None:
    """Refuses a tokenizer that train_llama3 would refuse."""
    kind = type(tokenizer.model).__name__
    if kind != "BPE":
        raise InputError(f"{path}: model is {kind}, expected BPE")
    parts = parts_of(tokenizer.decoder, "decoders")
    if not DECODERS.fullmatch(" ".join(part["type"] if _is_plain(part) else "other" for part in parts)):
        found = ", ".join(part["type"] for part in parts) or "missing"
        raise InputError(f'{path}: decoder is {found}, expected ByteLevel, Metaspace, or Replace ("{sentencepiece.BLANK}" by a '
                         "space), ByteFallback, Fuse, Strip (of spaces on the left)")  # fmt: skip


def as_json(component) -> dict:
    """A component of a tokenizer as tokenizer.json describes it."""
    return json.loads(component.__getstate__())


def parts_of(component, key: str) -> list[dict]:
    """The parts of a normalizer, pre-tokenizer or decoder (or None) in order. `key`: the field of a Sequence with its parts."""

    def flat(part: dict) -> list[dict]:
        return [each for inner in part[key] for each in flat(inner)] if part["type"] == "Sequence" else [part]

    return [] if component is None else flat(as_json(component))


def _is_plain(part: dict) -> bool:
    """Whether the part treats spaces as expected."""
    expected = {
        "Replace": {"pattern": {"String": sentencepiece.BLANK}, "content": " "},
        "Metaspace": {"replacement": sentencepiece.BLANK},
        "Strip": {"content": " ", "stop": 0},
    }.get(part["type"], {})
    return expected.items() <= part.items() and part.get("start", 0) <= 64


def _with_ids(tokenizer: Tokenizer, bos: str | None, eos: str | None) -> TextTokenizer:
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    begin = _find_token(tokenizer, "--bos-token", bos, KNOWN_BOS)
    end = _find_token(tokenizer, "--eos-token", eos, KNOWN_EOS)
    guessed = tuple(option for option, name in (("--bos-token", bos), ("--eos-token", eos)) if not name)
    return TextTokenizer(tokenizer, vocab_size, begin, None if end == begin else end, guessed=guessed)


def _find_token(tokenizer: Tokenizer, option: str, name: str | None, known: tuple[str, ...]) -> int:
    for candidate in (name,) if name else known:
        found = tokenizer.token_to_id(candidate)
        if found is not None:
            return found
    raise InputError(f"{option}: the tokenizer has no token {harmless(name or ' or '.join(known))}; name one that it has")


def read_meta_ranks(path: Path) -> list[bytes]:
    """The tokens, ordered by rank, of a file with a base64 token and its rank on each line."""
    tokens: list[bytes] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            tokens.append(_rank_line(path, number, line))
    if len(tokens) != META_RANKS:
        raise InputError(f"{path}: {len(tokens)} tokens, expected Llama 3's {META_RANKS}")
    return tokens


def _rank_line(path: Path, number: int, line: bytes) -> bytes:
    fields = line.split()
    try:
        if len(fields) == 2 and int(fields[1]) == number - 1:
            return base64.b64decode(fields[0], validate=True)
    except (ValueError, binascii.Error):
        pass
    raise InputError(f"{path}: line {number}: expected a base64 token and the rank {number - 1} (Meta's Llama 3 format)")


def from_ranks(tokens: list[bytes]) -> Tokenizer:
    """The BPE that always merges the neighbours whose union is the token of the lowest rank, as tiktoken does.

    A rank file lists results, a BPE model lists pairs: every way to split a token into two others is a pair with the
    priority of the token's rank. A word that is a token as a whole is not merged but taken at once (ignore_merges).
    """
    letters = byte_letters()
    names = ["".join(letters[byte] for byte in token) for token in tokens]
    rank = {name: index for index, name in enumerate(names)}
    merges = []
    for name in names:
        cuts = [(name[:i], name[i:]) for i in range(1, len(name))]
        pairs = [cut for cut in cuts if cut[0] in rank and cut[1] in rank]
        merges += sorted(pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    tokenizer = _byte_level(models.BPE(vocab=rank, merges=merges, ignore_merges=True))
    _add_specials(tokenizer, _meta_special_names())
    return tokenizer


def _meta_special_names() -> list[str]:
    names, reserved = [], 0
    for index in range(META_SPECIALS):
        if index not in META_NAMES:
            reserved += 1
        names.append(META_NAMES.get(index, f"<|reserved_special_token_{reserved - 1}|>"))
    return names


def byte_letters() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies: itself if printable, else the next from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters, free = [], 256
    for byte in range(256):
        letters.append(chr(byte if byte in printable else free))
        free += byte not in printable
    return letters


def _byte_level(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _add_specials(tokenizer: Tokenizer, names: list[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )


def open_tokenizer(folder: Path, option: str = "--model", for_training: bool = False):
    """The tokenizer in a model's folder. With `for_training`, one that train_llama3 cannot read is refused."""
    if folder.is_file():
        raise InputError(f"{option} {folder}: is a file, expected the folder that holds it: {option} {folder.parent}")
    if not folder.is_dir():
        raise InputError(f"{option} {folder}: no such folder, expected one on this machine (no model is downloaded)")
    path = find(folder)
    tokenizer = read(path)
    if for_training:
        check_kind(tokenizer, path)
    return tokenizer
