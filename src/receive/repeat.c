/*
 * repeat: a message whose 250 never reached its client. A client that is gone between our commit
 * and our reply has to send the message again (RFC 1047); that once, it is answered with the id of
 * the first, and nobody gets it twice.
 *
 * The row names the client's network, sender, recipients and the message by one hash under a secret
 * of this spool, which nobody outside can aim at. It is made while the message comes in and costs
 * next to nothing, as nearly no message ever needs it. The table is of fixed size, in memory and on
 * a slate beside the queue; where a set is full, the oldest row makes room. What is forgotten is
 * only delivered twice.
 *
 * A crash of ours between commit and reply leaves no row behind. So the hash lies in the message's
 * record as its mark, and the spool shows after a recovery the marks of the last moments. Not of a
 * message without Message-ID: of those two that are meant may well be the same to the octet.
 *
 * Sleeps: repeats_note, until it is known whether the reply arrived; where a row changes, on the
 * disk.
 */
#include <string.h>
#include <xxhash.h>

#include "receive/session.h"

enum { SETS = 1024, WAYS = 4, GRACE_MS = 2000, LOOK_MS = 20, ROW_BYTES = REPEAT_KEY_BYTES + 16 };
static const int64_t KEPT_US = INT64_C(24) * 3600 * US_PER_S;

struct repeat_row {
    uint8_t key[REPEAT_KEY_BYTES];
    uint64_t message;
    int64_t until_wall_us; /* 0: free */
};
_Static_assert(sizeof(struct repeat_row) == ROW_BYTES, "a row has no gaps that would be written");
_Static_assert((int)REPEAT_KEY_BYTES == (int)SPOOL_MARK_BYTES,
               "a key is what a message is marked with");

struct repeats {
    pthread_mutex_t lock; /* around the rows only */
    uint64_t secret;      /* of the hash; read while a message comes in */
    struct slate *slate;  /* NULL: in memory only */
    atomic_uint count;    /* of rows that were ever filled: most servers never look further */
    struct repeat_row rows[SETS][WAYS];
};

static void row_load(void *argument, uint32_t row, struct bytes content)
{
    struct repeats *repeats = argument;

    memcpy(&repeats->rows[row / WAYS][row % WAYS], content.at, ROW_BYTES);
    atomic_fetch_add(&repeats->count, 1);
}

static void repeats_put(struct repeats *repeats, const struct repeat_row *row);

static void repeats_recover(struct repeats *repeats, const struct spool *spool)
{
    const struct spool_mark *marks;
    const size_t count = spool_marks(spool, &marks);

    for (size_t i = 0; i < count; i++) {
        struct repeat_row row = {.message = marks[i].message,
                                 .until_wall_us = marks[i].accepted_wall_us + KEPT_US};
        memcpy(row.key, marks[i].mark, sizeof row.key);
        if (row.message != 0 && row.until_wall_us > clock_wall_us())
            repeats_put(repeats, &row);
    }
}

static void repeats_load(struct repeats *repeats, const char *directory)
{
    char path[4200];

    snprintf(path, sizeof path, "%s/repeats", directory);
    repeats->slate =
        slate_open(path, ROW_BYTES, SETS * WAYS, &(struct slate_reader){row_load, repeats});
    if (!repeats->slate)
        observe_note(LOG_WARNING, "receive", "%s cannot be used: what it tells is in memory only",
                     path);
}

struct repeats *repeats_open(const struct spool *spool, const char *directory)
{
    struct repeats *repeats = calloc(1, sizeof *repeats);

    if (!repeats)
        return NULL;
    pthread_mutex_init(&repeats->lock, NULL);
    repeats->secret = spool_secret(spool);
    if (directory)
        repeats_load(repeats, directory);
    repeats_recover(repeats, spool);
    return repeats;
}

void repeats_close(struct repeats *repeats)
{
    if (!repeats)
        return;
    slate_close(repeats->slate);
    pthread_mutex_destroy(&repeats->lock);
    free(repeats);
}

/* ------------------------------------------------------------------ the fingerprint of a body */

void fingerprint_begin(struct session *session)
{
    const struct repeats *repeats = session->receive->repeats;
    XXH3_state_t *state = repeats ? XXH3_createState() : NULL;

    if (state && XXH3_128bits_reset_withSeed(state, repeats->secret) == XXH_OK)
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

static uint32_t row_number(const struct repeats *repeats, const struct repeat_row *row)
{
    return (uint32_t)(row - &repeats->rows[0][0]);
}

static struct repeat_row *set_of(struct repeats *repeats, const uint8_t *key)
{
    return repeats->rows[((unsigned)key[0] << 8 | key[1]) % SETS];
}

static struct repeat_row *row_find(struct repeats *repeats, const uint8_t *key)
{
    struct repeat_row *set = set_of(repeats, key);

    for (unsigned i = 0; i < WAYS; i++)
        if (set[i].until_wall_us > clock_wall_us() &&
            memcmp(set[i].key, key, REPEAT_KEY_BYTES) == 0)
            return &set[i];
    return NULL;
}

uint64_t repeats_take(const struct session *session)
{
    struct repeats *repeats = session->receive->repeats;
    uint64_t message = 0;
    uint32_t number = 0;

    if (!session->repeat.named || atomic_load(&repeats->count) == 0)
        return 0;
    pthread_mutex_lock(&repeats->lock);
    struct repeat_row *row = row_find(repeats, session->repeat.key);

    if (row) {
        message = row->message;
        number = row_number(repeats, row);
        *row = (struct repeat_row){0};
    }
    pthread_mutex_unlock(&repeats->lock);
    if (message != 0 && repeats->slate && !slate_erase(repeats->slate, number))
        observe_note(LOG_WARNING, "receive", "the list of lost replies cannot be written");
    return message;
}

/* A free one is older than any. */
static struct repeat_row *set_oldest(struct repeat_row *set)
{
    struct repeat_row *row = &set[0];

    for (unsigned i = 1; i < WAYS; i++)
        if (set[i].until_wall_us < row->until_wall_us)
            row = &set[i];
    return row;
}

static void repeats_put(struct repeats *repeats, const struct repeat_row *put)
{
    pthread_mutex_lock(&repeats->lock);
    struct repeat_row *set = set_of(repeats, put->key), *row = row_find(repeats, put->key);

    if (!row)
        row = set_oldest(set);
    *row = *put;
    atomic_fetch_add(&repeats->count, 1);
    pthread_mutex_unlock(&repeats->lock);
    if (repeats->slate &&
        !slate_write(repeats->slate, row_number(repeats, row), bytes_of(put, sizeof *put)))
        observe_note(LOG_WARNING, "receive", "the list of lost replies cannot be written");
}

struct bytes repeats_mark(const struct session *session)
{
    const bool marked = session->repeat.named && session->intake.mail != 0 &&
                        session->transaction.class_count <= 1 &&
                        session->transaction.disposition != DISPOSITION_DISCARD;

    return marked ? bytes_of(session->repeat.key, REPEAT_KEY_BYTES) : BYTES_EMPTY;
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
    struct repeat_row row = {.message = session->repeat.message,
                             .until_wall_us = clock_wall_us() + KEPT_US};
    memcpy(row.key, session->repeat.key, sizeof row.key);
    repeats_put(session->receive->repeats, &row);
    observe_note(LOG_INFO, "receive", "the 250 for %s was lost: a repeat is answered by it once",
                 id_print(session->repeat.message, id, sizeof id));
}
