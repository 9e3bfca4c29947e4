"""Calls of functions: what models write, what is accepted, what is counted, and what bad files are told."""

import json
import random
import sys
import types

import chattools
import pytest
from chatprep import model_folder, trained  # noqa: F401  a fixture
from llmdata.errors import InputError
from llmeval.asking import Asking, Model
from llmeval.calls import Call, compare, parse
from llmeval.client import Answer
from llmeval.run import evaluate as run_task
from llmeval.tools import BFCL
from serving import parrot_model
from suites import evaluate, judged, only, suite, write

F, G = Call("f", {"a": 1}), Call("g.h", {})
PARSED = [
    ('{"name": "f", "parameters": {"a": 1}}', [F]),
    (' {"type": "function", "name": "f", "arguments": {"a": 1}}\n', [F]),
    ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g.h", "parameters": {}}', [F, G]),
    ('{"name": "f", "parameters": {"a": 1}}\n{"name": "g.h", "parameters": {}}', [F, G]),
    ('[{"name": "f", "parameters": {"a": 1}}, {"name": "g.h", "parameters": {}}]', [F, G]),
    ('<function=f>{"a": 1}</function>', [F]),
    ('<function=f>{"a": 1}</function>\n<function=g.h>{}</function>', [F, G]),
    ("There is no function for that.", []), ("", []), ("[]", []),
    ('I call {"name": "f", "parameters": {"a": 1}}', []),
]  # fmt: skip
BROKEN = ['{"name": "f", "parameters": {"a": 1}', '{"name": "f"}', '{"name": "f", "parameters": [1]}',
          '{"name": 1, "parameters": {}}', '{"name": "f", "parameters": {}} I hope so', "[1, 2]",
          "<|python_tag|>print(1)", "<function=f>{</function>", "<function=f>{}</function> and", "<function=f>{}",
          "<function=f>[]</function>", "[" * 100_000, '{"name": "f", "parameters": {"a": ' + "9" * 5000 + "}}"]  # fmt: skip


@pytest.mark.parametrize("text, found", PARSED)
def test_parse(text, found):
    assert parse(text) == found


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:40])
def test_what_is_not_parseable(text):
    with pytest.raises(ValueError):
        parse(text)


# ---- BFCL


def weather(**changes):
    """A row with an example of each type. Left out may be "days"."""
    kinds = {"city": {"type": "string"}, "days": {"type": "integer"}, "least": {"type": "float"},
             "hours": {"type": "array", "items": {"type": "integer"}}, "where": {"type": "dict", "properties": {}}}  # fmt: skip
    function = {"name": "weather.get", "description": "Gets it.",
                "parameters": {"type": "dict", "properties": kinds, "required": ["city"]}}  # fmt: skip
    other = {"name": "clock", "parameters": {"type": "dict", "properties": {}, "required": []}}
    right = {"city": ["New York", "NYC"], "days": [3, ""], "least": [20.0], "hours": [[8, 12]],
             "where": [{"x": [1], "y": [2, ""]}]}  # fmt: skip
    return {"id": "w", "question": [[{"role": "user", "content": "?"}]], "function": [function, other],
            "ground_truth": [{"weather.get": right}]} | changes  # fmt: skip


GIVEN = {"city": "new-york", "least": 20, "hours": [8, 12], "where": {"x": 1}}


def said(name="weather.get", **arguments):
    return json.dumps({"name": name, "parameters": {**GIVEN, **arguments}})


JUDGED = [
    (said(), ""), (said(days=3, where={"x": 1, "y": 2}), ""), (said(city="N.Y.C."), ""),
    (said(days=4), "argument of a wrong value: days is 4"), (said(days=3.0), "argument of a wrong type: days is 3.0"),
    (said(days="3"), "argument of a wrong type"), (said(hours=[12, 8]), "argument of a wrong value"),
    (said(hours=["8", "12"]), "argument of a wrong type"), (said(where={"y": 2}), "argument of a wrong value"),
    (said(where={"x": 1, "z": 2}), "argument of a wrong value"), (said(rain=True), "argument not expected: rain"),
    ('{"name": "weather.get", "parameters": {"least": 20}}', "argument missing: city"),
    ('{"name": "weather.get", "parameters": {"city": "NYC"}}', "argument missing: least"),
    (said("clock"), "another function: clock, expected weather.get"), (said("weather"), "unknown function: weather"),
    (f"{said()};{said()}", "wrong number of calls: 2, expected 1"), ("It rains.", "no call"),
    ('{"name": "clo', "not parseable"),
]  # fmt: skip


