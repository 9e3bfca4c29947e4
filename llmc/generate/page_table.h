// Which pages of a cache the rows of a decoder have.
#ifndef LLMC_GENERATE_PAGE_TABLE_H
#define LLMC_GENERATE_PAGE_TABLE_H

#include <stdbool.h>

#include "generate/pages.h"

typedef struct {
    int length;      // tokens that the row holds
    int pages;       // that it has, of its part of the table
    int known;       // of these, the first so many are pages of a known prefix
    uint64_t prefix; // theirs (pages.h)
} PageRow;

typedef struct {
    Pages *pages;
    PageRow *rows;
    int num_rows, row_pages;
    int32_t *table; // [num_rows, row_pages]
    bool changed;   // the table; who copies it elsewhere sets it back
} PageTable;

int page_table_create(PageTable *t, int num_rows, int row_pages, int64_t pages, Error *err); // Errors: 2, 1
void page_table_destroy(PageTable *t); // also of one that was never made, but is zero

void page_table_clear(PageTable *t, int row); // the row has neither tokens nor pages

// Gives the row pages for n tokens in all. false: too few are free; it has those that were.
bool page_table_reserve(PageTable *t, int row, int n);

// The row becomes the longest known prefix of these n tokens that leaves one at least. Returns how many tokens that is.
int page_table_share(PageTable *t, int row, const int32_t *tokens, int n);

// The row holds these tokens: those of its full pages become a known prefix.
void page_table_keep(PageTable *t, int row, const int32_t *tokens);

// Row `to` gets the tokens of row `from`: its full pages, and a page of its own for what is left, which is to be copied
// from *old_page to *new_page (both -1: nothing is). false: no page is free; row `to` is then empty.
bool page_table_copy(PageTable *t, int to, int from, int32_t *old_page, int32_t *new_page);

#endif
