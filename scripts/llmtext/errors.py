"""The two exceptions that generate.py turns into one line and an exit code."""


class InputError(Exception):
    """Bad usage or input: code 2. The message is one line: file or option, what was expected, what was found."""


class Fault(Exception):
    """Anything else that the library reports: code 1."""
