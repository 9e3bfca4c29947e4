"""The two exceptions that generate.py turns into one line and an exit code."""

# Bad usage or input: code 2.
from llmdata.errors import InputError as InputError


class Fault(Exception):
    """Anything else that the library reports: code 1."""
