// Prints what a run will do: version, device, model, data, length, ranks, the checkpoint it resumes, memory.
#ifndef LLMC_TRAIN_SUMMARY_H
#define LLMC_TRAIN_SUMMARY_H

#include "train/trainer.h"

void summary_print(const Trainer *t);

#endif
