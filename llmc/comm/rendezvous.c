// One connection for each rank but 0: it sends a greeting and its bytes, and receives those of all, or the reason why it
// is refused. Rank 0 serves all connections at once, so that a stranger who sends nothing delays nobody.
#include "comm/rendezvous.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"

enum { STRANGERS = 64, PATIENCE_SECONDS = 10, PAUSE_NANOSECONDS = 100000000, TEXT = 200 };

static const char MAGIC[8] = "L3RANKS";

typedef struct {
    char magic[8];
    uint64_t job, bytes;
    uint32_t size, rank;
} Greeting;

typedef struct {
    char magic[8];
    char refusal[TEXT]; // empty: the bytes of all ranks follow
} Answer;

// Tells jobs apart that meet at one port by mistake; 0 where the launcher names none.
static uint64_t job_number(void) {
    const char *names[] = {"TORCHELASTIC_RUN_ID", "SLURM_JOB_ID"};
    char text[512] = "";
    for (int i = 0; i < 2; i++) {
        const char *value = getenv(names[i]);
        snprintf(text + strlen(text), sizeof text - strlen(text), "%.200s/", value ? value : "");
    }
    Digest digest = hash_bytes(text, strlen(text));
    digest.text[16] = 0;
    return strtoull(digest.text, NULL, 16);
}

static Greeting greeting_of(const Meeting *m, size_t bytes) {
    Greeting greeting = {.job = job_number(), .bytes = bytes, .size = (uint32_t)m->size, .rank = (uint32_t)m->rank};
    memcpy(greeting.magic, MAGIC, sizeof MAGIC);
    return greeting;
}

