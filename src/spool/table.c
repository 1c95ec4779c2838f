/*
 * An entry is freed by table_drop_idle alone, which looks at every reason that keeps one: a place
 * in a list, a lease, a pin, a state that the index has not seen.
 */
#include "spool/table.h"

#include <string.h>

#include "spool/segment.h"

enum { BUCKETS_FIRST = 1024 };

static void link_init(struct link *head)
{
    head->next = head->previous = head;
}

static void link_add(struct link *head, struct link *link)
{
    link->previous = head->previous;
    link->next = head;
    head->previous->next = link;
    head->previous = link;
}

static void link_remove(struct link *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->next = link->previous = NULL;
}

static struct entry *first_placed(const struct link *head)
{
    return head->next == head ? NULL : CONTAINER_OF(head->next, struct entry, place_link);
}

static struct entry *entry_of_place(struct link *link)
{
    return link ? CONTAINER_OF(link, struct entry, place_link) : NULL;
}

struct entry *ready_next(struct table *table, bool fresh)
{
    return entry_of_place(fair_next(fresh ? table->ready_fresh : table->ready_due));
}

struct entry *ready_surplus(struct table *table, const struct entry *entry, bool fresh)
{
    struct fair *const fair = fresh ? table->ready_fresh : table->ready_due;
    struct entry *const last = entry_of_place(fair_last_of_most(fair));

    return last && fair_count_of_sender(fair, last->flow) >
                       fair_count_of_sender(fair, entry->flow) + 1
               ? last
               : NULL;
}

struct entry *later_first(const struct table *table)
{
    return first_placed(&table->later);
}

struct entry *dirty_first(const struct table *table)
{
    return table->dirty.next == &table->dirty
               ? NULL
               : CONTAINER_OF(table->dirty.next, struct entry, dirty_link);
}

bool table_open(struct table *table)
{
    *table = (struct table){.bucket_count = BUCKETS_FIRST};
    link_init(&table->later);
    link_init(&table->dirty);
    table->buckets = calloc(table->bucket_count, sizeof *table->buckets);
    table->ready_fresh = malloc(sizeof *table->ready_fresh);
    table->ready_due = malloc(sizeof *table->ready_due);
    if (!table->buckets || !table->ready_fresh || !table->ready_due) {
        table_free(table);
        return false;
    }
    fair_open(table->ready_fresh);
    fair_open(table->ready_due);
    return true;
}

static void status_free(struct entry *entry)
{
    for (uint32_t i = 0; entry->status && i < entry->recipient_count; i++)
        free((void *)(uintptr_t)entry->status[i].reply.at);
    free(entry->status);
    entry->status = NULL;
}

static void entry_free(struct entry *entry)
{
    status_free(entry);
    free((void *)(uintptr_t)entry->envelope.at);
    free(entry);
}

void table_free(struct table *table)
{
    for (uint32_t i = 0; table->buckets && i < table->bucket_count; i++)
        while (table->buckets[i]) {
            struct entry *entry = table->buckets[i];
            table->buckets[i] = entry->hash_next;
            entry_free(entry);
        }
    while (table->gone) {
        struct gone *gone = table->gone;
        table->gone = gone->next;
        free(gone);
    }
    free(table->buckets);
    free(table->ready_fresh);
    free(table->ready_due);
    table->buckets = NULL;
    table->ready_fresh = table->ready_due = NULL;
}

/* ------------------------------------------------------------------ the hash */

static struct entry **bucket_of(const struct table *table, uint64_t id)
{
    return &table->buckets[(id * UINT64_C(0x9E3779B97F4A7C15)) >> 32 & (table->bucket_count - 1)];
}

struct entry *table_find(struct table *table, uint64_t id)
{
    struct entry *entry = *bucket_of(table, id);

    while (entry && entry->id != id)
        entry = entry->hash_next;
    return entry;
}

/* Failing to grow only makes chains longer. */
static void table_grow(struct table *table)
{
    struct table larger = *table;

    larger.bucket_count *= 2;
    larger.buckets = calloc(larger.bucket_count, sizeof *larger.buckets);
    if (!larger.buckets)
        return;
    for (uint32_t i = 0; i < table->bucket_count; i++)
        while (table->buckets[i]) {
            struct entry *entry = table->buckets[i];
            table->buckets[i] = entry->hash_next;
            struct entry **bucket = bucket_of(&larger, entry->id);
            entry->hash_next = *bucket;
            *bucket = entry;
        }
    free(table->buckets);
    table->buckets = larger.buckets;
    table->bucket_count = larger.bucket_count;
}

static struct entry *entry_add(struct table *table, uint64_t id)
{
    struct entry *entry = calloc(1, sizeof *entry);

    if (!entry)
        return NULL;
    if (table->entries > 2 * table->bucket_count)
        table_grow(table);
    struct entry **bucket = bucket_of(table, id);
    entry->id = id;
    entry->hash_next = *bucket;
    *bucket = entry;
    table->entries++;
    return entry;
}

