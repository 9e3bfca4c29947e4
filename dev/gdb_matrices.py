"""Tiles and fragments as the matrices that they stand for, for dev/gdb_kernels.py."""

import re
import struct

import gdb
from gdb_fibers import memory

UNWRITTEN = "--"


def screen():
    return gdb.parameter("width") or 1000


def say(line):
    print(line if len(line) <= screen() else line[: screen() - 3] + "...")


def plain(value):
    """Not a reference."""
    return value.referenced_value() if value.type.code == gdb.TYPE_CODE_REF else value


def texts(elements, kind):
    """{place: text} of {place: bytes}, numbers of that type."""
    kind = kind.strip_typedefs().unqualified()
    unwritten = poison() * kind.sizeof
    if kind.name == "__nv_bfloat16":
        text = lambda raw: f"{struct.unpack('<f', bytes(2) + raw)[0]:.3g}"
    elif kind.code == gdb.TYPE_CODE_FLT:
        text = lambda raw: f"{float(gdb.Value(raw, kind)):.3g}"
    elif kind.code in (gdb.TYPE_CODE_INT, gdb.TYPE_CODE_BOOL, gdb.TYPE_CODE_CHAR, gdb.TYPE_CODE_ENUM):
        text = lambda raw: str(int(gdb.Value(raw, kind)))
    else:
        raise gdb.GdbError(f"elements of type {kind}, expected numbers: give `as TYPE ROWS COLUMNS`")
    return {place: UNWRITTEN if raw == unwritten else text(raw) for place, raw in elements.items()}


def poison():
    """The byte that shared memory is filled with (shared_poison() in llmc/cpu/shared_memory.cpp)."""
    seed = int(gdb.lookup_static_symbol("order_seed").value())
    return b"\xff" if not seed else b"\x7f" if seed % 2 else b"\xfe"


def print_matrix(cells, rows, columns):
    """{(row, column): text} of two ranges; as many columns side by side as the screen has room for."""
    for mark, meaning in ((UNWRITTEN, "never written"), ("nan", "not a number")):
        places = [(row, column) for row in rows for column in columns if cells.get((row, column)) == mark]
        if places:
            say(f"{len(places)} of {len(cells)} {meaning} ({mark}), the first in row {places[0][0]}, column {places[0][1]}")
    size = max(map(len, cells.values()), default=1) + 1
    label = len(str(rows[-1])) + 1
    room = max(1, (screen() - label) // size)
    room -= room % 8 if room > 8 else 0
    for first in range(columns.start, columns.stop, room):
        shown = range(first, min(first + room, columns.stop))
        print(" " * label + "".join(f"{column:>{size}}" for column in shown))
        for row in rows:
            print(f"{row:>{label}}" + "".join(f"{cells.get((row, column), '?'):>{size}}" for column in shown))


def cut(text):
    """`WHAT [rows A:B] [columns C:D]` as (WHAT, function from numbers of rows and columns to two ranges)."""
    what, *bounds = re.fullmatch(r"(.*?)(?:\s+rows\s+(\d+):(\d+))?(?:\s+columns\s+(\d+):(\d+))?", text).groups()
    a, b, c, d = (bound and int(bound) for bound in bounds)

    def ranges(rows, columns):
        found = range(rows)[a:b], range(columns)[c:d]
        if not all(found):
            raise gdb.GdbError(f"rows are 0:{rows}, columns 0:{columns}")
        return found

    return what, ranges


# ---- shared memory


def regions(block):
    """[(name, first address, end)] of what the block has declared."""
    worker = block.worker
    starts = [int(worker["shared_arrays"][k]) for k in range(int(worker["shared_count"]))]
    arrays = [(f"array {k}", start, start + int(worker["shared_sizes"][k])) for k, start in enumerate(starts)]
    first, guard = int(worker["dynamic"]), 128
    end = min(starts, default=int(worker["shared"]) + int(worker["shared_used"])) - guard
    return [("dynamic", first, end)] * (end > first) + arrays


def pointer_of(value):
    """Where a pointer, an array or a SharedTile points; None of anything else."""
    kind = value.type.strip_typedefs()
    if (kind.name or "").startswith("SharedTile<"):
        return int(value["data"])
    if kind.code == gdb.TYPE_CODE_ARRAY:
        return int(value.address)
    return int(value) if kind.code == gdb.TYPE_CODE_PTR else None


def shape_of(value, block):
    """(type of the elements, rows, columns, whether swizzled) from where it points to the end of what was declared there."""
    kind, address = value.type.strip_typedefs(), pointer_of(value)
    end = next((end for _, start, end in regions(block) if start <= address < end), None)
    if end is None:
        raise gdb.GdbError("this is not in the block's shared memory: give `as TYPE ROWS COLUMNS`")
    if kind.code == gdb.TYPE_CODE_STRUCT:
        element, columns = kind.template_argument(0), int(kind.template_argument(1))
        return element, (end - address) // (columns * element.sizeof), columns, True
    return kind.target(), 1, (end - address) // kind.target().sizeof, False


def offset(row, column, columns, size, swizzled):
    """Of an element in bytes; swizzled as in llmc/device/shared_tile.h."""
    chunk = 16 // size
    swizzle = (row & 7 if columns // chunk >= 8 else row >> 1 & 3) if swizzled else 0
    return (row * columns + (column // chunk ^ swizzle) * chunk + column % chunk) * size


# ---- fragments


def fragment(kind):
    """(type of the elements, columns, elements of a row that stand together) of Acc and FragA, else None."""
    if (kind.name or "").startswith("Acc<"):
        columns = int(kind.template_argument(0))
        return gdb.lookup_type("float"), columns, min(8, columns // 8)
    if (kind.name or "").startswith("FragA<"):
        columns = int(kind.template_argument(1))
        return kind.template_argument(0), columns, columns // 8
    return None


def part_of(kind):
    """(type of an element, their number) of an array or a reference to one; of anything else it is one element."""
    kind = (kind.target() if kind.code == gdb.TYPE_CODE_REF else kind).strip_typedefs()
    if kind.code != gdb.TYPE_CODE_ARRAY:
        return kind, 1
    return kind.target().strip_typedefs(), kind.range()[1] + 1


def held(lane, size, columns, wide):
    """(row, column, offset in bytes) of the elements of 16 rows that a lane holds, as llmc/device/fragments.h has them."""
    for h in range(2):
        for i in range(columns // 8):
            for j in range(2):
                row = (i // wide * 2 + h) * 2 * wide
                in_row = 2 * i + j if size == 2 else j * wide + i % wide  # two of bf16 make a word
                yield lane // 4 + 8 * h, 8 * i + 2 * (lane % 4) + j, (row + in_row) * size