static void set_timeout(int fd, double seconds) {
    if (seconds < 0.001) seconds = 0.001; // 0 would mean: none
    struct timeval time = {.tv_sec = (time_t)seconds,
                           .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

static bool send_all(int fd, const void *data, size_t bytes) {
    for (const char *at = data; bytes;) {
        ssize_t sent = send(fd, at, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        at += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

static bool receive_all(int fd, void *data, size_t bytes) {
    for (char *at = data; bytes;) {
        ssize_t got = recv(fd, at, bytes, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) errno = ECONNRESET;
        if (got <= 0) return false;
        at += got;
        bytes -= (size_t)got;
    }
    return true;
}

// ---- rank 0

typedef struct {
    int fd;
    double since;
    Greeting greeting;
    bool accepted; // the greeting is right; its rank's bytes come, or have come
    bool refused;  // what it still sends is dropped: closing with bytes unread would take the answer from it
    size_t got;    // of the greeting and then the bytes
} Visitor;

typedef struct {
    const Meeting *meeting;
    Greeting own;
    int listener;
    Visitor *visitors; // room for every rank and some strangers
    struct pollfd *polled;
    int count, met;
    bool *present; // [size]
    char *all;
    size_t bytes;
} Host;

static int listen_at(const Meeting *m, Error *err) {
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1, off = 0;
    const bool v6 = fd >= 0;
    if (!v6) fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (v6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off); // IPv4 as well
    struct sockaddr_in6 any6 = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)m->port), .sin6_addr = in6addr_any};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)m->port)};
    const void *any = v6 ? (const void *)&any6 : &any4;
    if (fd >= 0 && bind(fd, any, v6 ? sizeof any6 : sizeof any4) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    fail_input(err, "rank 0 cannot listen on port %d (MASTER_PORT) for %d other ranks: %s", m->port, m->size - 1,
               strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
}

static void leave(Host *host, int index) {
    close(host->visitors[index].fd);
    host->visitors[index] = host->visitors[--host->count];
}

// Why a greeting in the right form is not accepted; false: it is.
static bool is_refused(const Host *host, const Greeting *g, char text[TEXT]) {
    if (g->size != host->own.size)
        snprintf(text, TEXT, "it waits for %u ranks, this one is of %u", host->own.size, g->size);
    else if (g->rank >= g->size || g->bytes != host->own.bytes)
        snprintf(text, TEXT, "this is another version of the program");
    else if (g->job != host->own.job)
        snprintf(text, TEXT, "it belongs to another job");
    else if (host->present[g->rank])
        snprintf(text, TEXT, "rank %u is there already", g->rank);
    else
        return false;
    return true;
}

static bool answer(int fd, const char *refusal) {
    Answer answer = {0};
    memcpy(answer.magic, MAGIC, sizeof MAGIC);
    snprintf(answer.refusal, sizeof answer.refusal, "%s", refusal);
    set_timeout(fd, PATIENCE_SECONDS);
    return send_all(fd, &answer, sizeof answer);
}

static bool drop(const Visitor *v) {
    char dropped[4096];
    ssize_t got = recv(v->fd, dropped, sizeof dropped, MSG_DONTWAIT);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

// Receives what a visitor has sent. Returns false if its connection is to be closed.
static bool receive(Host *host, Visitor *v) {
    if (v->refused) return drop(v);
    const size_t greeting = sizeof v->greeting, end = v->accepted ? greeting + host->bytes : greeting;
    char *to =
        v->accepted ? host->all + v->greeting.rank * host->bytes + (v->got - greeting) : (char *)&v->greeting + v->got;
    ssize_t got = recv(v->fd, to, end - v->got, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) return false;
    v->got += (size_t)got;
    if (v->got < end) return true;
    if (v->accepted) {
        host->met++;
        return true;
    }
    char refusal[TEXT];
    if (memcmp(v->greeting.magic, MAGIC, sizeof MAGIC) != 0) return false;
    if (is_refused(host, &v->greeting, refusal)) {
        v->refused = true;
        return answer(v->fd, refusal) && shutdown(v->fd, SHUT_WR) == 0;
    }
    return v->accepted = host->present[v->greeting.rank] = true;
}

static bool is_met(const Host *host, const Visitor *v) {
    return v->accepted && v->got == sizeof v->greeting + host->bytes;
}

static void receive_from_all(Host *host) {
    for (int i = host->count - 1; i >= 0; i--) {
        Visitor *v = &host->visitors[i];
        const bool has_sent = host->polled[i + 1].revents != 0;
        if (has_sent ? receive(host, v) : is_met(host, v) || clock_seconds() - v->since < PATIENCE_SECONDS) continue;
        if (v->accepted) {
            host->present[v->greeting.rank] = false;
            host->met -= is_met(host, v);
        }
        leave(host, i);
    }
}

static void welcome(Host *host) {
    int fd = accept4(host->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) host->visitors[host->count++] = (Visitor){.fd = fd, .since = clock_seconds()};
}

static int nobody_else_came(const Host *host, Error *err) {
    char missing[100] = "";
    int named = 0;
    for (int r = 1; r < host->meeting->size; r++)
        if (!host->present[r] && named++ < 8)
            snprintf(missing + strlen(missing), sizeof missing - strlen(missing), " %d", r);
    return fail_fault(err, "waited %.0f s at port %d (MASTER_PORT): %d of %d ranks did not come:%s%s",
                      host->meeting->seconds, host->meeting->port, named, host->meeting->size, missing,
                      named > 8 ? " ..." : "");
}

static int wait_for_all(Host *host, Error *err) {
    const double end = clock_seconds() + host->meeting->seconds;
    const int room = host->meeting->size + STRANGERS;
    while (host->met < host->meeting->size - 1) {
        const double left = end - clock_seconds();
        if (left <= 0) return nobody_else_came(host, err);
        host->polled[0] = (struct pollfd){.fd = host->count < room ? host->listener : -1, .events = POLLIN};
        for (int i = 0; i < host->count; i++)
            host->polled[i + 1] = (struct pollfd){.fd = host->visitors[i].fd, .events = POLLIN};
        if (poll(host->polled, (nfds_t)host->count + 1, left < 1 ? (int)(left * 1000) + 1 : 1000) < 0) continue;
        receive_from_all(host);
        if (host->polled[0].revents) welcome(host);
    }
    return 0;
}

static int answer_all(const Host *host, Error *err) {
    for (int i = 0; i < host->count; i++) {
        const Visitor *v = &host->visitors[i];
        if (!v->accepted) continue;
        if (!answer(v->fd, "") || !send_all(v->fd, host->all, (size_t)host->meeting->size * host->bytes))
            return fail_fault(err, "rank %u went away while ranks met at port %d", v->greeting.rank,
                              host->meeting->port);
    }
    return 0;
}

static int host_meeting(const Meeting *m, void *all, size_t bytes, Error *err) {
    const size_t room = (size_t)m->size + STRANGERS;
    Host host = {.meeting = m, .own = greeting_of(m, bytes), .all = all, .bytes = bytes};
    host.listener = listen_at(m, err);
    if (host.listener < 0) return ERROR_INPUT;
    host.visitors = calloc(room, sizeof *host.visitors);
    host.polled = calloc(room + 1, sizeof *host.polled);
    host.present = calloc((size_t)m->size, sizeof *host.present);
    int code = ERROR_FAULT;
    if (host.visitors && host.polled && host.present) {
        host.present[0] = true;
        code = wait_for_all(&host, err);
        if (!code) code = answer_all(&host, err);
    } else {
        fail_fault(err, "no memory to meet %d ranks", m->size);
    }
    for (int i = 0; i < host.count; i++) close(host.visitors[i].fd);
    close(host.listener);
    free(host.visitors);
    free(host.polled);
    free(host.present);
    return code;
}

// ---- the other ranks

// Tries all addresses of a name. Returns a connection or -1 with errno.
static int connect_to(const struct addrinfo *addresses, double seconds) {
    int error = EHOSTUNREACH;
    for (const struct addrinfo *a = addresses; a; a = a->ai_next) {
        int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) continue;
        set_timeout(fd, seconds);
        if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) return fd;
        error = errno == EINPROGRESS ? ETIMEDOUT : errno;
        close(fd);
    }
    errno = error;
    return -1;
}

