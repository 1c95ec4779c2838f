/*
 * The queue as it is now, from outside: the index in one read transaction, then the log behind the
 * index's position applied to a table of its own. Works with the server up or down and changes
 * nothing; should the server recycle a segment meanwhile, the view begins anew.
 */
#include "spool/inside.h"
#include "spool/replay.h"

#include <string.h>

enum { ROUNDS = 8 };

struct view {
    const char *directory;
    const struct spool_view_filter *filter;
    bool (*each)(void *argument, const struct spool_row *row);
    void *argument;
    struct index *index; /* NULL: none that could be read; then the log tells all */
    struct table table;
    uint64_t shown;
    enum cause last_cause; /* rows in a row have the same, and finding it by name takes a while */
    bool ended;            /* the caller or `most` said so */
    bool failed;
};

/* ------------------------------------------------------------------ showing */

/* "@domain" means everybody there. */
static bool sender_is(struct bytes from, const char *sender)
{
    const struct bytes wanted = bytes_of_text(sender);

    if (*sender == '@' && from.count > wanted.count)
        from = bytes_skip(from, from.count - wanted.count);
    return bytes_equal_nocase(from, wanted);
}

static bool is_wanted(const struct view *view, const struct spool_row *row)
{
    const struct spool_view_filter *filter = view->filter;

    return (!filter->domain || bytes_equal_text_nocase(row->domain, filter->domain)) &&
           (!filter->cause || strcmp(cause_name(row->cause), filter->cause) == 0) &&
           (!filter->sender || sender_is(row->from, filter->sender));
}

static void show(struct view *view, const struct spool_row *row)
{
    if (view->ended || !is_wanted(view, row))
        return;
    view->shown++;
    view->ended = !view->each(view->argument, row) ||
                  (view->filter->most && view->shown >= view->filter->most);
}

static void show_recipient(struct view *view, struct arena *arena,
                           const struct recipient *recipient, struct spool_row *row)
{
    row->to = address_text(arena, recipient->address);
    row->domain = recipient->address.domain;
    show(view, row);
}

static struct spool_row row_begin(const struct row *row, const struct envelope *envelope,
                                  struct bytes from)
{
    return (struct spool_row){.id = row->id,
                              .from = from,
                              .accepted_wall_us = envelope->accepted_wall_us,
                              .size_bytes = row->size_bytes,
                              .held = row->held};
}

static bool status_array(struct arena *arena, const struct row *row, uint32_t count,
                         struct status **statuses)
{
    struct status_list list = status_list_read(row->status_list);
    struct status status;
    uint32_t recipient;

    *statuses = ARENA_NEW_ARRAY(arena, count, struct status);
    if (!*statuses)
        return false;
    while (status_list_next(&list, &recipient, &status))
        if (recipient < count)
            (*statuses)[recipient] = status;
    return !list.failed;
}

static void show_row(struct view *view, const struct row *row)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    struct envelope envelope;
    struct status *statuses;

    if (!envelope_decode(&arena, row->envelope, &envelope) ||
        !status_array(&arena, row, envelope.recipient_count, &statuses)) {
        view->failed = true;
        arena_clear(&arena);
        return;
    }
    const struct bytes from = address_text(&arena, envelope.from);
    for (uint32_t i = 0; i < envelope.recipient_count && !view->ended; i++) {
        struct spool_row shown = row_begin(row, &envelope, from);
        shown.next_wall_us = statuses[i].next_wall_us;
        shown.last_attempt_wall_us = statuses[i].last_attempt_wall_us;
        shown.state = statuses[i].state;
        shown.cause = statuses[i].cause;
        shown.last_reply = statuses[i].reply;
        shown.attempts = statuses[i].attempts;
        show_recipient(view, &arena, &envelope.recipients[i], &shown);
    }
    arena_clear(&arena);
}

/* What the log's tail speaks of is shown from there. */
static bool show_indexed(void *argument, const struct row *row)
{
    struct view *view = argument;

    if (!table_find(&view->table, row->id))
        show_row(view, row);
    return !view->ended;
}

