/*
 * Commands that run a few rooms in a small world of their own: `filter test`, `alias expand`.
 */
#include "app/app.h"

#include <string.h>

#include "directory/directory.h"
#include "policy/policy.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"

enum { WHY_ROOM = 512 };

struct filter_test {
    const struct config *config;
    const char *name;
};

static int filter_test_with(const struct policy_settings *settings, const char *name)
{
    char why[WHY_ROOM];
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct policy *policy = policy_open(settings, why, sizeof why);

    if (!policy) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_FINDINGS;
    }
    const struct verdict verdict = policy_test_filter(policy, &arena, name);
    const bool fine = verdict_accepts(&verdict);
    const struct cause_row *row = cause_row(verdict.cause);
    app_print("%s: %s%s%.*s\n", name, row->name, verdict.detail.count ? ": " : "",
              BYTES_PRINT(verdict.detail));
    if (!fine)
        app_print("  means: %s\n  do:    %s\n", row->meaning, row->advice);
    arena_clear(&arena);
    policy_close(policy);
    return fine ? EXIT_FINE : EXIT_FINDINGS;
}

static int filter_test_main(void *argument)
{
    const struct filter_test *test = argument;
    const struct resolver_settings resolver = {.timeout_us = test->config->resolver.timeout_us,
                                               .forward = test->config->resolver.forward,
                                               .forward_count =
                                                   test->config->resolver.forward_count};
    char why[WHY_ROOM] = "";
    struct policy_settings settings = {.config = test->config};
    int code = EXIT_FINDINGS;

    settings.resolver = resolver_open(&resolver, why, sizeof why);
    settings.directory = settings.resolver ? directory_open(test->config, why, sizeof why) : NULL;
    if (settings.directory)
        code = filter_test_with(&settings, test->name);
    else
        fprintf(stderr, "holdfast: %s\n", why);
    if (settings.directory)
        directory_close(settings.directory);
    if (settings.resolver)
        resolver_close(settings.resolver);
    return code;
}

int command_filter(const struct command_line *line)
{
    if (line->word_count != 3 || strcmp(line->words[1], "test") != 0) {
        fputs("usage: holdfast filter test NAME [-c FILE]\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    struct filter_test test = {.config = config, .name = line->words[2]};
    const int code = world_run(filter_test_main, &test, 1);
    config_free(config);
    return code;
}

struct alias_question {
    const struct config *config;
    const char *address;
};

/* ------------------------------------------------------------------ alias expand ADDRESS */

static void print_target(const struct directory_target *target)
{
    if (target->file_or_pipe.count > 0)
        app_print("%.*s\n", BYTES_PRINT(target->file_or_pipe));
    else
        app_print("%.*s@%.*s%s%s%s%.*s\n", BYTES_PRINT(target->address.local),
                  BYTES_PRINT(target->address.domain),
                  target->flags & DIRECTORY_DISABLED ? " (disabled)" : "",
                  target->flags & DIRECTORY_OVER_QUOTA ? " (full)" : "",
                  target->deliver.count ? " by " : "", BYTES_PRINT(target->deliver));
    if (!address_is_null(target->owner))
        app_print("    as mail from %.*s@%.*s\n", BYTES_PRINT(target->owner.local),
                  BYTES_PRINT(target->owner.domain));
}

static int alias_tell(const char *address, struct lookup lookup,
                      const struct directory_targets *targets)
{
    switch (lookup.status) {
    case LOOKUP_FOUND:
        for (unsigned i = 0; i < targets->count; i++)
            print_target(&targets->targets[i]);
        return EXIT_FINE;
    case LOOKUP_ABSENT:
        fprintf(stderr, "holdfast: %s: no such user, alias or catch-all\n", address);
        return EXIT_FINDINGS;
    case LOOKUP_FAILED:
        break;
    }
    fprintf(stderr, "holdfast: %s: the directory does not say (%s): %.*s\n", address,
            lookup_reason_name(lookup.reason), BYTES_PRINT(lookup.detail));
    return EXIT_UNREACHABLE;
}

static int alias_main(void *argument)
{
    const struct alias_question *question = argument;
    struct arena arena = ARENA_WITH_LIMIT(16 * MIB);
    struct directory_targets targets = {0};
    struct address address;
    char why[WHY_ROOM] = "";
    int code = EXIT_USAGE;
    struct directory *directory = directory_open(question->config, why, sizeof why);

    if (!directory) {
        fprintf(stderr, "holdfast: %s\n", why);
        return EXIT_FINDINGS;
    }
    if (address_parse(&arena, bytes_of_text(question->address), &address))
        code = alias_tell(question->address, directory_expand(directory, &arena, address, &targets),
                          &targets);
    else
        fprintf(stderr, "holdfast: %s is no address\n", question->address);
    directory_close(directory);
    arena_clear(&arena);
    return code;
}

int command_alias(const struct command_line *line)
{
    if (line->word_count != 3 || strcmp(line->words[1], "expand") != 0) {
        fputs("usage: holdfast alias expand ADDRESS [-c FILE]\n", stderr);
        return EXIT_USAGE;
    }
    struct config *config = app_config_open(line->config_file);
    if (!config)
        return EXIT_FINDINGS;
    struct alias_question question = {.config = config, .address = line->words[2]};
    const int code = world_run(alias_main, &question, 1);
    config_free(config);
    return code;
}
