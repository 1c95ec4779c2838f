/*
 * The client of spamd (SpamAssassin's spamd/PROTOCOL): HEADERS and PING of SPAMC/1.5.
 *
 * Judged means: the whole message went out, and then one whole answer came back that says EX_OK,
 * has its Spam field, and holds as many octets as it announces. Every other way out is a fault with
 * a name.
 */
#include "wire/spamd.h"

#include <errno.h>
#include <string.h>

#include "wire/filter.h"

enum {
    CHUNK_BYTES = 65536,
    ANSWER_MAX = 1024 * 1024, /* the header of the message comes back in it */
    READ_BYTES = 16 * 1024,
    HEADERS_MAX = 64 * 1024, /* of its X-Spam-* fields */
};

static struct spamd_verdict failed(enum filter_fault fault, struct bytes words)
{
    return (struct spamd_verdict){.fault = fault, .words = words};
}

static struct spamd_verdict failed_io(struct arena *arena, struct io_result result,
                                      enum filter_fault otherwise)
{
    return failed(filter_fault_of(result, otherwise),
                  arena_print(arena, "%s", io_result_text(result)));
}

static struct spamd_verdict garbled(struct arena *arena, const char *what, struct bytes answer)
{
    const struct bytes shown = filter_safe_copy(arena, answer, 120);

    return failed(FILTER_FAULT_GARBLED,
                  arena_print(arena, "%s: \"%.*s\"", what, BYTES_PRINT(shown)));
}

/* ------------------------------------------------------------------ the answer */

struct answer {
    uint64_t code;      /* of sysexits.h */
    struct bytes words; /* behind the code */
    struct bytes spam;  /* the value of its Spam field */
    struct bytes body;
    uint64_t length; /* as announced */
    bool has_spam, has_length;
};

static struct bytes next_line(struct bytes text, struct bytes *line)
{
    const struct bytes rest = bytes_cut(text, '\n', line);

    *line = bytes_trim(*line);
    return rest;
}

/* "SPAMD/1.1 0 EX_OK" */
static bool status_parse(struct bytes line, struct answer *answer)
{
    struct bytes word;

    if (!bytes_starts_with(line, BYTES_LITERAL("SPAMD/")))
        return false;
    line = bytes_cut(line, ' ', &word);
    line = bytes_cut(line, ' ', &word);
    answer->words = bytes_trim(line);
    return bytes_to_u64(word, &answer->code) && answer->words.count > 0;
}

static bool field_parse(struct bytes line, struct answer *answer)
{
    struct bytes name;
    const struct bytes value = bytes_trim(bytes_cut(line, ':', &name));

    if (name.count == line.count)
        return false;
    if (bytes_equal_text_nocase(name, "Content-length")) {
        answer->has_length = !answer->has_length && bytes_to_u64(value, &answer->length);
        return answer->has_length;
    }
    if (bytes_equal_text_nocase(name, "Spam")) {
        answer->spam = value;
        answer->has_spam = true;
    }
    return true;
}

/* True: status and fields are complete. A refusal may be its status line alone. */
static bool answer_split(struct bytes whole, struct answer *answer)
{
    struct bytes line, rest = next_line(whole, &line);

    *answer = (struct answer){0};
    if (bytes_find_byte(whole, '\n') == whole.count || !status_parse(line, answer))
        return false;
    while (rest.count > 0) {
        if (bytes_find_byte(rest, '\n') == rest.count)
            return false;
        rest = next_line(rest, &line);
        if (line.count == 0) {
            answer->body = rest;
            return true;
        }
        if (!field_parse(line, answer))
            return false;
    }
    return answer->code != 0;
}

/* Not strtod, which knows more than decimals: "-12.3". */
static bool score_parse(struct bytes text, double *score)
{
    const bool negative = text.count > 0 && text.at[0] == '-';
    double value = 0, unit = 1;
    unsigned digits = 0;
    bool fraction = false;

    for (size_t i = negative; i < text.count; i++) {
        if (text.at[i] == '.' && !fraction && digits > 0) {
            fraction = true;
            continue;
        }
        if (!ascii_is_digit(text.at[i]) || ++digits > 15)
            return false;
        value = value * 10 + (text.at[i] - '0');
        unit = fraction ? unit * 10 : unit;
    }
    *score = (negative ? -value : value) / unit;
    return digits > 0;
}

/* "True ; 15.4 / 5.0" */
static bool spam_parse(struct bytes value, struct spamd_verdict *verdict)
{
    struct bytes word, score;
    const struct bytes numbers = bytes_cut(value, ';', &word);
    const struct bytes threshold = bytes_trim(bytes_cut(numbers, '/', &score));

    word = bytes_trim(word);
    verdict->is_spam =
        bytes_equal_text_nocase(word, "True") || bytes_equal_text_nocase(word, "Yes");
    if (!verdict->is_spam && !bytes_equal_text_nocase(word, "False") &&
        !bytes_equal_text_nocase(word, "No"))
        return false;
    return score_parse(bytes_trim(score), &verdict->score) &&
           score_parse(threshold, &verdict->threshold);
}

