/*
 * The client of Dovecot's auth socket (its authentication protocol 1.1 and later): a line a
 * message, fields parted by tabs.
 *
 * One connection an attempt. Denied means: Dovecot said FAIL about our request and did not call it
 * temporary. Every other way out than OK, CONT or that is a fault, and so is an answer to another
 * request. Sleeps: on the socket.
 */
#include "wire/dovecot_auth.h"

#include <unistd.h>

enum { LINE_MAX = 8192, LINES_MAX = 256, REQUEST = 1 };

struct dovecot_auth {
    struct stream *stream;
    uint64_t deadline_us;
    struct buffer in;
    size_t taken; /* of `in`: the lines that were given out */
};

static struct dovecot_answer failed(struct arena *arena, const char *what)
{
    return (struct dovecot_answer){.result = DOVECOT_FAILED,
                                   .words = arena_print(arena, "%s", what)};
}

/* ------------------------------------------------------------------ lines */

/* NULL, or why there is no line. The view lives until the next call. */
static const char *read_line(struct dovecot_auth *auth, struct bytes *line)
{
    buffer_drop_front(&auth->in, auth->taken);
    auth->taken = 0;
    for (;;) {
        const struct bytes have = buffer_view(&auth->in);
        const size_t end = bytes_find_byte(have, '\n');
        uint8_t *room;

        if (end < have.count) {
            *line = bytes_slice(have, 0, end);
            auth->taken = end + 1;
            return NULL;
        }
        if (have.count >= LINE_MAX || !(room = buffer_reserve(&auth->in, 1024)))
            return "a line of the answer is too long";
        const struct io_result got =
            stream_read(auth->stream, (struct span){room, 1024}, auth->deadline_us);
        if (got.status != IO_OK)
            return got.status == IO_END ? "it closed the connection" : io_result_text(got);
        buffer_claim(&auth->in, got.count);
    }
}

static bool is_line(struct bytes line, const char *word)
{
    struct bytes first;

    bytes_cut(line, '\t', &first);
    return bytes_equal_text(first, word);
}

/* Does the greeting name a version that we speak? Others are allowed to add fields and words. */
static const char *read_greeting(struct dovecot_auth *auth)
{
    bool version = false;

    for (unsigned i = 0; i < LINES_MAX; i++) {
        struct bytes line;
        const char *wrong = read_line(auth, &line);

        if (wrong)
            return wrong;
        if (is_line(line, "VERSION")) {
            version = bytes_starts_with(line, BYTES_LITERAL("VERSION\t1\t"));
            if (!version)
                return "it speaks another version of the protocol";
        }
        if (is_line(line, "DONE"))
            return version ? NULL : "it named no version";
    }
    return "its greeting does not end";
}

/* ------------------------------------------------------------------ answers */

/* The value of "name=value" among the fields, or "" for a bare "name"; false when it is not there.
 */
static bool field_find(struct bytes fields, const char *name, struct bytes *value)
{
    while (fields.count > 0) {
        struct bytes field, key;

        fields = bytes_cut(fields, '\t', &field);
        *value = bytes_cut(field, '=', &key);
        if (bytes_equal_text(key, name))
            return true;
    }
    return false;
}

static bool is_temporary(struct bytes fields)
{
    struct bytes value;

    if (field_find(fields, "temp", &value))
        return true;
    return field_find(fields, "code", &value) && bytes_equal_text(value, "temp_fail");
}

/* A line about our request, or NULL in `result` when it is about something else. */
static bool judge_line(struct arena *arena, struct bytes line, struct dovecot_answer *answer)
{
    struct bytes word, id, value;
    struct bytes rest = bytes_cut(line, '\t', &word);

    rest = bytes_cut(rest, '\t', &id);
    if (!bytes_equal_text(id, "1"))
        return false;
    *answer = (struct dovecot_answer){.result = DOVECOT_FAILED};
    if (bytes_equal_text(word, "OK")) {
        if (field_find(rest, "user", &value) && value.count > 0) {
            answer->result = DOVECOT_OK;
            answer->user = arena_copy(arena, value);
        } else {
            *answer = failed(arena, "it said OK and named no user");
        }
    } else if (bytes_equal_text(word, "CONT")) {
        bytes_cut(rest, '\t', &value);
        if (base64_decode(arena, value, &answer->challenge))
            answer->result = DOVECOT_CONTINUE;
        else
            *answer = failed(arena, "its challenge is no base 64");
    } else if (bytes_equal_text(word, "FAIL")) {
        answer->result = is_temporary(rest) ? DOVECOT_FAILED : DOVECOT_DENIED;
        answer->words = field_find(rest, "reason", &value) && value.count > 0
                            ? arena_copy(arena, value)
                            : arena_print(arena, "it said FAIL%s",
                                          is_temporary(rest) ? " for the time being" : "");
    } else {
        return false;
    }
    return true;
}

