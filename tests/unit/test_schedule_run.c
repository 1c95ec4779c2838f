/*
 * The scheduler at work: a spool in memory, the real deliver, scripted next hops and Maildirs. Each
 * message ends exactly once, whatever fails; retry times are shortened by the configuration.
 */
#include "real_world.h"
#include "fake_spool.h"
#include "scripted_peer.h"

#include <dirent.h>
#include <unistd.h>

#include "schedule/schedule.h"

#define HELLO "> 220 peer\n< EHLO\n> 250 peer\n"
#define TO_RCPT "< MAIL\n> 250 ok\n< RCPT\n"
#define REST "> 250 ok\n< DATA\n> 354 go\n.\n> 250 ok\n"
#define QUIT "< QUIT\n> 221 bye\n"

struct house {
    char root[64], target[128];
    struct config config;
    struct config_domain domain;
    struct config_route route;
    struct config_retry_step step;
    struct spool *spool;
    struct deliver *deliver;
    struct schedule *schedule;
    struct peer peer;
    uint64_t share_after_us;
};

/* Mail for home.example goes into Maildirs, for far.example to the peer, or to a closed port. */
static struct house *house_new(const char *const *scripts)
{
    struct house *house = calloc(1, sizeof(*house));
    char why[256];

    INVARIANT(house);
    snprintf(house->root, sizeof(house->root), "/tmp/holdfast-schedule-XXXXXX");
    INVARIANT(mkdtemp(house->root));
    snprintf(house->target, sizeof(house->target), "%s/{user}", house->root);
    house->spool = calloc(1, sizeof(*house->spool));
    INVARIANT(house->spool);
    const uint16_t port = scripts ? peer_start(&house->peer, scripts) : 1;
    house->domain = (struct config_domain){
        .name = "home.example",
        .users = "",
        .deliver = {.kind = DELIVER_MAILDIR, .target = bytes_of_text(house->target)}};
    house->route = (struct config_route){
        .domain = "far.example",
        .via = {.kind = DELIVER_SMTP,
                .target = BYTES_LITERAL("127.0.0.1:far"),
                .endpoint = {ENDPOINT_IPV4, {ENDPOINT_IPV4, {127, 0, 0, 1}}, port, ""}}};
    house->step = (struct config_retry_step){20 * US_PER_MS, 0};
    house->config = (struct config){.hostname = "mx.test",
                                    .spool = house->root,
                                    .domains = &house->domain,
                                    .domain_count = 1,
                                    .routes = &house->route,
                                    .route_count = 1,
                                    .retry = {.steps = &house->step,
                                              .step_count = 1,
                                              .warn_after_us = 3600 * US_PER_S,
                                              .expire_after_us = 7200 * US_PER_S,
                                              .ambiguous_pause_us = 50 * US_PER_MS,
                                              .jitter_percent = 10}};
    const struct deliver_settings settings = {.config = &house->config, .spool = house->spool};
    house->deliver = deliver_open(&settings, why, sizeof(why));
    INVARIANT(house->deliver);
    return house;
}

static void house_open(struct house *house)
{
    const struct schedule_settings settings = {.config = &house->config,
                                               .spool = house->spool,
                                               .deliver = house->deliver,
                                               .share_after_us = house->share_after_us};
    char why[256];

    house->schedule = schedule_open(&settings, why, sizeof(why));
    INVARIANT(house->schedule);
}

static void house_end(struct house *house)
{
    char command[128];

    schedule_stop(house->schedule, SOON_ENOUGH);
    schedule_close(house->schedule);
    if (house->peer.scripts)
        peer_finish(&house->peer);
    for (unsigned i = 0; i < FAKE_MESSAGES; i++)
        CHECK(!house->spool->messages[i].leased);
    snprintf(command, sizeof(command), "rm -rf %s", house->root);
    CHECK(system(command) == 0);
    deliver_close(house->deliver);
    fake_free(house->spool);
    free(house);
}

struct letter {
    const char *from, *to[4]; /* local part @ domain */
    unsigned notify;
    int64_t age_us;
};

