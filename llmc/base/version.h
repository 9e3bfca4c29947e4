// The version of this trainer: shown by --help and at the start of a run, and written into every checkpoint.
#ifndef LLMC_BASE_VERSION_H
#define LLMC_BASE_VERSION_H

#define LLMC_VERSION "0.4.0"

#ifdef __cplusplus
extern "C" {
#endif

// "PROGRAM 0.4.0, commit 1a2b3c4, cpu, bf16": what --version prints. The text lives until the next call.
const char *version_of(const char *program);

// Type of parameters and activations in this build: "bf16" or "fp32".
const char *version_precision(void);

#ifdef __cplusplus
}
#endif

#endif
