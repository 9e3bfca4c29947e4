"""dev/gdb_kernels.py: planted bugs are found with its commands, in a program and in the library, and the session that
docs/kernels.md shows goes as it says there."""

import ast
import os
import re
import shlex
import shutil
import subprocess

import pytest

import docpages
import programs

SOURCE = programs.ROOT / "tests/cpu/planted/debugger.cu"
COMMANDS = "dev/gdb_kernels.py"
MARK = "(gdb) "


def gdb(program, commands, **environment):
    """What gdb says to each of the commands, in their order: [text]."""
    script = [word for command in commands for word in ("-ex", f"echo {MARK}\\n", "-ex", command)]
    words = ["gdb", "-q", "-nx", "-batch", "-ex", "set width 80", "-x", COMMANDS, *script, "--args", *map(str, program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LLMC_HOST_SEED": "0", "DEBUGINFOD_URLS": "", **environment}
    environment.pop("LD_PRELOAD", None)
    done = subprocess.run(words, cwd=programs.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, timeout=600)  # fmt: skip
    said = done.stdout.split(MARK + "\n")[1:]
    assert len(said) == len(commands), done.stdout
    return said


def missing():
    """Why gdb can't be used here, or None."""
    if not shutil.which("gdb"):
        return "gdb is missing"
    tried = subprocess.run(["gdb", "-nx", "-batch", "-ex", "python print(6 * 7)", "-ex", "run", "/bin/true"], capture_output=True, text=True)
    if "42" not in tried.stdout:
        return "gdb has no Python"
    return None if "exited normally" in tried.stdout else f"gdb can't run a program here: {(tried.stderr or tried.stdout).strip()[-200:]}"


@pytest.fixture(scope="module", autouse=True)
def usable_gdb():
    reason = missing()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def planted():
    """Folder of the planted programs, built for a debugger."""
    return programs.build_all(["cpu/planted/debugger", "cpu/planted/divergent_barrier"], "debug") / "cpu/planted"


def line_of(mark):
    return next(number for number, line in enumerate(SOURCE.read_text().splitlines(), 1) if line.endswith(f"// {mark}"))


def matrix(text):
    """{(row, column): cell} of a printed matrix."""
    cells, columns = {}, []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("  ") and all(word.isdigit() for word in words) and len(words) != len(columns) + 1:
            columns = [int(word) for word in words]
        elif columns and len(words) == len(columns) + 1 and words[0].isdigit():
            cells.update({(int(words[0]), column): cell for column, cell in zip(columns, words[1:])})
    return cells


# --- planted bugs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, waiting, gone", [
    ("loop", "warps 0-1: 64 threads waiting for the block", "warps 2-3: 64 threads returned"),
    ("shuffle", "warp 2: 16 threads waiting for the warp", "warp 2: 16 threads returned\n      threads 80-95"),
])  # fmt: skip
def test_threads_that_do_not_meet(planted, name, waiting, gone):
    *_, said = gdb([planted / "divergent_barrier", name, "bug"], ["break fibers::stop", "run", "kernel threads"])
    assert f"{waiting} at divergent_barrier.cu:" in said and gone in said, said


