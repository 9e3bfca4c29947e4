#!/usr/bin/env python3
"""Items per second of llmc/eval and of lm-eval, in one run, on the same weights, items and number of threads (fp32, CPU).

    OMP_NUM_THREADS=2 dev/bench/eval_items.py [--items 60]     after make TARGET=cpu PRECISION=fp32
"""

import argparse
import pathlib
import random
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/support"), str(ROOT / "data")]
import lmeval as material  # noqa: E402
from evaluation import Evaluation, completions, questions  # noqa: E402
from model import Model  # noqa: E402

SIZE = dict(hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
            head_dim=32)  # fmt: skip


def our_seconds(place, name, rows):
    opened = Evaluation(place.lib, place.file(name, rows), material.T)
    model = Model(place.lib, material.FIELDS, 4, material.T, training=False)
    model.set_weights(place.reference.state_dict())
    opened.score(model)  # warm up
    began = time.monotonic()
    opened.score(model)
    return time.monotonic() - began


def lm_eval_seconds(place, task):
    import lm_eval.models.huggingface as hf

    seconds, score = [], hf.HFLM._loglikelihood_tokens

    def timed(self, *arguments, **named):
        score(self, *arguments, **named)  # warm up
        began = time.monotonic()
        result = score(self, *arguments, **named)
        seconds.append(time.monotonic() - began)
        return result

    hf.HFLM._loglikelihood_tokens = timed
    material.run_lm_eval(place, [task])
    hf.HFLM._loglikelihood_tokens = score
    return sum(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=60, metavar="N", help="items of each task (default: %(default)s)")
    count = parser.parse_args().items
    random.seed(1)
    material.FIELDS.update(SIZE)
    material.T = 256
    with tempfile.TemporaryDirectory() as folder:
        place = material.Place(pathlib.Path(folder))
        tasks = {
            "completion": (completions(count), material.COMPLETION),
            "question": (questions(count), material.MMLU | dict(fewshot_split=None, description="")),
        }
        for name, (rows, task) in tasks.items():
            ours = our_seconds(place, name, rows)
            theirs = lm_eval_seconds(place, material.lm_task(name, pathlib.Path(folder) / f"{name}.jsonl", **task))
            print(f"{name}: {count / ours:.1f} items/s, lm-eval {count / theirs:.1f} items/s, ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
