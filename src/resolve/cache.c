/*
 * cache: a table of fixed size in sets of a few rows, guarded by one lock that is held around
 * memory operations only. Where a set is full, or the bytes are, what was longest not asked for
 * makes room. A question under way is a `flight`: the first fiber asks, the others wait for what it
 * gets. A failure is handed to those who waited and to nobody after them; a leader that was
 * cancelled or had less time than it takes hands on nothing, and one of the others asks again.
 */
#include <pthread.h>
#include <string.h>

#include "resolve/cache.h"

enum {
    SETS = 2048,
    WAYS = 8,
    BYTES_DEFAULT = 16 * MIB,
    ROW_BYTES_MOST = 16 * KIB, /* a larger answer is not worth its room */
    QUESTIONS_DEFAULT = 4000,
    DETAIL_MOST = 96,
    SWEEP_MOST = 64, /* sets looked at to make room for one row */
};

/* TTLs are the zone's word, but not without bounds: a mistake of a week must not outlive the day,
 * and what is absent may come to be (RFC 2308 5 and 7; RFC 8767 4). Seconds. */
enum { TTL_FOUND_MOST = 3600, TTL_ABSENT_MOST = 300 };

/* While an old answer stands in, the server is not asked again for this long (RFC 8767 5). */
static const uint64_t RECALLED_PAUSE_US = 5 * US_PER_S;

/* An answer in one block: shared by its row and by those who waited for it. */
struct kept {
    unsigned references;  /* guarded by the cache's lock */
    struct lookup lookup; /* its detail points into `words` */
    char words[DETAIL_MOST];
    bool nxdomain, secure;
    uint32_t ttl_s;
    unsigned count;
    size_t size;    /* of the records */
    size_t aliased; /* length of the canonical name behind them */
    uint8_t data[]; /* a length of two octets and the record's data, for each; the name */
};

struct row {
    uint64_t hash;
    enum dns_type type;
    struct kept *kept;
    uint64_t expires_us, used_us;
    uint64_t pause_us; /* until then the server is not asked: it just failed */
    enum lookup_reason pause_reason;
    char name[]; /* ends with NUL */
};

struct flight {
    struct flight *next;
    const struct dns_question *question; /* the leader's */
    struct kept *kept;                   /* what came of it; NULL with `over`: ask again */
    bool over;
    unsigned references;
    struct waitlist landed;
};

struct dns_cache {
    pthread_mutex_t lock;
    uint64_t stale_us, secret;
    size_t bytes, bytes_max;
    unsigned questions, hand; /* the hand goes over the sets when bytes run out */
    struct flight *flights[SETS];
    struct row *rows[SETS][WAYS];
};

/* ------------------------------------------------------------------ kept answers */

static size_t answer_size(const struct dns_answer *answer)
{
    size_t size = 0;

    for (unsigned i = 0; i < answer->count; i++)
        size += 2 + answer->records[i].raw.count;
    return size;
}

/* NULL without memory, or when a record does not fit its length. */
static struct kept *kept_make(const struct lookup *lookup, const struct dns_answer *answer)
{
    const size_t size = answer_size(answer);
    const struct bytes canonical = answer->canonical;
    struct kept *kept = calloc(1, sizeof *kept + size + canonical.count);
    size_t at = 0;

    if (!kept)
        return NULL;
    *kept = (struct kept){.references = 1,
                          .lookup = *lookup,
                          .nxdomain = answer->nxdomain,
                          .secure = answer->secure,
                          .ttl_s = answer->ttl_s,
                          .count = answer->count,
                          .size = size,
                          .aliased = canonical.count};
    snprintf(kept->words, sizeof kept->words, "%.*s", BYTES_PRINT(lookup->detail));
    kept->lookup.detail = bytes_of_text(kept->words);
    for (unsigned i = 0; i < answer->count; i++) {
        const struct bytes raw = answer->records[i].raw;

        if (raw.count > UINT16_MAX) {
            free(kept);
            return NULL;
        }
        kept->data[at] = (uint8_t)(raw.count >> 8);
        kept->data[at + 1] = (uint8_t)raw.count;
        if (raw.count > 0)
            memcpy(kept->data + at + 2, raw.at, raw.count);
        at += 2 + raw.count;
    }
    if (canonical.count > 0)
        memcpy(kept->data + at, canonical.at, canonical.count);
    return kept;
}

