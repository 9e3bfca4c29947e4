#include "run/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { MAX_OWNER = 320 };

// owner = "HOST/PID" as the file says; "" where it says nothing.
static void read_owner(int fd, char owner[MAX_OWNER]) {
    ssize_t length = pread(fd, owner, MAX_OWNER - 1, 0);
    owner[length > 0 ? length : 0] = 0;
    owner[strcspn(owner, "\n")] = 0;
    char *blank = strchr(owner, ' ');
    if (blank) *blank = '/';
}

static void write_owner(int fd) {
    char host[256] = "", text[MAX_OWNER];
    gethostname(host, sizeof host - 1);
    int length = snprintf(text, sizeof text, "%s %ld\n", host, (long)getpid());
    // for people to read: a full disk takes nothing from the lock itself
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)length, 0) != length) (void)ftruncate(fd, 0);
}

// Is the open file still the one of that name? Its holder removes it before it gives the lock back.
static bool is_named(int fd, const char *path) {
    struct stat open_file, named;
    return fstat(fd, &open_file) == 0 && stat(path, &named) == 0 && open_file.st_ino == named.st_ino &&
           open_file.st_dev == named.st_dev;
}

static int fail_locked(int fd, const char *path, Error *err) {
    char owner[MAX_OWNER];
    read_owner(fd, owner);
    return fail_input(err, "%s: locked by %s: expected a folder into which no other run writes", path,
                      *owner ? owner : "another run");
}

// One try. *again: the file went away meanwhile.
static int try_lock(Lock *lock, const char *path, bool *again, Error *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return file_fail_open(err, path, errno);
    int failed = flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
    int code = failed == EWOULDBLOCK ? fail_locked(fd, path, err) : 0;
    *again = !code && !is_named(fd, path);
    if (code || *again) {
        close(fd);
        return code;
    }
    char owner[MAX_OWNER];
    read_owner(fd, owner);
    if (failed)
        error_print("%s: no lock (%s); going on without", path, strerror(failed));
    else if (*owner)
        printf("lock      %s: taken over from %s, which ended without giving it back\n", path, owner);
    write_owner(fd);
    lock->fd = fd;
    return 0;
}

int lock_take(Lock *lock, const char *path, Error *err) {
    bool again = true;
    lock->fd = -1;
    if (snprintf(lock->path, sizeof lock->path, "%s", path) >= PATH_MAX)
        return fail_input(err, "%.200s...: path too long", path);
    while (again) {
        int code = try_lock(lock, path, &again, err);
        if (code) return code;
    }
    return 0;
}

void lock_release(Lock *lock) {
    if (lock->fd < 0) return;
    unlink(lock->path);
    close(lock->fd);
    lock->fd = -1;
}
