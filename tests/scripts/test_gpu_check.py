"""scripts/gpu_check.sh in a checkout whose programs are fakes: what it calls and concludes, and what it leaves when it is cut."""

import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from llmc import ROOT
from seeds import how_often
from trainrun import ON_CPU
from waiting import wait_until

FAKES = {
    "nvidia-smi": 'case "$*" in *query*) echo "NVIDIA H200, 9.0, 580.1, 143771 MiB" ;; -L) echo "GPU 0: NVIDIA H200" ;; esac',
    "nvcc": "echo Cuda compilation tools, release 13.0, V13.0.48",
    # builds what FAKE/build has, in the folder of target and precision
    "make": """case "$*" in *fp32*) folder=build/cuda-fp32 ;; *) folder=build/cuda ;; esac
        mkdir -p $folder && cp "$FAKE/build/"* $folder && echo "$*" >>"$FAKE/made" """,
    "compute-sanitizer": 'echo "========= ERROR SUMMARY: 0 errors"',
    "ncu": """while [ "$1" != --log-file ]; do shift; done; echo '"0","attention_forward_kernel"' >$2""",
    # a test file is a shell script here; a module is missing if MISSING names it
    "python3": """for last; do :; done
        case "$*" in
            *find_spec*) case " $MISSING xdist " in *" $last "*) exit 1 ;; esac ;;
            *get_device_properties*) echo "$TORCH_GPU" ;;
            *"-m pytest"*) sh "$last" ;;
            *vs_llmq*) echo "${LLMQ:-0.5B: 1000 tokens/s}"; exit ${LLMQ_CODE:-0} ;;
            *dev/bench/*) echo '{"results": []}' >"$last"; echo "all is well" ;;
        esac""",
}
PROGRAMS = {
    "test_llama3": 'echo "39 passed, 0 failed"',
    "libllmc.so": "",
    "train_llama3": """case "$*" in *"$NO_NCCL"*) echo "train_llama3: this program was built without NCCL"; exit 2 ;; esac
        case "$*" in *--resume*) weights=$RESUMED ;; *--cuda-graph*) weights=${GRAPHS:-1} ;; *) weights=1 ;; esac
        while [ "$1" != --output ]; do shift; done
        mkdir -p "$2/checkpoint" && echo "$weights" >"$2/checkpoint/model.safetensors"
        for loss in 5.0 4.0 3.0 2.0; do echo "{\\"step\\":1,\\"loss\\":$loss,\\"tokens_per_second\\":100.5}"; done >"$2/log.jsonl"
        echo "  total   22.1 GiB 100.0 %"; echo "step 4/4 | 41.0% of peak" """,
}
TESTS = {
    "test_attention.py": 'echo "== 3 passed in 0.1s =="',
    "test_rope.py": 'printf "tests/kernels/test_rope.py::test_bad "; echo "an illegal memory access"; exit 1',
    "test_swiglu.py": 'echo "tests/kernels/test_swiglu.py::test_few FAILED"; echo "== 1 failed, 2 passed =="; exit 1',
    "test_adamw.py": 'echo "== 2 skipped in 0.1s =="',
}
HANGS = "trap '' TERM; echo $$ >$FAKE/hanging; sleep 1000 & echo $! >>$FAKE/hanging; wait"


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


