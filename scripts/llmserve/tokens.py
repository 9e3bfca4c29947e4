"""What a single token stands for, as it is shown beside its probability."""

import functools

from llmdata.detokenizer import BYTE
from llmdata.sentencepiece_model import BLANK
from llmdata.tokenizer import byte_letters, parts_of


class TokenTexts:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.added = {number: token for number, token in tokenizer.get_added_tokens_decoder().items()}
        self.byte_level = any(part["type"] == "ByteLevel" for part in parts_of(tokenizer.decoder, "decoders"))
        self.letters = {letter: byte for byte, letter in enumerate(byte_letters())}
        self.bytes_of = functools.cache(self._bytes_of)
        self.name_of = functools.cache(self._name_of)

    def _bytes_of(self, token: int) -> bytes:
        """What the token adds to a text: nothing if it is special."""
        if token in self.added:
            return b"" if self.added[token].special else self.added[token].content.encode()
        name = self.tokenizer.id_to_token(token)
        if name is None:  # of a vocabulary that was padded
            return b""
        if self.byte_level:
            return bytes(self.letters[letter] for letter in name)
        byte = BYTE.fullmatch(name)
        return bytes([int(byte[1], 16)]) if byte else name.replace(BLANK, " ").encode()

    def _name_of(self, token: int) -> str:
        """The token's text. A part of a character is written like "bytes:\\xe2\\x82", as OpenAI's interface does."""
        if token in self.added:
            return self.added[token].content
        raw = self.bytes_of(token)
        try:
            return raw.decode() if raw else f"<{token}>"
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def characters_begun(raw: bytes) -> int:
    """How many characters of UTF-8 begin in these bytes."""
    return sum(byte & 0xC0 != 0x80 for byte in raw)
