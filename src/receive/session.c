/*
 * One client from its first byte to its last: greeting, dialogue, farewell. Linear: read a line,
 * ask the table whether it is allowed, do it, answer.
 *
 * Sleeps: on the client. Fails: towards the client by a reply with a cause; a command whose handler
 * forgot to answer gets `undecided`, never silence.
 */
#include "receive/pickup.h"
#include "receive/session.h"

enum {
    CONNECTION_ARENA_BYTES = 64 * 1024,
    TRANSACTION_ARENA_BYTES = 16 * 1024 * 1024,
    FAREWELL_MS = 500,
    FAREWELL_BYTES = 256 * 1024,
};

uint64_t session_deadline(const struct session *session, uint64_t duration_us)
{
    return MIN_OF(deadline_in(duration_us), session->ends_us);
}

/* ------------------------------------------------------------------ reading commands */

static bool input_has_line(const struct wire_input *input)
{
    if (!wire_input_pending(input))
        return false;
    const struct bytes pending = bytes_of(input->buffer + input->start, input->end - input->start);
    return bytes_find_byte(pending, '\n') < pending.count;
}

/*
 * The next command line. What was said so far goes out first when there is no whole line to go on
 * with. `idle` is set before `stopping` is looked at, and receive_stop does it the other way round,
 * so a stop is never overlooked; and a command read after it is not executed.
 */
enum wire_status session_next_line(struct session *session, struct bytes *line)
{
    const bool ahead = input_has_line(&session->input);

    if (!ahead)
        session_flush(session);
    if (session->lost)
        return WIRE_FAILED;
    atomic_store(&session->guest->idle, true);
    enum wire_status status = WIRE_CANCELLED;
    if (!atomic_load(&session->receive->stopping)) {
        const uint64_t deadline =
            session_deadline(session, session->config->limits.command_timeout_us);
        const bool masked = fiber_mask_cancel(false);
        status = wire_read_line(&session->input, deadline, line);
        fiber_mask_cancel(masked);
    }
    atomic_store(&session->guest->idle, false);
    if (!ahead && (status == WIRE_OK || status == WIRE_TOO_LONG || status == WIRE_MALFORMED))
        repeats_heard(session, *line);
    return atomic_load(&session->receive->stopping) ? WIRE_CANCELLED : status;
}

static void session_close_with(struct session *session, enum cause cause)
{
    const struct verdict verdict = verdict_of(cause);

    session_object(session, &verdict);
    session->closing = true;
}

/* Arena and transaction after a command: nothing of it is needed once its reply is printed. */
static void session_tidy(struct session *session)
{
    if (session->message_over)
        transaction_reset(session);
    session->message_over = false;
    if (session->state <= STATE_GREETED) {
        arena_clear(&session->transaction_arena);
        dialogue_clear(&session->dialogue);
        session->dialogue_told = false;
    }
}

MUST_USE static struct verdict session_perform(struct session *session,
                                               const struct smtp_command *command)
{
    if (session->transaction_arena.failed)
        return verdict_of(CAUSE_SERVER_BUSY);
    REQUIRE(verb_permits(session, command));
    return verb_row(command->verb)->handle(session, command);
}

/* A path without brackets is taken (RFC 5321 4.1.1.2 asks for them, old clients forget them). */
static void command_be_lenient(struct smtp_command *command)
{
    if (command->path_bare && command->fault == SMTP_FAULT_ADDRESS && command->path.local.count > 0)
        command->fault = SMTP_FINE;
}

/* What is no command may be anything: a password that came too early, or a body. */
static void session_note_command(struct session *session, const struct smtp_command *command,
                                 struct bytes line)
{
    if (command->verb == SMTP_UNKNOWN || command->verb == SMTP_FOREIGN)
        dialogue_note(&session->dialogue, "no command: a line of %zu octets", line.count);
    else
        dialogue_line(&session->dialogue, DIALOGUE_THEM, line);
}

static void session_command(struct session *session, struct bytes line)
{
    struct smtp_command command = {0};

    smtp_parse_command(&session->transaction_arena, line, &command);
    command_be_lenient(&command);
    session_note_command(session, &command, line);
    session->stage = verb_row(command.verb)->stage;
    session->asked = command.path;
    const struct verdict verdict = session_perform(session, &command);
    if (!verdict_accepts(&verdict))
        session_object(session, &verdict);
    else if (!session->answered && !session->lost)
        session_close_with(session, CAUSE_UNDECIDED);
    session_tidy(session);
}

static void session_turn(struct session *session)
{
    const uint64_t read_before = session->input.bytes_read;
    struct bytes line = BYTES_EMPTY;
    const enum wire_status status = session_next_line(session, &line);
    const struct verdict not_a_command = verdict_with(
        CAUSE_PROTOCOL_UNKNOWN, status == WIRE_TOO_LONG ? BYTES_LITERAL("line too long")
                                                        : BYTES_LITERAL("bare CR, bare LF or NUL"));

    session->answered = false;
    session->replies = 1;
    session->stage = STAGE_NONE;
    session->asked = (struct address){0};
    switch (status) {
    case WIRE_OK:
        session_command(session, line);
        return;
    case WIRE_TOO_LONG:
    case WIRE_MALFORMED:
        session_object(session, &not_a_command);
        return;
    case WIRE_TIMEOUT:
        dialogue_note(&session->dialogue, "nothing came in time");
        session_close_with(session, CAUSE_CLIENT_IDLE);
        return;
    case WIRE_CANCELLED:
        session_close_with(session, CAUSE_SERVER_STOPPING);
        return;
    case WIRE_END:
        /* What was pending before was not counted; it is never more than one buffer. */
        if (session->input.bytes_read - read_before >= WIRE_ENDLESS_BYTES - WIRE_BUFFER_BYTES)
            session_close_with(session, CAUSE_PROTOCOL_ERRORS);
        session->closing = true;
        return;
    case WIRE_FAILED:
        dialogue_note(&session->dialogue, "the connection was lost");
        session->lost = true;
        return;
    }
}

