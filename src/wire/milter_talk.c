/*
 * The talk with a milter: negotiation, then one command after the other, each answered, unless the
 * milter wants it neither said nor answered.
 */
#include "wire/milter.h"

#include <string.h>

#include "wire/filter.h"

enum { QUIT_MS = 200, ASKED_BYTES = 64 * 1024, OUT_BYTES = 4 * 1024 * 1024 };

/* ------------------------------------------------------------------ what stands */

static void keep(struct milter_verdict *place, char *words, const struct milter_verdict *verdict)
{
    const size_t count = MIN_OF(verdict->words.count, sizeof((struct milter *)0)->message_words);

    if (count > 0)
        memcpy(words, verdict->words.at, count);
    *place = *verdict;
    place->words = bytes_of(words, count);
}

void milter_keep_message(struct milter *milter, const struct milter_verdict *verdict)
{
    if (verdict->answer == MILTER_SHUTDOWN) /* about the session, whenever it is said */
        keep(&milter->session, milter->session_words, verdict);
    else
        keep(&milter->message, milter->message_words, verdict);
}

static struct milter_verdict told_again(const struct milter_verdict *kept,
                                        const struct milter_call *call)
{
    struct milter_verdict verdict = *kept;

    verdict.words = arena_copy(call->arena, kept->words);
    return verdict;
}

struct milter_verdict milter_standing(const struct milter *milter, const struct milter_call *call)
{
    const struct milter_verdict *const order[] = {&milter->failed, &milter->session,
                                                  &milter->greeting, &milter->message};

    for (size_t i = 0; i < COUNT_OF(order); i++)
        if (order[i]->answer != MILTER_CONTINUE)
            return told_again(order[i], call);
    return milter_verdict_of(MILTER_CONTINUE);
}

/* ------------------------------------------------------------------ answers */

struct milter_verdict milter_answer(struct milter *milter, const struct milter_call *call,
                                    bool *skip)
{
    struct milter_packet packet = {0};
    struct milter_verdict verdict = milter_send(milter, call);

    if (verdict.answer == MILTER_CONTINUE)
        verdict = milter_receive(milter, call, &packet);
    if (verdict.answer != MILTER_CONTINUE)
        return verdict;
    if (skip && packet.kind == MILTER_SAYS_SKIP) {
        *skip = true;
        return verdict;
    }
    if (packet.kind == MILTER_SAYS_CONNECTION_FAILED)
        return milter_fail(milter, FILTER_FAULT_OVERLOADED,
                           BYTES_LITERAL("it takes no connection now"));
    if (!milter_parse_answer(call->arena, &packet, &verdict))
        return milter_garbled(milter, call, "not an answer", &packet);
    return verdict;
}

/* How a command is treated; zero flags: always said, always answered. */
struct step {
    uint8_t command;
    enum milter_stage stage;
    uint32_t leave_out, mute;
    uint32_t since; /* version */
};

static void put_abort(struct milter *milter)
{
    if (milter->abort_due)
        milter_put(milter, 'A', BYTES_EMPTY);
    milter->abort_due = false;
}

/* The macros and the command go to `out`; false when the milter does not want it. */
static bool step_put(struct milter *milter, const struct milter_call *call, const struct step *step)
{
    if ((milter->steps & step->leave_out) || milter->version < step->since)
        return false;
    put_abort(milter);
    milter_put_macros(milter, call, step->stage, step->command);
    return true;
}

/* The command itself is in `out` by now. */
static struct milter_verdict step_answer(struct milter *milter, const struct milter_call *call,
                                         const struct step *step)
{
    if (milter->steps & step->mute)
        return milter_send(milter, call);
    return milter_answer(milter, call, NULL);
}

static struct milter_verdict step_say(struct milter *milter, const struct milter_call *call,
                                      const struct step *step, const struct bytes *texts,
                                      unsigned count)
{
    if (!step_put(milter, call, step))
        return milter_verdict_of(MILTER_CONTINUE);
    if (milter_out_of_step(milter))
        return milter_garbled(milter, call, "spoke without being asked", NULL);
    milter_put_texts(milter, step->command, texts, count);
    return step_answer(milter, call, step);
}

