/*
 * A next hop that does not answer, for five hours or for six days, under the default schedule: the
 * whole server plays five days and more. The attempts have to come when they were promised, the
 * sender is told of the delay at four hours and no sooner, nothing is returned before five days,
 * and once the hop answers all is delivered soon, over few connections at first.
 */
#include "server.h"

#include <string.h>
#include <unistd.h>

#include "app/house.h"
#include "diagnose/diagnose.h"

#define HOUR_US ((int64_t)(3600 * US_PER_S))
#define DAY_US (24 * HOUR_US)
#define SLACK_US                                                                                   \
    ((int64_t)(90 * US_PER_S)) /* between due and done: the index, a dial that hangs               \
                                */
#define PAUSE_US ((int64_t)(1000 * US_PER_S)) /* of a destination: 15 minutes and the jitter */

static const char CONFIG_TEXT[] = "hostname = \"mx.home.example\"\n"
                                  "spool = \"/var/spool/holdfast\"\n"
                                  "listen smtp { address = \"192.0.2.1:25\" }\n"
                                  "domain \"home.example\" { users = \"file:/etc/holdfast/users\"\n"
                                  "  deliver = \"maildir:/var/mail/{user}\" }\n"
                                  "relay { from = {\"198.51.100.0/24\"} }\n";

enum { MAIL_COUNT = 24, LONG_EVERY = 1000, LONG_AT = 241, LONG_PATIENCE_S = 900 };

struct mail {
    uint64_t id;
    int64_t accepted_wall_us, next_wall_us;
    unsigned attempts, delivered, delays, bounces, expiries;
};

static struct {
    struct config *config;
    struct house house;
    struct mail mails[MAIL_COUNT];
    unsigned count, taken, open, most_open, opened_before_first;
    int64_t began_wall_us, heals_wall_us, healed_wall_us, last_attempt_wall_us;
    unsigned attempts; /* that failed, of all */
    bool refuses;      /* else it lets the dial hang */
    int fault;
} outage;

/* ------------------------------------------------------------------ the next hop */

static void hop_serve(void *argument, struct stream *stream)
{
    struct line_reader reader = {.stream = stream, .heard = BUFFER_WITH_LIMIT(64 * KIB)};
    struct bytes line;
    bool in_data = false, lives;

    CHECK(argument == &outage, "an argument of our own");
    outage.open++;
    outage.most_open = MAX_OF(outage.most_open, outage.open);
    if (outage.taken == 0)
        outage.opened_before_first++;
    lives = stream_write(stream, BYTES_LITERAL("220 hop\r\n"), deadline_in(60 * US_PER_S)).status ==
            IO_OK;
    while (lives && line_read(&reader, deadline_in(600 * US_PER_S), &line)) {
        const char *answer = "250 fine\r\n";
        if (in_data && !bytes_equal_text(line, "."))
            continue;
        if (in_data) {
            in_data = false;
            outage.taken++;
            fiber_sleep_until(deadline_in(200 * US_PER_MS)); /* it has work to do */
        } else if (bytes_starts_with_nocase(line, BYTES_LITERAL("DATA"))) {
            in_data = true;
            answer = "354 go\r\n";
        } else if (bytes_starts_with_nocase(line, BYTES_LITERAL("QUIT"))) {
            break;
        }
        lives =
            stream_write(stream, bytes_of_text(answer), deadline_in(60 * US_PER_S)).status == IO_OK;
    }
    outage.open--;
    buffer_free(&reader.heard);
}

static void outage_begins(void)
{
    struct endpoint at;

    CHECK(endpoint_parse(BYTES_LITERAL("203.0.113.1:25"), &at), "an address");
    const struct sim_net_fault fault = {
        .kind = outage.refuses ? SIM_NET_REFUSE : SIM_NET_BLACK_HOLE, .at = &at};
    outage.fault = sim_net_fault_add(&fault);
    CHECK(outage.fault >= 0, "a fault");
}

