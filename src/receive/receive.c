/*
 * The public side of receive: opening the doors, the register of clients, stopping.
 *
 * Sleeps: receive_open and receive_stop. Fails: receive_open with a reason in words; then every
 * door that was opened is closed again.
 */
#include "receive/pickup.h"
#include "receive/session.h"

enum {
    OPEN_SECONDS = 10,
    HAND_OVER_SECONDS = 20,
    /* After receive_stop's deadline: what has begun to commit still gets its answer. */
    LAST_ANSWERS_SECONDS = 15,
};

/* ------------------------------------------------------------------ the register */

/* One client is one IPv4 address or one /64. */
static struct bytes client_key(const struct endpoint *remote)
{
    switch (remote->family) {
    case ENDPOINT_IPV4:
        return bytes_of(remote->ip.octets, 4);
    case ENDPOINT_IPV6:
        return bytes_of(remote->ip.octets, 8);
    case ENDPOINT_NONE:
    case ENDPOINT_UNIX:
        break;
    }
    return BYTES_EMPTY;
}

static uint32_t bucket_count(const struct receive *receive, unsigned bucket, struct bytes key)
{
    uint32_t count = 0;

    for (const struct guest *guest = receive->buckets[bucket]; guest; guest = guest->next)
        count += bytes_equal(bytes_of(guest->key, guest->key_count), key) ? 1 : 0;
    return count;
}

static void bucket_add(struct guest *guest)
{
    struct guest **first = &guest->receive->buckets[guest->bucket];

    guest->next = *first;
    if (*first)
        (*first)->previous = guest;
    *first = guest;
}

static void bucket_remove(struct guest *guest)
{
    if (guest->previous)
        guest->previous->next = guest->next;
    else
        guest->receive->buckets[guest->bucket] = guest->next;
    if (guest->next)
        guest->next->previous = guest->previous;
}

static bool config_has_submission(const struct config *config)
{
    for (unsigned i = 0; i < config->listen_count; i++)
        if (config->listens[i].kind == LISTEN_SUBMISSION)
            return true;
    return false;
}

/* Sessions at once, as seen from that door: the last tenth is kept for our own users, so that a
 * flood from outside does not keep them from sending. */
static uint32_t connections_most(const struct receive *receive, const struct config_listen *listen)
{
    const uint32_t configured = receive->settings.config->limits.connections;
    const uint32_t borne = receive->settings.connections_max;
    const uint32_t most = MIN_OF(configured ? configured : UINT32_MAX, borne ? borne : UINT32_MAX);

    if (listen->kind == LISTEN_SUBMISSION || !config_has_submission(receive->settings.config))
        return most;
    return most - most / 10;
}

/* What an operator would have to raise. */
static struct bytes words_of_the_limit(const struct receive *receive)
{
    const uint32_t configured = receive->settings.config->limits.connections;
    const uint32_t borne = receive->settings.connections_max;

    return borne > 0 && (configured == 0 || borne < configured)
               ? BYTES_LITERAL("as many sessions as the limit of open files allows")
               : BYTES_LITERAL("as many sessions as limits { connections } allows");
}

/* Under the lock: counts and enters in one step, so that two doors cannot both take the last place.
 */
MUST_USE static struct verdict register_guest(struct guest *guest)
{
    struct receive *receive = guest->receive;
    const struct config_limits *limits = &receive->settings.config->limits;
    const struct bytes key = bytes_of(guest->key, guest->key_count);

    if (atomic_load(&receive->stopping))
        return verdict_of(CAUSE_SERVER_STOPPING);
    if (atomic_load(&receive->guests) >= connections_most(receive, guest->listen))
        return verdict_with(CAUSE_SERVER_BUSY, words_of_the_limit(receive));
    if (limits->connections_per_client > 0 && key.count > 0 &&
        bucket_count(receive, guest->bucket, key) >= limits->connections_per_client)
        return verdict_of(CAUSE_CLIENT_BUSY);
    bucket_add(guest);
    atomic_fetch_add(&receive->guests, 1);
    return verdict_accept();
}

