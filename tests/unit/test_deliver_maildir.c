/*
 * deliver into Maildirs under a fresh folder: what is written, what a repeat after a crash leaves,
 * which addresses never become a path, and what the file system's faults mean. Routes, too.
 */
#include "real_world.h"
#include "fake_spool.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "deliver/deliver.h"

struct place {
    char root[64], target[128];
    struct config config;
    struct config_domain domain;
    struct spool *spool;
    struct deliver *deliver;
    struct arena arena;
    struct envelope envelope;
    struct recipient recipient;
    struct outcome outcome;
    const char *body;
    uint32_t attempts; /* made before, as the queue has it */
    uint64_t id;       /* of the message to deliver again; 0: a new one */
};

static struct place *place_new(const char *template)
{
    struct place *place = calloc(1, sizeof(*place));
    char why[256];

    INVARIANT(place);
    snprintf(place->root, sizeof(place->root), "/tmp/holdfast-maildir-XXXXXX");
    INVARIANT(mkdtemp(place->root));
    snprintf(place->target, sizeof(place->target), "%s/%s", place->root, template);
    place->spool = calloc(1, sizeof(*place->spool));
    INVARIANT(place->spool);
    place->domain = (struct config_domain){
        .name = "demo.example",
        .users = "",
        .tag_separator = '+',
        .deliver = {.kind = DELIVER_MAILDIR, .target = bytes_of_text(place->target)}};
    place->config.hostname = "mx.test";
    place->config.domains = &place->domain;
    place->config.domain_count = 1;
    const struct deliver_settings settings = {.config = &place->config, .spool = place->spool};
    place->deliver = deliver_open(&settings, why, sizeof(why));
    INVARIANT(place->deliver);
    place->arena = ARENA_WITH_LIMIT(MIB);
    place->recipient.address = (struct address){BYTES_LITERAL("u"), BYTES_LITERAL("demo.example")};
    place->envelope = (struct envelope){.from = {BYTES_LITERAL("a"), BYTES_LITERAL("x.test")},
                                        .recipients = &place->recipient,
                                        .recipient_count = 1,
                                        .accepted_wall_us = clock_wall_us()};
    place->body = "Subject: hi\r\n\r\nline\r\nbare \r cr\r\n";
    return place;
}

static void place_end(struct place *place)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", place->root);
    CHECK(system(command) == 0);
    deliver_close(place->deliver);
    arena_clear(&place->arena);
    fake_free(place->spool);
    free(place);
}

static enum cause place_deliver(struct place *place)
{
    const uint32_t index = 0;
    struct destination to;
    struct queued_message *message = NULL;
    bool host_failed = true;

    deliver_route(place->deliver, &place->recipient, &to);
    struct deliver_channel *channel = deliver_channel_open(place->deliver, &to);
    if (place->id == 0)
        place->id = fake_add(place->spool, &place->envelope, bytes_of_text(place->body))->id;
    CHECK(spool_take_id(place->spool, place->id, &message).status == LOOKUP_FOUND);
    message->recipients[0].attempts = place->attempts;
    struct attempt attempt = {.to = &to,
                              .message = message,
                              .recipients = &index,
                              .recipient_count = 1,
                              .outcomes = &place->outcome,
                              .arena = &place->arena};
    deliver_attempt(channel, &attempt, &host_failed);
    CHECK(!host_failed);
    spool_release(place->spool, message);
    deliver_channel_close(channel);
    CHECK(place->outcome.verdict.kind == cause_row(place->outcome.verdict.cause)->kind);
    return place->outcome.verdict.cause;
}

/* How many files a folder has; the last one's path goes into `found`. */
static unsigned count_in(const struct place *place, const char *folder, char *found, size_t room)
{
    char path[512];
    unsigned count = 0;

    snprintf(path, sizeof(path), "%s/%s", place->root, folder);
    DIR *directory = opendir(path);
    for (const struct dirent *entry; directory && (entry = readdir(directory));) {
        if (entry->d_name[0] == '.')
            continue;
        count++;
        snprintf(found, room, "%s/%.200s", path, entry->d_name);
    }
    if (directory)
        closedir(directory);
    return count;
}

