/*
 * The indexer's fiber: brings the index up to what the log says, in batches, and what is due from
 * the index into memory. What a transaction holds stays pinned in the table until it is committed,
 * so a message is always in the table or in the index, never in neither.
 */
#include "spool/inside.h"

#include <string.h>

enum { FLUSH_ROWS = 500, LOAD_MOST = 2000, LOAD_LEAST = 16 };
enum { LOADS_A_TURN = 256 }; /* by id */
#define FLUSH_EVERY_US (250 * US_PER_MS)
#define HOUSE_EVERY_US US_PER_S
#define MOVED_PATIENCE_US (5 * US_PER_S) /* what recovery reads again when all was delivered */

void indexer_wake(struct spool *spool)
{
    if (spool->indexer)
        fiber_wake(spool->indexer);
}

/* ------------------------------------------------------------------ into the index */

struct flush_row {
    struct entry *entry;
    struct row row;
    size_t envelope_at, list_at; /* in the buffer, which may move while it grows */
    bool gone;
};

struct flush {
    struct flush_row rows[FLUSH_ROWS];
    uint32_t count;
    bool covers; /* nothing dirty is left behind */
    struct index_state state;
    struct buffer bytes;
};

static void flush_add(struct flush *flush, struct entry *entry)
{
    struct flush_row *row = &flush->rows[flush->count++];

    *row = (struct flush_row){.entry = entry, .gone = entry->ended};
    entry_row(entry, &row->row);
    row->envelope_at = flush->bytes.count;
    if (!entry->ended)
        buffer_add(&flush->bytes, entry->envelope);
    row->list_at = flush->bytes.count;
    if (!entry->ended)
        entry_status_list(entry, &flush->bytes);
    row->row.envelope.count = row->list_at - row->envelope_at;
    row->row.status_list.count = flush->bytes.count - row->list_at;
}

static void flush_collect(struct spool *spool, struct flush *flush)
{
    struct entry *entry;

    pthread_mutex_lock(&spool->lock);
    while (flush->count < FLUSH_ROWS && flush->bytes.count < 16 * MIB &&
           (entry = dirty_first(&spool->table))) {
        flush_add(flush, entry);
        entry->pins++;
        entry->indexed = true;
        entry->rewritten = false;
        table_clear_dirty(&spool->table, entry);
    }
    flush->covers = dirty_first(&spool->table) == NULL;
    flush->state = (struct index_state){spool->identity.spool, spool->applied_position,
                                        spool->applied_sequence};
    pthread_mutex_unlock(&spool->lock);
    for (uint32_t i = 0; i < flush->count; i++) {
        struct flush_row *row = &flush->rows[i];
        row->row.envelope.at = flush->bytes.at + row->envelope_at;
        row->row.status_list.at = flush->bytes.at + row->list_at;
    }
}

static bool flush_write(struct spool *spool, const struct flush *flush, bool durable)
{
    bool written = !flush->bytes.failed && index_begin(spool->index, durable);

    for (uint32_t i = 0; written && i < flush->count; i++)
        written = flush->rows[i].gone ? index_delete(spool->index, flush->rows[i].row.id)
                                      : index_put(spool->index, &flush->rows[i].row);
    written = written && index_end(spool->index, flush->covers ? &flush->state : NULL);
    if (!written)
        index_abandon(spool->index);
    return written;
}

/* Pins go; what nobody needs leaves the memory. After a failure everything is dirty again. */
static void flush_finish(struct spool *spool, const struct flush *flush, bool written)
{
    pthread_mutex_lock(&spool->lock);
    for (uint32_t i = 0; i < flush->count; i++) {
        struct entry *entry = flush->rows[i].entry;
        entry->pins--;
        if (!written) {
            entry->rewritten = true; /* the next time in whole, whatever of it was new */
            table_mark_dirty(&spool->table, entry);
        }
        if (written && flush->rows[i].gone)
            entry->indexed = false;
        if (entry->place == PLACE_IDLE && !entry->ended && entry->pins == 0)
            entry_settle_down(spool, entry, false);
        else
            table_drop_idle(&spool->table, entry);
    }
    if (written && flush->covers)
        spool->indexed = flush->state;
    pthread_mutex_unlock(&spool->lock);
}