static void kept_release(struct kept *kept)
{
    if (kept && --kept->references == 0)
        free(kept);
}

static struct lookup kept_tell(const struct kept *kept, enum dns_type type, struct arena *arena,
                               struct dns_answer *answer)
{
    struct reader reader = READER_OF(bytes_of(kept->data, kept->size));
    struct lookup lookup = kept->lookup;

    *answer = (struct dns_answer){
        .nxdomain = kept->nxdomain,
        .secure = kept->secure,
        .ttl_s = kept->ttl_s,
        .canonical = arena_copy(arena, bytes_of(kept->data + kept->size, kept->aliased))};
    lookup.detail = arena_copy(arena, kept->lookup.detail);
    if (lookup.status != LOOKUP_FOUND)
        return lookup;
    answer->records = ARENA_NEW_ARRAY(arena, kept->count + 1u, struct dns_record);
    for (unsigned i = 0; answer->records && i < kept->count; i++) {
        const size_t size = reader_u16(&reader);
        const struct bytes raw = reader_bytes(&reader, size);

        if (dns_record_decode(arena, type, raw, &answer->records[answer->count]))
            answer->count++;
    }
    if (answer->count < kept->count)
        return lookup_failed(LOOKUP_REASON_PARTIAL, BYTES_LITERAL("out of memory"));
    return lookup;
}

/* ------------------------------------------------------------------ rows */

static uint64_t question_hash(const struct dns_cache *cache, const struct dns_question *question)
{
    const uint64_t hash = bytes_hash_nocase(bytes_of_text(question->name)) ^ cache->secret;

    return (hash ^ (uint64_t)question->type) * UINT64_C(0x9e3779b97f4a7c15);
}

static unsigned set_of(uint64_t hash)
{
    return (unsigned)(hash >> 32) % SETS;
}

static size_t row_bytes(const struct row *row)
{
    return sizeof *row + strlen(row->name) + 1 + sizeof *row->kept + row->kept->size;
}

static void row_drop(struct dns_cache *cache, struct row **place)
{
    struct row *row = *place;

    if (!row)
        return;
    cache->bytes -= row_bytes(row);
    kept_release(row->kept);
    free(row);
    *place = NULL;
}

static struct row **row_find(struct dns_cache *cache, const struct dns_question *question)
{
    const uint64_t hash = question_hash(cache, question);
    struct row **set = cache->rows[set_of(hash)];

    for (unsigned i = 0; i < WAYS; i++)
        if (set[i] && set[i]->hash == hash && set[i]->type == question->type &&
            strcmp(set[i]->name, question->name) == 0)
            return &set[i];
    return NULL;
}

/* The row of the set that was longest not asked for; NULL inside when there is none. */
static struct row **row_oldest(struct row **set)
{
    struct row **oldest = &set[0];

    for (unsigned i = 1; i < WAYS; i++)
        if (set[i] && (!*oldest || set[i]->used_us < (*oldest)->used_us))
            oldest = &set[i];
    return oldest;
}

/* A free place of the set, or that of its oldest row. */
static struct row **row_place(struct row **set)
{
    for (unsigned i = 0; i < WAYS; i++)
        if (!set[i])
            return &set[i];
    return row_oldest(set);
}

static bool row_is_over(const struct dns_cache *cache, const struct row *row, uint64_t now_us)
{
    const bool lasts = row->kept->lookup.status == LOOKUP_FOUND;

    return now_us >= row->expires_us + (lasts ? cache->stale_us : 0);
}

