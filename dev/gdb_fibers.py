"""Shows gdb the threads of the kernels that the cpu target runs, for dev/gdb_kernels.py.

The threads of a block are fibers of one CPU thread, which alone gdb sees. What they do stands in llmc/cpu/worker.h; the
registers of one that does not run stand on its stack, where Boost's jump_fcontext puts them.
"""

import re
import struct

import gdb
import gdb.unwinder

LANES = 32
READY, AT_WARP, AT_BLOCK, FINISHED = range(4)  # fibers::State
WAITING = {READY: "ready to go on from", AT_WARP: "waiting for the warp at", AT_BLOCK: "waiting for the block at"}
# In the order in which Boost's jump_fcontext leaves them on the stack on x86-64; how much stands before them is its version's
REGISTERS = ("r12", "r13", "r14", "r15", "rbx", "rbp", "rip")
NO_KERNEL = "no kernel is running here: break inside one first"


def memory(address, size):
    return gdb.selected_inferior().read_memory(address, size).tobytes()


def triple(index):
    return f"({int(index['x'])},{int(index['y'])},{int(index['z'])})"


# ---- blocks and their threads


class Thread:
    """A thread of a running block: a fiber."""

    def __init__(self, block, value):
        self.block, self.value = block, value
        self.number, self.state = int(value["thread"]["linear"]), int(value["state"])
        self.site = (value["file"].string(), int(value["line"])) if value["file"] else None
        self.is_current = int(value.address) == block.current
        self.context = int(value["context"])

    def __str__(self):
        return f"thread {triple(self.value['thread']['index'])}, block {triple(self.block.index)}"

    def has_stack(self):
        """Whether a frame of the kernel is on it."""
        return self.is_current or self.state != FINISHED and self.site is not None

    def status(self):
        """(what it does, where)"""
        if self.is_current and self.state == READY:
            return "running at", on_gdb_thread(self.block.gdb_thread, lambda: site_of(kernel_frame(gdb.newest_frame())))
        if self.state == FINISHED:
            return "returned", None
        return (WAITING[self.state], self.site) if self.site else ("not begun", None)


class Block:
    """The block that one of gdb's threads runs."""

    def __init__(self, gdb_thread, worker):
        self.gdb_thread, self.worker = gdb_thread, worker
        self.index, self.current = worker["block"]["index"], int(worker["current"])
        self.size, self.grid = worker["block"]["block_dim"], worker["block"]["grid_dim"]
        self.kernel = re.sub(r"^\((.*)\)$", r"\1", worker["kernel"]["name"].string())
        fibers = worker["fibers"]["_M_impl"]["_M_start"].cast(gdb.lookup_type("HostFiber").pointer().pointer())
        self.threads = [Thread(self, fibers[i].dereference()) for i in range(int(worker["num_threads"]))]

    def running(self):
        return next(thread for thread in self.threads if thread.is_current)


def on_gdb_thread(gdb_thread, work):
    """work() with another of gdb's threads selected, seen as it is."""
    before, fiber, level = gdb.selected_thread(), UNWINDER.fiber, gdb.selected_frame().level()
    try:
        UNWINDER.show(None)
        gdb_thread.switch()
        return work()
    finally:
        before.switch()
        UNWINDER.show(fiber)
        select_level(level)


def running_block(gdb_thread):
    """The Block that it runs, or None."""
    try:
        worker = on_gdb_thread(gdb_thread, lambda: gdb.parse_and_eval("fibers::worker()::instance"))
        if worker and int(worker["current"]) not in (0, int(worker["outside"].address)):
            return Block(gdb_thread, worker.dereference())
    except gdb.error:  # no debug information, or its thread-local storage is not there yet
        pass
    return None


def running_blocks():
    """Of all of gdb's threads, the selected one's first."""
    here = gdb.selected_thread()
    if not here:
        raise gdb.GdbError(NO_KERNEL)
    threads = sorted(gdb.selected_inferior().threads(), key=lambda thread: (thread.num != here.num, thread.num))
    blocks = [block for block in map(running_block, threads) if block]
    if not blocks:
        raise gdb.GdbError(loop() or NO_KERNEL)
    return blocks


def loop():
    """What is to be said in a kernel of launch_pointwise."""
    if not any((frame.name() or "").startswith("host_launch_pointwise") for frame in frames(gdb.newest_frame())):
        return None
    thread, block = (triple(gdb.parse_and_eval(f"host_{what}->index")) for what in ("thread", "block"))
    return f"launch_pointwise runs the threads of this kernel in a loop, now {thread} of block {block}"


def this_block():
    """Of the selected one of gdb's threads."""
    here = gdb.selected_thread()
    block = here and running_block(here)
    if not block:
        other = running_blocks()[0]
        raise gdb.GdbError(f"no kernel is running in this thread of gdb, but in `thread {other.gdb_thread.num}`")
    return block


def this_thread():
    """The thread that `kernel thread` has chosen, or the running one."""
    block, fiber = this_block(), UNWINDER.fiber
    chosen = fiber and fiber.block.gdb_thread.num == block.gdb_thread.num
    return block.threads[fiber.number] if chosen else block.running()


def by_status(threads):
    """{(what they do, where): threads}"""
    groups = {}
    for thread in threads:
        groups.setdefault(thread.status(), []).append(thread)
    return groups


# ---- frames