/* A damaged index loses its name at once, so that the next opening makes it anew from the log;
 * until then fresh mail goes on, what only the index knows has to wait, no segment of the log is
 * given up, and the status says so. */
static void note_index_fault(struct spool *spool)
{
    if (index_is_damaged(spool->index) && !spool->index_dropped) {
        spool->index_dropped = index_remove(spool->directory);
        spool_set_fault(spool, "%s: it is made anew at the next start", index_fault(spool->index));
    }
    if (strcmp(spool->index_fault, index_fault(spool->index)) == 0)
        return;
    snprintf(spool->index_fault, sizeof spool->index_fault, "%s", index_fault(spool->index));
    spool_set_fault(spool, "%s", spool->index_fault);
}

/* One transaction. */
static bool flush_once(struct spool *spool, bool durable, bool *covers)
{
    struct flush *flush = calloc(1, sizeof *flush);

    if (!flush)
        return false;
    flush->bytes = BUFFER_WITH_LIMIT(64 * MIB);
    flush_collect(spool, flush);
    const bool written = flush_write(spool, flush, durable);
    flush_finish(spool, flush, written);
    *covers = flush->covers;
    buffer_free(&flush->bytes);
    free(flush);
    if (!written)
        note_index_fault(spool);
    return written;
}

static void serve_loads(struct spool *spool);

bool indexer_flush(struct spool *spool, bool durable)
{
    bool covers = false;

    for (unsigned i = 0; !covers && i < 1000; i++) {
        if (!flush_once(spool, durable, &covers))
            return false;
        serve_loads(spool); /* who waits for one message does not wait for thousands */
    }
    if (durable && index_is_damaged(spool->index))
        return false;
    if (covers && durable)
        spool->durable = spool->indexed;
    return covers;
}

/* ------------------------------------------------------------------ out of the index */

static void load_row(void *argument, const struct row *row)
{
    struct spool *spool = argument;

    pthread_mutex_lock(&spool->lock);
    struct entry *entry = table_find(&spool->table, row->id);
    if (!entry)
        entry = table_load(&spool->table, row);
    pthread_mutex_unlock(&spool->lock);
    if (!entry)
        observe_note(LOG_ERROR, "spool", "a row of the index cannot be read: %llx",
                     (unsigned long long)row->id);
}

enum lookup_status indexer_load(struct spool *spool, uint64_t id)
{
    pthread_mutex_lock(&spool->lock);
    const struct entry *entry = table_find(&spool->table, id);
    pthread_mutex_unlock(&spool->lock);
    return entry ? LOOKUP_FOUND : index_row(spool->index, id, load_row, spool);
}

struct due_load {
    struct spool *spool;
    int64_t now_wall_us, next_wall_us;
    uint32_t loaded, of_flow, flow_most;
    bool cut;  /* of this flow more is due */
    bool full; /* enough in memory */
};

static bool load_due_one(void *argument, uint64_t id)
{
    struct due_load *load = argument;
    struct spool *spool = load->spool;

    pthread_mutex_lock(&spool->lock);
    const bool known = table_find(&spool->table, id) != NULL;
    load->full = spool->table.ready_due->count >= READY_MOST * 3 / 4 || load->loaded >= LOAD_MOST;
    pthread_mutex_unlock(&spool->lock);
    load->cut |= load->full || load->of_flow >= load->flow_most;
    if (load->full || load->of_flow >= load->flow_most)
        return false;
    if (known || indexer_load(spool, id) != LOOKUP_FOUND)
        return true;
    load->loaded++;
    load->of_flow++;
    pthread_mutex_lock(&spool->lock);
    struct entry *entry = table_find(&spool->table, id);
    if (entry)
        entry_settle_down(spool, entry, false);
    pthread_mutex_unlock(&spool->lock);
    return true;
}

static bool due_is_wanted(struct spool *spool, int64_t now_wall_us)
{
    pthread_mutex_lock(&spool->lock);
    const bool wanted = spool->table.ready_due->count < READY_MOST / 2 &&
                        (spool->due_left || spool->next_due_wall_us <= now_wall_us);
    if (wanted)
        spool->due_left = false;
    pthread_mutex_unlock(&spool->lock);
    return wanted;
}

