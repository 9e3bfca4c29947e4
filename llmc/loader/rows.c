#include "loader/rows.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "loader/header.h"

static const char magic[8] = "L3ROWS\0";
enum { TOKEN_BYTES = 4, PIECE_TOKENS = 1 << 16, PIECE_ENTRIES = 1 << 12, MAX_VOCAB = 1 << 30 };

uint64_t row_tokens(const Row *row) {
    uint64_t count = row->prompt;
    for (int i = 0; i < ROWS_MAX_ANSWERS; i++) count += row->answers[i];
    return count;
}

bool rows_have_token(const RowFile *file, uint32_t id) {
    return id < file->vocab_size && (file->seen[id / 8] >> id % 8 & 1);
}

int row_num_answers(const Row *row) {
    int count = 0;
    while (count < ROWS_MAX_ANSWERS && row->answers[count] > 0) count++;
    return count;
}

// ---- The header

static int check_id(const RowFile *file, uint32_t id, const char *name, Error *err) {
    if (id == ROWS_NO_ID || id < file->vocab_size) return 0;
    return fail_input(err, "%s: %s is %u, expected an id below the vocabulary size %u", file->path, name, id,
                      file->vocab_size);
}

static int read_fields(RowFile *file, const uint8_t *header, Error *err) {
    const uint32_t kind = load_u32(header + 16);
    if (kind != ROWS_CONVERSATIONS && kind != ROWS_COMPARISONS)
        return fail_input(err, "%s: kind is %u, expected 1 (conversations) or 2 (comparisons)", file->path, kind);
    file->kind = (RowsKind)kind;
    file->vocab_size = load_u32(header + 20);
    file->num_tokens = load_u64(header + 24);
    file->bos_id = load_u32(header + 32);
    file->eos_id = load_u32(header + 36);
    memcpy(file->tokenizer_sha256, header + 40, sizeof file->tokenizer_sha256);
    file->num_rows = load_u64(header + 72);
    if (file->vocab_size < 1 || file->vocab_size > MAX_VOCAB)
        return fail_input(err, "%s: vocabulary size is %u, expected 1 to %d", file->path, file->vocab_size, MAX_VOCAB);
    if (file->num_rows == 0) return fail_input(err, "%s: number of rows is 0, expected at least 1", file->path);
    int code = check_id(file, file->bos_id, "id that begins a text", err);
    return code ? code : check_id(file, file->eos_id, "id that ends a turn", err);
}

// The counts must fill the file exactly. Each is compared with what the file has room for before they are added.
static int check_size(const RowFile *file, uint64_t size, Error *err) {
    const uint64_t bytes = size - ROWS_HEADER_BYTES, tokens = file->num_tokens, rows = file->num_rows;
    const bool small = tokens <= bytes / TOKEN_BYTES && rows <= bytes / ROWS_ENTRY_BYTES;
    if (small && tokens * TOKEN_BYTES + rows * ROWS_ENTRY_BYTES == bytes) return 0;
    return fail_input(err,
                      "%s: header counts %llu tokens and %llu rows, expected what fills the %llu bytes behind it: "
                      "truncated?",
                      file->path, (unsigned long long)tokens, (unsigned long long)rows, (unsigned long long)bytes);
}

static int read_header(RowFile *file, uint64_t size, Error *err) {
    uint8_t header[ROWS_HEADER_BYTES];
    size_t count;
    int code = header_read(header, &count, file->fd, size, file->path, err);
    if (!code) code = header_check(header, count, magic, ROWS_VERSION, "a row file", file->path, err);
    if (!code) code = header_check_zero(header, 80, ROWS_HEADER_BYTES, file->path, err);
    if (!code) code = read_fields(file, header, err);
    return code ? code : check_size(file, size, err);
}

// ---- The table of rows

static int bad_row(const RowFile *file, uint64_t row, const char *field, uint64_t found, const char *expected,
                   Error *err) {
    return fail_input(err, "%s: row %llu: %s is %llu, expected %s", file->path, (unsigned long long)row + 1, field,
                      (unsigned long long)found, expected);
}

