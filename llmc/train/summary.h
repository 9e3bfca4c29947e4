// What is printed of a run before it begins.
#ifndef LLMC_TRAIN_SUMMARY_H
#define LLMC_TRAIN_SUMMARY_H

#include "train/trainer.h"

void summary_print(const Trainer *t);

#endif
