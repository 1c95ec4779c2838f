/*
 * A command: each recipient is a run of its own, by way of the runner (src/runner), to which this
 * file says whom and what and from which it hears how it ended.
 *
 * Only the exit codes that refuse by name (sysexits.h: EX_DATAERR, EX_NOUSER, EX_NOHOST, EX_NOPERM)
 * are for good; every other one, a signal, a lost runner defers. From the message's last piece to
 * the answer cancellation is masked, as behind the final dot: a command that has begun is waited
 * for, until `give_up` says that the process has to end.
 */
#include "deliver/inside.h"

#include <string.h>
#include <sysexits.h>

#define RUNNER_PATIENCE_US (60 * US_PER_S) /* beyond the command's own time */
#define HEAD_ROOM (16 * KIB)

struct pipe_run {
    struct deliver_channel *channel;
    struct attempt *attempt;
    struct spool_body *body;
    uint32_t position;
    const struct config_pipe *pipe;
    struct stream *stream;
    struct directory_user user;
    struct bytes enhanced; /* of what the command said */
};

/* ------------------------------------------------------------------ what the answer means */

static const struct {
    unsigned code;
    const char *name, *enhanced; /* of those that refuse */
} EXITS[] = {
    {EX_USAGE, "EX_USAGE", NULL},       {EX_DATAERR, "EX_DATAERR", "5.6.0"},
    {EX_NOINPUT, "EX_NOINPUT", NULL},   {EX_NOUSER, "EX_NOUSER", "5.1.1"},
    {EX_NOHOST, "EX_NOHOST", "5.1.2"},  {EX_UNAVAILABLE, "EX_UNAVAILABLE", NULL},
    {EX_SOFTWARE, "EX_SOFTWARE", NULL}, {EX_OSERR, "EX_OSERR", NULL},
    {EX_OSFILE, "EX_OSFILE", NULL},     {EX_CANTCREAT, "EX_CANTCREAT", NULL},
    {EX_IOERR, "EX_IOERR", NULL},       {EX_TEMPFAIL, "EX_TEMPFAIL", NULL},
    {EX_PROTOCOL, "EX_PROTOCOL", NULL}, {EX_NOPERM, "EX_NOPERM", "5.7.0"},
    {EX_CONFIG, "EX_CONFIG", NULL},
};

/* "exit code 67 (EX_NOUSER): " and the first of what it wrote. */
static struct verdict verdict_of_exit(struct pipe_run *run, unsigned code, struct bytes output)
{
    struct arena *arena = run->attempt->arena;
    const char *const colon = output.count > 0 ? ": " : "";
    const char *name = "";

    for (size_t i = 0; i < COUNT_OF(EXITS); i++) {
        if (EXITS[i].code != code)
            continue;
        name = EXITS[i].name;
        if (EXITS[i].enhanced) {
            run->enhanced = bytes_of_text(EXITS[i].enhanced);
            return verdict_with(CAUSE_PIPE_REFUSED,
                                arena_print(arena, "exit code %u (%s)%s%.*s", code, name, colon,
                                            BYTES_PRINT(output)));
        }
    }
    const struct bytes words =
        arena_print(arena, "exit code %u%s%s%s%s%.*s", code, *name ? " (" : "", name,
                    *name ? ")" : "", colon, BYTES_PRINT(output));
    return verdict_with(code == EX_OK ? CAUSE_DELIVERED : CAUSE_PIPE_DEFERRED, words);
}

static struct verdict verdict_of_answer(struct pipe_run *run, const struct pipe_answer *answer)
{
    struct arena *arena = run->attempt->arena;
    const struct bytes output = bytes_trim(bytes_of(answer->output, answer->output_count));
    const char *const colon = output.count > 0 ? ": " : "";
    char limit[64];

    switch ((enum pipe_end)answer->end) {
    case PIPE_EXITED:
        return verdict_of_exit(run, answer->value, output);
    case PIPE_SIGNALLED:
        return verdict_with(CAUSE_PIPE_CRASHED,
                            arena_print(arena, "ended by signal %u (%s)%s%.*s", answer->value,
                                        strsignal((int)answer->value), colon, BYTES_PRINT(output)));
    case PIPE_TIMED_OUT:
        return verdict_with(CAUSE_PIPE_TIMEOUT,
                            arena_print(arena, "ended after %s%s%.*s",
                                        duration_print(run->pipe->timeout_us, limit, sizeof limit),
                                        colon, BYTES_PRINT(output)));
    case PIPE_NOT_STARTED:
        return verdict_with(CAUSE_PIPE_MISCONFIGURED, arena_copy(arena, output));
    case PIPE_UNFIT:
        return verdict_with(CAUSE_PIPE_UNFIT, arena_copy(arena, output));
    case PIPE_BUSY:
        return verdict_with(CAUSE_PIPE_UNAVAILABLE, arena_copy(arena, output));
    case PIPE_END_NONE:
    case PIPE_END_COUNT:
        break;
    }
    return verdict_with(CAUSE_PIPE_INTERRUPTED, BYTES_LITERAL("the runner gave no usable answer"));
}

