// The pattern is evaluated as it is read, on all places of the text at once: an expression turns the set of places where it
// may begin into the set where it may end. So no pattern takes exponential time.
#include "base/regex.h"

#include <ctype.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

enum { WORDS = (REGEX_MAX_TEXT + 1) / 64, MAX_DEPTH = 32, MAX_STEPS = 200000, MAX_COUNT = 1000, BYTES = 256 };

typedef struct {
    uint64_t bits[WORDS];
} Places;

typedef struct {
    bool has[BYTES];
} Class;

typedef struct {
    const char *text, *at; // at: in the pattern
    int length, depth, steps;
    bool bad;
} Regex;

static Places alternatives(Regex *r, const Places *from);

// ---- sets

static bool has(const Places *p, int place) { return p->bits[place / 64] >> (place % 64) & 1; }
static void put(Places *p, int place) { p->bits[place / 64] |= (uint64_t)1 << (place % 64); }

// *to becomes the union; did it grow?
static bool add(Places *to, const Places *more) {
    bool grew = false;
    for (int w = 0; w < WORDS; w++) {
        grew |= (more->bits[w] & ~to->bits[w]) != 0;
        to->bits[w] |= more->bits[w];
    }
    return grew;
}

static bool is_empty(const Places *p) {
    Places none = {{0}};
    return memcmp(p, &none, sizeof none) == 0;
}

static Places fail(Regex *r) {
    r->bad = true;
    return (Places){{0}};
}

// ---- one byte

static Places take_byte(const Regex *r, const Places *from, const Class *class) {
    Places to = {{0}};
    for (int i = 0; i < r->length; i++)
        if (has(from, i) && class->has[(unsigned char)r->text[i]]) put(&to, i + 1);
    return to;
}

static bool is_word(int byte) { return isalnum(byte) || byte == '_'; }

// What \d, \w, \s and their opposites stand for; false: none of these.
static bool add_named(Class *class, char name) {
    const char kind = (char)tolower((unsigned char)name);
    if (!name || !strchr("dws", kind)) return false;
    for (int b = 0; b < 128; b++) {
        const bool in = kind == 'd' ? isdigit(b) : kind == 'w' ? is_word(b) : isspace(b);
        if (in != (isupper((unsigned char)name) != 0)) class->has[b] = true;
    }
    return true;
}

// The byte behind a backslash that stands for one; -1: something else.
static int escaped(char c) {
    static const char names[] = "nrtfva", bytes[] = "\n\r\t\f\v\a";
    const char *named = c ? strchr(names, c) : NULL;
    if (named) return bytes[named - names];
    return c && !isalnum((unsigned char)c) ? (unsigned char)c : -1;
}

// One member of a [...] that is no named class; -1: not understood.
static int class_byte(Regex *r) {
    const char c = *r->at++;
    if (c == '\\') return escaped(*r->at++);
    return c && !((unsigned char)c & 0x80) ? c : -1;
}

static bool add_range(Regex *r, Class *class) {
    const int first = class_byte(r);
    int last = first;
    if (first >= 0 && r->at[0] == '-' && r->at[1] != ']') {
        r->at++;
        last = class_byte(r);
    }
    for (int b = first; b >= 0 && b <= last; b++) class->has[b] = true;
    return first >= 0 && last >= first;
}

// Behind [
static bool read_class(Regex *r, Class *class) {
    const bool inverted = *r->at == '^';
    const char *begin = r->at += inverted;
    while (*r->at != ']' || r->at == begin) {
        if (r->at[0] == '\\' && add_named(class, r->at[1]))
            r->at += 2;
        else if (!*r->at || !add_range(r, class))
            return false;
    }
    r->at++;
    for (int b = 0; inverted && b < 128; b++) class->has[b] = !class->has[b];
    return true;
}

// ---- places

// \b, \B
static Places at_border(const Regex *r, const Places *from, bool wanted) {
    Places to = {{0}};
    for (int i = 0; i <= r->length; i++) {
        const bool before = i > 0 && is_word((unsigned char)r->text[i - 1]);
        const bool behind = i < r->length && is_word((unsigned char)r->text[i]);
        if (has(from, i) && (before != behind) == wanted) put(&to, i);
    }
    return to;
}

static Places only(const Places *from, int place) {
    Places to = {{0}};
    if (has(from, place)) put(&to, place);
    return to;
}

// ---- what is repeated

static Places look_ahead(Regex *r, const Places *from, bool wanted) {
    const char *begin = r->at;
    Places to = {{0}}, none = {{0}};
    for (int i = 0; i <= r->length; i++) {
        if (!has(from, i)) continue;
        const Places one = only(from, i);
        r->at = begin;
        const Places ends = alternatives(r, &one);
        if (is_empty(&ends) != wanted) put(&to, i);
    }
    r->at = begin;
    alternatives(r, &none); // reads over it, where there is nothing to try too
    return to;
}

