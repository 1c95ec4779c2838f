/* Opening and closing: the two loops, their fibers, and the wait for them. */
#include "spool/inside.h"

#include <string.h>

#define OPEN_PATIENCE_US (3600 * US_PER_S) /* a rebuild of a large log takes its time */
#define CLOSE_PATIENCE_US (60 * US_PER_S)

static void set_settings(struct spool *spool, const struct spool_settings *settings)
{
    const uint64_t segment_bytes = settings->segment_bytes ? settings->segment_bytes : 64 * MIB;

    snprintf(spool->directory, sizeof spool->directory, "%s", settings->directory);
    spool->segment_bytes =
        MIN_OF(MAX_OF(segment_bytes / BLOCK_BYTES, (uint64_t)16) * BLOCK_BYTES, 1024 * MIB);
    spool->inline_body_bytes =
        settings->inline_body_bytes ? settings->inline_body_bytes : 256 * KIB;
    spool->inline_body_bytes = MIN_OF(spool->inline_body_bytes, spool->segment_bytes / 4);
    spool->inline_body_bytes = MIN_OF(spool->inline_body_bytes, RECORD_BODY_MAX / 2);
    spool->high_water_percent =
        settings->high_water_percent ? MIN_OF(settings->high_water_percent, 100u) : 95;
    spool->reserve_bytes = settings->reserve_bytes ? settings->reserve_bytes : 16 * MIB;
}

static struct spool *spool_new(const struct spool_settings *settings)
{
    struct spool *spool = calloc(1, sizeof *spool);

    if (!spool)
        return NULL;
    set_settings(spool, settings);
    if (!table_open(&spool->table)) {
        free(spool);
        return NULL;
    }
    pthread_mutex_init(&spool->lock, NULL);
    return spool;
}

static void spool_free(struct spool *spool)
{
    while (spool->table.segments) {
        struct segment *segment = spool->table.segments;
        spool->table.segments = segment->next;
        segment_close(segment);
    }
    table_free(&spool->table);
    free(spool->marks);
    if (spool->lock_file)
        file_close(spool->lock_file);
    pthread_mutex_destroy(&spool->lock);
    free(spool);
}

static bool is_opened(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    const bool opened = spool->opened;
    pthread_mutex_unlock(&spool->lock);
    return opened;
}

static bool is_ended(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    const bool ended = spool->writer_ended && spool->indexer_ended;
    pthread_mutex_unlock(&spool->lock);
    return ended;
}

/* Masked: half an opening or closing helps nobody. */
static bool await(struct spool *spool, bool (*condition)(struct spool *spool), uint64_t patience_us)
{
    const uint64_t deadline_us = deadline_in(patience_us);
    const bool masked = fiber_mask_cancel(true);
    struct waiter waiter;
    bool met;

    waitlist_join(&spool->changed, &waiter);
    while (!(met = condition(spool)))
        if (fiber_park(deadline_us) != IO_OK)
            break;
    waitlist_leave(&spool->changed, &waiter);
    fiber_mask_cancel(masked);
    return met;
}

static bool start_fibers(struct spool *spool)
{
    spool->indexer_loop = loop_start("spool-index", LOOP_BLOCKING);
    spool->writer_loop = spool->indexer_loop ? loop_start("spool-write", LOOP_BLOCKING) : NULL;
    return spool->writer_loop &&
           fiber_start_on(spool->indexer_loop, "spool-index", indexer_main, spool);
}

static void say(char *why, size_t room, const char *text)
{
    snprintf(why, room, "%s", text);
}

static struct spool *open_new(struct spool *spool, char *why, size_t why_room)
{
    if (!start_fibers(spool)) {
        say(why, why_room, "spool: no thread could be started");
        spool_free(spool);
        return NULL;
    }
    if (!await(spool, is_opened, OPEN_PATIENCE_US)) { /* its memory is in use for ever */
        say(why, why_room, "spool: recovery does not end");
        return NULL;
    }
    if (!spool->failed_to_open &&
        fiber_start_on(spool->writer_loop, "spool-write", writer_main, spool))
        return spool;
    say(why, why_room, spool->failed_to_open ? spool->why : "spool: out of memory");
    pthread_mutex_lock(&spool->lock);
    spool->stopping = spool->writer_ended = true;
    pthread_mutex_unlock(&spool->lock);
    indexer_wake(spool);
    if (await(spool, is_ended, CLOSE_PATIENCE_US))
        spool_free(spool);
    return NULL;
}

bool spool_open(const struct spool_settings *settings, struct spool **spool, char *why,
                size_t why_room)
{
    struct spool *made =
        strlen(settings->directory) < sizeof made->directory ? spool_new(settings) : NULL;

    *spool = NULL;
    if (!made) {
        say(why, why_room, "spool: the directory's name is too long, or no memory");
        return false;
    }
    *spool = open_new(made, why, why_room);
    return *spool != NULL;
}

void spool_close(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    spool->stopping = true;
    pthread_mutex_unlock(&spool->lock);
    waitlist_wake_all(&spool->spare_made);
    writer_wake(spool);
    indexer_wake(spool);
    if (await(spool, is_ended, CLOSE_PATIENCE_US))
        spool_free(spool);
    else
        observe_note(LOG_ERROR, "spool", "the disk hangs: left without a clean end");
}

/* ------------------------------------------------------------------ rebuild */

struct rebuild {
    const char *directory;
    char *why;
    size_t why_room;
};

static int rebuild_main(void *argument)
{
    const struct rebuild *rebuild = argument;
    const struct spool_settings settings = {.directory = rebuild->directory};
    struct file_facts facts;
    char path[SPOOL_PATH_MAX];

    snprintf(path, sizeof path, "%.500s/log", rebuild->directory);
    if (disk_facts(path, &facts).status != IO_OK) {
        snprintf(rebuild->why, rebuild->why_room, "%s: no such spool", rebuild->directory);
        return 1;
    }
    struct spool *spool = spool_new(&settings);
    if (!spool)
        return 1;
    spool->rebuild = true;
    spool = open_new(spool, rebuild->why, rebuild->why_room);
    if (spool)
        spool_close(spool);
    return spool ? 0 : 1;
}

/* In a command there is no world yet: a small one runs for as long as it takes. */
bool spool_rebuild(const char *directory, char *why, size_t why_room)
{
    struct rebuild rebuild = {directory, why, why_room};

    say(why, why_room, "spool: out of memory");
    return (fiber_self() ? rebuild_main(&rebuild) : world_run(rebuild_main, &rebuild, 1)) == 0;
}