@pytest.mark.parametrize("text, fault", JUDGED)
def test_simple(tmp_path, text, fault):
    score = judged(only(tmp_path, kind="tools", file=write(tmp_path / "b.jsonl", [weather()])), text)
    assert score.value == (not fault) and score.note.startswith(fault) and bool(score.note) == bool(fault)
    assert list(score.parts) == ([fault.partition(":")[0]] if fault else [])


def test_faults_are_shares_of_all_items(tmp_path):
    task = only(tmp_path, kind="tools", file=write(tmp_path / "b.jsonl", [weather()]), samples=2, temperature=1)
    scores = [judged(task, said(), said()), judged(task, said(), "No."), judged(task, said(days=4), "{")]
    score, _, measures = task.kind.total(scores)
    assert [each.value for each in scores] == [1, 0.5, 0] and score == 0.5
    assert measures == dict.fromkeys(("no call", "argument of a wrong value", "not parseable"), pytest.approx(1 / 6))
    cut = task.kind.judge(task.items[0], [Answer('{"name', "length")])
    assert cut.note.endswith("cut off at max_tokens")


def test_several_calls_in_any_order(tmp_path):
    both = [{"clock": {}}, weather()["ground_truth"][0]]
    task = only(tmp_path, kind="tools", file=write(tmp_path / "b.jsonl", [weather(ground_truth=both)]))
    clock = '{"name": "clock", "parameters": {}}'
    texts = (f"{said()}\n{clock}", f"[{clock}, {said()}]", f"{clock};{clock}", said(), f"{said(days=1)};{clock}")
    scores = [judged(task, text) for text in texts]
    assert [score.value for score in scores] == [1, 1, 0, 0, 0]
    assert [*map(list, (score.parts for score in scores[2:]))] == [
        ["another function"], ["wrong number of calls"], ["argument of a wrong value"]]  # fmt: skip


def test_irrelevance(tmp_path):
    row = weather()
    del row["ground_truth"]
    task = only(tmp_path, kind="tools", file=write(tmp_path / "b.jsonl", [row]), irrelevance=True)
    assert [judged(task, text).note for text in ("I cannot know.", said(), "{")] == [
        "", "a call where none is right: weather.get", "not parseable: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)"]  # fmt: skip


def test_answers_of_a_second_file(tmp_path):
    rows = [weather(id=name) for name in ("a", "b")]
    answers = [{"id": "a", "ground_truth": rows[0]["ground_truth"]}]
    for row in rows:
        del row["ground_truth"]
    files = {"file": write(tmp_path / "b.json", rows), "answers": write(tmp_path / "answers.json", answers)}
    task = only(tmp_path, kind="tools", system="Be quick.", **files)
    assert [item.fault for item in task.items] == ["", 'no "ground_truth"']
    request = task.items[0].request
    assert [message["role"] for message in request.messages] == ["system", "user"]
    schema = request.tools[0]["function"]["parameters"]
    assert schema["type"] == "object" and schema["properties"]["least"] == {"type": "number"}
    assert schema["properties"]["hours"]["items"] == {"type": "integer"} and request.tools[1]["function"]["name"] == "clock"


@pytest.mark.parametrize("rows, answers, words", [
    ([{"id": "a"}, {}], [{"id": "a"}], 'b.jsonl: line 2: "id": found nothing'),
    ([{"id": "a"}], [{"ground_truth": []}], 'answers.jsonl: line 1: "id": found nothing'),
    ([{"id": "a"}], [{"id": "a"}] * 2, 'answers.jsonl: line 2: "id": a stands there twice')])  # fmt: skip
def test_answers_that_are_nobodys(tmp_path, rows, answers, words):
    plain = {"question": "?", "function": weather()["function"]}
    asked, found = write(tmp_path / "b.jsonl", [plain | row for row in rows]), write(tmp_path / "answers.jsonl", answers)
    with pytest.raises(InputError) as error:
        only(tmp_path, kind="tools", file=asked, answers=found)
    assert words in str(error.value)


