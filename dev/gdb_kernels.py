"""Commands for gdb that know the kernels of the cpu target: who waits where, each thread's stack and variables, tiles in
shared memory, fragments of a warp as matrices. `help kernel` lists them, docs/kernels.md shows them.

    gdb -x dev/gdb_kernels.py --args build/cpu-debug/test_llama3 --small
"""

import linecache
import os
import re
import struct
import sys

import gdb

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gdb_fibers
from gdb_fibers import LANES, by_status, in_lanes, is_in, kernel_frame, leave_scheduler, memory, running_blocks, site_of, this_block, this_thread, triple, variables

UNWRITTEN = "--"


def screen():
    return gdb.parameter("width") or 1000


def say(line):
    print(line if len(line) <= screen() else line[: screen() - 3] + "...")


def plural(noun, numbers):
    """warp 3; warps 0-2, 5"""
    runs = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return noun + "s" * (len(numbers) > 1) + " " + ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def place(site):
    return f" {site[0].rsplit('/', 1)[-1]}:{site[1]}" if site else ""


def say_group(status, threads, who, of):
    """What `threads` of `of` threads do, and the line of the source if it is found. who: their warps."""
    state, site = status
    say(f"  {who}: {len(threads)} thread{'s' * (len(threads) > 1)} {state}{place(site)}")
    try:
        symtab = gdb.decode_line("{}:{}".format(*site))[1][0].symtab
        say("      " + linecache.getline(symtab.fullname(), site[1]).strip())
    except (gdb.error, TypeError, AttributeError):
        pass
    if len(threads) < of:
        say("      " + plural("thread", [thread.number for thread in threads]))


def plain(value):
    """Not a reference."""
    return value.referenced_value() if value.type.code == gdb.TYPE_CODE_REF else value


def text_of(value):
    if value.is_optimized_out:
        return "<optimized out>"
    value = plain(value)
    if value.type.strip_typedefs().code == gdb.TYPE_CODE_FLT:
        return f"{float(value):.3g}"
    return value.format_string(max_elements=4, static_members=False)


# ---- matrices


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


# ---- commands


class Command(gdb.Command):
    def invoke(self, argument, from_tty):
        try:
            self.run(argument.strip())
        except gdb.error as error:
            raise gdb.GdbError(str(error)) from error


class KernelCommand(gdb.Command):
    """Looks into kernels on the cpu target (docs/kernels.md)."""


