"""The space that some tokenizers put in front of a text: Llama 2's, and byte-level ones with add_prefix_space."""

import json

from tokenizers import Tokenizer


def without_prefix(tokenizer: Tokenizer) -> tuple[Tokenizer, bool]:
    """Returns the tokenizer without that space, for text that continues another, and whether the original also puts the space
    after each special token."""
    fields = json.loads(tokenizer.to_str())
    before = json.dumps([fields["normalizer"], fields["pre_tokenizer"]])
    everywhere = [_drop(fields, "normalizer", "normalizers"), _drop(fields, "pre_tokenizer", "pretokenizers")]
    changed = json.dumps([fields["normalizer"], fields["pre_tokenizer"]]) != before
    return (Tokenizer.from_str(json.dumps(fields)) if changed else tokenizer), any(everywhere)


def _drop(fields: dict, field: str, inner: str) -> bool:
    """Removes the space from that field's parts. True: every stretch of text had it, not only the start of the whole text."""
    part = fields[field]
    if part is None:
        return False
    if part["type"] == "Sequence":
        holders = [{field: each} for each in part[inner]]
        found = [_drop(holder, field, inner) for holder in holders]
        part[inner] = [holder[field] for holder in holders if holder[field]]
        return any(found)
    if part["type"] == "Prepend" or part.get("pattern") == {"Regex": r"\A▁"}:  # transformers writes the second form
        fields[field] = None
        return True
    scheme = part.get("prepend_scheme") or ("always" if part.get("add_prefix_space") else "never")
    if part["type"] == "Metaspace":
        part["prepend_scheme"] = "never"
        part.pop("add_prefix_space", None)
    elif part["type"] == "ByteLevel":
        part["add_prefix_space"] = False
    return scheme == "always"