/* The hand frees what is over anyway, and otherwise a row a set. False: still too full. */
static bool cache_make_room(struct dns_cache *cache, size_t size, uint64_t now_us)
{
    for (unsigned swept = 0; swept < SWEEP_MOST && cache->bytes + size > cache->bytes_max;
         swept++) {
        struct row **set = cache->rows[cache->hand++ % SETS];

        for (unsigned i = 0; i < WAYS; i++)
            if (set[i] && row_is_over(cache, set[i], now_us))
                row_drop(cache, &set[i]);
        if (cache->bytes + size > cache->bytes_max)
            row_drop(cache, row_oldest(set));
    }
    return cache->bytes + size <= cache->bytes_max;
}

static uint64_t kept_ttl_us(const struct kept *kept)
{
    const uint32_t most = kept->lookup.status == LOOKUP_FOUND ? TTL_FOUND_MOST : TTL_ABSENT_MOST;

    return (uint64_t)MIN_OF(kept->ttl_s, most) * US_PER_S;
}

/* Nothing is worse than forgetting: without room or memory the answer is just not kept. The root
 * is never kept, because asking for it is how others find out whether anybody answers. */
static void cache_keep(struct dns_cache *cache, const struct dns_question *question,
                       struct kept *kept, uint64_t now_us)
{
    const size_t length = strlen(question->name) + 1;
    const uint64_t hash = question_hash(cache, question);
    struct row **known = row_find(cache, question);

    if (kept->lookup.status == LOOKUP_FAILED || strcmp(question->name, ".") == 0)
        return;
    if (known)
        row_drop(cache, known);
    const bool lasts = cache->stale_us > 0 && kept->lookup.status == LOOKUP_FOUND;

    if ((kept_ttl_us(kept) == 0 && !lasts) || kept->size > ROW_BYTES_MOST)
        return;
    struct row *row = calloc(1, sizeof *row + length);
    if (!row)
        return;
    *row = (struct row){.hash = hash,
                        .type = question->type,
                        .kept = kept,
                        .expires_us = now_us + kept_ttl_us(kept),
                        .used_us = now_us};
    memcpy(row->name, question->name, length);
    if (!cache_make_room(cache, row_bytes(row), now_us)) {
        free(row);
        return;
    }
    struct row **place = row_place(cache->rows[set_of(hash)]);
    row_drop(cache, place);
    kept->references++;
    cache->bytes += row_bytes(row);
    *place = row;
}

/* ------------------------------------------------------------------ from memory */

/* False: somebody has to be asked. */
static bool row_answers(struct dns_cache *cache, struct arena *arena,
                        const struct dns_question *question, struct lookup *lookup,
                        struct dns_answer *answer)
{
    const uint64_t now_us = clock_now_us();
    struct row **found = row_find(cache, question);

    if (!found)
        return false;
    struct row *row = *found;
    if (now_us < row->expires_us) {
        row->used_us = now_us;
        *lookup = kept_tell(row->kept, question->type, arena, answer);
        answer->ttl_s = (uint32_t)((row->expires_us - now_us) / US_PER_S);
        answer->from_memory = true;
        return true;
    }
    if (now_us >= row->pause_us)
        return false;
    *lookup = lookup_failed(row->pause_reason, BYTES_LITERAL("it failed a moment ago"));
    return true;
}

struct lookup dns_cache_recall(struct dns_cache *cache, struct arena *arena,
                               const struct dns_question *question, struct dns_answer *answer)
{
    struct lookup lookup = lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_EMPTY);

    *answer = (struct dns_answer){0};
    pthread_mutex_lock(&cache->lock);
    const uint64_t now_us = clock_now_us();
    struct row **found = row_find(cache, question);
    struct row *row = found ? *found : NULL;

    if (row && row->kept->lookup.status == LOOKUP_FOUND && !row_is_over(cache, row, now_us)) {
        row->used_us = now_us;
        row->pause_us = now_us + RECALLED_PAUSE_US;
        row->pause_reason = LOOKUP_REASON_UNAVAILABLE;
        lookup = kept_tell(row->kept, question->type, arena, answer);
        answer->ttl_s = 0;
        answer->from_memory = true;
        answer->stale = now_us >= row->expires_us;
        answer->secure = answer->secure && !answer->stale; /* signatures have an end, too */
    }
    pthread_mutex_unlock(&cache->lock);
    if (lookup.status == LOOKUP_FOUND && answer->stale)
        metric_add(COUNTER_DNS_STALE, 1);
    return lookup;
}

