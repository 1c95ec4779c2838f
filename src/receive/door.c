/*
 * A door: one listener on one loop, and the fiber that lets clients in.
 *
 * It keeps accepting when the house is full, so that everyone gets an answer. Sleeps: in accept.
 * Fails: a connection that cannot be served is answered 421 and closed.
 */
#include "receive/session.h"

enum {
    ACCEPT_WAIT_SECONDS = 3600,
    ACCEPT_PAUSE_MS = 50, /* after a failure such as running out of descriptors */
    TURN_AWAY_MS = 200,
    QUEUE_MOST = 4096,
};

static void door_set(struct door *door, enum door_state state)
{
    struct receive *receive = door->receive;

    /* Within the lock, which receive_close takes once more before it frees the doors. */
    pthread_mutex_lock(&receive->lock);
    atomic_store(&door->state, (int)state);
    waitlist_wake_all(&receive->changed);
    pthread_mutex_unlock(&receive->lock);
}

/* 421 instead of a banner. A fresh socket takes it at once. In TLS there is no tongue for it yet.
 */
static void door_turn_away(struct door *door, struct stream *stream, const struct verdict *why)
{
    char client[ENDPOINT_TEXT_MAX], reply[VERDICT_REPLY_MAX + 2];
    const struct event event = {
        .kind = EVENT_MESSAGE_DEFERRED,
        .stage = STAGE_CONNECT,
        .verdict = *why,
        .has_verdict = true,
        .code = cause_row(why->cause)->code,
        .session = random_u64(), /* so that `why` can be asked for it */
        .text = why->detail,
        .client = bytes_of_text(endpoint_print(&stream->remote, client, sizeof client)),
    };

    observe_event(&event);
    verdict_print_reply(why, reply, VERDICT_REPLY_MAX);
    if (door->listen->tls != TLS_MODE_IMPLICIT) {
        struct bytes text = bytes_of_text(reply);
        reply[text.count++] = '\r';
        reply[text.count++] = '\n';
        /* Whether it arrives changes nothing: the connection is closed either way. */
        const struct io_result written UNUSED =
            stream_write(stream, text, deadline_in(TURN_AWAY_MS * US_PER_MS));
    }
    stream_close(stream);
}

/* The listener lent its reserve to this one, and needs it back. */
static struct verdict no_descriptors(void)
{
    metric_add(COUNTER_DESCRIPTORS_OUT, 1);
    return verdict_with(CAUSE_SERVER_BUSY,
                        BYTES_LITERAL("no descriptor is left: the limit of open files is reached"));
}

static void door_admit(struct door *door, struct stream *stream)
{
    struct guest *guest = NULL;
    const struct verdict admitted =
        stream->last_descriptor ? no_descriptors()
                                : receive_admit(door->receive, door->listen, stream, &guest);

    if (!verdict_accepts(&admitted)) {
        door_turn_away(door, stream, &admitted);
        return;
    }
    if (fiber_start("session", session_main, guest))
        return;
    receive_leave(guest);
    const struct verdict busy =
        verdict_with(CAUSE_SERVER_BUSY, BYTES_LITERAL("no fiber for another session"));
    door_turn_away(door, stream, &busy);
}

static void door_serve(struct door *door, struct listener *listener)
{
    while (!fiber_cancelled()) {
        struct stream *stream = NULL;
        const struct io_result accepted =
            listener_accept(listener, deadline_in(ACCEPT_WAIT_SECONDS * US_PER_S), &stream);
        if (accepted.status == IO_OK && stream)
            door_admit(door, stream);
        else if (accepted.status == IO_FAILED)
            fiber_sleep_until(deadline_in(ACCEPT_PAUSE_MS * US_PER_MS));
    }
}

/* Those who were let into the queue before it closes are served, too. Other doors may take them
 * from the same queue. */
static void door_empty(struct door *door, struct listener *listener)
{
    const bool masked = fiber_mask_cancel(true);

    for (unsigned i = 0; i < QUEUE_MOST; i++) {
        struct stream *stream = NULL;
        const struct io_result accepted = listener_accept(listener, clock_now_us(), &stream);
        if (accepted.status != IO_OK || !stream)
            break;
        door_admit(door, stream);
    }
    fiber_mask_cancel(masked);
}

void door_main(void *argument)
{
    struct door *door = argument;
    struct listener *listener = NULL;

    door->fault = listener_open(&door->at, door->shared, &listener);
    if (door->fault.status != IO_OK || !listener) {
        door_set(door, DOOR_FAILED);
        return;
    }
    door->at = *listener_endpoint(listener);
    door_set(door, DOOR_OPEN);
    door_serve(door, listener);
    if (atomic_load(&door->receive->retiring))
        door_empty(door, listener);
    listener_close(listener);
    door_set(door, DOOR_CLOSED);
}