// Behind ( and what makes it a group without a lookahead: (?: or (?P<name> or nothing.
static bool skip_kind(Regex *r) {
    if (*r->at != '?') return true;
    if (r->at[1] == ':') {
        r->at += 2;
        return true;
    }
    const char *end = strncmp(r->at, "?P<", 3) == 0 ? strchr(r->at, '>') : NULL;
    if (end) r->at = end + 1;
    return end != NULL;
}

// Behind (
static Places group(Regex *r, const Places *from) {
    Places to;
    if (++r->depth > MAX_DEPTH) return fail(r);
    if (strncmp(r->at, "?=", 2) == 0 || strncmp(r->at, "?!", 2) == 0) {
        r->at += 2;
        to = look_ahead(r, from, r->at[-1] == '=');
    } else {
        if (!skip_kind(r)) return fail(r);
        to = alternatives(r, from);
    }
    r->depth--;
    if (*r->at != ')') return fail(r);
    r->at++;
    return to;
}

// Behind a backslash
static Places escape(Regex *r, const Places *from) {
    Class class = {{0}};
    const char c = *r->at;
    if (!c) return fail(r);
    r->at++;
    if (c == 'b' || c == 'B') return at_border(r, from, c == 'b');
    if (c == 'A') return only(from, 0);
    if (c == 'Z') return only(from, r->length);
    const int byte = escaped(c);
    if (!add_named(&class, c)) {
        if (byte < 0) return fail(r);
        class.has[byte] = true;
    }
    return take_byte(r, from, &class);
}

static Places atom(Regex *r, const Places *from) {
    Class class = {{0}};
    const char c = *r->at++;
    if (++r->steps > MAX_STEPS || strchr("*+?", c) || (unsigned char)c & 0x80) return fail(r);
    if (c == '(') return group(r, from);
    if (c == '\\') return escape(r, from);
    if (c == '^') return only(from, 0);
    if (c == '$') return only(from, r->length);
    if (c == '[') {
        if (!read_class(r, &class)) return fail(r);
    } else if (c == '.') {
        memset(class.has, true, sizeof class.has);
        class.has['\n'] = false;
    } else
        class.has[(unsigned char)c] = true;
    return take_byte(r, from, &class);
}

// ---- repetition

static int read_number(Regex *r, int none) {
    int number = 0;
    if (!isdigit((unsigned char)*r->at)) return none;
    while (isdigit((unsigned char)*r->at)) {
        number = number * 10 + (*r->at++ - '0');
        if (number > MAX_COUNT) number = MAX_COUNT + 1;
    }
    if (number > MAX_COUNT) r->bad = true;
    return number;
}

// {2}, {2,}, {,3}, {2,3}; a brace that begins none of them stands for itself. true: read.
static bool read_braces(Regex *r, int *min, int *max) {
    const char *begin = r->at++;
    const bool digits = isdigit((unsigned char)*r->at), bad = r->bad;
    *min = read_number(r, 0);
    *max = digits ? *min : INT_MAX;
    const bool comma = *r->at == ',';
    if (comma) {
        r->at++;
        *max = read_number(r, INT_MAX);
    }
    if (*r->at == '}' && (digits || comma)) {
        r->at++;
        if (*min > *max) r->bad = true;
        return true;
    }
    r->at = begin;
    r->bad = bad;
    return false;
}

// Lazy or not, the same texts match.
static bool read_counts(Regex *r, int *min, int *max) {
    const char c = *r->at;
    *min = c == '+';
    *max = c == '?' ? 1 : INT_MAX;
    if (c == '{') {
        if (!read_braces(r, min, max)) return false;
    } else if (c && strchr("*+?", c))
        r->at++;
    else
        return false;
    if (*r->at == '?') r->at++;
    if (*r->at && strchr("*+?", *r->at)) r->bad = true; // possessive, or repeated twice
    return true;
}

static Places repeated(Regex *r, const Places *from) {
    const char *begin = r->at;
    int min, max;
    Places reached = atom(r, from), to = {{0}};
    const char *end = r->at;
    if (r->bad || !read_counts(r, &min, &max)) return reached;
    if (r->at == end) return reached;
    end = r->at;
    if (min == 0) to = *from;
    for (int count = 1; count <= max && !r->bad; count++) {
        if (count > 1) {
            const Places before = reached;
            r->at = begin;
            reached = atom(r, &before);
        }
        if ((count >= min && !add(&to, &reached)) || is_empty(&reached)) break;
    }
    r->at = end;
    return to;
}

static Places alternatives(Regex *r, const Places *from) {
    Places to = {{0}}, reached = *from;
    while (*r->at && *r->at != ')' && !r->bad) {
        if (*r->at == '|') {
            add(&to, &reached);
            reached = *from;
            r->at++;
        } else
            reached = repeated(r, &reached);
    }
    add(&to, &reached);
    return to;
}

bool regex_fullmatch(bool *matches, const char *pattern, const char *text) {
    const size_t length = strlen(text);
    Regex r = {.text = text, .at = pattern, .length = (int)length, .bad = length > REGEX_MAX_TEXT};
    Places begin = {{0}};
    put(&begin, 0);
    if (r.bad) return false;
    const Places ends = alternatives(&r, &begin);
    *matches = has(&ends, r.length);
    return !r.bad && *r.at == 0;
}
