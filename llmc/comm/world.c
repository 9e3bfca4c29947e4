// How ranks meet: the start is read, every rank gives a card to all, and only if all of them can go on, the transport
// is opened.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/rendezvous.h"
#include "comm/transport.h"
#include "device/device.h"

enum { MEETING_SECONDS = 120, LONGER = 10 }; // rank 0 gives up first and names those who did not come

// What a rank tells the others before they begin.
typedef struct {
    int code; // not 0: it cannot go on, for this reason
    char message[500];
    unsigned char id[NCCL_ID_BYTES]; // of rank 0
    int by_nccl;
    char gpu[80]; // names the GPU among those of all machines; empty: it may be shared
} Card;

static bool uses_nccl(TransportChoice choice) {
    return choice == TRANSPORT_NCCL || (choice == TRANSPORT_AUTO && WITH_NCCL);
}

static int check_choice(const World *world, TransportChoice choice, bool by_nccl, Error *err) {
    if (choice == TRANSPORT_NCCL && !WITH_NCCL)
        return fail_input(err, "transport nccl: this program was built without NCCL");
    if (choice == TRANSPORT_MPI && !WITH_MPI)
        return fail_input(err, "transport mpi: this program was built without MPI");
    if (world->start.way == START_ENVIRONMENT && !by_nccl)
        return fail_input(err,
                          "%d ranks were started by environment variables, which serve NCCL; ranks that exchange by "
                          "MPI, as all of the cpu target do, are started by mpirun",
                          world->start.size);
    return 0;
}

// A rank's GPU is the one of its number on its machine, or the only one that it is shown.
static int take_device(World *world, bool by_nccl, Error *err) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) {
        cudaGetLastError(); // reported here
        return fail_input(err, "no GPU is visible to this rank");
    }
    const int needed =
        world->start.local_size > world->start.local_rank ? world->start.local_size : world->start.local_rank + 1;
    if (by_nccl && devices > 1 && needed > devices)
        return fail_input(err,
                          "%d ranks on a machine with %d GPUs: start at most %d there, or let ranks share a GPU by "
                          "transport mpi",
                          needed, devices, devices);
    world->device = world->start.local_rank % devices;
    cuda_check(cudaSetDevice(world->device));
    return 0;
}

static Card make_card(World *world, TransportChoice choice) {
    Card card = {0};
    Error error = {0};
    card.by_nccl = uses_nccl(choice);
    check_choice(world, choice, card.by_nccl, &error);
    if (!error.code) take_device(world, card.by_nccl, &error);
    if (!error.code && card.by_nccl) nccl_name_device(card.gpu, sizeof card.gpu, world->device);
    if (!error.code && card.by_nccl && world->start.rank == 0) nccl_new_id(card.id, &error);
    card.code = error.code;
    snprintf(card.message, sizeof card.message, "%.*s", (int)sizeof card.message - 1, error.message);
    return card;
}

static int gather_cards(World *world, Card *all, const Card *mine, Error *err) {
    if (world->start.way == START_MPI) {
        comm_host_gather(world->comm, all, mine, sizeof *mine);
        return 0;
    }
    const Meeting meeting = {world->start.address, world->start.port, world->start.rank, world->start.size,
                             MEETING_SECONDS + (world->start.rank > 0 ? LONGER : 0)};
    return rendezvous_gather(&meeting, all, mine, sizeof *mine, err);
}

// Fails on all ranks if one cannot go on; only `teller` has a message.
static int all_fail(const World *world, int teller, int code, const char *message, Error *err) {
    code == ERROR_INPUT ? fail_input(err, "%s", message) : fail_fault(err, "%s", message);
    if (world->start.rank != teller && err) err->message[0] = 0;
    return code;
}

static int ranks_on_one_gpu(const World *world, const Card *all, Error *err) {
    for (int i = 0; i < world->start.size; i++)
        for (int j = i + 1; all[i].gpu[0] && j < world->start.size; j++) {
            if (strcmp(all[i].gpu, all[j].gpu) != 0) continue;
            char text[400];
            snprintf(
                text, sizeof text,
                "ranks %d and %d have the same GPU (%s): there are more ranks than GPUs; start fewer, or let ranks "
                "share a GPU by transport mpi",
                i, j, all[i].gpu);
            return all_fail(world, 0, ERROR_INPUT, text, err);
        }
    return 0;
}

static int judge_cards(const World *world, const Card *all, Error *err) {
    for (int i = 0; i < world->start.size; i++) {
        if (all[i].code) return all_fail(world, i, all[i].code, all[i].message, err);
        if (all[i].by_nccl != all[0].by_nccl)
            return all_fail(world, 0, ERROR_INPUT, "ranks were given different transports", err);
    }
    return ranks_on_one_gpu(world, all, err);
}

// Puts NCCL in front of `world`, which stays for an orderly end if it is MPI's.
static int put_nccl(World **out, const unsigned char *id, Error *err) {
    World *world = calloc(1, sizeof *world), *meeting = *out;
    if (!world) return fail_fault(err, "no memory for the exchange between ranks");
    world->start = meeting->start;
    world->device = meeting->device;
    world->meeting = meeting;
    *out = world;
    return nccl_open(world, id, err);
}

static int meet(World **out, TransportChoice choice, Error *err) {
    World *world = *out;
    Card mine = make_card(world, choice), *all = calloc((size_t)world->start.size, sizeof *all);
    if (!all) return fail_fault(err, "no memory to meet %d ranks", world->start.size);
    int code = gather_cards(world, all, &mine, err);
    if (!code) code = judge_cards(world, all, err);
    if (!code && mine.by_nccl) code = put_nccl(out, all[0].id, err);
    free(all);
    return code;
}

// One rank that exchanges with itself: nothing for users, but all of NCCL's calls on a machine with one GPU.
static int open_alone(World **out, TransportChoice choice, Error *err) {
    unsigned char id[NCCL_ID_BYTES];
    if (choice != TRANSPORT_NCCL) return 0;
    int code = check_choice(*out, choice, true, err);
    if (!code) code = take_device(*out, true, err);
    if (!code) code = nccl_new_id(id, err);
    return code ? code : put_nccl(out, id, err);
}

int world_open(World **out, TransportChoice choice, Error *err) {
    World *world = *out = calloc(1, sizeof *world);
    if (!world) return fail_fault(err, "no memory for the exchange between ranks");
    int code = start_read(&world->start, WITH_MPI, err);
    if (!code && world->start.way == START_ALONE) return open_alone(out, choice, err);
    if (code) return code;
    if (world->start.way == START_ENVIRONMENT) {
        code = check_choice(world, choice, uses_nccl(choice), err);
        if (code && world->start.rank > 0) start_leave_to_other(err);
    } else {
        code = mpi_open(world, err);
        if (code && world->start.rank > 0) start_leave_to_other(err);
    }
    return code ? code : meet(out, choice, err);
}
