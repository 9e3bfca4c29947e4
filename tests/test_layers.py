"""Who may include whom in llmc: no circles among files or folders, and a folder uses only folders that stand below it."""

import os
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUFFIXES = (".c", ".h", ".cu", ".cpp")

# From the top down. A folder may use those behind it, and not those before it.
LAYERS = (
    "train",  # a whole run of training
    "tools",  # average_llama3, merge_lora
    "generate",  # texts and scores of a model
    "eval",  # evaluations of a model
    "checkpoint",  # weights and the state of training, on the disk
    "ranks",  # a run of many ranks
    "run",  # the folder of a run, and what a person sees of it
    "recipe",  # schedule, statistics of the loss, FLOPs
    "options",
    "model",
    "loader",
    "comm",
    "kernels",
    "device",  # what kernels stand on
    "device/ptx",  # instructions, one family a header
    "cpu",  # the CPU's stand-in for CUDA
    "base",  # knows nothing of Llama
)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)


def unit(path):
    """X.c and X.h count as one."""
    return os.path.splitext(path)[0]


def resolve(name, path, files):
    """The file that an #include in `path` means, of those in `files`; None: it is another's. -Illmc and -Illmc/cpu are searched."""
    found = (os.path.normpath(os.path.join(folder, name)) for folder in ("", "cpu", os.path.dirname(path)))
    return next((path for path in found if path in files), None)


def includes(files):
    """{unit: the other units that it includes} of {path below llmc: text}."""
    graph = {unit(path): set() for path in files}
    for path, text in files.items():
        used = (resolve(name, path, files) for name in INCLUDE.findall(text))
        graph[unit(path)] |= {unit(other) for other in used if other} - {unit(path)}
    return graph


def by_folder(graph):
    """The same of folders."""
    folders = {os.path.dirname(name): set() for name in graph}
    for name, used in graph.items():
        folders[os.path.dirname(name)] |= {os.path.dirname(other) for other in used} - {os.path.dirname(name)}
    return folders


def circles(graph):
    """Groups of nodes of which each reaches each other, sorted."""
    reached = {}
    for start in graph:
        reached[start], ahead = set(), list(graph[start])
        while ahead:
            node = ahead.pop()
            if node not in reached[start]:
                reached[start].add(node)
                ahead += graph[node]
    groups = {tuple(sorted(other for other in reached[node] if node in reached[other])) for node in graph}
    return sorted(group for group in groups if len(group) > 1)


def upward(graph, layers):
    """Includes of a folder that stands above, or in no layer at all."""
    place = {name: i for i, name in enumerate(layers)}
    pairs = [(name, other) for name in graph for other in sorted(graph[name])]
    return sorted(
        f"{name} -> {other}"
        for name, other in pairs
        if place.get(os.path.dirname(other), -1) < place.get(os.path.dirname(name), len(layers))
    )


def source():
    paths = [path for path in sorted((ROOT / "llmc").rglob("*")) if path.suffix in SUFFIXES]
    return {str(path.relative_to(ROOT / "llmc")): path.read_text() for path in paths}


def test_every_folder_has_a_layer():
    assert sorted({os.path.dirname(path) for path in source()}) == sorted(LAYERS)


def test_no_circle_among_files():
    assert circles(includes(source())) == []


def test_no_circle_among_folders():
    assert circles(by_folder(includes(source()))) == []


def test_no_folder_uses_one_above_it():
    assert upward(includes(source()), LAYERS) == []


def test_only_programs_reach_out_of_the_library():
    outside = {
        f"{path}: {name}"
        for path, text in source().items()
        for name in INCLUDE.findall(text)
        if name.startswith(("dev/", "tests/", "../"))
    }
    assert outside == set()


PLANTED = {
    "top/a.c": '#include "top/a.h"\n#include "low/b.h"\n',
    "top/a.h": '#include "base/e.h"\n',
    "low/b.h": '#include "base/e.h"\n',
    "low/b.c": '#include "b.h"\n',
    "base/e.h": "#include <top/a.h>\n",
}


@pytest.mark.parametrize(
    "path, text, files, folders, above",
    [
        (None, None, [], [], []),
        # a circle of two files of one folder, one of them by its header alone
        ("low/c.c", '#include "low/c.h"\n  #  include "low/b.h"\n', [], [], []),
        ("low/b.h", '#include "low/c.h"\n', [("low/b", "low/c")], [], []),
        # one through three files and three folders, which is also upward
        ("base/e.h", '#include "top/a.h"\n', [("base/e", "low/b", "top/a")], [("base", "low", "top")], ["base/e -> top/a"]),
        # upward without a circle of files
        ("base/f.c", '#include "low/b.h"\n', [], [("base", "low")], ["base/f -> low/b"]),
        # an include that is a comment is none
        ("base/f.c", '// #include "low/b.h"\n', [], [], []),
    ],
)
def test_rules_can_fail(path, text, files, folders, above):
    planted = dict(PLANTED, **{"low/c.h": "", "low/c.c": '#include "low/c.h"\n#include "low/b.h"\n'})
    if path:
        planted[path] = text
    graph = includes(planted)
    assert (circles(graph), circles(by_folder(graph))) == (files, folders)
    assert upward(graph, ("top", "low", "base")) == above
    assert graph["top/a"] == {"low/b", "base/e"}
