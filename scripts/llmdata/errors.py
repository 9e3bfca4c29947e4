"""The one exception that means: the user gave something that can't be used. Programs print it and exit with code 2."""

from .characters import on_one_line


class InputError(Exception):
    """Bad input. The message is one line, whatever names are in it: file (and place in it), what was found, what was expected."""

    def __init__(self, message: object = ""):
        super().__init__(on_one_line(str(message)))
