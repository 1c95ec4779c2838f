/*
 * mailq and newaliases. The queue is for the eyes of those who may read the spool.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "app/sendmail.h"
#include "directory/directory.h"
#include "runtime/runtime.h"
#include "spool/spool.h"
#include "verdict/verdict.h"

enum { WHY_ROOM = 512 };

struct listing {
    uint64_t id, messages, bytes;
};

/* In the order and the columns that readers of Postfix's and sendmail's mailq expect: a line a
 * message, the reason in brackets, then who it is for. */
static bool print_row(void *argument, const struct spool_row *row)
{
    struct listing *listing = argument;
    char id[ID_TEXT_MAX], date[32] = "";
    const time_t when = (time_t)(row->accepted_wall_us / 1000000);
    struct tm parts;

    if (listing->messages == 0)
        puts("-Queue ID-    --Size-- ----Arrival Time---- -Sender/Recipient-------");
    if (listing->messages == 0 || row->id != listing->id) {
        if (localtime_r(&when, &parts))
            strftime(date, sizeof date, "%a %b %e %H:%M:%S", &parts);
        app_print("%s%s%c %8" PRIu64 " %-20s %.*s\n", listing->messages ? "\n" : "",
                  id_print(row->id, id, sizeof id), row->held ? '!' : ' ', row->size_bytes, date,
                  BYTES_PRINT(row->from.count ? row->from : bytes_of_text("MAILER-DAEMON")));
        listing->messages++;
        listing->bytes += row->size_bytes;
    }
    listing->id = row->id;
    if (row->last_reply.count > 0)
        app_print("%20s(%.*s)\n", "", BYTES_PRINT(row->last_reply));
    else if (row->attempts > 0)
        printf("%20s(%s)\n", "", cause_name(row->cause));
    app_print("%44s %.*s\n", "", BYTES_PRINT(row->to));
    return true;
}

int sendmail_queue(const struct sendmail_options *options)
{
    const struct spool_view_filter all = {0};
    struct listing listing = {0};
    char why[WHY_ROOM] = "";
    struct config *config = app_config_open(options->config_file);

    if (!config)
        return EX_CONFIG;
    const bool closed = access(config->spool, R_OK | X_OK) != 0 && errno == EACCES;
    const bool seen =
        !closed && spool_view(config->spool, &all, print_row, &listing, why, sizeof why);

    config_free(config);
    if (closed) {
        fputs("mailq: the queue is for the server's own user and root\n", stderr);
        return EX_NOPERM;
    }
    if (!seen) {
        fprintf(stderr, "mailq: %s\n", why);
        return EX_TEMPFAIL;
    }
    if (listing.messages == 0)
        puts("Mail queue is empty");
    else
        printf("-- %" PRIu64 " Kbytes in %" PRIu64 " Request%s.\n", listing.bytes / 1024,
               listing.messages, listing.messages == 1 ? "" : "s");
    return EX_OK;
}

/* ------------------------------------------------------------------ newaliases */

/* Reads every aliases file as the server does, which itself sees a change within seconds: there is
 * no table to build, but a mistake is better told now. */
static int check_aliases(void *argument)
{
    const struct config *config = argument;
    char why[WHY_ROOM] = "";
    int code = EX_OK;
    struct directory *directory = directory_open(config, why, sizeof why);

    if (!directory) {
        fprintf(stderr, "newaliases: %s\n", why);
        return EX_CONFIG;
    }
    for (unsigned i = 0; i < config->domain_count; i++) {
        struct arena arena = ARENA_WITH_LIMIT(MIB);
        struct directory_targets targets = {0};
        const struct address postmaster = {BYTES_LITERAL("postmaster"),
                                           bytes_of_text(config->domains[i].name)};
        const struct lookup lookup = directory_expand(directory, &arena, postmaster, &targets);
        if (lookup.status == LOOKUP_FAILED) {
            fprintf(stderr, "newaliases: %s: %.*s\n", config->domains[i].name,
                    BYTES_PRINT(lookup.detail));
            code = lookup.reason == LOOKUP_REASON_MISCONFIGURED ? EX_CONFIG : EX_TEMPFAIL;
        } else {
            printf("%s: aliases can be read; nothing to build\n", config->domains[i].name);
        }
        arena_clear(&arena);
    }
    directory_close(directory);
    return code;
}

int sendmail_aliases(const struct sendmail_options *options)
{
    struct config *config = app_config_open(options->config_file);

    if (!config)
        return EX_CONFIG;
    const int code = world_run(check_aliases, config, 1);
    config_free(config);
    return code;
}
