/*
 * cached_file: a file read whole and read again when it changes, looked at once a second at most.
 *
 * A snapshot that failed is tried again at every look. A file that changes while it is read is
 * never used; one that changed within the last second is marked fresh, since its writer may be half
 * way.
 */
#include <errno.h>
#include <string.h>

#include "directory/source.h"

enum { LOOK_EVERY_US = 1000000, LOOK_PATIENCE_US = 20000000, READ_TRIES = 3 };

/* ------------------------------------------------------------------ snapshots */

static struct snapshot *snapshot_new(void)
{
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);

    if (!snapshot)
        return NULL;
    snapshot->holders = 1;
    snapshot->arena = ARENA_WITH_LIMIT(8 * SNAPSHOT_FILE_BYTES_MAX);
    snapshot->state = lookup_found();
    return snapshot;
}

void snapshot_release(struct snapshot *snapshot)
{
    if (!snapshot || --snapshot->holders > 0)
        return;
    arena_clear(&snapshot->arena);
    free(snapshot);
}

void snapshot_malformed(struct snapshot *snapshot, unsigned line, const char *what)
{
    snapshot->state = lookup_failed(
        LOOKUP_REASON_MISCONFIGURED,
        arena_print(&snapshot->arena, "%s:%u: %s", snapshot->files[0].path, line, what));
}

static bool facts_equal(const struct file_facts *a, const struct file_facts *b)
{
    return a->size_bytes == b->size_bytes && a->modified_wall_us == b->modified_wall_us &&
           a->is_directory == b->is_directory;
}

/* ------------------------------------------------------------------ reading */

static struct lookup io_lookup(struct snapshot *snapshot, const char *path, struct io_result result)
{
    const bool absent =
        result.status == IO_FAILED && (result.error == ENOENT || result.error == ENOTDIR);

    if (result.status == IO_CANCELLED)
        return lookup_failed(LOOKUP_REASON_CANCELLED, BYTES_EMPTY);
    return lookup_failed(absent ? LOOKUP_REASON_MISCONFIGURED : LOOKUP_REASON_UNAVAILABLE,
                         arena_print(&snapshot->arena, "%s: %s", path, io_result_text(result)));
}

/* The file's bytes as `size` said; a short read means that it shrank meanwhile. */
static struct io_result read_whole(struct snapshot *snapshot, struct file *file, uint64_t size,
                                   struct bytes *text)
{
    uint8_t *into = arena_take(&snapshot->arena, size + 1);
    uint64_t done = 0;

    if (!into)
        return io_failed(ENOMEM);
    while (done < size) {
        const struct io_result result =
            file_read_at(file, (struct span){into + done, size - done}, done);

        if (result.status == IO_END || (result.status == IO_OK && result.count == 0))
            return io_failed(EAGAIN);
        if (result.status != IO_OK)
            return result;
        done += result.count;
    }
    *text = bytes_of(into, size);
    return io_ok(size);
}

/* Reads between two looks at the facts; EAGAIN when they differ. */
static struct io_result read_stable(struct snapshot *snapshot, struct file *file,
                                    struct watched_file *watched, struct bytes *text)
{
    struct file_facts after;
    struct io_result result = file_facts(file, &watched->facts);

    if (result.status != IO_OK)
        return result;
    if (watched->facts.is_directory)
        return io_failed(EISDIR);
    if (watched->facts.size_bytes > SNAPSHOT_FILE_BYTES_MAX)
        return io_failed(EFBIG);
    result = read_whole(snapshot, file, watched->facts.size_bytes, text);
    if (result.status != IO_OK)
        return result;
    result = file_facts(file, &after);
    if (result.status == IO_OK && !facts_equal(&watched->facts, &after))
        return io_failed(EAGAIN);
    return result;
}

static struct io_result read_once(struct snapshot *snapshot, struct watched_file *watched,
                                  struct bytes *text)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;
    const struct io_result opened = file_open(watched->path, FILE_READ, &file);

    if (opened.status != IO_OK)
        return opened;
    return read_stable(snapshot, file, watched, text);
}

static bool facts_are_fresh(const struct file_facts *facts)
{
    const int64_t age_us = clock_wall_us() - facts->modified_wall_us;

    return age_us < LOOK_EVERY_US && age_us > -LOOK_EVERY_US;
}

struct lookup snapshot_read(struct snapshot *snapshot, const char *path, struct bytes *text)
{
    struct io_result result = {.status = IO_FAILED};

    *text = BYTES_EMPTY;
    if (snapshot->file_count == SNAPSHOT_FILES_MAX)
        return lookup_failed(LOOKUP_REASON_MISCONFIGURED, BYTES_LITERAL("too many included files"));
    struct watched_file *watched = &snapshot->files[snapshot->file_count++];

    watched->path = arena_text(&snapshot->arena, bytes_of_text(path));
    if (!watched->path)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("out of memory"));
    for (int i = 0; i < READ_TRIES; i++) {
        result = read_once(snapshot, watched, text);
        if (result.status != IO_FAILED || result.error != EAGAIN)
            break;
    }
    if (result.status != IO_OK)
        return io_lookup(snapshot, path, result);
    watched->read = true;
    snapshot->fresh = snapshot->fresh || facts_are_fresh(&watched->facts);
    return lookup_found();
}

