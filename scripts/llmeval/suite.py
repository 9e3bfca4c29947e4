"""The file of a suite: which tasks, of which kinds, from which files."""

from dataclasses import dataclass
from pathlib import Path

from llmdata.errors import InputError
from llmdata.schema import check, one_object
from llmdata.text_file import read_json

from .kinds import KINDS
from .task import Item, Kind

_NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$", "maxLength": 100}  # names a file
_SUITE = one_object({"tasks": {"type": "array", "minItems": 1}, "contamination": {"type": "object"}}, ("tasks",))


@dataclass
class Task:
    name: str
    kind: Kind
    settings: dict
    items: list[Item]
    duplicates: int  # items that stand in the files again; they are asked once
    judge: "Task | None" = None  # labelled answers, which show how often the judge of this one errs


def read_suite(path: Path) -> list[Task]:
    """All tasks with their items. Errors: InputError, which names task and field, or file, row and field."""
    folder, tasks = path.resolve().parent, []
    for number, settings in enumerate(check_suite(read_json(path), str(path))):
        try:
            tasks.append(read_task(settings, folder))
        except InputError as error:
            raise InputError(f"{path}: tasks.{number} ({settings['name']}): {error}") from None
    return tasks


def check_suite(value, where: str) -> list[dict]:
    """The settings of all tasks, with their defaults. `where`: what messages call their origin. Errors: InputError."""
    tasks: dict[str, dict] = {}
    for number, given in enumerate(check(value, _SUITE, where)["tasks"]):
        place = f"{where}: tasks.{number}"
        settings = _settings(given, place)
        if settings["name"] in tasks:
            raise InputError(f"{place}.name: {settings['name']} stands there twice")
        tasks[settings["name"]] = settings
    return list(tasks.values())


def _settings(given, where: str) -> dict:
    kinds = {"enum": list(KINDS)}
    name = check(given, {"type": "object", "properties": {"kind": kinds}, "required": ["kind"]}, where)["kind"]
    kind = KINDS[name]
    return check(given, one_object({"name": _NAME, "kind": kinds} | kind.SCHEMA, ("name", "kind", *kind.REQUIRED)), where)


def read_task(settings: dict, folder: Path) -> Task:
    kind = KINDS[settings["kind"]](settings, folder)
    judge = _task(f"{settings['name']}-judge", kind.labelled, kind.labelled.settings) if kind.labelled else None
    return _task(settings["name"], kind, settings, judge)


def _task(name: str, kind: Kind, settings: dict, judge: Task | None = None) -> Task:
    read = list(kind.items())
    once = {item.key: item for item in read}
    if not any(item.request for item in once.values()):
        raise InputError(f"no item that can be asked{': ' + read[0].place + ': ' + read[0].fault if read else ''}")
    return Task(name, kind, settings, list(once.values()), len(read) - len(once), judge)