static int check_shape(const RowFile *file, uint64_t index, Error *err) {
    static const char *const lengths[ROWS_MAX_ANSWERS] = {"length of answer 1", "length of answer 2",
                                                          "length of answer 3"};
    const Row *row = &file->rows[index];
    const bool comparison = file->kind == ROWS_COMPARISONS;
    const uint32_t shortest = comparison ? 1 : 2;
    if (row->prompt < shortest)
        return bad_row(file, index, "length of the prompt", row->prompt,
                       comparison ? "at least 1" : "at least 2 in a conversation", err);
    for (int i = 0; i < ROWS_MAX_ANSWERS; i++) {
        if (!comparison && row->answers[i] != 0)
            return bad_row(file, index, lengths[i], row->answers[i], "0 in a conversation", err);
        if (comparison && i < 2 && row->answers[i] == 0)
            return bad_row(file, index, lengths[i], 0, "at least 1 in a comparison", err);
    }
    return 0;
}

// `next`: the token after the rows before.
static int check_place(const RowFile *file, uint64_t index, uint64_t next, Error *err) {
    const Row *row = &file->rows[index];
    if (row->first != next)
        return fail_input(err, "%s: row %llu: first token is %llu, expected %llu, where the row before ends",
                          file->path, (unsigned long long)index + 1, (unsigned long long)row->first,
                          (unsigned long long)next);
    if (row_tokens(row) > file->num_tokens - next)
        return fail_input(err, "%s: row %llu: has %llu tokens, expected at most the %llu that are left", file->path,
                          (unsigned long long)index + 1, (unsigned long long)row_tokens(row),
                          (unsigned long long)(file->num_tokens - next));
    return 0;
}

static Row parse_row(const uint8_t *entry) {
    return (Row){.first = load_u64(entry),
                 .prompt = load_u32(entry + 8),
                 .answers = {load_u32(entry + 12), load_u32(entry + 16), load_u32(entry + 20)},
                 .source = load_u32(entry + 24),
                 .line = load_u32(entry + 28)};
}

static int read_entries(RowFile *file, uint8_t *piece, Hasher *hasher, Error *err) {
    const uint64_t table = ROWS_HEADER_BYTES + file->num_tokens * TOKEN_BYTES;
    for (uint64_t done = 0; done < file->num_rows;) {
        const uint64_t left = file->num_rows - done;
        const size_t count = left < PIECE_ENTRIES ? (size_t)left : PIECE_ENTRIES;
        int code =
            file_read_at(file->fd, piece, count * ROWS_ENTRY_BYTES, table + done * ROWS_ENTRY_BYTES, file->path, err);
        if (code) return code;
        hasher_add(hasher, piece, count * ROWS_ENTRY_BYTES);
        for (size_t i = 0; i < count; i++) file->rows[done + i] = parse_row(piece + i * ROWS_ENTRY_BYTES);
        done += count;
    }
    return 0;
}

static int check_table(const RowFile *file, Error *err) {
    uint64_t next = 0;
    for (uint64_t i = 0; i < file->num_rows; i++) {
        int code = check_shape(file, i, err);
        if (!code) code = check_place(file, i, next, err);
        if (code) return code;
        next += row_tokens(&file->rows[i]);
    }
    if (next == file->num_tokens) return 0;
    return fail_input(err, "%s: its rows have %llu tokens, expected the header's %llu", file->path,
                      (unsigned long long)next, (unsigned long long)file->num_tokens);
}

// ---- Tokens

static int bad_id(const RowFile *file, uint64_t row, uint64_t token, uint32_t id, Error *err) {
    return fail_input(err, "%s: row %llu: its token %llu has id %u, expected one below the vocabulary size %u",
                      file->path, (unsigned long long)row + 1, (unsigned long long)token + 1, id, file->vocab_size);
}

// All tokens of the file, once, in pieces.
typedef struct {
    const RowFile *file;
    Hasher *hasher;
    uint8_t *piece;    // [PIECE_TOKENS * TOKEN_BYTES]
    size_t at, filled; // tokens of the piece
    uint64_t read;     // tokens of the file
} Scan;

static int next_token(Scan *scan, uint32_t *token, Error *err) {
    if (scan->at == scan->filled) {
        const uint64_t left = scan->file->num_tokens - scan->read;
        scan->at = 0;
        scan->filled = left < PIECE_TOKENS ? (size_t)left : PIECE_TOKENS;
        int code = file_read_at(scan->file->fd, scan->piece, scan->filled * TOKEN_BYTES,
                                ROWS_HEADER_BYTES + scan->read * TOKEN_BYTES, scan->file->path, err);
        if (code) return code;
        hasher_add(scan->hasher, scan->piece, scan->filled * TOKEN_BYTES);
        scan->read += scan->filled;
    }
    *token = load_u32(scan->piece + TOKEN_BYTES * scan->at++);
    return 0;
}

