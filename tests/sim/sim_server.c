/*
 * The whole server in the seeded world: receive, policy, spool, deliver, schedule, history and
 * directory, opened as the program opens them, between clients that never give up, next hops, a
 * clamd, names and a disk that fail as the seed says; killed, cut from power and restarted, also
 * while it recovers. At last all is mended, and then the promise has to have held. Every seed is
 * played first without any fault: what is refused with faults must have been refused there too.
 */
#include "server.h"

#include <signal.h>
#include <string.h>

#include "app/house.h"

enum { LIVES_MOST = 4, EXPIRE_HOURS = 8, STOP_PATIENCE_S = 20 };
#define HOUR_US (3600 * US_PER_S)

static const char CONFIG_TEXT[] =
    "hostname = \"mx.home.example\"\n"
    "spool = \"/var/spool/holdfast\"\n"
    "listen smtp { address = \"192.0.2.1:25\" }\n"
    "domain \"home.example\" { users = \"file:/etc/holdfast/users\"\n"
    "  aliases = \"file:/etc/holdfast/aliases\"\n"
    "  deliver = \"maildir:/var/mail/{user}\" }\n"
    "pipe command { command = {\"/bin/command\", \"{user}\"}  timeout = 30s }\n"
    "domain \"pipe.example\" { deliver = \"pipe:command\" }\n"
    "relay { from = {\"198.51.100.0/24\"} }\n"
    "route \"static.example\" { via = \"smtp:203.0.113.3:2525\" }\n"
    "filter clamav { speaks = clamd  address = \"203.0.113.4:3310\"  timeout = 30s }\n"
    "checks { sender_domain = require }\n"
    "resolver { timeout = 5s }\n"
    "retry { schedule = {1m, 2m, 5m, 10m, 20m}  warn_after = 1h  expire_after = 8h }\n";

static struct {
    struct config *config;
    struct house house;
    bool troubled; /* this life */
    enum wanted_fate fates_without[LETTERS_MOST][WANTED_MOST];
} stage;

/* ------------------------------------------------------------------ the world around it */

static void furnish_disk(void)
{
    sim_disk_put("/etc/holdfast/users", BYTES_LITERAL("bob\nann\nalice\n"));
    sim_disk_put("/etc/holdfast/aliases", BYTES_LITERAL("team: bob, ann, x@far.example\n"));
    sim_disk_make_directory("/var/spool");
    sim_disk_make_directory("/var/mail");
}

static void furnish_names(void)
{
    sim_zone_add("home.example", "MX", "10 mx.home.example");
    sim_zone_add("mx.home.example", "A", "192.0.2.1");
    sim_zone_add("far.example", "MX", "10 mx1.far.example");
    sim_zone_add("far.example", "MX", "20 mx2.example");
    sim_zone_add("mx1.far.example", "A", "203.0.113.1");
    sim_zone_add("mx2.example", "A", "203.0.113.2");
    sim_zone_add("near.example", "MX", "10 mx2.example");
    sim_zone_add("no.example", "MX", "10 mx2.example");
    sim_zone_add("dead.example", "MX", "10 mx.dead.example");
    sim_zone_add("mx.dead.example", "A", "203.0.113.9");
}

static void open_config(void)
{
    struct config_errors errors = {0};

    stage.config = config_parse(CONFIG_TEXT, "simulation", &errors);
    CHECK(stage.config != NULL, "%.*s", BYTES_PRINT(buffer_view(&errors.text)));
    config_errors_free(&errors);
}

/* ------------------------------------------------------------------ one life */

static bool open_house(void)
{
    stage.house = (struct house){.config = stage.config,
                                 .runner = "/run/commands",
                                 .spool_sizes = {.segment_bytes = 256 * KIB,
                                                 .inline_body_bytes = 8 * KIB,
                                                 .reserve_bytes = 64 * KIB}};
    return house_open(&stage.house) && house_open_doors(&stage.house);
}

static void close_house(void)
{
    house_stop(&stage.house, deadline_in(STOP_PATIENCE_S * US_PER_S));
    /* What hangs in a stalled disk outlives the patience of a stop; then the process just ends. */
    const bool closed = house_close(&stage.house);
    if (!closed || (book.stalled && sim_disk_handles() > 0))
        sim_crash(SIM_KILL);
    TELL(sim_disk_handles() == 0, TALE_ALL, "%u files are still open", sim_disk_handles());
}

