/*
 * The commands that read, ask or act; `serve` has its own file.
 */
#include "app/app.h"

#include <jansson.h>
#include <pwd.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "console/console.h"
#include "diagnose/diagnose.h"
#include "spool/spool.h"
#include "verdict/verdict.h"

#define ANSWER_LIMIT (256 * MIB)

static void close_config(struct config *const *config)
{
    if (*config)
        config_free(*config);
}

int64_t app_now_wall_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int usage(const struct command_line *line, const char *expected)
{
    fprintf(stderr, "usage: holdfast %s %s\n", line->words[0], expected);
    return EXIT_USAGE;
}

int command_config(const struct command_line *line)
{
    const char *word = line->word_count == 2 ? line->words[1] : "";
    const bool show = strcmp(word, "show") == 0;
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);

    if (!show && strcmp(word, "check") != 0)
        return usage(line, "check|show [-c FILE]");
    CLEANUP(close_config) struct config *const config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    if (show)
        config_print(&text, config);
    else
        buffer_print(&text, "%s: fine\n", config->file);
    return app_print_buffer(&text);
}

typedef bool asking(const char *directory, struct bytes request, struct buffer *answer, char *why,
                    size_t why_room);

/* Asks the running server; *answer is NULL and the exit code returned when it cannot be reached. */
static int ask(asking *how, const char *directory, json_t *request, json_t **answer)
{
    CLEANUP(buffer_free) struct buffer reply = {0};
    char why[512];
    json_error_t fault;
    char *text = json_dumps(request, JSON_COMPACT);

    json_decref(request);
    *answer = NULL;
    const bool reached = text && how(directory, bytes_of_text(text), &reply, why, sizeof why);
    free(text);
    if (!reached) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_UNREACHABLE;
    }
    *answer = json_loadb((const char *)reply.at, reply.count, 0, &fault);
    const char *error = json_string_value(json_object_get(*answer, "error"));
    if (*answer && !error)
        return EXIT_FINE;
    fprintf(stderr, "holdfast: %s\n", error ? error : "the server's answer is no JSON");
    json_decref(*answer);
    *answer = NULL;
    return EXIT_FINDINGS;
}

static json_t *ask_quietly(const char *directory, struct bytes request)
{
    CLEANUP(buffer_free) struct buffer reply = {0};
    char why[512];
    json_error_t fault;

    return console_ask(directory, request, &reply, why, sizeof why)
               ? json_loadb((const char *)reply.at, reply.count, 0, &fault)
               : NULL;
}

static long long number(const json_t *object, const char *member)
{
    return (long long)json_integer_value(json_object_get(object, member));
}

static const char *word_of(const json_t *object, const char *member)
{
    const char *text = json_string_value(json_object_get(object, member));

    return text ? text : "";
}

/* A spool that fails may take the history with it: its server can tell of it all the same. */
static void print_spool_fault(struct buffer *text, const json_t *spool)
{
    enum cause cause = CAUSE_UNDECIDED;
    const char *directory = word_of(spool, "directory");

    if (!cause_parse(bytes_of_text(word_of(spool, "cause")), &cause) || cause == CAUSE_SPOOL_FULL)
        return;
    const struct cause_row *row = cause_row(cause);

    buffer_print(text, "%s (side: %s)  at spool %s\n", row->name, side_name(row->side), directory);
    buffer_print(text, "  said:  %s\n  means: %s\n  do:    %s\n  run:\n", word_of(spool, "fault"),
                 row->meaning, row->advice);
    buffer_print(text, "    df -h %s  # which disk it is; the kernel's log says what failed\n",
                 directory);
    buffer_add_text(text, "    holdfast status  # once mended and the server started again: says "
                          "no fault of the spool any more\n");
}

/* A running server writes its history in the background: let it catch up. A stopped one has nothing
 * to add; one whose spool is down may not be able to, and that is said where no JSON is disturbed.
 */
