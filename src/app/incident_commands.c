/*
 * `incidents`: what fails for one reason.
 */
#include "app/app.h"

#include <jansson.h>

#include "diagnose/diagnose.h"

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
    CLEANUP(close_config) struct config *const config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    const struct diagnose_place place = {
        .spool_directory = config->spool, .now_wall_us = app_now_wall_us(), .config = config};
    app_catch_up(config->spool);
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

int command_report(const struct command_line *line)
{
    (void)line;
    return EXIT_FINDINGS;
}