/* ------------------------------------------------------------------ flights */

static struct flight **flight_place(struct dns_cache *cache, const struct dns_question *question)
{
    struct flight **place = &cache->flights[set_of(question_hash(cache, question))];

    while (*place && ((*place)->question->type != question->type ||
                      strcmp((*place)->question->name, question->name) != 0))
        place = &(*place)->next;
    return place;
}

static void flight_release(struct flight *flight)
{
    if (--flight->references > 0)
        return;
    kept_release(flight->kept);
    free(flight);
}

/* The leader is back: those who wait get what it got, if that says anything about the question. */
static void flight_land(struct dns_cache *cache, struct flight *flight, struct kept *kept,
                        bool telling)
{
    pthread_mutex_lock(&cache->lock);
    if (kept)
        cache_keep(cache, flight->question, kept, clock_now_us());
    *flight_place(cache, flight->question) = flight->next;
    flight->over = true;
    flight->question = NULL;
    if (telling)
        flight->kept = kept;
    else
        kept_release(kept);
    waitlist_wake_all(&flight->landed);
    flight_release(flight);
    pthread_mutex_unlock(&cache->lock);
}

static bool flight_is_over(struct dns_cache *cache, const struct flight *flight)
{
    pthread_mutex_lock(&cache->lock);
    const bool over = flight->over;

    pthread_mutex_unlock(&cache->lock);
    return over;
}

/* Sleeps until the leader is back, the deadline, or cancellation. */
static enum io_status flight_wait(struct dns_cache *cache, struct flight *flight,
                                  uint64_t deadline_us)
{
    struct waiter waiter;
    enum io_status status = IO_OK;

    waitlist_join(&flight->landed, &waiter);
    while (!flight_is_over(cache, flight) && status == IO_OK)
        status = fiber_park(deadline_us);
    waitlist_leave(&flight->landed, &waiter);
    return status;
}

static struct lookup late(enum io_status status)
{
    if (status == IO_CANCELLED)
        return lookup_failed(LOOKUP_REASON_CANCELLED, BYTES_EMPTY);
    return lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_LITERAL("no answer in time"));
}

/* True: *lookup is the answer. False: the leader brought nothing, the caller asks again. */
static bool flight_join(struct dns_cache *cache, struct flight *flight, struct arena *arena,
                        const struct dns_question *question, struct lookup *lookup,
                        struct dns_answer *answer)
{
    const enum io_status status = flight_wait(cache, flight, question->deadline_us);
    bool told = status != IO_OK;

    *lookup = late(status);
    pthread_mutex_lock(&cache->lock);
    if (flight->over && flight->kept) {
        *lookup = kept_tell(flight->kept, question->type, arena, answer);
        told = true;
    }
    flight_release(flight);
    pthread_mutex_unlock(&cache->lock);
    return told;
}

/* ------------------------------------------------------------------ asking */

static struct lookup ask_server(struct dns_cache *cache, const struct dns_asker *asker,
                                struct arena *arena, const struct dns_question *question,
                                struct dns_answer *answer)
{
    if (*asker->waiting >= cache->questions) {
        metric_add(COUNTER_DNS_OVERLOADED, 1);
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("too many questions"));
    }
    ++*asker->waiting;
    metric_add(COUNTER_DNS_ASKED, 1);
    const struct lookup lookup = asker->ask(asker->argument, arena, question, answer);
    --*asker->waiting;
    return lookup;
}

/* Does this outcome say something about the question, or only about who asked? */
static bool lookup_is_about_question(const struct lookup *lookup, bool had_time)
{
    if (lookup->status != LOOKUP_FAILED)
        return true;
    switch (lookup->reason) {
    case LOOKUP_REASON_CANCELLED:
    case LOOKUP_REASON_OVERLOADED:
        return false;
    case LOOKUP_REASON_TIMEOUT:
        return had_time;
    case LOOKUP_REASON_UNKNOWN:
    case LOOKUP_REASON_UNAVAILABLE:
    case LOOKUP_REASON_MISCONFIGURED:
    case LOOKUP_REASON_PARTIAL:
    case LOOKUP_REASON_BOGUS:
        return true;
    }
    return false;
}