static void outage_ends(void *argument)
{
    CHECK(argument == &outage, "an argument of our own");
    sim_net_fault_end(outage.fault);
    outage.healed_wall_us = clock_wall_us();
}

/* ------------------------------------------------------------------ what the journal says */

static struct mail *mail_of(uint64_t id)
{
    for (unsigned i = 0; i < outage.count; i++)
        if (outage.mails[i].id == id)
            return &outage.mails[i];
    return NULL;
}

static int64_t age_of(const struct mail *mail)
{
    return clock_wall_us() - mail->accepted_wall_us;
}

/* Never before the promised time. Behind it perhaps: while the destination pauses, a try of one
 * message is a try for all. Somebody tries it at least when the schedule's step is over. */
static void check_attempt(struct mail *mail, const struct event *event)
{
    const int64_t now = clock_wall_us();
    const int64_t step = outage.heals_wall_us ? HOUR_US : 4 * HOUR_US;
    const int64_t since = outage.last_attempt_wall_us ? now - outage.last_attempt_wall_us : 0;

    CHECK(now >= mail->next_wall_us, "attempt %u came %lld us early", event->attempt,
          (long long)(mail->next_wall_us - now));
    CHECK(since <= step / 10 * 11 + SLACK_US, "nobody tried for %lld s",
          (long long)(since / (int64_t)US_PER_S));
    CHECK(event->attempt == mail->attempts + 1, "attempt %u after %u", event->attempt,
          mail->attempts);
    mail->attempts = event->attempt;
    mail->next_wall_us = event->next_wall_us;
    outage.last_attempt_wall_us = now;
    outage.attempts++;
}

static void listen_to(void *argument, const struct event *event)
{
    struct mail *mail;

    CHECK(argument == &outage, "an argument of our own");
    if (event->kind == EVENT_MESSAGE_ACCEPTED && event->from.count > 0 &&
        outage.count < MAIL_COUNT) {
        outage.mails[outage.count++] =
            (struct mail){.id = event->message, .accepted_wall_us = clock_wall_us()};
        return;
    }
    mail = mail_of(event->message);
    if (!mail)
        return;
    if (event->kind == EVENT_DELIVERY_DEFERRED)
        check_attempt(mail, event);
    mail->delivered += event->kind == EVENT_DELIVERY_DONE;
    mail->bounces += event->kind == EVENT_MESSAGE_BOUNCED;
    mail->expiries += event->kind == EVENT_MESSAGE_EXPIRED;
    /* What we heard came a moment after it was dated. */
    CHECK(event->kind != EVENT_MESSAGE_EXPIRED || age_of(mail) >= 5 * DAY_US - SLACK_US / 10,
          "returned after %lld s", (long long)(age_of(mail) / (int64_t)US_PER_S));
}

/* ------------------------------------------------------------------ the client */

static void send_mail(void)
{
    static const char script[] =
        "< 220\n> HELO client.example\n< 250\n> MAIL FROM:<bob@home.example>\n< 250\n"
        "> RCPT TO:<x@far.example>\n< 250\n> DATA\n< 354\n> Subject: hello\n> \n> body\n> .\n< "
        "250\n"
        "> QUIT\n< 221\n";
    struct endpoint server, own;
    struct stream *stream = NULL;

    CHECK(endpoint_parse(BYTES_LITERAL("192.0.2.1:25"), &server), "an address");
    CHECK(endpoint_parse(BYTES_LITERAL("198.51.100.10:25"), &own), "an address");
    own.port = 0;
    const struct io_result dialled =
        stream_dial(&server, &own, deadline_in(30 * US_PER_S), &stream);
    CHECK(dialled.status == IO_OK, "%s", io_result_text(dialled));
    CHECK(sim_play(stream, bytes_of_text(script), deadline_in(600 * US_PER_S)), "it is taken");
    stream_close(stream);
}

static void sleep_until_wall(int64_t wall_us)
{
    const int64_t left = wall_us - clock_wall_us();

    if (left > 0)
        fiber_sleep_until(deadline_in((uint64_t)left));
}