static size_t read_file(const char *path, char *into, size_t room)
{
    FILE *file = fopen(path, "r");
    const size_t count = file ? fread(into, 1, room - 1, file) : 0;

    into[count] = 0;
    if (file)
        fclose(file);
    return count;
}

WORLD(test_a_message_is_written_as_readers_expect)
{
    struct place *place = place_new("mail/{domain}/{user}");
    char path[1024] = "", text[1024];
    struct stat facts;

    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "mail/demo.example/u/new", path, sizeof(path)) == 1);
    read_file(path, text, sizeof(text));
    CHECK(strcmp(text, "Return-Path: <a@x.test>\nDelivered-To: u@demo.example\nSubject: hi\n\n"
                       "line\nbare \r cr\n") == 0);
    CHECK(strchr(strrchr(path, '/'), ':') == NULL);
    CHECK(stat(path, &facts) == 0 && (facts.st_mode & 0777) == 0600);
    snprintf(path, sizeof(path), "%s/mail/demo.example/u", place->root);
    CHECK(stat(path, &facts) == 0 && (facts.st_mode & 0777) == 0700);
    CHECK(count_in(place, "mail/demo.example/u/tmp", path, sizeof(path)) == 0);
    CHECK(bytes_ends_with_nocase(place->outcome.host, BYTES_LITERAL("mail/demo.example/u")));
    place_end(place);
    return 0;
}

WORLD(test_null_sender_and_empty_body)
{
    struct place *place = place_new("{user}");
    char path[1024] = "", text[256];

    place->envelope.from = (struct address){0};
    place->body = "";
    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 1);
    read_file(path, text, sizeof(text));
    CHECK(strcmp(text, "Return-Path: <>\nDelivered-To: u@demo.example\n") == 0);
    place_end(place);
    return 0;
}

/* CR LF cut by the end of a 64 KiB piece is one line end all the same. */
WORLD(test_line_ends_over_pieces)
{
    struct place *place = place_new("{user}");
    char path[1024] = "";
    const size_t count = 3 * 64 * KIB;
    char *body = calloc(1, count + 1), *text = calloc(1, count + 1024);

    INVARIANT(body && text);
    memset(body, 'x', count);
    for (size_t at = 63; at + 1 < count; at += 64)
        memcpy(body + at, "\r\n", 2); /* line ends at 63, so that one lies on every border */
    place->body = body;
    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 1);
    read_file(path, text, count + 1024);
    CHECK(strchr(text, '\r') == NULL);
    size_t lines = 0, expected = 2;
    for (const char *at = text; *at; at++)
        lines += *at == '\n';
    for (size_t at = 63; at + 1 < count; at += 64)
        expected++;
    CHECK(lines == expected);
    free(body);
    free(text);
    place_end(place);
    return 0;
}

/* A crash between the rename and its settlement: the message comes again, the reader has it once.
 */
WORLD(test_repeat_leaves_one_copy)
{
    struct place *place = place_new("{user}");
    char path[1024] = "", moved[1100], name[256];

    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 1);
    snprintf(name, sizeof(name), "%.200s", strrchr(path, '/') + 1);
    snprintf(moved, sizeof(moved), "%s/u/cur/%s:2,S", place->root, name);
    CHECK(rename(path, moved) == 0); /* the reader took it */
    place->attempts = 1;
    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 0);
    CHECK(count_in(place, "u/cur", path, sizeof(path)) == 1);
    /* Another message has another name. */
    place->id = 0;
    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 1);
    place_end(place);
    return 0;
}

WORLD(test_leftover_in_tmp_is_replaced)
{
    struct place *place = place_new("{user}");
    char path[1024] = "", left[1100], text[256];

    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 1);
    snprintf(left, sizeof(left), "%s/u/tmp/%.200s", place->root, strrchr(path, '/') + 1);
    CHECK(unlink(path) == 0);
    FILE *file = fopen(left, "w");
    CHECK(file && fputs("half a mess", file) >= 0 && fclose(file) == 0);
    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/tmp", left, sizeof(left)) == 0);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 1);
    read_file(path, text, sizeof(text));
    CHECK(strncmp(text, "Return-Path", 11) == 0);
    place_end(place);
    return 0;
}

