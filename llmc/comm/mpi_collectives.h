// One collective by MPI's blocking calls, for the thread that does them all (mpi_transport.c).
#ifndef LLMC_COMM_MPI_COLLECTIVES_H
#define LLMC_COMM_MPI_COLLECTIVES_H

#include <mpi.h>

#include "comm/transport.h"

// A failing call ends the program with code 1 and one line: what failed, where.
#define mpi_check(call) mpi_check_at((call), #call, __FILE__, __LINE__)
void mpi_check_at(int error, const char *call, const char *file, int line);

// Buffers for the pieces in which data travel; page-locked on a GPU. `staged`: device memory is copied through them.
typedef struct {
    bool staged;
    float *send, *receive;
    cudaStream_t stream; // for the copies
} MpiScratch;

void mpi_scratch_create(MpiScratch *scratch, bool staged);
void mpi_scratch_destroy(MpiScratch *scratch);

void mpi_collective(MpiScratch *scratch, MPI_Comm group, const Collective *collective);

#endif
