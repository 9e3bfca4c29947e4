import os
import random
import signal
import sys

import pytest
import torch

import checkpoints
import compare
import llmc
from seeds import SEED, seed_of


def pytest_configure(config):
    config.addinivalue_line("markers", "checked: small, also run against the builds with sanitizers")
    # A shell's background jobs ignore SIGINT, nohup's SIGHUP, and so would every program that the tests start and signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


def pytest_addoption(parser):
    parser.addoption("--few", type=int, metavar="N", help="run N cases of each test, spread over its parameters")


def pytest_itemcollected(item):
    item.obj = compare.judged(item.obj)


def pytest_ignore_collect(collection_path, config):
    """With `-m checked`, a file without such tests is not even imported, as that takes longer than many tests."""
    if config.option.markexpr == "checked" and collection_path.name.startswith("test_") and "mark.checked" not in collection_path.read_text():
        return True


def pytest_collection_modifyitems(config, items):
    """--few"""
    few = config.getoption("few")
    if not few:
        return
    tests = {}
    for item in items:
        tests.setdefault(item.nodeid.split("[")[0], []).append(item)
    kept = []
    for cases in tests.values():
        kept += [cases[i] for i in sorted({(k + 1) * len(cases) // (few + 1) for k in range(few)})]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def pytest_report_header(config):
    return f"LLMC_TEST_SEED={SEED} builds: {', '.join(str(p) for p in llmc.build_folders().values())}"


def pytest_runtest_logfinish():
    """A GPU's error stays with the process, as that of a bad address, and would fail all later tests: xdist starts another one."""
    if "PYTEST_XDIST_WORKER" in os.environ and not llmc.device_works():
        os._exit(1)


@pytest.fixture(params=list(llmc.build_folders()))
def lib(request):
    """The library in each precision. Kernels' tests in a build with sanitizers have the errors of a GPU's fast functions."""
    library = llmc.load(request.param)
    seed = library.checked and request.node.nodeid.startswith("tests/kernels/") and seed_of(request.node.name)
    library.set_fast_math(int(seed))
    yield library
    library.set_fast_math(0)


def draw_from(name):
    seed = seed_of(name)
    torch.manual_seed(seed)
    random.seed(seed)


@pytest.fixture(autouse=True)
def seeded(request):
    """Fresh inputs for each test, drawn from the printed seed and the test's name."""
    draw_from(request.node.name)
    print(f"LLMC_TEST_SEED={SEED}")


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef, request):
    """What many tests share is drawn from the seed too, not from what the test before it left."""
    if fixturedef.scope != "function":
        draw_from(f"{request.node.nodeid} {fixturedef.argname} {request.param_index}")


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    return checkpoints.compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """One that fails half-way leaves the program it started behind, and that would train on beside all later tests."""
    yield
    for process in sys.modules["trainrun"].STARTED if "trainrun" in sys.modules else []:
        if process.poll() is None:
            process.kill()
            process.wait()
