/*
 * A disk that remembers in which order everything came to it: logdisk SIZE LOG MOUNTPOINT [IMAGE].
 * It begins as a copy of IMAGE, or empty.
 *
 * In MOUNTPOINT there are two files. `disk`, of SIZE bytes, goes under a loop device and holds a
 * file system; each write and each sync (the device's flush) is one entry of LOG. What is written
 * into `mark` is an entry too: so whoever says there what he was promised has his word in the same
 * order. One thread: the order of the log is the order in which the calls ended.
 *
 * An entry: kind, 0, 0, 0 (8 bits each), length (u32), offset (u64), all little endian, then the
 * bytes.
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind { KIND_WRITE = 1, KIND_SYNC, KIND_MARK };

static struct {
    uint8_t *bytes;
    size_t size;
    int log;
} disk;

static int log_add(enum kind kind, uint64_t offset, const void *bytes, size_t count)
{
    struct {
        uint8_t kind, zero[3];
        uint32_t length;
        uint64_t offset;
    } head = {(uint8_t)kind, {0}, (uint32_t)count, offset};

    if (write(disk.log, &head, sizeof head) != (ssize_t)sizeof head)
        return -EIO;
    return count == 0 || write(disk.log, bytes, count) == (ssize_t)count ? 0 : -EIO;
}

static bool is_disk(const char *path)
{
    return strcmp(path, "/disk") == 0;
}

static int get_facts(const char *path, struct stat *facts, struct fuse_file_info *file)
{
    (void)file;
    *facts = (struct stat){.st_nlink = 1};
    if (strcmp(path, "/") == 0) {
        facts->st_mode = S_IFDIR | 0755;
        return 0;
    }
    if (!is_disk(path) && strcmp(path, "/mark") != 0)
        return -ENOENT;
    facts->st_mode = S_IFREG | 0600;
    facts->st_size = is_disk(path) ? (off_t)disk.size : 0;
    return 0;
}

static int list(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                struct fuse_file_info *file, enum fuse_readdir_flags flags)
{
    static const char *const names[] = {".", "..", "disk", "mark"};

    (void)path, (void)offset, (void)file, (void)flags;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        fill(buffer, names[i], NULL, 0, 0);
    return 0;
}

static int open_one(const char *path, struct fuse_file_info *file)
{
    file->direct_io = !is_disk(path); /* a mark is logged when it is written, not later */
    return 0;
}

static int cut(const char *path, off_t size, struct fuse_file_info *file)
{
    (void)path, (void)size, (void)file; /* `mark` is opened as a shell would */
    return 0;
}

static int read_some(const char *path, char *into, size_t count, off_t offset,
                     struct fuse_file_info *file)
{
    (void)file;
    if (!is_disk(path) || (size_t)offset >= disk.size)
        return 0;
    if (count > disk.size - (size_t)offset)
        count = disk.size - (size_t)offset;
    memcpy(into, disk.bytes + offset, count);
    return (int)count;
}

static int write_some(const char *path, const char *from, size_t count, off_t offset,
                      struct fuse_file_info *file)
{
    (void)file;
    if (is_disk(path)) {
        if ((size_t)offset + count > disk.size)
            return -ENOSPC;
        memcpy(disk.bytes + offset, from, count);
    }
    const int failed =
        log_add(is_disk(path) ? KIND_WRITE : KIND_MARK, (uint64_t)offset, from, count);
    return failed ? failed : (int)count;
}

static int sync_it(const char *path, int data_only, struct fuse_file_info *file)
{
    (void)data_only, (void)file;
    return is_disk(path) ? log_add(KIND_SYNC, 0, NULL, 0) : 0;
}

static bool begin_as(const char *image)
{
    const int from = open(image, O_RDONLY | O_CLOEXEC);
    size_t had = 0;
    ssize_t got = 1;

    while (from >= 0 && had < disk.size && got > 0) {
        got = read(from, disk.bytes + had, disk.size - had);
        had += got > 0 ? (size_t)got : 0;
    }
    if (from >= 0)
        close(from);
    return from >= 0 && had == disk.size;
}

int main(int count, char **words)
{
    static const struct fuse_operations operations = {.getattr = get_facts,
                                                      .readdir = list,
                                                      .open = open_one,
                                                      .truncate = cut,
                                                      .read = read_some,
                                                      .write = write_some,
                                                      .fsync = sync_it};
    if (count != 4 && count != 5)
        return 64;
    disk.size = strtoull(words[1], NULL, 10);
    disk.log = open(words[2], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    disk.bytes = mmap(NULL, disk.size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (disk.log < 0 || disk.bytes == MAP_FAILED || (count == 5 && !begin_as(words[4]))) {
        perror("logdisk");
        return 1;
    }
    char name[] = "logdisk", foreground[] = "-f", single[] = "-s";
    char *arguments[] = {name, foreground, single, words[3], NULL};
    return fuse_main(4, arguments, &operations, NULL);
}
