/*
 * Files and directories: plain calls of the system, in the worker pool for session loops, in place
 * on a blocking loop. Every call is one struct, so that the pool needs no second copy of it.
 */
#include "kernel/kernel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

struct file {
    int descriptor;
};

struct disk_call {
    struct io_result (*run)(struct disk_call *call);
    struct io_result result;
    struct file *file;
    const char *path, *other;
    const struct bytes *parts;
    size_t part_count;
    struct span into;
    uint64_t offset; /* or a size */
    int flags;
    struct file_facts *facts;
    struct disk_space *space;
    DIR *directory;
};

static void disk_call_in_pool(void *argument)
{
    struct disk_call *call = argument;

    call->result = call->run(call);
}

static struct io_result disk_call(struct disk_call call)
{
    return work_run(disk_call_in_pool, &call) == IO_OK ? call.result : io_failed(ENOMEM);
}

static struct io_result by_errno(int returned)
{
    return returned == 0 ? io_ok(0) : io_failed(errno);
}

/* ------------------------------------------------------------------ open files */

static int (*opener)(const char *path);

void file_set_opener(int (*open_for_us)(const char *path))
{
    opener = open_for_us;
}

static struct io_result run_open(struct disk_call *call)
{
    do
        call->file->descriptor = open(call->path, call->flags, 0600);
    while (call->file->descriptor < 0 && errno == EINTR);
    if (call->file->descriptor < 0 && errno == EACCES && opener &&
        (call->flags & (O_ACCMODE | O_CREAT)) == O_RDONLY)
        call->file->descriptor = opener(call->path);
    return by_errno(call->file->descriptor < 0);
}

struct io_result file_open(const char *path, unsigned flags, struct file **file)
{
    struct file *opened = calloc(1, sizeof *opened);

    *file = NULL;
    if (!opened)
        return io_failed(ENOMEM);
    const int system_flags = O_CLOEXEC | (flags & FILE_WRITE ? O_RDWR : O_RDONLY) |
                             (flags & (FILE_CREATE | FILE_NEW) ? O_CREAT : 0) |
                             (flags & FILE_NEW ? O_EXCL : 0) |
                             (flags & FILE_FOREIGN ? O_NOFOLLOW | O_NONBLOCK : 0);
    const struct io_result result = disk_call(
        (struct disk_call){run_open, .path = path, .file = opened, .flags = system_flags});
    if (result.status == IO_OK)
        *file = opened;
    else
        free(opened);
    return result;
}

enum { PARTS_A_WRITE = 64 };

/* Fills `vector` with what is left from byte `skip` of part `first` on. */
static int fill_vector(struct iovec *vector, const struct disk_call *call, size_t first,
                       size_t skip)
{
    int count = 0;

    for (size_t i = first; i < call->part_count && count < PARTS_A_WRITE; i++, skip = 0)
        vector[count++] = (struct iovec){(void *)(uintptr_t)(call->parts[i].at + skip),
                                         call->parts[i].count - skip};
    return count;
}

static struct io_result run_write(struct disk_call *call)
{
    size_t first = 0, skip = 0, done = 0;

