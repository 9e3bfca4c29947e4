"""Data preparation: files of text and rows (textfile, records, source), tokenizers (tokenizer, spm), texts to shards (split, cut,
seams, encode, shards), chats to rows of tokens (formats, messages, chatrows, chattokens, rows)."""

from . import program

program.install()
