/*
 * The runner of commands, as the server meets it: the request and the message are read whole, then
 * a command is played that takes the mail, fails in each of the ways that commands have, or is lost
 * with its runner before or after it did its work.
 */
#include "server.h"

#include <sysexits.h>

#include "config/config.h"
#include "wire/wire.h"

enum { MESSAGE_MOST = 256 * 1024 };
#define RUNNER_PATIENCE_US (1200 * US_PER_S)
#define COMMAND_TIME_US (30 * US_PER_S) /* the pipe's `timeout` */

struct visit {
    struct stream *stream;
    struct pipe_request request;
    char fields[PIPE_FIELDS][PIPE_FIELD_MOST + 1];
    struct buffer message;
};

static bool take(struct visit *visit, void *into, size_t count)
{
    for (size_t had = 0; had < count;) {
        const struct io_result got =
            stream_read(visit->stream, (struct span){(uint8_t *)into + had, count - had},
                        deadline_in(RUNNER_PATIENCE_US));
        if (got.status != IO_OK)
            return false;
        had += got.count;
    }
    return true;
}

static bool take_request(struct visit *visit)
{
    if (!take(visit, &visit->request, sizeof visit->request))
        return false;
    CHECK(pipe_request_is_sound(&visit->request), "a request of the form agreed upon");
    for (unsigned i = 0; i < PIPE_FIELDS; i++)
        if (!take(visit, visit->fields[i], visit->request.counts[i]))
            return false;
    return true;
}

static bool take_message(struct visit *visit)
{
    uint32_t count = 0;

    while (take(visit, &count, sizeof count)) {
        if (count == 0)
            return true;
        uint8_t *at = count <= PIPE_PIECE_MOST ? buffer_reserve(&visit->message, count) : NULL;
        CHECK(at != NULL, "a message of a bounded size");
        if (!take(visit, at, count))
            return false;
        buffer_claim(&visit->message, count);
    }
    return false;
}

static void answer(struct visit *visit, enum pipe_end end, unsigned value)
{
    const struct pipe_answer said = {.magic = PIPE_MAGIC, .end = end, .value = value};

    (void)stream_write(visit->stream, bytes_of(&said, sizeof said),
                       deadline_in(RUNNER_PATIENCE_US));
}

static void arrives(struct visit *visit)
{
    enum place place = PLACE_COUNT;

    CHECK(place_named(bytes_of_text(visit->fields[1 + PIPE_RECIPIENT]), &place) &&
              place == PLACE_PIPE,
          "mail for %s in a command", visit->fields[1 + PIPE_RECIPIENT]);
    parcel_arrived(buffer_view(&visit->message), place, false);
}

/* Only the codes that refuse may end it, and only where the sender can be told. */
static void fail(struct visit *visit)
{
    static const unsigned deferring[] = {1, EX_UNAVAILABLE, EX_TEMPFAIL, EX_CONFIG, 255};
    const bool may_refuse = visit->fields[1 + PIPE_SENDER][0] != 0;

    switch (sim_below(may_refuse ? 8 : 7)) {
    case 0:
        answer(visit, PIPE_EXITED, deferring[sim_below(COUNT_OF(deferring))]);
        break;
    case 1:
        answer(visit, PIPE_SIGNALLED, 11);
        break;
    case 2:
        fiber_sleep_until(deadline_in(COMMAND_TIME_US));
        if (sim_chance(500000))
            arrives(visit);
        answer(visit, PIPE_TIMED_OUT, 9);
        break;
    case 3: /* killed, before or after the command had its effect */
        if (sim_chance(500000))
            arrives(visit);
        break;
    case 4:
        answer(visit, sim_chance(500000) ? PIPE_BUSY : PIPE_NOT_STARTED, 12);
        break;
    case 5:
        (void)stream_write(visit->stream, BYTES_LITERAL("nonsense"),
                           deadline_in(RUNNER_PATIENCE_US));
        break;
    case 6:
        fiber_sleep_until(deadline_in(sim_below(300) * US_PER_S));
        break;
    default:
        book.hop_refused = true;
        answer(visit, PIPE_EXITED, EX_NOUSER);
        break;
    }
}

/* Struck like a next hop. */
static bool strikes(const char *what)
{
    if (!peer_strikes(PEER_HOPS))
        return false;
    peer_struck("%s", what);
    return true;
}

void runner_serve(void *argument, struct stream *stream)
{
    struct visit *visit = calloc(1, sizeof *visit);

    CHECK(visit && argument == &book, "memory");
    visit->stream = stream;
    visit->message = BUFFER_WITH_LIMIT(MESSAGE_MOST);
    if (!strikes("the runner is gone") && take_request(visit) && take_message(visit)) {
        if (strikes("the command fails")) {
            fail(visit);
        } else {
            arrives(visit);
            answer(visit, PIPE_EXITED, EX_OK);
        }
    }
    buffer_free(&visit->message);
    free(visit);
}