static void guest_name(struct guest *guest, const struct endpoint *remote)
{
    const struct bytes key = client_key(remote);

    guest->key_count = (uint8_t)key.count;
    for (size_t i = 0; i < key.count; i++)
        guest->key[i] = key.at[i];
    guest->bucket = (unsigned)(bytes_hash_nocase(key) % GUEST_BUCKETS);
}

struct verdict receive_rename(struct guest *guest, const struct endpoint *remote)
{
    struct receive *receive = guest->receive;
    const struct bytes key = client_key(remote);
    const uint32_t limit = receive->settings.config->limits.connections_per_client;

    pthread_mutex_lock(&receive->lock);
    bucket_remove(guest);
    guest->next = guest->previous = NULL;
    guest_name(guest, remote);
    const bool busy =
        limit > 0 && key.count > 0 && bucket_count(receive, guest->bucket, key) >= limit;
    bucket_add(guest);
    pthread_mutex_unlock(&receive->lock);
    return busy ? verdict_of(CAUSE_CLIENT_BUSY) : verdict_accept();
}

struct verdict receive_admit(struct receive *receive, const struct config_listen *listen,
                             struct stream *stream, struct guest **guest)
{
    struct guest *new = calloc(1, sizeof *new);

    if (!new)
        return verdict_with(CAUSE_SERVER_BUSY, BYTES_LITERAL("no memory for another session"));
    *new = (struct guest){.receive = receive, .listen = listen, .stream = stream};
    /* A proxy has many clients, who are not known before its header. */
    if (!listen->proxy)
        guest_name(new, &stream->remote);
    pthread_mutex_lock(&receive->lock);
    const struct verdict verdict = register_guest(new);
    pthread_mutex_unlock(&receive->lock);
    if (!verdict_accepts(&verdict)) {
        free(new);
        return verdict;
    }
    *guest = new;
    return verdict_accept();
}

void receive_leave(struct guest *guest)
{
    struct receive *receive = guest->receive;

    pthread_mutex_lock(&receive->lock);
    bucket_remove(guest);
    free(guest);
    /* Within the lock, which receive_close takes once more before it frees `receive`. */
    atomic_fetch_sub(&receive->guests, 1);
    waitlist_wake_all(&receive->changed);
    pthread_mutex_unlock(&receive->lock);
}

/* Wakes the clients' fibers to end: those that wait for a command, or all of them. */
static void register_cancel(struct receive *receive, bool only_idle)
{
    pthread_mutex_lock(&receive->lock);
    for (unsigned i = 0; i < GUEST_BUCKETS; i++)
        for (struct guest *guest = receive->buckets[i]; guest; guest = guest->next)
            if (guest->fiber && (!only_idle || atomic_load(&guest->idle)))
                fiber_cancel(guest->fiber);
    pthread_mutex_unlock(&receive->lock);
}

/* ------------------------------------------------------------------ opening */

MUST_USE static bool doors_all(const struct receive *receive,
                               bool (*holds)(const struct door *door))
{
    for (unsigned i = 0; i < receive->door_count; i++)
        if (!holds(&receive->doors[i]))
            return false;
    return true;
}

static bool door_is_decided(const struct door *door)
{
    return atomic_load(&door->state) != DOOR_OPENING;
}

static bool door_is_shut(const struct door *door)
{
    return atomic_load(&door->state) != DOOR_OPEN;
}

