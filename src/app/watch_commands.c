/*
 * Commands that watch: `trace`, line by line, and `top`, a whole screen. Both ask the running
 * server; neither keeps it waiting.
 */
#include "app/app.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "console/console.h"

enum { TOP_EVERY_MS = 1000, TOP_COLUMNS_MAX = 300, TOP_ROWS_MAX = 200 };

static const char *word_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

static long long number_of(const json_t *object, const char *member)
{
    return (long long)json_integer_value(json_object_get(object, member));
}

/* ------------------------------------------------------------------ trace */

struct trace_reader {
    bool json, failed;
};

/* One character of foreign text; where it does not fit a line of a terminal, a question mark. */
static void add_character(struct buffer *into, struct bytes *rest)
{
    uint32_t code = 0;
    const size_t unfit = bytes_unfit(*rest, &code);
    const uint8_t lead = rest->at[0];
    const size_t length = bytes_utf8_length(lead);

    if (unfit > 0)
        buffer_add_byte(into, '?');
    else
        buffer_add(into, bytes_slice(*rest, 0, length));
    *rest = bytes_skip(*rest, unfit > 0 ? unfit : length);
}

static void put_safe(const char *text)
{
    CLEANUP(buffer_free) struct buffer line = BUFFER_WITH_LIMIT(MIB);
    struct bytes rest = bytes_of_text(text);

    while (rest.count > 0)
        add_character(&line, &rest);
    fwrite(line.at, 1, line.count, stdout);
}

static void print_trace_line(const json_t *line)
{
    const bool in = strcmp(word_of(line, "direction"), "in") == 0;
    const char *from = word_of(line, "from"), *time_text = word_of(line, "time");

    printf("%.12s %s ", strlen(time_text) > 23 ? time_text + 11 : time_text,
           word_of(line, in ? "session" : "message"));
    put_safe(word_of(line, in ? "client" : "host"));
    printf(" %s ", strcmp(from, "us") == 0 ? ">" : strcmp(from, "them") == 0 ? "<" : "*");
    put_safe(word_of(line, "text"));
    putchar('\n');
}

static bool trace_line(void *argument, struct bytes text)
{
    struct trace_reader *reader = argument;
    json_t *line = json_loadb((const char *)text.at, text.count, 0, NULL);
    const char *error = json_string_value(json_object_get(line, "error"));

    if (error) {
        fprintf(stderr, "holdfast: %s\n", error);
        reader->failed = true;
    } else if (json_object_get(line, "tracing")) {
        if (!reader->json)
            fputs("holdfast: tracing; Ctrl-C ends it (> this server, < the other side, * a note)\n",
                  stderr);
    } else if (reader->json) {
        app_write_safe(text);
        putchar('\n');
    } else if (line) {
        print_trace_line(line);
    }
    json_decref(line);
    return !reader->failed && fflush(stdout) == 0;
}

static json_t *trace_request(const struct command_line *line)
{
    json_t *request = json_pack("{s:s, s:s}", "do", "trace", "direction", line->words[1]);

    if (line->dest)
        json_object_set_new(request, "dest", json_string(line->dest));
    if (line->client)
        json_object_set_new(request, "client", json_string(line->client));
    return request;
}