class ThreadsCommand(Command):
    """Says where the threads of running blocks wait.
Usage: kernel threads

Threads of a warp that do the same stand together, and so do warps. A thread
waits for its warp (in a shuffle, a reduction, a product of fragments) or for
its block (in __syncthreads, block_sum). When all have come it is ready to go
on, but a block's threads run one at a time."""

    def run(self, argument):
        for block in running_blocks():
            say(f"block {triple(block.index)} of {triple(block.grid)}, thread {block.gdb_thread.num} of gdb: {block.kernel}")
            warps = []  # [numbers of warps, groups of their threads]
            for first in range(0, len(block.threads), LANES):
                groups = by_status(block.threads[first : first + LANES])
                if warps and len(groups) == 1 and list(warps[-1][1]) == list(groups):
                    warps[-1][0].append(first // LANES)
                    for status, threads in groups.items():
                        warps[-1][1][status] += threads
                else:
                    warps.append(([first // LANES], groups))
            for numbers, groups in warps:
                for status, threads in groups.items():
                    say_group(status, threads, plural("warp", numbers), LANES * len(numbers))


class MeetCommand(Command):
    """Goes on until all threads of this warp have come.
Usage: kernel meet

It stops when all threads of the warp of the running thread have come to one
place: a barrier, shuffle, reduction or product. Their variables, as `kernel
fragment` shows them, are then of one moment. A breakpoint on the way stops each
thread that comes to it: use `tbreak`."""

    def run(self, argument):
        block, warp = this_block(), this_block().running().number // LANES
        here = f"(long)host_block == {int(gdb.parse_and_eval('(long)host_block'))}"
        stops = [gdb.Breakpoint(function, internal=True) for function in ("host_warp_release", "host_block_release")]
        stops[0].condition = f"{here} && host_thread->linear / {LANES} == {warp}"
        stops[1].condition = here
        for stop in stops:
            stop.silent = True
        gdb.execute("continue")
        met = any(stop.is_valid() and stop.hit_count for stop in stops)
        for stop in stops:
            if stop.is_valid():
                stop.delete()
        if not met:
            raise gdb.GdbError("it stopped before all threads of the warp met")
        leave_scheduler()
        threads = this_block().threads[warp * LANES :][:LANES]
        say_group(("at", this_thread().status()[1]), threads, f"warp {warp}", LANES)


class ThreadCommand(Command):
    """Shows a thread's stack and variables, and stays with it.
Usage: kernel thread [[BLOCK] THREAD]

BLOCK and THREAD are numbers, x first, or x,y,z; without BLOCK, it is this one.
Until the program goes on, `backtrace`, `up`, `down`, `frame N`, `print` and the
other `kernel` commands are then about that thread. Without arguments: back to
the thread that runs."""

    def run(self, argument):
        words = gdb.string_to_argv(argument)
        if len(words) > 2:
            raise gdb.GdbError("usage: kernel thread [[BLOCK] THREAD]")
        block = self.block(words[0]) if len(words) == 2 else this_block()
        thread = block.threads[linear(words[-1], block.size, "thread")] if words else block.running()
        if not thread.has_stack():
            raise gdb.GdbError(f"{thread} has {thread.status()[0]}")
        block.gdb_thread.switch()
        self.show(thread)

    def block(self, text):
        blocks = running_blocks()
        number = linear(text, blocks[0].grid, "block")
        found = [block for block in blocks if linear(triple(block.index), block.grid, "block") == number]
        if not found:
            raise gdb.GdbError(f"block {text} is not running; running: {' '.join(triple(block.index) for block in blocks)}")
        return found[0]

    def show(self, thread):
        state, site = thread.status()
        print(f"{thread}: {state}{place(site)}")
        stack = gdb_fibers.stack_of(thread)
        chosen = next((frame for frame in stack if site_of(frame) == site), None) or kernel_frame(stack[0])
        for frame in stack:
            name = (frame.name() or "?").replace("(anonymous namespace)::", "")
            if not is_in(frame, "llmc/cpu", "usr") and site_of(frame)[0] and not name.startswith("operator()"):
                say(f"{'=>' if frame == chosen else '  '} #{frame.level()}{place(site_of(frame))} {name}")
        for name, value in variables(chosen):
            is_fragment = fragment(part_of(value.type)[0])
            say(f"{name} = {f'(see `kernel fragment {name}`)' if is_fragment else text_of(value)}")
        chosen.select()


class SharedCommand(Command):
    """Shows shared memory, a tile as a matrix.
Usage: kernel shared
       kernel shared NAME [as [tile] TYPE ROWS COLUMNS] [rows A:B] [columns C:D]

Without NAME: what the block has declared. NAME is an expression: a pointer, or
a SharedTile. TYPE is bf16, float, int or the like; `as tile` is said of memory
that is swizzled as a SharedTile; with `as`, NAME may point anywhere. An element
is shown as -- if it has the bits that shared memory is filled with before a
block begins (all ones, which is -1 as an int)."""

    def run(self, argument):
        block = this_thread().block
        leave_scheduler()
        if not argument:
            return self.list(block)
        what, ranges = cut(argument)
        what, tile, kind, *shape = re.fullmatch(r"(.*?)(?:\s+as\s+(tile\s+)?(\S.*?)\s+(\d+)\s+(\d+))?", what).groups()
        value = plain(gdb.parse_and_eval(what))
        address = pointer_of(value)
        if address is None:
            raise gdb.GdbError(f"{what} is neither a pointer nor a SharedTile")
        if kind:
            kind, (rows, columns), swizzled = gdb.lookup_type({"bf16": "__nv_bfloat16"}.get(kind, kind)), map(int, shape), bool(tile)
        else:
            kind, rows, columns, swizzled = shape_of(value, block)
        whole, size, stride = memory(address, rows * columns * kind.sizeof), kind.sizeof, columns
        rows, columns = ranges(rows, columns)
        places = {(row, column): offset(row, column, stride, size, swizzled) for row in rows for column in columns}
        print_matrix(texts({place: whole[at : at + size] for place, at in places.items()}, kind), rows, columns)

    def list(self, block):
        pointers = [(name, pointer_of(plain(value))) for name, value in variables(gdb.selected_frame()) if not value.is_optimized_out]
        for name, start, end in regions(block):
            names = ", ".join(name for name, address in pointers if address is not None and start <= address < end)
            whole, word = memory(start, end - start), poison() * 4
            unwritten = sum(4 for at in range(0, end - start, 4) if whole[at : at + 4] == word)
            say(f"{name}: {end - start} bytes, {unwritten} never written{': ' * bool(names)}{names}")


class FragmentCommand(Command):
    """Shows a fragment of all lanes as the matrix it is.
Usage: kernel fragment NAME [rows A:B] [columns C:D]

NAME is an expression of type Acc or FragA, or an array of these, which stand
below each other. Lane r % 8 * 4 + c % 8 / 2 holds the element in row r and
column c. Of any other type, the values of the 32 lanes are shown. Lanes that
are not in the function of the selected frame have ? instead."""

    def run(self, argument):
        name, ranges = cut(argument)
        if not name:
            raise gdb.GdbError("usage: kernel fragment NAME [rows A:B] [columns C:D]")
        thread = this_thread()
        leave_scheduler()
        one, count = part_of(gdb.parse_and_eval(name).type)
        first = thread.number // LANES * LANES
        lanes = thread.block.threads[first : first + LANES]
        groups = by_status(lanes)
        if len({site for _, site in groups}) > 1:
            print("These values are not of one moment (help kernel meet):")
            for status, threads in groups.items():
                say_group(status, threads, f"warp {first // LANES}", LANES)
        if not fragment(one):
            values = in_lanes(lanes, lambda: text_of(gdb.parse_and_eval(name)))
            cells = {(lane - lane % 8, lane % 8): text for lane, text in values.items()}
            return print_matrix(cells, range(0, LANES, 8), range(8))
        element, columns, wide = fragment(one)
        rows, shown = ranges(16 * count, columns)
        elements = {}
        for lane, whole in in_lanes(lanes, lambda: self.bytes_of(name)).items():
            for m in range(count):
                for row, column, at in held(lane, element.sizeof, columns, wide):
                    elements[16 * m + row, column] = whole[m * one.sizeof + at :][: element.sizeof]
        elements = {place: raw for place, raw in elements.items() if place[0] in rows and place[1] in shown}
        print_matrix(texts(elements, element), rows, shown)

    def bytes_of(self, name):
        value = plain(gdb.parse_and_eval(name))
        if value.is_optimized_out or value.address is None:
            raise gdb.GdbError(f"{name} is not in memory: build with OPTIMIZE=-O0, as docs/kernels.md says")
        return memory(int(value.address), value.type.sizeof)


class ThreadIndexFunction(gdb.Function):
    """threadIdx of the thread that `kernel thread` has chosen, or of the one that runs."""

    def invoke(self):
        fiber = gdb_fibers.UNWINDER.fiber
        return fiber.value["thread"]["index"] if fiber else gdb.parse_and_eval("host_thread->index")


def linear(text, size, what):
    """The number of a thread or block that is given by its number or as x,y,z."""
    x, y, z = (int(size[axis]) for axis in "xyz")
    parts = [int(gdb.parse_and_eval(part)) for part in text.strip("()").split(",")]
    number = sum(part * stride for part, stride in zip(parts, (1, x, x * y)))
    inside = len(parts) == 1 or all(0 <= part < limit for part, limit in zip(parts, (x, y, z)))
    if not inside or not 0 <= number < x * y * z:
        raise gdb.GdbError(f"{what} {text}: expected 0 to {x * y * z - 1}, or x,y,z below {x},{y},{z}")
    return number


KernelCommand("kernel", gdb.COMMAND_DATA, prefix=True)
ThreadsCommand("kernel threads", gdb.COMMAND_DATA)
MeetCommand("kernel meet", gdb.COMMAND_RUNNING)
ThreadCommand("kernel thread", gdb.COMMAND_DATA)
SharedCommand("kernel shared", gdb.COMMAND_DATA)
FragmentCommand("kernel fragment", gdb.COMMAND_DATA)
ThreadIndexFunction("_thread_index")
gdb.execute("set breakpoint pending on")  # kernels are in a library that the program loads
gdb.execute("macro define threadIdx $_thread_index()")
for name, member in (("blockIdx", "index"), ("blockDim", "block_dim"), ("gridDim", "grid_dim")):
    gdb.execute(f"macro define {name} (host_block->{member})")