/* SHUTDOWN is about the session, whenever it is said. */
static void keep_if_final(struct milter *milter, const struct milter_verdict *verdict,
                          struct milter_verdict *place, char *words)
{
    if (verdict->answer == MILTER_SHUTDOWN)
        keep(&milter->session, milter->session_words, verdict);
    else if (verdict->answer != MILTER_FAILED)
        keep(place, words, verdict);
}

/* ------------------------------------------------------------------ the session */

static void session_forget(struct milter *milter)
{
    milter_abort(milter);
    milter->session = milter->greeting = milter_verdict_of(MILTER_CONTINUE);
}

/* Family, port, address: libmilter's dec_arg of SMFIC_CONNECT. */
static void put_connect(struct milter *milter, const struct milter_client *client)
{
    const struct endpoint *remote = client->remote;
    struct buffer data = BUFFER_WITH_LIMIT(4096);
    char text[ENDPOINT_TEXT_MAX];
    const bool is_ip = remote->family == ENDPOINT_IPV4 || remote->family == ENDPOINT_IPV6;

    if (is_ip)
        ip_print(&remote->ip, text, sizeof text);
    else
        snprintf(text, sizeof text, "%s", remote->family == ENDPOINT_UNIX ? remote->path : "");
    if (client->name.count > 0)
        buffer_add(&data, bytes_slice(client->name, 0, MAIL_DOMAIN_MAX));
    else
        buffer_print(&data, is_ip ? "[%s]" : "localhost", text);
    buffer_add_byte(&data, 0);
    if (is_ip || remote->family == ENDPOINT_UNIX) {
        buffer_add_byte(&data, remote->family == ENDPOINT_IPV4   ? '4'
                               : remote->family == ENDPOINT_IPV6 ? '6'
                                                                 : 'L');
        buffer_add_u16(&data, is_ip ? remote->port : 0);
        buffer_add_text(&data, text);
        buffer_add_byte(&data, 0);
    } else {
        buffer_add_byte(&data, 'U');
    }
    milter_put(milter, 'C', buffer_view(&data));
    milter->out.failed = milter->out.failed || data.failed;
    buffer_free(&data);
}

struct milter_verdict milter_connect(struct milter *milter, const struct milter_call *call,
                                     const struct milter_client *client)
{
    static const struct step step = {'C', MILTER_AT_CONNECT, MILTER_NO_CONNECT, MILTER_MUTE_CONNECT,
                                     0};

    session_forget(milter);
    if (milter->failed.answer != MILTER_CONTINUE || !step_put(milter, call, &step))
        return milter_standing(milter, call);
    put_connect(milter, client);
    const struct milter_verdict verdict = step_answer(milter, call, &step);
    keep_if_final(milter, &verdict, &milter->session, milter->session_words);
    return verdict;
}

struct milter_verdict milter_helo(struct milter *milter, const struct milter_call *call,
                                  struct bytes name)
{
    static const struct step step = {'H', MILTER_AT_HELO, MILTER_NO_HELO, MILTER_MUTE_HELO, 0};

    milter_abort(milter);
    milter->greeting = milter_verdict_of(MILTER_CONTINUE);
    const struct milter_verdict standing = milter_standing(milter, call);
    if (standing.answer != MILTER_CONTINUE)
        return standing;
    const struct milter_verdict verdict = step_say(milter, call, &step, &name, 1);
    keep_if_final(milter, &verdict, &milter->greeting, milter->greeting_words);
    return verdict;
}

struct milter_verdict milter_unknown(struct milter *milter, const struct milter_call *call,
                                     struct bytes line)
{
    static const struct step step = {'U', MILTER_AT_NONE, MILTER_NO_UNKNOWN, MILTER_MUTE_UNKNOWN,
                                     3};
    const struct milter_verdict standing = milter_standing(milter, call);

    if (standing.answer != MILTER_CONTINUE)
        return standing;
    return step_say(milter, call, &step, &line, 1);
}

/* ------------------------------------------------------------------ the envelope */

enum { PARAMETERS_MAX = 32 };

