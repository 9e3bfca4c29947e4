"""The two exceptions that programs turn into one line and an exit code."""

from .characters import on_one_line


class InputError(Exception):
    """Bad usage or input: code 2. The message is one line, whatever names are in it: file (and place in it), what was found, what was expected."""

    def __init__(self, message: object = ""):
        super().__init__(on_one_line(str(message)))


class Fault(Exception):
    """Anything else that is reported in one line: code 1."""