static struct dovecot_answer read_answer(struct dovecot_auth *auth, struct arena *arena)
{
    struct dovecot_answer answer = {0};

    for (unsigned i = 0; i < LINES_MAX; i++) {
        struct bytes line;
        const char *wrong = read_line(auth, &line);

        if (wrong)
            return failed(arena, wrong);
        if (judge_line(arena, line, &answer))
            return answer;
    }
    return failed(arena, "it does not answer our request");
}

/* ------------------------------------------------------------------ the exchange */

static void add_address(struct buffer *line, const char *what, const struct endpoint *endpoint)
{
    char text[ENDPOINT_TEXT_MAX];

    if (endpoint->family == ENDPOINT_IPV4 || endpoint->family == ENDPOINT_IPV6)
        buffer_print(line, "\t%cip=%s\t%cport=%u", what[0],
                     ip_print(&endpoint->ip, text, sizeof text), what[0], endpoint->port);
}

/* Whatever is in the buffer goes out, and does not stay in memory. */
static struct io_result send_secret(struct dovecot_auth *auth, struct buffer *line)
{
    const struct io_result sent =
        line->failed ? io_failed(0)
                     : stream_write(auth->stream, buffer_view(line), auth->deadline_us);

    secret_wipe(buffer_view(line));
    buffer_free(line);
    return sent;
}

/* Later versions greet only after ours, so it goes out first. */
static struct io_result send_hello(struct dovecot_auth *auth)
{
    char hello[64];

    snprintf(hello, sizeof hello, "VERSION\t1\t1\nCPID\t%ld\n", (long)getpid());
    return stream_write(auth->stream, bytes_of_text(hello), auth->deadline_us);
}

static struct io_result send_request(struct dovecot_auth *auth,
                                     const struct dovecot_request *request)
{
    struct buffer line = BUFFER_WITH_LIMIT(64 * KIB);

    /* Room for all of it at once, so that growing leaves no copy of the secret behind. */
    if (!buffer_reserve(&line, 1024 + request->initial.count * 2))
        return io_failed(0);
    buffer_print(&line, "AUTH\t%d\t%s\tservice=smtp", REQUEST, request->mechanism);
    if (request->secured)
        buffer_add_text(&line, "\tsecured");
    add_address(&line, "l", &request->local);
    add_address(&line, "r", &request->remote);
    if (request->has_initial) {
        buffer_add_text(&line, "\tresp=");
        base64_encode(&line, request->initial);
    }
    buffer_add_byte(&line, '\n');
    return send_secret(auth, &line);
}

struct dovecot_answer dovecot_auth_talk(struct arena *arena, struct stream *stream,
                                        const struct dovecot_request *request,
                                        struct dovecot_auth **opened)
{
    struct dovecot_auth *auth = calloc(1, sizeof *auth);

    *opened = auth;
    if (!auth) {
        stream_close(stream);
        return failed(arena, "out of memory");
    }
    *auth = (struct dovecot_auth){.stream = stream,
                                  .deadline_us = request->deadline_us,
                                  .in = BUFFER_WITH_LIMIT(2 * LINE_MAX)};
    const struct io_result hello = send_hello(auth);
    if (hello.status != IO_OK)
        return failed(arena, io_result_text(hello));
    const char *wrong = read_greeting(auth);
    if (wrong)
        return failed(arena, wrong);
    const struct io_result sent = send_request(auth, request);
    if (sent.status != IO_OK)
        return failed(arena, io_result_text(sent));
    return read_answer(auth, arena);
}

struct dovecot_answer dovecot_auth_begin(struct arena *arena, const struct endpoint *at,
                                         const struct dovecot_request *request,
                                         struct dovecot_auth **auth)
{
    struct stream *stream = NULL;
    const struct io_result dialled = stream_dial(at, NULL, request->deadline_us, &stream);

    *auth = NULL;
    if (dialled.status != IO_OK)
        return failed(arena, io_result_text(dialled));
    return dovecot_auth_talk(arena, stream, request, auth);
}

struct dovecot_answer dovecot_auth_continue(struct dovecot_auth *auth, struct arena *arena,
                                            struct bytes response)
{
    struct buffer line = BUFFER_WITH_LIMIT(64 * KIB);

    if (!buffer_reserve(&line, 64 + response.count * 2))
        return failed(arena, "out of memory");
    buffer_print(&line, "CONT\t%d\t", REQUEST);
    base64_encode(&line, response);
    buffer_add_byte(&line, '\n');
    const struct io_result sent = send_secret(auth, &line);
    if (sent.status != IO_OK)
        return failed(arena, io_result_text(sent));
    return read_answer(auth, arena);
}

void dovecot_auth_close(struct dovecot_auth **auth)
{
    if (!*auth)
        return;
    stream_close((*auth)->stream);
    buffer_free(&(*auth)->in);
    free(*auth);
    *auth = NULL;
}
