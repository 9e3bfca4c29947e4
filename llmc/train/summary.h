// Prints what a run will do: version, device, model, data, length, ranks, the checkpoint it resumes, memory.
#ifndef LLMC_TRAIN_SUMMARY_H
#define LLMC_TRAIN_SUMMARY_H

#include "train/resume.h"
#include "train/run.h"
#include "train/sample.h"
#include "train/task.h"
#include "train/train_data.h"

void summary_print(const Run *run, const RunIdentity *identity, const Resume *resume, const TrainData *data,
                   const TaskKind *kind, const Llama3 *model, const Sampling *sampling);

#endif
