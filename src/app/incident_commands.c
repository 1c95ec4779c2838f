/*
 * `incidents`: what fails for one reason.
 */
#include "app/app.h"

#include <jansson.h>

#include "diagnose/diagnose.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"

#define ANSWER_LIMIT (64 * MIB)

static void close_config(struct config *const *config)
{
    if (*config)
        config_free(*config);
}

int command_incidents(const struct command_line *line)
{
    struct buffer text = BUFFER_WITH_LIMIT(ANSWER_LIMIT);
    const struct incident_query query = {.choice = line->all ? INCIDENTS_ALL : INCIDENTS_OPEN};
    char why[512] = "";
    json_t *incidents = NULL;

    if (line->word_count != 1) {
        fputs("usage: holdfast incidents [--all] [--json]\n", stderr);
        return EXIT_USAGE;
    }
    CLEANUP(close_config) struct config *const config = app_config_running(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    const struct diagnose_place place = diagnose_place_of(config, app_now_wall_us());
    app_catch_up(config);
    if (!diagnose_incidents(&place, query, &incidents, why, sizeof why)) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_UNREACHABLE;
    }
    if (line->json)
        return app_print_json(incidents);
    diagnose_print_incidents(&text, incidents);
    json_decref(incidents);
    return app_print_buffer(&text);
}

/* ------------------------------------------------------------------ report INCIDENT */

enum { WHY_ROOM = 512, RESOLVERS_MAX = 16 };

struct report_job {
    const struct command_line *line;
    const struct config *config;
    struct report_request request;
    struct endpoint resolvers[RESOLVERS_MAX], servers[RESOLVERS_MAX];
    struct ip_address ips[RESOLVERS_MAX];
    int64_t now_wall_us;
};

static bool parse_endpoints(const char *const *words, unsigned count, struct endpoint *into,
                            unsigned *taken)
{
    for (unsigned i = 0; i < count && i < RESOLVERS_MAX; i++) {
        if (!endpoint_parse_resolver(bytes_of_text(words[i]), &into[i])) {
            fprintf(stderr, "holdfast: %s is no IP[@PORT]\n", words[i]);
            return false;
        }
        *taken = i + 1;
    }
    return true;
}

static bool parse_report_line(struct report_job *job)
{
    const struct command_line *line = job->line;
    struct report_request *request = &job->request;

    if (line->word_count != 2 || !id_parse(bytes_of_text(line->words[1]), &request->incident)) {
        fputs("usage: holdfast report INCIDENT [--new] [--resolver IP[@PORT]]... [--ip IP]...\n",
              stderr);
        return false;
    }
    for (unsigned i = 0; i < line->ips.count && i < RESOLVERS_MAX; i++) {
        if (!ip_parse(bytes_of_text(line->ips.words[i]), &job->ips[i])) {
            fprintf(stderr, "holdfast: --ip %s is no IP address\n", line->ips.words[i]);
            return false;
        }
        request->ip_count = i + 1;
    }
    request->resolvers = job->resolvers;
    request->servers = job->servers;
    request->ips = job->ips;
    return parse_endpoints(line->resolvers, line->resolver_count, job->resolvers,
                           &request->resolver_count) &&
           parse_endpoints(line->servers.words, line->servers.count, job->servers,
                           &request->server_count);
}

/* The draft of today, when there is one. */
static bool print_draft(const struct report_job *job, const char *site)
{
    struct buffer text = BUFFER_WITH_LIMIT(4 * MIB);

    if (job->line->fresh || job->line->json ||
        !diagnose_report_read(job->config->spool, site, job->now_wall_us, &text)) {
        buffer_free(&text);
        return false;
    }
    fprintf(stderr,
            "holdfast: this was drafted within the last day; one report a site and day is enough "
            "(--new drafts another)\n");
    return app_print_buffer(&text) == EXIT_FINE;
}

static int print_report(const struct report_job *job, json_t *report)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(4 * MIB);
    char why[WHY_ROOM] = "";
    const json_t *site = json_object_get(report, "site");

    if (job->line->json)
        return app_print_json(report);
    diagnose_print_report(&text, report);
    if (text.failed || !diagnose_report_write(job->config->spool, json_string_value(site),
                                              buffer_view(&text), why, sizeof why))
        fprintf(stderr, "holdfast: the draft could not be kept: %s\n", why);
    json_decref(report);
    app_write_safe(buffer_view(&text));
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_FINE : EXIT_FINDINGS;
}

static int report_main(void *argument)
{
    struct report_job *job = argument;
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    const struct diagnose_place place = diagnose_place_of(job->config, job->now_wall_us);
    const struct config_resolver *asked = &job->config->resolver;
    const bool named = job->request.resolver_count > 0;
    const struct resolver_settings settings = {.forward = named ? job->resolvers : asked->forward,
                                               .forward_count = named ? job->request.resolver_count
                                                                      : asked->forward_count,
                                               .timeout_us = asked->timeout_us};
    char why[WHY_ROOM] = "";

    job->request.place = &place;
    /* First without DNS: is it one to report, and is there a draft? */
    json_t *facts = diagnose_report(&arena, &job->request, why, sizeof why);
    if (!facts) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_FINDINGS;
    }
    const bool drafted = print_draft(job, json_string_value(json_object_get(facts, "site")));
    json_decref(facts);
    if (drafted)
        return EXIT_FINE;
    job->request.resolver = resolver_open(&settings, why, sizeof why);
    if (!named) {
        job->request.resolvers = asked->forward;
        job->request.resolver_count = asked->forward_count;
    }
    json_t *report =
        job->request.resolver ? diagnose_report(&arena, &job->request, why, sizeof why) : NULL;
    const int code = report ? print_report(job, report) : EXIT_FINDINGS;
    if (!report)
        fprintf(stderr, "holdfast: %s\n", why);
    resolver_close(job->request.resolver);
    arena_clear(&arena);
    return code;
}

int command_report(const struct command_line *line)
{
    struct report_job job = {.line = line, .now_wall_us = app_now_wall_us()};

    if (!parse_report_line(&job))
        return EXIT_USAGE;
    CLEANUP(close_config) struct config *const config = app_config_running(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    job.config = config;
    app_catch_up(config);
    return world_run(report_main, &job, 1);
}
