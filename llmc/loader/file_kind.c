#include "loader/file_kind.h"

#include <stdbool.h>
#include <string.h>

#include "base/text.h"

#define PACK "unpack it first"
#define TEXTS "prepare_data.py makes shards of texts, prepare_chat.py rows of conversations"

// llm.c's magics are 20240520 and so on, little endian.
static const struct {
    const char *magic;
    size_t length;
    const char *kind;
} kinds[] = {
    {"L3SHARD", 8, "a token shard of prepare_data.py, for pretraining"},
    {"L3ROWS\0", 8, "a row file of prepare_chat.py, conversations or comparisons for SFT, DPO or a reward model"},
    {"L3EVALS", 8, "an evaluation of prepare_eval.py"},
    {"L3REFER", 8,
     "log-probabilities that DPO keeps beside its data; a pattern such as 'DIR/train_*.bin' passes them by"},
    {"\x88\xd8\x34\x01", 4, "a token shard of llm.c (GPT-2), for pretraining"},
    {"\xa1\xd9\x34\x01", 4, "a token shard of llm.c (Llama 3), for pretraining"},
    {"\x8a\xd8\x34\x01", 4, "an evaluation of llm.c; prepare_eval.py makes those that are read here"},
    {"\xc6\xd7\x34\x01", 4, "a model of llm.c"},
    {"\x8f\xd8\x34\x01", 4, "a training state of llm.c"},
    {"MMIDIDX", 7, "an index of Megatron; its data are not read here, prepare_data.py makes shards of the texts"},
    {"\x93NUMPY", 6, "a NumPy array; prepare_data.py makes shards of the texts"},
    {"PAR1", 4, "a Parquet file; " TEXTS},
    {"ARROW1", 6, "an Arrow file; " TEXTS},
    {"\x1f\x8b\x08", 3, "a gzip file; " PACK " (gunzip)"},
    {"\x28\xb5\x2f\xfd", 4, "a zstd file; " PACK " (unzstd)"},
    {"\xfd"
     "7zXZ",
     5, "an xz file; " PACK " (unxz)"},
    {"BZh", 3, "a bzip2 file; " PACK " (bunzip2)"},
    {"PK\x03\x04", 4, "a zip archive, as PyTorch and NumPy also write them; " PACK},
    {"GGUF", 4, "a GGUF model"},
    {"%PDF", 4, "a PDF"},
    {"\x7f"
     "ELF",
     4, "a program"},
    {"\x89PNG", 4, "an image"},
    {"version https://git-lfs", 23, "a pointer of Git LFS in place of the file; git lfs pull fetches it"},
    {"\xff\xfe", 2, "a text in UTF-16; convert it (iconv -f UTF-16 -t UTF-8); " TEXTS},
};

static bool is_safetensors(const uint8_t *head, size_t count) {
    uint64_t length = 0;
    for (size_t i = 0; i < 8 && i < count; i++) length |= (uint64_t)head[i] << 8 * i;
    return count > 8 && head[8] == '{' && length < 100000000;
}

static bool is_pickle(const uint8_t *head, size_t count) {
    return count > 1 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5;
}

// Raw numbers have zeros or control characters among their first bytes.
static bool is_text(const uint8_t *head, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (head[i] == 0x7f || (head[i] < ' ' && !strchr("\t\n\r\f", head[i])) || head[i] == 0) return false;
    return count > 0;
}

static bool is_json(const uint8_t *head, size_t count) {
    size_t i = count > 3 && memcmp(head, TEXT_MARK, 3) == 0 ? 3 : 0;
    while (i < count && strchr(" \t\r\n", head[i])) i++;
    return i < count && (head[i] == '{' || head[i] == '[');
}

const char *file_kind(const uint8_t *head, size_t count) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (count >= kinds[i].length && memcmp(head, kinds[i].magic, kinds[i].length) == 0) return kinds[i].kind;
    if (is_safetensors(head, count)) return "weights in safetensors; a model is its whole folder";
    if (is_pickle(head, count)) return "a pickle of Python";
    if (is_text(head, count)) return is_json(head, count) ? "JSON; " TEXTS : "a text; " TEXTS;
    return "bytes without a known beginning: raw token ids, as nanoGPT and Megatron write them? They do not say whose "
           "ids they are: prepare_data.py makes shards of the texts, or put llm.c's header in front of GPT-2's ids";
}