/* ------------------------------------------------------------------ what bob is told */

struct told {
    unsigned delayed, failed;
};

static void read_note(void *argument, const char *name)
{
    struct told *told = argument;
    char path[300];

    snprintf(path, sizeof path, "/var/mail/bob/new/%s", name);
    const struct bytes text = sim_disk_get(path);
    told->delayed += bytes_find(text, BYTES_LITERAL("\nAction: delayed")) < text.count;
    told->failed += bytes_find(text, BYTES_LITERAL("\nAction: failed")) < text.count;
}

static struct told told_to_bob(void)
{
    struct told told = {0};

    sim_disk_each("/var/mail/bob/new", read_note, &told);
    return told;
}

static unsigned older_than(int64_t age_us)
{
    unsigned count = 0;

    for (unsigned i = 0; i < outage.count; i++)
        count += age_of(&outage.mails[i]) > age_us;
    return count;
}

/* At any time: who has waited for four hours was told, nobody else was. */
static void check_delays(void)
{
    const struct told told = told_to_bob();

    if (outage.healed_wall_us != 0) /* who was delivered before his mark is not told */
        return;
    CHECK(told.delayed <= older_than(4 * HOUR_US), "%u told of a delay, %u have one", told.delayed,
          older_than(4 * HOUR_US));
    CHECK(told.delayed >= older_than(4 * HOUR_US + SLACK_US), "%u told of a delay, %u have one",
          told.delayed, older_than(4 * HOUR_US + SLACK_US));
}

/* ------------------------------------------------------------------ a life */

static void check_story(const struct mail *mail)
{
    const struct diagnose_place place = diagnose_place_of(outage.config, clock_wall_us());
    char why[512] = "";
    json_t *story = NULL;

    history_flush(outage.house.history);
    const struct lookup found = diagnose_story(&place, mail->id, &story, why, sizeof why);
    CHECK(found.status == LOOKUP_FOUND, "no story: %s", why);
    char *text = json_dumps(story, JSON_COMPACT);
    unsigned deferred = 0;
    for (const char *at = text; (at = strstr(at, "delivery.deferred")) != NULL; at++)
        deferred++;
    CHECK(deferred == mail->attempts, "the story tells %u of %u attempts", deferred,
          mail->attempts);
    CHECK(strstr(text, mail->delivered ? "delivery.done" : "message.expired"), "%s", text);
    free(text);
    json_decref(story);
}

static void check_mail(const struct mail *mail, bool heals)
{
    CHECK(mail->delivered == (heals ? 1 : 0) && mail->bounces == (heals ? 0 : 1) &&
              mail->expiries == mail->bounces,
          "delivered %u times, returned %u times", mail->delivered, mail->bounces);
    CHECK(mail->attempts <= 48, "%u attempts failed", mail->attempts);
}

/* A pause is at least 13.5 minutes in the end, however many wait: a dead host is left in peace. The
 * first three failures, and what each is told at its marks, come on top. */
static void check_attempts(int64_t lasted_us)
{
    const unsigned most = (unsigned)(lasted_us / (810 * (int64_t)US_PER_S)) + 3 * MAIL_COUNT + 10;
    const unsigned least = (unsigned)(lasted_us / (5 * HOUR_US)) + 4;

    CHECK(outage.attempts >= least && outage.attempts <= most, "%u attempts, %u to %u are right",
          outage.attempts, least, most);
}

static uint64_t messages_left(void)
{
    struct spool_counts counts;

    spool_counts(outage.house.spool, &counts);
    return counts.messages;
}