void app_catch_up(const struct config *config)
{
    const char *directory = config->spool;
    const bool together = strcmp(config->history, config->spool) == 0;
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);

    json_decref(ask_quietly(directory, BYTES_LITERAL("{\"do\":\"flush\"}")));
    json_t *status = ask_quietly(directory, BYTES_LITERAL("{\"do\":\"status\"}"));
    print_spool_fault(&text, json_object_get(status, "spool"));
    if (buffer_view(&text).count > 0)
        fprintf(stderr, "%s\n%.*s",
                together ? "The history ends where the spool failed. Now:"
                         : "The spool has failed; the history goes on. Now:",
                BYTES_PRINT(buffer_view(&text)));
    json_decref(status);
}

static void print_sessions(struct buffer *text, const json_t *status)
{
    buffer_print(text, "%lld session(s) of at most %lld", number(status, "sessions"),
                 number(status, "sessions_most"));
    if (json_is_true(json_object_get(status, "sessions_by_descriptors")) &&
        number(status, "sessions") >= number(status, "sessions_most") * 9 / 10)
        buffer_add_text(text, " (the limit of open files allows no more: raise LimitNOFILE or "
                              "`ulimit -n`, then restart)");
    buffer_add_text(text, "\n");
}

/* Nobody else tells: a client that verifies goes away without a word. */
static void print_certificate(struct buffer *text, const json_t *status)
{
    if (*word_of(status, "certificate_expired"))
        buffer_print(text,
                     "certificate: EXPIRED %s (side: ours): clients that verify it send nothing; "
                     "renew the files of section tls, then run `holdfast reload`\n",
                     word_of(status, "certificate_expired"));
    else if (*word_of(status, "certificate_ends"))
        buffer_print(text, "certificate: ends %s\n", word_of(status, "certificate_ends"));
}

static void print_breakers(struct buffer *text, const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        buffer_print(text, "  %-24s %s", word_of(row, "dependency"),
                     json_is_true(json_object_get(row, "open")) ? "DOWN" : "up");
        if (number(row, "failures") > 0)
            buffer_print(text, ", %lld failure(s) in a row, last %s, last probe %s: %s",
                         number(row, "failures"), word_of(row, "last_failure"),
                         word_of(row, "last_probe"), word_of(row, "text"));
        buffer_add_text(text, "\n");
    }
}

static void print_destinations(struct buffer *text, const json_t *rows)
{
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        buffer_print(
            text, "  %-40s %lld waiting, %lld of %lld in delivery%s%s", word_of(row, "destination"),
            number(row, "waiting"), number(row, "active"), number(row, "limit"),
            json_is_true(json_object_get(row, "suspended")) ? ", suspended" : "",
            json_is_true(json_object_get(row, "backing_off")) ? ", backing off until " : "");
        if (json_is_true(json_object_get(row, "backing_off")))
            buffer_print(text, "%s (%s)", word_of(row, "next"), word_of(row, "cause"));
        buffer_add_text(text, "\n");
    }
}

static void print_incident_rows(struct buffer *text, const json_t *rows)
{
    if (json_array_size(rows) > 0)
        buffer_add_text(text, "incidents (`holdfast incidents` says more):\n");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        buffer_print(text,
                     "  %s  %-9s %-3s %s (%s) at %s: %lld failure(s), %lld waiting, since %s\n",
                     word_of(row, "id"), word_of(row, "state"), word_of(row, "direction"),
                     word_of(row, "cause"), word_of(row, "side"), word_of(row, "subject"),
                     number(row, "failures"), number(row, "waiting"), word_of(row, "first"));
    }
}

static void print_status(struct buffer *text, const json_t *status)
{
    const json_t *queue = json_object_get(status, "queue"),
                 *spool = json_object_get(status, "spool");
    char uptime[64];

    buffer_print(
        text, "%s: up %s, ", word_of(status, "hostname"),
        duration_print((uint64_t)number(status, "uptime_s") * US_PER_S, uptime, sizeof uptime));
    print_sessions(text, status);
    print_certificate(text, status);
    buffer_print(text, "locked in: %s\n", word_of(status, "locks"));
    buffer_print(text,
                 "queue: %lld message(s): %lld ready, %lld deferred, %lld held, %lld in delivery; "
                 "oldest %s\n",
                 number(queue, "messages"), number(queue, "ready"), number(queue, "deferred"),
                 number(queue, "held"), number(queue, "in_delivery"),
                 *word_of(queue, "oldest") ? word_of(queue, "oldest") : "-");
    buffer_print(text, "spool: %s%s%s%s\n", word_of(spool, "directory"),
                 json_is_true(json_object_get(spool, "read_only")) ? " READ-ONLY" : "",
                 *word_of(spool, "fault") ? ", last fault: " : "", word_of(spool, "fault"));
    print_spool_fault(text, spool);
    print_incident_rows(text, json_object_get(status, "incident_rows"));
    if (json_array_size(json_object_get(status, "breakers")) > 0)
        buffer_add_text(text, "dependencies:\n");
    print_breakers(text, json_object_get(status, "breakers"));
    if (json_array_size(json_object_get(status, "destinations")) > 0)
        buffer_add_text(text, "destinations:\n");
    print_destinations(text, json_object_get(status, "destinations"));
}

