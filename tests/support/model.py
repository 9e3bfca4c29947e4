"""A model of libllmc (llmc/model/llama3*.h) for tests: made from a dict of the configuration's fields, fed torch tensors."""

import ctypes
import math
import os

import torch

import cstructs
import llmc

TINY = dict(
    vocab_size=193, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
    initializer_range=0.02, tie_word_embeddings=False, rope_scaling=None,
)


NAMES = "LlamaConfig RowShape RunShape Parallel TrainedPart PreferenceLoss Batch ParameterTensor ParameterTable ParameterPiece Error"
STRUCTS = cstructs.read("model/run_shape.h", "loader/batch.h")
Config, RowShape, RunShape, Parallel, TrainedPart, PreferenceLoss, Batch, ParameterTensor, ParameterTable, ParameterPiece, Error = (
    STRUCTS[name] for name in NAMES.split()
)


def c_config(fields):
    if isinstance(fields, Config):
        return fields
    fields = dict(fields)
    scaling = fields.pop("rope_scaling", None)
    if scaling:
        fields.update(rope_type=1, rope_factor=scaling["factor"], rope_low_freq_factor=scaling["low_freq_factor"],
                      rope_high_freq_factor=scaling["high_freq_factor"],
                      rope_original_max_position=scaling["original_max_position_embeddings"])
    return Config(**dict(bos_token_id=-1, eos_token_id=-1, pad_token_id=-1) | fields)


def part(only=None, lora=None):
    rank, alpha, targets = lora or (0, 0, None)
    return TrainedPart(only and only.encode(), rank, alpha, targets and targets.encode())