@pytest.fixture(scope="module")
def checker():
    """BFCL's own. What it imports for names of functions and for other languages would need all its dependencies."""
    pytest.importorskip("bfcl_eval", reason="bfcl-eval is not installed: pip install --no-deps bfcl-eval")

    class Models(dict):
        def __missing__(self, _):
            return types.SimpleNamespace(underscore_to_dot=False)

    stubs = {"constants.model_config": {"MODEL_CONFIG_MAPPING": Models()}}
    for language in ("java", "js"):
        name = f"{language}_type_converter"
        stubs[f"eval_checker.ast_eval.type_convertor.{name}"] = {name: None}
    with pytest.MonkeyPatch.context() as patch:
        for name, members in stubs.items():
            module = types.ModuleType(f"bfcl_eval.{name}")
            vars(module).update(members)
            patch.setitem(sys.modules, f"bfcl_eval.{name}", module)
        from bfcl_eval.constants.enums import Language
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
    return lambda functions, made, right, category: ast_checker(functions, made, right, Language.PYTHON, category, "")["valid"]


def chosen(accepted):
    """An accepted value under each key; some are left out."""
    values = {key: concrete(random.choice(values or [""])) for key, values in accepted.items()}
    return {key: value for key, value in values.items() if value != ""}


def concrete(value):
    if isinstance(value, dict):
        return chosen(value)
    return list(map(concrete, value)) if isinstance(value, list) else value


STRANGE = [1, 1.5, "x", True, None, "", 0, [], {}, ["a"], [1], {"a": 1}, [{"a": 1}]]


def other(value):
    """Often another value, sometimes one that means the same."""
    return random.choice([lambda: random.choice(STRANGE), lambda: str(value), lambda: [value], lambda: value,
                          lambda: value.upper().replace(" ", "-") if isinstance(value, str) else float(value),
                          lambda: value[::-1], lambda: value[1:], lambda: [*value[:-1], random.choice(STRANGE)],
                          lambda: {**value, random.choice([*value, "a"]): 1}])  # fmt: skip


def changed(made):
    """The calls with one thing changed, or none."""
    made = json.loads(json.dumps(made))
    ((name, arguments),) = random.choice(made).items()
    key = random.choice([*arguments, "a"])
    way = random.randrange(8)
    if way == 0:
        made = random.choice([made[1:], made + made[:1]])
    elif way == 1:
        random.shuffle(made)
    elif way == 2:
        made[0] = {f"{name}x": arguments}
    elif way == 3:
        arguments.pop(key, None)
    elif way > 3:
        try:
            arguments[key] = other(arguments.get(key))()
        except (TypeError, ValueError):
            pass
    return made


# without live_multiple, which is large and has nothing that the others have not
@pytest.mark.parametrize("name", [name for name in BFCL if "irrelevance" not in name and "live_multiple" not in name])
def test_bfcl_agrees(tmp_path, checker, name):
    """Of right calls to all its questions, and of what becomes of them by a change, BFCL's checker accepts the same."""
    task, verdicts = only(tmp_path, kind="tools", file=name), []
    rows = [json.loads(line) for line in task.kind.file.read_text().splitlines()]
    assert len(task.items) == len(rows) and not any(item.fault for item in task.items)
    for row, item in random.sample([*zip(rows, task.items)], min(200, len(rows))):
        right = item.row["right"]
        calls = [{name: chosen(accepted) for name, accepted in each.items()} for each in right]
        for made in (calls, changed(calls), changed(calls)):
            ours = compare([Call(*pair) for each in made for pair in each.items()], item.row["tools"], right)
            theirs = checker(row["function"], made, right, name.partition("/")[2])
            assert (ours is None) == theirs, (row["id"], made, right, ours)
            verdicts.append(theirs)
    assert 0.3 < sum(verdicts) / len(verdicts) < 0.95


@pytest.mark.parametrize("value, right", [("rows", True), ("Rows", False), ([], False), (["rows"], False)])
def test_names_of_variables(checker, value, right):
    """Where names are accepted in place of a list, as they are."""
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}}}, "required": []}
    function, expected = {"name": "f", "parameters": schema}, [{"f": {"a": ["rows", ""]}}]
    assert (compare([Call("f", {"a": value})], [{"type": "function", "function": function}], expected) is None) == right
    assert checker([function], [{"f": {"a": value}}], expected, "simple_python") == right


class Saying:
    """A client whose model always says this."""

    def __init__(self, text):
        self.text = text

    def ask(self, model, request):
        return [Answer(self.text, "stop")]

    def do_all(self, works):
        return [(number, work()) for number, work in works]


def test_names_that_are_no_text(tmp_path):
    """JSON can say half a surrogate pair, which no file can hold."""
    task = only(tmp_path, kind="tools", file=write(tmp_path / "b.jsonl", [weather()]))
    found = run_task(Asking(Saying('{"name": "\\ud83d", "parameters": {}}'), "m"), "", task, tmp_path / "items")
    assert [score.note for score in found.scores.values()] == ["unknown function: \\ud83d"]


