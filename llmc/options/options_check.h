// What must hold between options, beyond the bounds of each.
#ifndef LLMC_OPTIONS_OPTIONS_CHECK_H
#define LLMC_OPTIONS_OPTIONS_CHECK_H

#include "options/options.h"

// Sets what follows from other options, as far as it is known before the data and the ranks are. Errors: 2 (option, value,
// what was expected).
int options_check(Options *options, Error *err);

// Refuses (2) beside --recipe the options that it sets, and what cannot be combined with it; --dry-run without it.
int options_check_recipe(const Options *options, Error *err);

#endif
