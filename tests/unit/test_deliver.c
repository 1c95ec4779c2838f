/*
 * deliver against scripted next hops over loopback, with a spool in memory: what each reply,
 * silence and cut at each stage means, and what goes over the wire.
 */
#include "real_world.h"
#include "fake_spool.h"
#include "scripted_peer.h"

#include <errno.h>
#include <unistd.h>

#include "deliver/deliver.h"

#define RECIPIENTS_MAX 300
#define EHLO "> 220 peer ESMTP\n< EHLO mx.test\n> 250-peer\n> 250-SIZE 1000000\n> 250 8BITMIME\n"
#define EHLO_PIPE "> 220 peer ESMTP\n< EHLO mx.test\n> 250-peer\n> 250-DSN\n> 250 PIPELINING\n"
#define LHLO "> 220 peer LMTP\n< LHLO mx.test\n> 250-peer\n> 250 PIPELINING\n"
#define QUIT "< QUIT\n> 221 bye\n"
#define TAKE                                                                                       \
    "< MAIL FROM:<a@sender.test>\n> 250 ok\n< RCPT TO:<r0@x.test>\n> 250 ok\n< DATA\n> 354 "       \
    "go\n.\n> 250 2.0.0 queued as 1\n"
#define BODY "Subject: hi\r\n\r\n.dot\r\nbody\r\n"

struct scene {
    struct config config;
    struct config_listen listen;
    struct spool *spool;
    struct deliver *deliver;
    struct deliver_settings settings;
    struct peer peer;
    struct arena arena;
    struct envelope envelope;
    struct recipient recipients[RECIPIENTS_MAX];
    uint32_t indexes[RECIPIENTS_MAX];
    struct outcome outcomes[RECIPIENTS_MAX];
    struct destination to;
    struct deliver_channel *channel;
    const char *body;
    bool host_failed;
    unsigned extra_count; /* of recipients */
};

static struct scene *scene_new(const char *const *scripts, enum deliver_kind kind)
{
    struct scene *scene = calloc(1, sizeof(*scene));

    INVARIANT(scene);
    scene->spool = calloc(1, sizeof(*scene->spool));
    INVARIANT(scene->spool);
    const uint16_t port = scripts ? peer_start(&scene->peer, scripts) : 1;
    scene->config.hostname = "mx.test";
    scene->config.smtp_port = port;
    scene->config.relay_via = (struct config_deliver){
        .kind = kind,
        .target = BYTES_LITERAL("127.0.0.1"),
        .endpoint = {.family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}}, .port = port}};
    scene->settings = (struct deliver_settings){.config = &scene->config, .spool = scene->spool};
    scene->arena = ARENA_WITH_LIMIT(16 * MIB);
    scene->envelope = (struct envelope){.from = {BYTES_LITERAL("a"), BYTES_LITERAL("sender.test")},
                                        .recipients = scene->recipients,
                                        .accepted_wall_us = clock_wall_us()};
    scene->body = BODY;
    return scene;
}

static void scene_recipients(struct scene *scene, uint32_t count)
{
    static char names[RECIPIENTS_MAX][16];

    scene->envelope.recipient_count = count;
    for (uint32_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof(names[i]), "r%u", i);
        scene->recipients[i].address =
            (struct address){bytes_of_text(names[i]), BYTES_LITERAL("x.test")};
        scene->indexes[i] = i;
    }
}

/* One attempt for `count` recipients; the channel stays open for the next. */
static void scene_send(struct scene *scene, uint32_t count)
{
    char why[256] = "";

    scene_recipients(scene, count);
    if (!scene->deliver)
        scene->deliver = deliver_open(&scene->settings, why, sizeof(why));
    INVARIANT(scene->deliver);
    if (!scene->channel) {
        deliver_route(scene->deliver, &scene->recipients[0], &scene->to);
        scene->channel = deliver_channel_open(scene->deliver, &scene->to);
    }
    const struct fake_message *stored =
        fake_add(scene->spool, &scene->envelope, bytes_of_text(scene->body));
    struct queued_message *message = NULL;
    CHECK(spool_take_id(scene->spool, stored->id, &message).status == LOOKUP_FOUND);
    struct attempt attempt = {.to = &scene->to,
                              .message = message,
                              .recipients = scene->indexes,
                              .recipient_count = count,
                              .outcomes = scene->outcomes,
                              .arena = &scene->arena};
    deliver_attempt(scene->channel, &attempt, &scene->host_failed);
    spool_release(scene->spool, message);
}