static struct address address_of(const char *text)
{
    struct bytes local;
    const struct bytes domain = bytes_cut(bytes_of_text(text), '@', &local);

    return (struct address){local, domain};
}

static struct fake_message *house_send(struct house *house, struct letter letter)
{
    struct recipient recipients[4] = {0};
    struct envelope envelope = {.from = address_of(letter.from),
                                .recipients = recipients,
                                .accepted_wall_us = clock_wall_us() - letter.age_us};

    while (envelope.recipient_count < 4 && letter.to[envelope.recipient_count]) {
        const uint32_t i = envelope.recipient_count++;
        recipients[i] =
            (struct recipient){.address = address_of(letter.to[i]), .notify = letter.notify};
    }
    return fake_add(house->spool, &envelope, BYTES_LITERAL("Subject: hi\r\n\r\nbody\r\n"));
}

/* Waits for what the scheduler is to bring about. */
static bool wait_for(bool (*condition)(void *argument), void *argument)
{
    const uint64_t deadline_us = SOON_ENOUGH;

    while (!condition(argument)) {
        if (clock_now_us() > deadline_us)
            return false;
        const enum io_status status = fiber_sleep_until(deadline_in(2 * US_PER_MS));
        (void)status;
    }
    return true;
}

static bool is_ended(void *argument)
{
    const struct fake_message *message = argument;

    for (uint32_t i = 0; i < message->envelope.recipient_count; i++) {
        if (message->recipients[i].state == RECIPIENT_WAITING)
            return false;
    }
    return !message->leased;
}

static bool is_quiet(void *argument) /* the whole queue */
{
    struct spool *spool = argument;

    for (unsigned i = 0; i < FAKE_MESSAGES; i++) {
        if (spool->messages[i].used && !is_ended(&spool->messages[i]))
            return false;
    }
    return true;
}

static bool was_tried(void *argument)
{
    const struct fake_message *message = argument;
    return message->recipients[0].attempts > 0 && !message->leased;
}

static unsigned mails_of(const struct house *house, const char *user, char *text, size_t room)
{
    char path[600];
    unsigned count = 0;

    snprintf(path, sizeof(path), "%s/%s/new", house->root, user);
    DIR *directory = opendir(path);
    for (const struct dirent *entry; directory && (entry = readdir(directory));) {
        if (entry->d_name[0] == '.')
            continue;
        count++;
        snprintf(path, sizeof(path), "%s/%s/new/%.255s", house->root, user, entry->d_name);
        FILE *file = fopen(path, "r");
        text[file ? fread(text, 1, room - 1, file) : 0] = 0;
        if (file)
            fclose(file);
    }
    if (directory)
        closedir(directory);
    return count;
}

static void check_recipient(const struct fake_message *message, uint32_t index,
                            enum recipient_state state, enum cause cause, uint32_t attempts)
{
    const struct queued_recipient *recipient = &message->recipients[index];

    if (recipient->state != state || recipient->cause != cause || recipient->attempts != attempts)
        fprintf(stderr, "recipient %u: state %d, %s, %u attempts; expected %d, %s, %u\n", index,
                (int)recipient->state, cause_name(recipient->cause), recipient->attempts,
                (int)state, cause_name(cause), attempts);
    CHECK(recipient->state == state && recipient->cause == cause);
    CHECK(recipient->attempts == attempts);
}

/* ------------------------------------------------------------------ deliver, defer, retry */

WORLD(test_two_destinations_one_message)
{
    static const char *const SCRIPTS[] = {HELLO TO_RCPT REST QUIT, NULL};
    struct house *house = house_new(SCRIPTS);
    char text[4096] = "";
    struct fake_message *message = house_send(
        house, (struct letter){.from = "s@x.test", .to = {"u@home.example", "v@far.example"}});

    house_open(house);
    CHECK(wait_for(is_ended, message));
    check_recipient(message, 0, RECIPIENT_DELIVERED, CAUSE_DELIVERED, 1);
    check_recipient(message, 1, RECIPIENT_DELIVERED, CAUSE_DELIVERED, 1);
    CHECK(mails_of(house, "u", text, sizeof(text)) == 1);
    CHECK(message->leases == 1 && house->spool->dsn_count == 0);
    house_end(house);
    return 0;
}

