// For LD_PRELOAD: a disk that fails, or a machine that stops, at the n-th call that touches a folder.
//
//   FAULTY_PATH   only calls on paths that begin with this (or on files opened there) are counted
//   FAULTY_AT     number of the call that goes wrong, from 1
//   FAULTY_DO     kill: SIGKILL in its place (a write is half done); else the errno that it fails with: EIO, ENOSPC
//   FAULTY_ONWARD set: all later writes fail as well, as on a full disk
//   FAULTY_CALLS  set: only these are counted ("write fsync")
//   FAULTY_NO_EXCHANGE   set: renameat2 fails with EINVAL, as on file systems without it
//   FAULTY_FREE   what statvfs finds free, in bytes
//   FAULTY_RECORD file to which each of these calls that succeeds is appended, a line "CALL PATH" (renames: a tab and the new
//                 path behind it), for tests/support/durable.py
//   FAULTY_DISK   size of the disk in bytes: what the files below FAULTY_PATH leave of it is free
//
// The call that goes wrong is named on stderr. Counted: open (of new files and folders), write, fsync, close, mkdir,
// rename, renameat2, symlink, unlink, remove.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int calls; // counted so far
static int record_fd = -1;

static bool is_watched(const char *path) {
    const char *watched = getenv("FAULTY_PATH");
    return watched && strncmp(path, watched, strlen(watched)) == 0;
}

static const char *path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    return path;
}

// Is this call the one? Then it is named.
static bool is_the_one(const char *call, const char *path) {
    const char *at = getenv("FAULTY_AT"), *among = getenv("FAULTY_CALLS");
    if (!at || !is_watched(path) || (among && !strstr(among, call))) return false;
    calls++;
    bool onward = getenv("FAULTY_ONWARD") && calls > atoi(at) && strcmp(call, "write") == 0;
    if (calls != atoi(at) && !onward) return false;
    if (!onward) dprintf(2, "faulty: %s %s\n", call, path);
    return true;
}

static bool kills(void) { return strcmp(getenv("FAULTY_DO"), "kill") == 0; }

// The end of a call that goes wrong.
static int go_wrong(void) {
    if (kills()) raise(SIGKILL);
    errno = strcmp(getenv("FAULTY_DO"), "ENOSPC") == 0 ? ENOSPC : EIO;
    return -1;
}

// Notes a call that came to `result`, which is returned. to: NULL but for renames.
static long record(long result, const char *call, const char *path, const char *to) {
    const char *file = getenv("FAULTY_RECORD");
    char line[2 * PATH_MAX + 32];
    if (result < 0 || !file || !is_watched(path)) return result;
    int error = errno;
    if (record_fd < 0)
        record_fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    int length = snprintf(line, sizeof line, "%s %s%s%s\n", call, path, to ? "\t" : "", to ? to : "");
    if (syscall(SYS_write, record_fd, line, (size_t)length) != length) abort();
    errno = error;
    return result;
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (flags & (O_CREAT | O_DIRECTORY) && is_the_one("open", path)) return go_wrong();
    int fd = REAL(open)(path, flags, mode);
    return flags & O_CREAT ? (int)record(fd, "open", path, NULL) : fd;
}

// Python's
int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open(path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t bytes) {
    char path[PATH_MAX];
    if (!is_the_one("write", path_of(fd, path))) return record(REAL(write)(fd, data, bytes), "write", path, NULL);
    if (kills()) syscall(SYS_write, fd, data, bytes / 2);
    return go_wrong();
}

int fsync(int fd) {
    char path[PATH_MAX];
    return is_the_one("fsync", path_of(fd, path)) ? go_wrong() : (int)record(REAL(fsync)(fd), "fsync", path, NULL);
}

int close(int fd) {
    char path[PATH_MAX];
    bool wrong = is_the_one("close", path_of(fd, path));
    int result = wrong && kills() ? 0 : REAL(close)(fd);
    return wrong ? go_wrong() : result;
}

int mkdir(const char *path, mode_t mode) {
    return is_the_one("mkdir", path) ? go_wrong() : (int)record(REAL(mkdir)(path, mode), "mkdir", path, NULL);
}

int rename(const char *from, const char *to) {
    return is_the_one("rename", from) ? go_wrong() : (int)record(REAL(rename)(from, to), "rename", from, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (is_watched(from) && getenv("FAULTY_NO_EXCHANGE")) {
        errno = EINVAL;
        return -1;
    }
    if (is_the_one("renameat2", from)) return go_wrong();
    return (int)record(REAL(renameat2)(from_folder, from, to_folder, to, flags), "exchange", from, to);
}

int symlink(const char *target, const char *path) {
    return is_the_one("symlink", path) ? go_wrong() : (int)record(REAL(symlink)(target, path), "symlink", path, NULL);
}

int unlink(const char *path) {
    return is_the_one("unlink", path) ? go_wrong() : (int)record(REAL(unlink)(path), "remove", path, NULL);
}

int remove(const char *path) {
    return is_the_one("remove", path) ? go_wrong() : (int)record(REAL(remove)(path), "remove", path, NULL);
}

static unsigned long long used;

static int add_size(const char *path, const struct stat *status, int type, struct FTW *place) {
    (void)path;
    (void)place;
    if (type == FTW_F) used += (unsigned long long)status->st_blocks * 512;
    return 0;
}

static unsigned long long left_of_disk(void) {
    const unsigned long long all = strtoull(getenv("FAULTY_DISK"), NULL, 10);
    used = 0;
    nftw(getenv("FAULTY_PATH"), add_size, 16, FTW_PHYS);
    return used < all ? all - used : 0;
}

int statvfs(const char *path, struct statvfs *disk) {
    int result = REAL(statvfs)(path, disk);
    if (is_watched(path) && getenv("FAULTY_DISK")) disk->f_bavail = left_of_disk() / disk->f_frsize;
    if (is_watched(path) && getenv("FAULTY_FREE"))
        disk->f_bavail = strtoull(getenv("FAULTY_FREE"), NULL, 10) / disk->f_frsize;
    return result;
}