/* ------------------------------------------------------------------ the request */

static struct verdict unavailable(const struct pipe_run *run, const char *what,
                                  struct io_result result)
{
    if (result.status == IO_CANCELLED)
        return verdict_of(CAUSE_UNDECIDED);
    return verdict_with(CAUSE_PIPE_UNAVAILABLE,
                        arena_print(run->attempt->arena, "the runner of commands: %s: %s", what,
                                    io_result_text(result)));
}

static struct verdict run_write(struct pipe_run *run, struct bytes piece)
{
    const struct io_result sent =
        stream_write(run->stream, piece, deadline_in(run->channel->deliver->timeouts.block_us));

    return sent.status == IO_OK ? verdict_accept() : unavailable(run, "writing", sent);
}

static struct bytes original_of(const struct recipient *recipient, struct arena *arena)
{
    struct bytes type;
    const struct bytes rest = bytes_cut(recipient->original, ';', &type);

    if (rest.count > 0)
        return rest;
    return address_text(arena,
                        address_is_null(recipient->asked) ? recipient->address : recipient->asked);
}

/* "192.0.2.1:4711" and "[2001:db8::1]:4711" without the port. */
static struct bytes client_address(struct bytes client)
{
    const struct bytes host = bytes_slice(client, 0, bytes_find_last_byte(client, ':'));

    return host.count > 2 && host.at[0] == '[' ? bytes_slice(host, 1, host.count - 2) : host;
}

static struct verdict run_ask(struct pipe_run *run)
{
    struct arena *arena = run->attempt->arena;
    const struct envelope *envelope = &run->attempt->message->envelope;
    const struct recipient *recipient = attempt_recipient(run->attempt, run->position);
    char id[ID_TEXT_MAX];
    const struct bytes fields[PIPE_FIELDS] = {
        bytes_of_text(run->pipe->name),
        [1 + PIPE_USER] = run->user.address.local,
        [1 + PIPE_DOMAIN] = run->user.address.domain,
        [1 + PIPE_TAG] = run->user.tag,
        [1 + PIPE_SENDER] = address_text(arena, envelope_return_path(envelope, recipient)),
        [1 + PIPE_RECIPIENT] = address_text(arena, recipient->address),
        [1 + PIPE_ORIGINAL] = original_of(recipient, arena),
        [1 + PIPE_CLIENT] = client_address(envelope->client),
        [1 + PIPE_ID] = bytes_of_text(id_print(run->attempt->message->id, id, sizeof id)),
    };
    struct pipe_request request = {.magic = PIPE_MAGIC};
    struct buffer *out = &run->channel->out;

    buffer_clear(out);
    for (unsigned i = 0; i < PIPE_FIELDS; i++)
        request.counts[i] = (uint32_t)fields[i].count;
    if (!pipe_request_is_sound(&request))
        return verdict_with(CAUSE_PIPE_UNFIT, BYTES_LITERAL("the address is too long"));
    buffer_add(out, bytes_of(&request, sizeof request));
    for (unsigned i = 0; i < PIPE_FIELDS; i++)
        buffer_add(out, fields[i]);
    return out->failed ? verdict_of(CAUSE_LOCAL_FAILED) : run_write(run, buffer_view(out));
}

/* What has gathered in `text`, in pieces that the runner takes. */
static struct verdict run_send_text(struct pipe_run *run, struct buffer *text)
{
    for (struct bytes rest = buffer_view(text); rest.count > 0;) {
        const struct bytes piece = bytes_slice(rest, 0, PIPE_PIECE_MOST);
        const uint32_t count = (uint32_t)piece.count;

        REQUIRE(run_write(run, bytes_of(&count, sizeof count)));
        REQUIRE(run_write(run, piece));
        rest = bytes_skip(rest, piece.count);
    }
    const bool failed = text->failed;
    buffer_clear(text);
    return failed ? verdict_of(CAUSE_LOCAL_FAILED) : verdict_accept();
}

/* "From SENDER Sun Nov 29 20:20:28 2026", as the mbox format has it. */
static void print_from_line(const struct pipe_run *run, struct buffer *out)
{
    const struct envelope *envelope = &run->attempt->message->envelope;
    const struct address sender =
        envelope_return_path(envelope, attempt_recipient(run->attempt, run->position));
    const time_t now = (time_t)(clock_wall_us() / (int64_t)US_PER_S);
    char date[64] = "";
    struct tm parts;

    if (gmtime_r(&now, &parts))
        strftime(date, sizeof date, "%a %b %e %H:%M:%S %Y", &parts);
    buffer_add_text(out, "From ");
    if (address_is_null(sender))
        buffer_add_text(out, "MAILER-DAEMON");
    else
        address_print(out, sender);
    buffer_print(out, " %s\n", date);
}

