#include "comm/start.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_RANKS = 1 << 20 };

// The names of one launcher's variables. NULL: it has none.
typedef struct {
    const char *rank, *size, *local_rank, *local_size;
} Names;

static const Names torchrun = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
static const Names slurm_step = {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", NULL};
static const Names slurm_job = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", NULL};

static const char *given(const char *name) {
    const char *value = name ? getenv(name) : NULL;
    return value && *value ? value : NULL;
}

static int read_number(int *out, const char *name, int least, int most, Error *err) {
    const char *value = given(name);
    if (!value) return fail_input(err, "%s is not set, expected an integer from %d to %d", name, least, most);
    char *end;
    errno = 0;
    long number = strtol(value, &end, 10);
    if (errno || end == value || *end || number < least || number > most)
        return fail_input(err, "%s is '%.64s', expected an integer from %d to %d", name, value, least, most);
    *out = (int)number;
    return 0;
}

void start_leave_to_other(Error *err) {
    if (err) err->message[0] = 0;
    sleep(1);
}

// The variable is the same everywhere, so that one line is enough.
static int told_by_rank_0(const char *rank_name, int code, Error *err) {
    Error ignored = {0};
    int rank = 0;
    if (code && !read_number(&rank, rank_name, 0, MOST_RANKS - 1, &ignored) && rank > 0) start_leave_to_other(err);
    return code;
}

static int read_meeting_place(Start *start, const char *how, Error *err) {
    const char *address = given("MASTER_ADDR");
    if (!address)
        return fail_input(err, "MASTER_ADDR is not set, expected the address of rank 0, as %d ranks were started%s",
                          start->size, how);
    if (strlen(address) >= sizeof start->address)
        return fail_input(err, "MASTER_ADDR has %zu characters, expected at most %zu", strlen(address),
                          sizeof start->address - 1);
    snprintf(start->address, sizeof start->address, "%s", address);
    const char *taken = given("TORCHELASTIC_USE_AGENT_STORE"); // torchrun itself listens at the port
    const int beside = taken && strcmp(taken, "True") == 0;
    int code = read_number(&start->port, "MASTER_PORT", 1, 65535 - beside, err);
    start->port += beside;
    return code;
}

static int read_environment(Start *start, const Names *names, const char *how, Error *err) {
    int code = read_number(&start->size, names->size, 1, MOST_RANKS, err);
    if (code) return told_by_rank_0(names->rank, code, err);
    if (start->size == 1) return 0;
    start->way = START_ENVIRONMENT;
    code = read_number(&start->rank, names->rank, 0, start->size - 1, err);
    if (code) return code;
    code = read_number(&start->local_rank, names->local_rank, 0, start->size - 1, err);
    if (code) return told_by_rank_0(names->rank, code, err);
    if (given(names->local_size))
        code = read_number(&start->local_size, names->local_size, start->local_rank + 1, start->size, err);
    if (!code) code = read_meeting_place(start, how, err);
    return told_by_rank_0(names->rank, code, err);
}

static int read_mpirun(Start *start, bool with_mpi, Error *err) {
    Error ignored;
    int code = read_number(&start->size, "OMPI_COMM_WORLD_SIZE", 1, MOST_RANKS, err);
    if (code || start->size == 1) return code;
    start->way = START_MPI;
    read_number(&start->rank, "OMPI_COMM_WORLD_RANK", 0, start->size - 1, &ignored); // MPI will tell
    if (with_mpi) return 0;
    code = fail_input(err,
                      "mpirun started %d ranks, but this program was built without MPI: build with MPI=1, or start the "
                      "ranks with torchrun",
                      start->size);
    return told_by_rank_0("OMPI_COMM_WORLD_RANK", code, err);
}

static int read_slurm(Start *start, bool with_mpi, Error *err) {
    const Names *names = given("SLURM_STEP_NUM_TASKS") ? &slurm_step : &slurm_job;
    if (!with_mpi || !given("PMIX_RANK"))
        return read_environment(start, names,
                                with_mpi ? " by srun without PMIx (srun --mpi=pmix needs none)" : " by srun", err);
    int code = read_number(&start->size, names->size, 1, MOST_RANKS, err);
    if (code || start->size == 1) return told_by_rank_0(names->rank, code, err);
    start->way = START_MPI;
    return read_number(&start->rank, names->rank, 0, start->size - 1, err);
}

int start_read(Start *start, bool with_mpi, Error *err) {
    *start = (Start){.way = START_ALONE, .size = 1, .local_size = 0};
    int code = 0;
    if (given("OMPI_COMM_WORLD_SIZE"))
        code = read_mpirun(start, with_mpi, err);
    else if (given("WORLD_SIZE") || given("RANK"))
        code = read_environment(start, &torchrun, "", err);
    else if (given("SLURM_PROCID") && given("SLURM_STEP_ID")) // a batch script has the first and is one process
        code = read_slurm(start, with_mpi, err);
    if (start->way == START_ALONE) start->local_size = 1;
    return code;
}
