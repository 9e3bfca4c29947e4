#!/usr/bin/env python3
"""Starts the server with models and a guard over them, and chats with each: the first questions of files, and what is answered.

    PYTHONPATH=scripts chat.py --models sft=runs/finetune_demo/sft/checkpoint --guard runs/finetune_demo/guard/checkpoint \\
        --questions questions.jsonl attacks.jsonl --target cpu
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from llmdata import program
from llmdata.model_folder import named_models
from llmeval.client import Client, Request
from llmeval.server import served

QUESTIONS = 2  # of each file
FILTERED = " (by the guard)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, nargs="+", metavar="NAME=DIR", help="folders of the models")
    parser.add_argument("--guard", required=True, type=Path, metavar="DIR", help="folder of the guard")
    parser.add_argument("--questions", required=True, nargs="+", type=Path, metavar="FILE",
                        help="files of stories.py and hiding.py")  # fmt: skip
    parser.add_argument("--target", required=True, choices=("cpu", "cuda"), help="build to serve with")
    options = parser.parse_args()
    models = named_models(options.models, "--models")
    with served(models | {"guard": options.guard}, "--guard", "guard", "--target", options.target) as url:
        client = Client(url, at_once=1)
        for path in options.questions:
            for line in itertools.islice(path.read_text().splitlines(), QUESTIONS):
                question = json.loads(line)["prompt"]
                print(f"user: {question}")
                for name in models:
                    asked = Request(messages=({"role": "user", "content": question},), max_tokens=24, temperature=1)
                    answer = client.ask(name, asked)[0]
                    print(f"{name}: {answer.text}{FILTERED if answer.finish == 'content_filter' else ''}")
        client.close()


if __name__ == "__main__":
    sys.exit(program.run(main))