static struct verdict run_send_message(struct pipe_run *run)
{
    struct buffer *out = &run->channel->out;
    const uint64_t size = spool_body_size(run->body);
    struct line_ends ends = {0};

    buffer_clear(out);
    if (run->pipe->from_line)
        print_from_line(run, out);
    local_head_print(out, run->attempt, run->position);
    for (uint64_t offset = 0; offset < size;) {
        struct bytes piece = BYTES_EMPTY;
        REQUIRE(local_body_read(run->channel, run->body, offset, &piece));
        local_lines_add(&ends, out, piece);
        offset += piece.count;
        REQUIRE(run_send_text(run, out));
    }
    local_lines_end(&ends, out);
    return run_send_text(run, out);
}

/* ------------------------------------------------------------------ the answer */

/* In short pieces, because only `give_up` ends it early. */
static struct verdict run_hear(struct pipe_run *run)
{
    const struct deliver *deliver = run->channel->deliver;
    const uint64_t deadline_us = deadline_in(run->pipe->timeout_us + RUNNER_PATIENCE_US);
    struct pipe_answer answer;

    for (size_t had = 0; had < sizeof answer;) {
        const uint64_t end_us = MIN_OF(deadline_us, deliver->give_up_us);
        const struct io_result got =
            stream_read(run->stream, (struct span){(uint8_t *)&answer + had, sizeof answer - had},
                        MIN_OF(end_us, deadline_in(DELIVER_GIVE_UP_LOOK_US)));
        had += got.status == IO_OK ? got.count : 0;
        if (got.status == IO_OK || (got.status == IO_TIMEOUT && clock_now_us() < end_us))
            continue;
        return verdict_with(CAUSE_PIPE_INTERRUPTED,
                            got.status == IO_TIMEOUT
                                ? BYTES_LITERAL("the server stopped before it had ended")
                                : BYTES_LITERAL("the runner of commands is gone"));
    }
    if (!pipe_answer_is_sound(&answer))
        answer.end = PIPE_END_NONE;
    return verdict_of_answer(run, &answer);
}

static struct verdict run_begun(struct pipe_run *run)
{
    const uint32_t end = 0;
    const bool masked = fiber_mask_cancel(true);
    const struct verdict ended = run_write(run, bytes_of(&end, sizeof end));
    const struct verdict heard = verdict_accepts(&ended) ? run_hear(run) : ended;

    fiber_mask_cancel(masked);
    return heard;
}

static struct verdict run_whole(struct pipe_run *run)
{
    const struct deliver *deliver = run->channel->deliver;
    const struct recipient *recipient = attempt_recipient(run->attempt, run->position);
    const bool by_alias = recipient->deliver.count > 0;

    if (by_alias) /* a name of its own, no user's */
        run->user = (struct directory_user){.address = recipient->address};
    else
        REQUIRE(local_user_find(run->channel, run->attempt, run->position, &run->user));
    if (deliver->runner.family == ENDPOINT_NONE)
        return verdict_with(CAUSE_PIPE_UNAVAILABLE,
                            BYTES_LITERAL("there is no runner of commands"));
    const struct io_result dialled = stream_dial(
        &deliver->runner, NULL, deadline_in(deliver->timeouts.connect_us), &run->stream);
    if (dialled.status != IO_OK)
        return unavailable(run, "connecting", dialled);
    REQUIRE(run_ask(run));
    REQUIRE(run_send_message(run));
    return run_begun(run);
}

static void run_one(struct pipe_run *run)
{
    struct outcome *outcome = &run->attempt->outcomes[run->position];

    run->enhanced = BYTES_EMPTY;
    *outcome = outcome_of_verdict(run->channel, STAGE_MAILBOX, run_whole(run));
    outcome->reply = outcome->verdict.detail;
    outcome->enhanced = run->enhanced;
    stream_close(run->stream);
    run->stream = NULL;
}

void pipe_attempt(struct deliver_channel *channel, struct attempt *attempt)
{
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    struct pipe_run run = {.channel = channel, .attempt = attempt};
    const struct bytes name = channel->to.via ? channel->to.via->target : BYTES_EMPTY;

    snprintf(channel->host, sizeof channel->host, "pipe:%.*s", BYTES_PRINT(name));
    run.pipe = config_find_pipe(channel->deliver->config, name);
    if (!run.pipe) {
        attempt_fill(attempt, outcome_of_verdict(channel, STAGE_MAILBOX,
                                                 verdict_of(CAUSE_PIPE_MISCONFIGURED)));
        return;
    }
    const struct verdict opened =
        spool_body_open(channel->deliver->spool, attempt->message->id, &body);
    if (!verdict_accepts(&opened)) {
        attempt_fill(attempt, outcome_of_verdict(channel, STAGE_COMMIT, opened));
        return;
    }
    run.body = body;
    for (uint32_t i = 0; i < attempt->recipient_count && !fiber_cancelled(); i++) {
        run.position = i;
        run_one(&run);
    }
}