class Checkout:
    def __init__(self, folder):
        self.folder, self.fake, self.out = folder / "a copy", folder / "fake", folder / "results"
        for name in ("gpu_check.sh", "gpu_stages.sh", "gpu_runs.sh", "find_nvidia.sh"):
            (self.folder / "scripts").mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "scripts" / name, self.folder / "scripts")
        (self.folder / "dev").mkdir()
        shutil.copy(ROOT / "dev/synthetic_shards.pl", self.folder / "dev")
        for name, text in FAKES.items():
            script(self.fake / "bin" / name, text)
        for name in ("include/cudnn.h", "include/cudnn_frontend.h", "lib64/libcudnn.so"):
            script(self.fake / name, "")
        for name, text in PROGRAMS.items():
            script(self.fake / "build" / name, text)
        for name in ("tests/kernels/test_attention.py", "tests/model/test_model.py", "tests/device/test_matmul.py",
                     "tests/generate/test_decoder.py", "tests/train/test_finetune.py", "tests/model/test_packed_rows.py",
                     "tests/model/test_lora.py", "tests/kernels/test_attention_cudnn.py"):  # fmt: skip
            script(self.folder / name, TESTS["test_attention.py"])

    def start(self, *words, **environment):
        names = dict(FAKE=self.fake, OUT=self.out, CUDA_HOME=self.fake, PATH=f"{self.fake}/bin:/usr/bin:/bin",
                     NO_NCCL="no such", MISSING="", RESUMED=1,
                     TMPDIR=self.folder)  # fmt: skip
        command = [self.folder / "scripts/gpu_check.sh", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, **{k: str(v) for k, v in (names | environment).items()}})  # fmt: skip

    def run(self, *words, code=0, **environment):
        process = self.start(*words, **environment)
        self.output = process.communicate()[0]
        assert process.returncode == code, self.output
        return self.output

    def events(self, call="first"):
        return [json.loads(line) for line in (self.out / f"{call}.jsonl").read_text().splitlines()]

    def verdicts(self, call="first"):
        """{stage, or "stage: item": verdict}; a stage must have been begun first."""
        found = {}
        for event in self.events(call):
            if "item" in event:
                found[f"{event['stage']}: {event['item']}"] = event["verdict"]
            elif "verdict" in event:
                assert event["verdict"] == "begun" or found[event["stage"]] == "begun"
                found[event["stage"]] = event["verdict"]
        return found

    def reason(self, name, call="first"):
        return next(e["reason"] for e in self.events(call) if e.get("item", e.get("stage")) == name and "reason" in e)


@pytest.fixture
def checkout(tmp_path):
    if not ON_CPU:
        pytest.skip("of the cpu target: the programs are fakes")
    return Checkout(tmp_path)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_both_calls(checkout):
    """Everything passes. The stages' shares of the time add up, in the worst case, to what a call may take."""
    first = checkout.run()
    assert len(list(checkout.out.iterdir())) <= 8, "few files, for whoever has to copy them one by one"
    second = checkout.run("second")
    for call, output, limit in (("first", first, 340), ("second", second, 240)):
        start = checkout.events(call)[0]
        plan = dict(pair.split(":") for pair in start["plan"].split())
        assert sum(map(int, plan.values())) <= limit == start["seconds"]
        assert {name: v for name, v in checkout.verdicts(call).items() if name in plan} == dict.fromkeys(plan, "pass"), output
    facts = {e["fact"]: e["value"] for e in checkout.events() if "fact" in e}
    assert facts["share_of_peak"] == "41.0% of peak" and facts["tokens_per_second"] == "100.5" and facts["architecture"] == "90a"
    assert {"nccl: one rank, ZeRO-0", "nccl: one rank, ZeRO-2", "training: stopped and resumed", "training: launched as graphs"} <= checkout.verdicts().keys()
    made = (checkout.fake / "made").read_text()
    assert all("ARCHS=90a" in line and "WERROR" not in line for line in made.splitlines()) and "fp32" in made
    report = subprocess.run([sys.executable, ROOT / "dev/bench/report.py", checkout.out], capture_output=True, text=True)
    assert "| nccl | pass |" in report.stdout and "## Second call" in report.stdout, report.stderr


