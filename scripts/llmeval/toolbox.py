"""A small registry of pure functions that a model may call, of which the results are compared."""

import ast
import datetime
import inspect
import json
import math
import operator
from typing import Callable

from . import calls
from .calls import Call, Fault

LONGEST = 200  # characters of an expression
FAILS, RESULT = "the function fails", "wrong result"  # beside the faults of all calls
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
             ast.UAdd: operator.pos, ast.USub: operator.neg}  # fmt: skip
UNITS = {"mm": ("m", 0.001), "cm": ("m", 0.01), "m": ("m", 1), "km": ("m", 1000), "inch": ("m", 0.0254), "foot": ("m", 0.3048),
         "mile": ("m", 1609.344), "g": ("kg", 0.001), "kg": ("kg", 1), "ounce": ("kg", 0.028349523125),
         "pound": ("kg", 0.45359237), "second": ("s", 1), "minute": ("s", 60), "hour": ("s", 3600)}  # fmt: skip
CAPITALS = {"Argentina": "Buenos Aires", "Bolivia": "Sucre", "Chile": "Santiago", "Egypt": "Cairo", "France": "Paris",
            "Germany": "Berlin", "India": "New Delhi", "Japan": "Tokyo", "Kenya": "Nairobi", "Peru": "Lima"}  # fmt: skip


def calculate(expression: str) -> float:
    """Computes an arithmetic expression of numbers, + - * / and parentheses."""
    if len(expression) > LONGEST:
        raise ValueError(f"{len(expression)} characters, expected at most {LONGEST}")
    return _value(ast.parse(expression.strip(), mode="eval").body)


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    raise ValueError("expected numbers, + - * / and parentheses")


def convert(value: float, unit: str, to: str) -> float:
    """Converts a value to another unit of the same quantity."""
    missing = [name for name in (unit, to) if name not in UNITS]
    if missing or UNITS[unit][0] != UNITS[to][0]:
        raise ValueError(f"no way from {unit} to {to}")
    return value * UNITS[unit][1] / UNITS[to][1]


def days_between(first: str, last: str) -> int:
    """Counts the days from one date to another, both as YYYY-MM-DD."""
    return (datetime.date.fromisoformat(last) - datetime.date.fromisoformat(first)).days


def capital(country: str) -> str:
    """Looks up the capital of a country."""
    if country not in CAPITALS:
        raise ValueError(f"{country} is not in the table")
    return CAPITALS[country]


FUNCTIONS: dict[str, Callable] = {function.__name__: function for function in (calculate, convert, days_between, capital)}
NAMES = {str: "string", float: "number", int: "integer"}
VALUES = {"unit": list(UNITS), "to": list(UNITS), "country": list(CAPITALS)}


def tool(name: str) -> dict:
    """The description of a function, in OpenAI's form."""
    function = FUNCTIONS[name]
    arguments = inspect.signature(function).parameters.values()
    properties = {each.name: {"type": NAMES[each.annotation]} | ({"enum": VALUES[each.name]} if each.name in VALUES else {})
                  for each in arguments}  # fmt: skip
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": function.__doc__, "parameters": parameters}}


def compare(said: list[Call], tools: list[dict], wanted: list) -> Fault | None:
    """None: the calls return what is wanted, in any order."""
    schemas = calls.parameters_of(tools)
    misfits = (calls.misfit(call, schemas[call.name]) for call in said)
    if fault := calls.unknown(said, tools) or next(filter(None, misfits), None):
        return fault
    if len(said) != len(wanted):
        return Fault(calls.COUNT, f"{len(said)}, expected {len(wanted)}")
    left = list(wanted)
    for call in said:
        try:
            result = FUNCTIONS[call.name](**call.arguments)
        except (ValueError, ArithmeticError, SyntaxError, RecursionError, MemoryError) as error:  # a model may write anything
            return Fault(FAILS, f"{call.name}: {error}")
        same = next((number for number, each in enumerate(left) if _same(result, each)), None)
        if same is None:
            return Fault(RESULT, json.dumps(result))
        del left[same]
    return None


def _same(result, wanted) -> bool:
    if isinstance(result, str) or isinstance(wanted, str):
        return str(result).casefold() == str(wanted).casefold()
    return math.isclose(result, wanted, rel_tol=1e-6, abs_tol=1e-9)