int command_reload(const struct command_line *line)
{
    CLEANUP(close_config) struct config *const config = app_config_open(line->config_file);
    json_t *answer = NULL;

    if (!config)
        return EXIT_FINDINGS;
    const int code =
        ask(console_ask_patiently, config->spool, json_pack("{s:s}", "do", "reload"), &answer);
    json_decref(answer);
    if (code == EXIT_FINE)
        printf("reloaded: %s\n", config->file);
    return code;
}

int command_status(const struct command_line *line)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    json_t *status = NULL;

    CLEANUP(close_config) struct config *const config = app_config_running(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    const int code = ask(console_ask, config->spool, json_pack("{s:s}", "do", "status"), &status);
    if (!status)
        return code;
    if (line->json)
        return app_print_json(status);
    print_status(&text, status);
    json_decref(status);
    return app_print_buffer(&text);
}

/* For the journal: the user who typed it, also behind sudo. */
static json_t *who_asks(void)
{
    const struct passwd *user = getpwuid(getuid());
    const char *behind = getenv("SUDO_USER");
    char text[96];

    snprintf(text, sizeof text, "%.32s%s%.32s", user ? user->pw_name : "uid unknown",
             behind && *behind ? " for " : "", behind ? behind : "");
    return json_string(text);
}

static json_t *act_request(const struct command_line *line)
{
    const struct {
        const char *name, *value;
    } members[] = {{"id", line->word_count == 2 ? line->words[1] : NULL},
                   {"dest", line->dest},
                   {"cause", line->cause},
                   {"sender", line->sender},
                   {"via", line->via}};
    json_t *request =
        json_pack("{s:s, s:b, s:o}", "do", line->words[0], "all", line->all, "who", who_asks());

    for (size_t i = 0; i < COUNT_OF(members); i++)
        if (members[i].value)
            json_object_set_new(request, members[i].name, json_string(members[i].value));
    return request;
}

int command_act(const struct command_line *line)
{
    json_t *answer = NULL;
    json_t *request = act_request(line);

    CLEANUP(close_config) struct config *const config = app_config_running(line->config_file);
    if (!config) {
        json_decref(request);
        return EXIT_FINDINGS;
    }
    const int code = ask(console_ask_patiently, config->spool, request, &answer);
    if (!answer)
        return code;
    const long long touched = number(answer, "touched");
    const bool found = json_is_true(json_object_get(answer, "found"));
    if (line->json)
        return app_print_json(answer) == EXIT_FINE && found ? EXIT_FINE : EXIT_FINDINGS;
    json_decref(answer);
    printf("%s: %lld message(s)\n", line->words[0], touched);
    return found ? EXIT_FINE : EXIT_FINDINGS;
}

static bool grouping_of(const char *by, enum diagnose_grouping *grouping)
{
    static const struct {
        const char *word;
        enum diagnose_grouping grouping;
    } words[] = {
        {"dest", DIAGNOSE_BY_DESTINATION}, {"cause", DIAGNOSE_BY_CAUSE}, {"age", DIAGNOSE_BY_AGE}};

    for (size_t i = 0; by && i < COUNT_OF(words); i++) {
        if (strcmp(by, words[i].word) == 0) {
            *grouping = words[i].grouping;
            return true;
        }
    }
    return !by;
}