static bool show_waiting(void *argument, const struct waiting_row *waiting)
{
    struct view *view = argument;
    struct spool_row row = {.id = waiting->message,
                            .from = waiting->sender,
                            .domain = waiting->domain,
                            .accepted_wall_us = waiting->accepted_wall_us,
                            .next_wall_us = waiting->next_wall_us,
                            .attempts = waiting->attempts,
                            .size_bytes = waiting->size_bytes};

    if (table_find(&view->table, row.id))
        return true;
    if (!bytes_equal_text(waiting->cause, cause_name(view->last_cause)) &&
        !cause_parse(waiting->cause, &view->last_cause))
        view->last_cause = CAUSE_UNDECIDED;
    row.cause = view->last_cause;
    show(view, &row);
    return !view->ended;
}

static void show_entry(struct view *view, const struct entry *entry)
{
    struct buffer list = BUFFER_WITH_LIMIT(RECORD_META_MAX);
    struct row row;

    if (entry->ended || (view->filter->id && view->filter->id != entry->id))
        return;
    entry_row(entry, &row);
    entry_status_list(entry, &list);
    row.status_list = buffer_view(&list);
    show_row(view, &row);
    buffer_free(&list);
}

static void show_tail(struct view *view)
{
    for (uint32_t i = 0; i < view->table.bucket_count; i++)
        for (const struct entry *entry = view->table.buckets[i]; entry && !view->ended;
             entry = entry->hash_next)
            show_entry(view, entry);
}

/* ------------------------------------------------------------------ reading */

static void load_row(void *argument, const struct row *row)
{
    struct view *view = argument;

    if (!table_load(&view->table, row))
        view->failed = true;
}

static enum lookup_status view_load(void *argument, uint64_t id)
{
    struct view *view = argument;

    return view->index ? index_row(view->index, id, load_row, view) : LOOKUP_ABSENT;
}

static void view_open_index(struct view *view, struct index_state *state)
{
    char why[WHY_ROOM];

    *state = (struct index_state){0};
    if (index_open(view->directory, true, &view->index, why, sizeof why) == INDEX_OK &&
        index_begin_read(view->index) && index_state(view->index, state))
        return;
    if (view->index)
        index_close(view->index);
    view->index = NULL;
    *state = (struct index_state){0};
}

static uint64_t oldest_generation(const struct segment_list *list)
{
    return list->count ? list->at[0].header.generation : 0;
}

/* False: a segment that had to be read was recycled meanwhile. */
static bool view_read(struct view *view, struct index_state from)
{
    struct segment_list after;
    struct replay run = {.directory = view->directory,
                         .table = &view->table,
                         .from = from,
                         .load = view_load,
                         .past_unreadable = true,
                         .argument = view};

    if (!segment_list_read(view->directory, &run.list)) {
        view->failed = true;
        return true;
    }
    const uint64_t needed =
        from.position ? position_generation(from.position) : oldest_generation(&run.list);
    if (run.list.count && from.position && from.spool != run.list.at[0].header.spool)
        view->failed = true;
    if (!view->failed && !replay_run(&run))
        view->failed = true;
    segment_list_free(&run.list);
    if (!segment_list_read(view->directory, &after))
        view->failed = true;
    const bool steady = after.count == 0 || oldest_generation(&after) <= needed;
    segment_list_free(&after);
    return steady;
}

static bool show_index(struct view *view)
{
    const struct spool_view_filter *filter = view->filter;
    const struct index_question question = {filter->id, filter->domain, filter->cause,
                                            filter->sender};

    if (filter->brief && !filter->id)
        return index_waiting(view->index, &question, show_waiting, view);
    return index_rows(view->index, &question, show_indexed, view);
}

static bool view_once(struct view *view)
{
    struct index_state from;

    view->failed = !table_open(&view->table);
    view_open_index(view, &from);
    const bool steady = !view->failed && view_read(view, from);
    if (steady && !view->failed && view->index && !show_index(view))
        view->failed = true;
    if (steady && !view->failed)
        show_tail(view);
    if (view->index) {
        index_end_read(view->index);
        index_close(view->index);
        view->index = NULL;
    }
    table_free(&view->table);
    return steady || view->failed;
}

bool spool_view(const char *directory, const struct spool_view_filter *filter,
                bool (*each)(void *argument, const struct spool_row *row), void *argument,
                char *why, size_t why_room)
{
    struct view view = {
        .directory = directory, .filter = filter, .each = each, .argument = argument};
    bool steady = false;

    for (unsigned round = 0; round < ROUNDS && !steady; round++)
        steady = view_once(&view);
    if (steady && !view.failed)
        return true;
    snprintf(why, why_room, "%s: %s", directory,
             view.failed ? "the queue cannot be read" : "the queue changes too fast");
    return false;
}
