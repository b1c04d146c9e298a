/* Preloaded into a process: meets every call that changes something below a folder, counts it, writes it into a log,
 * and lets a chosen one go wrong. Built and driven by shim.py. Glibc on Linux. */

#define _GNU_SOURCE
#undef _FILE_OFFSET_BITS /* each name of a call stands for itself */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPEN = 1, WRITE = 2, SYNC = 4, RENAME = 8, UNLINK = 16, MKDIR = 32, TRUNCATE = 64, LOCK = 128, CHMOD = 256,
       ALLOCATE = 512 };
enum { COUNT, FAIL, FAIL_ON, SHORT, KILL_BEFORE, KILL_AFTER };

struct plan { /* as shim.py has it; shared by both processes */
    long kinds;     /* which calls count */
    long at;        /* the number of the one to go wrong, from 1 */
    long action;
    long error;     /* the errno of FAIL and FAIL_ON */
    long least;     /* bytes of an allocation that counts */
    long seen;      /* calls met */
    long hit;       /* the kind of the call that went wrong; 0 if none did */
    long logged;    /* bytes of the log */
    char log[1 << 20];
};

static struct plan *plan;
static char folder[PATH_MAX];
static size_t folder_length;

void faults_arm(const char *watched, struct plan *shared) {
    folder_length = strlen(strcpy(folder, watched));
    plan = shared;
}

static int below(const char *path) {
    return !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

/* The path of a descriptor, of a name, or of a name at a descriptor, if it lies below the folder. */
static int watched(int at, const char *name, char *path) {
    if (!plan) return 0;
    int before = errno, known = 1;
    if (name && *name == '/') {
        snprintf(path, PATH_MAX, "%s", name);
    } else if (at == AT_FDCWD) {
        known = getcwd(path, PATH_MAX) != NULL;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, path, PATH_MAX - 1);
        known = length > 0;
        path[known ? length : 0] = 0;
    }
    if (known && name && *name != '/') {
        size_t length = strlen(path);
        snprintf(path + length, PATH_MAX - length, "/%s", name);
    }
    errno = before;
    return known && below(path);
}

static void logged(const char *call, const char *path, const char *second) {
    char line[2 * PATH_MAX + 32];
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\n", call, path, second);
    long place = __atomic_fetch_add(&plan->logged, length, __ATOMIC_SEQ_CST);
    if (place + length < (long)sizeof plan->log) memcpy(plan->log + place, line, length);
}

/* Count a call: whether it is to go on (0), to fail (1), to be short (2), or to be the last one (3). */
static int met(long kind) {
    if (!(plan->kinds & kind)) return 0;
    long number = __atomic_add_fetch(&plan->seen, 1, __ATOMIC_SEQ_CST);
    if (plan->action == COUNT || number < plan->at || (number > plan->at && plan->action != FAIL_ON)) return 0;
    if (plan->action == FAIL_ON && number > plan->at && kind & (UNLINK | RENAME | CHMOD | LOCK)) return 0;
    if (number == plan->at) plan->hit = kind;
    if (plan->action == KILL_BEFORE) kill(getpid(), SIGKILL);
    if (plan->action == KILL_AFTER) return 3;
    if (plan->action == SHORT) return 2;
    errno = plan->error;
    return 1;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define DO(kind, call, path, second, bad, doing) \
    int what = met(kind); \
    if (what == 1) return bad; \
    __auto_type done = doing; \
    if (what == 3) kill(getpid(), SIGKILL); \
    if (done != bad) logged(call, path, second); \
    return done

#define CHANGES(flags) (((flags) & O_ACCMODE) != O_RDONLY || (flags) & O_CREAT)
#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, mode_t); \
        va_end(more); }

#define OPENS(name) \
    int name(const char *file, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); MODE(flags) \
        char path[PATH_MAX]; \
        if (!CHANGES(flags) || !watched(AT_FDCWD, file, path)) return real(file, flags, mode); \
        DO(OPEN, "open", path, "", -1, real(file, flags, mode)); }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int at, const char *file, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); MODE(flags) \
        char path[PATH_MAX]; \
        if (!CHANGES(flags) || !watched(at, file, path)) return real(at, file, flags, mode); \
        DO(OPEN, "open", path, "", -1, real(at, file, flags, mode)); }
OPENS_AT(openat)
OPENS_AT(openat64)

