"""The two exceptions that end a program with one line and an exit code."""

from .characters import on_one_line


class InputError(Exception):
    """Bad usage or bad input: code 2.

    The message says which file (and where in it), what was found and what was expected. It is one line, whatever the names.
    """

    def __init__(self, message: object = ""):
        super().__init__(on_one_line(str(message)))


class Fault(Exception):
    """Any other fault that is reported in one line: code 1."""
