/* Preloaded into the program: kills it before its KILL_AT-th change of a file below KILL_UNDER, and writes how many
   changes there were to KILL_COUNT when the program ends by itself. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int changes;

static void change(void) {
    const char *at = getenv("KILL_AT");
    int number = atomic_fetch_add(&changes, 1) + 1;
    if (at && number == atoi(at)) kill(getpid(), SIGKILL);
}

static int is_under(const char *path) {
    const char *under = getenv("KILL_UNDER");
    return under && path && strncmp(path, under, strlen(under)) == 0;
}

static int fd_is_under(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_under(path);
}

/* Below a folder that is open, or below KILL_UNDER by its whole path. */
static int at_is_under(int folder, const char *path) {
    return path[0] == '/' || folder == AT_FDCWD ? is_under(path) : fd_is_under(folder);
}

__attribute__((destructor)) static void count(void) {
    const char *file = getenv("KILL_COUNT");
    if (!file) return;
    FILE *out = fopen(file, "w");
    if (out) fprintf(out, "%d", atomic_load(&changes)), fclose(out);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRITES (O_CREAT | O_TRUNC)

#define OPEN(name)                                                                              \
    int name(const char *path, int flags, ...) {                                                \
        va_list rest;                                                                           \
        va_start(rest, flags);                                                                  \
        mode_t mode = va_arg(rest, mode_t);                                                     \
        va_end(rest);                                                                           \
        if ((flags & WRITES) && is_under(path)) change();                                       \
        return REAL(name)(path, flags, mode);                                                   \
    }
OPEN(open)
OPEN(open64)

#define CHANGES(result, name, condition, parameters, ...)                                       \
    result name parameters {                                                                    \
        if (condition) change();                                                                \
        return REAL(name)(__VA_ARGS__);                                                         \
    }
CHANGES(ssize_t, write, fd_is_under(fd), (int fd, const void *data, size_t n), fd, data, n)
CHANGES(ssize_t, writev, fd_is_under(fd), (int fd, const struct iovec *data, int n), fd, data, n)
CHANGES(int, rename, is_under(to), (const char *from, const char *to), from, to)
CHANGES(int, unlink, is_under(path), (const char *path), path)
CHANGES(int, unlinkat, at_is_under(at, path), (int at, const char *path, int flags), at, path, flags)
CHANGES(int, mkdir, is_under(path), (const char *path, mode_t mode), path, mode)
CHANGES(int, rmdir, is_under(path), (const char *path), path)
CHANGES(int, symlink, is_under(path), (const char *to, const char *path), to, path)
CHANGES(int, ftruncate64, fd_is_under(fd), (int fd, off64_t length), fd, length)
