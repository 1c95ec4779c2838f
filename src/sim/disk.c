/*
 * Files and names as runtime.h offers them: check, let the time of the step pass, do it, in the
 * order in which a kernel finds its errors. What a step does is done at its end, in one piece,
 * unless the crash strikes in its middle.
 */
#include "sim/inside.h"

#include <errno.h>
#include <string.h>

static struct file *handles;

/* ------------------------------------------------------------------ handles */

static struct file *handle_new(struct inode *inode, const char *path, bool writable)
{
    struct file *file = sim_new(sizeof *file);

    *file = (struct file){.next = handles, .inode = inode, .writable = writable};
    file->path = strdup(path);
    INVARIANT(file->path != NULL);
    if (handles)
        handles->previous = file;
    handles = file;
    names_usage_changed();
    inode->handles++;
    return file;
}

void file_close(struct file *file)
{
    if (!file)
        return;
    if (file->previous)
        file->previous->next = file->next;
    else
        handles = file->next;
    if (file->next)
        file->next->previous = file->previous;
    if (file->inode->locked_by == file)
        file->inode->locked_by = NULL;
    file->inode->handles--;
    names_usage_changed();
    free(file->path);
    free(file);
}

unsigned sim_disk_handles(void)
{
    unsigned count = 0;

    for (const struct file *file = handles; file; file = file->next)
        count++;
    return count;
}

/* At the end of a world, when nobody is left to close them. */
void handles_close(void)
{
    sync_finish();
    while (handles)
        file_close(handles);
    for (struct inode *inode = names_all(); inode; inode = inode->next)
        inode->handles = 0;
    names_usage_changed();
    names_collect();
}

static int open_new(const struct place *place, struct inode **inode)
{
    if (disk_is_read_only())
        return EROFS;
    const int error = budget_check(0, 1);
    return error ? error : names_create(place, false, inode);
}

int disk_open_now(const char *path, unsigned flags, struct file **file)
{
    const bool writes = (flags & (FILE_WRITE | FILE_CREATE | FILE_NEW)) != 0;
    struct place place;
    int error = names_find(path, &place);

    if (error)
        return error;
    struct inode *inode = place.inode;
    if (inode && (flags & FILE_NEW))
        return EEXIST;
    if (!inode && !(flags & (FILE_CREATE | FILE_NEW)))
        return ENOENT;
    if (inode && inode->is_directory)
        return EISDIR;
    if (inode && writes && disk_is_read_only())
        return EROFS;
    if (!inode)
        error = open_new(&place, &inode);
    if (!error)
        *file = handle_new(inode, path, (flags & FILE_WRITE) != 0);
    return error;
}

/* An inode to which no name leads: its handle keeps it. */
int disk_open_nameless(struct file **file)
{
    struct place nowhere;
    struct inode *inode = NULL;
    int error = names_find("/.nameless", &nowhere);

    if (!error)
        error = open_new(&nowhere, &inode);
    if (error)
        return error;
    *file = handle_new(inode, "/.nameless", true);
    nowhere.inode = inode;
    return names_remove(&nowhere);
}

struct io_result file_open(const char *path, unsigned flags, struct file **file)
{
    sim_die_if_crashed();
    const struct step step = step_take(
        flags & (FILE_CREATE | FILE_NEW) ? SIM_DISK_OPEN | SIM_DISK_NAMES : SIM_DISK_OPEN, path, 0);

    *file = NULL;
    step_wait(&step);
    const int error = step.error ? step.error : disk_open_now(path, flags, file);
    step_end(&step);
    return error ? io_failed(error) : io_ok(0);
}

/* ------------------------------------------------------------------ reading and writing */

int disk_write_now(struct file *file, const struct step *step, uint64_t offset, struct bytes bytes,
                   size_t *done)
{
    int error = !file->writable ? EBADF : disk_is_read_only() ? EROFS : step->error;

    if (!error)
        error = budget_check(pages_missing(file->inode, offset, bytes.count), 0);
    *done = bytes.count;
    if (error || step->strike == STRIKE_MIDDLE)
        *done = error == EROFS || error == EBADF || error == EACCES
                    ? 0
                    : (size_t)sim_below(bytes.count);
    if (error && budget_check(pages_missing(file->inode, offset, *done), 0) != 0)
        *done = 0;
    pages_write(file->inode, offset, bytes_slice(bytes, 0, *done));
    if (sim_chance(100000))
        pages_write_back(file->inode);
    return error;
}

static size_t total_of(const struct bytes *parts, size_t part_count)
{
    size_t total = 0;

    for (size_t i = 0; i < part_count; i++)
        total += parts[i].count;
    return total;
}

/* One piece, so that a torn write may end anywhere in it. */
static uint8_t *glue(const struct bytes *parts, size_t part_count, size_t total)
{
    uint8_t *whole = sim_new(MAX_OF(total, (size_t)1));
    size_t at = 0;

    for (size_t i = 0; i < part_count; i++) {
        if (parts[i].count > 0)
            memcpy(whole + at, parts[i].at, parts[i].count);
        at += parts[i].count;
    }
    return whole;
}