static bool load_flow(struct spool *spool, struct due_load *load, int flow)
{
    int64_t next = INT64_MAX;

    load->of_flow = 0;
    if (!index_due(spool->index, &(struct index_due){flow, load->now_wall_us, load_due_one, load},
                   &next))
        return false;
    load->next_wall_us = MIN_OF(load->next_wall_us, next);
    return true;
}

/* Flow by flow, each its share, going round from where the last turn ended: what is due for others
 * does not wait behind a million for one. */
static bool load_flows(struct spool *spool, struct due_load *load)
{
    const int from = spool->due_flow;
    bool round = false, read = true;
    uint32_t flows = 0;

    for (int at = from; read && !load->full;) {
        int next;
        read = index_next_flow(spool->index, at, &next);
        if (!read || (round && (next < 0 || next > from)))
            break;
        round = round || next < 0;
        at = next;
        if (next < 0)
            continue;
        read = load_flow(spool, load, next);
        spool->due_flow = next;
        flows++;
    }
    if (flows > 0)
        spool->due_share = MAX_OF((uint32_t)LOAD_MOST / flows, (uint32_t)LOAD_LEAST);
    return read;
}

static void load_due(struct spool *spool)
{
    struct due_load load = {.spool = spool,
                            .now_wall_us = clock_wall_us(),
                            .next_wall_us = INT64_MAX,
                            .flow_most = spool->due_share ? spool->due_share : LOAD_LEAST};

    if (!due_is_wanted(spool, load.now_wall_us))
        return;
    const bool read = load_flows(spool, &load);
    if (!read)
        note_index_fault(spool);
    pthread_mutex_lock(&spool->lock);
    spool->next_due_wall_us = load.next_wall_us;
    spool->due_left |= load.cut || load.full || !read;
    pthread_mutex_unlock(&spool->lock);
}

/* Messages that were given back untouched a while ago. */
static void wake_later(struct spool *spool)
{
    struct entry *entry;

    pthread_mutex_lock(&spool->lock);
    while ((entry = later_first(&spool->table)) && entry->not_before_us <= clock_now_us()) {
        table_place(&spool->table, entry, PLACE_IDLE, false);
        entry_settle_down(spool, entry, false);
    }
    pthread_mutex_unlock(&spool->lock);
}

/* ------------------------------------------------------------------ loads by id */

/* What is asked for at once is read at once: many who act side by side (the operator's fibers) then
 * cost one read transaction and one walk along the list. */
struct load_turn {
    struct {
        uint64_t id;
        enum lookup_status status;
        struct entry *entry; /* with a pin of this turn's own; or NULL */
    } loads[LOADS_A_TURN];
    uint32_t count;
};

static bool turn_collect(struct spool *spool, struct load_turn *turn)
{
    turn->count = 0;
    pthread_mutex_lock(&spool->lock);
    for (struct load_request *load = spool->loads; load && turn->count < LOADS_A_TURN;
         load = load->next) {
        if (load->done)
            continue;
        turn->loads[turn->count++].id = load->id;
        load->turn = turn->count;
    }
    pthread_mutex_unlock(&spool->lock);
    return turn->count > 0;
}

static void turn_read(struct spool *spool, struct load_turn *turn)
{
    const bool begun = index_begin_read(spool->index); /* without, each read is one by itself */

    for (uint32_t i = 0; i < turn->count; i++) {
        turn->loads[i].status = indexer_load(spool, turn->loads[i].id);
        pthread_mutex_lock(&spool->lock);
        struct entry *entry = table_find(&spool->table, turn->loads[i].id);
        turn->loads[i].entry = NULL;
        if (turn->loads[i].status == LOOKUP_FOUND && entry && !entry->ended) {
            entry->pins++;
            turn->loads[i].entry = entry;
        } else if (turn->loads[i].status == LOOKUP_FOUND) {
            turn->loads[i].status = LOOKUP_ABSENT;
        }
        pthread_mutex_unlock(&spool->lock);
    }
    if (begun)
        index_end_read(spool->index);
}

/* Everybody who waits is told, and gets a pin in place of the turn's. Who left in between has none.
 */