    for (;;) {
        struct iovec vector[PARTS_A_WRITE];
        while (first < call->part_count && skip >= call->parts[first].count) {
            skip -= call->parts[first].count;
            first++;
        }
        if (first == call->part_count)
            return io_ok(done);
        const ssize_t count =
            pwritev(call->file->descriptor, vector, fill_vector(vector, call, first, skip),
                    (off_t)(call->offset + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return (struct io_result){IO_FAILED, count < 0 ? errno : EIO, done};
        done += (size_t)count;
        skip += (size_t)count;
    }
}

struct io_result file_write_at(struct file *file, const struct bytes *parts, size_t part_count,
                               uint64_t offset)
{
    return disk_call((struct disk_call){run_write, .file = file, .parts = parts,
                                        .part_count = part_count, .offset = offset});
}

static struct io_result run_read(struct disk_call *call)
{
    size_t done = 0;

    while (done < call->into.count) {
        const ssize_t count = pread(call->file->descriptor, call->into.at + done,
                                    call->into.count - done, (off_t)(call->offset + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return (struct io_result){IO_FAILED, errno, done};
        if (count == 0)
            break;
        done += (size_t)count;
    }
    return done == 0 && call->into.count > 0 ? io_status_only(IO_END) : io_ok(done);
}

struct io_result file_read_at(struct file *file, struct span into, uint64_t offset)
{
    return disk_call((struct disk_call){run_read, .file = file, .into = into, .offset = offset});
}

static struct io_result run_sync(struct disk_call *call)
{
    return by_errno(fdatasync(call->file->descriptor));
}

struct io_result file_sync(struct file *file)
{
    return disk_call((struct disk_call){run_sync, .file = file});
}

static struct io_result run_truncate(struct disk_call *call)
{
    return by_errno(ftruncate(call->file->descriptor, (off_t)call->offset));
}

struct io_result file_truncate(struct file *file, uint64_t size_bytes)
{
    return disk_call((struct disk_call){run_truncate, .file = file, .offset = size_bytes});
}

/* Space first, so that a full disk shows before a byte is written; then real zeros, because
 * overwriting them later syncs faster than turning unwritten extents into written ones. */
static struct io_result run_reserve(struct disk_call *call)
{
    static const uint8_t zeros[64 * 1024];
    const int descriptor = call->file->descriptor;
    struct stat facts;

    if (fstat(descriptor, &facts) != 0)
        return io_failed(errno);
    uint64_t at = (uint64_t)facts.st_size;
    if (at >= call->offset)
        return io_ok(0);
    if (fallocate(descriptor, 0, (off_t)at, (off_t)(call->offset - at)) != 0 && errno != EOPNOTSUPP)
        return io_failed(errno);
    while (at < call->offset) {
        const size_t wanted = MIN_OF(call->offset - at, sizeof zeros);
        const ssize_t count = pwrite(descriptor, zeros, wanted, (off_t)at);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return io_failed(count < 0 ? errno : EIO);
        at += (uint64_t)count;
    }
    return io_ok(0);
}

struct io_result file_reserve(struct file *file, uint64_t size_bytes)
{
    return disk_call((struct disk_call){run_reserve, .file = file, .offset = size_bytes});
}

static void facts_from(const struct stat *from, struct file_facts *facts)
{
    *facts = (struct file_facts){
        .size_bytes = (uint64_t)from->st_size,
        .modified_wall_us =
            (int64_t)from->st_mtim.tv_sec * (int64_t)US_PER_S + from->st_mtim.tv_nsec / 1000,
        .is_directory = S_ISDIR(from->st_mode),
        .is_regular = S_ISREG(from->st_mode),
        .links = (unsigned)from->st_nlink,
        .owner = from->st_uid,
    };
}

static struct io_result run_facts(struct disk_call *call)
{
    struct stat facts;
    const int returned =
        call->file ? fstat(call->file->descriptor, &facts) : stat(call->path, &facts);

    if (returned == 0)
        facts_from(&facts, call->facts);
    return by_errno(returned);
}

struct io_result file_facts(struct file *file, struct file_facts *facts)
{
    return disk_call((struct disk_call){run_facts, .file = file, .facts = facts});
}

static struct io_result run_lock(struct disk_call *call)
{
    return by_errno(flock(call->file->descriptor, LOCK_EX | LOCK_NB));
}

struct io_result file_lock(struct file *file)
{
    return disk_call((struct disk_call){run_lock, .file = file});
}

/* Closing is not worth a way to the pool: what had to be durable was synced before. */
void file_close(struct file *file)
{
    close(file->descriptor);
    free(file);
}

/* ------------------------------------------------------------------ names */

static struct io_result run_rename(struct disk_call *call)
{
    return by_errno(rename(call->path, call->other));
}

struct io_result disk_rename(const char *from, const char *to)
{
    return disk_call((struct disk_call){run_rename, .path = from, .other = to});
}

static struct io_result run_link(struct disk_call *call)
{
    return by_errno(link(call->path, call->other));
}

struct io_result disk_link(const char *from, const char *to)
{
    return disk_call((struct disk_call){run_link, .path = from, .other = to});
}

static struct io_result run_remove(struct disk_call *call)
{
    return by_errno(remove(call->path));
}

struct io_result disk_remove(const char *path)
{
    return disk_call((struct disk_call){run_remove, .path = path});
}

/* EEXIST is fine only when it is a directory that exists. */
static struct io_result run_make_directory(struct disk_call *call)
{
    struct stat facts;

    if (mkdir(call->path, 0700) == 0)
        return io_ok(0);
    const int error = errno;
    if (error == EEXIST && stat(call->path, &facts) == 0 && S_ISDIR(facts.st_mode))
        return io_ok(0);
    return io_failed(error);
}

struct io_result disk_make_directory(const char *path)
{
    return disk_call((struct disk_call){run_make_directory, .path = path});
}

static struct io_result run_sync_directory(struct disk_call *call)
{
    const int descriptor = open(call->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (descriptor < 0)
        return io_failed(errno);
    const struct io_result result = by_errno(fsync(descriptor));
    close(descriptor);
    return result;
}

struct io_result disk_sync_directory(const char *path)
{
    return disk_call((struct disk_call){run_sync_directory, .path = path});
}

struct io_result disk_facts(const char *path, struct file_facts *facts)
{
    return disk_call((struct disk_call){run_facts, .path = path, .facts = facts});
}

static struct io_result run_space(struct disk_call *call)
{
    struct statvfs space;

    if (statvfs(call->path, &space) != 0)
        return io_failed(errno);
    *call->space = (struct disk_space){
        .bytes_total = (uint64_t)space.f_blocks * space.f_frsize,
        .bytes_free = (uint64_t)space.f_bavail * space.f_frsize,
        .inodes_total = space.f_files,
        .inodes_free = space.f_favail,
    };
    return io_ok(0);
}

struct io_result disk_space(const char *path, struct disk_space *space)
{
    return disk_call((struct disk_call){run_space, .path = path, .space = space});
}

const char *disk_sqlite_vfs(void)
{
    return NULL;
}

/* ------------------------------------------------------------------ listing, in batches */

enum { LIST_BUFFER = 8192, NAME_ROOM = 256 };

static struct io_result run_list_open(struct disk_call *call)
{
    call->directory = opendir(call->path);
    return by_errno(call->directory == NULL);
}

/* Fills the buffer with names, each ended by NUL; `count` tells how full; IO_END: no more. */
static struct io_result run_list_next(struct disk_call *call)
{
    size_t used = 0;

    while (call->into.count - used > NAME_ROOM) {
        errno = 0;
        const struct dirent *entry = readdir(call->directory);
        if (!entry && errno != 0)
            return io_failed(errno);
        if (!entry)
            return (struct io_result){.status = used ? IO_OK : IO_END, .count = used};
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        const size_t length = strlen(entry->d_name) + 1;
        INVARIANT(length <= NAME_ROOM);
        memcpy(call->into.at + used, entry->d_name, length);
        used += length;
    }
    return io_ok(used);
}

static bool give_names(struct bytes names, bool (*each)(void *argument, const char *name),
                       void *argument)
{
    for (size_t at = 0; at < names.count; at += strlen((const char *)names.at + at) + 1)
        if (!each(argument, (const char *)names.at + at))
            return false;
    return true;
}

struct io_result disk_list(const char *path, bool (*each)(void *argument, const char *name),
                           void *argument)
{
    struct disk_call call = {run_list_open, .path = path};
    uint8_t *names = malloc(LIST_BUFFER);

    call.into = (struct span){names, LIST_BUFFER};
    if (!names || work_run(disk_call_in_pool, &call) != IO_OK)
        call.result = io_failed(ENOMEM);
    while (call.result.status == IO_OK) {
        call.run = run_list_next;
        if (work_run(disk_call_in_pool, &call) != IO_OK)
            call.result = io_failed(ENOMEM);
        if (call.result.status == IO_OK &&
            !give_names(bytes_of(names, call.result.count), each, argument))
            break;
    }
    if (call.directory)
        closedir(call.directory);
    free(names);
    return call.result.status == IO_END ? io_ok(0) : call.result;
}