struct io_result file_write_at(struct file *file, const struct bytes *parts, size_t part_count,
                               uint64_t offset)
{
    const size_t total = total_of(parts, part_count);
    size_t done = 0;

    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_WRITE, file->path, total);
    step_wait(&step);
    uint8_t *whole = glue(parts, part_count, total);
    trace_bytes("write", offset, bytes_of(whole, total));
    const int error = disk_write_now(file, &step, offset, bytes_of(whole, total), &done);
    free(whole);
    step_end(&step);
    struct io_result result = error ? io_failed(error) : io_ok(total);
    result.count = done;
    return result;
}

struct io_result file_read_at(struct file *file, struct span into, uint64_t offset)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_READ, file->path, into.count);
    step_wait(&step);
    step_end(&step);
    if (step.error)
        return io_failed(step.error);
    const size_t count = pages_read(file->inode, offset, into);
    return count == 0 && into.count > 0 ? io_status_only(IO_END) : io_ok(count);
}

int disk_truncate_now(struct file *file, const struct step *step, uint64_t size)
{
    if (!file->writable)
        return EBADF;
    if (step->error || disk_is_read_only())
        return step->error ? step->error : EROFS;
    pages_truncate(file->inode, size);
    return 0;
}

struct io_result file_truncate(struct file *file, uint64_t size_bytes)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_WRITE, file->path, 0);
    step_wait(&step);
    const int error = disk_truncate_now(file, &step, size_bytes);
    step_end(&step);
    return error ? io_failed(error) : io_ok(0);
}

/* Grows the file with zeroes up to this size; what it holds stays. */
struct io_result file_reserve(struct file *file, uint64_t size_bytes)
{
    struct inode *inode = file->inode;
    int error = file->writable ? 0 : EBADF;

    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_WRITE, file->path, size_bytes);
    step_wait(&step);
    if (!error)
        error = disk_is_read_only() ? EROFS : step.error;
    if (!error)
        error = budget_check(pages_missing(inode, 0, size_bytes), 0);
    if (!error && inode->size < size_bytes)
        pages_zero(inode, inode->size,
                   step.strike == STRIKE_MIDDLE ? chance_between(inode->size, size_bytes)
                                                : size_bytes);
    step_end(&step);
    return error ? io_failed(error) : io_ok(0);
}

/* ------------------------------------------------------------------ syncs */

enum sync_end sync_end_of(const struct step *step)
{
    if (step->error)
        return SYNC_FAILED;
    return step->lie ? SYNC_LIED : SYNC_DONE;
}

/* In the middle of it stands its job; a crash then finds it in the list of those under way. */
struct io_result file_sync(struct file *file)
{
    struct inode *inode = file->inode;

    sim_die_if_crashed();
    while (sync_running(inode))
        sim_pause(chance_between(10, 100));
    struct step step = step_take(SIM_DISK_SYNC, file->path, 0);
    struct sync_job *job = sync_begin(inode);
    inode->handles++; /* it stays until the sync has ended, whoever closes it */
    step_wait(&step);
    if (step.strike == STRIKE_MIDDLE)
        step_end(&step);
    sync_end(job, sync_end_of(&step));
    inode->handles--;
    names_usage_changed();
    step_end(&step);
    return step.error ? io_failed(step.error) : io_ok(0);
}

int disk_sync_names_now(const char *path, const struct step *step)
{
    struct place place;
    const int error = names_find(path, &place);

    if (error || !place.inode)
        return error ? error : ENOENT;
    if (!place.inode->is_directory)
        return ENOTDIR;
    if (step->error)
        names_sync_failed(place.inode);
    else if (!step->lie)
        names_sync(place.inode);
    return step->error;
}

struct io_result disk_sync_directory(const char *path)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_SYNC_NAMES, path, 0);
    step_wait(&step);
    if (step.strike == STRIKE_MIDDLE)
        step_end(&step);
    const int error = disk_sync_names_now(path, &step);
    step_end(&step);
    return error ? io_failed(error) : io_ok(0);
}

/* ------------------------------------------------------------------ facts and locks */

static void fill_facts(const struct inode *inode, struct file_facts *facts)
{
    *facts = (struct file_facts){.size_bytes = inode->size,
                                 .modified_wall_us = inode->modified_wall_us,
                                 .is_directory = inode->is_directory,
                                 .is_regular = !inode->is_directory,
                                 .links = 1};
}

struct io_result file_facts(struct file *file, struct file_facts *facts)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_LOOK, file->path, 0);
    step_wait(&step);
    fill_facts(file->inode, facts);
    step_end(&step);
    return step.error ? io_failed(step.error) : io_ok(0);
}

