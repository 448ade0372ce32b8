/* Disk and clock that fail to order: an LD_PRELOAD library for the process under test.
 *
 *     cc -shared -fPIC -O2 -o shim.so shim.c -ldl -lpthread
 *
 * ROBODYNE_SHIM_FOLDER   the files directly in this folder are watched (absolute, no symlinks); "-shm" files are not
 * ROBODYNE_SHIM_SHADOW   what a power loss would leave of them: a file's bytes come here when an fsync of it succeeded
 * ROBODYNE_SHIM_CONTROL  a file of `struct control`, mapped by us and by who runs the test, who writes it at any time
 *
 * A watched file's writes are noted as ranges, and copied to the shadow after the next fsync or fdatasync of it that
 * succeeds. unlink, rename and ftruncate reach the shadow at once: file systems keep their own log of those. What the
 * process finds at its first open is taken for written and not yet on disk, as in a page cache that outlived a process.
 * Only what the server and SQLite call is caught (checked with strace): no mmap, no pwritev, no *at() but openat.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum kind { SYNC, WRITE, TRUNCATE, UNLINK, RENAME, KINDS };

/* Layout shared with tests/faults/shim.py: int64 fields, then two words. */
struct control {
    int64_t fsync_delay_ms;    /* before each fsync and fdatasync */
    int64_t fsync_error;       /* errno; 0: none */
    int64_t fsync_error_calls; /* how many more calls fail; below 0: until fsync_error is cleared */
    int64_t fsync_drops;       /* 1: what a failed fsync should have written never reaches the shadow, as on Linux */
    int64_t write_error;       /* errno of write, pwrite, growing ftruncate and fallocate; 0: none */
    int64_t kill_kind;         /* which kind of call SIGKILLs us (enum kind) */
    int64_t kill_at;           /* at the K-th call of that kind since `calls` was cleared; 0: never */
    int64_t kill_after;        /* 0: before the call is made, 1: after it */
    int64_t clock_offset_s;    /* added to CLOCK_REALTIME */
    int64_t calls[KINDS];      /* calls seen, by kind */
    int64_t errors_told;       /* calls that we made fail */
    int64_t copied_bytes;      /* to the shadow */
    int64_t broken;            /* the shadow could not be kept: the trial says nothing */
    char only_suffix[32];      /* errors concern files ending so; empty: all */
    char not_prefix[32];       /* and not those beginning so; empty: none */
};

struct range {
    off_t start, end;
};

struct file {
    char name[NAME_MAX + 1]; /* empty: unlinked, or never used */
    int refs, shadow;        /* open descriptors; descriptor of its shadow or -1 */
    struct range *ranges;
    size_t count, room;
};

#define PATH_ROOM (PATH_MAX + NAME_MAX + 2)
#define FILES 64
#define DESCRIPTORS 65536

static struct control none, *control = &none;
static struct file files[FILES];
static unsigned char file_of[DESCRIPTORS]; /* index in `files` + 1 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX], shadow_folder[PATH_MAX];

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_fsync)(int), (*real_fdatasync)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t), (*real_posix_fallocate)(int, off_t, off_t);
static int (*real_unlink)(const char *), (*real_rename)(const char *, const char *);
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static pthread_once_t found_once = PTHREAD_ONCE_INIT;

static void find(void) {
    real_open = REAL(open);
    real_openat = REAL(openat);
    real_close = REAL(close);
    real_write = REAL(write);
    real_pwrite = REAL(pwrite);
    real_fsync = REAL(fsync);
    real_fdatasync = REAL(fdatasync);
    real_ftruncate = REAL(ftruncate);
    real_fallocate = REAL(fallocate);
    real_posix_fallocate = REAL(posix_fallocate);
    real_unlink = REAL(unlink);
    real_rename = REAL(rename);
    real_clock_gettime = REAL(clock_gettime);
}

/* Other libraries' constructors call us before ours ran. */
static void ready(void) { pthread_once(&found_once, find); }

__attribute__((constructor)) static void start(void) {
    const char *where = getenv("ROBODYNE_SHIM_CONTROL");
    ready();
    if (!where) return;
    int fd = real_open(where, O_RDWR | O_CLOEXEC);
    void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        perror("shim: ROBODYNE_SHIM_CONTROL");
        _exit(120);
    }
    real_close(fd);
    snprintf(folder, sizeof folder, "%s", getenv("ROBODYNE_SHIM_FOLDER"));
    snprintf(shadow_folder, sizeof shadow_folder, "%s", getenv("ROBODYNE_SHIM_SHADOW"));
    control = map;
}

/* -- which files -------------------------------------------------------------------------------------------------- */