WORLD(test_deferred_recipient_is_tried_again_alone)
{
    static const char *const SCRIPTS[] = {
        HELLO "< MAIL\n> 250 ok\n< RCPT TO:<v@\n> 451 4.3.0 later\n< RCPT TO:<w@\n" REST
              "< MAIL\n> 250 ok\n< RCPT TO:<v@\n> 450 4.2.1 busy\n< RSET\n> 250 ok\n"
              "< MAIL\n> 250 ok\n< RCPT TO:<v@\n" REST QUIT,
        NULL};
    struct house *house = house_new(SCRIPTS);
    struct fake_message *message = house_send(
        house, (struct letter){.from = "s@x.test", .to = {"v@far.example", "w@far.example"}});

    house_open(house);
    CHECK(wait_for(is_ended, message));
    check_recipient(message, 0, RECIPIENT_DELIVERED, CAUSE_DELIVERED, 3);
    check_recipient(message, 1, RECIPIENT_DELIVERED, CAUSE_DELIVERED, 1);
    house_end(house);
    return 0;
}

/* A 4yz is about the message: mail to others of the same place does not wait for it. */
WORLD(test_a_deferred_message_does_not_slow_its_place)
{
#define LATER TO_RCPT "> 451 4.3.0 later\n< RSET\n> 250 ok\n"
    static const char *const SCRIPTS[] = {
        HELLO LATER LATER LATER LATER LATER LATER LATER LATER TO_RCPT REST QUIT, NULL};
    struct house *house = house_new(SCRIPTS);
    const struct letter letter = {.from = "s@x.test", .to = {"v@far.example"}};
    struct destination_row rows[4];

    house->step.every_us = 3600 * US_PER_S;
    house_open(house);
    for (unsigned i = 0; i < 8; i++) {
        struct fake_message *message = house_send(house, letter);
        CHECK(wait_for(was_tried, message));
        check_recipient(message, 0, RECIPIENT_WAITING, CAUSE_REMOTE_DEFERRED, 1);
    }
    const unsigned count = schedule_destinations(house->schedule, rows, COUNT_OF(rows));
    for (unsigned i = 0; i < count; i++)
        CHECK(rows[i].failures == 0 && !rows[i].backing_off);
    CHECK(wait_for(is_ended, house_send(house, letter)));
    house_end(house);
    return 0;
}

/* After an ambiguous dot the pause is at least the configured one, though the schedule is shorter.
 */
WORLD(test_ambiguous_dot_waits)
{
    static const char *const SCRIPTS[] = {HELLO TO_RCPT "> 250 ok\n< DATA\n> 354 go\n.\n",
                                          HELLO TO_RCPT REST QUIT, NULL};
    struct house *house = house_new(SCRIPTS);
    const int64_t began = clock_wall_us();

    house->config.retry.ambiguous_pause_us = 400 * US_PER_MS;
    struct fake_message *message =
        house_send(house, (struct letter){.from = "s@x.test", .to = {"v@far.example"}});
    house_open(house);
    CHECK(wait_for(is_ended, message));
    check_recipient(message, 0, RECIPIENT_DELIVERED, CAUSE_DELIVERED, 2);
    CHECK(clock_wall_us() - began >= 400 * (int64_t)US_PER_MS);
    house_end(house);
    return 0;
}

/* ------------------------------------------------------------------ bounces */

WORLD(test_refusal_is_told_to_the_sender_once)
{
    static const char *const SCRIPTS[] = {
        HELLO TO_RCPT "> 550-5.1.1 no such\n> 550 5.1.1 user here\n" QUIT, NULL};
    struct house *house = house_new(SCRIPTS);
    char text[8192] = "";

    house_send(house, (struct letter){.from = "s@home.example", .to = {"v@far.example"}});
    house_open(house);
    CHECK(wait_for(is_quiet, house->spool));
    CHECK(house->spool->dsn_count == 1);
    CHECK(mails_of(house, "s", text, sizeof(text)) == 1);
    CHECK(strstr(text, "Return-Path: <>\n"));
    CHECK(strstr(text, "multipart/report"));
    CHECK(strstr(text, "Action: failed\n"));
    CHECK(strstr(text, "Status: 5.1.1\n"));
    CHECK(strstr(text, "Final-Recipient: rfc822; v@far.example\n"));
    CHECK(strstr(text, "no such") && strstr(text, "user here"));
    CHECK(strstr(text, "Subject: hi\n"));
    house_end(house);
    return 0;
}

