/* Preloaded into a process: counts its file operations under one directory, those of C++ threads
 * too, and at one of them kills the process group or lets the operation fail.
 *
 * What to do stands in a file that is mapped by the process and by its children (`struct control`,
 * which `shim.py` writes), so that all of them count together. Nothing is done until
 * `faults_arm`, or in children the environment's FAULTS_CONTROL, names that file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN, WRITE, RENAME, LINK, UNLINK, MKDIR, SYNC, TRUNCATE };
static const char *const NAMES[] = {"open",   "write", "rename", "link",
                                    "unlink", "mkdir", "sync",   "truncate"};
enum { NOTHING, KILL_GROUP, KILL_SELF, FAIL };
enum { BEFORE, AFTER, HALF };

struct control {
    char root[512], match[256];
    int64_t count, first, last;      /* matching operations; act on first, ..., last */
    int32_t kinds, action, when, error, logging, acted;
    int64_t log_size, log_end;
    char log[];
};

static struct control *control;
static __thread int die_after;

#define REAL(type, name, ...)                                  \
    static type (*real)(__VA_ARGS__);                          \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void faults_arm(const char *file) {
    REAL(int, "open", const char *, int, ...);
    struct stat found;
    int fd = real(file, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &found)) abort();
    control = mmap(NULL, found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) abort();
    close(fd);
}

__attribute__((constructor)) static void begin(void) {
    if (getenv("FAULTS_CONTROL")) faults_arm(getenv("FAULTS_CONTROL"));
}

static void die(void) {
    kill(control->action == KILL_SELF ? getpid() : 0, SIGKILL);
    for (;;) pause();
}

static const char *of_fd(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, 4095);
    path[n < 0 ? 0 : n] = 0;
    return path;
}

static const char *at(int fd, const char *name, char *path) {
    if (name[0] == '/') return name;
    if (fd != AT_FDCWD) of_fd(fd, path);
    else if (!getcwd(path, 4096)) path[0] = 0;
    size_t n = strlen(path);
    snprintf(path + n, 4096 - n, "/%s", name);
    return path;
}

/* A part of the path or, where it ends with a dollar, its end. */
static int matches(const char *path, const char *part) {
    size_t n = strlen(path), m = strlen(part);
    if (!m || part[m - 1] != '$') return strstr(path, part) != NULL;
    return n >= m - 1 && !memcmp(path + n - (m - 1), part, m - 1);
}

/* Whether the operation is to fail (1, errno is set), to be cut short (2), or to be done (0). */
static int ask(int kind, const char *path) {
    struct control *c = control;
    size_t n = strlen(c->root);
    if (strncmp(path, c->root, n) || (path[n] && path[n] != '/')) return 0;
    path += n;
    if (c->logging) {
        char line[1024];
        int size = snprintf(line, sizeof line, "%s %s\n", NAMES[kind], path);
        if (size >= (int)sizeof line) size = sizeof line - 1;
        int64_t begin = __sync_fetch_and_add(&c->log_end, size);
        if (begin + size <= c->log_size) memcpy(c->log + begin, line, size);
    }
    if (!(c->kinds >> kind & 1) || !matches(path, c->match)) return 0;
    int64_t number = __sync_add_and_fetch(&c->count, 1);
    if (number < c->first || number > c->last || c->action == NOTHING) return 0;
    c->acted = 1;
    if (c->action == FAIL) {
        /* A disk that fills up takes the beginning. */
        if (kind == WRITE && c->last > c->first && number == c->first) return 2;
        errno = c->error;
        return 1;
    }
    if (c->when == BEFORE) die();
    die_after = 1;
    return c->when == HALF && kind == WRITE ? 2 : 0;
}

static long done(long result) {
    if (die_after) die();
    return result;
}