def test_faults(checkout):
    """A program that fails, a test file that ends its process, one that fails, one that skips: the others are judged all the same."""
    for name, text in TESTS.items():
        script(checkout.folder / "tests/kernels" / name, text)
    script(checkout.fake / "build/test_llama3", r"""printf 'FAIL "gra\\dient"\a\n'; exit 1""")
    output = checkout.run("--stages", "build,program,build_fp32,tests,training,nccl", code=1, NO_NCCL="--transport nccl")
    found = {name.rpartition("/")[2]: verdict for name, verdict in checkout.verdicts().items()}
    assert found["program"] == "FAIL" and 'FAIL "gra\\dient"' in checkout.reason("program") and "| FAIL" in output
    assert found["test_attention.py"] == found["test_decoder.py"] == found["training"] == "pass"
    assert found["test_rope.py"] == found["test_swiglu.py"] == found["tests"] == "FAIL"
    assert "test_rope.py::test_bad" in checkout.reason("tests/kernels/test_rope.py")
    assert "test_swiglu.py::test_few" in checkout.reason("tests/kernels/test_swiglu.py")
    assert found["test_adamw.py"] == "not run" and "2 skipped" in checkout.reason("tests/kernels/test_adamw.py")
    assert found["nccl"] == "not run" and "built without NCCL" in checkout.reason("nccl")


def test_shapes_of_llmq(checkout):
    """Each is judged by itself: one that was measured, one that does not fit, one that failed."""
    checkout.run("--stages", "build")
    lines = "0.5B: 149000 tokens/s, 1.00 of the 149000 that LLM.Q published\n1.5B: train_llama3: out of memory: 9 MiB needed"
    checkout.run("second", "--stages", "llmq", code=3, LLMQ=lines)
    assert checkout.verdicts("second") == {"llmq": "partly", "llmq: 0.5B": "pass", "llmq: 1.5B": "not run"}
    assert "1.00 of the 149000" in checkout.reason("0.5B", "second") and "out of memory" in checkout.reason("1.5B", "second")
    checkout.run("second", "--stages", "llmq", code=1, LLMQ=lines.replace("train_llama3: out of memory", "FAIL: NaN"), LLMQ_CODE=1)
    assert checkout.verdicts("second")["llmq: 1.5B"] == checkout.verdicts("second")["llmq"] == "FAIL"
    checkout.run("second", "--stages", "llmq", code=1, LLMQ="Traceback", LLMQ_CODE=1)
    assert "ended with 1: Traceback" in checkout.reason("llmq", "second")