static struct lookup flight_lead(struct dns_cache *cache, const struct dns_asker *asker,
                                 struct flight *flight, struct arena *arena,
                                 struct dns_answer *answer)
{
    struct dns_question question = *flight->question;
    const uint64_t whole_us = deadline_in(asker->timeout_us);
    const bool had_time = question.deadline_us >= whole_us;

    question.deadline_us = MIN_OF(question.deadline_us, whole_us);
    const struct lookup lookup = ask_server(cache, asker, arena, &question, answer);
    const bool telling = lookup_is_about_question(&lookup, had_time);
    struct kept *kept = telling ? kept_make(&lookup, answer) : NULL;

    flight_land(cache, flight, kept, telling);
    return lookup;
}

/* The flight that asks this already, or a new one (*leading). NULL without memory. */
static struct flight *flight_enter(struct dns_cache *cache, const struct dns_question *question,
                                   bool *leading)
{
    struct flight **place = flight_place(cache, question);
    struct flight *flight = *place;

    *leading = !flight;
    if (!flight) {
        flight = calloc(1, sizeof *flight);
        if (!flight)
            return NULL;
        flight->question = question;
        *place = flight;
    }
    flight->references++;
    return flight;
}

static struct lookup ask_alone(struct dns_cache *cache, const struct dns_asker *asker,
                               struct arena *arena, const struct dns_question *question,
                               struct dns_answer *answer)
{
    struct dns_question bounded = *question;

    bounded.deadline_us = MIN_OF(question->deadline_us, deadline_in(asker->timeout_us));
    return ask_server(cache, asker, arena, &bounded, answer);
}

struct lookup dns_cache_ask(struct dns_cache *cache, const struct dns_asker *asker,
                            struct arena *arena, const struct dns_question *question,
                            struct dns_answer *answer)
{
    struct lookup lookup = late(IO_TIMEOUT);

    /* Each turn but the last ended with a leader that brought nothing. */
    while (clock_now_us() < question->deadline_us) {
        bool leading = false;

        *answer = (struct dns_answer){0};
        pthread_mutex_lock(&cache->lock);
        const bool known = row_answers(cache, arena, question, &lookup, answer);
        struct flight *flight = known ? NULL : flight_enter(cache, question, &leading);
        pthread_mutex_unlock(&cache->lock);
        if (known) {
            metric_add(COUNTER_DNS_CACHED, 1);
            return lookup;
        }
        if (!flight)
            return ask_alone(cache, asker, arena, question, answer);
        if (leading)
            return flight_lead(cache, asker, flight, arena, answer);
        if (flight_join(cache, flight, arena, question, &lookup, answer)) {
            metric_add(COUNTER_DNS_JOINED, 1);
            return lookup;
        }
    }
    return late(IO_TIMEOUT);
}

/* ------------------------------------------------------------------ open and close */

struct dns_cache *dns_cache_open(const struct dns_cache_settings *settings)
{
    struct dns_cache *cache = calloc(1, sizeof *cache);

    if (!cache)
        return NULL;
    cache->stale_us = settings->stale_us;
    cache->bytes_max = settings->bytes_max ? settings->bytes_max : BYTES_DEFAULT;
    cache->questions = settings->questions ? settings->questions : QUESTIONS_DEFAULT;
    cache->secret = random_u64();
    pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

void dns_cache_close(struct dns_cache *cache)
{
    if (!cache)
        return;
    for (unsigned set = 0; set < SETS; set++)
        for (unsigned i = 0; i < WAYS; i++)
            row_drop(cache, &cache->rows[set][i]);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

size_t dns_cache_bytes(struct dns_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    const size_t bytes = cache->bytes;

    pthread_mutex_unlock(&cache->lock);
    return bytes;
}