static int troubled_main(void *argument)
{
    int signal_number = 0;

    CHECK(argument == &stage, "an argument of our own");
    book.stalled = false;
    journal_listen();
    peers_start();
    trouble_start();
    if (!open_house()) {
        tale_add(0, -1, "did not start: %s", stage.house.why);
        CHECK(house_close(&stage.house), "nobody was let in");
        fiber_sleep_until(deadline_in(sim_below(120) * US_PER_S));
        return 1;
    }
    clients_start(fiber_self());
    (void)process_wait_signal(&signal_number, deadline_in(60 * US_PER_S + sim_below(HOUR_US)));
    close_house();
    return 0;
}

static uint64_t messages_left(void)
{
    struct spool_counts counts;

    spool_counts(stage.house.spool, &counts);
    return counts.messages;
}

static void wait_until_done(void)
{
    const uint64_t answered_us = deadline_in(4 * HOUR_US);
    const uint64_t drained_us = deadline_in((EXPIRE_HOURS + 4) * HOUR_US + book.set_back_us);

    while (!clients_are_done() && clock_now_us() < answered_us)
        fiber_park(answered_us);
    TELL(clients_are_done(), TALE_ALL, "clients still get no answer, hours after all was mended");
    while (messages_left() > 0 && clock_now_us() < drained_us)
        fiber_sleep_until(deadline_in(60 * US_PER_S));
    TELL(messages_left() == 0, TALE_ALL, "%llu messages are still queued",
         (unsigned long long)messages_left());
}

static int healed_main(void *argument)
{
    CHECK(argument == &stage, "an argument of our own");
    book.stalled = false;
    journal_listen();
    peers_start();
    TELL(open_house(), TALE_ALL, "it does not start though all is well: %s", stage.house.why);
    clients_start(fiber_self());
    wait_until_done();
    close_house();
    fiber_sleep_until(deadline_in(HOUR_US)); /* until the peers have gone too */
    TELL(fiber_count() == 1 + PEER_LISTENERS, TALE_ALL, "%u fibers are left",
         fiber_count() - 1 - PEER_LISTENERS);
    TELL(sim_net_open() == 0, TALE_ALL, "%u connections are left", sim_net_open());
    return 0;
}

/* ------------------------------------------------------------------ the promise */

static void collect_mailbox(void *place, const char *name)
{
    static const char *const users[] = {"bob", "ann", "alice"};
    const enum place which = *(const enum place *)place;
    char path[400];

    snprintf(path, sizeof path, "/var/mail/%s/new/%s", users[which], name);
    parcel_arrived(sim_disk_get(path), which, true);
}

static void collect_mailboxes(void)
{
    for (enum place place = PLACE_BOB; place <= PLACE_ALICE; place++) {
        static const char *const folders[] = {"/var/mail/bob/new", "/var/mail/ann/new",
                                              "/var/mail/alice/new"};
        sim_disk_each(folders[place], collect_mailbox, &place);
    }
}

/* A copy in a life that did not get to record it may come once more. */
static unsigned copies_allowed(const struct message_note *message, enum place place)
{
    const uint32_t unrecorded = message->lives_with_copy[place] & ~message->lives_settled[place];

    return place <= PLACE_ALICE
               ? 1
               : 1 + message->ambiguous[place] + (unsigned)__builtin_popcount(unrecorded);
}

static void check_message(const struct message_note *message)
{
    char id[ID_TEXT_MAX];

    id_print(message->id, id, sizeof id);
    for (enum place place = 0; place < PLACE_COUNT; place++) {
        const unsigned copies = message->copies[place];

        TELL(copies <= copies_allowed(message, place), (int)message->letter,
             "%s: %u copies for %s, %u allowed", id, copies, place_addresses[place],
             copies_allowed(message, place));
        book.tally->extra_copies += copies > 1 ? copies - 1 : 0;
        if (!message->taken)
            continue;
        const bool wanted = message->places >> place & 1;
        TELL(wanted || (copies == 0 && message->bounce[place] == 0), (int)message->letter,
             "%s went to %s, which nobody asked for", id, place_addresses[place]);
        TELL(!wanted || copies > 0 || message->bounce[place] != 0, (int)message->letter,
             "%s was acknowledged and is lost for %s", id, place_addresses[place]);
        TELL(copies == 0 || message->bounce[place] == 0 || message->ambiguous[place] > 0 ||
                 message->lives_with_copy[place] & ~message->lives_settled[place],
             (int)message->letter, "%s was delivered to %s and bounced", id,
             place_addresses[place]);
    }
}

