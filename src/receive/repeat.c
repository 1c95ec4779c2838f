/*
 * repeat: a message whose 250 never reached its client. A client that is gone between our commit
 * and our reply has to send the message again (RFC 1047); that once, it is answered with the id of
 * the first, and nobody gets it twice.
 *
 * The row names the client's network, sender, recipients and the message by one hash under a secret
 * of this process, which nobody outside can aim at. It is made while the message comes in and costs
 * next to nothing, as nearly no message ever needs it. The table is in memory, of fixed size; where
 * a set is full, the oldest row makes room. What is forgotten, or lost with the process, is only
 * delivered twice.
 *
 * Sleeps: repeats_note, until it is known whether the reply arrived.
 */
#include <string.h>
#include <xxhash.h>

#include "receive/session.h"

enum { SETS = 1024, WAYS = 4, GRACE_MS = 2000, LOOK_MS = 20, HASH_SECRET_BYTES = 192 };
static const uint64_t KEPT_US = UINT64_C(24) * 3600 * US_PER_S;

struct repeat_row {
    uint8_t key[REPEAT_KEY_BYTES];
    uint64_t message, until_us; /* 0: free */
};

struct repeats {
    pthread_mutex_t lock;              /* around the rows only */
    uint8_t secret[HASH_SECRET_BYTES]; /* of the hash; read while a message comes in */
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

void fingerprint_begin(struct session *session)
{
    const struct repeats *repeats = session->receive->repeats;
    XXH3_state_t *state = repeats ? XXH3_createState() : NULL;

    if (state && XXH3_128bits_reset_withSecret(state, repeats->secret, HASH_SECRET_BYTES) == XXH_OK)
        session->intake.fingerprint = state;
    else
        XXH3_freeState(state);
}

void fingerprint_add(struct intake *intake, struct bytes piece)
{
    if (intake->fingerprint && piece.count > 0 &&
        XXH3_128bits_update(intake->fingerprint, piece.at, piece.count) != XXH_OK)
        fingerprint_close(intake);
}

void fingerprint_close(struct intake *intake)
{
    XXH3_freeState(intake->fingerprint);
    intake->fingerprint = NULL;
}

/* ------------------------------------------------------------------ keys */

static void add_address(struct intake *intake, struct address address)
{
    fingerprint_add(intake, address.local);
    fingerprint_add(intake, bytes_of("", 1));
    fingerprint_add(intake, address.domain);
    fingerprint_add(intake, bytes_of("", 1));
}

/* A client may come back from a neighbouring address. */
static void add_client(struct intake *intake, const struct endpoint *remote)
{
    const uint8_t family = (uint8_t)remote->family;

    fingerprint_add(intake, bytes_of(&family, 1));
    if (remote->family == ENDPOINT_IPV4)
        fingerprint_add(intake, bytes_of(remote->ip.octets, 3));
    else if (remote->family == ENDPOINT_IPV6)
        fingerprint_add(intake, bytes_of(remote->ip.octets, 8));
}

/* What follows the message is of known shape, and its length says where the message ended. */
void repeats_name(struct session *session)
{
    const struct envelope *envelope = &session->transaction.envelope;
    struct intake *intake = &session->intake;
    XXH128_canonical_t digest;

    session->repeat = (struct repeat){0};
    add_client(intake, &session->client.remote);
    add_address(intake, envelope->from);
    for (uint32_t i = 0; i < envelope->recipient_count; i++) {
        add_address(intake, envelope->recipients[i].address);
        add_address(intake, envelope->recipients[i].asked);
    }
    fingerprint_add(intake, bytes_of(&intake->count, sizeof intake->count));
    if (!intake->fingerprint)
        return;
    XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(intake->fingerprint));
    memcpy(session->repeat.key, digest.digest, REPEAT_KEY_BYTES);
    session->repeat.named = true;
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
        if (set[i].until_us > clock_now_us() && memcmp(set[i].key, key, REPEAT_KEY_BYTES) == 0)
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

/* Who goes on after a reply has read it. What was sent ahead proves nothing: a QUIT that comes
 * while the client's machine has not confirmed our 250 left before it. (Of other commands that is
 * not asked, a system call a message: a client that does not wait for the reply to its last message
 * and dies has said QUIT.) */
void repeats_heard(struct session *session, struct bytes line)
{
    const bool leaves = line.count > 0 && ascii_lower(line.at[0]) == 'q';

    if (leaves && session->repeat.message != 0 && session->stream &&
        stream_unacknowledged(session->stream) > 0)
        return;
    session->repeat = (struct repeat){0};
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