int command_trace(const struct command_line *line)
{
    const bool in = line->word_count == 2 && strcmp(line->words[1], "in") == 0;
    const bool out = line->word_count == 2 && strcmp(line->words[1], "out") == 0;
    struct trace_reader reader = {.json = line->json};
    char why[512];

    if ((!in && !out) || (in && line->dest) || (out && line->client)) {
        fputs("usage: holdfast trace in [--client IP] | out [--dest D] [--json]\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = app_config_running(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    json_t *request = trace_request(line);
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    const bool asked = text && console_follow(config->spool, bytes_of_text(text), trace_line,
                                              &reader, why, sizeof why);
    free(text);
    config_free(config);
    if (!asked)
        fprintf(stderr, "holdfast: %s\n", why);
    return !asked ? EXIT_UNREACHABLE : reader.failed ? EXIT_FINDINGS : EXIT_FINE;
}

/* ------------------------------------------------------------------ top: the screen */

static volatile sig_atomic_t top_ended;

static void top_signal(int number)
{
    (void)number;
    top_ended = 1;
}

struct screen {
    struct buffer text;
    int rows, columns, row;
    struct termios before;
    bool raw;
};

/* One line, cut at the width; nothing below the last row. */
static void screen_line(struct screen *screen, const char *format, ...) PRINTF_LIKE(2, 3);
static void screen_line(struct screen *screen, const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (screen->row >= screen->rows)
        return;
    struct bytes rest = bytes_of_text(text);
    for (int i = 0; rest.count > 0 && i < screen->columns; i++)
        add_character(&screen->text, &rest);
    buffer_add_text(&screen->text, "\033[K");
    if (++screen->row < screen->rows)
        buffer_add_text(&screen->text, "\r\n");
}

static void screen_head(struct screen *screen, const char *text)
{
    buffer_add_text(&screen->text, "\033[1m");
    screen_line(screen, "%s", text);
    buffer_add_text(&screen->text, "\033[0m");
}

static void screen_write(struct screen *screen)
{
    struct bytes rest = buffer_view(&screen->text);

    while (rest.count > 0) {
        const ssize_t written = write(STDOUT_FILENO, rest.at, rest.count);
        if (written <= 0 && errno != EINTR) {
            top_ended = 1;
            return;
        }
        rest = bytes_skip(rest, written > 0 ? (size_t)written : 0);
    }
}

static void screen_open(struct screen *screen)
{
    struct termios raw;

    screen->text = BUFFER_WITH_LIMIT(4 * MIB);
    if (tcgetattr(STDIN_FILENO, &screen->before) == 0) {
        raw = screen->before;
        raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
        screen->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
    }
    buffer_add_text(&screen->text, "\033[?1049h\033[?25l\033[2J");
    screen_write(screen);
}

/* Whatever ended it, the terminal is as it was. */
static void screen_close(struct screen *screen)
{
    buffer_clear(&screen->text);
    buffer_add_text(&screen->text, "\033[0m\033[?25h\033[?1049l");
    screen_write(screen);
    if (screen->raw && tcsetattr(STDIN_FILENO, TCSANOW, &screen->before) != 0)
        fputs("holdfast: the terminal could not be set back; `reset` does it\n", stderr);
    buffer_free(&screen->text);
}

static void screen_begin(struct screen *screen)
{
    struct winsize size = {0};

    screen->rows = 24;
    screen->columns = 80;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
        screen->rows = MIN_OF((int)size.ws_row, TOP_ROWS_MAX);
        screen->columns = MIN_OF((int)size.ws_col, TOP_COLUMNS_MAX);
    }
    screen->row = 0;
    buffer_clear(&screen->text);
    buffer_add_text(&screen->text, "\033[H");
}

/* ------------------------------------------------------------------ top: what is on it */

static double rate(const json_t *before, const json_t *now, const char *member, double seconds)
{
    return seconds > 0 ? (double)(number_of(now, member) - number_of(before, member)) / seconds : 0;
}

static void top_totals(struct screen *screen, const json_t *status, const json_t *before,
                       double seconds)
{
    const json_t *now = json_object_get(status, "totals"),
                 *then = json_object_get(before, "totals"),
                 *queue = json_object_get(status, "queue"),
                 *ledger = json_object_get(status, "ledger");

    screen_line(screen, "sessions  %lld in, %lld out", number_of(status, "sessions"),
                number_of(now, "sessions_out"));
    screen_line(screen, "in  /s    %.1f accepted  %.1f deferred  %.1f refused",
                rate(then, now, "accepted", seconds), rate(then, now, "deferrals", seconds),
                rate(then, now, "refusals", seconds));
    screen_line(screen, "out /s    %.1f delivered  %.1f deferred  %.1f failed",
                rate(then, now, "delivered", seconds),
                rate(then, now, "delivery_deferrals", seconds),
                rate(then, now, "delivery_failures", seconds));
    screen_line(screen,
                "queue     %lld: %lld ready, %lld deferred, %lld held, %lld in delivery; "
                "oldest %.19s",
                number_of(queue, "messages"), number_of(queue, "ready"),
                number_of(queue, "deferred"), number_of(queue, "held"),
                number_of(queue, "in_delivery"),
                *word_of(queue, "oldest") ? word_of(queue, "oldest") : "-");
    screen_line(screen, "deferred  %lld still out, %lld overdue, %lld came back",
                number_of(ledger, "still_out"), number_of(ledger, "overdue"),
                number_of(ledger, "came_back"));
}

static void top_breakers(struct screen *screen, const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const bool open = json_is_true(json_object_get(row, "open"));
        if (open)
            buffer_add_text(&screen->text, "\033[31m");
        screen_line(screen, "  %-30s %s  %s", word_of(row, "dependency"), open ? "DOWN" : "up",
                    number_of(row, "failures") > 0 ? word_of(row, "text") : "");
        if (open)
            buffer_add_text(&screen->text, "\033[0m");
    }
}

