/*
 * memory: what is remembered of a message by its digest and the filter that read it.
 *
 * Verdicts that came too late for the client, or nearly so: its next attempt is answered by them at
 * once. The key is whole, not a hash of it, since a verdict is a matter of trust. A table of fixed
 * size in sets, in memory; where a set is full, the row that was touched longest ago makes room.
 * What is forgotten, or lost with the process, is only asked again: the filter is there to say it,
 * perhaps by other rules than before the restart.
 */
#include "policy/filter.h"

#include <string.h>

enum { SETS = 128, WAYS = 4, ROW_BYTES = 32 * 1024, KEY_MOST = 16 * 1024 };
/* Beyond the usual intervals of retries, and short enough for a filter's rules to change. */
static const uint64_t KEPT_US = UINT64_C(4) * 3600 * US_PER_S;

struct memory_row {
    struct arena arena; /* of key and verdict; empty: a free row */
    struct bytes key;
    struct kept kept;
    bool has_verdict;
    uint64_t touched_us;
};

struct memory {
    pthread_mutex_t lock; /* around the rows, never across a sleep */
    struct memory_row rows[SETS][WAYS];
};

struct memory *memory_open(void)
{
    struct memory *memory = calloc(1, sizeof *memory);

    if (memory)
        pthread_mutex_init(&memory->lock, NULL);
    return memory;
}

static void row_clear(struct memory_row *row)
{
    arena_clear(&row->arena);
    *row = (struct memory_row){.arena = ARENA_WITH_LIMIT(ROW_BYTES)};
}

void memory_close(struct memory *memory)
{
    if (!memory)
        return;
    for (unsigned i = 0; i < SETS * WAYS; i++)
        row_clear(&memory->rows[i / WAYS][i % WAYS]);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

/* ------------------------------------------------------------------ keys */

static void add_word(struct buffer *key, struct bytes word)
{
    buffer_add_u32(key, (uint32_t)word.count);
    buffer_add(key, word);
}

static void add_address(struct buffer *key, struct address address)
{
    add_word(key, address.local);
    add_word(key, address.domain);
}

/* A milter judges the dialogue, too: its verdict is for the same client, sender and recipients. */
static void add_dialogue(struct buffer *key, const struct transaction *transaction)
{
    const struct client_facts *client = transaction->client;
    const struct envelope *envelope = &transaction->envelope;

    buffer_add_byte(key, (uint8_t)client->remote.family);
    buffer_add(key, bytes_of(client->remote.ip.octets, sizeof client->remote.ip.octets));
    add_word(key, client->helo);
    add_word(key, client->user);
    add_word(key, client->tls.count > 0 ? BYTES_LITERAL("tls") : BYTES_EMPTY);
    add_address(key, envelope->from);
    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        add_address(key, envelope->recipients[i].address);
        add_address(key, envelope->recipients[i].asked);
    }
}

struct bytes memory_key(const struct transaction *transaction, const struct config_filter *filter)
{
    CLEANUP(buffer_free) struct buffer key = BUFFER_WITH_LIMIT(KEY_MOST);
    const struct bytes digest = transaction->filtering->original.digest;

    if (digest.count == 0)
        return BYTES_EMPTY;
    add_word(&key, bytes_of_text(filter->name));
    add_word(&key, digest);
    if (filter->speaks == FILTER_MILTER)
        add_dialogue(&key, transaction);
    return key.failed ? BYTES_EMPTY : arena_copy(transaction->arena, buffer_view(&key));
}

/* ------------------------------------------------------------------ rows, under the lock */

static struct memory_row *set_of(struct memory *memory, struct bytes key)
{
    return memory->rows[bytes_hash_nocase(key) % SETS];
}

static struct memory_row *row_find(struct memory *memory, struct bytes key)
{
    struct memory_row *set = set_of(memory, key);
    const uint64_t now_us = clock_now_us();

    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].key.count == 0 || !bytes_equal(set[i].key, key))
            continue;
        if (now_us - set[i].touched_us <= KEPT_US)
            return &set[i];
        row_clear(&set[i]);
    }
    return NULL;
}

static struct memory_row *row_make(struct memory *memory, struct bytes key)
{
    struct memory_row *row = row_find(memory, key), *set = set_of(memory, key);

    if (row)
        return row;
    row = &set[0];
    for (unsigned i = 1; i < WAYS; i++)
        if (set[i].touched_us < row->touched_us)
            row = &set[i];
    row_clear(row);
    row->key = arena_copy(&row->arena, key);
    if (row->key.count == 0)
        return NULL;
    row->touched_us = clock_now_us();
    return row;
}

/* ------------------------------------------------------------------ verdicts */

static bool copy_change(struct arena *arena, const struct milter_change *change,
                        struct milter_changes *into)
{
    struct milter_change *copy = ARENA_NEW(arena, struct milter_change);

    if (!copy)
        return false;
    *copy = (struct milter_change){.kind = change->kind,
                                   .index = change->index,
                                   .name = arena_copy(arena, change->name),
                                   .value = arena_copy(arena, change->value)};
    if (into->last)
        into->last->next = copy;
    else
        into->first = copy;
    into->last = copy;
    into->count++;
    return true;
}

/* False: it does not fit. */
static bool kept_copy(struct arena *arena, const struct kept *from, struct kept *into)
{
    *into = (struct kept){
        .cause = from->cause,
        .discards = from->discards,
        .words = arena_copy(arena, from->words),
        .headers = arena_copy(arena, from->headers),
        .changes = {.quarantined = from->changes.quarantined,
                    .quarantine_why = arena_copy(arena, from->changes.quarantine_why)}};
    for (const struct milter_change *change = from->changes.first; change; change = change->next)
        if (!copy_change(arena, change, &into->changes))
            return false;
    return !arena->failed;
}

void memory_keep(struct memory *memory, struct bytes key, const struct kept *kept)
{
    if (key.count == 0 || kept->changes.body_replaced)
        return;
    pthread_mutex_lock(&memory->lock);
    struct memory_row *row = row_make(memory, key);

    if (row) {
        row->has_verdict = kept_copy(&row->arena, kept, &row->kept);
        row->touched_us = clock_now_us();
        if (!row->has_verdict)
            row_clear(row);
    }
    pthread_mutex_unlock(&memory->lock);
}

bool memory_recall(struct memory *memory, struct bytes key, struct arena *arena, struct kept *kept)
{
    bool found = false;

    if (key.count == 0)
        return false;
    pthread_mutex_lock(&memory->lock);
    struct memory_row *row = row_find(memory, key);

    if (row && row->has_verdict) {
        found = kept_copy(arena, &row->kept, kept);
        row_clear(row);
    }
    pthread_mutex_unlock(&memory->lock);
    return found;
}
