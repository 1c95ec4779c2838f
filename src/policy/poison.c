/*
 * poison: messages that made a filter fail, and how often. One that does so again and again, while
 * the filter judges others, is poison to it.
 *
 * The table is of fixed size, in memory and on a slate beside the queue: a message that kills the
 * filter must not get its turns anew each time this server starts, which may well be what an
 * operator does about a filter that dies. The key is the message's digest, the filter and, for a
 * milter, the dialogue. Where a set is full, the row that was touched longest ago makes room.
 *
 * Sleeps: where a row changes, on the disk. Fails: towards asking the filter once more.
 */
#include "policy/filter.h"

#include <string.h>

enum { SETS = 128, WAYS = 4 };
/* Beyond the usual intervals of retries, and short enough for a filter's rules to change. */
static const int64_t KEPT_US = INT64_C(4) * 3600 * (int64_t)US_PER_S;
/* A filter may have been mended meanwhile, so poison is tried again this long after it last failed.
 */
static const int64_t POISON_REST_US = INT64_C(3600) * (int64_t)US_PER_S;

struct poison_row {
    struct poison_key key;
    int64_t failed_wall_us; /* the last time; 0: a free row */
    uint64_t passed_before; /* how many others the filter had judged at the first failure */
    uint32_t failures;
    uint32_t others_passed; /* since then: known, whatever is counted from a restart on */
};

_Static_assert(sizeof(struct poison_row) == 64, "a row has no gaps that would be written");

struct poison {
    pthread_mutex_t lock; /* around the rows, never across a sleep */
    struct slate *slate;  /* NULL: in memory only */
    struct poison_row rows[SETS][WAYS];
};

static void row_load(void *argument, uint32_t row, struct bytes content)
{
    struct poison *poison = argument;
    struct poison_row *into = &poison->rows[row / WAYS][row % WAYS];

    memcpy(into, content.at, sizeof *into);
    into->passed_before = 0; /* the count has begun anew */
}

struct poison *poison_open(const char *directory)
{
    struct poison *poison = calloc(1, sizeof *poison);
    char path[4200];

    if (!poison)
        return NULL;
    pthread_mutex_init(&poison->lock, NULL);
    if (!directory)
        return poison;
    snprintf(path, sizeof path, "%s/poison", directory);
    poison->slate = slate_open(path, sizeof(struct poison_row), SETS * WAYS,
                               &(struct slate_reader){row_load, poison});
    if (!poison->slate)
        observe_note(LOG_WARNING, "policy", "%s cannot be used: what it tells is in memory only",
                     path);
    return poison;
}

void poison_close(struct poison *poison)
{
    if (!poison)
        return;
    slate_close(poison->slate);
    pthread_mutex_destroy(&poison->lock);
    free(poison);
}

bool poison_key(const struct transaction *transaction, const struct config_filter *filter,
                struct poison_key *key)
{
    const struct bytes whole = memory_key(transaction, filter);
    const struct bytes digest = transaction->filtering->original.digest;

    *key = (struct poison_key){.rest = bytes_hash_nocase(whole)};
    if (whole.count == 0 || digest.count != sizeof key->digest)
        return false;
    memcpy(key->digest, digest.at, sizeof key->digest);
    return true;
}

/* ------------------------------------------------------------------ rows, under the lock */

static struct poison_row *set_of(struct poison *poison, const struct poison_key *key)
{
    return poison->rows[(key->digest[0] ^ key->rest) % SETS];
}

static struct poison_row *row_find(struct poison *poison, const struct poison_key *key)
{
    struct poison_row *set = set_of(poison, key);
    const int64_t now_us = clock_wall_us();

    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].failed_wall_us == 0 || memcmp(&set[i].key, key, sizeof *key) != 0)
            continue;
        if (now_us - set[i].failed_wall_us <= KEPT_US)
            return &set[i];
        set[i] = (struct poison_row){0};
    }
    return NULL;
}

static struct poison_row *row_make(struct poison *poison, const struct poison_key *key,
                                   uint64_t passed)
{
    struct poison_row *row = row_find(poison, key), *set = set_of(poison, key);

    if (row)
        return row;
    row = &set[0];
    for (unsigned i = 1; i < WAYS; i++)
        if (set[i].failed_wall_us < row->failed_wall_us)
            row = &set[i];
    *row = (struct poison_row){.key = *key, .passed_before = passed};
    return row;
}

static uint32_t row_number(const struct poison *poison, const struct poison_row *row)
{
    return (uint32_t)(row - &poison->rows[0][0]);
}

/* ------------------------------------------------------------------ */

static void tell_unwritten(bool written)
{
    if (!written)
        observe_note(LOG_WARNING, "policy", "the list of poison cannot be written");
}

static void row_write(const struct poison *poison, const struct poison_row *row,
                      const struct poison_row *content)
{
    if (poison->slate)
        tell_unwritten(slate_write(poison->slate, row_number(poison, row),
                                   bytes_of(content, sizeof *content)));
}

void poison_failed(struct poison *poison, const struct poison_key *key, uint64_t passed)
{
    pthread_mutex_lock(&poison->lock);
    struct poison_row *row = row_make(poison, key, passed);

    row->failures++;
    row->failed_wall_us = clock_wall_us();
    row->others_passed |= passed > row->passed_before;
    const struct poison_row copy = *row;
    pthread_mutex_unlock(&poison->lock);
    row_write(poison, row, &copy);
}

void poison_passed(struct poison *poison, const struct poison_key *key)
{
    pthread_mutex_lock(&poison->lock);
    struct poison_row *row = row_find(poison, key);

    if (row)
        *row = (struct poison_row){0};
    pthread_mutex_unlock(&poison->lock);
    if (row && poison->slate)
        tell_unwritten(slate_erase(poison->slate, row_number(poison, row)));
}

/* That it is poison was found out once, and holds for the next start, too. */
bool poison_is(struct poison *poison, const struct poison_key *key, unsigned most, uint64_t passed)
{
    struct poison_row copy = {0};

    if (most == 0)
        return false;
    pthread_mutex_lock(&poison->lock);
    struct poison_row *row = row_find(poison, key);
    const bool others = row && (row->others_passed || passed > row->passed_before);
    const bool is =
        others && row->failures >= most && clock_wall_us() - row->failed_wall_us < POISON_REST_US;
    const bool news = is && !row->others_passed;
    if (news) {
        row->others_passed = true;
        copy = *row;
    }
    pthread_mutex_unlock(&poison->lock);
    if (news)
        row_write(poison, row, &copy);
    return is;
}
