"""Commands for gdb that know the kernels of the cpu target: who waits where, each thread's stack and variables, tiles in
shared memory, fragments of a warp as matrices. `help kernel` lists them, docs/kernels.md shows them.

    gdb -x dev/gdb_kernels.py --args build/cpu-debug/test_llama3 --small
"""

import linecache
import os
import re
import sys

import gdb

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gdb_fibers
from gdb_fibers import LANES, by_status, in_lanes, is_in, leave_scheduler, memory, running_blocks, select, site_of, this_block
from gdb_fibers import this_thread, triple, variables
from gdb_matrices import cut, fragment, held, offset, part_of, plain, pointer_of, poison, print_matrix, regions, say, shape_of
from gdb_matrices import texts


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


def text_of(value):
    if value.is_optimized_out:
        return "<optimized out>"
    value = plain(value)
    if value.type.strip_typedefs().code == gdb.TYPE_CODE_FLT:
        return f"{float(value):.3g}"
    return value.format_string(max_elements=4, static_members=False)


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
            warps = []  # (numbers of warps, groups of their threads)
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

It stops when all threads of the running thread's warp have come to one place
(a barrier, shuffle, reduction or product), what they met for is done, and none
has gone on: their variables, as `kernel fragment` shows them, are of one
moment. A breakpoint on the way stops each thread that comes to it: use
`tbreak`."""

    def run(self, argument):
        block, warp = this_block(), this_block().running().number // LANES
        here = f"(long)host_block == {int(gdb.parse_and_eval('(long)host_block'))}"
        stops = [gdb.Breakpoint(function, internal=True) for function in ("host_warp_release", "host_block_release")]
        stops[0].condition = f"{here} && host_thread->linear / {LANES} == {warp}"
        stops[1].condition = here
        for stop in stops:
            stop.silent = True
        try:
            gdb.execute("continue")
            met = any(stop.hit_count for stop in stops)
        finally:
            for stop in stops:
                stop.delete()
        if not met:
            raise gdb.GdbError("it stopped before all threads of the warp met")
        last = this_block().running()
        threads = last.block.threads[warp * LANES :][:LANES]
        say_group(("at", last.status()[1]), threads, f"warp {warp}", LANES)
        select(last if last in threads else threads[0])


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
        stack, chosen = select(thread)
        for frame in stack:
            name = (frame.name() or "?").replace("(anonymous namespace)::", "")
            if not is_in(frame, "llmc/cpu", "usr") and site_of(frame)[0] and not name.startswith("operator()"):
                say(f"{'=>' if frame == chosen else '  '} #{frame.level()}{place(site_of(frame))} {name}")
        for name, value in variables(chosen):
            is_fragment = fragment(part_of(value.type)[0])
            say(f"{name} = {f'(see `kernel fragment {name}`)' if is_fragment else text_of(value)}")


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
            if name != argument:
                raise gdb.GdbError(f"{name} is no fragment, which alone has rows and columns")
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
gdb.execute("set breakpoint pending on")  # kernels are in a library that the program loads
gdb.execute("macro define threadIdx (($_chosen ? $_chosen : host_thread)->index)")
for name, member in (("blockIdx", "index"), ("blockDim", "block_dim"), ("gridDim", "grid_dim")):
    gdb.execute(f"macro define {name} (host_block->{member})")
