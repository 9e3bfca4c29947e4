"""C structs as ctypes structures, read from llmc's headers, so that no test has a copy of a struct's fields.

    structs = cstructs.read("model/run_shape.h")   # {name: class}, also of the headers that it includes
    shape = structs["RunShape"](B=2, T=64)
"""

import ctypes
import pathlib
import re

LLMC = pathlib.Path(__file__).resolve().parents[2] / "llmc"
TYPES = {"int": ctypes.c_int, "bool": ctypes.c_bool, "float": ctypes.c_float, "double": ctypes.c_double,
         "char": ctypes.c_char, "size_t": ctypes.c_size_t,
         **{f"{u}int{bits}_t": getattr(ctypes, f"c_{u}int{bits}") for u in ("", "u") for bits in (8, 16, 32, 64)}}  # fmt: skip
CONSTANTS = {}
DONE = set()  # headers, each of which is read once: a struct has one class
DEFINITION = re.compile(r"(?:typedef )?(struct|enum)\s*\w*\s*\{([^{}]*)\}\s*(\w*)\s*;")


def read(*headers):
    for header in headers:
        read_header(header)
    return {name: kind for name, kind in TYPES.items() if issubclass(kind, ctypes.Structure)}


def read_header(header):
    if header in DONE:
        return
    DONE.add(header)
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", (LLMC / header).read_text(), flags=re.S)
    for included in re.findall(r'#include "([^"]+)"', text):
        read_header(included)
    for kind, body, name in DEFINITION.findall(text):
        if kind == "enum":
            read_enum(body)
            TYPES[name] = ctypes.c_int
        elif name:
            TYPES[name] = type(name, (ctypes.Structure,), {"_fields_": list(read_fields(body))})
            globals()[name] = TYPES[name]  # where pickle looks for it


def read_enum(body):
    following = 0
    for entry in filter(str.strip, body.split(",")):
        name, _, value = map(str.strip, entry.partition("="))
        CONSTANTS[name] = eval(value, {}, CONSTANTS) if value else following
        following = CONSTANTS[name] + 1


def read_fields(body):
    for declaration in filter(str.strip, body.split(";")):
        base, declarators = re.fullmatch(r"\s*(?:const\s+)?(?:struct\s+)?(\w+)\s*(.*)", declaration, re.S).groups()
        for declarator in declarators.split(","):
            stars, name, length = re.fullmatch(r"\s*(?:const\s+)?(\**)\s*(\w+)\s*(?:\[([^\]]+)\])?\s*", declarator).groups()
            kind = pointer(base) if stars else TYPES[base]
            kind = ctypes.POINTER(kind) if stars == "**" else kind
            yield name, kind * eval(length, {}, CONSTANTS) if length else kind


def pointer(base):
    if base not in TYPES:  # void, or what no header that was read defines
        return ctypes.c_void_p
    return ctypes.c_char_p if base == "char" else ctypes.POINTER(TYPES[base])
