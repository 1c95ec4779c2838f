/* What a test does to the disk from outside: at once, durable, without a step. */
#include "sim/inside.h"

#include <errno.h>
#include <string.h>

static struct inode *make(const char *path, bool is_directory)
{
    struct place place;
    struct inode *inode = NULL;

    INVARIANT(names_find(path, &place) == 0);
    if (!place.inode)
        INVARIANT(names_create(&place, is_directory, &inode) == 0);
    names_settle();
    return place.inode ? place.inode : inode;
}

void sim_disk_make_directory(const char *path)
{
    char part[PATH_MAX_BYTES];
    const size_t length = strlen(path);

    INVARIANT(length < sizeof part);
    for (size_t i = 1; i <= length; i++)
        if (i == length || path[i] == '/') {
            memcpy(part, path, i);
            part[i] = '\0';
            INVARIANT(make(part, true)->is_directory);
        }
}

void sim_disk_put(const char *path, struct bytes content)
{
    const char *slash = strrchr(path, '/');

    if (slash && slash != path) {
        char parent[PATH_MAX_BYTES];

        INVARIANT((size_t)(slash - path) < sizeof parent);
        memcpy(parent, path, (size_t)(slash - path));
        parent[slash - path] = '\0';
        sim_disk_make_directory(parent);
    }
    struct inode *inode = make(path, false);
    pages_truncate(inode, 0);
    pages_write(inode, 0, content);
    pages_settle(inode);
}

static struct inode *find(const char *path)
{
    struct place place;

    return names_find(path, &place) == 0 ? place.inode : NULL;
}

bool sim_disk_exists(const char *path)
{
    return find(path) != NULL;
}

struct bytes sim_disk_get(const char *path)
{
    static uint8_t *last;
    const struct inode *inode = find(path);

    free(last);
    last = NULL;
    if (!inode || inode->is_directory)
        return BYTES_EMPTY;
    last = sim_new((size_t)inode->size + 1);
    return bytes_of(last, pages_read(inode, 0, (struct span){last, (size_t)inode->size}));
}

bool sim_disk_flip(const char *path, uint64_t offset, unsigned bit)
{
    struct inode *inode = find(path);

    if (!inode || inode->is_directory || offset >= inode->size)
        return false;
    pages_flip(inode, offset, bit);
    return true;
}

const char *sim_disk_find(const char *directory, const char *name_part)
{
    const struct inode *inode = find(directory);

    for (size_t i = 0; inode && i < inode->names.count; i++)
        if (strstr(inode->names.at[i].name, name_part))
            return inode->names.at[i].name;
    return NULL;
}

void sim_disk_each(const char *directory, void (*each)(void *argument, const char *name),
                   void *argument)
{
    const struct inode *inode = find(directory);

    for (size_t i = 0; inode && i < inode->names.count; i++)
        each(argument, inode->names.at[i].name);
}