WORLD(test_nobody_is_told_who_must_not_be)
{
    static const char *const SCRIPTS[] = {HELLO TO_RCPT "> 550 no\n< RSET\n> 250 ok\n" TO_RCPT
                                                        "> 550 no\n< RSET\n> 250 ok\n" TO_RCPT
                                                        "> 550 no\n" QUIT,
                                          NULL};
    struct house *house = house_new(SCRIPTS);

    house_open(house);
    for (unsigned i = 0; i < 3; i++) {
        static const unsigned NOTIFY[] = {NOTIFY_DEFAULT, NOTIFY_NEVER, NOTIFY_SUCCESS};
        struct fake_message *message = house_send(
            house, (struct letter){
                       i == 0 ? "" : "s@home.example", {"v@far.example"}, .notify = NOTIFY[i]});
        CHECK(wait_for(is_ended, message));
        check_recipient(message, 0, RECIPIENT_FAILED, CAUSE_REMOTE_REFUSED, 1);
    }
    CHECK(house->spool->dsn_count == 0);
    house_end(house);
    return 0;
}

WORLD(test_expiry_bounces_with_the_last_answer)
{
    struct house *house = house_new(NULL);
    char text[8192] = "";

    house->config.retry.expire_after_us = 300 * US_PER_MS;
    struct fake_message *message =
        house_send(house, (struct letter){.from = "s@home.example", .to = {"v@far.example"}});
    house_open(house);
    CHECK(wait_for(is_quiet, house->spool));
    CHECK(message->recipients[0].state == RECIPIENT_FAILED);
    CHECK(message->recipients[0].cause == CAUSE_EXPIRED);
    CHECK(mails_of(house, "s", text, sizeof(text)) == 1);
    CHECK(strstr(text, "Action: failed\n"));
    CHECK(strstr(text, "Status: 4.4.1\n"));
    house_end(house);
    return 0;
}

/* Ours: the mailbox cannot be written, and however old the message is, it waits. */
WORLD(test_a_fault_of_ours_never_bounces)
{
    struct house *house = house_new(NULL);

    house->config.retry.expire_after_us = US_PER_MS;
    house->config.retry.warn_after_us = UINT64_MAX >> 1;
    snprintf(house->target, sizeof(house->target), "/dev/null/{user}");
    house->domain.deliver.target = bytes_of_text(house->target);
    struct fake_message *message =
        house_send(house, (struct letter){.from = "s@x.test",
                                          .to = {"u@home.example"},
                                          .age_us = 86400 * (int64_t)US_PER_S});
    house_open(house);
    while (message->recipients[0].attempts < 20) {
        if (fiber_sleep_until(deadline_in(5 * US_PER_MS)) != IO_OK)
            break;
    }
    CHECK(message->recipients[0].state == RECIPIENT_WAITING);
    CHECK(message->recipients[0].cause == CAUSE_MAILBOX_MISCONFIGURED);
    CHECK(house->spool->dsn_count == 0);
    house_end(house);
    return 0;
}

static bool has_notice(void *argument)
{
    const struct house *house = argument;
    char text[8192];

    return mails_of(house, "s", text, sizeof(text)) >= 1;
}

