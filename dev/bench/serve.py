#!/usr/bin/env python3
"""Tokens per second of our server, of `transformers serve` and of a loop around transformers' generate, for one model.

    python dev/bench/serve.py                              # configs/small_124m.json, 1, 8 and 32 clients, fp32
    python dev/bench/serve.py --target cuda --precision bf16
    pip install fastapi                                    # which `transformers serve` needs

Each client asks for a completion of its own prompt and for another one as soon as that is there, --requests times; answers are
streamed, greedy, --tokens long. The loop has no clients: it gets as many prompts at once, as one batch, and gives all texts at
the end, the best case of generate. Weights are random, and there is no end token. All sides run the whole time and take turns,
round by round, so that a machine that slows down slows all. Medians over the rounds are compared; times to the first token and between
tokens are of all requests of all rounds. `cpu` is processor time in ms per new token, which other programs change less than the
rate; OMP_WAIT_POLICY=passive keeps waiting threads out of it.
"""

import argparse
import http.client
import itertools
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))  # behind this folder, as both have a generate.py
import generate  # noqa: E402
from llmdata import tokenizer as tokenizers  # noqa: E402
from machine import describe, device_name, instructions  # noqa: E402

HOST = "127.0.0.1"
VOCABULARY = 4096  # of the tokenizer, which is trained on the manual


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small_124m.json", help="config.json of the model (default: %(default)s)")
    parser.add_argument("--clients", default="1,8,32", help="numbers of clients at once (default: %(default)s)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="fp32", help="of all sides (default: %(default)s)")
    parser.add_argument("--prompt", type=int, default=64, help="tokens per prompt (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="new tokens per answer (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=1, help="answers per client and turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of each side (default: one per core)")
    parser.add_argument("--against", default="serve,loop", help="the other sides (default: %(default)s)")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--target", choices=["cpu", "cuda"], default=default)
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def make_prompts(tokenizer, count, length):
    """Texts of so many tokens each, the first of which begins a text, from the source of this project; no two begin alike."""
    text = "\n".join(path.read_text() for path in sorted(ROOT.glob("llmc/**/*.c")))
    ids, prompts = tokenizer.encode(text).ids[1:], []
    for start in range(0, len(ids) - length, length):
        prompt = tokenizer.decode(ids[start : start + length - 1])
        if len(tokenizer.encode(prompt).ids) == length and tokenizer.decode(tokenizer.encode(prompt).ids) == prompt:
            prompts.append(prompt)
        if len(prompts) == count:
            return prompts
    sys.exit(f"serve: {len(prompts)} prompts of {length} tokens, expected {count}: lower --prompt, --clients or --requests")


def make_model(options, folder):
    """Random weights, and a tokenizer as prepare_data.py trains it, with the model's vocabulary cut to it."""
    fields = json.loads((ROOT / options.config).read_text()) | {"vocab_size": VOCABULARY}
    (folder / "made.json").write_text(json.dumps(fields))
    generate.make_model(argparse.Namespace(config=folder / "made.json"), folder)
    made = tokenizers.train((path.read_text() for path in sorted(ROOT.glob("docs/*.md"))), VOCABULARY)
    made.save(folder)
    return tokenizers.open_tokenizer(folder)


def free_port():
    with socket.create_server((HOST, 0)) as found:
        return found.getsockname()[1]


class Server:
    """A process that answers requests of OpenAI's interface."""

    def __init__(self, name, command, port, threads, model, fields):
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*map(str, command)], env=environment, **quiet)
        self.name, self.port, self.model, self.fields = name, port, model, fields
        self.wait()

    def wait(self):
        while True:
            try:
                return self.get("/health")
            except OSError:
                assert self.process.poll() is None, f"{self.name}: ended with code {self.process.returncode}"
                time.sleep(0.2)

    def cpu(self):
        """Seconds of processor time so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def get(self, path):
        connection = http.client.HTTPConnection(HOST, self.port, timeout=600)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def ask(self, prompt, tokens):
        """Times at which text came, from the request on, and the number of tokens."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True} | self.fields
        connection, times, count = http.client.HTTPConnection(HOST, self.port, timeout=600), [], 0
        start = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: {"):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                if chunk["choices"] and chunk["choices"][0].get("text"):
                    times.append(time.perf_counter() - start)
                count = (chunk.get("usage") or {}).get("completion_tokens", count)
        connection.close()
        return times, count

    def run(self, prompts, tokens):
        """All prompts [clients][requests], each client's one after the other.

        (new tokens, seconds of the turn, seconds to the first tokens, seconds between tokens)"""
        answers = []

        def client(own):
            answers.extend(self.ask(prompt, tokens) for prompt in own)

        threads, start = [threading.Thread(target=client, args=(own,)) for own in prompts], time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        spent = time.perf_counter() - start
        assert len(answers) == sum(map(len, prompts)), f"{self.name}: answers are missing"
        between = [after - before for times, _ in answers for before, after in itertools.pairwise(times)]
        return sum(count for _, count in answers), spent, [times[0] for times, _ in answers if times], between

    def close(self):
        self.process.terminate()
        self.process.wait()


def ours(options, folder):
    port, clients = free_port(), max(map(int, options.clients.split(",")))
    command = [sys.executable, ROOT / "scripts/serve.py", "--model", f"model={folder}", "--port", port, "--rows", clients,
               "--precision", options.precision, "--target", options.target,
               "--context", options.prompt + options.tokens]  # fmt: skip
    threads = ["--threads", options.threads] if options.target == "cpu" else []
    return Server("ours", command + threads, port, options.threads, "model", {"stream_options": {"include_usage": True}})


def transformers_serve(options, folder):
    port, dtype = free_port(), {"bf16": "bfloat16", "fp32": "float32"}[options.precision]
    command = [pathlib.Path(sys.executable).parent / "transformers", "serve", folder, "--host", HOST, "--port", port,
               "--dtype", dtype, "--device", options.target]  # fmt: skip
    return Server("transformers serve", command, port, options.threads, str(folder), {})


class Loop:
    """generate on one batch, in this process."""

    name = "transformers loop"

    def __init__(self, options, folder, tokenizer):
        self.options, self.folder, self.tokenizer, self.sides = options, folder, tokenizer, {}

    def run(self, prompts, tokens):
        ids = torch.tensor([self.tokenizer.encode(prompt).ids for own in prompts for prompt in own])
        side = self.sides.get("side") or generate.Transformers(self.options, self.folder, self.options.precision, ids)
        self.sides["side"], side.ids = side, ids.to(side.model.device)
        start = time.perf_counter()
        side.run(tokens)
        return len(ids) * tokens, time.perf_counter() - start, [], []

    def cpu(self):
        return time.process_time()

    def close(self):
        pass


def share_of_scheduling(server, before=(0.0, 0.0)):
    """(seconds of scheduling, seconds of steps) since `before`."""
    lines = dict(line.rpartition(" ")[::2] for line in server.get("/metrics").splitlines())
    return tuple(float(next(value for name, value in lines.items() if name.startswith(f"llmc_{what}_seconds_total"))) - start
                 for what, start in zip(("schedule", "step"), before))  # fmt: skip


def measure(options, sides, tokenizer, clients):
    """{side: rates of the rounds, times}; all prompts are new, so that no side has seen one."""
    rounds, found = options.rounds, {side.name: {"rates": [], "cpu": [], "first": [], "between": []} for side in sides}
    drawn = iter(make_prompts(tokenizer, clients * options.requests * rounds, options.prompt))
    before = share_of_scheduling(sides[0])
    for _ in range(rounds):
        prompts = [[next(drawn) for _ in range(options.requests)] for _ in range(clients)]
        for side in sides:
            used = side.cpu()
            count, spent, first, between = side.run(prompts, options.tokens)
            found[side.name]["rates"].append(count / spent)
            found[side.name]["cpu"].append(1000 * (side.cpu() - used) / count)
            found[side.name]["first"] += first
            found[side.name]["between"] += between
    schedule, steps = share_of_scheduling(sides[0], before)
    found["ours"]["scheduling"] = schedule / steps
    return found


def percentiles(values):
    """p50 and p99 in ms; None without values."""
    ranked = sorted(values)
    return [1000 * ranked[min(len(ranked) - 1, int(share * len(ranked)))] for share in (0.5, 0.99)] if ranked else None


def report(found, clients):
    """Prints a line for each side; returns them for --json."""
    lines, rate = [], statistics.median(found["ours"]["rates"])
    for name, side in found.items():
        median = statistics.median(side["rates"])
        first, between = percentiles(side["first"]), percentiles(side["between"])
        shown = "".join(f"{p50:10.0f}{p99:8.0f}" for p50, p99 in filter(None, (first, between)))
        scheduling = f"{100 * side['scheduling']:8.2f} %" if "scheduling" in side else ""
        cpu = statistics.median(side["cpu"])
        print(f"{clients:7} {name:20}{median:10.1f}{rate / median:8.2f}{cpu:8.1f}{shown}{scheduling}", flush=True)
        lines.append({"clients": clients, "side": name, "tokens_per_second": median, "ours_to_it": rate / median,
                      "rounds": side["rates"], "cpu_ms_per_token": cpu, "first_token_ms_p50_p99": first,
                      "between_tokens_ms_p50_p99": between, "scheduling": side.get("scheduling")})  # fmt: skip
    return lines


def save(options, results):
    import transformers

    settings = {name: getattr(options, name) for name in ("config", "precision", "prompt", "tokens", "requests", "threads")}
    head = describe() | {"device": device_name(options.target), "instructions": instructions(), "torch": torch.__version__,
                         "transformers": transformers.__version__} | settings  # fmt: skip
    pathlib.Path(options.json).write_text(json.dumps({**head, "results": results}, indent=1) + "\n")


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    results, sides = [], []
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = make_model(options, pathlib.Path(folder))
        try:
            sides.append(ours(options, folder))
            others = options.against.split(",")
            sides += [transformers_serve(options, folder)] if "serve" in others else []
            sides += [Loop(options, folder, tokenizer)] if "loop" in others else []
            for side in sides:
                side.run([make_prompts(tokenizer, 1, options.prompt)], 2)
            print(f"clients {'':20}  tokens/s   ratio     cpu first p50     p99 between p50  p99  scheduling   "
                  "ms, medians; ratio: ours to it")  # fmt: skip
            for clients in map(int, options.clients.split(",")):
                results += report(measure(options, sides, tokenizer, clients), clients)
                if options.json:  # at once, so that a run that is stopped leaves its results
                    save(options, results)
        finally:
            for side in sides:
                side.close()


if __name__ == "__main__":
    main()