/* Copy the name of a watched file out of its path; return whether it is one. */
static int watched(const char *path, char *name) {
    char whole[2 * PATH_MAX];
    if (!*folder || !path) return 0;
    if (*path == '/') {
        snprintf(whole, sizeof whole, "%s", path);
    } else {
        if (!getcwd(whole, PATH_MAX)) return 0;
        size_t length = strlen(whole);
        snprintf(whole + length, sizeof whole - length, "/%s", path);
    }
    size_t length = strlen(folder);
    const char *rest = whole + length + 1;
    if (strncmp(whole, folder, length) || whole[length] != '/' || !*rest || strchr(rest, '/') || strlen(rest) > NAME_MAX)
        return 0;
    size_t size = strlen(rest);
    if (size > 4 && !strcmp(rest + size - 4, "-shm")) return 0;
    strcpy(name, rest);
    return 1;
}

static int meant(const char *name) {
    size_t size = strlen(name), suffix = strlen(control->only_suffix), prefix = strlen(control->not_prefix);
    if (suffix && (size < suffix || strcmp(name + size - suffix, control->only_suffix))) return 0;
    return !(prefix && !strncmp(name, control->not_prefix, prefix));
}

static struct file *of(int fd) {
    if (fd < 0 || fd >= DESCRIPTORS || !file_of[fd]) return NULL;
    return &files[file_of[fd] - 1];
}

/* With `lock` held. */
static struct file *named(const char *name) {
    for (int i = 0; i < FILES; i++)
        if (!strcmp(files[i].name, name)) return &files[i];
    return NULL;
}

/* With `lock` held: forget the file's shadow and writes; its open descriptors lead nowhere from now on. */
static void forget(struct file *file) {
    if (file->shadow >= 0) real_close(file->shadow);
    free(file->ranges);
    *file = (struct file){.refs = file->refs, .shadow = -1};
}

static void shadow_path(const char *name, char *path) { snprintf(path, PATH_ROOM, "%s/%s", shadow_folder, name); }

/* -- what was written, and its copy ------------------------------------------------------------------------------- */

static void mark(struct file *file, off_t start, off_t end) {
    if (start >= end) return;
    pthread_mutex_lock(&lock);
    struct range *last = file->count ? &file->ranges[file->count - 1] : NULL;
    if (last && start <= last->end && end >= last->start) {
        if (start < last->start) last->start = start;
        if (end > last->end) last->end = end;
    } else {
        if (file->count == file->room) {
            file->room = file->room ? 2 * file->room : 64;
            file->ranges = realloc(file->ranges, file->room * sizeof *file->ranges);
            if (!file->ranges) abort();
        }
        file->ranges[file->count++] = (struct range){start, end};
    }
    pthread_mutex_unlock(&lock);
}

/* Copy one range of `fd` to the shadow; return whether that worked. */
static int copy(int fd, int to, struct range range) {
    static __thread char buffer[1 << 16];
    while (range.start < range.end) {
        size_t size = range.end - range.start < (off_t)sizeof buffer ? (size_t)(range.end - range.start) : sizeof buffer;
        ssize_t got = pread(fd, buffer, size, range.start);
        if (got < 0) return 0;
        if (got == 0) return 1; /* truncated meanwhile */
        if (real_pwrite(to, buffer, got, range.start) != got) return 0;
        range.start += got;
        __sync_add_and_fetch(&control->copied_bytes, got);
    }
    return 1;
}

/* Bring what was written before a successful fsync into the shadow. */
static void persist(struct file *file, int fd, struct range *ranges, size_t count) {
    char path[PATH_ROOM], self[64];
    int from = fd, well = 1;
    pthread_mutex_lock(&lock);
    if (*file->name && file->shadow < 0) {
        shadow_path(file->name, path);
        file->shadow = real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        well = file->shadow >= 0;
    }
    int to = *file->name ? file->shadow : -1;
    pthread_mutex_unlock(&lock);
    if (to >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY) {
        /* Never for SQLite's files, which are open for both: closing a second descriptor would drop their locks. */
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        well &= (from = real_open(self, O_RDONLY | O_CLOEXEC)) >= 0;
    }
    for (size_t i = 0; to >= 0 && well && i < count; i++) well = copy(from, to, ranges[i]);
    if (from != fd && from >= 0) real_close(from);
    if (!well) control->broken = 1;
}

/* -- faults ------------------------------------------------------------------------------------------------------- */

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Count a call; return its number. */
static int64_t arrive(enum kind kind) {
    int64_t number = __sync_add_and_fetch(&control->calls[kind], 1);
    if (control->kill_at == number && control->kill_kind == kind && !control->kill_after) die();
    return number;
}

static void leave(enum kind kind, int64_t number) {
    int error = errno;
    if (control->kill_at == number && control->kill_kind == kind && control->kill_after) die();
    errno = error;
}

