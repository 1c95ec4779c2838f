/*
 * The house of the talks (tests/talk/README.md): receive with its doors open, a stand-in spool and
 * policy, and the talks themselves. Works in either world.
 */
#ifndef TESTS_RECEIVE_TALKS_H
#define TESTS_RECEIVE_TALKS_H

#include <dirent.h>

#include "../sim/talk_player.h"
#include "receive_house.h"

enum { TALKS_MAX = 64 };

static struct talk_text {
    char name[64];
    struct buffer text;
} talks[TALKS_MAX];
static unsigned talk_count;

static struct config_listen listens[] = {
    {.name = "smtp", .kind = LISTEN_SMTP, .tls = TLS_MODE_STARTTLS},
    {.name = "lmtp", .kind = LISTEN_LMTP, .tls = TLS_MODE_STARTTLS},
    {.name = "submission", .kind = LISTEN_SUBMISSION, .tls = TLS_MODE_STARTTLS},
};

static inline struct config doors_config(void)
{
    struct config config = house_config;

    for (size_t i = 0; i < COUNT_OF(listens); i++)
        if (!endpoint_parse(BYTES_LITERAL("127.0.0.1:0"), &listens[i].address))
            abort();
    config.listens = listens;
    config.listen_count = COUNT_OF(listens);
    config.limits.message_size = 65536;
    config.limits.recipients = 5;
    config.limits.errors = 6;
    config.limits.hops = 100;
    config.limits.connections = 100;
    config.limits.connections_per_client = 0;
    return config;
}

static inline const struct endpoint *address_of(void *receive, const char *listener)
{
    return receive_address(receive, listener);
}

static inline struct receive *doors_open(const struct config *config)
{
    const struct receive_settings settings = {.config = config};
    char why[256] = "";
    struct receive *receive = receive_open(&settings, why, sizeof why);

    if (!receive)
        fprintf(stderr, "receive_open: %s\n", why);
    return receive;
}

/* ------------------------------------------------------------------ talks */

static inline void play_one(const struct talk_text *talk, const struct talk_house *rooms,
                            bool bytewise)
{
    char why[512] = "";
    const enum talk_result result = talk_play(buffer_view(&talk->text), rooms, bytewise,
                                              (struct span){(uint8_t *)why, sizeof why});

    if (result == TALK_FAILED)
        fprintf(stderr, "%s%s: %s\n", talk->name, bytewise ? ", byte by byte" : "", why);
    CHECK(result != TALK_FAILED);
    house_clear();
}

static inline void load_talks(const char *folder)
{
    DIR *directory = opendir(folder);
    char path[4096];

    for (struct dirent *entry = NULL; directory && (entry = readdir(directory)) != NULL;) {
        const struct bytes name = bytes_of_text(entry->d_name);
        if (!bytes_ends_with_nocase(name, BYTES_LITERAL(".talk")) || talk_count == TALKS_MAX)
            continue;
        struct talk_text *talk = &talks[talk_count++];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        snprintf(talk->name, sizeof talk->name, "%.60s", entry->d_name);
        talk->text = BUFFER_WITH_LIMIT(MIB);
        if (!talk_load(path, &talk->text))
            abort();
    }
    if (directory)
        closedir(directory);
}

#endif
