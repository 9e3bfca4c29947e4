// For LD_PRELOAD: a disk that fails, or a machine that stops, at the n-th call that touches a folder.
//
//   FAULTY_PATH   only calls on paths that begin with this (or on files opened there) are counted
//   FAULTY_AT     number of the call that goes wrong, from 1
//   FAULTY_DO     kill: SIGKILL in its place (a write is half done); else the errno that it fails with: EIO, ENOSPC
//   FAULTY_ONWARD set: all later writes fail as well, as on a full disk
//   FAULTY_CALLS  set: only these are counted ("write fsync")
//   FAULTY_NO_EXCHANGE   set: renameat2 fails with EINVAL, as on file systems without it
//   FAULTY_FREE   what statvfs finds free, in bytes
//
// The call that goes wrong is named on stderr. Counted: open (of new files and folders), write, fsync, close, mkdir,
// rename, renameat2, symlink, unlink, remove.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
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

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (flags & (O_CREAT | O_DIRECTORY) && is_the_one("open", path)) return go_wrong();
    return REAL(open)(path, flags, mode);
}

ssize_t write(int fd, const void *data, size_t bytes) {
    char path[PATH_MAX];
    if (!is_the_one("write", path_of(fd, path))) return REAL(write)(fd, data, bytes);
    if (kills()) syscall(SYS_write, fd, data, bytes / 2);
    return go_wrong();
}

int fsync(int fd) {
    char path[PATH_MAX];
    return is_the_one("fsync", path_of(fd, path)) ? go_wrong() : REAL(fsync)(fd);
}

int close(int fd) {
    char path[PATH_MAX];
    bool wrong = is_the_one("close", path_of(fd, path));
    int result = wrong && kills() ? 0 : REAL(close)(fd);
    return wrong ? go_wrong() : result;
}

int mkdir(const char *path, mode_t mode) { return is_the_one("mkdir", path) ? go_wrong() : REAL(mkdir)(path, mode); }

int rename(const char *from, const char *to) {
    return is_the_one("rename", from) ? go_wrong() : REAL(rename)(from, to);
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (is_watched(from) && getenv("FAULTY_NO_EXCHANGE")) {
        errno = EINVAL;
        return -1;
    }
    return is_the_one("renameat2", from) ? go_wrong() : REAL(renameat2)(from_folder, from, to_folder, to, flags);
}

int symlink(const char *target, const char *path) {
    return is_the_one("symlink", path) ? go_wrong() : REAL(symlink)(target, path);
}

int unlink(const char *path) { return is_the_one("unlink", path) ? go_wrong() : REAL(unlink)(path); }

int remove(const char *path) { return is_the_one("remove", path) ? go_wrong() : REAL(remove)(path); }

int statvfs(const char *path, struct statvfs *disk) {
    int result = REAL(statvfs)(path, disk);
    if (is_watched(path) && getenv("FAULTY_FREE"))
        disk->f_bavail = strtoull(getenv("FAULTY_FREE"), NULL, 10) / disk->f_frsize;
    return result;
}