#define FOPENS(name) \
    FILE *name(const char *file, const char *mode) { \
        REAL(FILE *, #name, const char *, const char *); \
        char path[PATH_MAX]; \
        if (!strpbrk(mode, "wa+") || !watched(AT_FDCWD, file, path)) return real(file, mode); \
        DO(OPEN, "open", path, "", NULL, real(file, mode)); }
FOPENS(fopen)
FOPENS(fopen64)

/* What one does to a descriptor or a name: parameters, then how they are passed on. */
#define ON_FD(kind, call, result, name, parameters, arguments) \
    result name parameters { \
        static result (*real) parameters; \
        if (!real) real = (result (*) parameters)dlsym(RTLD_NEXT, #name); \
        char path[PATH_MAX]; \
        if (!watched(fd, NULL, path)) return real arguments; \
        DO(kind, call, path, "", -1, real arguments); }
#define WRITES(name, parameters, arguments, shorter) \
    ssize_t name parameters { \
        static ssize_t (*real) parameters; \
        if (!real) real = (ssize_t (*) parameters)dlsym(RTLD_NEXT, #name); \
        char path[PATH_MAX]; \
        if (!watched(fd, NULL, path)) return real arguments; \
        int what = met(WRITE); \
        if (what == 1) return -1; \
        if (what == 2) { shorter; } \
        ssize_t done = real arguments; \
        if (what == 3) kill(getpid(), SIGKILL); \
        if (done >= 0) logged("write", path, ""); \
        return done; }
#define HALF if (size > 1) size /= 2
WRITES(write, (int fd, const void *data, size_t size), (fd, data, size), HALF)
WRITES(pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), HALF)
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), HALF)
WRITES(writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), if (count > 1) count = 1)
WRITES(pwritev, (int fd, const struct iovec *parts, int count, off_t at), (fd, parts, count, at), if (count > 1) count = 1)
WRITES(sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), HALF)
WRITES(sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), HALF)
WRITES(copy_file_range, (int from, off64_t *at, int fd, off64_t *to, size_t size, unsigned flags),
       (from, at, fd, to, size, flags), HALF)
ON_FD(SYNC, "sync", int, fsync, (int fd), (fd))
ON_FD(SYNC, "sync", int, fdatasync, (int fd), (fd))
ON_FD(TRUNCATE, "write", int, ftruncate, (int fd, off_t size), (fd, size))
ON_FD(TRUNCATE, "write", int, ftruncate64, (int fd, off64_t size), (fd, size))
ON_FD(CHMOD, "chmod", int, fchmod, (int fd, mode_t mode), (fd, mode))
ON_FD(LOCK, "lock", int, flock, (int fd, int how), (fd, how))

#define ON_NAME(kind, call, name, parameters, arguments, at) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        char path[PATH_MAX]; \
        if (!watched(at, file, path)) return real arguments; \
        DO(kind, call, path, "", -1, real arguments); }
ON_NAME(UNLINK, "unlink", unlink, (const char *file), (file), AT_FDCWD)
ON_NAME(UNLINK, "unlink", remove, (const char *file), (file), AT_FDCWD)
ON_NAME(UNLINK, "unlink", rmdir, (const char *file), (file), AT_FDCWD)
ON_NAME(UNLINK, "unlink", unlinkat, (int at, const char *file, int flags), (at, file, flags), at)
ON_NAME(MKDIR, "mkdir", mkdir, (const char *file, mode_t mode), (file, mode), AT_FDCWD)
ON_NAME(MKDIR, "mkdir", mkdirat, (int at, const char *file, mode_t mode), (at, file, mode), at)
ON_NAME(CHMOD, "chmod", chmod, (const char *file, mode_t mode), (file, mode), AT_FDCWD)
ON_NAME(CHMOD, "chmod", fchmodat, (int at, const char *file, mode_t mode, int flags), (at, file, mode, flags), at)

#define RENAMES(name, parameters, arguments, at, to_at) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        char path[PATH_MAX], target[PATH_MAX]; \
        int from_here = watched(at, file, path), to_here = watched(to_at, to, target); \
        if (!from_here && !to_here) return real arguments; \
        DO(RENAME, "rename", path, target, -1, real arguments); }
RENAMES(rename, (const char *file, const char *to), (file, to), AT_FDCWD, AT_FDCWD)
RENAMES(renameat, (int at, const char *file, int to_at, const char *to), (at, file, to_at, to), at, to_at)
RENAMES(renameat2, (int at, const char *file, int to_at, const char *to, unsigned flags), (at, file, to_at, to, flags),
        at, to_at)

#define FCNTLS(name) \
    int name(int fd, int command, ...) { \
        REAL(int, #name, int, int, ...); \
        va_list more; va_start(more, command); void *given = va_arg(more, void *); va_end(more); \
        char path[PATH_MAX]; \
        if ((command != F_SETLK && command != F_SETLKW) || !watched(fd, NULL, path)) return real(fd, command, given); \
        DO(LOCK, "lock", path, "", -1, real(fd, command, given)); }
FCNTLS(fcntl)
FCNTLS(fcntl64)

/* Large allocations. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

static int refused(size_t size) {
    if (!plan || !(plan->kinds & ALLOCATE) || size < (size_t)plan->least) return 0;
    int before = errno;
    if (met(ALLOCATE) == 1) return 1;
    errno = before;
    return 0;
}

void *malloc(size_t size) { return refused(size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return refused(count * size) ? NULL : __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { return refused(size) ? NULL : __libc_realloc(old, size); }
void *memalign(size_t side, size_t size) { return refused(size) ? NULL : __libc_memalign(side, size); }
void *aligned_alloc(size_t side, size_t size) { return refused(size) ? NULL : __libc_memalign(side, size); }
int posix_memalign(void **made, size_t side, size_t size) {
    if (refused(size)) return ENOMEM;
    void *found = __libc_memalign(side, size);
    if (found) *made = found;
    return found ? 0 : ENOMEM;
}
#define MAPS(name, offset) \
    void *name(void *where, size_t size, int may, int flags, int fd, offset at) { \
        if (flags & MAP_ANONYMOUS && refused(size)) return MAP_FAILED; \
        return (void *)syscall(SYS_mmap, where, size, may, flags, fd, at); }
MAPS(mmap, off_t)
MAPS(mmap64, off64_t)