struct io_result file_lock(struct file *file)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_LOOK, file->path, 0);
    step_wait(&step);
    step_end(&step);
    if (step.error)
        return io_failed(step.error);
    if (file->inode->locked_by && file->inode->locked_by != file)
        return io_failed(EWOULDBLOCK);
    file->inode->locked_by = file;
    return io_ok(0);
}

/* ------------------------------------------------------------------ names */

static int find_two(const char *from, const char *to, struct place places[2])
{
    int error = names_find(from, &places[0]);

    if (!error)
        error = places[0].inode ? names_find(to, &places[1]) : ENOENT;
    if (!error && disk_is_read_only())
        error = EROFS;
    return error;
}

/* In its middle a deed of names is done or not: no half of it is ever seen. */
static int strike_of_names(const struct step *step)
{
    return step->strike == STRIKE_MIDDLE && sim_chance(500000) ? EIO : step->error;
}

static struct io_result two_names(const char *from, const char *to,
                                  int (*deed)(const struct place *, const struct place *))
{
    struct place places[2];

    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_NAMES, to, 0);
    step_wait(&step);
    int error = strike_of_names(&step);
    if (!error)
        error = find_two(from, to, places);
    if (!error)
        error = deed(&places[0], &places[1]);
    step_end(&step);
    return error ? io_failed(error) : io_ok(0);
}

struct io_result disk_rename(const char *from, const char *to)
{
    return two_names(from, to, names_rename);
}

struct io_result disk_link(const char *from, const char *to)
{
    return two_names(from, to, names_link);
}

int disk_remove_now(const char *path, const struct step *step)
{
    struct place place;
    int error = strike_of_names(step);

    if (!error)
        error = names_find(path, &place);
    if (!error && !place.inode)
        error = ENOENT;
    if (!error && disk_is_read_only())
        error = EROFS;
    return error ? error : names_remove(&place);
}

struct io_result disk_remove(const char *path)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_NAMES, path, 0);
    step_wait(&step);
    const int error = disk_remove_now(path, &step);
    step_end(&step);
    return error ? io_failed(error) : io_ok(0);
}

static int make_directory(const char *path)
{
    struct place place;
    struct inode *inode = NULL;
    int error = names_find(path, &place);

    if (error)
        return error;
    if (place.inode)
        return place.inode->is_directory ? 0 : EEXIST;
    error = disk_is_read_only() ? EROFS : budget_check(0, 1);
    return error ? error : names_create(&place, true, &inode);
}

struct io_result disk_make_directory(const char *path)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_NAMES, path, 0);
    step_wait(&step);
    int error = strike_of_names(&step);
    if (!error)
        error = make_directory(path);
    step_end(&step);
    return error ? io_failed(error) : io_ok(0);
}

/* ------------------------------------------------------------------ looking */

/* 0 or an errno, after the time of a look. */
static int look_at(const char *path, struct place *place)
{
    sim_die_if_crashed();
    const struct step step = step_take(SIM_DISK_LOOK, path, 0);
    step_wait(&step);
    int error = step.error ? step.error : names_find(path, place);
    if (!error && !place->inode)
        error = ENOENT;
    step_end(&step);
    return error;
}

struct io_result disk_facts(const char *path, struct file_facts *facts)
{
    struct place place;
    const int error = look_at(path, &place);

    if (error)
        return io_failed(error);
    fill_facts(place.inode, facts);
    return io_ok(0);
}

/* The names as they were at one moment, in a drawn order: nobody may rely on any. */
struct io_result disk_list(const char *path, bool (*each)(void *argument, const char *name),
                           void *argument)
{
    struct place place;
    const int error = look_at(path, &place);

    if (error || !place.inode->is_directory)
        return io_failed(error ? error : ENOTDIR);
    const size_t count = place.inode->names.count;
    char **names = sim_new(MAX_OF(count, (size_t)1) * sizeof *names);
    for (size_t i = 0; i < count; i++) {
        const size_t other = (size_t)sim_below(i + 1);

        names[i] = names[other];
        names[other] = strdup(place.inode->names.at[i].name);
        INVARIANT(names[other] != NULL);
    }
    bool more = true;
    for (size_t i = 0; i < count; i++) {
        more = more && each(argument, names[i]);
        free(names[i]);
    }
    free(names);
    return io_ok(count);
}

struct io_result disk_space(const char *path, struct disk_space *space)
{
    struct place place;
    const int error = look_at(path, &place);

    if (error)
        return io_failed(error);
    const uint64_t used = names_used_bytes(), used_inodes = names_used_inodes();
    const uint64_t bytes = budget_bytes(), inodes = budget_inodes();
    *space = (struct disk_space){.bytes_total = bytes,
                                 .bytes_free = bytes - MIN_OF(used, bytes),
                                 .inodes_total = inodes,
                                 .inodes_free = inodes - MIN_OF(used_inodes, inodes)};
    return io_ok(0);
}
