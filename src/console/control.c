/*
 * The control socket: a Unix socket in the spool's directory. A client sends one JSON object on one
 * line and reads one JSON object. The directory's permissions (0700) say who may.
 */
#include "console/console_private.h"

#include <string.h>
#include <unistd.h>

enum { CONTROL_PATIENCE_S = 30, MOST_CONTROL_SESSIONS = 32 };
#define CONFIG_TEXT_MAX (CONSOLE_ANSWER_MAX / 2) /* as JSON it is longer */

bool console_control_endpoint(const char *directory, struct endpoint *endpoint)
{
    *endpoint = (struct endpoint){.family = ENDPOINT_UNIX};
    const int count = snprintf(endpoint->path, sizeof endpoint->path, "%s/control", directory);

    return count > 0 && (size_t)count < sizeof endpoint->path;
}

struct control_session {
    struct console *console;
    struct stream *stream;
};

static const struct {
    const char *word;
    enum schedule_action action;
} ACTIONS[] = {{"retry", ACTION_RETRY},     {"hold", ACTION_HOLD},     {"release", ACTION_RELEASE},
               {"drop", ACTION_DROP},       {"bounce", ACTION_BOUNCE}, {"reroute", ACTION_REROUTE},
               {"suspend", ACTION_SUSPEND}, {"resume", ACTION_RESUME}};

/* So that a command that reads the history next sees all that happened before it asked. */
static json_t *control_flush(const struct console *console)
{
    history_flush(console->settings.history);
    return json_pack("{s:b}", "flushed", true);
}

/* The configuration that is in force, for commands whose file is broken. It holds what the file
 * does, and whoever comes this far may read the spool. */
static json_t *control_config(const struct console *console)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(CONFIG_TEXT_MAX);

    config_print(&text, console->settings.config);
    json_t *whole = text.failed ? NULL : json_stringn((const char *)text.at, text.count);
    return whole ? json_pack("{s:o}", "config", whole)
                 : json_pack("{s:s}", "error", "the configuration is too large to be told");
}

static json_t *control_reload(struct console *console)
{
    const struct console_settings *settings = &console->settings;
    char why[4096] = "this process cannot reload its configuration";

    if (settings->reload && settings->reload(settings->reload_argument, why, sizeof why))
        return json_pack("{s:b}", "reloaded", true);
    return json_pack("{s:s}", "error", why);
}

static json_t *control_answer(struct console *console, struct bytes line)
{
    json_error_t fault;
    json_t *request = json_loadb((const char *)line.at, line.count, 0, &fault);
    const char *word = json_string_value(json_object_get(request, "do"));
    json_t *answer = NULL;

    if (!word)
        answer = json_pack("{s:s}", "error", "the request is no JSON object with a member \"do\"");
    else if (strcmp(word, "status") == 0)
        answer = console_status(console);
    else if (strcmp(word, "health") == 0)
        answer = console_health(console);
    else if (strcmp(word, "config") == 0)
        answer = control_config(console);
    else if (strcmp(word, "reload") == 0)
        answer = control_reload(console);
    else if (strcmp(word, "flush") == 0)
        answer = control_flush(console);
    for (size_t i = 0; word && !answer && i < COUNT_OF(ACTIONS); i++)
        if (strcmp(word, ACTIONS[i].word) == 0)
            answer = console_act(console, ACTIONS[i].action, request);
    if (!answer)
        answer = json_pack("{s:s}", "error", "no such request");
    json_decref(request);
    return answer;
}

/* Reads up to the first LF; false when the client sends none within bounds. */
static bool control_read_line(struct stream *stream, struct buffer *line, uint64_t deadline_us)
{
    while (bytes_find_byte(buffer_view(line), '\n') == line->count) {
        uint8_t *memory = buffer_reserve(line, 1024);
        if (!memory)
            return false;
        const struct io_result got = stream_read(stream, (struct span){memory, 1024}, deadline_us);
        if (got.status != IO_OK)
            return false;
        buffer_claim(line, got.count);
    }
    return true;
}

/* A request that is answered by a stream: true when it was one, and is over. */
static bool control_streams(const struct control_session *session, struct bytes line)
{
    json_t *request = json_loadb((const char *)line.at, line.count, 0, NULL);
    const char *word = json_string_value(json_object_get(request, "do"));
    const bool streams = word && strcmp(word, "trace") == 0;

    if (streams)
        console_trace(session->console, request, session->stream);
    json_decref(request);
    return streams;
}