/* Ids that no client was told of come from attempts whose answer was lost, or from a record that a
 * failed disk kept although the client was told 451 for it. */
static void check_letter(const struct letter *letter)
{
    unsigned unknown = 0, doubtful = 0;

    for (unsigned i = 0; i < book.message_count; i++) {
        const struct message_note *message = &book.messages[i];

        unknown += message->has_letter && message->letter == letter->number && !message->taken;
    }
    for (unsigned i = 0; i < book.attempt_count; i++) {
        const struct attempt_note *attempt = &book.attempts[i];

        doubtful += attempt->letter == letter->number &&
                    (attempt->end == ATTEMPT_DOT || attempt->stored_maybe);
    }
    TELL(unknown <= doubtful, (int)letter->number,
         "letter %u: %u messages that were not acknowledged were delivered, %u may be",
         letter->number, unknown, doubtful);
    book.tally->found_unacknowledged += unknown;
}

static bool right_to_refuse(const struct letter *letter, unsigned index)
{
    return letter->virus || letter->wanted[index]->refused ||
           strcmp(letter->from, "ghost@nowhere.example") == 0;
}

static void check_refusals(const struct letter *letter)
{
    for (unsigned i = 0; i < letter->wanted_count; i++) {
        const bool refused = letter->fate[i] == WANTED_REFUSED;

        TELL(refused == right_to_refuse(letter, i), (int)letter->number, "letter %u to %s was %s",
             letter->number, letter->wanted[i]->address, refused ? "refused" : "taken");
        if (!book.faults)
            stage.fates_without[letter->number][i] = letter->fate[i];
        TELL(!refused || stage.fates_without[letter->number][i] == WANTED_REFUSED,
             (int)letter->number, "letter %u to %s was refused because of a fault", letter->number,
             letter->wanted[i]->address);
    }
}

static void check_promise(void)
{
    collect_mailboxes();
    for (unsigned i = 0; i < book.message_count; i++)
        check_message(&book.messages[i]);
    for (unsigned i = 0; i < book.letter_count; i++) {
        check_letter(&book.letters[i]);
        check_refusals(&book.letters[i]);
    }
}

/* ------------------------------------------------------------------ a seed */

static void run_life(int (*life)(void *argument))
{
    const int code = world_run(life, &stage, 0);

    TELL(code != SIM_STUCK && code != SIM_OVERDUE, TALE_ALL, "the world stood still: %d", code);
    tale_add(0, -1, code == SIM_CRASHED ? "crashed" : "ended");
    book.tally->crashes += code == SIM_CRASHED;
    observe_remove_sinks();
    trouble_end(); /* what the world did not live to mend */
    book.life++;
}

static uint64_t play(uint64_t seed, struct scenario_tally *tally, bool faults)
{
    const unsigned troubled_lives = faults ? 1 + (unsigned)(seed % LIVES_MOST) : 0;

    memset(&book, 0, sizeof book);
    tale_clear();
    book.tally = tally;
    book.faults = faults;
    letters_plan(seed);
    sim_open(seed);
    sim_trace_print(scenario_trace && faults);
    furnish_disk();
    furnish_names();
    for (unsigned i = 0; i < troubled_lives; i++)
        run_life(troubled_main);
    trouble_end();
    run_life(healed_main);
    check_promise();
    tally->faults += book.faults_struck + sim_disk_struck() + sim_net_struck();
    tally->simulated_us += clock_now_us();
    const uint64_t hash = sim_trace_hash();
    sim_close();
    return hash;
}

uint64_t scenario_server(uint64_t seed, struct scenario_tally *tally)
{
    struct scenario_tally calm = {0};

    open_config();
    play(seed, &calm, false);
    TELL(calm.crashes == 0 && calm.faults == 0, TALE_ALL, "no fault without one");
    const uint64_t hash = play(seed, tally, true);
    tally->simulated_us += calm.simulated_us;
    config_free(stage.config);
    return hash;
}