// Takes tokens [begin, begin + count) of a row; *targets = how many of them have the flags `flags` of TRAINED and FORMAT
// that `mask` names.
static int scan_part(Scan *scan, uint64_t row, uint64_t begin, uint32_t count, uint32_t mask, uint64_t *targets,
                     Error *err) {
    *targets = 0;
    for (uint64_t i = begin; i < begin + count; i++) {
        uint32_t token;
        int code = next_token(scan, &token, err);
        if (code) return code;
        const uint32_t id = token & ROWS_ID;
        if (id >= scan->file->vocab_size) return bad_id(scan->file, row, i, id, err);
        scan->file->seen[id / 8] |= (uint8_t)(1 << id % 8);
        *targets += i > 0 && (token & mask) == ROWS_TRAINED;
    }
    return 0;
}

static int scan_row(Scan *scan, uint64_t index, Error *err) {
    const RowFile *file = scan->file;
    const Row *row = &file->rows[index];
    uint64_t targets, begin = row->prompt;
    int code = scan_part(scan, index, 0, row->prompt, ROWS_TRAINED, &targets, err);
    if (code) return code;
    if (file->kind == ROWS_CONVERSATIONS && targets == 0)
        return bad_row(file, index, "number of trained tokens", 0, "at least 1 behind the first token", err);
    for (int i = 0; i < row_num_answers(row); begin += row->answers[i++]) {
        code = scan_part(scan, index, begin, row->answers[i], ROWS_TRAINED | ROWS_FORMAT, &targets, err);
        if (code) return code;
        if (targets == 0)
            return fail_input(
                err,
                "%s: row %llu: answer %d has 0 trained tokens besides headers and ends of turns, expected "
                "at least 1",
                file->path, (unsigned long long)index + 1, i + 1);
    }
    return 0;
}

static int scan_tokens(const RowFile *file, uint8_t *piece, Hasher *hasher, Error *err) {
    Scan scan = {.file = file, .hasher = hasher, .piece = piece};
    for (uint64_t i = 0; i < file->num_rows; i++) {
        int code = scan_row(&scan, i, err);
        if (code) return code;
    }
    return 0;
}

// ---- The file

static int read_body(RowFile *file, Error *err) {
    file->rows = calloc(file->num_rows, sizeof *file->rows);
    file->seen = calloc(file->vocab_size / 8 + 1, 1);
    uint8_t *piece = malloc(PIECE_TOKENS * TOKEN_BYTES);
    Hasher *hasher = hasher_create();
    int code = 0;
    if (!file->rows || !file->seen || !piece || !hasher)
        code = fail_fault(err, "%s: no memory for %llu rows", file->path, (unsigned long long)file->num_rows);
    if (!code) code = read_entries(file, piece, hasher, err);
    if (!code) code = check_table(file, err);
    if (!code) code = scan_tokens(file, piece, hasher, err);
    if (!code) file->digest = hasher_digest(hasher);
    hasher_destroy(hasher);
    free(piece);
    return code;
}

int rows_open(RowFile *file, const char *path, Error *err) {
    RowFile opened = {.fd = -1};
    uint64_t size = 0;
    int code = file_open_read(path, &opened.fd, &size, err);
    if (code) return code;
    opened.path = strdup(path);
    code = opened.path ? read_header(&opened, size, err) : fail_fault(err, "%s: no memory", path);
    if (!code) code = read_body(&opened, err);
    if (code)
        rows_close(&opened);
    else
        *file = opened;
    return code;
}

int rows_read(const RowFile *file, uint64_t row, uint32_t *tokens, Error *err) {
    const uint64_t first = file->rows[row].first;
    const size_t count = (size_t)row_tokens(&file->rows[row]);
    int code =
        file_read_at(file->fd, tokens, count * TOKEN_BYTES, ROWS_HEADER_BYTES + first * TOKEN_BYTES, file->path, err);
    if (code) return code;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *bytes = (const uint8_t *)&tokens[i];
        tokens[i] = load_u32(bytes);
        if ((tokens[i] & ROWS_ID) >= file->vocab_size) return bad_id(file, row, i, tokens[i] & ROWS_ID, err);
    }
    return 0;
}

void rows_close(RowFile *file) {
    if (file->fd >= 0) close(file->fd);
    free(file->path);
    free(file->rows);
    free(file->seen);
    *file = (RowFile){.fd = -1};
}
