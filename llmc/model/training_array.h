// What the optimizer keeps of each parameter. (Names of the arrays in files: checkpoint/parts.h.)
#ifndef LLMC_MODEL_TRAINING_ARRAY_H
#define LLMC_MODEL_TRAINING_ARRAY_H

typedef enum {
    TRAINING_MASTER,
    TRAINING_MOMENT1,
    TRAINING_MOMENT2,
    TRAINING_AVERAGE, // where shape.average is set
    TRAINING_ARRAYS,  // at most
} TrainingArray;

#endif
