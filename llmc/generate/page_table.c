#include "generate/page_table.h"

#include <stdlib.h>
#include <string.h>

int page_table_create(PageTable *t, int num_rows, int row_pages, int64_t pages, Error *err) {
    t->num_rows = num_rows;
    t->row_pages = row_pages;
    t->rows = calloc((size_t)num_rows, sizeof *t->rows);
    t->table = calloc((size_t)num_rows * (size_t)row_pages, sizeof *t->table);
    if (!t->rows || !t->table) return fail_fault(err, "no memory for a decoder of %d rows", num_rows);
    return pages_create(&t->pages, pages, err);
}

void page_table_destroy(PageTable *t) {
    pages_destroy(t->pages);
    free(t->rows);
    free(t->table);
}

static int32_t *pages_of(const PageTable *t, int row) { return t->table + (size_t)row * (size_t)t->row_pages; }

static void append(PageTable *t, int row, int32_t page) {
    pages_of(t, row)[t->rows[row].pages++] = page;
    t->changed = true;
}

// The last page first, so that of kept ones the beginning of a text stays longest.
void page_table_clear(PageTable *t, int row) {
    for (int i = t->rows[row].pages - 1; i >= 0; i--) pages_drop(t->pages, pages_of(t, row)[i]);
    t->rows[row] = (PageRow){0};
}

bool page_table_reserve(PageTable *t, int row, int n) {
    while (t->rows[row].pages * PAGE_TOKENS < n) {
        const int32_t page = pages_take(t->pages);
        if (page < 0) return false;
        append(t, row, page);
    }
    return true;
}

int page_table_share(PageTable *t, int row, const int32_t *tokens, int n) {
    page_table_clear(t, row);
    PageRow *r = &t->rows[row];
    while (r->length + PAGE_TOKENS < n) {
        const int32_t page = pages_find(t->pages, &r->prefix, tokens + r->length);
        if (page < 0) break;
        append(t, row, page);
        r->length += PAGE_TOKENS;
    }
    r->known = r->pages;
    return r->length;
}

void page_table_keep(PageTable *t, int row, const int32_t *tokens) {
    PageRow *r = &t->rows[row];
    for (; (r->known + 1) * PAGE_TOKENS <= r->length; r->known++)
        r->prefix = pages_keep(t->pages, pages_of(t, row)[r->known], r->prefix, tokens + r->known * PAGE_TOKENS);
}

bool page_table_copy(PageTable *t, int to, int from, int32_t *old_page, int32_t *new_page) {
    page_table_clear(t, to);
    const PageRow *source = &t->rows[from];
    const int full = source->length / PAGE_TOKENS;
    for (int i = 0; i < full; i++) {
        pages_hold(t->pages, pages_of(t, from)[i]);
        append(t, to, pages_of(t, from)[i]);
    }
    *old_page = *new_page = -1;
    if (source->length % PAGE_TOKENS) {
        if (!page_table_reserve(t, to, source->length)) {
            page_table_clear(t, to);
            return false;
        }
        *old_page = pages_of(t, from)[full];
        *new_page = pages_of(t, to)[full];
    }
    t->rows[to].length = source->length;
    t->rows[to].known = source->known;
    t->rows[to].prefix = source->prefix;
    return true;
}