static void turn_answer(struct spool *spool, const struct load_turn *turn)
{
    pthread_mutex_lock(&spool->lock);
    for (struct load_request *load = spool->loads; load; load = load->next) {
        if (load->done || load->turn == 0)
            continue;
        load->status = turn->loads[load->turn - 1].status;
        if (turn->loads[load->turn - 1].entry)
            turn->loads[load->turn - 1].entry->pins++;
        load->done = true;
        fiber_wake(load->fiber);
    }
    pthread_mutex_unlock(&spool->lock);
    for (uint32_t i = 0; i < turn->count; i++)
        if (turn->loads[i].entry)
            entry_unpin(spool, turn->loads[i].entry);
}

static void serve_loads(struct spool *spool)
{
    struct load_turn turn;

    while (turn_collect(spool, &turn)) {
        turn_read(spool, &turn);
        turn_answer(spool, &turn);
    }
}

/* ------------------------------------------------------------------ the loop */

static uint64_t indexer_deadline(struct spool *spool)
{
    uint64_t wait_us = HOUSE_EVERY_US;
    const int64_t now_wall_us = clock_wall_us();

    pthread_mutex_lock(&spool->lock);
    if (spool->table.dirty_count || spool->table.later_count)
        wait_us = FLUSH_EVERY_US;
    const int64_t due_in_us = spool->next_due_wall_us - now_wall_us;
    if (spool->next_due_wall_us != INT64_MAX && due_in_us < (int64_t)wait_us)
        wait_us = (uint64_t)MAX_OF(due_in_us, (int64_t)US_PER_MS);
    pthread_mutex_unlock(&spool->lock);
    return deadline_in(wait_us);
}

static bool flush_is_due(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    const uint32_t dirty = spool->table.dirty_count;
    const bool moved = spool->applied_position != spool->indexed.position;
    pthread_mutex_unlock(&spool->lock);
    const uint64_t now_us = clock_now_us();
    return dirty > READY_MOST / 4 || (dirty > 0 && now_us >= spool->flush_at_us) ||
           (moved && now_us >= spool->flush_at_us + MOVED_PATIENCE_US);
}

static void indexer_turn(struct spool *spool)
{
    serve_loads(spool);
    if (flush_is_due(spool)) {
        if (!indexer_flush(spool, false))
            observe_note(LOG_WARNING, "spool", "the index lags behind: %s",
                         index_fault(spool->index));
        spool->flush_at_us = deadline_in(FLUSH_EVERY_US);
    }
    wake_later(spool);
    load_due(spool);
    house_make_spares(spool);
    if (clock_now_us() >= spool->house_at_us) {
        spool->house_at_us = deadline_in(HOUSE_EVERY_US);
        house_keep(spool);
    }
}

static void indexer_end(struct spool *spool)
{
    if (spool->index) {
        if (!indexer_flush(spool, true) || !index_checkpoint(spool->index))
            observe_note(LOG_WARNING, "spool", "%s", index_fault(spool->index));
        index_close(spool->index);
        spool->index = NULL;
    }
    pthread_mutex_lock(&spool->lock);
    spool->indexer_ended = true;
    waitlist_wake_all(&spool->changed); /* inside: once unlocked, the closer may free all of it */
    pthread_mutex_unlock(&spool->lock);
}

static bool indexer_goes_on(struct spool *spool)
{
    pthread_mutex_lock(&spool->lock);
    const bool ended = spool->stopping && spool->writer_ended;
    pthread_mutex_unlock(&spool->lock);
    return !ended;
}

static void tell_opened(struct spool *spool, bool recovered)
{
    pthread_mutex_lock(&spool->lock);
    spool->opened = true;
    spool->failed_to_open = !recovered;
    spool->writer_ended = !recovered;
    pthread_mutex_unlock(&spool->lock);
    waitlist_wake_all(&spool->changed);
}

void indexer_main(void *argument)
{
    struct spool *spool = argument;
    bool masked = false;

    spool->indexer = fiber_self();
    const bool recovered = recover(spool);
    spool->next_due_wall_us = 0; /* look at once */
    tell_opened(spool, recovered);
    while (recovered && indexer_goes_on(spool)) {
        indexer_turn(spool);
        /* Cancelled without spool_close: the writer ends by itself, then this fiber. */
        if (fiber_park(indexer_deadline(spool)) == IO_CANCELLED && !masked)
            masked = !fiber_mask_cancel(true);
    }
    indexer_end(spool);
}
