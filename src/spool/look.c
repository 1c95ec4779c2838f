/* Read-only; nothing here changes a file. */
#include "spool/look.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/runtime.h"

struct look {
    struct file *file; /* NULL: descriptor counts */
    int descriptor;
};

static bool in_world(void)
{
    return fiber_self() != NULL;
}

bool look_open(const char *path, struct look **look, int *error)
{
    struct look *opened = calloc(1, sizeof *opened);

    *look = NULL;
    *error = ENOMEM;
    if (!opened)
        return false;
    if (in_world()) {
        const struct io_result result = file_open(path, FILE_READ, &opened->file);
        *error = result.status == IO_OK ? 0 : result.error;
    } else {
        opened->descriptor = open(path, O_RDONLY | O_CLOEXEC);
        *error = opened->descriptor < 0 ? errno : 0;
    }
    if (*error == 0)
        *look = opened;
    else
        free(opened);
    return *error == 0;
}

bool look_size(struct look *look, uint64_t *size_bytes)
{
    struct file_facts in;
    struct stat out;

    *size_bytes = 0;
    if (look->file) {
        if (file_facts(look->file, &in).status != IO_OK)
            return false;
        *size_bytes = in.size_bytes;
        return true;
    }
    if (fstat(look->descriptor, &out) != 0)
        return false;
    *size_bytes = (uint64_t)out.st_size;
    return true;
}

bool look_read(struct look *look, uint64_t offset, struct span into)
{
    size_t done = 0;

    if (look->file) {
        const struct io_result got = file_read_at(look->file, into, offset);
        return got.status == IO_OK && got.count == into.count;
    }
    while (done < into.count) {
        const ssize_t count =
            pread(look->descriptor, into.at + done, into.count - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return false;
        done += (size_t)count;
    }
    return true;
}

void look_close(struct look *look)
{
    if (look->file)
        file_close(look->file);
    else
        close(look->descriptor);
    free(look);
}

bool look_list(const char *path, bool (*each)(void *argument, const char *name), void *argument)
{
    bool more = true;

    if (in_world())
        return disk_list(path, each, argument).status == IO_OK;
    DIR *const directory = opendir(path);
    if (!directory)
        return false;
    for (const struct dirent *entry; more && (entry = readdir(directory));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            more = each(argument, entry->d_name);
    closedir(directory);
    return true;
}
