// The version of this trainer: shown by --help and at the start of a run, and written into every checkpoint.
#ifndef LLMC_BASE_VERSION_H
#define LLMC_BASE_VERSION_H

#define LLMC_VERSION "0.4.0"

#endif