@pytest.mark.parametrize("kind, seed", [("bug", "0"), ("bug", "1"), ("bug", "2"), ("fixed", "0")])  # a seed fills shared memory with its byte
def test_unwritten_elements_of_a_tile(planted, kind, seed):
    unwritten = {(30, 17), (31, 17)} if kind == "bug" else set()
    shows = ["kernel shared", "kernel shared tile", "kernel shared x_memory as tile float 32 32"]
    _, _, listed, tile, again = gdb([planted / "debugger", "tile", kind], [f"tbreak debugger.cu:{line_of('STOP sums')}", "run", *shows], LLMC_HOST_SEED=seed)
    assert listed == f"array 0: 4096 bytes, {4 * len(unwritten)} never written: x_memory, tile\n"
    cells = matrix(tile)
    assert len(cells) == 32 * 32 and {place for place, cell in cells.items() if cell == "--"} == unwritten, tile
    assert ("2 of 1024 never written (--), the first in row 30, column 17" in tile) == bool(unwritten)
    assert tile == again
    # fill() of planted.h
    expected = {(i // 32, i % 32): (i * 7919 + 13) % 1009 / 505 - 0.999 for i in range(1024)}
    assert all(float(cell) == pytest.approx(expected[place], abs=6e-3) for place, cell in cells.items() if cell != "--")


@pytest.mark.parametrize("kind", ["bug", "fixed"])
def test_wrong_element_of_a_fragment(planted, kind):
    """Found in the second warp's rows 16 to 31: row 5, column 4 of its fragment is 0, as if it were not seen."""
    commands = [f"tbreak debugger.cu:{line_of('STOP sums')} if threadIdx.x == 40", "run", "kernel fragment scores", "kernel meet",
                "kernel fragment scores", "kernel fragment t", "kernel fragment a[0] rows 2:4 columns 8:16"]  # fmt: skip
    _, _, early, met, scores, numbers, left = gdb([planted / "debugger", "mask", kind], commands)
    assert "These values are not of one moment (help kernel meet)" in early and "not of one moment" not in scores
    assert f"warp 1: 32 threads at debugger.cu:{line_of('MEET')}" in met, met
    hidden = {(row, column) for row in range(16) for column in range(32) if column > row + 16}
    zeros = {place for place, cell in matrix(scores).items() if cell == "0"}
    assert zeros - hidden == ({(5, 4)} if kind == "bug" else set()) and hidden <= zeros, scores
    assert {row + column: int(cell) for (row, column), cell in matrix(numbers).items()} == {lane: 32 + lane for lane in range(32)}
    x = {(row, column): ((32 * (16 + row) + column) * 7919 + 13) % 1009 / 505 - 0.999 for row in (2, 3) for column in range(8, 16)}
    assert {place: float(cell) for place, cell in matrix(left).items()} == {place: pytest.approx(value, abs=6e-3) for place, value in x.items()}


def test_variable_of_a_thread(planted):
    """Thread 52 has a row that is thread 56's."""
    commands = [f"tbreak debugger.cu:{line_of('STOP row')}", "run", "kernel meet", "kernel fragment row", "kernel thread 0 52", "print row",
                "print threadIdx.x", "backtrace", "kernel thread 1,0,0", "print row", "next", "print threadIdx.x", "kernel thread", "print t"]  # fmt: skip
    said = gdb([planted / "debugger", "row", "bug"], commands)
    stack = said[4]
    assert "thread (52,0,0), block (0,0,0): " in stack and re.search(r"^=> #\d+ debugger.cu:\d+ scores_kernel<", stack, re.M), stack
    assert "\nrow = 22\n" in stack and "\nt = 52\n" in stack, stack
    assert said[5].endswith("= 22\n") and said[6].endswith("= 52\n"), said
    assert "scores_kernel" in said[7] and "host_block_release" not in said[7], said[7]
    assert said[9].endswith("= 0\n"), said[9]
    assert said[11] != said[6] and said[13].split()[-1] == said[11].split()[-1], said


def test_threads_meet_at_the_barrier(planted):
    """The last to come is of another warp; the commands stay with the warp that met. There is no other barrier."""
    commands = [f"tbreak debugger.cu:{line_of('BUG row')} if threadIdx.x >= 8 && threadIdx.x < 9", "run", "kernel meet", "print threadIdx.x / 32", "kernel fragment t", "kernel thread",
                "print threadIdx.x / 32", "kernel meet", "kernel threads"]  # fmt: skip
    said = gdb([planted / "debugger", "row", "fixed"], commands)
    assert "Error" not in said[1], said[1]
    assert said[2].startswith(f"  warp 0: 32 threads at debugger.cu:{line_of('STOP row')}\n") and said[3].endswith("= 0\n"), said
    assert matrix(said[4])[24, 7] == "31", said[4]
    assert said[6].endswith("= 1\n") and "exited normally" in said[7] and said[7].endswith("it stopped before all threads of the warp met\n"), said
    assert said[8] == "no kernel is running here: break inside one first\n"


def test_steps_are_those_of_the_running_thread(planted):
    """Whatever thread's stack is shown."""
    commands = [f"tbreak debugger.cu:{line_of('STOP sums')} if threadIdx.x == 40", "run", "kernel thread 5", "next", "kernel thread 5", "finish", "print threadIdx.x"]
    *_, stepped, _, finished, index = gdb([planted / "debugger", "row", "fixed"], commands)
    assert stepped.startswith(f"{line_of('STOP sums') + 1}\t"), stepped
    assert "launch(scores_kernel<BUG>" in finished and index.endswith("= 40\n"), finished + index


def test_wide_accumulators():
    """Acc of more than one block of columns, by the formula of llmc/device/fragments.h."""
    (said,) = gdb(["/bin/true"], ["python import gdb_matrices; print([list(gdb_matrices.held(lane, 4, 128, 8)) for lane in range(32)])"])
    for lane, elements in enumerate(ast.literal_eval(said)):
        expected = {(lane // 4 + 8 * h, 8 * (8 * b + i) + 2 * (lane % 4) + j, 4 * ((2 * b + h) * 16 + 8 * j + i))
                    for b in range(2) for h in range(2) for i in range(8) for j in range(2)}  # fmt: skip
        assert set(elements) == expected and len(elements) == len(expected)


# --- the library: what docs/kernels.md shows -----------------------------------------------------------------------------


def page():
    """Of the page: the line that builds, the line that starts gdb, and [(command, what gdb says)]."""
    blocks = docpages.blocks((programs.ROOT / "docs/kernels.md").read_text())
    at = next(at for at, block in enumerate(blocks) if COMMANDS in block.text)
    build, start = blocks[at].text.splitlines()
    session = [step.split("\n", 1) for step in blocks[at + 1].text.split(MARK)[1:]]
    return shlex.split(build), shlex.split(start), [(command, said) for command, said in session]


@pytest.fixture(scope="module")
def library():
    """Folder of the library, built as the page says."""
    folder, settings = programs.ALL_BUILDS["debug"]
    build, _, _ = page()
    assert build == ["make", "-j", "TARGET=cpu", *settings, f"BUILD={folder}"]
    done = programs.make(*build[2:], f"{folder}/test_llama3")
    assert done.returncode == 0, done.stderr
    return programs.ROOT / folder


def masked(text):
    """Without numbers of lines and frames, spaces, and numbers that each CPU rounds in its own way."""
    lines = []
    for words in map(str.split, text.splitlines()):
        is_row = all(re.fullmatch(r"-?(inf|[\d.]+(e-?\d+)?)", word) for word in words) and any("." in word or "inf" in word for word in words)
        words[1:] = [re.sub(r"^-?\d.*", "x", word) if is_row else word for word in words[1:]]
        lines.append(re.sub(r"(\.(?:cu|h):|#)\d+", r"\1", " ".join(words)) + "\n")
    return "".join(lines)


def test_session_of_the_page(library):
    _, start, steps = page()
    settings = dict(word.split("=") for word in start if "=" in word)
    said = gdb(start[start.index("--args") + 1 :], [command for command, _ in steps], **settings)
    for (command, shown), got in zip(steps, said):
        if not command.startswith(("tbreak", "run", "continue")):
            parts = [re.escape(part) for part in masked(shown).split("...\n")]
            assert re.fullmatch("(.*\n)+".join(parts), masked(got)), f"{command} is shown as\n{shown}\nand is\n{got}"


def test_fragment_of_bf16(library):
    """Attention's weights before their product with the values, from the scores that were printed before."""
    stops = [words for at in ("online_softmax", "multiply_nn") for words in (f"tbreak {at} if threadIdx.x == 0", "continue", "kernel meet")]
    commands = ["tbreak attention_forward_kernel", "run", *stops[:3], "up", "kernel fragment s", "print scale", *stops[3:], "kernel fragment p"]
    said = gdb([library / "test_llama3", "--small"], commands, LLMC_HOST_LANES="1")
    scores = {place: float(cell) for place, cell in matrix(said[6]).items()}
    weights = {place: float(cell) for place, cell in matrix(said[-1]).items()}
    scale = float(said[7].split("=")[1])
    assert scores.keys() == weights.keys() and len(set(weights.values())) > 50, said
    for (row, column), weight in weights.items():
        highest = max(scores[row, other] for other in range(64) if (row, other) in scores)
        # scores are printed with three digits, so that each is off by at most 0.05 here; bf16 rounds to 1 / 256
        assert weight == pytest.approx(2 ** ((scores[row, column] - highest) * scale), rel=0.05, abs=1e-30), (row, column)


def test_several_workers(library):
    """Each of two threads is stopped in the first block of its half; gdb's commands reach both."""
    other = "python next(t for t in gdb.selected_inferior().threads() if t.num != gdb.selected_thread().num).switch()"
    commands = ["break attention_forward_kernel if threadIdx.x == 31", "run", "set scheduler-locking on", other, "continue", "kernel threads",
                "kernel thread 0 5", "print blockIdx.z + 100 * threadIdx.x", "kernel thread 0,0,1 6,0,0", "print blockIdx.z + 100 * threadIdx.x",
                "print b", "kernel thread 7 5", "kernel thread 0 128", "kernel thread 0 0,1", "kernel thread 4 2 3"]  # fmt: skip
    said = gdb([library / "test_llama3", "--small", "--seed", "1"], commands, OMP_NUM_THREADS="2", LLMC_HOST_LANES="1")
    shown = said[5]
    assert re.findall(r"^block \(0,0,(\d)\) of \(1,4,2\), thread \d of gdb: attention_forward", shown, re.M) in (["0", "1"], ["1", "0"]), shown
    assert shown.count("  warp 0: 31 threads waiting for the block at attention_forward.cu:") == 2, shown
    assert shown.count("      threads 0-30\n") == 2 and shown.count("  warp 0: 1 thread running at attention_forward.cu:") == 2, shown
    assert said[7].endswith("= 500\n") and said[9].endswith("= 601\n") and said[10].endswith("= 1\n"), said[6:11]
    assert said[11].startswith("block 7 is not running; running: (") and "(0,0,0)" in said[11] and "(0,0,1)" in said[11]
    assert said[12:] == ["thread 128: expected 0 to 127, or x,y,z below 128,1,1\n", "thread 0,1: expected 0 to 127, or x,y,z below 128,1,1\n",
                         "usage: kernel thread [[BLOCK] THREAD]\n"]  # fmt: skip


def test_thread_without_a_kernel(library):
    """A kernel of one block leaves the second worker idle."""
    commands = ["tbreak sum_up_kernel", "run", "thread 2", "kernel threads", "kernel fragment n", "kernel thread 0 0", "print threadIdx.x"]
    *_, threads, fragment, shown, index = gdb([library / "test_llama3", "--small"], commands, OMP_NUM_THREADS="2", LLMC_HOST_LANES="1")
    assert threads.startswith("block (0,0,0) of (1,1,1), thread 1 of gdb: sum_up_kernel<256>\n"), threads
    assert fragment == "no kernel is running in this thread of gdb, but in `thread 1`\n"
    assert shown.startswith("thread (0,0,0), block (0,0,0): running at grad_norm.cu:") and index.endswith("= 0\n"), shown + index


# --- what is said where a command can't do its work -----------------------------------------------------------------------


def test_no_kernel(planted):
    commands = ["kernel threads", "kernel shared", "break main", "run", "kernel threads", "kernel thread 3", "kernel fragment x", "kernel meet"]
    said = gdb([planted / "debugger", "row", "fixed"], commands)
    assert {*said[:2], *said[4:]} == {"no kernel is running here: break inside one first\n"}, said


def test_pointwise_kernel(library):
    *_, threads, index = gdb([library / "test_llama3", "--small"], ["tbreak rope_kernel if threadIdx.x == 3", "run", "kernel threads", "print threadIdx.x"],
                           LLMC_HOST_LANES="1")  # fmt: skip
    assert threads == "launch_pointwise runs the threads of this kernel in a loop, now (3,0,0) of block (0,0,0)\n" and index.endswith("= 3\n")


def test_what_is_no_fragment_or_tile(planted):
    commands = [f"tbreak debugger.cu:{line_of('STOP sums')}", "run", "kernel fragment nobody", "kernel shared t", "kernel shared x", "kernel shared tile rows 32:40",
                "kernel shared tile as llama 2 2", "kernel thread 60", "kernel fragment", "kernel fragment t rows 0:2", "help kernel shared"]  # fmt: skip
    said = gdb([planted / "debugger", "row", "fixed"], commands)
    assert said[2:-1] == [
        'No symbol "nobody" in current context.\n',
        "t is neither a pointer nor a SharedTile\n",
        "this is not in the block's shared memory: give `as TYPE ROWS COLUMNS`\n",
        "rows are 0:32, columns 0:32\n",
        "No type named llama.\n",
        said[7],
        "usage: kernel fragment NAME [rows A:B] [columns C:D]\n",
        said[9],
    ]
    assert said[9].endswith("t is no fragment, which alone has rows and columns\n"), said[9]
    assert said[7].startswith("thread (60,0,0), block (0,0,0): ") and said[-1].startswith("Shows shared memory"), said


def test_optimized_kernel():
    """Where variables are gone, gdb still says who waits where."""
    program = programs.build("cpu/planted/divergent_barrier", "plain")
    *_, threads, shown = gdb([program, "loop", "bug"], ["break fibers::stop", "run", "kernel threads", "kernel thread 40"])
    assert "warps 0-1: 64 threads waiting for the block at divergent_barrier.cu:" in threads and "warps 2-3: 64 threads returned" in threads
    assert re.search(r"^=> #\d+ divergent_barrier.cu:\d+ ", shown, re.M), shown