WORLD(test_delay_is_told_once)
{
    struct house *house = house_new(NULL);
    char text[8192] = "";

    house->config.retry.warn_after_us = US_PER_MS;
    struct fake_message *message = house_send(
        house,
        (struct letter){.from = "s@home.example", .to = {"v@far.example"}, .age_us = US_PER_S});
    house_open(house);
    CHECK(wait_for(has_notice, house));
    const uint32_t attempts = message->recipients[0].attempts;
    while (message->recipients[0].attempts < attempts + 3) {
        if (fiber_sleep_until(deadline_in(5 * US_PER_MS)) != IO_OK)
            break;
    }
    CHECK(mails_of(house, "s", text, sizeof(text)) == 1);
    CHECK(strstr(text, "Action: delayed\n"));
    CHECK(strstr(text, "Will-Retry-Until: "));
    CHECK(message->recipients[0].state == RECIPIENT_WAITING);
    CHECK(message->recipients[0].delay_notified);
    house_end(house);
    return 0;
}

WORLD(test_success_is_told_when_asked_for)
{
    static const char *const SCRIPTS[] = {HELLO TO_RCPT REST QUIT, NULL};
    struct house *house = house_new(SCRIPTS);
    char text[8192] = "";

    house_send(house, (struct letter){.from = "s@home.example",
                                      .to = {"v@far.example"},
                                      .notify = NOTIFY_SUCCESS});
    house_send(house, (struct letter){.from = "t@home.example",
                                      .to = {"u@home.example"},
                                      .notify = NOTIFY_SUCCESS});
    house_open(house);
    CHECK(wait_for(is_quiet, house->spool));
    CHECK(mails_of(house, "s", text, sizeof(text)) == 1);
    CHECK(strstr(text, "Action: relayed\n"));
    CHECK(mails_of(house, "t", text, sizeof(text)) == 1);
    CHECK(strstr(text, "Action: delivered\n"));
    house_end(house);
    return 0;
}

/* ------------------------------------------------------------------ faults of the spool */

/* The peer took it, the record fails: it is recorded later, and the peer never sees it again. */
WORLD(test_unrecorded_delivery_is_not_repeated)
{
    static const char *const SCRIPTS[] = {HELLO TO_RCPT REST QUIT, NULL};
    struct house *house = house_new(SCRIPTS);

    house->spool->settle_failures = 2;
    struct fake_message *message =
        house_send(house, (struct letter){.from = "s@x.test", .to = {"v@far.example"}});
    house_open(house);
    CHECK(wait_for(is_ended, message));
    check_recipient(message, 0, RECIPIENT_DELIVERED, CAUSE_DELIVERED, 1);
    CHECK(peer_heard_times(&house->peer, "MAIL FROM") == 1);
    house_end(house);
    return 0;
}

enum { SPOOL_IS_GONE = 1000000 };

struct told {
    unsigned done, unrecorded, bounced;
    bool said;
};

static void told_take(void *argument, const struct event *event)
{
    struct told *told = argument;

    told->done += event->kind == EVENT_DELIVERY_DONE || event->kind == EVENT_MESSAGE_ENDED;
    told->bounced += event->kind == EVENT_MESSAGE_BOUNCED || event->kind == EVENT_DELIVERY_FAILED;
    told->unrecorded += event->kind == EVENT_DELIVERY_UNRECORDED;
    if (event->kind == EVENT_DELIVERY_UNRECORDED)
        told->said = event->message != 0 && event->text.count > 0 && event->next_wall_us == 0;
}

static bool settle_was_tried(void *argument)
{
    const struct house *house = argument;

    return house->spool->settle_failures < SPOOL_IS_GONE;
}

/* The spool takes no outcome any more: whatever it was, the journal calls nothing done, failed or
 * bounced that the next start will know nothing of. */
WORLD(test_unrecorded_is_not_told_as_done)
{
    static const char *const TAKEN[] = {HELLO TO_RCPT REST QUIT, NULL};
    static const char *const REFUSED[] = {HELLO TO_RCPT "> 550 5.1.1 no\n" QUIT, NULL};
    static const char *const *const scripts[] = {TAKEN, REFUSED};

    for (size_t i = 0; i < COUNT_OF(scripts); i++) {
        struct house *house = house_new(scripts[i]);
        struct told told = {0};

        CHECK(observe_add_sink(told_take, &told));
        house->spool->settle_failures = SPOOL_IS_GONE;
        house_send(house, (struct letter){.from = "s@home.example", .to = {"v@far.example"}});
        house_open(house);
        CHECK(wait_for(settle_was_tried, house));
        schedule_stop(house->schedule, SOON_ENOUGH);
        CHECK(told.done == 0 && told.bounced == 0 && told.unrecorded == 1 && told.said);
        observe_remove_sink(told_take, &told);
        house_end(house);
    }
    return 0;
}

