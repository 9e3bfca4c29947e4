#include "generate/pages.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int holders;
    int32_t before, after; // in the ring of pages that nobody holds
    int32_t next;          // with the same bucket; -1: none
    uint64_t prefix;       // before its tokens
    uint64_t number;       // of the prefix that ends with its tokens; 0: not kept
    int32_t tokens[PAGE_TOKENS];
} Page;

struct Pages {
    int64_t count, free, shared;
    Page *pages; // [count + 1]: the last is where the ring begins and ends. Pages that are taken first stand first.
    int32_t *buckets; // [mask + 1]: first page, -1: none
    uint64_t mask;
    uint64_t last_number;
};

// ---- the ring

static void link_behind(Pages *p, int32_t at, int32_t page) {
    Page *pages = p->pages;
    pages[page].before = at;
    pages[page].after = pages[at].after;
    pages[pages[at].after].before = page;
    pages[at].after = page;
    p->free++;
}

static void unlink_page(Pages *p, int32_t page) {
    Page *pages = p->pages;
    pages[pages[page].before].after = pages[page].after;
    pages[pages[page].after].before = pages[page].before;
    p->free--;
}

int pages_create(Pages **out, int64_t count, Error *err) {
    if (count < 1 || count >= INT32_MAX / 2)
        return fail_input(err, "a cache of %lld pages, expected 1 to %d", (long long)count, INT32_MAX / 2 - 1);
    uint64_t buckets = 1;
    while (buckets < (uint64_t)count) buckets *= 2;
    Pages *p = calloc(1, sizeof *p);
    if (p) p->pages = calloc((size_t)count + 1, sizeof *p->pages);
    if (p) p->buckets = malloc(buckets * sizeof *p->buckets);
    if (!p || !p->pages || !p->buckets) {
        pages_destroy(p);
        return fail_fault(err, "no memory for the table of %lld pages", (long long)count);
    }
    p->count = count;
    p->mask = buckets - 1;
    memset(p->buckets, -1, buckets * sizeof *p->buckets);
    p->pages[count].before = p->pages[count].after = (int32_t)count;
    for (int32_t page = (int32_t)count - 1; page >= 0; page--) link_behind(p, (int32_t)count, page);
    *out = p;
    return 0;
}

void pages_destroy(Pages *p) {
    if (!p) return;
    free(p->pages);
    free(p->buckets);
    free(p);
}

int64_t pages_count(const Pages *p) { return p->count; }
int64_t pages_free(const Pages *p) { return p->free; }
int64_t pages_shared(const Pages *p) { return p->shared; }

// ---- kept tokens

static int32_t *bucket_of(const Pages *p, uint64_t prefix, const int32_t *tokens) {
    uint64_t h = prefix;
    for (int i = 0; i < PAGE_TOKENS; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 32;
    }
    return &p->buckets[h & p->mask];
}

static int32_t look_up(const Pages *p, uint64_t prefix, const int32_t *tokens) {
    int32_t page = *bucket_of(p, prefix, tokens);
    while (page >= 0 && (p->pages[page].prefix != prefix ||
                         memcmp(p->pages[page].tokens, tokens, sizeof p->pages[page].tokens) != 0))
        page = p->pages[page].next;
    return page;
}

uint64_t pages_keep(Pages *p, int32_t page, uint64_t prefix, const int32_t *tokens) {
    const int32_t known = look_up(p, prefix, tokens);
    if (known >= 0) return p->pages[known].number;
    Page *kept = &p->pages[page];
    int32_t *bucket = bucket_of(p, prefix, tokens);
    kept->prefix = prefix;
    kept->number = ++p->last_number;
    memcpy(kept->tokens, tokens, sizeof kept->tokens);
    kept->next = *bucket;
    *bucket = page;
    return kept->number;
}

// Prefixes that go on behind this one are never found again, and their pages are taken in their turn.
static void forget(Pages *p, int32_t page) {
    Page *kept = &p->pages[page];
    if (!kept->number) return;
    int32_t *at = bucket_of(p, kept->prefix, kept->tokens);
    while (*at != page) at = &p->pages[*at].next;
    *at = kept->next;
    kept->number = 0;
}

int32_t pages_find(Pages *p, uint64_t *prefix, const int32_t *tokens) {
    const int32_t page = look_up(p, *prefix, tokens);
    if (page < 0) return -1;
    *prefix = p->pages[page].number;
    pages_hold(p, page);
    return page;
}

// ---- holding

int32_t pages_take(Pages *p) {
    const int32_t page = p->pages[p->count].after;
    if (page == p->count) return -1;
    forget(p, page);
    pages_hold(p, page);
    return page;
}

void pages_hold(Pages *p, int32_t page) {
    const int holders = ++p->pages[page].holders;
    if (holders == 1) unlink_page(p, page);
    if (holders == 2) p->shared++;
}

void pages_drop(Pages *p, int32_t page) {
    const int holders = --p->pages[page].holders;
    const int32_t end = (int32_t)p->count;
    if (holders == 1) p->shared--;
    if (holders == 0) link_behind(p, p->pages[page].number ? p->pages[end].before : end, page);
}