# ---- conversations, and the toolbox


def talk(*calls, tools=("look", "stop"), **changes):
    """A row of a chat file. The functions take a word and, "look" alone, an object."""
    kinds = {"word": {"type": "string"}, "how": {"type": "object"}}
    schema = {"type": "object", "properties": kinds}
    described = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in tools]
    answer = {"tool_calls": [{"type": "function", "function": call} for call in calls]} if calls else {"content": "Hm."}
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", **answer}], "tools": described} | changes


def test_conversations(tmp_path):
    look = {"name": "look", "arguments": {"word": "kite", "how": {"far": 3}}}
    as_text = look | {"arguments": json.dumps(look["arguments"])}
    rows = [talk(look), talk(as_text, {"name": "stop", "arguments": {}}), talk()]
    task = only(tmp_path, kind="tools", file=write(tmp_path / "c.jsonl", rows))
    assert [message["role"] for message in task.items[0].request.messages] == ["user"]
    say = '{"name": "look", "parameters": {"word": "Kite", "how": {"far": %d}}}'
    stop = '{"name": "stop", "parameters": {}}'
    assert [judged(task, text).value for text in (say % 3, say % 4, "Hm.")] == [1, 0, 0]
    assert [judged(task, text, item=1).value for text in (f"{stop};{say % 3}", say % 3)] == [1, 0]
    assert [judged(task, text, item=2).value for text in ("Whatever.", stop)] == [1, 0]


def run(name, **arguments):
    return json.dumps({"name": name, "parameters": arguments})


BOX = [
    (run("calculate", expression="2 * (3 - -4) / 4"), 3.5, ""), (run("calculate", expression="1 / 0"), 0, "the function fails"),
    (run("calculate", expression="2 ** 99"), 0, "the function fails: calculate: expected numbers"),
    (run("calculate", expression="__import__('os').getpid()"), 0, "the function fails"),
    (run("calculate", expression="(" * 150 + "1" + ")" * 150), 0, "the function fails"),
    (run("calculate", expression="9*" * 150 + "9"), 0, "the function fails: calculate: 301 characters"),
    (run("calculate", expression="3 +"), 0, "the function fails"),
    (run("calculate", expression="'a' * 3"), 0, "the function fails"),
    (run("convert", value=3, unit="km", to="mile"), 1.8641136, ""),
    (run("convert", value=1e0, unit="km", to="kg"), 0, "the function fails"),
    (run("convert", value=9, unit="ell", to="m"), 9, "the function fails"),
    (run("days_between", first="2024-02-28", last="2024-03-01"), 2, ""),
    (run("days_between", first="2024-02-30", last="2024-03-01"), 2, "the function fails"),
    (run("capital", country="Peru"), "lima", ""), (run("capital", country="Chile"), "Lima", 'wrong result: "Santiago"'),
    (run("capital", country="Atlantis"), "Lima", "the function fails"),
    (run("capital", country=7), "Lima", "argument of a wrong type"), (run("capital"), "Lima", "argument missing: country"),
    (run("capital", country="Peru", year=1), "Lima", "argument not expected"),
    (run("eval", expression="1"), 1, "unknown function: eval"), ("Lima", "Lima", "no call"),
    (f"{run('capital', country='Peru')};{run('capital', country='Peru')}", "Lima", "wrong number of calls"),
]  # fmt: skip


@pytest.mark.parametrize("text, result, fault", BOX, ids=lambda value: str(value)[:60])
def test_toolbox(tmp_path, text, result, fault):
    task = only(tmp_path, kind="tools", file=write(tmp_path / "t.jsonl", [{"question": "?", "results": [result]}]))
    score = judged(task, text)
    assert score.value == (not fault) and score.note.startswith(fault) and bool(score.note) == bool(fault)


def test_toolbox_of_several_calls(tmp_path):
    row = {"question": "?", "results": [4, "Lima", 4], "tools": ["calculate", "capital"]}
    task = only(tmp_path, kind="tools", file=write(tmp_path / "t.jsonl", [row, row | {"results": []}]))
    four, five, lima = run("calculate", expression="2 + 2"), run("calculate", expression="5"), run("capital", country="Peru")
    several = ((four, four, lima), (four, lima, lima), (four, five, lima))
    assert [judged(task, ";".join(made)).value for made in several] == [1, 0, 0]
    assert judged(task, run("days_between", first="2024-01-01", last="2024-01-05")).note == "unknown function: days_between"
    assert [judged(task, text, item=1).value for text in (four, "Nothing.")] == [0, 1]


