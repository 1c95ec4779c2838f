/*
 * repeat: a message whose 250 never reached its client. A client that is gone between our commit
 * and our reply has to send the message again (RFC 1047); that once, it is answered with the id of
 * the first, and nobody gets it twice.
 *
 * The row names the client's network, sender, recipients and the digest of the message by a keyed
 * hash. The table is in memory, of fixed size; where a set is full, the oldest row makes room. What
 * is forgotten, or lost with the process, is only delivered twice.
 *
 * Sleeps: repeats_note, until it is known whether the reply arrived.
 */
#include <string.h>
#include <xxhash.h>

#include "receive/session.h"

enum { SETS = 1024, WAYS = 4, KEY_MOST = 64 * 1024, GRACE_MS = 2000, LOOK_MS = 20 };
static const uint64_t KEPT_US = UINT64_C(24) * 3600 * US_PER_S;

struct repeat_row {
    uint8_t key[SECRET_KEY_BYTES];
    uint64_t message, until_us; /* 0: free */
};

struct repeats {
    pthread_mutex_t lock; /* around the rows only */
    uint8_t secret[SECRET_KEY_BYTES];
    atomic_uint count; /* of rows that were ever filled: most servers never look further */
    struct repeat_row rows[SETS][WAYS];
};

struct repeats *repeats_open(void)
{
    struct repeats *repeats = calloc(1, sizeof *repeats);

    if (!repeats)
        return NULL;
    pthread_mutex_init(&repeats->lock, NULL);
    random_fill((struct span){repeats->secret, sizeof repeats->secret});
    return repeats;
}

void repeats_close(struct repeats *repeats)
{
    if (!repeats)
        return;
    pthread_mutex_destroy(&repeats->lock);
    free(repeats);
}

/* ------------------------------------------------------------------ the fingerprint of a body */

void fingerprint_begin(struct intake *intake)
{
    XXH3_state_t *state = XXH3_createState();

    if (state && XXH3_128bits_reset(state) == XXH_OK)
        intake->fingerprint = state;
    else
        XXH3_freeState(state);
}

void fingerprint_add(struct intake *intake, struct bytes piece)
{
    if (intake->fingerprint &&
        XXH3_128bits_update(intake->fingerprint, piece.at, piece.count) != XXH_OK)
        fingerprint_close(intake);
}

void fingerprint_close(struct intake *intake)
{
    XXH3_freeState(intake->fingerprint);
    intake->fingerprint = NULL;
}

/* ------------------------------------------------------------------ keys */

static void add_address(struct buffer *key, struct address address)
{
    address_print(key, address);
    buffer_add_byte(key, 0);
}

/* A client may come back from a neighbouring address. */
static void add_client(struct buffer *key, const struct endpoint *remote)
{
    buffer_add_byte(key, (uint8_t)remote->family);
    if (remote->family == ENDPOINT_IPV4)
        buffer_add(key, bytes_of(remote->ip.octets, 3));
    else if (remote->family == ENDPOINT_IPV6)
        buffer_add(key, bytes_of(remote->ip.octets, 8));
}

void repeats_name(struct session *session)
{
    CLEANUP(buffer_free) struct buffer key = BUFFER_WITH_LIMIT(KEY_MOST);
    const struct envelope *envelope = &session->transaction.envelope;
    const struct repeats *repeats = session->receive->repeats;
    XXH128_canonical_t digest;

    session->repeat = (struct repeat){0};
    if (!repeats || !session->intake.fingerprint)
        return;
    XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(session->intake.fingerprint));
    buffer_add(&key, bytes_of(digest.digest, sizeof digest.digest));
    buffer_add_u64(&key, session->intake.count);
    add_client(&key, &session->client.remote);
    add_address(&key, envelope->from);
    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        add_address(&key, envelope->recipients[i].address);
        add_address(&key, envelope->recipients[i].asked);
    }
    session->repeat.named =
        !key.failed && secret_mac(bytes_of(repeats->secret, sizeof repeats->secret),
                                  buffer_view(&key), session->repeat.key);
}

/* ------------------------------------------------------------------ the table, under the lock */

static struct repeat_row *set_of(struct repeats *repeats, const uint8_t *key)
{
    return repeats->rows[((unsigned)key[0] << 8 | key[1]) % SETS];
}

static struct repeat_row *row_find(struct repeats *repeats, const uint8_t *key)
{
    struct repeat_row *set = set_of(repeats, key);

    for (unsigned i = 0; i < WAYS; i++)
        if (set[i].until_us > clock_now_us() && memcmp(set[i].key, key, SECRET_KEY_BYTES) == 0)
            return &set[i];
    return NULL;
}

uint64_t repeats_take(const struct session *session)
{
    struct repeats *repeats = session->receive->repeats;
    uint64_t message = 0;

    if (!session->repeat.named || atomic_load(&repeats->count) == 0)
        return 0;
    pthread_mutex_lock(&repeats->lock);
    struct repeat_row *row = row_find(repeats, session->repeat.key);

    if (row) {
        message = row->message;
        *row = (struct repeat_row){0};
    }
    pthread_mutex_unlock(&repeats->lock);
    return message;
}

static void repeats_put(struct repeats *repeats, const struct repeat *repeat)
{
    pthread_mutex_lock(&repeats->lock);
    struct repeat_row *set = set_of(repeats, repeat->key), *row = &set[0];

    for (unsigned i = 1; i < WAYS; i++)
        if (set[i].until_us < row->until_us)
            row = &set[i];
    memcpy(row->key, repeat->key, sizeof row->key);
    row->message = repeat->message;
    row->until_us = deadline_in(KEPT_US);
    atomic_fetch_add(&repeats->count, 1);
    pthread_mutex_unlock(&repeats->lock);
}

/* ------------------------------------------------------------------ was the 250 lost? */

/* The end of what the client sends may come before its acknowledgement of our last words. */
static bool reply_arrived(const struct session *session)
{
    const uint64_t deadline = deadline_in(GRACE_MS * US_PER_MS);

    while (stream_unacknowledged(session->stream) > 0)
        if (clock_now_us() >= deadline ||
            fiber_sleep_until(deadline_in(LOOK_MS * US_PER_MS)) != IO_OK)
            return false;
    return true;
}

void repeats_note(struct session *session)
{
    char id[ID_TEXT_MAX];

    if (!session->repeat.named || session->repeat.message == 0 || !session->stream)
        return;
    if (!session->lost && reply_arrived(session))
        return;
    repeats_put(session->receive->repeats, &session->repeat);
    observe_note(LOG_INFO, "receive", "the 250 for %s was lost: a repeat is answered by it once",
                 id_print(session->repeat.message, id, sizeof id));
}