static int write_error(struct file *file) {
    int error = (int)control->write_error;
    if (!error || !meant(file->name)) return 0;
    __sync_add_and_fetch(&control->errors_told, 1);
    return error;
}

static int fsync_error(struct file *file) {
    int error = (int)control->fsync_error;
    if (!error || !meant(file->name)) return 0;
    if (control->fsync_error_calls >= 0 && __sync_sub_and_fetch(&control->fsync_error_calls, 1) < 0) {
        control->fsync_error_calls = control->fsync_error = 0;
        return 0;
    }
    __sync_add_and_fetch(&control->errors_told, 1);
    return error;
}

/* -- open and close ----------------------------------------------------------------------------------------------- */

static int opened(int fd, const char *path, int flags) {
    char name[NAME_MAX + 1], copied[PATH_ROOM];
    struct stat state;
    if (fd < 0 || fd >= DESCRIPTORS || control == &none || (flags & O_DIRECTORY) || !watched(path, name)) return fd;
    if (fstat(fd, &state) || !S_ISREG(state.st_mode)) return fd;
    pthread_mutex_lock(&lock);
    struct file *file = named(name);
    int first = !file;
    for (int i = 0; !file && i < FILES; i++)
        if (!*files[i].name && !files[i].refs) file = &files[i];
    if (!file) {
        control->broken = 1;
        pthread_mutex_unlock(&lock);
        return fd;
    }
    if (first) {
        *file = (struct file){.shadow = -1};
        strcpy(file->name, name);
    }
    file->refs++;
    file_of[fd] = file - files + 1;
    pthread_mutex_unlock(&lock);
    if (flags & O_TRUNC) {
        shadow_path(name, copied);
        if (truncate(copied, 0) && errno != ENOENT) control->broken = 1;
    }
    if (first) mark(file, 0, state.st_size);
    return fd;
}

#define MODE(flags, mode)                                                \
    mode_t mode = 0;                                                     \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                               \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode = va_arg(rest, mode_t);                                     \
        va_end(rest);                                                    \
    }

int open(const char *path, int flags, ...) {
    MODE(flags, mode)
    ready();
    return opened(real_open(path, flags, mode), path, flags);
}

int open64(const char *path, int flags, ...) {
    MODE(flags, mode)
    ready();
    return opened(real_open(path, flags, mode), path, flags);
}

int openat(int at, const char *path, int flags, ...) {
    MODE(flags, mode)
    ready();
    int fd = real_openat(at, path, flags, mode);
    return at == AT_FDCWD || *path == '/' ? opened(fd, path, flags) : fd;
}

int openat64(int at, const char *path, int flags, ...) {
    MODE(flags, mode)
    ready();
    int fd = real_openat(at, path, flags, mode);
    return at == AT_FDCWD || *path == '/' ? opened(fd, path, flags) : fd;
}

int close(int fd) {
    ready();
    struct file *file = of(fd);
    if (file) {
        pthread_mutex_lock(&lock);
        file_of[fd] = 0;
        file->refs--;
        pthread_mutex_unlock(&lock);
    }
    return real_close(fd);
}

/* -- writing ------------------------------------------------------------------------------------------------------ */