static struct milter_verdict path_say(struct milter *milter, const struct milter_call *call,
                                      const struct step *step, const struct milter_path *path)
{
    struct bytes texts[PARAMETERS_MAX + 1] = {path->path};
    const unsigned count = MIN_OF(path->parameter_count, (unsigned)PARAMETERS_MAX);

    for (unsigned i = 0; i < count; i++)
        texts[i + 1] = path->parameters[i];
    return step_say(milter, call, step, texts, count + 1);
}

struct milter_verdict milter_mail(struct milter *milter, const struct milter_call *call,
                                  const struct milter_path *from)
{
    static const struct step step = {'M', MILTER_AT_MAIL, MILTER_NO_MAIL, MILTER_MUTE_MAIL, 0};

    milter_abort(milter);
    const struct milter_verdict standing = milter_standing(milter, call);
    if (standing.answer != MILTER_CONTINUE)
        return standing;
    milter->in_message = true;
    const struct milter_verdict verdict = path_say(milter, call, &step, from);
    keep_if_final(milter, &verdict, &milter->message, milter->message_words);
    return verdict;
}

/* Only ACCEPT and DISCARD go beyond this recipient. */
struct milter_verdict milter_rcpt(struct milter *milter, const struct milter_call *call,
                                  const struct milter_path *to)
{
    static const struct step step = {'R', MILTER_AT_RCPT, MILTER_NO_RCPT, MILTER_MUTE_RCPT, 0};
    const struct milter_verdict standing = milter_standing(milter, call);

    if (standing.answer != MILTER_CONTINUE)
        return standing;
    const struct milter_verdict verdict = path_say(milter, call, &step, to);
    if (verdict.answer == MILTER_ACCEPT || verdict.answer == MILTER_DISCARD ||
        verdict.answer == MILTER_SHUTDOWN)
        keep_if_final(milter, &verdict, &milter->message, milter->message_words);
    return verdict;
}

struct milter_verdict milter_data(struct milter *milter, const struct milter_call *call)
{
    static const struct step step = {'T', MILTER_AT_DATA, MILTER_NO_DATA, MILTER_MUTE_DATA, 4};
    const struct milter_verdict standing = milter_standing(milter, call);

    if (standing.answer != MILTER_CONTINUE)
        return standing;
    const struct milter_verdict verdict = step_say(milter, call, &step, NULL, 0);
    keep_if_final(milter, &verdict, &milter->message, milter->message_words);
    return verdict;
}

void milter_abort(struct milter *milter)
{
    milter->abort_due = milter->abort_due || milter->in_message;
    milter->in_message = false;
    milter->message = milter_verdict_of(MILTER_CONTINUE);
}

/* ------------------------------------------------------------------ open and close */

/* Lists of macros: a step, then their names. False when it is malformed. */
static bool take_macro_lists(struct milter *milter, struct reader *reader)
{
    while (!reader->failed && !reader_at_end(reader)) {
        const uint32_t stage = reader_u32(reader);
        const struct bytes names = reader_until(reader, 0);
        if (reader->failed || stage >= MILTER_STAGES)
            return false;
        milter->chose_macros[stage] = true;
        milter->macros[stage] = arena_copy(&milter->arena, names);
    }
    return !reader->failed && !milter->arena.failed;
}

static struct milter_verdict take_options(struct milter *milter, const struct milter_call *call,
                                          const struct milter_packet *packet)
{
    struct reader reader = READER_OF(packet->data);

    milter->version = reader_u32(&reader);
    milter->actions = reader_u32(&reader);
    milter->steps = reader_u32(&reader);
    if (packet->kind != MILTER_SAYS_OPTIONS || reader.failed || !take_macro_lists(milter, &reader))
        return milter_garbled(milter, call, "a malformed negotiation", packet);
    if (milter->version < MILTER_VERSION_LEAST || milter->version > MILTER_VERSION)
        return milter_fail(
            milter, FILTER_FAULT_MISCONFIGURED,
            arena_print(call->arena, "it speaks version %u of the protocol", milter->version));
    if ((milter->actions & ~(uint32_t)MILTER_ACTIONS_ALL) ||
        (milter->steps & ~(uint32_t)MILTER_STEPS_ALL))
        return milter_fail(milter, FILTER_FAULT_MISCONFIGURED,
                           arena_print(call->arena, "it asks for what is not offered: %#x, %#x",
                                       milter->actions, milter->steps));
    return milter_verdict_of(MILTER_CONTINUE);
}

