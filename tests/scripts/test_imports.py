"""Imports among the Python modules of data/ and scripts/: no circles, and the data library needs none of the others."""

import ast

import pytest
from checkout import ROOT

OTHERS = ("llmeval", "llmexport", "llmherd", "llmjudge", "llmtext", "llmround", "llmplan", "llmplot", "llmscale", "llmserve",
          "llmherd", "llmstage")  # fmt: skip


def modules_in(*folders):
    """{dotted name: source} of the programs and of the packages in these folders; links are other names of the same files. A program
    beside a package of its name keeps the ending .py: what imports that name gets the package."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder)
            if not any((folder / part).is_symlink() for part in [inside, *inside.parents][:-1]):
                parts = [part for part in inside.with_suffix("").parts if part != "__init__"]
                name = ".".join(parts)
                found[f"{name}.py" if path.with_suffix("").is_dir() else name] = path.read_text()
    return found


def imports_of(name, source, known):
    """The modules of `known` that this one imports, at its top or inside a function."""
    package, found = name.rpartition(".")[0], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package if node.level else "", node.module)))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found & set(known) - {name}


def circle_in(graph):
    """The modules of a circle, in order; None: there is none."""
    done = set()

    def visit(name, path):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return None
        for other in sorted(graph[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return None

    return next(filter(None, (visit(name, []) for name in sorted(graph))), None)


def faults_in(modules):
    graph = {name: imports_of(name, source, modules) for name, source in modules.items()}
    circle = circle_in(graph)
    faults = [f"a circle: {' -> '.join(circle)}"] if circle else []
    above = [(name, other) for name in graph for other in sorted(graph[name])
             if name.split(".")[0] == "llmdata" and other.split(".")[0] in OTHERS]  # fmt: skip
    return faults + [f"{name} imports {other}" for name, other in above]


def test_modules_import_in_one_direction():
    modules = modules_in(ROOT / "data", ROOT / "scripts")
    assert {"llmdata.rows", "llmtext.prompts", "llmround.stages", "llmplan.choices", "prepare_chat", "generate"} <= set(modules)
    assert {"curate", "curate.py", "curate.run"} <= set(modules)
    assert "moved" in modules and not any(name.startswith("scripts") for name in modules)
    assert faults_in(modules) == []


@pytest.mark.parametrize(
    "planted, fault",
    [
        ({"llmdata.a": "from .b import x", "llmdata.b": "from . import a"}, "a circle: llmdata.a -> llmdata.b"),
        ({"llmtext.a": "def f():\n    import llmtext.b", "llmtext.b": "from llmtext.a import x"}, "a circle: llmtext.a -> llmtext.b"),
        ({"a": "import b", "b": "import c", "c": "from a import x"}, "a circle: a -> b -> c"),
        ({"llmdata.a": "from llmtext.b import x", "llmtext.b": ""}, "llmdata.a imports llmtext.b"),
        ({"llmdata.a": "import llmround.b", "llmround.b": ""}, "llmdata.a imports llmround.b"),
        ({"llmdata.a": "from llmplan import b", "llmplan": "", "llmplan.b": ""}, "llmdata.a imports llmplan"),
    ],
)
def test_planted_faults_are_found(planted, fault):
    assert fault in faults_in(planted)


def test_what_is_allowed_is_no_fault():
    assert faults_in({"llmtext.a": "from llmdata import b\nfrom . import c", "llmtext.c": "", "llmdata.b": "import json"}) == []