static struct snapshot *snapshot_load(const struct cached_file *file)
{
    struct snapshot *snapshot = snapshot_new();
    struct bytes text;

    if (!snapshot)
        return NULL;
    snapshot->state = snapshot_read(snapshot, file->path, &text);
    if (snapshot->state.status == LOOKUP_FOUND)
        file->parse(snapshot, text);
    if (snapshot->arena.failed)
        snapshot->state = lookup_failed(LOOKUP_REASON_UNAVAILABLE,
                                        BYTES_LITERAL("the file needs too much memory"));
    return snapshot;
}

/* ------------------------------------------------------------------ looking again */

static bool watched_changed(const struct watched_file *watched)
{
    struct file_facts facts;
    const struct io_result result = disk_facts(watched->path, &facts);

    return result.status != IO_OK || !watched->read || !facts_equal(&facts, &watched->facts);
}

static bool snapshot_outdated(const struct snapshot *snapshot)
{
    if (snapshot->state.status != LOOKUP_FOUND)
        return true;
    for (unsigned i = 0; i < snapshot->file_count; i++)
        if (watched_changed(&snapshot->files[i]))
            return true;
    /* What was read in the second of its change may have changed again within the same tick. */
    return snapshot->fresh;
}

void cached_file_open(struct cached_file *file, const char *path, snapshot_parse *parse)
{
    *file = (struct cached_file){.path = path, .parse = parse};
    pthread_mutex_init(&file->lock, NULL);
}

void cached_file_close(struct cached_file *file)
{
    snapshot_release(file->now);
    pthread_mutex_destroy(&file->lock);
}

enum next_step { STEP_USE, STEP_LOOK, STEP_WAIT };

/*
 * What the caller does now; *held is the snapshot at hand, held for it, or NULL. One fiber looks,
 * the others go on with what is at hand, or wait when that is nothing, or older than they can use.
 */
static enum next_step cached_file_step(struct cached_file *file, uint64_t since_us,
                                       struct snapshot **held)
{
    const uint64_t now_us = clock_now_us();
    enum next_step step = STEP_USE;

    pthread_mutex_lock(&file->lock);
    const bool usable = file->now && file->looked_us >= since_us;

    if (file->looking)
        step = usable ? STEP_USE : STEP_WAIT;
    else if (!usable || now_us - file->looked_us >= LOOK_EVERY_US)
        step = STEP_LOOK;
    file->looking = file->looking || step == STEP_LOOK;
    *held = step == STEP_WAIT ? NULL : file->now;
    if (*held)
        (*held)->holders++;
    pthread_mutex_unlock(&file->lock);
    return step;
}

/* The one that looked is done: `fresh` replaces what was at hand, unless it is NULL. */
static void cached_file_looked(struct cached_file *file, struct snapshot *fresh, uint64_t start_us,
                               bool done)
{
    struct snapshot *former = NULL;

    pthread_mutex_lock(&file->lock);
    if (fresh) {
        former = file->now;
        fresh->holders++;
        file->now = fresh;
    }
    if (done)
        file->looked_us = start_us;
    file->looking = false;
    waitlist_wake_all(&file->looked);
    pthread_mutex_unlock(&file->lock);
    snapshot_release(former);
}

static struct snapshot *cached_file_look(struct cached_file *file, struct snapshot *held)
{
    const uint64_t start_us = clock_now_us();

    if (held && !snapshot_outdated(held)) {
        cached_file_looked(file, NULL, start_us, true);
        return held;
    }
    snapshot_release(held);
    struct snapshot *loaded = snapshot_load(file);
    const bool done = loaded && loaded->state.reason != LOOKUP_REASON_CANCELLED;

    cached_file_looked(file, done ? loaded : NULL, start_us, done);
    return loaded;
}

static bool cached_file_is_looking(struct cached_file *file)
{
    pthread_mutex_lock(&file->lock);
    const bool looking = file->looking;

    pthread_mutex_unlock(&file->lock);
    return looking;
}

static bool cached_file_wait(struct cached_file *file, uint64_t deadline_us)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    waitlist_join(&file->looked, &waiter);
    while (cached_file_is_looking(file) && status == IO_OK)
        status = fiber_park(deadline_us);
    waitlist_leave(&file->looked, &waiter);
    return status == IO_OK;
}

struct snapshot *cached_file_take(struct cached_file *file, uint64_t since_us)
{
    const uint64_t deadline_us = deadline_in(LOOK_PATIENCE_US);
    struct snapshot *held = NULL;

    for (;;) {
        switch (cached_file_step(file, since_us, &held)) {
        case STEP_USE:
            return held;
        case STEP_LOOK:
            return cached_file_look(file, held);
        case STEP_WAIT:
            if (!cached_file_wait(file, deadline_us))
                return NULL;
            break;
        }
    }
}
