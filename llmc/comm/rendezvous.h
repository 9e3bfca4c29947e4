// How ranks meet without MPI: rank 0 listens where MASTER_ADDR and MASTER_PORT say, the others come to it over TCP.
#ifndef LLMC_COMM_RENDEZVOUS_H
#define LLMC_COMM_RENDEZVOUS_H

#include <stddef.h>

#include "base/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *address; // name or number, IPv4 or IPv6
    int port, rank, size;
    double seconds; // until it is given up
} Meeting;

// all[size*bytes] on every rank = mine[bytes] of each. Connections that do not come from a rank of this job (its size
// and bytes, the launcher's job id) are refused; those who come early, try again. Errors: 1 (who was not met, where), 2
// (another world size, a rank that is there already, an address or port that can't be used).
int rendezvous_gather(const Meeting *meeting, void *all, const void *mine, size_t bytes, Error *err);

#ifdef __cplusplus
}
#endif
#endif
