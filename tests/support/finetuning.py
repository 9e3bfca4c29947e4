"""A small pretrained model, and rows to finetune it on, for the tests that run the program."""

import numpy as np
from trainrun import BOS, EOS, VOCAB, Workplace

from llmdata import rows  # noqa: E402

MARK = 10  # stands between question and answer: what a template would write
LETTERS = (65, 91)
LORA = dict(lora_rank=8, lora_alpha=24, lr="1e-2")


def prompt(rng, length=None):
    return [BOS, *rng.integers(*LETTERS, length or rng.integers(3, 9)).tolist(), MARK]


def answer(letters):
    """Trained, and its end of turn format besides."""
    ids = np.array([*letters, EOS], np.uint32) | rows.TRAINED
    ids[-1] |= rows.FORMAT
    return ids


def conversations(rng, count, longest=9):
    """The assistant says the user's letters again."""
    out = []
    for i in range(count):
        said = prompt(rng, rng.integers(3, longest))
        out.append(rows.Row(np.concatenate([np.array(said, np.uint32), answer(said[1:-1])]), line=i + 1))
    return out


def comparisons(rng, count, ranked=2):
    """Better answers have more of the user's own letters."""
    out = []
    for i in range(count):
        said = prompt(rng, rng.integers(3, 9))
        answers = [answer([letter if k < len(said) - 2 - 2 * wrong else 97 for k, letter in enumerate(said[1:-1])])
                   for wrong in range(ranked if i % 3 else 2)]
        out.append(rows.Row(np.array(said, np.uint32), answers, line=i + 1))
    return out


class Finetuning(Workplace):
    """Beside a Workplace's: `base`, a model that was pretrained for some steps, chat/ and prefs/ with training and
    validation rows."""

    def __init__(self, folder, seed=1, precision="fp32", steps=20, specials=()):
        super().__init__(folder, seed, specials)
        rng = np.random.default_rng(seed + 1)
        self.chat, self.prefs, self.base = self.rows_folder("chat"), self.rows_folder("prefs"), self.folder / "base/checkpoint"
        self.write_rows(self.chat, "train", rows.CONVERSATIONS, conversations(rng, 150))
        self.write_rows(self.chat, "val", rows.CONVERSATIONS, conversations(rng, 30))
        self.write_rows(self.prefs, "train", rows.COMPARISONS, comparisons(rng, 120, 3))
        self.write_rows(self.prefs, "val", rows.COMPARISONS, comparisons(rng, 30, 3))
        self.run(output=self.folder / "base", steps=steps, precision=precision)

    def rows_folder(self, name):
        folder = self.folder / name
        folder.mkdir()
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((self.data / file).read_bytes())
        return folder

    def write_rows(self, folder, split, kind, made):
        return rows.write(folder, split, kind, made, VOCAB - 2, bos=BOS, end=EOS, sha256=self.sha)

    def task(self, task, **changes):
        """Options of a finetuning run."""
        data = self.chat if task == "sft" else self.prefs
        return dict(config=None, task=task, init_from=self.base, train_data=data / "train_*.bin", val_data=data / "val_*.bin",
                    seq_len=64, batch_size=4, warmup_steps=0, lr="1e-3", steps=30, eval_every=10) | changes  # fmt: skip
