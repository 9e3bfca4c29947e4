"""The one exception that means: the user gave something that can't be used. Programs print it and exit with code 2."""


class InputError(Exception):
    """Bad input. The message is one line: file (and place in it), what was expected, what was found."""