// One try: true if rank 0 has answered, with a refusal or with all.
static bool visit(const Meeting *m, const struct addrinfo *addresses, void *all, const void *mine, size_t bytes,
                  Answer *answer, double seconds) {
    int fd = connect_to(addresses, seconds);
    if (fd < 0) return false;
    const Greeting greeting = greeting_of(m, bytes);
    bool done = send_all(fd, &greeting, sizeof greeting) && send_all(fd, mine, bytes);
    done = done && receive_all(fd, answer, sizeof *answer);
    if (done && memcmp(answer->magic, MAGIC, sizeof MAGIC) != 0) {
        errno = EPROTO;
        done = false;
    }
    answer->refusal[TEXT - 1] = 0;
    if (done && !answer->refusal[0]) done = receive_all(fd, all, (size_t)m->size * bytes);
    const int error = errno;
    close(fd);
    errno = error;
    return done;
}

static int look_up(const Meeting *m, struct addrinfo **addresses, Error *err) {
    char port[16];
    snprintf(port, sizeof port, "%d", m->port);
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    int error = getaddrinfo(m->address, port, &hints, addresses);
    if (!error) return 0;
    return fail_input(err, "MASTER_ADDR is '%.200s': %s", m->address, gai_strerror(error));
}

static int go_to_meeting(const Meeting *m, void *all, const void *mine, size_t bytes, Error *err) {
    struct addrinfo *addresses;
    int code = look_up(m, &addresses, err);
    if (code) return code;
    const double end = clock_seconds() + m->seconds;
    const struct timespec pause = {.tv_nsec = PAUSE_NANOSECONDS};
    Answer answer;
    bool answered = false;
    for (double left; !answered && (left = end - clock_seconds()) > 0;) {
        answered = visit(m, addresses, all, mine, bytes, &answer, left);
        if (!answered) nanosleep(&pause, NULL);
    }
    freeaddrinfo(addresses);
    if (!answered)
        return fail_fault(err, "rank %d waited %.0f s for rank 0 at %s port %d: %s", m->rank, m->seconds, m->address,
                          m->port,
                          errno == EAGAIN ? "it did not answer, perhaps other ranks did not come" : strerror(errno));
    if (!answer.refusal[0]) return 0;
    return fail_input(err, "rank %d was refused by rank 0 at %s port %d: %s", m->rank, m->address, m->port,
                      answer.refusal);
}

int rendezvous_gather(const Meeting *meeting, void *all, const void *mine, size_t bytes, Error *err) {
    if (meeting->rank > 0) return go_to_meeting(meeting, all, mine, bytes, err);
    memcpy(all, mine, bytes);
    return host_meeting(meeting, all, bytes, err);
}