@pytest.mark.skipif(not ON_CPU, reason="of the cpu target: gpu_check.sh runs it on a GPU")
def test_vs_llmq(tmp_path):
    """A shape is trained; one more is not begun when half the time is over; a published figure stands beside its own GPU's alone."""
    command = [sys.executable, ROOT / "dev/bench/vs_llmq.py", "--sequence", "32", "--micro-batches", "2", "--steps", "3"]
    command += ["--shapes", "tiny,7B", "--seconds", "0", "--device", "NVIDIA GeForce RTX 4090", "--json", tmp_path / "llmq.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "7B: not begun" in done.stdout, done.stdout + done.stderr
    tiny, big = json.loads((tmp_path / "llmq.json").read_text())["results"]
    assert tiny["tokens_per_second"] > 0 and tiny["published"] is None and big["published"] is big["tokens_per_second"] is None
    report = subprocess.run([sys.executable, ROOT / "dev/bench/report.py", tmp_path], capture_output=True, text=True)
    assert report.returncode != 0  # of no call of gpu_check
    (tmp_path / "second.jsonl").write_text("")
    report = subprocess.run([sys.executable, ROOT / "dev/bench/report.py", tmp_path], capture_output=True, text=True)
    assert "published, not measured here" in report.stdout and "| tiny |" in report.stdout, report.stderr


@pytest.mark.parametrize("item, variable", [("stopped and resumed", "RESUMED"), ("launched as graphs", "GRAPHS")])
def test_other_bits(checkout, item, variable):
    checkout.run("--stages", "build,training", code=1, **{"RESUMED": 1, variable: 2})
    assert checkout.verdicts()["training: second run"] == "pass"
    assert "other losses or weights" in checkout.reason(item)


def test_two_gpus(checkout):
    """Two ranks need a launcher, which PyTorch brings."""
    two = FAKES["nvidia-smi"].replace('echo "GPU 0: NVIDIA H200"', 'echo "GPU 0: NVIDIA H200"; echo "GPU 1: NVIDIA H200"')
    script(checkout.fake / "bin/nvidia-smi", two)
    checkout.run("--stages", "build,training,nccl", code=3)
    assert checkout.verdicts()["nccl"] == "partly" and "no torchrun" in checkout.reason("two ranks, two GPUs")
    script(checkout.fake / "bin/torchrun", 'shift 3; exec "$@"')
    checkout.run("--stages", "build,training,nccl")
    assert "within 2 %" in checkout.reason("two ranks, two GPUs")


def test_not_run_is_not_passed(checkout):
    """Neither a stage nor a part of one; the exit code tells."""
    script(checkout.folder / "tests/kernels/test_adamw.py", TESTS["test_adamw.py"])
    script(checkout.folder / "tests/kernels/test_rope.py", """echo "ModuleNotFoundError: No module named 'peft'"; exit 2""")
    checkout.run("--stages", "build,tests", code=3)
    assert checkout.verdicts()["tests"] == "partly"
    assert "test_adamw" in checkout.reason("tests") and "test_rope" in checkout.reason("tests")
    assert "'peft'" in checkout.reason("tests/kernels/test_rope.py")
    checkout.run("second", "--stages", "memcheck,generation", code=3, MISSING="transformers")
    assert checkout.verdicts("second") == {"memcheck": "pass", "generation": "not run"}
    assert "no transformers" in checkout.reason("generation", "second")


@pytest.mark.parametrize("smi", ["echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9", "exit 127"])
def test_no_gpu(checkout, smi):
    """nvidia-smi says so on standard output, or is not there."""
    script(checkout.fake / "bin/nvidia-smi", smi)
    output = checkout.run("--stages", "device,build,program", code=1)
    assert checkout.verdicts() == {"device": "FAIL", "build": "not run", "program": "not run"}
    assert "no GPU visible: nothing was checked" in output


def test_a_gpu_that_pytorch_alone_sees(checkout):
    script(checkout.fake / "bin/nvidia-smi", "exit 127")
    checkout.run("--stages", "device,build", TORCH_GPU="NVIDIA A100-SXM4-80GB, 8.0, unknown driver, 81920 MiB")
    assert checkout.verdicts() == {"device": "pass", "build": "pass"} and "ARCHS=80 " in (checkout.fake / "made").read_text()


def test_a_stage_that_hangs(checkout):
    """It is stopped with what it started, in its own time. What it had found is kept, and later stages have theirs."""
    checkout.run("--stages", "build,build_fp32")
    script(checkout.fake / "bin/python3", f'case "$*" in *importlib.metadata*) {HANGS} ;; esac')
    checkout.run("second", "--stages", "device,program_fp32", code=1, DEADLINE=10)
    assert checkout.verdicts("second") == {"device": "cut", "program_fp32": "pass"}
    assert "stopped after" in checkout.reason("device", "second") and "host" in str(checkout.events("second"))
    for pid in (checkout.fake / "hanging").read_text().split():
        wait_until(lambda pid=pid: not is_alive(pid), f"process {pid} to end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_call_is_cut(checkout, number):
    """What was known by then is in the results, in whole lines; a signal that can be seen stops everything."""
    script(checkout.folder / "tests/kernels/test_rope.py", HANGS)
    process = checkout.start("--stages", "device,build,tests,training")
    hanging = checkout.fake / "hanging"
    wait_until(lambda: hanging.exists() and "tests: tests/model/test_model.py" in checkout.verdicts(), "a test that hangs")
    process.send_signal(number)
    process.wait()
    found = checkout.verdicts()
    assert found["device"] == found["build"] == "pass" and found["tests: tests/kernels/test_attention.py"] == "pass"
    assert found["tests"] == ("cut" if number == signal.SIGTERM else "begun") and "training" not in found
    pids = [int(pid) for pid in hanging.read_text().split()]
    if number == signal.SIGTERM:
        for pid in pids:
            wait_until(lambda pid=pid: not is_alive(pid), f"process {pid} to end")
    for pid in filter(is_alive, pids):
        os.kill(pid, signal.SIGKILL)


LOST = """
import os, types, llmc
def test_that_loses_the_device():
    llmc._loaded["bf16"] = types.SimpleNamespace(c=types.SimpleNamespace(cudaDeviceSynchronize=lambda: 700))
    assert False
def test_behind_it():
    assert llmc.device_works()
def test_that_ends_its_process():
    os._exit(1)
"""


@pytest.mark.skipif(not how_often(False, True), reason="takes four processes with PyTorch: scripts/soak.sh runs it")
def test_tests_behind_a_lost_device(tmp_path):
    """They run in another process, as gpu_check.sh calls pytest."""
    (tmp_path / "test_lost.py").write_text(LOST)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pytest.ini", "--rootdir", ROOT, "-p", "conftest"]
    command += ["-n", "1", "--max-worker-restart", "8"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run([*command, tmp_path / "test_lost.py"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "1 passed" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert "crashed while running" in done.stdout and "test_that_ends_its_process" in done.stdout


@pytest.mark.parametrize("own, later, left, seconds", [(10, 300, 340, 38), (10, 330, 335, 8), (60, 10, 30, 28), (15, 0, 100, 98)])
def test_seconds_of_a_stage(own, later, left, seconds):
    """Its own and those that were left over; no fewer if the call is late, as far as there are any."""
    functions = (ROOT / "scripts/gpu_check.sh").read_text().partition("seconds_for() {")[2].partition("\n}")[0]
    text = f"GRACE=2; seconds_for() {{ {functions}\n}}; seconds_for {own} {later} {left}"
    assert subprocess.run(["bash", "-c", text], capture_output=True, text=True).stdout == f"{seconds}\n"


def test_usage(checkout):
    for words in (["third"], ["--stages", "memcheck"], ["--stages"], ["--target", "tpu"], ["--speed", "9"]):
        assert "usage: scripts/gpu_check.sh" in checkout.run(*words, code=2)
    script(checkout.fake / "bin/nvidia-smi", FAKES["nvidia-smi"])
    assert "cannot write" in checkout.run(code=2, OUT="/proc/none")


@pytest.mark.skipif(not ON_CPU, reason="of the cpu target: gpu_check.sh measures it on a GPU")
def test_accuracy(monkeypatch, tmp_path):
    """dev/bench/accuracy.py passes with our kernels, and fails with one that is off by a hundredth."""
    monkeypatch.syspath_prepend(str(ROOT / "dev/bench"))
    accuracy = importlib.import_module("accuracy")

    def code_of(words):
        given = ["accuracy.py", "--models", "tiny", "--errors-only", "--json", f"{tmp_path}/found.json", *words]
        monkeypatch.setattr(sys, "argv", given)
        with pytest.raises(SystemExit) as end:
            accuracy.main()
        return end.value.code, json.loads((tmp_path / "found.json").read_text())["results"]

    code, results = code_of([])
    assert code == 0 and len(results) == 17 and all(row["ok"] for row in results)
    right = accuracy.kernels.Bench.call
    monkeypatch.setattr(accuracy.kernels.Bench, "call", lambda bench, name, result, *given: (
        lambda: (right(bench, name, result, *given)(), result.mul_(1.01))))  # fmt: skip
    code, results = code_of(["--only", "attention"])
    assert code == 1 and not any(row["ok"] for row in results)
    monkeypatch.setattr(accuracy.kernels.Bench, "call", lambda bench, name, result, *given: lambda: result.fill_(torch.nan))
    code, results = code_of(["--only", "attention"])
    assert code == 1 and [row["error"] for row in results] == [None, None]


def test_results_without_git(monkeypatch):
    """Images with CUDA often have no git."""
    monkeypatch.syspath_prepend(str(ROOT / "dev/bench"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert importlib.import_module("machine").commit() == "unknown"