static void top_incidents(struct screen *screen, const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        screen_line(screen, "  %s %-9s %-3s %-22s %-30s %6lld waiting  %6lld failures  since %.16s",
                    word_of(row, "id"), word_of(row, "state"), word_of(row, "direction"),
                    word_of(row, "cause"), word_of(row, "subject"), number_of(row, "waiting"),
                    number_of(row, "failures"), word_of(row, "first"));
    }
}

static void top_destinations(struct screen *screen, const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const bool pauses = json_is_true(json_object_get(row, "backing_off"));
        screen_line(screen, "  %-40s %6lld waiting  %3lld of %3lld busy  %s %s",
                    word_of(row, "destination"), number_of(row, "waiting"),
                    number_of(row, "active"), number_of(row, "limit"), word_of(row, "cause"),
                    pauses ? "pauses" : "");
    }
}

static void top_draw(struct screen *screen, const json_t *status, const json_t *before,
                     double seconds)
{
    char uptime[64], head[300];
    const json_t *spool = json_object_get(status, "spool"),
                 *incidents = json_object_get(status, "incident_rows");

    duration_print((uint64_t)number_of(status, "uptime_s") * US_PER_S, uptime, sizeof uptime);
    snprintf(head, sizeof head, "holdfast  %s  up %s  (q ends)", word_of(status, "hostname"),
             uptime);
    screen_begin(screen);
    screen_head(screen, head);
    top_totals(screen, status, before, seconds);
    if (json_is_true(json_object_get(spool, "read_only")) || *word_of(spool, "fault"))
        screen_line(screen, "spool     %s %s",
                    json_is_true(json_object_get(spool, "read_only")) ? "READ-ONLY" : "",
                    word_of(spool, "fault"));
    screen_head(screen, json_array_size(incidents) > 0 ? "Incidents" : "No incident");
    top_incidents(screen, incidents);
    screen_head(screen, "Dependencies");
    top_breakers(screen, json_object_get(status, "breakers"));
    screen_head(screen, "Destinations");
    top_destinations(screen, json_object_get(status, "destinations"));
    buffer_add_text(&screen->text, "\033[J");
    screen_write(screen);
}

/* ------------------------------------------------------------------ top: the loop */

static json_t *top_ask(const char *spool)
{
    CLEANUP(buffer_free) struct buffer answer = {0};
    char why[512];

    if (!console_ask(spool, BYTES_LITERAL("{\"do\":\"status\"}"), &answer, why, sizeof why))
        return NULL;
    return json_loadb((const char *)answer.at, answer.count, 0, NULL);
}

/* Waits for the next second or a key; true when it was q. */
static bool top_wait(bool keys)
{
    struct pollfd key = {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN};
    char pressed = 0;

    if (poll(&key, 1, TOP_EVERY_MS) <= 0 || !(key.revents & (POLLIN | POLLHUP)))
        return false;
    return read(STDIN_FILENO, &pressed, 1) != 1 || pressed == 'q' || pressed == 'Q' || pressed == 4;
}

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool top_run(struct screen *screen, const char *spool)
{
    json_t *before = NULL, *status = top_ask(spool);
    double then = 0;
    bool lost = !status;

    while (status && !top_ended) {
        const double now = seconds_now();
        top_draw(screen, status, before ? before : status, before ? now - then : 0);
        json_decref(before);
        before = status;
        then = now;
        status = NULL;
        if (top_wait(screen->raw) || top_ended)
            break;
        status = top_ask(spool);
        lost = !status;
    }
    json_decref(before);
    json_decref(status);
    return !lost;
}

int command_top(const struct command_line *line)
{
    const struct sigaction end = {.sa_handler = top_signal};
    struct screen screen = {0};

    if (line->word_count != 1) {
        fputs("usage: holdfast top [-c FILE]\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = app_config_running(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    if (!isatty(STDOUT_FILENO)) {
        fputs("holdfast: top wants a terminal; `status --json` is for programs\n", stderr);
        config_free(config);
        return EXIT_USAGE;
    }
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGHUP, &end, NULL);
    screen_open(&screen);
    const bool stayed = top_run(&screen, config->spool);
    screen_close(&screen);
    if (!stayed)
        fprintf(stderr, "holdfast: %s/control: is the server running?\n", config->spool);
    config_free(config);
    return stayed ? EXIT_FINE : EXIT_UNREACHABLE;
}