def targets_of(batch):
    """What a micro-batch adds to a step's divisor: its targets, or its pairs of answers."""
    if isinstance(batch[0], torch.Tensor):
        return int((batch[1] >= 0).sum())
    return sum(count * (count - 1) // 2 for _, count in batch[0].groups.tolist())


def constant(prefix, name):
    return cstructs.CONSTANTS[f"{prefix}_{name.upper()}"]


class Model:
    def __init__(self, lib, fields, B, T, micro_batches=1, recompute="none", training=True, parallel=None, average=False,
                 preference=None, only=None, lora=None, attention=0, moments="fp32", master_weights="fp32",
                 optimizer_state="device", graph=False, rows=(), activations="device"):  # fmt: skip
        """preference: a PreferenceLoss; then micro-batches are comparisons (fill_comparisons). lora: (rank, alpha, targets or
        None). attention: an AttentionBy. recompute: none, cheap or block. rows: other
        (B, T, micro_batches) that set_rows may choose."""
        self.lib, self.B, self.T, self.micro_batches = lib, B, T, micro_batches
        self.compares = preference is not None
        self.handle = ctypes.c_void_p()
        error = Error()
        shape = RunShape(B=B, T=T, micro_batches=micro_batches, training=training,
                         recompute=constant("RECOMPUTE", recompute), moments=constant("MOMENTS", moments),
                         master_weights=constant("MASTER", master_weights), optimizer_state=constant("STATE", optimizer_state),
                         activations=constant("ACTIVATIONS", activations),
                         parallel=parallel or Parallel(), average=average,
                         comparisons=preference is not None, preference=preference or PreferenceLoss(),
                         part=part(only, lora), attention=attention, graph=graph,
                         rows=(RowShape * len(rows))(*rows), num_rows=len(rows))
        code = lib.llama3_create(ctypes.byref(self.handle), ctypes.byref(c_config(fields)), ctypes.byref(shape),
                                 ctypes.byref(error))
        assert code == 0, error.message.decode()
        self.read_table()

    def read_table(self):
        table = ctypes.cast(self.lib.llama3_parameters(self.handle), ctypes.POINTER(ParameterTable)).contents
        self.tensors = [table.tensors[i] for i in range(table.count)]
        self.names = [t.name.decode() for t in self.tensors]

    def __del__(self):
        if getattr(self, "handle", None):
            self.lib.llama3_destroy(self.handle)

    def set_rows(self, B, T, micro_batches):
        self.lib.llama3_set_rows(self.handle, RowShape(B, T, micro_batches))
        self.B, self.T, self.micro_batches = B, T, micro_batches

    def set_rope(self, theta, scaling=None):
        """scaling: as in config.json."""
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        given = scaling and ctypes.byref(llmc.RopeScaling(*(scaling[name] for name in names)))
        self.lib.llama3_set_rope(self.handle, theta, given)

    def shape(self, index):
        t = self.tensors[index]
        return (t.rows, t.cols) if t.dims == 2 else (t.cols,)

    def set_weights(self, state):
        """All tensors, or those that state names."""
        for i, name in enumerate(self.names):
            if name in state:
                self.lib.llama3_set_parameter(self.handle, i, state[name].to(self.lib.floatX).contiguous())

    def weights(self):
        return self.read("llama3_get_parameter", self.lib.floatX)

    def gradients(self):
        """Of all tensors, or of those that are trained."""
        return self.read("llama3_get_gradient", torch.float32, lambda t: t.trained)

    def read(self, function, dtype, wanted=lambda t: True):
        found = {}
        for i, name in enumerate(self.names):
            if not wanted(self.tensors[i]):
                continue
            found[name] = torch.empty(self.shape(i), dtype=dtype)
            getattr(self.lib, function)(self.handle, i, found[name])
        return found

    def fill(self, micro, tokens, targets, doc_start=None):
        """tokens, targets, doc_start: [B, T]; targets -1 are ignored."""
        batch = ctypes.cast(self.lib.llama3_batch(self.handle, micro), ctypes.POINTER(Batch)).contents
        doc_start = torch.zeros_like(tokens) if doc_start is None else doc_start
        order = torch.sort(tokens.reshape(-1), stable=True).indices
        excluded = torch.zeros(2 * tokens.numel())
        filled = dict(tokens=tokens, targets=targets, doc_start=doc_start, order=order, excluded=excluded)
        for name, values in filled.items():
            flat = values.reshape(-1).to(torch.int32).contiguous()
            ctypes.memmove(getattr(batch, name), flat.data_ptr(), flat.numel() * 4)

    def fill_comparisons(self, micro, packed, reference=None):
        """packed: tokens, targets, doc_start [B, T], excluded [B, T, 2], answers and groups [n, 2] (llmc/loader/batch.h);
        reference: log-probability of each answer."""
        self.fill(micro, packed.tokens, packed.targets, packed.doc_start)
        batch = ctypes.cast(self.lib.llama3_batch(self.handle, micro), ctypes.POINTER(Batch)).contents
        for name in ("excluded", "answers", "groups"):
            flat = getattr(packed, name).reshape(-1).to(torch.int32).contiguous()
            ctypes.memmove(getattr(batch, name), flat.data_ptr(), flat.numel() * 4)
        batch.num_answers, batch.num_groups = len(packed.answers), len(packed.groups)
        if reference is not None:
            flat = reference.float().contiguous()
            ctypes.memmove(self.lib.llama3_ref_logprobs(self.handle, micro), flat.data_ptr(), flat.numel() * 4)

    def answer_values(self, micro, count):
        """Log-probabilities, or scores, of the answers that fill_comparisons put there."""
        values = torch.empty(count, dtype=torch.float32)
        self.lib.llama3_answer_values(self.handle, micro, values)
        return values

    def step_sums(self):
        """[PREFERENCE_SUMS] after result()"""
        return torch.tensor(list((ctypes.c_float * 5).from_address(self.lib.llama3_step_sums(self.handle))))

    def accumulate(self, micro_batches, num_targets=None):
        """Begins a step and runs (tokens, targets, doc_start) of each micro-batch forward and backward, or (packed, reference)
        of comparisons."""
        if num_targets is None:
            num_targets = sum(map(targets_of, micro_batches))
        for i, batch in enumerate(micro_batches):
            (self.fill_comparisons if self.compares else self.fill)(i, *batch)
        self.lib.llama3_begin_step(self.handle, num_targets)
        for i in range(len(micro_batches)):
            self.forward_backward(i)

    def forward_backward(self, micro):
        self.lib.llama3_forward(self.handle, micro)
        self.lib.llama3_loss(self.handle)
        self.lib.llama3_backward(self.handle)

    def update(self, step, max_loss=math.inf):
        self.lib.llama3_clip_and_adamw(self.handle, ctypes.byref(step), max_loss)

    def applied(self):
        return bool(self.lib.llama3_update_applied(self.handle))

    def checksum(self):
        return self.lib.llama3_checksum(self.handle)

    def result(self):
        """(loss, gradient norm)"""
        loss, norm = ctypes.c_float(), ctypes.c_float()
        self.lib.llama3_result(self.handle, ctypes.byref(loss), ctypes.byref(norm))
        return loss.value, norm.value

    def loss(self, batch):
        """Without gradients."""
        self.fill(0, *batch)
        self.lib.llama3_begin_step(self.handle, int((batch[1] >= 0).sum()))
        self.lib.llama3_forward_loss(self.handle, 0)
        return self.result()[0]

    def logits(self, tokens):
        out = torch.empty(self.tensors[0].rows, dtype=torch.float32)
        self.lib.llama3_logits(self.handle, tokens.to(torch.int32).contiguous(), len(tokens), out)
        return out


def transformers_model(fields, dtype=torch.float64):
    """transformers' LlamaForCausalLM, or with num_labels LlamaForSequenceClassification, with random weights that are bf16
    numbers, so that every dtype starts equal."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    fields = dict(fields)
    rope = dict(rope_type="default", rope_theta=fields.pop("rope_theta"))
    if fields.get("rope_scaling"):
        rope.update(rope_type="llama3", **fields["rope_scaling"])
    fields.pop("rope_scaling", None)
    config = transformers.LlamaConfig(**fields, rope_parameters=rope, attn_implementation="sdpa")
    architecture = transformers.LlamaForSequenceClassification if fields.get("num_labels") else transformers.LlamaForCausalLM
    reference = architecture(config).to(dtype)
    with torch.no_grad():
        for name, p in reference.named_parameters():
            # larger than at initialisation, norms away from 1: every path carries weight in the gradient
            values = 1 + 0.2 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) / p.shape[-1] ** 0.5
            p.copy_(values.to(torch.bfloat16).to(dtype))
    return reference


# Where two logits differ by rounding alone, the larger one is luck: texts with such a step are drawn again.
LEAD = 1e-4


def greedy_text(reference, prompt, count):
    """(transformers' greedy tokens, the smallest lead of a chosen logit over the next, relative to the logits' spread)"""
    ids = torch.tensor([prompt])
    out = reference.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
                             output_logits=True, return_dict_in_generate=True)  # fmt: skip
    logits = torch.cat(out.logits).double()
    best = logits.topk(2).values
    lead = ((best[:, 0] - best[:, 1]) / logits.std(dim=1)).min().item()
    return out.sequences[0, len(prompt) :].tolist(), lead


def reference_losses(model, tokens, targets, doc_start=None):
    """[B * T] the loss of each target, 0 where it is ignored; with the document mask."""
    B, T = tokens.shape
    dtype = next(model.parameters()).dtype
    doc_start = torch.zeros_like(tokens) if doc_start is None else doc_start
    i, j = torch.arange(T)[:, None], torch.arange(T)[None, :]
    allowed = (j <= i) & (j >= doc_start[:, :, None])
    mask = torch.zeros(B, 1, T, T, dtype=dtype).masked_fill_(~allowed[:, None], torch.finfo(dtype).min)
    logits = model(tokens, attention_mask=mask, position_ids=torch.arange(T) - doc_start).logits
    wide = logits.float() if dtype == torch.bfloat16 else logits
    return torch.nn.functional.cross_entropy(
        wide.reshape(B * T, -1), targets.reshape(-1), ignore_index=-1, reduction="none")


def reference_loss(model, tokens, targets, doc_start=None):
    """Mean over the targets that are not ignored."""
    return reference_losses(model, tokens, targets, doc_start).sum() / int((targets >= 0).sum())


def random_batch(V, B, T, documents=True, ignored=True):
    """(tokens, targets, doc_start); with documents some of length 1, a repeated token, and some targets ignored."""
    tokens, targets = torch.randint(V, (B, T)), torch.randint(V, (B, T))
    tokens[torch.rand(B, T) < 0.2] = 1
    if ignored:
        targets[torch.rand(B, T) < 0.2] = -1
        targets[0, 0] = 0
    doc_start = torch.zeros(B, T, dtype=torch.int64)
    if documents:
        starts = torch.where(torch.rand(B, T) < 0.2, torch.arange(T).expand(B, T), 0)
        starts[-1, T // 2 :] = torch.arange(T // 2, T)[: T - T // 2]  # documents of one token
        doc_start = torch.cummax(starts, dim=1).values
    return tokens, targets, doc_start


def table_of(lib, fields, shards, part=None):
    table, err = ParameterTable(), Error()
    code = lib.parameter_table_build(ctypes.byref(table), ctypes.byref(c_config(fields)), shards, part and ctypes.byref(part), ctypes.byref(err))
    assert code == 0, err.message
    return table