/* Its own fields of the header that came back, with CR LF whatever they had. */
static struct bytes spam_fields(struct arena *arena, struct bytes header)
{
    CLEANUP(buffer_free) struct buffer fields = BUFFER_WITH_LIMIT(HEADERS_MAX);
    struct header_walk walk = HEADER_WALK_OF(header);
    struct header_field field;

    while (header_next(&walk, &field)) {
        if (!bytes_starts_with_nocase(field.name, BYTES_LITERAL("X-Spam-")))
            continue;
        for (size_t i = 0; i < field.whole.count; i++) {
            if (field.whole.at[i] == '\n')
                buffer_add_byte(&fields, '\r');
            if (field.whole.at[i] != '\r' && field.whole.at[i] != 0)
                buffer_add_byte(&fields, field.whole.at[i]);
        }
    }
    return fields.failed ? BYTES_EMPTY : arena_copy(arena, buffer_view(&fields));
}

/* Codes of sysexits.h: what to wait for, and what only the operator can mend. */
static enum filter_fault code_fault(uint64_t code)
{
    enum { EX_USAGE = 64, EX_UNAVAILABLE = 69, EX_TEMPFAIL = 75, EX_TIMEOUT = 79 };

    if (code == EX_TEMPFAIL || code == EX_UNAVAILABLE)
        return FILTER_FAULT_OVERLOADED;
    if (code == EX_TIMEOUT)
        return FILTER_FAULT_TIMEOUT;
    return code >= EX_USAGE ? FILTER_FAULT_MISCONFIGURED : FILTER_FAULT_GARBLED;
}

struct spamd_verdict spamd_parse_answer(struct arena *arena, struct bytes whole)
{
    struct answer answer;
    struct spamd_verdict verdict = {.result = SPAMD_JUDGED};

    if (!answer_split(whole, &answer))
        return garbled(arena, "no whole answer", whole);
    if (answer.code != 0)
        return failed(code_fault(answer.code), filter_safe_copy(arena, answer.words, 200));
    if (!answer.has_length || answer.length != answer.body.count)
        return garbled(arena, "an answer cut short", whole);
    if (!answer.has_spam || !spam_parse(answer.spam, &verdict))
        return garbled(arena, "an answer without score", whole);
    verdict.words = filter_safe_copy(arena, answer.spam, 120);
    verdict.headers = spam_fields(arena, answer.body);
    return verdict;
}

/* ------------------------------------------------------------------ talking */

struct spamd_talk {
    struct arena *arena;
    struct stream *stream;
    uint64_t deadline_us;
    struct spamd_verdict why; /* with false */
};

static bool say(struct spamd_talk *talk, struct bytes words)
{
    const struct io_result sent = stream_write(talk->stream, words, talk->deadline_us);

    if (sent.status != IO_OK)
        talk->why = failed_io(talk->arena, sent, FILTER_FAULT_CRASHED);
    return sent.status == IO_OK;
}

static bool send_body(struct spamd_talk *talk, const struct message_source *message,
                      struct span memory)
{
    for (uint64_t offset = 0; offset < message->size_bytes; offset += CHUNK_BYTES) {
        const struct span piece = {
            memory.at, (size_t)MIN_OF(message->size_bytes - offset, (uint64_t)CHUNK_BYTES)};
        const struct io_result got = filter_read_whole(message, piece, offset);

        if (got.status != IO_OK) {
            talk->why = failed(FILTER_FAULT_LOCAL, BYTES_LITERAL("the message cannot be read"));
            return false;
        }
        if (!say(talk, bytes_of(piece.at, piece.count)))
            return false;
    }
    return true;
}

/* The answer ends with the stream, or where its length says. */
static bool answer_is_whole(struct bytes sofar)
{
    struct answer answer;

    return answer_split(sofar, &answer) && answer.has_length && answer.body.count >= answer.length;
}

static bool read_answer(struct spamd_talk *talk, struct buffer *answer)
{
    while (!answer_is_whole(buffer_view(answer))) {
        uint8_t *room = buffer_reserve(answer, READ_BYTES);
        if (!room) {
            talk->why = garbled(talk->arena, "an answer without end", buffer_view(answer));
            return false;
        }
        const struct io_result got =
            stream_read(talk->stream, (struct span){room, READ_BYTES}, talk->deadline_us);
        if (got.status == IO_END && answer->count > 0)
            return true;
        if (got.status != IO_OK) {
            talk->why = failed_io(talk->arena, got, FILTER_FAULT_CRASHED);
            if (answer->count > 0 && talk->why.fault == FILTER_FAULT_CRASHED)
                talk->why = garbled(talk->arena, "half an answer", buffer_view(answer));
            return false;
        }
        buffer_claim(answer, got.count);
    }
    return true;
}