static int print_queue(const struct command_line *line, const struct spool_view_filter *asked,
                       enum diagnose_grouping grouping)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    struct spool_view_filter filter = *asked;
    char why[DIAGNOSE_WHY_ROOM], domain[256];
    json_t *rows = NULL;

    CLEANUP(close_config) struct config *const config = app_config_running(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    const struct diagnose_place place = {.spool_directory = config->spool,
                                         .history_directory = config->history,
                                         .now_wall_us = app_now_wall_us()};
    snprintf(domain, sizeof domain, "%s", filter.domain ? filter.domain : "");
    for (char *at = domain; *at; at++)
        *at = (char)ascii_lower((uint8_t)*at); /* as the queue writes domains */
    filter.domain = filter.domain ? domain : NULL;
    if (!diagnose_queue(&place, &filter, grouping, &rows, why)) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_UNREACHABLE;
    }
    if (line->json)
        return app_print_json(rows);
    diagnose_print_queue(&text, rows, grouping);
    json_decref(rows);
    return app_print_buffer(&text);
}

int command_queue(const struct command_line *line)
{
    const struct spool_view_filter filter = {
        .domain = line->dest, .cause = line->cause, .sender = line->sender};
    enum diagnose_grouping grouping = DIAGNOSE_BY_NONE;

    if (line->word_count != 1 || !grouping_of(line->by, &grouping))
        return usage(line, "[--by dest|cause|age] [--dest D] [--cause C] [--sender A] [--json]");
    return print_queue(line, &filter, grouping);
}

static int why_in(const struct command_line *line, const struct diagnose_place *place)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    uint64_t since_us = 24 * 3600 * US_PER_S;
    char why[512];
    json_t *summary = NULL;

    if (line->since && !duration_parse(bytes_of_text(line->since), &since_us))
        return usage(line, "--in [--since 2h]");
    if (!diagnose_ledger(place, place->now_wall_us - (int64_t)since_us, &summary, why,
                         sizeof why)) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_UNREACHABLE;
    }
    if (line->json)
        return app_print_json(summary);
    diagnose_print_ledger(&text, summary);
    json_decref(summary);
    return app_print_buffer(&text);
}

static int unreadable(const char *why)
{
    fprintf(stderr, "holdfast: %s\n", why);
    return EXIT_UNREACHABLE;
}

static int why_destination(const struct command_line *line, const struct diagnose_place *place)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    char why[512] = "";
    json_t *story = NULL;

    if (!diagnose_destination(place, line->dest, &story, why, sizeof why))
        return unreadable(why);
    if (line->json)
        return app_print_json(story);
    diagnose_print_destination(&text, story);
    json_decref(story);
    return app_print_buffer(&text);
}

static int why_transcript(const struct command_line *line, const struct diagnose_place *place,
                          uint64_t id)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    char why[512] = "";
    json_t *transcripts = NULL;

    if (!diagnose_transcripts(place, id, &transcripts, why, sizeof why))
        return unreadable(why);
    const int code = json_array_size(transcripts) > 0 ? EXIT_FINE : EXIT_FINDINGS;
    if (line->json)
        return app_print_json(transcripts) == EXIT_FINE ? code : EXIT_FINDINGS;
    diagnose_print_transcripts(&text, transcripts);
    json_decref(transcripts);
    return app_print_buffer(&text) == EXIT_FINE ? code : EXIT_FINDINGS;
}

static int why_id(const struct command_line *line, const struct diagnose_place *place)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    char why[512] = "";
    uint64_t id = 0;
    json_t *story = NULL;

    if (!id_parse(bytes_of_text(line->words[1]), &id)) {
        fprintf(stderr, "holdfast: %s is no id: 13 letters and digits\n", line->words[1]);
        return EXIT_USAGE;
    }
    if (line->transcript)
        return why_transcript(line, place, id);
    const struct lookup found = diagnose_story(place, id, &story, why, sizeof why);
    if (found.status != LOOKUP_FOUND) {
        fprintf(stderr, "holdfast: %s\n",
                found.status == LOOKUP_ABSENT ? "nothing is recorded under this id" : why);
        return found.status == LOOKUP_ABSENT ? EXIT_FINDINGS : EXIT_UNREACHABLE;
    }
    if (line->json)
        return app_print_json(story);
    diagnose_print_story(&text, story);
    json_decref(story);
    return app_print_buffer(&text);
}

