"""Text to shards: sources (files to pieces of text), tokenizer (train, load, convert), shards (the file format)."""

from . import faults

faults.install()