#define BODY(type, name, signature, call, kind, path, ...)                \
    type name signature {                                                 \
        REAL(type, #name, __VA_ARGS__);                                   \
        char space[4096];                                                 \
        (void)space;                                                      \
        if (control && ask(kind, path) == 1) return -1;                   \
        return done(real call);                                           \
    }

BODY(int, rename, (const char *a, const char *b), (a, b), RENAME, at(AT_FDCWD, b, space),
     const char *, const char *)
BODY(int, renameat, (int d, const char *a, int e, const char *b), (d, a, e, b), RENAME,
     at(e, b, space), int, const char *, int, const char *)
BODY(int, renameat2, (int d, const char *a, int e, const char *b, unsigned f), (d, a, e, b, f),
     RENAME, at(e, b, space), int, const char *, int, const char *, unsigned)
BODY(int, link, (const char *a, const char *b), (a, b), LINK, at(AT_FDCWD, b, space),
     const char *, const char *)
BODY(int, linkat, (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f), LINK,
     at(e, b, space), int, const char *, int, const char *, int)
BODY(int, symlink, (const char *a, const char *b), (a, b), LINK, at(AT_FDCWD, b, space),
     const char *, const char *)
BODY(int, unlink, (const char *a), (a), UNLINK, at(AT_FDCWD, a, space), const char *)
BODY(int, rmdir, (const char *a), (a), UNLINK, at(AT_FDCWD, a, space), const char *)
BODY(int, unlinkat, (int d, const char *a, int f), (d, a, f), UNLINK, at(d, a, space), int,
     const char *, int)
BODY(int, mkdir, (const char *a, mode_t m), (a, m), MKDIR, at(AT_FDCWD, a, space),
     const char *, mode_t)
BODY(int, mkdirat, (int d, const char *a, mode_t m), (d, a, m), MKDIR, at(d, a, space), int,
     const char *, mode_t)
BODY(int, fsync, (int fd), (fd), SYNC, of_fd(fd, space), int)
BODY(int, fdatasync, (int fd), (fd), SYNC, of_fd(fd, space), int)
BODY(int, ftruncate, (int fd, off_t n), (fd, n), TRUNCATE, of_fd(fd, space), int, off_t)
BODY(int, ftruncate64, (int fd, off64_t n), (fd, n), TRUNCATE, of_fd(fd, space), int, off64_t)
BODY(int, truncate, (const char *a, off_t n), (a, n), TRUNCATE, at(AT_FDCWD, a, space),
     const char *, off_t)
BODY(ssize_t, sendfile, (int o, int i, off_t *p, size_t n), (o, i, p, n), WRITE,
     of_fd(o, space), int, int, off_t *, size_t)
BODY(ssize_t, sendfile64, (int o, int i, off64_t *p, size_t n), (o, i, p, n), WRITE,
     of_fd(o, space), int, int, off64_t *, size_t)
BODY(ssize_t, copy_file_range, (int i, off64_t *p, int o, off64_t *q, size_t n, unsigned f),
     (i, p, o, q, n, f), WRITE, of_fd(o, space), int, off64_t *, int, off64_t *, size_t, unsigned)

#define BYTES(name, signature, whole, half, ...)                          \
    ssize_t name signature {                                              \
        REAL(ssize_t, #name, __VA_ARGS__);                                \
        char space[4096];                                                 \
        int what = control ? ask(WRITE, of_fd(fd, space)) : 0;            \
        if (what == 1) return -1;                                         \
        return done(what == 2 && n > 1 ? real half : real whole);         \
    }

BYTES(write, (int fd, const void *p, size_t n), (fd, p, n), (fd, p, n / 2), int, const void *,
      size_t)
BYTES(pwrite, (int fd, const void *p, size_t n, off_t o), (fd, p, n, o), (fd, p, n / 2, o), int,
      const void *, size_t, off_t)
BYTES(pwrite64, (int fd, const void *p, size_t n, off64_t o), (fd, p, n, o), (fd, p, n / 2, o),
      int, const void *, size_t, off64_t)

ssize_t writev(int fd, const struct iovec *v, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    char space[4096];
    int what = control ? ask(WRITE, of_fd(fd, space)) : 0;
    if (what == 1) return -1;
    struct iovec half = {n ? v[0].iov_base : NULL, n ? v[0].iov_len / 2 : 0};
    return done(what == 2 && half.iov_len ? real(fd, &half, 1) : real(fd, v, n));
}

#define WRITES(flags) ((flags) & (O_CREAT | O_TRUNC) || ((flags) & O_ACCMODE) != O_RDONLY)
#define NEEDS_MODE(flags) ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE)
#define OPENING(name, signature, fd, call, ...)                           \
    int name signature {                                                  \
        REAL(int, #name, __VA_ARGS__);                                    \
        char space[4096];                                                 \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        mode_t mode = NEEDS_MODE(flags) ? va_arg(more, mode_t) : 0;         \
        va_end(more);                                                     \
        if (control && WRITES(flags) && ask(OPEN, at(fd, path, space)) == 1) return -1; \
        return done(real call);                                           \
    }

OPENING(open, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode), const char *,
        int, ...)
OPENING(open64, (const char *path, int flags, ...), AT_FDCWD, (path, flags, mode), const char *,
        int, ...)
OPENING(openat, (int d, const char *path, int flags, ...), d, (d, path, flags, mode), int,
        const char *, int, ...)
OPENING(openat64, (int d, const char *path, int flags, ...), d, (d, path, flags, mode), int,
        const char *, int, ...)

#define STREAM(name)                                                      \
    FILE *name(const char *path, const char *mode) {                      \
        REAL(FILE *, #name, const char *, const char *);                  \
        char space[4096];                                                 \
        if (control && strpbrk(mode, "wa+") && ask(OPEN, at(AT_FDCWD, path, space)) == 1) \
            return NULL;                                                  \
        FILE *file = real(path, mode);                                    \
        done(0);                                                          \
        return file;                                                      \
    }

STREAM(fopen)
STREAM(fopen64)