static struct spamd_verdict scan_with(struct spamd_talk *talk, const struct message_source *message,
                                      struct span memory)
{
    CLEANUP(buffer_free) struct buffer answer = BUFFER_WITH_LIMIT(ANSWER_MAX);
    const int count = snprintf((char *)memory.at, memory.count,
                               "HEADERS SPAMC/1.5\r\nContent-length: %llu\r\n\r\n",
                               (unsigned long long)message->size_bytes);
    const bool sent =
        say(talk, bytes_of(memory.at, (size_t)count)) && send_body(talk, message, memory);

    /* It closed while we sent: perhaps it has said why. An answer to half a message is none. */
    if (!sent && talk->why.fault != FILTER_FAULT_CRASHED)
        return talk->why;
    const struct spamd_verdict closed = talk->why;
    if (!read_answer(talk, &answer)) {
        talk->why.awaited = talk->why.fault == FILTER_FAULT_TIMEOUT && answer.count == 0;
        return sent ? talk->why : closed;
    }
    const struct spamd_verdict verdict = spamd_parse_answer(talk->arena, buffer_view(&answer));
    if (!sent && verdict.result == SPAMD_JUDGED)
        return garbled(talk->arena, "an answer before the end", buffer_view(&answer));
    return verdict;
}

struct spamd_verdict spamd_talk_scan(struct arena *arena, struct stream *stream,
                                     const struct message_source *message, uint64_t deadline_us)
{
    struct spamd_talk talk = {.arena = arena, .stream = stream, .deadline_us = deadline_us};
    const struct span memory = {malloc(CHUNK_BYTES), CHUNK_BYTES};

    if (!memory.at)
        return failed(FILTER_FAULT_LOCAL, BYTES_LITERAL("out of memory"));
    const struct spamd_verdict verdict = scan_with(&talk, message, memory);
    free(memory.at);
    return verdict;
}

struct spamd_verdict spamd_talk_ping(struct arena *arena, struct stream *stream,
                                     uint64_t deadline_us)
{
    struct spamd_talk talk = {.arena = arena, .stream = stream, .deadline_us = deadline_us};
    CLEANUP(buffer_free) struct buffer answer = BUFFER_WITH_LIMIT(ANSWER_MAX);
    struct answer split;

    if (!say(&talk, BYTES_LITERAL("PING SPAMC/1.5\r\n\r\n")) || !read_answer(&talk, &answer))
        return talk.why;
    struct bytes line;
    const struct bytes rest = next_line(buffer_view(&answer), &line);
    if (rest.count > 0 || !status_parse(line, &split) || split.code != 0 ||
        !bytes_equal_text(split.words, "PONG"))
        return garbled(arena, "answered", buffer_view(&answer));
    return (struct spamd_verdict){.result = SPAMD_JUDGED};
}

/* ------------------------------------------------------------------ with the connection */

static struct spamd_verdict dial(struct arena *arena, const struct endpoint *at,
                                 uint64_t connect_us, struct stream **stream)
{
    const struct io_result dialled = stream_dial(at, NULL, connect_us, stream);

    if (dialled.status == IO_OK)
        return (struct spamd_verdict){.result = SPAMD_JUDGED};
    return failed(filter_dial_fault(dialled), arena_print(arena, "%s", io_result_text(dialled)));
}

struct spamd_verdict spamd_scan(struct arena *arena, const struct endpoint *at,
                                const struct message_source *message,
                                struct filter_deadlines deadlines, struct stream **late)
{
    CLEANUP(stream_close_ptr) struct stream *stream = NULL;
    const struct spamd_verdict dialled = dial(arena, at, deadlines.connect_us, &stream);

    if (dialled.result != SPAMD_JUDGED)
        return dialled;
    const struct spamd_verdict verdict = spamd_talk_scan(arena, stream, message, deadlines.done_us);
    if (late && verdict.awaited) {
        *late = stream;
        stream = NULL;
    }
    return verdict;
}

struct spamd_verdict spamd_listen(struct arena *arena, struct stream *late, uint64_t deadline_us)
{
    CLEANUP(buffer_free) struct buffer answer = BUFFER_WITH_LIMIT(ANSWER_MAX);
    struct spamd_talk talk = {.arena = arena, .stream = late, .deadline_us = deadline_us};

    if (!read_answer(&talk, &answer))
        return talk.why;
    return spamd_parse_answer(arena, buffer_view(&answer));
}

struct spamd_verdict spamd_ping(struct arena *arena, const struct endpoint *at,
                                struct filter_deadlines deadlines)
{
    CLEANUP(stream_close_ptr) struct stream *stream = NULL;
    const struct spamd_verdict dialled = dial(arena, at, deadlines.connect_us, &stream);

    if (dialled.result != SPAMD_JUDGED)
        return dialled;
    return spamd_talk_ping(arena, stream, deadlines.done_us);
}
