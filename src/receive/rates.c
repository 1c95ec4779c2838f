/*
 * How much one user or one client network may send in an hour: token buckets in a table of fixed
 * size. A bucket is one number, the moment at which it would be full again (GCRA), so an old entry
 * is as good as none; in a set that is full the one that is nearest to it makes room.
 *
 * Who may relay by his network is exempt; who logged in has his own limits instead. Never sleeps.
 */
#include "receive/session.h"

enum { SETS = 8192, WAYS = 4, REFUSALS_MOST = 100 };
static const uint64_t HOUR_US = 3600 * US_PER_S;

struct bucket {
    uint64_t key;     /* of a keyed hash: nobody can aim at the entry of another */
    uint64_t full_us; /* 0: empty entry */
};

struct rates {
    pthread_mutex_t lock; /* around the table only */
    uint8_t secret[SECRET_KEY_BYTES];
    struct bucket table[SETS][WAYS];
};

struct rates *rates_open(void)
{
    struct rates *rates = calloc(1, sizeof *rates);

    if (!rates)
        return NULL;
    pthread_mutex_init(&rates->lock, NULL);
    random_fill((struct span){rates->secret, sizeof rates->secret});
    return rates;
}

void rates_close(struct rates *rates)
{
    if (!rates)
        return;
    pthread_mutex_destroy(&rates->lock);
    free(rates);
}

/* The entry of this key, or the one that is missed least. */
static struct bucket *bucket_of(struct rates *rates, uint64_t key)
{
    struct bucket *set = rates->table[key % SETS], *oldest = &set[0];

    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].full_us != 0 && set[i].key == key)
            return &set[i];
        if (set[i].full_us < oldest->full_us)
            oldest = &set[i];
    }
    *oldest = (struct bucket){.key = key};
    return oldest;
}

/* One of `limit` an hour; those saved up are never more than an hour's. */
static bool bucket_ask(struct rates *rates, uint64_t key, uint32_t limit, bool take)
{
    const uint64_t now = clock_now_us(), each = HOUR_US / limit;
    bool left = false;

    pthread_mutex_lock(&rates->lock);
    struct bucket *bucket = bucket_of(rates, key);
    const uint64_t full = MAX_OF(bucket->full_us, now);
    if (full + each <= now + HOUR_US) {
        left = true;
        if (take)
            bucket->full_us = full + each;
    }
    pthread_mutex_unlock(&rates->lock);
    return left;
}

static const char *const KIND_NAMES[] = {[RATE_MESSAGES] = "messages",
                                         [RATE_RECIPIENTS] = "recipients",
                                         [RATE_FAILURES] = "failed logins"};

static uint32_t rate_limit(const struct session *session, enum rate_kind kind)
{
    const struct config_limits *limits = &session->config->limits;
    const bool user = session->client.user.count > 0;

    if (session->client.remote.family == ENDPOINT_UNIX || (session->client.may_relay && !user))
        return 0;
    switch (kind) {
    case RATE_MESSAGES:
        return user ? limits->user_messages : limits->client_messages;
    case RATE_RECIPIENTS:
        return user ? limits->user_recipients : limits->client_recipients;
    case RATE_FAILURES:
        return limits->client_failures;
    }
    return 0;
}

/* The kind, then the user's or the network's name; an IPv6 client is its /64. */
static void rate_key(const struct session *session, enum rate_kind kind, struct buffer *key)
{
    const struct endpoint *remote = &session->client.remote;

    buffer_add_byte(key, (uint8_t)kind);
    if (session->client.user.count > 0) {
        buffer_add_byte(key, 'u');
        for (size_t i = 0; i < session->client.user.count; i++)
            buffer_add_byte(key, ascii_lower(session->client.user.at[i]));
    } else {
        buffer_add_byte(key, remote->family == ENDPOINT_IPV6 ? '6' : '4');
        buffer_add(key, bytes_of(remote->ip.octets, remote->family == ENDPOINT_IPV6 ? 8 : 4));
    }
}

/*
 * Who was told and goes on all the same: another transaction, another login, or recipients without
 * end. Never within a transaction that has an accepted recipient, which would be lost with it.
 */
static bool rates_insists(const struct session *session, enum rate_kind kind)
{
    if (session->rate_refusals == 0)
        return false;
    return kind == RATE_FAILURES || session->transactions != session->rate_told_in ||
           (session->rate_refusals >= REFUSALS_MOST && session->transaction.accepted_commands == 0);
}

static struct verdict rates_over(struct session *session, enum rate_kind kind, uint32_t limit)
{
    const struct bytes words =
        arena_print(&session->transaction_arena, "%s: %u %s an hour",
                    session->client.user.count ? "user" : "client", limit, KIND_NAMES[kind]);

    if (rates_insists(session, kind))
        return verdict_with(CAUSE_RATE_EXCEEDED, words);
    if (session->rate_refusals++ == 0)
        session->rate_told_in = session->transactions;
    return verdict_with(CAUSE_RATE_LIMITED, words);
}

MUST_USE static struct verdict rates_ask(struct session *session, enum rate_kind kind, bool take)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(1 * KIB);
    struct rates *rates = session->receive->rates;
    const uint32_t limit = rate_limit(session, kind);
    uint8_t mac[SECRET_KEY_BYTES];

    if (limit == 0 || !rates)
        return verdict_accept();
    rate_key(session, kind, &text);
    if (text.failed ||
        !secret_mac(bytes_of(rates->secret, sizeof rates->secret), buffer_view(&text), mac))
        return verdict_of(CAUSE_SERVER_BUSY);
    struct reader reader = READER_OF(bytes_of(mac, sizeof mac));
    if (bucket_ask(rates, reader_u64(&reader), limit, take))
        return verdict_accept();
    return rates_over(session, kind, limit);
}

struct verdict rates_take(struct session *session, enum rate_kind kind)
{
    return rates_ask(session, kind, true);
}

struct verdict rates_look(struct session *session, enum rate_kind kind)
{
    return rates_ask(session, kind, false);
}
