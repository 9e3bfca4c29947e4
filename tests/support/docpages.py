"""Reads README.md and docs/*.md: blocks of commands, names of programs, options, files and links.

    for block in blocks(text): ...           # .language, .text, .line, .reason (why it is not run, or None)
    options(block.text)                      # [(program, "--option"), ...] of the commands

A block under the comment <!-- not run: WHY --> is not run.
"""

import dataclasses
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# dev/gdb_*.py are gdb's
PROGRAM = re.compile(r"(?:build/[\w-]+/(\w+)|((?:data|scripts|dev)/(?!gdb_)[\w/]+\.(?:py|sh|sbatch)))$")
FENCE = re.compile(r"(?:^<!-- not run: ([^\n]*?) -->\n\n?)?^```(\w*)\n(.*?)^```$", re.M | re.S)
SOURCE = re.compile(r"[\w./-]+\.(?:c|h|cu|cpp|py|sh|sbatch|mk|md)$")
TOP = re.compile(r"(?:llmc|dev|scripts|tests|docs|configs|recipes)/|data/(?:llmdata\b|\w+\.py$)")


@dataclasses.dataclass
class Block:
    language: str
    text: str
    line: int  # of its first
    reason: str | None  # why it is not run


def blocks(text):
    return [Block(m[2], m[3], text.count("\n", 0, m.start(3)) + 1, m[1]) for m in FENCE.finditer(text)]


def commands(text):
    """Lists of words, one for each command; a comment's words and redirections are none of them."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
        lexer.whitespace_split = True
        words = []
        for word in lexer:
            if word in ("|", ";", "&&", "||"):
                found.append(words)
                words = []
            else:
                words.append(word)
        found.append(words)
    return [words for words in found if words]


def program_in(word):
    """The project's program that a word names: `train_llama3`, or its path; None."""
    found = PROGRAM.match(word)
    return found and (found[1] or found[2])


def options(text):
    """[(program, option)]: options before the project's own program (mpirun's, sbatch's) are left out."""
    found = []
    for words in commands(text):
        program = None
        for word in words:
            if word == "--":
                program = None
            elif program_in(word):
                program = program_in(word)
            elif program and OPTION.match(word):
                found.append((program, word.split("=")[0]))
    return found


def prose(text):
    """The page without its blocks of commands."""
    return FENCE.sub("\n", text)


def quoted(text):
    """What stands in backticks in the prose."""
    return [" ".join(m.split()) for m in re.findall(r"`([^`]+)`", prose(text))]


def options_named(text):
    """Options that the prose names."""
    return sorted({option for span in quoted(text) for option in OPTION.findall(span)})


def files_named(text):
    """Files and folders of the checkout that the prose or a command names; NAME stands for any name."""
    words = [word for span in quoted(text) for word in span.replace("(", " ").split()]
    words += [word for block in blocks(text) if block.language == "sh" for line in commands(block.text) for word in line]
    return sorted({word.rstrip("/,:") for word in words if SOURCE.match(word) or TOP.match(word)})


def functions_named(text):
    """Functions that the prose names, as `name()`."""
    return sorted({found[1] for span in quoted(text) if (found := re.fullmatch(r"(\w+)\(\)", span))})


def variables_named(text):
    """Variables that the page sets, in NAME=VALUE."""
    inside = " ".join([*quoted(text), *(block.text for block in blocks(text) if block.language == "sh")])
    return sorted(set(re.findall(r"(?<!\S)([A-Z][A-Z_]+)=", inside)))


def links(text):
    """Targets of links and pictures that lead to files, with #heading where one is named."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)) if "://" not in target]


def anchors(text):
    """Headings, as GitHub names them in links."""
    titles = re.findall(r"^#+ (.+)$", prose(text), re.M)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