/* Port 0 is chosen by the first loop's listener; the others join it. Sleeps. */
MUST_USE static bool door_open(struct door *door, struct loop *loop)
{
    const uint64_t deadline = deadline_in(OPEN_SECONDS * US_PER_S);
    struct waiter waiter;

    door->fiber = fiber_start_on(loop, "door", door_main, door);
    if (!door->fiber) {
        atomic_store(&door->state, DOOR_FAILED);
        return false;
    }
    waitlist_join(&door->receive->changed, &waiter);
    while (!door_is_decided(door))
        if (fiber_park(deadline) != IO_OK)
            break;
    waitlist_leave(&door->receive->changed, &waiter);
    return atomic_load(&door->state) == DOOR_OPEN;
}

MUST_USE static bool listen_open(struct receive *receive, const struct config_listen *listen)
{
    const unsigned loops = loop_session_count();
    struct endpoint at = listen->address;

    /* A Unix socket has one owner; TCP is shared by all loops. */
    const unsigned doors = at.family == ENDPOINT_UNIX ? 1 : loops;
    for (unsigned i = 0; i < doors; i++) {
        struct door *door = &receive->doors[receive->door_count++];
        *door = (struct door){.receive = receive, .listen = listen, .at = at, .shared = doors > 1};
        if (!door_open(door, loop_session(i)))
            return false;
        at = door->at;
    }
    return true;
}

static void open_failed(struct receive *receive, char *why, size_t why_room)
{
    const struct door *door = &receive->doors[receive->door_count - 1];
    char at[ENDPOINT_TEXT_MAX];

    snprintf(why, why_room, "listen %s on %s: %s", door->listen->name,
             endpoint_print(&door->at, at, sizeof at),
             door_is_decided(door) ? io_result_text(door->fault) : "no answer from its loop");
    receive_stop(receive, clock_now_us());
    receive_close(receive);
}

/* What limits abuse. Sleeps. */
MUST_USE static bool tables_open(struct receive *receive, char *why, size_t why_room)
{
    const struct config *config = receive->settings.config;

    struct receive *former = receive->settings.former;

    receive->tables_borrowed = former != NULL;
    receive->rates = former ? former->rates : rates_open();
    receive->repeats =
        former ? former->repeats : repeats_open(receive->settings.spool, config->spool);
    if (!receive->rates || !receive->repeats) {
        snprintf(why, why_room, "out of memory");
        return false;
    }
    if (!config->greylist.enabled)
        return true;
    receive->greylist = greylist_open(config, why, why_room);
    return receive->greylist != NULL;
}

/* The spool's lock says that no other server lives here, so a socket left behind is a dead one. */
MUST_USE static bool drop_open(struct receive *receive)
{
    receive->pickup = pickup_open(receive);
    if (!receive->pickup)
        return false;
    const struct config_listen *listen = pickup_listen(receive->pickup);
    const struct io_result removed UNUSED = disk_remove(listen->address.path);
    return listen_open(receive, listen) && pickup_begin(receive->pickup);
}

struct receive *receive_open(const struct receive_settings *settings, char *why, size_t why_room)
{
    const struct config *config = settings->config;
    struct receive *receive = calloc(1, sizeof *receive);
    struct door *doors =
        calloc((size_t)config->listen_count * loop_session_count() + 2, sizeof *doors);

    if (!receive || !doors) {
        free(receive);
        free(doors);
        snprintf(why, why_room, "out of memory");
        return NULL;
    }
    receive->settings = *settings;
    receive->doors = doors;
    random_fill((struct span){receive->decoy_key, sizeof receive->decoy_key});
    pthread_mutex_init(&receive->lock, NULL);
    if (!tables_open(receive, why, why_room)) {
        receive_close(receive);
        return NULL;
    }
    for (unsigned i = 0; i < config->listen_count; i++) {
        if (!listen_open(receive, &config->listens[i])) {
            open_failed(receive, why, why_room);
            return NULL;
        }
    }
    /* A former house still picks up: then receive_retire hands that over. */
    if (settings->picks_up && !settings->former && !drop_open(receive)) {
        open_failed(receive, why, why_room);
        return NULL;
    }
    return receive;
}