static void control_serve(struct control_session *session)
{
    const uint64_t deadline_us = deadline_in(CONTROL_PATIENCE_S * US_PER_S);
    CLEANUP(buffer_free) struct buffer line = BUFFER_WITH_LIMIT(CONSOLE_REQUEST_MAX);

    if (!control_read_line(session->stream, &line, deadline_us) ||
        control_streams(session, buffer_view(&line)))
        return;
    json_t *answer = control_answer(session->console, buffer_view(&line));
    char *text = json_dumps(answer, JSON_COMPACT);
    json_decref(answer);
    if (!text)
        return;
    /* A client that went away misses its answer; what it asked for is done and in the journal. */
    const uint64_t answer_us = deadline_in(CONTROL_PATIENCE_S * US_PER_S);
    const struct io_result sent = stream_write(session->stream, bytes_of_text(text), answer_us);
    if (sent.status == IO_OK)
        stream_write(session->stream, BYTES_LITERAL("\n"), answer_us);
    free(text);
}

static void control_session_main(void *argument)
{
    struct control_session *session = argument;
    struct console *console = session->console;

    control_serve(session);
    stream_close(session->stream);
    free(session);
    console->serving--;
    waitlist_wake_all(&console->ended);
}

/* Root and our own user may ask; the mode of the socket file alone is not relied on. */
static bool control_knows(struct stream *stream)
{
    uint32_t user = 0;

    if (stream_peer_user(stream, &user) && (user == 0 || user == geteuid()))
        return true;
    observe_note(LOG_WARNING, "console", "control socket: user %u was turned away", user);
    return false;
}

static void control_start_session(struct console *console, struct stream *stream)
{
    if (!control_knows(stream)) {
        stream_close(stream);
        return;
    }
    struct control_session *session =
        console->serving < MOST_CONTROL_SESSIONS ? calloc(1, sizeof *session) : NULL;

    if (session)
        *session = (struct control_session){.console = console, .stream = stream};
    if (!session || !fiber_start("control", control_session_main, session)) {
        free(session);
        stream_close(stream);
        return;
    }
    console->serving++;
}

static void control_accept_main(void *argument)
{
    struct console *console = argument;

    for (;;) {
        struct stream *stream = NULL;
        const struct io_result got = listener_accept(console->control, DEADLINE_NEVER, &stream);
        if (got.status == IO_OK)
            control_start_session(console, stream);
        else if (fiber_sleep_until(deadline_in(100 * US_PER_MS)) == IO_CANCELLED)
            break;
    }
    console->serving--;
    waitlist_wake_all(&console->ended);
}

struct console *console_open(const struct console_settings *settings, char *why, size_t why_room)
{
    struct console *console = calloc(1, sizeof *console);
    struct endpoint at;

    if (!console) {
        snprintf(why, why_room, "out of memory");
        return NULL;
    }
    console->settings = *settings;
    pthread_mutex_init(&console->samples.lock, NULL);
    snprintf(console->directory, sizeof console->directory, "%s", settings->config->spool);
    snprintf(console->history, sizeof console->history, "%s", settings->config->history);
    if (!console_control_endpoint(console->directory, &at)) {
        snprintf(why, why_room, "%s/control: the path is too long for a Unix socket",
                 console->directory);
        console_close(console);
        return NULL;
    }
    /* The spool's lock says that no other server lives here, so a socket left behind is a dead one.
     */
    const struct io_result removed = disk_remove(at.path);
    const struct io_result opened = listener_open(&at, false, &console->control);
    if (opened.status != IO_OK) {
        snprintf(why, why_room, "%s: %s%s", at.path, io_result_text(opened),
                 removed.status == IO_OK ? " (after removing an old one)" : "");
        console_close(console);
        return NULL;
    }
    console->serving = 1;
    console->acceptor = fiber_start("control accept", control_accept_main, console);
    if (!console->acceptor)
        console->serving = 0;
    console->sampler = fiber_start("console samples", console_sample_main, console);
    console->serving += console->sampler != NULL;
    if (!console->acceptor || !console_web_open(console, why, why_room)) {
        console_close(console);
        return NULL;
    }
    return console;
}

void console_renew(struct console *console, const struct config *config, struct policy *policy,
                   int64_t certificate_end_wall_us)
{
    console->settings.certificate_end_wall_us = certificate_end_wall_us;
    console->settings.config = config;
    console->settings.policy = policy;
}

void console_close(struct console *console)
{
    struct waiter waiter;
    const uint64_t deadline_us = deadline_in(5 * US_PER_S);

    if (!console)
        return;
    console->closing = true;
    console_web_close(console);
    if (console->acceptor)
        fiber_cancel(console->acceptor);
    if (console->sampler)
        fiber_cancel(console->sampler);
    waitlist_join(&console->ended, &waiter);
    while (console->serving > 0 && fiber_park(deadline_us) == IO_OK)
        continue;
    waitlist_leave(&console->ended, &waiter);
    if (console->control)
        listener_close(console->control);
    if (console->serving == 0)
        free(console);
}