/* No draft for the bounce: the failure is not recorded without it. */
WORLD(test_no_end_without_the_notification)
{
    static const char *const SCRIPTS[] = {HELLO TO_RCPT "> 550 5.1.1 no\n" QUIT, NULL};
    struct house *house = house_new(SCRIPTS);
    char text[8192] = "";

    house->spool->draft_failures = 1;
    house_send(house, (struct letter){.from = "s@home.example", .to = {"v@far.example"}});
    house_open(house);
    CHECK(wait_for(is_quiet, house->spool));
    CHECK(mails_of(house, "s", text, sizeof(text)) == 1);
    CHECK(house->spool->dsn_count == 1);
    house_end(house);
    return 0;
}

/* ------------------------------------------------------------------ many, dead, stopped */

WORLD(test_many_messages_each_ends_once)
{
    struct house *house = house_new(NULL);
    char text[4096];

    for (unsigned i = 0; i < 3000; i++) /* more than are held in memory at a time */
        house_send(house, (struct letter){.from = "s@x.test", .to = {"u@home.example"}});
    house_open(house);
    CHECK(wait_for(is_quiet, house->spool));
    CHECK(house->spool->settle_count == 3000);
    CHECK(mails_of(house, "u", text, sizeof(text)) == 3000);
    house_end(house);
    return 0;
}

/* A dead destination is left alone: most of its messages go back untried, mail for others flows. */
WORLD(test_dead_destination_pauses)
{
    struct house *house = house_new(NULL);
    char text[4096];
    struct destination_row rows[8];
    unsigned attempts = 0;

    house->step.every_us = 3600 * US_PER_S;
    for (unsigned i = 0; i < 200; i++)
        house_send(house, (struct letter){.from = "s@x.test", .to = {"v@far.example"}});
    struct fake_message *near =
        house_send(house, (struct letter){.from = "s@x.test", .to = {"u@home.example"}});
    house_open(house);
    CHECK(wait_for(is_ended, near));
    for (unsigned settled = 0; settled < 200;) {
        const enum io_status status = fiber_sleep_until(deadline_in(2 * US_PER_MS));
        (void)status;
        for (unsigned i = settled = attempts = 0; i < FAKE_MESSAGES; i++) {
            const struct fake_message *message = &house->spool->messages[i];
            if (!message->used || message == near)
                continue;
            settled += message->recipients[0].next_wall_us > clock_wall_us() && !message->leased;
            attempts += message->recipients[0].attempts;
        }
    }
    CHECK(attempts >= 3 && attempts < 20);
    CHECK(mails_of(house, "u", text, sizeof(text)) == 1);
    const unsigned count = schedule_destinations(house->schedule, rows, COUNT_OF(rows));
    bool found = false;
    for (unsigned i = 0; i < count; i++)
        found = found || (strcmp(rows[i].key, "smtp:127.0.0.1:far") == 0 && rows[i].backing_off &&
                          rows[i].last_cause == CAUSE_CONNECT_REFUSED);
    CHECK(found);
    house_end(house);
    return 0;
}

/* A next hop that hangs gets all leases first; mail for others comes through all the same. */
WORLD(test_slow_destination_shares)
{
    static const char *const SCRIPTS[] = {"hang\n", NULL};
    struct house *house = house_new(SCRIPTS);
    char text[4096];

    house->share_after_us = 100 * US_PER_MS;
    for (unsigned i = 0; i < 2500; i++)
        house_send(house, (struct letter){.from = "s@x.test", .to = {"v@far.example"}});
    struct fake_message *near =
        house_send(house, (struct letter){.from = "s@x.test", .to = {"u@home.example"}});
    house_open(house);
    CHECK(wait_for(is_ended, near));
    CHECK(mails_of(house, "u", text, sizeof(text)) == 1);
    unsigned attempts = 0;
    for (unsigned i = 0; i < FAKE_MESSAGES; i++) {
        if (house->spool->messages[i].used && &house->spool->messages[i] != near)
            attempts += house->spool->messages[i].recipients[0].attempts;
    }
    CHECK(attempts == 0); /* put back untried and uncounted */
    house_end(house);
    return 0;
}