static struct milter_verdict negotiate(struct milter *milter, const struct milter_call *call)
{
    struct milter_packet packet;
    CLEANUP(buffer_free) struct buffer offer = BUFFER_WITH_LIMIT(64);

    buffer_add_u32(&offer, MILTER_VERSION);
    buffer_add_u32(&offer, MILTER_ACTIONS_ALL);
    buffer_add_u32(&offer, MILTER_STEPS_ALL);
    milter_put(milter, 'O', buffer_view(&offer));
    milter->out.failed = milter->out.failed || offer.failed;
    struct milter_verdict verdict = milter_send(milter, call);
    if (verdict.answer == MILTER_CONTINUE)
        verdict = milter_receive(milter, call, &packet);
    return verdict.answer == MILTER_CONTINUE ? take_options(milter, call, &packet) : verdict;
}

struct milter_verdict milter_open_stream(struct stream *stream, const struct milter_call *call,
                                         struct milter **milter)
{
    struct milter *opened = calloc(1, sizeof *opened);
    const struct milter_verdict fine = milter_verdict_of(MILTER_CONTINUE);

    *milter = NULL;
    if (!opened) {
        stream_close(stream);
        return (struct milter_verdict){.fault = FILTER_FAULT_LOCAL,
                                       .words = BYTES_LITERAL("out of memory")};
    }
    *opened = (struct milter){.stream = stream,
                              .out = BUFFER_WITH_LIMIT(OUT_BYTES),
                              .in = BUFFER_WITH_LIMIT(MILTER_PACKET_MAX + 16 * KIB),
                              .arena = ARENA_WITH_LIMIT(ASKED_BYTES),
                              .failed = fine,
                              .session = fine,
                              .greeting = fine,
                              .message = fine};
    const struct milter_verdict verdict = negotiate(opened, call);
    if (verdict.answer == MILTER_CONTINUE)
        *milter = opened;
    else
        milter_close(&opened);
    return verdict;
}

struct milter_verdict milter_open(const struct endpoint *at, uint64_t connect_us,
                                  const struct milter_call *call, struct milter **milter)
{
    struct stream *stream = NULL;
    const struct io_result dialled =
        stream_dial(at, NULL, MIN_OF(connect_us, call->deadline_us), &stream);

    *milter = NULL;
    if (dialled.status != IO_OK)
        return (struct milter_verdict){.fault = filter_dial_fault(dialled),
                                       .words =
                                           arena_print(call->arena, "%s", io_result_text(dialled))};
    return milter_open_stream(stream, call, milter);
}

/* One packet, as far as it goes out at once. */
static bool say_farewell(struct milter *milter, uint8_t command)
{
    if (milter->failed.answer != MILTER_CONTINUE || milter->out.failed)
        return false;
    put_abort(milter);
    milter_put(milter, command, BYTES_EMPTY);
    const struct io_result sent =
        stream_write(milter->stream, buffer_view(&milter->out), deadline_in(QUIT_MS * US_PER_MS));
    buffer_free(&milter->out);
    return sent.status == IO_OK;
}

bool milter_end_session(struct milter *milter)
{
    milter_abort(milter);
    if (milter->version < MILTER_VERSION || milter_out_of_step(milter) ||
        !say_farewell(milter, 'K'))
        return false;
    session_forget(milter);
    buffer_free(&milter->in);
    return true;
}

void milter_close(struct milter **milter)
{
    struct milter *closed = *milter;

    *milter = NULL;
    if (!closed)
        return;
    milter_abort(closed);
    if (closed->version != 0 && !say_farewell(closed, 'Q'))
        stream_reset(closed->stream);
    else
        stream_close(closed->stream);
    buffer_free(&closed->out);
    buffer_free(&closed->in);
    arena_clear(&closed->arena);
    free(closed);
}