WORLD(test_tags)
{
    struct place *place = place_new("{user}/{tag}");
    char path[1024] = "";

    place->recipient.address.local = BYTES_LITERAL("u+list");
    CHECK(place_deliver(place) == CAUSE_DELIVERED);
    CHECK(count_in(place, "u/list/new", path, sizeof(path)) == 1);
    place->id = 0;
    place->recipient.address.local = BYTES_LITERAL("u+../../v");
    CHECK(place_deliver(place) == CAUSE_MAILBOX_MISCONFIGURED);
    place_end(place);
    return 0;
}

WORLD(test_addresses_that_are_no_path)
{
    static const struct bytes NAMES[] = {
        BYTES_LITERAL(".."),
        BYTES_LITERAL("."),
        BYTES_LITERAL(".hidden"),
        BYTES_LITERAL("a/b"),
        BYTES_LITERAL("../../etc"),
        BYTES_LITERAL("/etc"),
        BYTES_LITERAL("a\0b"),
        BYTES_LITERAL("a\nb"),
        BYTES_LITERAL("../u"),
        BYTES_LITERAL("a\x7f"
                      "b"),
        BYTES_LITERAL("u/"),
    };
    struct place *place = place_new("{user}");
    char path[1024] = "";

    for (unsigned i = 0; i < COUNT_OF(NAMES); i++) {
        place->id = 0;
        place->recipient.address.local = NAMES[i];
        CHECK(place_deliver(place) == CAUSE_MAILBOX_MISCONFIGURED);
    }
    CHECK(count_in(place, "", path, sizeof(path)) == 0);
    place_end(place);
    return 0;
}

WORLD(test_a_file_where_the_folder_should_be)
{
    struct place *place = place_new("file/{user}");
    char path[256];

    snprintf(path, sizeof(path), "%s/file", place->root);
    FILE *file = fopen(path, "w");
    CHECK(file && fclose(file) == 0);
    CHECK(place_deliver(place) == CAUSE_MAILBOX_MISCONFIGURED);
    CHECK(place->outcome.stage == STAGE_MAILBOX && place->outcome.reply.count > 0);
    place_end(place);
    return 0;
}

/* The file system takes no more: deferred, and no part of it stays. */
WORLD(test_file_system_takes_no_more)
{
    struct place *place = place_new("{user}");
    char path[1024] = "";
    char *body = calloc(1, 300 * KIB);
    struct rlimit former, small;

    INVARIANT(body);
    memset(body, 'x', 300 * KIB - 1);
    place->body = body;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &former) == 0);
    small = former;
    small.rlim_cur = 100 * KIB;
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK(place_deliver(place) == CAUSE_MAILBOX_FAILED);
    CHECK(setrlimit(RLIMIT_FSIZE, &former) == 0);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 0);
    CHECK(count_in(place, "u/tmp", path, sizeof(path)) == 0);
    CHECK(place_deliver(place) == CAUSE_DELIVERED); /* healed */
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 1);
    free(body);
    place_end(place);
    return 0;
}

/* Our disk fails while the stored body is read: nothing of it appears in the mailbox. */
WORLD(test_stored_body_unreadable)
{
    struct place *place = place_new("{user}");
    char path[1024] = "";
    char *body = calloc(1, 200 * KIB);

    INVARIANT(body);
    memset(body, 'x', 200 * KIB - 1);
    place->body = body;
    place->spool->read_fails_at = 64 * KIB;
    CHECK(place_deliver(place) == CAUSE_LOCAL_FAILED);
    place->spool->body_missing = true;
    CHECK(place_deliver(place) == CAUSE_BODY_DAMAGED);
    CHECK(count_in(place, "u/new", path, sizeof(path)) == 0);
    CHECK(count_in(place, "u/tmp", path, sizeof(path)) == 0);
    free(body);
    place_end(place);
    return 0;
}

/* ------------------------------------------------------------------ routes */