/* A letter at once, the others while the hop is away. */
static void live_through(bool heals)
{
    const int64_t end = outage.began_wall_us + (heals ? 5 * HOUR_US : 5 * DAY_US + 6 * HOUR_US);

    for (unsigned i = 0; i < MAIL_COUNT; i++) {
        send_mail();
        sleep_until_wall(clock_wall_us() +
                         (int64_t)sim_below((uint64_t)(4 * HOUR_US / MAIL_COUNT)));
        check_delays();
    }
    while (clock_wall_us() < end) {
        sleep_until_wall(clock_wall_us() + 10 * 60 * (int64_t)US_PER_S);
        if (outage.healed_wall_us == 0) /* from then on letters arrive before their mark */
            check_delays();
    }
    CHECK(outage.count == MAIL_COUNT, "%u were taken", outage.count);
}

static void check_recovery(void)
{
    CHECK(outage.healed_wall_us != 0, "it heals");
    sleep_until_wall(outage.healed_wall_us + PAUSE_US + SLACK_US);
    CHECK(outage.taken == MAIL_COUNT, "%u of %d arrived within a pause", outage.taken, MAIL_COUNT);
    CHECK(outage.opened_before_first == 1 && outage.most_open <= 20,
          "%u connections before the first success, %u at most", outage.opened_before_first,
          outage.most_open);
}

static int outage_main(void *argument)
{
    const bool heals = outage.heals_wall_us != 0;
    struct endpoint at;

    CHECK(argument == &outage, "an argument of our own");
    observe_remove_sinks();
    CHECK(observe_add_sink(listen_to, &outage), "room for a sink");
    CHECK(endpoint_parse(BYTES_LITERAL("203.0.113.1:25"), &at), "an address");
    CHECK(sim_serve(&at, hop_serve, &outage), "a listener");
    outage.house = (struct house){.config = outage.config,
                                  .spool_sizes = {.segment_bytes = 256 * KIB,
                                                  .inline_body_bytes = 8 * KIB,
                                                  .reserve_bytes = 64 * KIB}};
    CHECK(house_open(&outage.house) && house_open_doors(&outage.house), "%s", outage.house.why);
    outage_begins();
    if (heals)
        sim_at(clock_now_us() + (uint64_t)(5 * HOUR_US), outage_ends, &outage);
    live_through(heals);
    if (heals)
        check_recovery();
    CHECK(messages_left() == 0, "%llu are still queued", (unsigned long long)messages_left());
    for (unsigned i = 0; i < outage.count; i++)
        check_mail(&outage.mails[i], heals);
    check_attempts(heals ? 5 * HOUR_US : 5 * DAY_US + 6 * HOUR_US);
    check_story(&outage.mails[0]);
    house_stop(&outage.house, deadline_in(20 * US_PER_S));
    CHECK(house_close(&outage.house), "it closes");
    return 0;
}

uint64_t scenario_outage(uint64_t seed, struct scenario_tally *tally)
{
    struct config_errors errors = {0};

    memset(&outage, 0, sizeof outage);
    outage.config = config_parse(CONFIG_TEXT, "simulation", &errors);
    CHECK(outage.config != NULL, "%.*s", BYTES_PRINT(buffer_view(&errors.text)));
    config_errors_free(&errors);
    sim_open(seed);
    sim_trace_print(scenario_trace);
    sim_disk_put("/etc/holdfast/users", BYTES_LITERAL("bob\n"));
    sim_disk_make_directory("/var/spool");
    sim_disk_make_directory("/var/mail");
    sim_zone_add("far.example", "MX", "10 mx.far.example");
    sim_zone_add("mx.far.example", "A", "203.0.113.1");
    outage.refuses = sim_chance(500000);
    outage.began_wall_us = clock_wall_us();
    const bool heals = seed % LONG_EVERY != LONG_AT; /* the others take a minute or two */
    if (!heals)
        alarm(LONG_PATIENCE_S);
    outage.heals_wall_us = heals ? outage.began_wall_us + 5 * HOUR_US : 0;
    const int code = world_run(outage_main, &outage, 0);
    CHECK(code == 0, "the world ended with %d", code);
    observe_remove_sinks();
    tally->acknowledged += outage.count;
    tally->simulated_us += clock_now_us();
    const uint64_t hash = sim_trace_hash();
    sim_close();
    config_free(outage.config);
    return hash;
}