# ---- what is refused, and models that take no tools


BAD = {
    "another format": ({"question": "?", "answer": "4"}, 'expected "question" and "function" (BFCL)'),
    "several turns": (weather(question=[[{"role": "user", "content": "?"}]] * 2), "2 turns, expected one"),
    "no question": (weather(question=[]), '"question": no message'),
    "a type of Java": (weather(function=[{"name": "f", "parameters": {"properties": {"a": {"type": "ArrayList"}}}}]),
                       'found "ArrayList", expected one of dict'),
    "no name": (weather(function=[{"parameters": {}}]), 'expected functions with a "name"'),
    "a function that is not there": (weather(ground_truth=[{"f": {}}]), 'no function "f"'),
    "one value": (weather(ground_truth=[{"clock": {"a": 1}}]), "ground_truth\": 0.clock.a: found 1, expected type \"array\""),
    "one value in an object": (weather(ground_truth=[{"clock": {"a": [{"b": 1}]}}]), "0.clock.a.0.b: found 1"),
    "no tools": (talk(tools=()), '"tools": none'),
    "no answer": (talk(messages=[{"role": "user", "content": "?"}]), "expected an answer of the assistant"),
    "documents": (talk(documents=[{"text": "x"}]), '"documents": not read here'),
    "a call that fits no function": (talk({"name": "look", "arguments": {"words": "x"}}),
                                     "do not fit \"tools\": argument not expected: words"),
    "arguments of no object": (talk({"name": "look", "arguments": "[1]"}), "a list, expected an object"),
    "results": ({"question": "?", "results": 4}, '"results": found 4, expected type "array"'),
    "another tool": ({"question": "?", "results": [4], "tools": ["sing"]}, 'found "sing", expected names of calculate'),
}  # fmt: skip


@pytest.mark.parametrize("row, words", BAD.values(), ids=BAD)
def test_refused(tmp_path, row, words):
    with pytest.raises(InputError) as error:
        only(tmp_path, kind="tools", file=write(tmp_path / "b.jsonl", [weather(), row]))
    assert words in str(error.value) and "b.jsonl: line 2" in str(error.value)


def test_no_such_set(tmp_path):
    with pytest.raises(InputError, match="expected a file, or one of package:bfcl-eval/simple_python"):
        only(tmp_path, kind="tools", file="package:bfcl-eval/simple_java")


WRITE_NONE = {"channels": "does not write tools", "raises": "no tools here"}


@pytest.mark.parametrize("name", [*chattools.TEMPLATES, "raises"])
def test_templates(tmp_path, trained, name):  # noqa: F811  the fixture
    """Wherever a template writes tools."""
    template = chattools.TEMPLATES.get(name, "{{ raise_exception('no tools here') if tools }}")
    task = only(tmp_path, kind="tools", file=write(tmp_path / "c.jsonl", [talk()]))
    fault = task.kind.unfit(Model("m", model_folder(tmp_path, trained, template), 4096, True))
    assert WRITE_NONE[name] in fault if name in WRITE_NONE else fault == ""


TELLS_TOOLS = "{{ raise_exception('no tools came') if not tools }}{{ messages[-1]['content'] }}{{ tools | tojson }}\n\n"


def test_as_a_program(tmp_path):
    """A model that answers with a text is right where no call is; one whose template leaves tools out is not asked."""
    for name in ("writes", "silent"):
        parrot_model(tmp_path / name, "Rain")
    (tmp_path / "writes/chat_template.jinja").write_text(TELLS_TOOLS)
    row, calling = talk(tools=("f",)), talk({"name": "f", "arguments": {}}, tools=("f",))
    tasks = [{"name": name, "kind": "tools", "file": write(tmp_path / f"{name}.jsonl", rows), "max_tokens": 16}
             for name, rows in (("needless", [row]), ("needed", [calling, row, row]))]  # fmt: skip
    suite(tmp_path, *tasks)
    code, out, err = evaluate(tmp_path, tmp_path / "out", "--context", "1024", models=("writes", "silent"))
    assert code == 0, err
    found = json.loads((tmp_path / "out/results.json").read_text())["tasks"]
    assert [task["models"]["writes"]["score"] for task in found] == [1, 0.5] and found[1]["duplicates"] == 1
    assert found[1]["models"]["writes"]["parts"] == {"no call": 0.5}
    assert found[0]["models"]["silent"]["fault"] == "its chat template does not write tools"
    assert "no call" in (tmp_path / "out/report.html").read_text()
