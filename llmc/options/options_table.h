// The table of options: each stands in it once, and the parser, --help, the bounds check, the run's saved
// copy and the comparison on resume are made from it. For the files options*.c only.
#ifndef LLMC_OPTIONS_OPTIONS_TABLE_H
#define LLMC_OPTIONS_OPTIONS_TABLE_H

#include <stddef.h>

#include "options/options.h"

typedef enum { TYPE_HEADING, TYPE_TEXT, TYPE_FLAG, TYPE_INTEGER, TYPE_REAL, TYPE_SWITCH, TYPE_CHOICE } OptionType;

// What another value means for a run that is resumed: for the losses of its later steps and its final
// weights.
typedef enum {
    EFFECT_UNKNOWN, // nobody has thought about it: no row may have it
    EFFECT_NONE,    // the same bits
    EFFECT_RESULT,  // another result: compared with the checkpoint's value
    EFFECT_CONTENT, // a file's name: what the file says is compared, wherever it lies
    EFFECT_START    // matters for a run's first start only
} OptionEffect;

typedef struct {
    const char *name; // of a heading: its text
    int letter;       // short name, 0: none
    OptionType type;
    OptionEffect effect;
    size_t field;             // offset in Options
    const char *value;        // how --help calls the value
    const char *unit;         // NULL: has none
    const char *initial;      // default as it would be typed; NULL: none
    const char *initial_note; // what --help says in place of initial
    double min, max;          // inclusive (TYPE_INTEGER, TYPE_REAL)
    const char *choices;      // TYPE_CHOICE: names divided by |
    bool own;                 // ranks may have other values
    const char *help;
} OptionSpec;

enum { OPTIONS_ROWS_AT_MOST = 128 }; // Options.given has a bit for each row
extern const OptionSpec options_table[];
extern const int options_rows;

const OptionSpec *options_find(const char *name); // NULL: no such option
const OptionSpec *options_find_letter(int letter);
// Whether a recipe's stages say it: then it has the running stage's value.
bool options_set_by_recipe(const OptionSpec *spec);

bool options_given(const Options *options, const char *name);

void *options_field(Options *options, const OptionSpec *spec);
const void *options_field_of(const Options *options, const OptionSpec *spec);

// Sets the option to what text says. Errors: 2 (option, what was expected, what was found).
int options_set(Options *options, const OptionSpec *spec, const char *text, Error *err);

// *options = the table's defaults.
int options_set_defaults(Options *options, Error *err);

// text = the option's value as it would be typed; "none" for a text that was not given.
void options_print_value(char *text, size_t capacity, const OptionSpec *spec, const Options *options);

#endif