def frames(frame):
    while frame:
        yield frame
        frame = frame.older()


def site_of(frame):
    """(file, line)"""
    sal = frame.find_sal()
    return (sal.symtab.filename, sal.line) if sal.symtab else ("", 0)


def is_in(frame, *folders):
    return any(f"/{folder}/" in "/" + site_of(frame)[0] for folder in folders)


def kernel_frame(frame):
    """From this one outwards, the first of a kernel's own code."""
    return next((f for f in frames(frame) if site_of(f)[0] and not is_in(f, "llmc/cpu", "llmc/device", "usr")), frame)


def leave_scheduler():
    """Selects the kernel's frame, where a frame of llmc/cpu is selected."""
    if is_in(gdb.selected_frame(), "llmc/cpu"):
        kernel_frame(gdb.selected_frame()).select()


def select_level(level):
    next(frame for frame in frames(gdb.newest_frame()) if frame.level() == level).select()


def variables(frame):
    """(name, value) of local variables and arguments, innermost first."""
    block, seen = frame.block(), set()
    while block and not block.is_static and not block.is_global:
        for symbol in block:
            if (symbol.is_variable or symbol.is_argument) and symbol.name not in seen:
                seen.add(symbol.name)
                yield symbol.name, symbol.value(frame)
        block = None if block.function else block.superblock


class FrameId:
    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


def saved_registers(fiber):
    """{register: value} with which it goes on."""
    words = struct.unpack("<12Q", memory(fiber.context, 96))
    for at in range(len(REGISTERS), len(words)):
        symtab = gdb.find_pc_line(words[at]).symtab
        if symtab and symtab.filename.endswith("llmc/cpu/scheduler.cpp"):  # it is where jump_fcontext returns to
            first = at - len(REGISTERS) + 1
            return dict(zip(REGISTERS, words[first : at + 1]), rsp=fiber.context + 8 * (at + 1))
    raise gdb.GdbError("this version of Boost.Context keeps registers in an unknown way")


class FiberUnwinder(gdb.unwinder.Unwinder):
    """Makes a fiber's stack follow on the innermost frame of its CPU thread. As this changes no register, the program can
    go on at any time."""

    def __init__(self):
        super().__init__("llmc fibers")
        self.fiber, self.registers, self.sp = None, {}, 0

    def show(self, fiber):
        """A Thread of the selected one of gdb's threads; None: the one that runs."""
        self.forget()
        gdb.invalidate_cached_frames()
        if fiber and not fiber.is_current:
            self.registers, self.sp = saved_registers(fiber), int(gdb.newest_frame().read_register("rsp"))
            self.fiber = fiber
            gdb.set_convenience_variable("_chosen", fiber.value["thread"].address)
            gdb.invalidate_cached_frames()

    def forget(self, event=None):
        self.fiber = None
        gdb.set_convenience_variable("_chosen", 0)  # for threadIdx

    def hides(self, frame):
        """Whether it is the innermost one, which is not the fiber's."""
        return self.fiber is not None and int(frame.read_register("rsp")) == self.sp

    def __call__(self, pending):
        if not self.hides(pending):
            return None
        # gdb takes only frames whose addresses rise
        info = pending.create_unwind_info(FrameId(gdb.Value(self.fiber.context), pending.read_register("rip")))
        for register, value in self.registers.items():
            info.add_saved_register(register, gdb.Value(value).cast(gdb.lookup_type("unsigned long")))
        return info


class FiberFilter:
    """Leaves out of a fiber's `backtrace` what is not the fiber's."""

    name, priority, enabled = "llmc fibers", 100, True

    def filter(self, decorated):
        return (frame for frame in decorated if not UNWINDER.hides(frame.inferior_frame()))


def stack_of(thread):
    """Its frames, which gdb shows from now on."""
    if not thread.has_stack():
        return []
    UNWINDER.show(thread)
    return [frame for frame in frames(gdb.newest_frame()) if not UNWINDER.hides(frame)]


def select(thread):
    """Shows gdb its stack and selects the frame of the kernel that waits or runs; (frames, that one)."""
    stack, (_, site) = stack_of(thread), thread.status()
    chosen = next((frame for frame in stack if site_of(frame) == site), None) or kernel_frame(stack[0])
    chosen.select()
    return stack, chosen


def in_lanes(threads, take):
    """{index: take()}, each time with that thread's own frame of the selected frame's function selected; without the threads
    that are not in it."""
    fiber, level, function = UNWINDER.fiber, gdb.selected_frame().level(), gdb.selected_frame().name()
    taken = {}
    try:
        for index, thread in enumerate(threads):
            frame = next((frame for frame in stack_of(thread) if frame.name() == function), None)
            if frame:
                frame.select()
                taken[index] = take()
    finally:
        UNWINDER.show(fiber)
        select_level(level)
    return taken


UNWINDER = FiberUnwinder()
gdb.unwinder.register_unwinder(None, UNWINDER, replace=True)
gdb.frame_filters[FiberFilter.name] = FiberFilter()
UNWINDER.forget()
gdb.events.cont.connect(UNWINDER.forget)
# What these do depends on the innermost frame, before they start.
for command in ("step", "next", "stepi", "nexti", "until", "advance", "finish"):
    gdb.execute(f"define hook-{command}\npython gdb_fibers.UNWINDER.show(None)\nend")
