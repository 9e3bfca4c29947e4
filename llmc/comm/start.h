// How the program was started: alone, by mpirun (or srun with MPI), or by a launcher that sets variables.
#ifndef LLMC_COMM_START_H
#define LLMC_COMM_START_H

#include <stdbool.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { START_ALONE, START_MPI, START_ENVIRONMENT } StartWay;

typedef struct {
    StartWay way;
    int rank, size;
    int local_rank, local_size; // among the ranks of this machine; local_size 0: not known yet
    char address[256];          // START_ENVIRONMENT: where rank 0 is met
    int port;
} Start;

// Reads, in this order: OpenMPI's variables; RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and
// MASTER_PORT (torchrun); SLURM_PROCID, SLURM_STEP_NUM_TASKS (else SLURM_NTASKS), SLURM_LOCALID of a Slurm step, with
// MASTER_ADDR and MASTER_PORT, or PMIx where with_mpi. Errors: 2 (the variable, its value and what was expected). What
// is wrong on all ranks alike is reported by rank 0; the message is empty on the others.
int start_read(Start *start, bool with_mpi, Error *err);

// Leaves an error to another rank, which reports it: empties the message, and waits a second, as launchers end all ranks
// when the first one exits.
void start_leave_to_other(Error *err);

#ifdef __cplusplus
}
#endif
#endif
