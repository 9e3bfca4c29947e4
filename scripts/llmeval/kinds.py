"""The table of all kinds of tasks."""

from .code import Code
from .generate import Generate
from .reading import Reading
from .safety import Safety
from .task import Kind

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Generate, Reading, Code, Safety)}
