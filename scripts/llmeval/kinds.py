"""The table of all kinds of tasks."""

from .choices import Choices
from .code import Code
from .generate import Generate
from .instructions import Instructions
from .memorisation import Memorisation
from .needle import Needle
from .perplexity import Perplexity
from .reading import Reading
from .reasoning import Reasoning
from .safety import Safety
from .task import Kind
from .tools import Tools

ALL = (Choices, Generate, Reading, Code, Instructions, Tools, Reasoning, Needle, Perplexity, Safety, Memorisation)
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in ALL}