static void entry_remove(struct table *table, struct entry *entry)
{
    struct entry **at = bucket_of(table, entry->id);

    while (*at != entry)
        at = &(*at)->hash_next;
    *at = entry->hash_next;
    table->entries--;
    entry_free(entry);
}

/* ------------------------------------------------------------------ places */

void table_place(struct table *table, struct entry *entry, enum entry_place place, bool fresh)
{
    if (entry->place == PLACE_READY)
        fair_remove(entry->fresh ? table->ready_fresh : table->ready_due, entry->flow,
                    &entry->place_link);
    else if (entry->place == PLACE_LATER)
        link_remove(&entry->place_link);
    table->ready_count -= entry->place == PLACE_READY;
    table->later_count -= entry->place == PLACE_LATER;
    table->leased_count -= entry->place == PLACE_LEASED;
    entry->place = place;
    table->ready_count += place == PLACE_READY;
    table->later_count += place == PLACE_LATER;
    table->leased_count += place == PLACE_LEASED;
    entry->fresh = fresh;
    if (place == PLACE_READY)
        fair_add(fresh ? table->ready_fresh : table->ready_due, entry->flow, &entry->place_link);
    else if (place == PLACE_LATER)
        link_add(&table->later, &entry->place_link);
}

void table_mark_dirty(struct table *table, struct entry *entry)
{
    if (entry->dirty)
        return;
    entry->dirty = true;
    table->dirty_count++;
    link_add(&table->dirty, &entry->dirty_link);
}

void table_clear_dirty(struct table *table, struct entry *entry)
{
    if (!entry->dirty)
        return;
    entry->dirty = false;
    table->dirty_count--;
    link_remove(&entry->dirty_link);
}

void table_postpone(struct table *table, struct entry *entry, int64_t until_wall_us)
{
    if (entry->ended || entry->due_wall_us >= until_wall_us)
        return;
    entry->due_wall_us = until_wall_us;
    table_mark_dirty(table, entry);
}

void table_drop_idle(struct table *table, struct entry *entry)
{
    if (entry->place == PLACE_IDLE && !entry->dirty && entry->pins == 0)
        entry_remove(table, entry);
}

/* ------------------------------------------------------------------ what happens to messages */

static void count_message(struct table *table, const struct entry *entry, bool more)
{
    const uint64_t by = more ? 1 : UINT64_MAX; /* minus one */

    if (!table->counting)
        return;
    table->messages += by;
    table->bytes += by * entry->size_bytes;
    table->inline_bytes += by * (entry->size_bytes - entry->extent_bytes);
    table->held += entry->held ? by : 0;
    segment_count(table->segments, entry->position, more);
}

/* Derives from the states who waits and when the first of them is due. */
static void entry_reckon(struct entry *entry)
{
    entry->waiting_count = entry->status ? 0 : entry->recipient_count;
    entry->due_wall_us = entry->status ? INT64_MAX : 0;
    for (uint32_t i = 0; entry->status && i < entry->recipient_count; i++) {
        const struct status *status = &entry->status[i];
        if (status->state != RECIPIENT_WAITING)
            continue;
        entry->waiting_count++;
        entry->attempted |= status->attempts > 0;
        entry->due_wall_us = MIN_OF(entry->due_wall_us, status->next_wall_us);
    }
}

static bool copy_bytes(struct bytes from, struct bytes *to)
{
    *to = BYTES_EMPTY;
    if (from.count == 0)
        return true;
    uint8_t *memory = malloc(from.count);
    if (!memory)
        return false;
    memcpy(memory, from.at, from.count);
    *to = (struct bytes){memory, from.count};
    return true;
}

static bool status_take(struct entry *entry, uint32_t recipient, const struct status *status)
{
    struct bytes reply;

    if (recipient >= entry->recipient_count || !copy_bytes(status->reply, &reply))
        return false;
    struct status *own = &entry->status[recipient];
    free((void *)(uintptr_t)own->reply.at);
    *own = *status;
    own->reply = reply;
    return true;
}

/* Checked as a whole before anything is changed; only memory can still fail then. */
static bool status_list_is_good(struct bytes encoded, uint32_t recipient_count)
{
    struct status_list list = status_list_read(encoded);
    struct status status;
    uint32_t recipient;

    while (status_list_next(&list, &recipient, &status))
        if (recipient >= recipient_count)
            return false;
    return !list.failed;
}

static bool status_apply(struct entry *entry, struct bytes encoded)
{
    struct status_list list = status_list_read(encoded);
    struct status status;
    uint32_t recipient;
    bool taken = true;

    if (encoded.count == 0)
        return true;
    if (!status_list_is_good(encoded, entry->recipient_count))
        return false;
    if (!entry->status)
        entry->status = calloc(entry->recipient_count, sizeof *entry->status);
    if (!entry->status)
        return false;
    while (taken && status_list_next(&list, &recipient, &status))
        taken = status_take(entry, recipient, &status);
    return taken;
}