/* More destinations than slots: each gets its turn. */
WORLD(test_more_destinations_than_slots)
{
    static char names[1000][32];
    struct house *house = house_new(NULL);
    struct fake_message *messages[1000];

    house->config.smtp_port = 1;
    house->step.every_us = 3600 * US_PER_S;
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(names[i], sizeof(names[i]), "r@[127.0.%u.%u]", i / 200, 1 + i % 200);
        messages[i] = house_send(house, (struct letter){.from = "s@x.test", .to = {names[i]}});
    }
    house_open(house);
    for (unsigned i = 0; i < 1000; i++) {
        CHECK(wait_for(was_tried, messages[i]));
        check_recipient(messages[i], 0, RECIPIENT_WAITING, CAUSE_CONNECT_REFUSED, 1);
    }
    house_end(house);
    return 0;
}

static bool peer_is_waiting(void *argument)
{
    return ((const struct peer *)argument)->waits;
}

/* Stopped before the dot: the attempt is cut, and the queue is as if it had never been. */
WORLD(test_stop_before_the_dot)
{
    static const char *const SCRIPTS[] = {HELLO TO_RCPT "wait\nhang\n", NULL};
    struct house *house = house_new(SCRIPTS);
    struct fake_message *message =
        house_send(house, (struct letter){.from = "s@x.test", .to = {"v@far.example"}});

    house_open(house);
    CHECK(wait_for(peer_is_waiting, &house->peer));
    house->peer.go = true;
    schedule_stop(house->schedule, SOON_ENOUGH);
    check_recipient(message, 0, RECIPIENT_WAITING, CAUSE_UNDECIDED, 0);
    CHECK(message->settlements == 0);
    fiber_wake(house->peer.fiber);
    house_end(house);
    return 0;
}

static void go_later(void *argument)
{
    struct peer *peer = argument;
    const enum io_status status = fiber_sleep_until(deadline_in(50 * US_PER_MS));

    (void)status;
    peer->go = true;
    fiber_wake(peer->fiber);
}

/* Stopped behind the dot: the reply is waited for and recorded. */
WORLD(test_stop_behind_the_dot)
{
    static const char *const SCRIPTS[] = {
        HELLO TO_RCPT "> 250 ok\n< DATA\n> 354 go\n.\nwait\n> 250 ok\n" QUIT, NULL};
    struct house *house = house_new(SCRIPTS);
    struct fake_message *message =
        house_send(house, (struct letter){.from = "s@x.test", .to = {"v@far.example"}});

    house_open(house);
    CHECK(wait_for(peer_is_waiting, &house->peer));
    CHECK(fiber_start("go", go_later, &house->peer) != NULL);
    schedule_stop(house->schedule, SOON_ENOUGH);
    check_recipient(message, 0, RECIPIENT_DELIVERED, CAUSE_DELIVERED, 1);
    house_end(house);
    return 0;
}

/* Stopped behind the dot, and no reply comes: recorded as ambiguous before the deadline. */
WORLD(test_stop_gives_up_a_lost_reply)
{
    static const char *const SCRIPTS[] = {
        HELLO TO_RCPT "> 250 ok\n< DATA\n> 354 go\n.\nwait\nhang\n", NULL};
    struct house *house = house_new(SCRIPTS);
    struct fake_message *message =
        house_send(house, (struct letter){.from = "s@x.test", .to = {"v@far.example"}});

    house_open(house);
    CHECK(wait_for(peer_is_waiting, &house->peer));
    schedule_stop(house->schedule, deadline_in(2 * US_PER_S));
    check_recipient(message, 0, RECIPIENT_WAITING, CAUSE_AMBIGUOUS_DOT, 1);
    house->peer.go = true;
    fiber_wake(house->peer.fiber);
    house_end(house);
    return 0;
}