/* In the order that config keeps: by name. */
static struct config_domain route_domains[] = {
    {.name = "lmtp.example",
     .deliver = {.kind = DELIVER_LMTP, .target = BYTES_LITERAL("unix:/run/lmtp")}},
    {.name = "local.example",
     .deliver = {.kind = DELIVER_MAILDIR, .target = BYTES_LITERAL("/m/{user}")}},
    {.name = "none.example"},
};
static struct config_route route_routes[] = {
    {.domain = "local.example", .via = {.kind = DELIVER_SMTP, .target = BYTES_LITERAL("h:25")}},
    {.domain = "mx.example", .tls = TLS_USE_DANE},
    {.domain = "safe.example",
     .via = {.kind = DELIVER_SMTP, .target = BYTES_LITERAL("127.0.0.1:2626")},
     .tls = TLS_USE_MUST},
    {.domain = "shop.example",
     .via = {.kind = DELIVER_SMTP, .target = BYTES_LITERAL("127.0.0.1:2626")}},
};

static int routes_main(void *argument UNUSED)
{
    static const struct {
        const char *domain, *key, *key_with_relay;
        enum deliver_kind kind;
    } EXPECTED[] = {
        {"local.example", "maildir:local.example", NULL, DELIVER_MAILDIR},
        {"", "lmtp:unix:/run/lmtp", NULL, DELIVER_LMTP}, /* <postmaster>: the first domain's */
        {"lmtp.example", "lmtp:unix:/run/lmtp", NULL, DELIVER_LMTP},
        {"none.example", "none:none.example", NULL, DELIVER_NONE},
        {"shop.example", "smtp:127.0.0.1:2626", NULL, DELIVER_SMTP},
        {"safe.example", "smtp:127.0.0.1:2626,tls=must", NULL, DELIVER_SMTP},
        {"mx.example", "mx:mx.example", NULL, DELIVER_SMTP},
        {"else.example", "mx:else.example", "smtp:relay:25", DELIVER_SMTP},
        {"[192.0.2.1]", "mx:[192.0.2.1]", "smtp:relay:25", DELIVER_SMTP},
    };
    struct config config = {.hostname = "mx.test",
                            .domains = route_domains,
                            .domain_count = COUNT_OF(route_domains),
                            .routes = route_routes,
                            .route_count = COUNT_OF(route_routes)};
    const struct deliver_settings settings = {.config = &config};
    char why[256];
    struct deliver *deliver = deliver_open(&settings, why, sizeof(why));

    for (unsigned relay = 0; relay < 2; relay++) {
        if (relay)
            config.relay_via =
                (struct config_deliver){.kind = DELIVER_SMTP, .target = BYTES_LITERAL("relay:25")};
        for (unsigned i = 0; i < COUNT_OF(EXPECTED); i++) {
            const char *key =
                relay && EXPECTED[i].key_with_relay ? EXPECTED[i].key_with_relay : EXPECTED[i].key;
            struct destination to;
            const struct recipient recipient = {
                .address = {BYTES_LITERAL("u"), bytes_of_text(EXPECTED[i].domain)}};
            deliver_route(deliver, &recipient, &to);
            CHECK(strcmp(to.key, key) == 0);
            CHECK(to.kind == EXPECTED[i].kind);
            CHECK((to.via == NULL) == (strncmp(to.key, "mx:", 3) == 0));
        }
    }
    deliver_close(deliver);
    return 0;
}

static void test_routes(void **state)
{
    (void)state;
    in_world(routes_main, NULL, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_message_is_written_as_readers_expect),
        cmocka_unit_test(test_null_sender_and_empty_body),
        cmocka_unit_test(test_line_ends_over_pieces),
        cmocka_unit_test(test_repeat_leaves_one_copy),
        cmocka_unit_test(test_leftover_in_tmp_is_replaced),
        cmocka_unit_test(test_tags),
        cmocka_unit_test(test_addresses_that_are_no_path),
        cmocka_unit_test(test_a_file_where_the_folder_should_be),
        cmocka_unit_test(test_file_system_takes_no_more),
        cmocka_unit_test(test_stored_body_unreadable),
        cmocka_unit_test(test_routes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
