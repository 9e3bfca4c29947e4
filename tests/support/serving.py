"""scripts/serve.py as a process, and small models for it."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import llmc
import openai
import torch
from checkout import script
from llmdata.chat_template import LLAMA3_TEMPLATE, LLAMA3_TOKENS
from model import TINY, transformers_model
from tokenizers import Tokenizer, processors
from trainrun import BOS, EOS, write_tokenizer
from waiting import wait_until

PRECISION = "fp32" if "fp32" in llmc.build_folders() else "bf16"
ON_CPU = all("cuda" not in folder.name for folder in llmc.build_folders().values())
FIELDS = TINY | dict(vocab_size=261, max_position_embeddings=256)  # bytes, begin, end, LLAMA3_TOKENS[1:]
KEPT = "x{} é€😀-stop!"  # what a parrot says: no byte twice


def random_model(folder, **fields):
    """A random model of single bytes with Llama 3's chat template; transformers' model, in fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = transformers_model(FIELDS | fields, torch.float32)
    _save(folder, reference)
    return reference


def parrot_model(folder, text=KEPT, ends=True, **fields):
    """A model that answers every chat with this text, and then ends or says it again: it knows of each byte which one follows."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(f"\n{text}", add_special_tokens=False).ids
    assert len(set(ids)) == len(ids), "a byte twice"
    reference = transformers_model(FIELDS | fields, torch.float32)
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if "norm" in name:
                weight.fill_(1)
            elif "o_proj" in name or "down_proj" in name:
                weight.zero_()
        embed, head = reference.model.embed_tokens.weight, reference.lm_head.weight
        embed.copy_(torch.randint(0, 2, embed.shape) * 2.0 - 1)
        head.zero_()
        for before, after in zip(ids, [*ids[1:], EOS if ends else ids[1]]):
            head[after] += embed[before] / 2
    _save(folder, reference)


GUARD_TEMPLATE = """{#- unsafe: the word that makes it a guard's -#}{{ bos_token }}{% for message in messages %}{{ message['content'] }}\
{% endfor %}{% set last = messages[-1]['content'] %}{{ '\\n' if 'bad' in last else 'u' if 'odd' in last else 'n' }}"""


def guard_model(folder, **fields):
    """A guard: "unsafe" of conversations whose last message has "bad" in it, "nsafe" of those with "odd", "safe" of others."""
    parrot_model(folder, "unsafe", **fields)
    (folder / "chat_template.jinja").write_text(GUARD_TEMPLATE)


def _save(folder, reference):
    for settings in (reference.config, reference.generation_config):
        settings.bos_token_id, settings.eos_token_id = BOS, [EOS, 260]
    reference.generation_config.pad_token_id = 0
    reference.save_pretrained(folder)
    _write_tokenizer(folder)


def _write_tokenizer(folder):
    write_tokenizer(folder, LLAMA3_TOKENS[1:])
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(f"{LLAMA3_TOKENS[0]} $A", None, [(LLAMA3_TOKENS[0], BOS)])
    tokenizer.save(str(path))
    (folder / "chat_template.jinja").write_text(LLAMA3_TEMPLATE)


class Served:
    """The server with its models {name: folder}; ends with its `with` block."""

    def __init__(self, place: pathlib.Path, models: dict[str, pathlib.Path], *arguments):
        place.mkdir(parents=True, exist_ok=True)
        self.log_path = place / "serve.log"
        command = [sys.executable, script("serve"), "--port", "0", "--precision", PRECISION, "--target", "cpu" if ON_CPU else "cuda"]
        command += [word for name, folder in models.items() for word in ("--model", f"{name}={folder}")]
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=log, text=True)
        told = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)/", told)
        assert found, (told, self.log_path.read_text())
        self.url, self.port = found[0], int(found[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def client(self, **options) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}v1", "api_key": "none", "max_retries": 0} | options)

    def log(self) -> list[str]:
        return self.log_path.read_text().splitlines()

    def logged(self, *words, after=0):
        """The first line of the log, behind so many others, that has these words, as soon as it is there."""
        return wait_until(lambda: next((line for line in self.log()[after:] if all(str(w) in line for w in words)), None), words)

    def ask(self, path, body=None, headers=None, method=None):
        """(status, headers, body as JSON or text). body: an object, or bytes as they are."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json", **(headers or {})}, method=method)
        try:
            response = urllib.request.urlopen(request, timeout=600)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            said, kind = response.read().decode(), response.headers.get("Content-Type", "")
            return response.status, response.headers, json.loads(said) if kind == "application/json" else said

    def counters(self) -> dict[str, float]:
        """/metrics: {name with labels: value}"""
        lines = self.ask("metrics")[2].splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    def quiet(self, model) -> bool:
        """Whether no sequence of the model waits or runs, and no page is in use."""
        found = {name: self.counters()[f'llmc_{name}{{model="{model}"}}'] for name in
                 ("requests_waiting", "requests_running", "cache_pages", "cache_pages_free")}  # fmt: skip
        return found["requests_waiting"] == found["requests_running"] == 0 and found["cache_pages"] == found["cache_pages_free"]

    def stop(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(600)