static ssize_t write_at(struct file *file, int fd, const void *bytes, size_t size, off_t at) {
    int64_t number = arrive(WRITE);
    ssize_t done = -1;
    int error = write_error(file);
    if (error)
        errno = error;
    else
        done = real_pwrite(fd, bytes, size, at);
    if (done > 0) mark(file, at, at + done);
    leave(WRITE, number);
    return done;
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t at) {
    ready();
    struct file *file = of(fd);
    return file ? write_at(file, fd, bytes, size, at) : real_pwrite(fd, bytes, size, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off_t at) { return pwrite(fd, bytes, size, at); }

ssize_t write(int fd, const void *bytes, size_t size) {
    ready();
    struct file *file = of(fd);
    if (!file) return real_write(fd, bytes, size);
    int64_t number = arrive(WRITE);
    ssize_t done = -1;
    int error = write_error(file);
    if (error)
        errno = error;
    else
        done = real_write(fd, bytes, size);
    if (done > 0) {
        off_t end = lseek(fd, 0, SEEK_CUR); /* with O_APPEND too, this is where the write ended */
        mark(file, end - done, end);
    }
    leave(WRITE, number);
    return done;
}

int ftruncate(int fd, off_t size) {
    char path[PATH_ROOM];
    struct stat before;
    ready();
    struct file *file = of(fd);
    if (!file) return real_ftruncate(fd, size);
    int64_t number = arrive(TRUNCATE);
    int error = fstat(fd, &before) ? errno : size > before.st_size ? write_error(file) : 0;
    int result = -1;
    if (error)
        errno = error;
    else
        result = real_ftruncate(fd, size);
    if (!result) {
        pthread_mutex_lock(&lock);
        for (size_t i = 0; i < file->count; i++) {
            if (file->ranges[i].end > size) file->ranges[i].end = size;
            if (file->ranges[i].start > size) file->ranges[i].start = size;
        }
        shadow_path(file->name, path);
        if (*file->name && truncate(path, size) && errno != ENOENT) control->broken = 1;
        pthread_mutex_unlock(&lock);
    }
    leave(TRUNCATE, number);
    return result;
}

int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int fallocate(int fd, int mode, off_t at, off_t size) {
    ready();
    struct file *file = of(fd);
    int error = file ? write_error(file) : 0;
    if (error) {
        errno = error;
        return -1;
    }
    int result = real_fallocate(fd, mode, at, size);
    if (file && !result) mark(file, at, at + size);
    return result;
}

int fallocate64(int fd, int mode, off_t at, off_t size) { return fallocate(fd, mode, at, size); }

int posix_fallocate(int fd, off_t at, off_t size) {
    ready();
    struct file *file = of(fd);
    int error = file ? write_error(file) : 0;
    if (!error) error = real_posix_fallocate(fd, at, size);
    if (file && !error) mark(file, at, at + size);
    return error;
}

int posix_fallocate64(int fd, off_t at, off_t size) { return posix_fallocate(fd, at, size); }

/* -- fsync -------------------------------------------------------------------------------------------------------- */

static int sync_file(int fd, int (*really)(int)) {
    struct file *file = of(fd);
    if (!file) return really(fd);
    int64_t number = arrive(SYNC);
    int64_t delay_ms = control->fsync_delay_ms;
    if (delay_ms > 0) nanosleep(&(struct timespec){delay_ms / 1000, delay_ms % 1000 * 1000000}, NULL);
    pthread_mutex_lock(&lock); /* only what was written before the call is promised by its success */
    struct range *ranges = file->ranges;
    size_t count = file->count;
    file->ranges = NULL;
    file->count = file->room = 0;
    pthread_mutex_unlock(&lock);
    int error = fsync_error(file);
    int result = -1, kept = 0;
    if (error) {
        kept = !control->fsync_drops;
    } else if ((result = really(fd))) {
        error = errno;
        kept = 1;
    } else {
        persist(file, fd, ranges, count);
    }
    for (size_t i = 0; kept && i < count; i++) mark(file, ranges[i].start, ranges[i].end);
    free(ranges);
    errno = error;
    leave(SYNC, number);
    return result;
}

int fsync(int fd) {
    ready();
    return sync_file(fd, real_fsync);
}

int fdatasync(int fd) {
    ready();
    return sync_file(fd, real_fdatasync);
}

/* -- names -------------------------------------------------------------------------------------------------------- */

int unlink(const char *path) {
    char name[NAME_MAX + 1], copied[PATH_ROOM];
    ready();
    if (control == &none || !watched(path, name)) return real_unlink(path);
    int64_t number = arrive(UNLINK);
    int result = real_unlink(path);
    if (!result) {
        int error = errno;
        pthread_mutex_lock(&lock);
        struct file *file = named(name);
        if (file) forget(file);
        shadow_path(name, copied);
        if (real_unlink(copied) && errno != ENOENT) control->broken = 1;
        pthread_mutex_unlock(&lock);
        errno = error;
    }
    leave(UNLINK, number);
    return result;
}

int rename(const char *from, const char *to) {
    char old[NAME_MAX + 1], new[NAME_MAX + 1], copied[PATH_ROOM], target[PATH_ROOM];
    ready();
    if (control == &none || !watched(from, old) || !watched(to, new)) return real_rename(from, to);
    int64_t number = arrive(RENAME);
    int result = real_rename(from, to);
    if (!result) {
        pthread_mutex_lock(&lock);
        struct file *file = named(new);
        if (file) forget(file);
        if ((file = named(old))) strcpy(file->name, new);
        shadow_path(old, copied);
        shadow_path(new, target);
        if (real_rename(copied, target)) {
            /* Its bytes were never fsynced: after a power loss the new name may lead to an empty file. */
            int fd = errno == ENOENT ? real_open(target, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
            if (fd < 0) control->broken = 1;
            else real_close(fd);
        }
        pthread_mutex_unlock(&lock);
        errno = 0;
    }
    leave(RENAME, number);
    return result;
}

/* -- the clock ---------------------------------------------------------------------------------------------------- */

int clock_gettime(clockid_t clock, struct timespec *now) {
    ready();
    int result = real_clock_gettime(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += control->clock_offset_s;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    *now = (struct timeval){exact.tv_sec, exact.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *result) {
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return (time_t)-1;
    if (result) *result = exact.tv_sec;
    return exact.tv_sec;
}
