#!/usr/bin/env python3
"""Starts the server with models and chats with each of them: the first questions of a file, and what the models answer.

    PYTHONPATH=scripts chat.py --models sft=runs/finetune_demo/sft/checkpoint --questions questions.jsonl --target cpu
"""

import argparse
import json
from pathlib import Path

from llmdata.model_folder import named_models
from llmeval.client import Client, Request
from llmeval.server import served

QUESTIONS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", required=True, nargs="+", metavar="NAME=DIR", help="folders of the models")
    parser.add_argument("--questions", required=True, type=Path, metavar="FILE", help="questions.jsonl of stories.py")
    parser.add_argument("--target", required=True, choices=("cpu", "cuda"), help="build to serve with")
    options = parser.parse_args()
    models = named_models(options.models, "--models")
    with served(models, "--target", options.target) as url:
        client = Client(url, at_once=1)
        for line in options.questions.read_text().splitlines()[:QUESTIONS]:
            question = json.loads(line)["prompt"]
            print(f"user: {question}")
            for name in models:
                asked = Request(messages=({"role": "user", "content": question},), max_tokens=24, temperature=1)
                print(f"{name}: {client.ask(name, asked)[0].text}")
        client.close()


if __name__ == "__main__":
    main()