int command_why(const struct command_line *line)
{
    const bool of_destination = line->dest && line->word_count == 1 && !line->in;

    if (!of_destination && (line->in ? line->word_count != 1 : line->word_count != 2))
        return usage(line, "ID | --transcript ID | --in [--since 2h] | --dest D [--json]");
    CLEANUP(close_config) struct config *const config = app_config_running(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    const struct diagnose_place place = diagnose_place_of(config, app_now_wall_us());
    app_catch_up(config);
    if (of_destination)
        return why_destination(line, &place);
    return line->in ? why_in(line, &place) : why_id(line, &place);
}

static int explain_print_or_json(const struct command_line *line, json_t *explained)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);

    if (line->json)
        return app_print_json(explained);
    explain_print(&text, explained);
    json_decref(explained);
    return app_print_buffer(&text);
}

/* A reply may be quoted as one word or typed as several. */
static int explain_words(const struct command_line *line)
{
    CLEANUP(buffer_free) struct buffer reply = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    struct explanation explanation;

    for (unsigned i = 1; i < line->word_count; i++)
        buffer_print(&reply, "%s%s", i > 1 ? " " : "", line->words[i]);
    const struct explain_question question = {.reply = buffer_view(&reply),
                                              .stage = bytes_of_text(line->stage)};
    explain_reply(&question, &explanation);
    return explain_print_or_json(line, explain_json(&explanation, question.reply));
}

#define BOUNCE_FILE_LIMIT (32 * MIB) /* what lies behind it is not looked at */

static bool read_file(const char *name, struct buffer *into)
{
    FILE *const file = strcmp(name, "-") == 0 ? stdin : fopen(name, "re");
    uint8_t chunk[65536];
    size_t count = 1;

    while (file && count > 0 && into->count < BOUNCE_FILE_LIMIT) {
        count = fread(chunk, 1, sizeof chunk, file);
        buffer_add(into, bytes_of(chunk, count));
    }
    const bool good = file && !ferror(file) && !into->failed;
    if (file && file != stdin && fclose(file) != 0)
        return false;
    return good;
}

static void clear_arena(struct arena *arena)
{
    arena_clear(arena);
}

static int explain_mail(const struct command_line *line)
{
    CLEANUP(buffer_free) struct buffer message = BUFFER_WITH_LIMIT(BOUNCE_FILE_LIMIT + 65536);
    CLEANUP(clear_arena) struct arena arena = ARENA_WITH_LIMIT(256 * MIB);

    if (!read_file(line->mail, &message)) {
        fprintf(stderr, "holdfast: cannot read %s\n", line->mail);
        return EXIT_USAGE;
    }
    struct bounce *const bounce = ARENA_NEW(&arena, struct bounce);
    if (!bounce || !bounce_parse(&arena, buffer_view(&message), bounce)) {
        fprintf(stderr, "holdfast: %s: out of memory\n", line->mail);
        return EXIT_UNREACHABLE;
    }
    return explain_print_or_json(line, explain_bounce(bounce));
}

int command_explain(const struct command_line *line)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    enum cause named = CAUSE_UNDECIDED;
    const bool all = line->word_count == 1;

    if (line->manual && all) {
        diagnose_print_manual(&text);
        return app_print_buffer(&text);
    }
    if (line->mail)
        return explain_mail(line);
    if (!all && (line->word_count != 2 || !cause_parse(bytes_of_text(line->words[1]), &named)))
        return explain_words(line);
    json_t *rows = json_array();
    for (unsigned cause = 0; cause < CAUSE_COUNT; cause++)
        if (all || cause == named)
            json_array_append_new(rows, explain_cause((enum cause)cause));
    if (line->json)
        return app_print_json(all ? rows : json_incref(json_array_get(rows, 0)));
    for (size_t i = 0; i < json_array_size(rows); i++)
        diagnose_print_cause(&text, json_array_get(rows, i));
    json_decref(rows);
    return app_print_buffer(&text);
}

int command_spool(const struct command_line *line)
{
    char why[512];

    if (line->word_count != 2 || strcmp(line->words[1], "rebuild") != 0)
        return usage(line, "rebuild [-c FILE]");
    CLEANUP(close_config) struct config *const config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    if (!spool_rebuild(config->spool, why, sizeof why)) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_FINDINGS;
    }
    printf("%s: index rebuilt from the log\n", config->spool);
    return EXIT_FINE;
}