static void scene_end(struct scene *scene)
{
    deliver_channel_close(scene->channel);
    if (scene->peer.scripts)
        peer_finish(&scene->peer);
    deliver_close(scene->deliver);
    arena_clear(&scene->arena);
    fake_free(scene->spool);
    free(scene);
}

static void check_outcome(const struct outcome *outcome, enum cause cause, enum stage stage,
                          unsigned code)
{
    if (outcome->verdict.cause != cause || outcome->stage != stage || outcome->code != code)
        fprintf(stderr, "outcome: %s at %s, %u '%.*s'; expected %s at %s, %u\n",
                cause_name(outcome->verdict.cause), stage_name(outcome->stage), outcome->code,
                BYTES_PRINT(outcome->reply), cause_name(cause), stage_name(stage), code);
    CHECK(outcome->verdict.cause == cause && outcome->stage == stage && outcome->code == code);
    CHECK(outcome->verdict.kind == cause_row(cause)->kind);
}

/* ------------------------------------------------------------------ what goes over the wire */

WORLD(test_plain_session)
{
    static const char *const SCRIPTS[] = {
        EHLO "< MAIL FROM:<a@sender.test> SIZE=27\n> 250 ok\n< RCPT TO:<r0@x.test>\n> 250 ok\n< "
             "DATA\n> 354 go\n.\n> 250-2.0.0 fine\n> 250 2.0.0 queued\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    CHECK(bytes_equal_text(scene->outcomes[0].reply, "250-2.0.0 fine\n250 2.0.0 queued"));
    CHECK(bytes_equal_text(scene->outcomes[0].enhanced, "2.0.0"));
    CHECK(bytes_starts_with(scene->outcomes[0].host, BYTES_LITERAL("127.0.0.1:")));
    CHECK(!scene->outcomes[0].dsn_passed_on && !scene->host_failed);
    CHECK(peer_heard(&scene->peer, BODY));
    scene_end(scene);
    return 0;
}

WORLD(test_pipelined_with_dsn)
{
    static const char *const SCRIPTS[] = {
        EHLO_PIPE "< MAIL FROM:<a@sender.test> RET=HDRS ENVID=a+2Bb\n< RCPT TO:<r0@x.test> "
                  "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;q+20q@x.test\n< RCPT TO:<r1@x.test> "
                  "NOTIFY=NEVER\n< DATA\n> 250 ok\n> 250 ok\n> 550 5.1.1 who?\n> 354 go\n.\n> 250 "
                  "ok\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->envelope.dsn_return = RETURN_HEADERS;
    scene->envelope.envelope_id = BYTES_LITERAL("a+b");
    scene->recipients[0].notify = NOTIFY_SUCCESS | NOTIFY_DELAY;
    scene->recipients[0].original = BYTES_LITERAL("rfc822;q q@x.test");
    scene->recipients[1].notify = NOTIFY_NEVER;
    scene_send(scene, 2);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    check_outcome(&scene->outcomes[1], CAUSE_REMOTE_REFUSED, STAGE_RCPT, 550);
    CHECK(scene->outcomes[0].dsn_passed_on);
    scene_end(scene);
    return 0;
}

WORLD(test_helo_for_old_peers)
{
    static const char *const SCRIPTS[] = {
        "> 220 old\n< EHLO mx.test\n> 500 what?\n< HELO mx.test\n> 250 hello\n< MAIL "
        "FROM:<a@sender.test>\n> 250 ok\n< RCPT TO:<r0@x.test>\n> 251 will forward\n< DATA\n> 354 "
        "go\n.\n> 250 ok\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene_end(scene);
    return 0;
}

WORLD(test_connection_is_reused)
{
    static const char *const SCRIPTS[] = {EHLO TAKE TAKE QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 1);
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene_end(scene);
    return 0;
}

/* Dead, or tired of us, before MAIL was answered: a new connection, and nobody notices. */
WORLD(test_dead_kept_connection_is_replaced)
{
    static const char *const SCRIPTS[] = {EHLO TAKE,
                                          EHLO TAKE "< MAIL\n> 421 4.7.0 enough\n",
                                          EHLO TAKE "< MAIL\nreset\n",
                                          EHLO TAKE "> 421 idle too long\n",
                                          EHLO TAKE QUIT,
                                          NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    for (unsigned i = 0; i < 5; i++) {
        scene_send(scene, 1);
        check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    }
    scene_end(scene);
    return 0;
}

WORLD(test_reset_after_a_refused_recipient)
{
    static const char *const SCRIPTS[] = {
        EHLO "< MAIL\n> 250 ok\n< RCPT\n> 550 5.1.1 no\n< RSET\n> 250 ok\n" TAKE QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_REMOTE_REFUSED, STAGE_RCPT, 550);
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene_end(scene);
    return 0;
}

WORLD(test_large_body_streams)
{
    static const char *const SCRIPTS[] = {EHLO TAKE QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);
    struct buffer body = BUFFER_WITH_LIMIT(8 * MIB);

    buffer_add_text(&body, "Subject: large\r\n\r\n");
    for (unsigned i = 0; body.count < 900000; i++)
        buffer_print(&body, "%s line %u of many\r\n", i % 7 == 0 ? "." : "", i);
    buffer_add_byte(&body, 0);
    scene->body = (const char *)body.at;
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    CHECK(peer_heard(&scene->peer, scene->body));
    buffer_free(&body);
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ each stage's replies */

struct row {
    const char *name;
    const char *script;
    enum cause cause;
    enum stage stage;
    unsigned code;
    bool host_failed;
};

#define TO_MAIL EHLO "< MAIL\n"
#define TO_RCPT TO_MAIL "> 250 ok\n< RCPT\n"
#define TO_DATA TO_RCPT "> 250 ok\n< DATA\n"
#define TO_DOT TO_DATA "> 354 go\n.\n"

static const struct row ROWS[] = {
    {"banner 4yz", "> 421 4.3.2 busy\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_BANNER, 421, true},
    {"banner 5yz of a configured hop", "> 554 no\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_BANNER, 554,
     true},
    {"banner garbage", "> SSH-2.0-OpenSSH\nhang\n", CAUSE_REMOTE_GARBLED, STAGE_BANNER, 0, true},
    {"banner closed", "", CAUSE_SESSION_LOST, STAGE_BANNER, 0, true},
    {"banner half", ">> 220 pe", CAUSE_SESSION_LOST, STAGE_BANNER, 0, true},
    {"ehlo 4yz", "> 220 p\n< EHLO\n> 450 later\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_EHLO, 450,
     true},
    {"ehlo closed", "> 220 p\n< EHLO\n", CAUSE_SESSION_LOST, STAGE_EHLO, 0, true},
    {"mail 4yz", TO_MAIL "> 452 4.3.1 full\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_MAIL, 452, false},
    {"mail 5yz", TO_MAIL "> 550 5.7.1 no\n" QUIT, CAUSE_REMOTE_REFUSED, STAGE_MAIL, 550, false},
    {"mail 421", TO_MAIL "> 421 4.3.2 bye\n", CAUSE_REMOTE_DEFERRED, STAGE_MAIL, 421, false},
    {"mail closed", TO_MAIL, CAUSE_SESSION_LOST, STAGE_MAIL, 0, false},
    {"mail reset", TO_MAIL "reset\n", CAUSE_SESSION_LOST, STAGE_MAIL, 0, false},
    {"mail wrong class", TO_MAIL "> 354 go\nhang\n", CAUSE_REMOTE_GARBLED, STAGE_MAIL, 354, false},
    {"rcpt 4yz", TO_RCPT "> 451 4.7.1 Greylisted\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_RCPT, 451,
     false},
    {"rcpt 5yz", TO_RCPT "> 550 5.1.1 no\n" QUIT, CAUSE_REMOTE_REFUSED, STAGE_RCPT, 550, false},
    {"rcpt 552 plain", TO_RCPT "> 552 too many\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_RCPT, 552,
     false},
    {"rcpt 552 5.5.3", TO_RCPT "> 552 5.5.3 too many\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_RCPT,
     552, false},
    {"rcpt 552 5.2.2", TO_RCPT "> 552 5.2.2 full\n" QUIT, CAUSE_REMOTE_REFUSED, STAGE_RCPT, 552,
     false},
    {"rcpt unknown 4yz code", TO_RCPT "> 499 hm\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_RCPT, 499,
     false},
    {"rcpt garbage", TO_RCPT "> hello there\nhang\n", CAUSE_REMOTE_GARBLED, STAGE_RCPT, 0, false},
    {"rcpt reset", TO_RCPT "reset\n", CAUSE_SESSION_LOST, STAGE_RCPT, 0, false},
    {"data 4yz", TO_DATA "> 451 later\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_DATA, 451, false},
    {"data 5yz", TO_DATA "> 554 no\n" QUIT, CAUSE_REMOTE_REFUSED, STAGE_DATA, 554, false},
    {"data 250", TO_DATA "> 250 ok\nhang\n", CAUSE_REMOTE_GARBLED, STAGE_DATA, 250, false},
    {"data 350", TO_DATA "> 350 go on\ngone\n", CAUSE_REMOTE_GARBLED, STAGE_DATA, 350, false},
    {"consent before our dot", TO_DATA ">> 354 go\r|250 2.0.0 queued\r|\nhang\n",
     CAUSE_REMOTE_GARBLED, STAGE_DATA, 0, false},
    {"refusal before our dot", TO_DATA ">> 354 go\r|554 5.7.1 no\r|\nhang\n", CAUSE_REMOTE_REFUSED,
     STAGE_DATA, 554, false},
    {"data reset", TO_DATA "reset\n", CAUSE_SESSION_LOST, STAGE_DATA, 0, false},
    {"dot 4yz", TO_DOT "> 450-4.7.1 a\n> 450 4.7.1 b\n" QUIT, CAUSE_REMOTE_DEFERRED, STAGE_DOT, 450,
     false},
    {"dot 5yz", TO_DOT "> 550 5.7.1 spam\n" QUIT, CAUSE_REMOTE_REFUSED, STAGE_DOT, 550, false},
    {"dot 421", TO_DOT "> 421 4.3.2 bye\n", CAUSE_REMOTE_DEFERRED, STAGE_DOT, 421, false},
    {"dot 354", TO_DOT "> 354 more\nhang\n", CAUSE_REMOTE_GARBLED, STAGE_DOT, 354, false},
    {"dot closed", TO_DOT, CAUSE_AMBIGUOUS_DOT, STAGE_DOT, 0, false},
    {"dot reset", TO_DOT "reset\n", CAUSE_AMBIGUOUS_DOT, STAGE_DOT, 0, false},
    {"dot half", TO_DOT ">> 250 2.0.0 que", CAUSE_AMBIGUOUS_DOT, STAGE_DOT, 0, false},
    {"dot half of many", TO_DOT "> 250-2.0.0 queued\n", CAUSE_AMBIGUOUS_DOT, STAGE_DOT, 0, false},
};

WORLD(test_each_reply_at_each_stage)
{
    for (unsigned i = 0; i < COUNT_OF(ROWS); i++) {
        const int failed_before = checks_failed;
        const char *const scripts[] = {ROWS[i].script, NULL};
        struct scene *scene = scene_new(scripts, DELIVER_SMTP);
        scene_send(scene, 1);
        check_outcome(&scene->outcomes[0], ROWS[i].cause, ROWS[i].stage, ROWS[i].code);
        CHECK(scene->host_failed == ROWS[i].host_failed);
        scene_end(scene);
        if (checks_failed > failed_before)
            fprintf(stderr, "^^^ row: %s\n", ROWS[i].name);
    }
    return 0;
}

/* Silence at each stage, with deadlines shortened; the words of RFC 5321's minutes stay the
 * default. */
WORLD(test_silence_at_each_stage)
{
    static const struct {
        const char *script;
        enum cause cause;
        enum stage stage;
    } SILENCE[] = {
        {"hang\n", CAUSE_SESSION_TIMEOUT, STAGE_BANNER},
        {"> 220 p\n< EHLO\nhang\n", CAUSE_SESSION_TIMEOUT, STAGE_EHLO},
        {TO_MAIL "hang\n", CAUSE_SESSION_TIMEOUT, STAGE_MAIL},
        {TO_RCPT "hang\n", CAUSE_SESSION_TIMEOUT, STAGE_RCPT},
        {TO_DATA "hang\n", CAUSE_SESSION_TIMEOUT, STAGE_DATA},
        {TO_DOT "hang\n", CAUSE_AMBIGUOUS_DOT, STAGE_DOT},
        {TO_DOT ">> 250 \nhang\n", CAUSE_AMBIGUOUS_DOT, STAGE_DOT},
    };
    for (unsigned i = 0; i < COUNT_OF(SILENCE); i++) {
        const char *const scripts[] = {SILENCE[i].script, NULL};
        struct scene *scene = scene_new(scripts, DELIVER_SMTP);
        const uint64_t shortly_us = 300 * US_PER_MS;
        scene->settings.timeouts = (struct deliver_timeouts){.greeting_us = shortly_us,
                                                             .data_us = shortly_us,
                                                             .dot_us = shortly_us,
                                                             .quit_us = shortly_us};
        scene_send(scene, 1);
        check_outcome(&scene->outcomes[0], SILENCE[i].cause, SILENCE[i].stage, 0);
        scene_end(scene);
    }
    return 0;
}

WORLD(test_connection_refused)
{
    struct scene *scene = scene_new(NULL, DELIVER_SMTP); /* port 1: nobody listens */

    scene_send(scene, 3);
    for (unsigned i = 0; i < 3; i++)
        check_outcome(&scene->outcomes[i], CAUSE_CONNECT_REFUSED, STAGE_CONNECT, 0);
    CHECK(scene->host_failed);
    CHECK(scene->outcomes[0].reply.count > 0);
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ several recipients */

WORLD(test_each_recipient_has_its_own_reply)
{
    static const char *const SCRIPTS[] = {
        EHLO_PIPE "< MAIL\n< RCPT\n< RCPT\n< RCPT\n< DATA\n> 250 ok\n> 450 4.2.1 busy\n> 250 ok\n> "
                  "550 5.1.1 no\n> 354 go\n.\n> 250 ok\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 3);
    check_outcome(&scene->outcomes[0], CAUSE_REMOTE_DEFERRED, STAGE_RCPT, 450);
    check_outcome(&scene->outcomes[1], CAUSE_DELIVERED, STAGE_DOT, 250);
    check_outcome(&scene->outcomes[2], CAUSE_REMOTE_REFUSED, STAGE_RCPT, 550);
    scene_end(scene);
    return 0;
}

/* 452 after some were taken: the others go in the next transaction of the same session. */
WORLD(test_surplus_goes_in_the_next_transaction)
{
    static const char *const SCRIPTS[] = {
        EHLO_PIPE
        "< MAIL\n< RCPT TO:<r0@\n< RCPT TO:<r1@\n< RCPT TO:<r2@\n< DATA\n> 250 ok\n> 250 "
        "ok\n> 452 4.5.3 enough\n> 452 4.2.2 full\n> 354 go\n.\n> 250 ok\n"
        "< MAIL\n< RCPT TO:<r1@\n< DATA\n> 250 ok\n> 250 ok\n> 354 go\n.\n> 250 ok\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 3);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    check_outcome(&scene->outcomes[1], CAUSE_DELIVERED, STAGE_DOT, 250);
    check_outcome(&scene->outcomes[2], CAUSE_REMOTE_DEFERRED, STAGE_RCPT, 452);
    scene_end(scene);
    return 0;
}

/* 354 although nobody was taken: the only way to send nothing is to go away. */
WORLD(test_354_to_nobody)
{
    static const char *const SCRIPTS[] = {
        EHLO_PIPE "< MAIL\n< RCPT\n< DATA\n> 250 ok\n> 550 5.1.1 no\n> 354 go\ngone\n", NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_REMOTE_REFUSED, STAGE_RCPT, 550);
    scene_end(scene);
    return 0;
}

/* The connection ends at the second recipient: the first, though taken, has no message either. */
WORLD(test_lost_among_recipients)
{
    static const char *const SCRIPTS[] = {
        EHLO "< MAIL\n> 250 ok\n< RCPT\n> 250 ok\n< RCPT\nreset\n", NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 3);
    for (unsigned i = 0; i < 3; i++)
        check_outcome(&scene->outcomes[i], CAUSE_SESSION_LOST, STAGE_RCPT, 0);
    scene_end(scene);
    return 0;
}

/* 250 recipients: three transactions of at most 100, pipelined in groups, each taken once. */
WORLD(test_many_recipients)
{
    struct buffer script = BUFFER_WITH_LIMIT(MIB);

    buffer_add_text(&script, EHLO_PIPE);
    for (unsigned done = 0; done < 250; done += 100) {
        const unsigned here = MIN_OF(250 - done, 100u);
        buffer_add_text(&script, "< MAIL\n> 250 ok\n");
        for (unsigned i = 0; i < here; i++)
            buffer_print(&script, "< RCPT TO:<r%u@x.test>\n> 250 ok\n", done + i);
        buffer_add_text(&script, "< DATA\n> 354 go\n.\n> 250 ok\n");
    }
    buffer_add_text(&script, QUIT);
    buffer_add_byte(&script, 0);
    const char *const scripts[] = {(const char *)script.at, NULL};
    struct scene *scene = scene_new(scripts, DELIVER_SMTP);
    scene_send(scene, 250);
    for (unsigned i = 0; i < 250; i++)
        check_outcome(&scene->outcomes[i], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene_end(scene);
    buffer_free(&script);
    return 0;
}

/* ------------------------------------------------------------------ LMTP */

WORLD(test_lmtp_replies_for_each)
{
    static const char *const SCRIPTS[] = {
        LHLO
        "< MAIL\n< RCPT\n< RCPT\n< RCPT\n< RCPT\n< DATA\n> 250 ok\n> 250 ok\n> 550 5.1.1 no\n> "
        "250 ok\n> 250 ok\n> 354 go\n.\n> 250 2.0.0 saved\n> 452 4.2.2 full\n> 550 5.7.1 "
        "sieve\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_LMTP);

    scene_send(scene, 4);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    check_outcome(&scene->outcomes[1], CAUSE_REMOTE_REFUSED, STAGE_RCPT, 550);
    check_outcome(&scene->outcomes[2], CAUSE_REMOTE_DEFERRED, STAGE_DOT, 452);
    check_outcome(&scene->outcomes[3], CAUSE_REMOTE_REFUSED, STAGE_DOT, 550);
    scene_end(scene);
    return 0;
}

WORLD(test_lmtp_lost_between_replies)
{
    static const char *const SCRIPTS[] = {
        LHLO "< MAIL\n< RCPT\n< RCPT\n< DATA\n> 250 ok\n> 250 ok\n> 250 ok\n> 354 go\n.\n> 250 "
             "saved\n",
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_LMTP);

    scene_send(scene, 2);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    check_outcome(&scene->outcomes[1], CAUSE_AMBIGUOUS_DOT, STAGE_DOT, 0);
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ what the peer cannot take */

WORLD(test_larger_than_size)
{
    static const char *const SCRIPTS[] = {"> 220 p\n< EHLO\n> 250-p\n> 250 SIZE 20\n" QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_MESSAGE_TOO_BIG, STAGE_MAIL, 0);
    scene_end(scene);
    return 0;
}

#define PLAIN_EHLO "> 220 p\n< EHLO\n> 250 p\n"

WORLD(test_8bit_without_8bitmime)
{
    static const char *const SCRIPTS[] = {PLAIN_EHLO TAKE QUIT, PLAIN_EHLO QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->envelope.body = BODY_8BITMIME; /* declared, but plain ASCII: goes */
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    CHECK(!peer_heard(&scene->peer, "BODY="));
    deliver_channel_close(scene->channel);
    scene->channel = NULL;
    scene->body = "Subject: hi\r\n\r\n\xc3\xa4\r\n";
    scene->config.relay_sending.downgrade = DOWNGRADE_REFUSE;
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_REMOTE_NO_8BIT, STAGE_MAIL, 0);
    scene_end(scene);
    return 0;
}

/* By default it is converted; SIZE and the body are those of what is sent. What cannot be is
 * refused, unless the setting is to send it as it is. */
WORLD(test_8bit_is_converted)
{
    static const char *const SCRIPTS[] = {
        "> 220 p\n< EHLO\n> 250-p\n> 250 SIZE\n< MAIL FROM:<a@sender.test> SIZE=145\n> 250 ok\n< "
        "RCPT TO:<r0@x.test>\n> 250 ok\n< DATA\n> 354 go\n.\n> 250 ok\n" QUIT,
        PLAIN_EHLO QUIT, PLAIN_EHLO TAKE QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->envelope.body = BODY_8BITMIME;
    scene->body = "Subject: hi\r\n\r\n.\xc3\xa4 and more\r\n";
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    CHECK(peer_heard(&scene->peer, "\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
                                   ".=C3=A4 and more\r\n"));
    deliver_channel_close(scene->channel);
    scene->channel = NULL;
    scene->body = "Subject: \xc3\xa4\r\n\r\n\xc3\xa4\r\n";
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_REMOTE_NO_8BIT, STAGE_MAIL, 0);
    deliver_channel_close(scene->channel);
    scene->channel = NULL;
    scene->config.relay_sending.downgrade = DOWNGRADE_SEND;
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    CHECK(peer_heard(&scene->peer, "\r\n\r\n\xc3\xa4\r\n"));
    scene_end(scene);
    return 0;
}

/* RFC 3030: the size of the only chunk counts what stands on top, and what was converted. */
WORLD(test_bdat_with_delivered_to)
{
    static const char *const SCRIPTS[] = {
        "> 220 p\n< EHLO\n> 250-p\n> 250 CHUNKING\n< MAIL FROM:<a@sender.test>\n> 250 ok\n< "
        "RCPT TO:<r0@x.test>\n> 250 ok\n< BDAT 57 LAST\n< Delivered-To: list@here.test\n< Subject: "
        "hi\n< \n< .dot\n< body\n> 250 ok\n< MAIL\n> 250 ok\n< RCPT\n> 250 ok\n< "
        "BDAT "
        "175 LAST\n< Delivered-To: list@here.test\n< Subject: hi\n< MIME-Version: 1.0\n< "
        "Content-Type: "
        "text/plain; charset=unknown-8bit\n< Content-Transfer-Encoding: quoted-printable\n< \n< "
        ".=C3=A4 and "
        "more\n> 250 ok\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->config.chunking = true;
    scene->recipients[0].asked =
        (struct address){BYTES_LITERAL("list"), BYTES_LITERAL("here.test")};
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene->envelope.body = BODY_8BITMIME;
    scene->body = "Subject: hi\r\n\r\n.\xc3\xa4 and more\r\n";
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene_end(scene);
    return 0;
}

/* VERP goes by the sender on the wire: a list's owner, when it came through the list. */
WORLD(test_verp_of_an_owner)
{
    static const char *const SCRIPTS[] = {
        PLAIN_EHLO "< MAIL FROM:<owner-list+r0=x.test@here.test>\n> 250 ok\n< RCPT "
                   "TO:<r0@x.test>\n> 250 ok\n< "
                   "DATA\n> 354 go\n.\n> 250 ok\n< MAIL FROM:<owner-list+r1=x.test@here.test>\n> "
                   "250 ok\n< RCPT "
                   "TO:<r1@x.test>\n> 250 ok\n< DATA\n> 354 go\n.\n> 250 ok\n" QUIT,
        NULL};
    static struct config_verp rule = {"owner-list@here.test", '+'};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->config.verps = &rule;
    scene->config.verp_count = 1;
    for (unsigned i = 0; i < 2; i++) {
        scene->recipients[i].owner =
            (struct address){BYTES_LITERAL("owner-list"), BYTES_LITERAL("here.test")};
        scene->recipients[i].asked =
            (struct address){BYTES_LITERAL("list"), BYTES_LITERAL("here.test")};
    }
    scene_send(scene, 2);
    for (unsigned i = 0; i < 2; i++)
        check_outcome(&scene->outcomes[i], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene_end(scene);
    return 0;
}

WORLD(test_8bit_with_8bitmime)
{
    static const char *const SCRIPTS[] = {EHLO TAKE QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->envelope.body = BODY_8BITMIME;
    scene->body = "Subject: hi\r\n\r\n\xc3\xa4\r\n";
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    CHECK(peer_heard(&scene->peer, " BODY=8BITMIME"));
    scene_end(scene);
    return 0;
}

WORLD(test_smtputf8_not_offered)
{
    static const char *const SCRIPTS[] = {
        PLAIN_EHLO "< MAIL FROM:<a@sender.test>\n> 250 ok\n< RCPT TO:<r0@x.test>\n> 250 ok\n< "
                   "DATA\n> 354 go\n.\n> 250 ok\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->envelope.smtputf8 = true; /* asked for, but needed by nobody here */
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene->envelope.from.local = BYTES_LITERAL("\xc3\xa4");
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_REMOTE_NO_SMTPUTF8, STAGE_MAIL, 0);
    scene_end(scene);
    return 0;
}

/* A domain is as good in A-labels; a local part or a header beyond ASCII is not. */
WORLD(test_smtputf8_by_a_labels)
{
    static const char *const SCRIPTS[] = {
        PLAIN_EHLO
        "< MAIL FROM:<a@xn--bcher-kva.test>\n> 250 ok\n< RCPT TO:<r0@x.test>\n> 250 ok\n< "
        "DATA\n> 354 go\n.\n> 250 ok\n" QUIT,
        NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->envelope.smtputf8 = true;
    scene->envelope.from.domain = BYTES_LITERAL("b\xc3\xbc"
                                                "cher.test");
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_DELIVERED, STAGE_DOT, 250);
    scene->body = "Subject: \xc3\xa4\r\n\r\nx\r\n";
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_REMOTE_NO_SMTPUTF8, STAGE_MAIL, 0);
    scene_end(scene);
    return 0;
}

WORLD(test_tls_demanded_but_not_offered)
{
    static const char *const SCRIPTS[] = {PLAIN_EHLO QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->config.relay_tls = TLS_USE_MUST;
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_TLS_POLICY_UNMET, STAGE_TLS, 0);
    CHECK(scene->host_failed);
    scene_end(scene);
    return 0;
}

/* A message that asked for REQUIRETLS (RFC 8689) goes nowhere in clear, whatever the setting. */
WORLD(test_requiretls_is_not_dropped)
{
    static const char *const SCRIPTS[] = {PLAIN_EHLO QUIT, NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);

    scene->envelope.requiretls = true;
    scene_send(scene, 1);
    CHECK(scene->outcomes[0].verdict.cause == CAUSE_REQUIRETLS_UNMET);
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ faults of ours */

WORLD(test_damaged_body_is_never_sent)
{
    struct scene *scene = scene_new(NULL, DELIVER_SMTP);

    scene->spool->body_missing = true;
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_BODY_DAMAGED, STAGE_COMMIT, 0);
    CHECK(!scene->host_failed);
    scene_end(scene);
    return 0;
}

/* The disk fails in the middle of the body: the peer never sees a dot. */
WORLD(test_body_unreadable_half_way)
{
    static const char *const SCRIPTS[] = {TO_DATA "> 354 go\nhang\n", NULL};
    struct scene *scene = scene_new(SCRIPTS, DELIVER_SMTP);
    struct buffer body = BUFFER_WITH_LIMIT(MIB);

    for (unsigned i = 0; i < 20000; i++)
        buffer_add_text(&body, "12345678\r\n");
    buffer_add_byte(&body, 0);
    scene->body = (const char *)body.at;
    scene->spool->read_fails_at = 64 * KIB;
    scene_send(scene, 1);
    check_outcome(&scene->outcomes[0], CAUSE_LOCAL_FAILED, STAGE_DATA, 0);
    scene_end(scene);
    buffer_free(&body);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_session),
        cmocka_unit_test(test_pipelined_with_dsn),
        cmocka_unit_test(test_helo_for_old_peers),
        cmocka_unit_test(test_connection_is_reused),
        cmocka_unit_test(test_dead_kept_connection_is_replaced),
        cmocka_unit_test(test_reset_after_a_refused_recipient),
        cmocka_unit_test(test_large_body_streams),
        cmocka_unit_test(test_each_reply_at_each_stage),
        cmocka_unit_test(test_silence_at_each_stage),
        cmocka_unit_test(test_connection_refused),
        cmocka_unit_test(test_each_recipient_has_its_own_reply),
        cmocka_unit_test(test_surplus_goes_in_the_next_transaction),
        cmocka_unit_test(test_354_to_nobody),
        cmocka_unit_test(test_lost_among_recipients),
        cmocka_unit_test(test_many_recipients),
        cmocka_unit_test(test_lmtp_replies_for_each),
        cmocka_unit_test(test_lmtp_lost_between_replies),
        cmocka_unit_test(test_larger_than_size),
        cmocka_unit_test(test_8bit_without_8bitmime),
        cmocka_unit_test(test_8bit_is_converted),
        cmocka_unit_test(test_bdat_with_delivered_to),
        cmocka_unit_test(test_verp_of_an_owner),
        cmocka_unit_test(test_smtputf8_by_a_labels),
        cmocka_unit_test(test_8bit_with_8bitmime),
        cmocka_unit_test(test_smtputf8_not_offered),
        cmocka_unit_test(test_tls_demanded_but_not_offered),
        cmocka_unit_test(test_requiretls_is_not_dropped),
        cmocka_unit_test(test_damaged_body_is_never_sent),
        cmocka_unit_test(test_body_unreadable_half_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