const struct endpoint *receive_address(const struct receive *receive, const char *name)
{
    for (unsigned i = 0; i < receive->door_count; i++)
        if (bytes_equal_text(bytes_of_text(receive->doors[i].listen->name), name))
            return &receive->doors[i].at;
    return NULL;
}

uint32_t receive_session_count(const struct receive *receive)
{
    return atomic_load(&receive->guests);
}

/* ------------------------------------------------------------------ stopping */

/* Until every client has left and every door is shut, or the deadline. Sleeps. */
static void receive_drain(struct receive *receive, uint64_t deadline_us)
{
    struct waiter waiter;

    waitlist_join(&receive->changed, &waiter);
    while (receive_session_count(receive) > 0 || !doors_all(receive, door_is_shut) ||
           !pickup_is_over(receive->pickup))
        if (fiber_park(deadline_us) != IO_OK)
            break;
    waitlist_leave(&receive->changed, &waiter);
}

/* Never two at once: a file would become mail twice. Sleeps. */
static void pickup_hand_over(struct receive *receive, struct receive *heir)
{
    const uint64_t deadline_us = deadline_in(HAND_OVER_SECONDS * US_PER_S);
    struct waiter waiter;

    pickup_cancel(receive->pickup);
    waitlist_join(&receive->changed, &waiter);
    while (!pickup_is_over(receive->pickup) || !doors_all(receive, door_is_shut))
        if (fiber_park(deadline_us) != IO_OK)
            break;
    waitlist_leave(&receive->changed, &waiter);
    if (!pickup_is_over(receive->pickup) || !doors_all(receive, door_is_shut) || !drop_open(heir))
        observe_note(LOG_ERROR, "receive",
                     "mail in the drop directory waits for the next reload or start");
}

void receive_retire(struct receive *receive, struct receive *heir)
{
    heir->tables_borrowed = false;
    receive->tables_borrowed = true;
    atomic_store(&receive->retiring, true);
    for (unsigned i = 0; i < receive->door_count; i++)
        if (atomic_load(&receive->doors[i].state) == DOOR_OPEN)
            fiber_cancel(receive->doors[i].fiber);
    if (heir->settings.picks_up)
        pickup_hand_over(receive, heir);
}

bool receive_has_left(const struct receive *receive)
{
    return receive_session_count(receive) == 0 && doors_all(receive, door_is_shut) &&
           pickup_is_over(receive->pickup);
}

void receive_stop(struct receive *receive, uint64_t deadline_us)
{
    pthread_mutex_lock(&receive->lock);
    atomic_store(&receive->stopping, true);
    pickup_cancel(receive->pickup);
    pthread_mutex_unlock(&receive->lock);
    for (unsigned i = 0; i < receive->door_count; i++)
        if (atomic_load(&receive->doors[i].state) == DOOR_OPEN)
            fiber_cancel(receive->doors[i].fiber);
    register_cancel(receive, true);
    receive_drain(receive, deadline_us);
    register_cancel(receive, false);
    receive_drain(receive, deadline_in(LAST_ANSWERS_SECONDS * US_PER_S));
}

bool receive_close(struct receive *receive)
{
    if (!receive)
        return true;
    /* A fiber that is still in there would use what is freed here; leaving it costs nothing now. */
    if (receive_session_count(receive) > 0 || !doors_all(receive, door_is_shut) ||
        !pickup_is_over(receive->pickup)) {
        observe_note(LOG_WARNING, "receive", "%u sessions did not end in time",
                     receive_session_count(receive));
        return false;
    }
    pthread_mutex_lock(&receive->lock);
    pthread_mutex_unlock(&receive->lock);
    pthread_mutex_destroy(&receive->lock);
    if (!receive->tables_borrowed) {
        rates_close(receive->rates);
        repeats_close(receive->repeats);
    }
    pickup_close(receive->pickup);
    greylist_close(receive->greylist);
    free(receive->doors);
    free(receive);
    return true;
}
