/*
 * A directory on another machine, and the driver that asks it. The driver stands where LDAP's does,
 * behind the room's pool of connections and its breaker; what it speaks is made up, a line a
 * question, over the simulated network, so that the network's faults strike it as well:
 *
 *     user NAME | alias NAME | login NAME PASSWORD  ->  found ... | absent | fault REASON
 */
#include "server.h"

#include <string.h>

#include "directory/remote.h"

enum { TARGETS_MOST = 200 };

/* ------------------------------------------------------------------ the driver */

struct source {
    struct endpoint at;
    bool of_aliases;
};
struct connection {
    struct line_reader reader;
};

static void *source_open(const struct remote_settings *settings, char *why, size_t why_room)
{
    struct source *source = calloc(1, sizeof *source);

    CHECK(source && endpoint_parse(BYTES_LITERAL(DIRECTORY_AT), &source->at), "a source");
    source->of_aliases = settings->of_aliases;
    if (!strstr(settings->location, "/broken"))
        return source;
    snprintf(why, why_room, "there is no such base");
    free(source);
    return NULL;
}

static void disconnect(void *argument)
{
    struct connection *connection = argument;

    stream_close(connection->reader.stream);
    buffer_free(&connection->reader.heard);
    free(connection);
}

static void broken(struct remote_answer *answer, const char *what, uint64_t deadline_us)
{
    const bool late = clock_now_us() >= deadline_us;

    remote_answer_fail(answer, late ? LOOKUP_REASON_TIMEOUT : LOOKUP_REASON_UNAVAILABLE, "%s",
                       what);
    answer->broken = true;
}

/* Says a line and hears one. */
static bool ask_line(struct connection *connection, const char *words, uint64_t deadline_us,
                     struct bytes *line)
{
    return stream_write(connection->reader.stream, bytes_of_text(words), deadline_us).status ==
               IO_OK &&
           line_read(&connection->reader, deadline_us, line);
}

static void *connect(void *argument, uint64_t deadline_us, struct remote_answer *answer)
{
    const struct source *source = argument;
    struct connection *connection = calloc(1, sizeof *connection);
    struct bytes line = BYTES_EMPTY;

    CHECK(connection != NULL, "memory");
    connection->reader.heard = BUFFER_WITH_LIMIT(64 * KIB);
    if (stream_dial(&source->at, NULL, deadline_us, &connection->reader.stream).status == IO_OK &&
        ask_line(connection, "bind\r\n", deadline_us, &line) && bytes_equal_text(line, "ready"))
        return connection;
    broken(answer, "no connection to the directory", deadline_us);
    disconnect(connection);
    return NULL;
}

static void read_found(const struct remote_question *question, struct bytes rest,
                       struct remote_answer *answer)
{
    struct bytes word;

    answer->status = LOOKUP_FOUND;
    if (!question->of_alias && !question->is_login) {
        snprintf(answer->found, sizeof answer->found, "%.*s", BYTES_PRINT(rest));
        snprintf(answer->handle, sizeof answer->handle, "%.*s", BYTES_PRINT(rest));
    }
    while (question->of_alias && rest.count > 0) {
        rest = bytes_cut(rest, ' ', &word);
        remote_answer_add_target(answer, word);
    }
}

static void read_answer(const struct remote_question *question, struct bytes line,
                        struct remote_answer *answer)
{
    struct bytes word;
    const struct bytes rest = bytes_cut(line, ' ', &word);

    if (bytes_equal_text(word, "found"))
        read_found(question, rest, answer);
    else if (bytes_equal_text(line, "absent"))
        answer->status = LOOKUP_ABSENT;
    else if (bytes_equal_text(line, "fault partial"))
        remote_answer_fail(answer, LOOKUP_REASON_PARTIAL, "size limit exceeded");
    else if (bytes_equal_text(line, "fault error"))
        remote_answer_fail(answer, LOOKUP_REASON_UNAVAILABLE, "operations error");
    else if (bytes_equal_text(line, "fault schema"))
        remote_answer_fail(answer, LOOKUP_REASON_MISCONFIGURED, "no such attribute");
    else
        broken(answer, "nonsense from the directory", DEADLINE_NEVER);
}

static void ask(void *source, void *argument, const struct remote_question *question,
                struct remote_answer *answer)
{
    struct connection *connection = argument;
    const struct bytes whole = remote_question_whole(question);
    struct bytes line;
    char words[1200];

    CHECK(source != NULL, "a source");
    if (question->is_login)
        snprintf(words, sizeof words, "login %s %s\r\n", question->handle ? question->handle : "-",
                 question->password);
    else
        snprintf(words, sizeof words, "%s %.*s\r\n", question->of_alias ? "alias" : "user",
                 BYTES_PRINT(whole));
    if (ask_line(connection, words, question->deadline_us, &line))
        read_answer(question, line, answer);
    else
        broken(answer, "the directory does not answer", question->deadline_us);
}

const struct remote_driver ldap_driver;
const struct remote_driver ldap_driver = {.checks_passwords = true,
                                          .open = source_open,
                                          .close = free,
                                          .connect = connect,
                                          .ask = ask,
                                          .disconnect = disconnect};

/* ------------------------------------------------------------------ the server */

/* True: something else was done than to answer well; *lives: the connection goes on. */
static bool misbehave(struct stream *stream, const char *answer, bool *lives)
{
    static const char *const faults[] = {"fault error\r\n", "fault partial\r\n", "fault schema\r\n",
                                         "what is this\r\n"};

    if (!peer_strikes(PEER_DIRECTORY))
        return false;
    *lives = false;
    switch (sim_below(4)) {
    case 0:
        peer_struck("the directory hangs");
        fiber_sleep_until(deadline_in(sim_below(120) * US_PER_S));
        return true;
    case 1: {
        const struct bytes whole = bytes_of_text(answer);

        peer_struck("the directory goes within its answer");
        peer_say(stream, bytes_slice(whole, 0, sim_below(whole.count)));
        return true;
    }
    case 2:
        peer_struck("the directory is slow");
        *lives = fiber_sleep_until(deadline_in(sim_below(6 * US_PER_S))) == IO_OK;
        return false;
    default: {
        const char *words = faults[sim_below(COUNT_OF(faults))];

        peer_struck("the directory says %s", words);
        *lives = peer_say_text(stream, words);
        return true;
    }
    }
}

static const char *find(struct bytes line)
{
    struct bytes kind;
    const struct bytes rest = bytes_cut(line, ' ', &kind);
    const bool is_dora = bytes_equal_text_nocase(rest, "dora@corp.example");

    if (bytes_equal_text(kind, "bind"))
        return "ready\r\n";
    if (bytes_equal_text(kind, "user"))
        return is_dora ? "found dora@corp.example\r\n" : "absent\r\n";
    if (bytes_equal_text(kind, "alias"))
        return bytes_equal_text_nocase(rest, "crew@corp.example")
                   ? "found dora@corp.example x@far.example\r\n"
                   : "absent\r\n";
    return bytes_equal_text(line, "login dora@corp.example right") ? "found\r\n" : "absent\r\n";
}

void directory_serve(void *argument, struct stream *stream)
{
    struct line_reader reader = {.stream = stream, .heard = BUFFER_WITH_LIMIT(64 * KIB)};
    struct bytes line;
    bool lives = true;

    CHECK(argument == &book, "an argument of our own");
    while (lives && line_read(&reader, deadline_in(PEER_PATIENCE_US), &line)) {
        const char *answer = find(line);

        if (!misbehave(stream, answer, &lives))
            lives = peer_say_text(stream, answer) && lives;
    }
    buffer_free(&reader.heard);
}
