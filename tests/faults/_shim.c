/* A file layer that counts operations below a folder, and lets one of them fail, tear or be the last.
 *
 * Loaded by LD_PRELOAD, it stands before libc in a process: Python's own calls, torch's and safetensors' all come through
 * here. Nothing happens until `fault_arm` is called. Operations are numbered from 1 in the order in which they are made.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { COUNT, BEFORE, TORN, AFTER, FAIL, FAIL_ON };

static char root[PATH_MAX];
static size_t root_length;
static int mode, failure, log_descriptor = -1;
static long chosen;
static atomic_long done;

/* Watch what happens below `folder`, and write it to the open file `log` (-1: to none).
 * Operation `number` (0: none) is the one before, in the middle of or after which the process is killed, or that fails
 * with `error`: alone (FAIL), or with every one after it that would fail for the same reason (FAIL_ON). */
void fault_arm(const char *folder, long number, int how, int error, int log)
{
    strncpy(root, folder, sizeof root - 1);
    chosen = number, mode = how, failure = error, log_descriptor = log;
    atomic_store(&done, 0);
    root_length = strlen(folder);
}

static void die(void)
{
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;)
        pause();
}

/* Path of a name below a folder that is open; `name` NULL: of the open file itself. */
static void find(char *path, int descriptor, const char *name)
{
    char link[64];
    path[0] = 0;
    if (name && name[0] == '/') {
        strncpy(path, name, PATH_MAX - 1), path[PATH_MAX - 1] = 0;
        return;
    }
    snprintf(link, sizeof link, descriptor == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlink, link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = 0;
    if (name && length > 0 && length + strlen(name) + 2 < PATH_MAX)
        path[length] = '/', strcpy(path + length + 1, name);
}

/* Whether a call can't be made on a disk that is full, or can't be written to. */
static int refused(const char *call)
{
    if (!strcmp(call, "read") || !strcmp(call, "open to read") || !strcmp(call, "list"))
        return 0;
    return failure == EROFS || (strcmp(call, "unlink") && strcmp(call, "rmdir"));
}

/* Count an operation below the folder. Returns what is to happen at it: COUNT (as ever), TORN, AFTER or FAIL. */
static int meet(const char *call, int descriptor, const char *name)
{
    char path[PATH_MAX], line[PATH_MAX + 64];
    int before = errno;
    if (!root_length)
        return COUNT;
    find(path, descriptor, name);
    if (strncmp(path, root, root_length) || path[root_length] != '/') {
        errno = before;
        return COUNT;
    }
    long number = atomic_fetch_add(&done, 1) + 1;
    if (log_descriptor >= 0) {
        int length = snprintf(line, sizeof line, "%s\t%s\n", call, path + root_length + 1);
        syscall(SYS_write, log_descriptor, line, length);
    }
    errno = before;
    if (!chosen || number < chosen || (number > chosen && (mode != FAIL_ON || !refused(call))))
        return COUNT;
    if (mode == BEFORE)
        die();
    return mode == FAIL_ON ? FAIL : mode;
}

#define REAL(name) ((__typeof__(&name))real(&name##_at, #name))
static void *real(void **at, const char *name)
{
    return *at ? *at : (*at = dlsym(RTLD_NEXT, name));
}

/* One call of libc, as it is but for what `meet` says. */
#define WRAP(type, name, parameters, arguments, word, descriptor, path) \
    static void *name##_at;                                             \
    type name parameters                                                \
    {                                                                   \
        int what = meet(word, descriptor, path);                        \
        if (what == FAIL)                                               \
            return errno = failure, (type)-1;                           \
        type result = REAL(name) arguments;                             \
        if (what >= TORN)                                               \
            die();                                                      \
        return result;                                                  \
    }

WRAP(int, fsync, (int fd), (fd), "fsync", fd, NULL)
WRAP(int, fdatasync, (int fd), (fd), "fsync", fd, NULL)
WRAP(int, ftruncate, (int fd, off_t n), (fd, n), "truncate", fd, NULL)
WRAP(int, ftruncate64, (int fd, off64_t n), (fd, n), "truncate", fd, NULL)
WRAP(ssize_t, read, (int fd, void *to, size_t n), (fd, to, n), "read", fd, NULL)
WRAP(int, rename, (const char *a, const char *b), (a, b), "rename", AT_FDCWD, b)
WRAP(int, renameat, (int x, const char *a, int y, const char *b), (x, a, y, b), "rename", y, b)
WRAP(int, unlink, (const char *a), (a), "unlink", AT_FDCWD, a)
WRAP(int, unlinkat, (int fd, const char *a, int how), (fd, a, how), how & AT_REMOVEDIR ? "rmdir" : "unlink", fd, a)
WRAP(int, mkdir, (const char *a, mode_t m), (a, m), "mkdir", AT_FDCWD, a)
WRAP(int, mkdirat, (int fd, const char *a, mode_t m), (fd, a, m), "mkdir", fd, a)
WRAP(int, rmdir, (const char *a), (a), "rmdir", AT_FDCWD, a)
WRAP(int, link, (const char *a, const char *b), (a, b), "link", AT_FDCWD, b)
WRAP(int, symlink, (const char *a, const char *b), (a, b), "link", AT_FDCWD, b)
WRAP(int, chmod, (const char *a, mode_t m), (a, m), "chmod", AT_FDCWD, a)
WRAP(int, fchmod, (int fd, mode_t m), (fd, m), "chmod", fd, NULL)
WRAP(ssize_t, sendfile, (int out, int in, off_t *at, size_t n), (out, in, at, n), "copy", out, NULL)
WRAP(ssize_t, sendfile64, (int out, int in, off64_t *at, size_t n), (out, in, at, n), "copy", out, NULL)
WRAP(ssize_t, copy_file_range, (int in, off64_t *x, int out, off64_t *y, size_t n, unsigned f), (in, x, out, y, n, f),
     "copy", out, NULL)

static void *opendir_at;
DIR *opendir(const char *name)
{
    int what = meet("list", AT_FDCWD, name);
    if (what == FAIL)
        return errno = failure, NULL;
    return REAL(opendir)(name);
}

static void *fdopendir_at;
DIR *fdopendir(int fd)
{
    int what = meet("list", fd, NULL);
    if (what == FAIL)
        return errno = failure, NULL;
    return REAL(fdopendir)(fd);
}

static void *write_at;
ssize_t write(int fd, const void *data, size_t size)
{
    int what = meet("write", fd, NULL);
    if (what == FAIL) { /* half of it gets there, as on a disk that fills up */
        REAL(write)(fd, data, size / 2);
        return errno = failure, -1;
    }
    if (what == TORN) {
        REAL(write)(fd, data, size / 2);
        die();
    }
    ssize_t result = REAL(write)(fd, data, size);
    if (what == AFTER)
        die();
    return result;
}

static const char *opening(int flags)
{
    return (flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT) ? "open to read" : "open to write";
}

#define OPEN(name, parameters, arguments, descriptor)                  \
    static void *name##_at;                                            \
    int name parameters                                                \
    {                                                                  \
        mode_t m = 0;                                                  \
        if (flags & (O_CREAT | O_TMPFILE)) {                           \
            va_list more;                                              \
            va_start(more, flags);                                     \
            m = va_arg(more, mode_t);                                  \
            va_end(more);                                              \
        }                                                              \
        int what = meet(opening(flags), descriptor, path);             \
        if (what == FAIL)                                              \
            return errno = failure, -1;                                \
        int result = REAL(name) arguments;                             \
        if (what >= TORN)                                              \
            die();                                                     \
        return result;                                                 \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, m), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, m), AT_FDCWD)
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, m), at)
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, m), at)