/* ------------------------------------------------------------------ the operator */

static void act(struct house *house, struct schedule_request request, uint64_t expected)
{
    uint64_t touched = 77;
    const struct lookup lookup = schedule_act(house->schedule, &request, &touched);

    CHECK(touched == expected);
    CHECK(lookup.status == (expected > 0 ? LOOKUP_FOUND : LOOKUP_ABSENT));
}

WORLD(test_operator_ends_and_retries)
{
    struct house *house = house_new(NULL);
    char text[8192] = "";
    struct fake_message *messages[3];

    house->step.every_us = 3600 * US_PER_S;
    fake_viewed = house->spool;
    house_open(house);
    for (unsigned i = 0; i < 3; i++) {
        messages[i] =
            house_send(house, (struct letter){.from = "s@home.example", .to = {"v@far.example"}});
        CHECK(wait_for(was_tried, messages[i]));
    }
    act(house, (struct schedule_request){.action = ACTION_RETRY, .id = messages[0]->id}, 1);
    while (messages[0]->recipients[0].attempts < 2 || messages[0]->leased) {
        if (fiber_sleep_until(deadline_in(2 * US_PER_MS)) != IO_OK)
            break;
    }
    act(house, (struct schedule_request){.action = ACTION_DROP, .id = messages[0]->id}, 1);
    CHECK(messages[0]->recipients[0].state == RECIPIENT_DROPPED);
    CHECK(house->spool->dsn_count == 0);
    act(house, (struct schedule_request){.action = ACTION_HOLD, .id = messages[1]->id}, 1);
    CHECK(messages[1]->held);
    act(house, (struct schedule_request){.action = ACTION_RELEASE, .id = messages[1]->id}, 1);
    CHECK(!messages[1]->held);
    act(house,
        (struct schedule_request){.action = ACTION_BOUNCE, .destination_domain = "far.example"}, 2);
    CHECK(messages[2]->recipients[0].state == RECIPIENT_FAILED);
    CHECK(messages[2]->recipients[0].cause == CAUSE_OPERATOR_BOUNCED);
    CHECK(wait_for(is_quiet, house->spool));
    CHECK(mails_of(house, "s", text, sizeof(text)) == 2);
    act(house, (struct schedule_request){.action = ACTION_RETRY, .id = 999999}, 0);
    act(house, (struct schedule_request){.action = ACTION_DROP}, 0);
    fake_viewed = NULL;
    house_end(house);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_destinations_one_message),
        cmocka_unit_test(test_deferred_recipient_is_tried_again_alone),
        cmocka_unit_test(test_a_deferred_message_does_not_slow_its_place),
        cmocka_unit_test(test_ambiguous_dot_waits),
        cmocka_unit_test(test_refusal_is_told_to_the_sender_once),
        cmocka_unit_test(test_nobody_is_told_who_must_not_be),
        cmocka_unit_test(test_expiry_bounces_with_the_last_answer),
        cmocka_unit_test(test_a_fault_of_ours_never_bounces),
        cmocka_unit_test(test_delay_is_told_once),
        cmocka_unit_test(test_success_is_told_when_asked_for),
        cmocka_unit_test(test_unrecorded_delivery_is_not_repeated),
        cmocka_unit_test(test_unrecorded_is_not_told_as_done),
        cmocka_unit_test(test_no_end_without_the_notification),
        cmocka_unit_test(test_many_messages_each_ends_once),
        cmocka_unit_test(test_dead_destination_pauses),
        cmocka_unit_test(test_slow_destination_shares),
        cmocka_unit_test(test_more_destinations_than_slots),
        cmocka_unit_test(test_stop_before_the_dot),
        cmocka_unit_test(test_stop_behind_the_dot),
        cmocka_unit_test(test_stop_gives_up_a_lost_reply),
        cmocka_unit_test(test_operator_ends_and_retries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
