"""The same evaluation by llmc/eval and by lm-eval: one model, both ways."""

import os

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
import evaluation  # noqa: E402
import llmc  # noqa: E402
import torch  # noqa: E402
from evaluation import file_bytes, prepare, write_rows  # noqa: E402
from model import TINY, Model, transformers_model  # noqa: E402

T = 64
FIELDS = TINY | dict(vocab_size=360, max_position_embeddings=256)


class Place:
    """Tokenizer, model (ours and transformers') and evaluation files."""

    def __init__(self, folder):
        self.folder = folder
        evaluation.make_tokenizer(folder)
        self.reference = transformers_model(FIELDS, torch.float32).eval()
        self.lib = llmc.load("fp32")

    def model(self, B=3):
        model = Model(self.lib, FIELDS, B, T, training=False)
        model.set_weights(self.reference.state_dict())
        return model

    def file(self, name, rows, *options):
        source = write_rows(self.folder / f"{name}.jsonl", rows)
        output = self.folder / f"{name}.eval"
        prepare(source, "--tokenizer", self.folder, "--output", output, "--overwrite", *options)
        return output


def run_lm_eval(place, tasks, shots_seed=1234, model=None, **options):
    """(results, samples). model: the name of one of lm-eval's kinds, whose arguments are in `options`; None: transformers' model."""
    import lm_eval
    import transformers
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if model is None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place.folder)
        model = HFLM(pretrained=place.reference, tokenizer=tokenizer, max_length=T, batch_size=4, device="cpu")
    for task in tasks:
        task.setdefault("dataset_kwargs", {})["cache_dir"] = str(place.folder / "datasets")
    none_known = TaskManager(include_defaults=False)  # reading thousands of YAML files takes 14 s
    result = lm_eval.simple_evaluate(model=model, tasks=tasks, log_samples=True, bootstrap_iters=0, fewshot_random_seed=shots_seed,
                                     task_manager=none_known, confirm_run_unsafe_code=False, verbosity="ERROR", **options)  # fmt: skip
    return result["results"], result["samples"]


def lm_task(name, path, shots_path=None, **fields):
    files = {"test": str(path)} | ({"dev": str(shots_path)} if shots_path else {})
    metrics = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm", "acc_bytes")]
    return {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test",
            "output_type": "multiple_choice", "metric_list": metrics, "metadata": {"version": 1}, **fields}  # fmt: skip


COMPLETION = dict(doc_to_text="{{ctx}}", doc_to_choice="endings", doc_to_target="label")
MMLU = dict(
    doc_to_text="{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:",
    doc_to_choice=["A", "B", "C", "D"], doc_to_target="answer", fewshot_split="dev", description="About words.\n\n",
)  # fmt: skip
PERPLEXITY = dict(output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
                  metric_list=[{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")])  # fmt: skip


def greedy(model, context, count):
    ids = list(context)
    with torch.no_grad():
        for _ in range(count):
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return ids[len(context) :]


def write_needles(place, rng, length=50, answer=4, count=24, **header):
    """Half of the right endings are what transformers writes; most others differ in one token, the first, the last or another."""
    items, exact = [], []
    for i in range(count):
        context = rng.integers(0, FIELDS["vocab_size"], length - 3 * answer).tolist()
        right = greedy(place.reference, context, answer)
        if i % 2:
            right[i // 2 % answer] = (right[i // 2 % answer] + int(rng.integers(1, 300))) % FIELDS["vocab_size"]
        endings = [(rng.integers(0, FIELDS["vocab_size"], answer).tolist(), 1, 1) for _ in range(3)]
        label = int(rng.integers(0, 3))
        endings[label] = (right, 1, 1)
        label = (label + (i > 8 and i % 8 == 1)) % 3  # of some, a random one is called right
        items.append((context, endings, label, int(rng.choice([0, 100, 5000]))))
        exact.append(i % 2 == 0)
    path = place.folder / "needles.eval"
    path.write_bytes(file_bytes(items, kind=3, vocab=FIELDS["vocab_size"], **header))
    return path, items, exact