/* ------------------------------------------------------------------ beginning and end */

static void session_open(struct session *session, struct guest *guest)
{
    struct stream *stream = guest->stream;
    const struct config *config = guest->receive->settings.config;

    guest->stream = NULL;
    *session = (struct session){
        .guest = guest,
        .receive = guest->receive,
        .config = config,
        .listen = guest->listen,
        .stream = stream,
        .opened_us = clock_now_us(),
        .ends_us =
            config->limits.session_us ? deadline_in(config->limits.session_us) : DEADLINE_NEVER,
        .state = STATE_FRESH,
        .stage = STAGE_CONNECT,
        .replies = 1,
        .connection_arena = ARENA_WITH_LIMIT(CONNECTION_ARENA_BYTES),
        .transaction_arena = ARENA_WITH_LIMIT(TRANSACTION_ARENA_BYTES),
        .client = {.session = random_u64(),
                   .remote = stream->remote,
                   .local = stream->local,
                   .kind = guest->listen->kind,
                   .may_relay = pickup_owns(guest->receive->pickup, guest->listen)},
    };
    session->client.arena = &session->connection_arena;
    session->peer = stream->remote.ip;
    endpoint_print(&stream->remote, session->client_text, sizeof session->client_text);
    session->dialogue = (struct dialogue){
        .direction = DIALOGUE_IN, .id = session->client.session, .peer = session->client_text};
    dialogue_note(&session->dialogue, "connected to %s", session->listen->name);
    wire_input_open(&session->input, stream);
    metric_add(COUNTER_SESSIONS_IN, 1);
    struct event event = {.kind = EVENT_SESSION_OPEN};
    session_event(session, &event);
}

/*
 * May this client talk to us at all? A 421 is said instead of the banner. Any other objection is
 * kept and told at each MAIL, where it is a legal reply, where the sender is known for the journal,
 * and where a deferral may have passed by then.
 */
struct verdict session_welcome(struct session *session)
{
    const struct verdict spool = spool_admits(session->receive->settings.spool, 0);

    if (!verdict_accepts(&spool) && verdict_closes(&spool))
        return spool;
    if (session->listen->tls == TLS_MODE_IMPLICIT && session->client.tls.count == 0)
        REQUIRE(session_handshake(session));
    REQUIRE(policy_welcome(session->receive->settings.policy, &session->connection_arena,
                           &session->transaction.filter));
    const struct verdict policy =
        policy_connect(session->receive->settings.policy, &session->client);
    if (!verdict_accepts(&policy) && verdict_closes(&policy))
        return policy;
    session->has_standing = !verdict_accepts(&policy);
    session->standing = policy;
    return verdict_accept();
}

static void session_greet(struct session *session)
{
    if (session->listen->proxy && !session_meet_proxy(session)) {
        session->lost = true;
        return;
    }
    const struct verdict verdict = session_welcome(session);

    if (session->lost)
        return;
    if (!verdict_accepts(&verdict)) {
        session_object(session, &verdict);
        session->closing = true;
        return;
    }
    session_say(session, "220 %s %s Holdfast", session->config->hostname,
                session->listen->kind == LISTEN_LMTP ? "LMTP" : "ESMTP");
}

/*
 * Closing while the client still sends makes TCP reset the connection, and the client may never
 * read why. So what it sends is read for a moment, and thrown away.
 */
static void session_farewell(struct session *session)
{
    const uint64_t deadline = deadline_in(FAREWELL_MS * US_PER_MS);
    uint8_t nowhere[512];
    size_t count = 0;

    wire_input_discard(&session->input);
    while (count < FAREWELL_BYTES) {
        const struct io_result read =
            stream_read(session->stream, (struct span){nowhere, sizeof nowhere}, deadline);
        if (read.status != IO_OK)
            return;
        count += read.count;
    }
}

static void session_close(struct session *session)
{
    session_flush(session);
    repeats_note(session);
    if (session->objecting && !session->lost && session->stream)
        session_farewell(session);
    struct event event = {.kind = EVENT_SESSION_CLOSE,
                          .took_us = clock_now_us() - session->opened_us};
    session_event(session, &event);
    transaction_reset(session);
    policy_client_end(&session->client);
    buffer_free(&session->headers);
    dialogue_note(&session->dialogue, "closed");
    dialogue_clear(&session->dialogue);
    arena_clear(&session->transaction_arena);
    arena_clear(&session->connection_arena);
    wire_input_close(&session->input);
    stream_close(session->stream);
    metric_add(COUNTER_SESSIONS_IN, -1);
}

void session_run(struct guest *guest)
{
    struct session session;
    const bool masked = fiber_mask_cancel(true);

    pthread_mutex_lock(&guest->receive->lock);
    guest->fiber = fiber_self();
    pthread_mutex_unlock(&guest->receive->lock);
    session_open(&session, guest);
    session_greet(&session);
    while (!session.lost && !session.closing)
        session_turn(&session);
    session_close(&session);
    receive_leave(guest);
    fiber_mask_cancel(masked);
}

void session_main(void *guest)
{
    session_run(guest);
}