static bool entry_fill(struct entry *entry, struct bytes envelope, struct bytes status_list)
{
    struct envelope_facts facts;

    if (!envelope_facts(envelope, &facts) ||
        !status_list_is_good(status_list, facts.recipient_count))
        return false;
    status_free(entry);
    free((void *)(uintptr_t)entry->envelope.at);
    entry->recipient_count = facts.recipient_count;
    entry->accepted_wall_us = facts.accepted_wall_us;
    if (entry->place != PLACE_READY)
        entry->flow =
            fair_flow(facts.user, facts.from.local, facts.from.domain, facts.first_domain);
    if (!copy_bytes(envelope, &entry->envelope) || !status_apply(entry, status_list))
        return false;
    entry_reckon(entry);
    return true;
}

struct entry *table_accept(struct table *table, const struct accepted *accepted)
{
    struct accepted_meta meta;
    struct envelope_facts facts;
    struct entry *entry = table_find(table, accepted->id);
    const bool known = entry != NULL;

    if (!accepted_meta_decode(accepted->meta, &meta) || !envelope_facts(meta.envelope, &facts))
        return NULL;
    if (!known && !(entry = entry_add(table, accepted->id)))
        return NULL;
    if (known && !entry->ended)
        count_message(table, entry, false);
    if (!entry_fill(entry, meta.envelope, meta.status_list)) {
        if (!known)
            entry_remove(table, entry);
        return NULL;
    }
    entry->held = accepted->flags & RECORD_COPY ? (accepted->flags & RECORD_COPY_HELD) : facts.held;
    entry->ended = false;
    entry->position = accepted->position;
    entry->extent_bytes = meta.extent_bytes;
    entry->extent_checksum = meta.extent_checksum;
    entry->damaged = accepted->flags & RECORD_DAMAGED;
    if (!(accepted->flags & RECORD_DAMAGED) || !known)
        entry->size_bytes = accepted->body_bytes + meta.extent_bytes;
    count_message(table, entry, true);
    entry->rewritten = true;
    table_mark_dirty(table, entry);
    return entry;
}

struct entry *table_load(struct table *table, const struct row *row)
{
    struct entry *entry = entry_add(table, row->id);

    if (!entry)
        return NULL;
    if (!entry_fill(entry, row->envelope, row->status_list)) {
        entry_remove(table, entry);
        return NULL;
    }
    entry->position = row->position;
    entry->due_wall_us = row->due_wall_us;
    entry->size_bytes = row->size_bytes;
    entry->extent_bytes = row->extent_bytes;
    entry->extent_checksum = row->extent_checksum;
    entry->held = row->held;
    entry->damaged = row->damaged;
    entry->indexed = true;
    return entry;
}

bool table_settle(struct table *table, struct entry *entry, struct bytes list)
{
    if (entry->ended)
        return true;
    if (!status_apply(entry, list))
        return false;
    entry_reckon(entry);
    entry->rewritten = true;
    table_mark_dirty(table, entry);
    if (entry->waiting_count == 0)
        table_end(table, entry);
    return true;
}

void table_set_held(struct table *table, struct entry *entry, bool held)
{
    if (entry->ended || entry->held == held)
        return;
    entry->held = held;
    if (table->counting)
        table->held += held ? 1 : UINT64_MAX;
    table_mark_dirty(table, entry);
}

static void note_gone(struct table *table, uint64_t id)
{
    struct gone *gone = table->counting ? malloc(sizeof *gone) : NULL;

    if (!gone) /* the sweep at the next opening removes it */
        return;
    *gone = (struct gone){table->gone, id};
    table->gone = gone;
}

void table_end(struct table *table, struct entry *entry)
{
    if (entry->ended)
        return;
    count_message(table, entry, false);
    entry->ended = true;
    if (entry->extent_bytes)
        note_gone(table, entry->id);
    if (entry->place != PLACE_LEASED)
        table_place(table, entry, PLACE_IDLE, false);
    if (entry->indexed)
        table_mark_dirty(table, entry); /* its row has to go */
    else
        table_clear_dirty(table, entry); /* the index never hears of it */
    table_drop_idle(table, entry);
}

/* ------------------------------------------------------------------ for the index and copies */

void entry_row(const struct entry *entry, struct row *row)
{
    *row = (struct row){.id = entry->id,
                        .position = entry->position,
                        .size_bytes = entry->size_bytes,
                        .extent_bytes = entry->extent_bytes,
                        .extent_checksum = entry->extent_checksum,
                        .accepted_wall_us = entry->accepted_wall_us,
                        .due_wall_us = entry->due_wall_us,
                        .held = entry->held,
                        .damaged = entry->damaged,
                        .same = entry->indexed && !entry->rewritten,
                        .flow = entry->flow,
                        .envelope = entry->envelope};
}

void entry_status_list(const struct entry *entry, struct buffer *into)
{
    if (!entry->status)
        return;
    status_list_begin(into, entry->recipient_count);
    for (uint32_t i = 0; i < entry->recipient_count; i++)
        status_list_add(into, i, &entry->status[i]);
}
