/*
 * The whole server in the seeded world: receive, policy, spool, deliver, schedule, history and
 * directory, opened as the program opens them, between clients that never give up, next hops, a
 * clamd, names and a disk that fail as the seed says; killed, cut from power and restarted, also
 * while it recovers. At last all is mended, and then the promise has to have held. Every seed is
 * played first without any fault: what is refused with faults must have been refused there too.
 */
#include "server.h"

#include <malloc.h>
#include <signal.h>
#include <string.h>

#include "app/house.h"

enum { LIVES_MOST = 4, EXPIRE_HOURS = 8, MEMORY_SLACK = 200 };
#define HOUR_US (3600 * US_PER_S)

static struct {
    enum wanted_fate fates_without[LETTERS_MOST][WANTED_MOST];
} stage;

/* ------------------------------------------------------------------ one life */

/* Until a signal ends it. */
static void attend(uint64_t deadline_us)
{
    int signal_number = 0;

    while (process_wait_signal(&signal_number, deadline_us) == IO_OK && signal_number == SIGHUP)
        house_reload(false);
}

static int troubled_main(void *argument)
{
    CHECK(argument == &stage, "an argument of our own");
    book.stalled = book.forgetful = false;
    book.life_began_us = clock_now_us();
    journal_listen();
    peers_start();
    trouble_start();
    if (!house_begin_life()) {
        tale_add(0, -1, "did not start: %s", house_now()->why);
        CHECK(house_close(house_now()), "nobody was let in");
        fiber_sleep_until(deadline_in(sim_below(120) * US_PER_S));
        return 1;
    }
    clients_start(fiber_self());
    attend(deadline_in(60 * US_PER_S + sim_below(HOUR_US)));
    house_end_life();
    return 0;
}

static uint64_t messages_left(void)
{
    struct spool_counts counts;

    spool_counts(house_now()->spool, &counts);
    return counts.messages;
}

/* What the milter wanted kept back: nobody had it before, and somebody has looked at it now. */
static bool note_held(void *argument, const struct spool_row *row)
{
    struct message_note *message = message_note(row->id);

    CHECK(argument == &stage, "an argument of our own");
    if (!row->held)
        return true;
    for (enum place place = 0; place < PLACE_COUNT; place++)
        TELL(message->copies[place] == 0, TALE_ALL, "a letter in quarantine was sent");
    message->held = true;
    return true;
}

struct look {
    bool (*each)(void *argument, const struct spool_row *row);
};

static void look_main(void *argument)
{
    const struct look *look = argument;
    const struct spool_view_filter all = {0};
    char why[200];

    CHECK(spool_view("/var/spool/holdfast", &all, look->each, &stage, why, sizeof why), "%s", why);
}

static void look_into_queue(bool (*each)(void *argument, const struct spool_row *row))
{
    struct look look = {each};

    CHECK(work_run(look_main, &look) == IO_OK, "a look into the queue");
}

/* What was taken while the clock was years ahead is not old enough to be returned before it gets
 * there again. It is tried on; only a host that never answers keeps it. */
static bool note_waiting(void *argument, const struct spool_row *row)
{
    enum place place = PLACE_COUNT;

    CHECK(argument == &stage, "an argument of our own");
    if (row->state != RECIPIENT_WAITING)
        return true;
    TELL(book.years_back && place_named(row->to, &place) && place == PLACE_DEAD, TALE_ALL,
         "a message for %.*s is still queued", BYTES_PRINT(row->to));
    message_note(row->id)->waits = true;
    return true;
}

static void release_held(void)
{
    struct spool_counts counts;

    spool_counts(house_now()->spool, &counts);
    if (counts.held == 0)
        return;
    look_into_queue(note_held);
    for (unsigned i = 0; i < book.message_count; i++) {
        struct message_note *message = &book.messages[i];

        if (!message->held || message->released)
            continue;
        message->released = true;
        tale_add(message->id, -1, "released");
        const struct lookup found =
            spool_hold(house_now()->spool, message->id, false, BYTES_LITERAL("looked at"));
        CHECK(found.status != LOOKUP_FAILED, "a release of what was held");
    }
}

static void wait_until_done(void)
{
    const uint64_t answered_us = deadline_in(4 * HOUR_US);
    const uint64_t drained_us =
        planted == PLANT_QUEUED ? 0 : deadline_in((EXPIRE_HOURS + 4) * HOUR_US + book.set_back_us);

    while (!clients_are_done() && clock_now_us() < answered_us) {
        fiber_park(MIN_OF(answered_us, deadline_in(20 * 60 * US_PER_S)));
        if (sim_chance(300000))
            house_reload(true);
    }
    TELL(clients_are_done(), TALE_ALL, "clients still get no answer, hours after all was mended");
    while (messages_left() > 0 && clock_now_us() < drained_us) {
        release_held();
        fiber_sleep_until(deadline_in(60 * US_PER_S));
    }
    if (messages_left() > 0)
        look_into_queue(note_waiting);
}

static void sleep_on(void *argument)
{
    CHECK(argument == &stage, "an argument of our own");
    fiber_mask_cancel(true);
    fiber_sleep_until(deadline_in(2 * HOUR_US));
}

/* See oracles.c. */
static void plant_leak(void)
{
    struct stream *stream = NULL;
    struct file *file = NULL;
    struct endpoint at;

    if (planted == PLANT_FIBER)
        CHECK(fiber_start("planted", sleep_on, &stage) != NULL, "a fiber");
    if (planted == PLANT_HANDLE)
        CHECK(file_open("/etc/holdfast/users", FILE_READ, &file).status == IO_OK, "a file");
    if (planted == PLANT_CONNECTION)
        CHECK(endpoint_parse(BYTES_LITERAL(CLAMD_AT), &at) &&
                  stream_dial(&at, NULL, deadline_in(US_PER_S), &stream).status == IO_OK,
              "a connection");
}

static void plant_at_end(void)
{
    static void *kept;

    if (book.faults && plant_once(PLANT_TRACE))
        sim_note("planted", 0);
    if (planted == PLANT_MEMORY)
        CHECK((kept = malloc(4096)) != NULL, "memory");
}

static int healed_main(void *argument)
{
    CHECK(argument == &stage, "an argument of our own");
    book.stalled = book.forgetful = false;
    book.life_began_us = clock_now_us();
    journal_listen();
    peers_start();
    TELL(house_begin_life(), TALE_ALL, "it does not start though all is well: %s",
         house_now()->why);
    clients_start(fiber_self());
    wait_until_done();
    plant_leak();
    house_end_life();
    fiber_sleep_until(deadline_in(HOUR_US)); /* until the peers have gone too */
    TELL(fiber_count() == 1 + peers_listening(), TALE_ALL, "%u fibers are left",
         fiber_count() - 1 - peers_listening());
    TELL(sim_net_open() == 0, TALE_ALL, "%u connections are left", sim_net_open());
    return 0;
}

/* ------------------------------------------------------------------ the promise */

static void collect_mailbox(void *place, const char *name)
{
    static const char *const users[] = {"bob", "ann", "alice", "dora"};
    const enum place which = *(const enum place *)place;
    char path[400];

    snprintf(path, sizeof path, "/var/mail/%s/new/%s", users[which], name);
    if (planted == PLANT_LOSE)
        return;
    parcel_arrived(sim_disk_get(path), which, true);
    if (planted == PLANT_TWICE)
        parcel_arrived(sim_disk_get(path), which, true);
    if (planted == PLANT_ASTRAY && which == PLACE_BOB)
        parcel_arrived(sim_disk_get(path), PLACE_ALICE, true);
}

static void collect_mailboxes(void)
{
    for (enum place place = PLACE_BOB; place <= PLACE_LAST_MAILBOX; place++) {
        static const char *const folders[] = {"/var/mail/bob/new", "/var/mail/ann/new",
                                              "/var/mail/alice/new", "/var/mail/dora/new"};
        sim_disk_each(folders[place], collect_mailbox, &place);
    }
}

/* A copy in a life that did not get to record it may come once more. */
static unsigned copies_allowed(const struct message_note *message, enum place place)
{
    const uint32_t unrecorded = message->lives_with_copy[place] & ~message->lives_settled[place];

    return place <= PLACE_LAST_MAILBOX
               ? 1
               : 1 + message->ambiguous[place] + (unsigned)__builtin_popcount(unrecorded);
}

/* Whom nobody can reach, whom a next hop refused, what clamd found later. Nothing else fails:
 * least of all for want of time, however the clock jumps. */
static bool right_to_bounce(const struct message_note *message, enum place place)
{
    if (planted == PLANT_BOUNCED && place == PLACE_NO)
        return false;
    if (place == PLACE_NO || place == PLACE_GONE || place == PLACE_DEAD)
        return true;
    if (message->has_letter && book.letters[message->letter].virus && setting.scan_later)
        return true;
    return place > PLACE_LAST_MAILBOX && book.hop_refused;
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
        TELL(message->bounce[place] == 0 || right_to_bounce(message, place), (int)message->letter,
             "%s came back from %s for no good reason", id, place_addresses[place]);
        book.tally->extra_copies += copies > 1 ? copies - 1 : 0;
        if (!message->taken)
            continue;
        const bool maybe = message->places_maybe >> place & 1;
        const bool wanted = message->places >> place & 1;
        TELL(wanted || maybe || (copies == 0 && message->bounce[place] == 0), (int)message->letter,
             "%s went to %s, which nobody asked for", id, place_addresses[place]);
        const bool waits = message->waits && place == PLACE_DEAD;
        TELL(!wanted || maybe || waits || copies > 0 || message->bounce[place] != 0,
             (int)message->letter, "%s was acknowledged and is lost for %s", id,
             place_addresses[place]);
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
    const struct milter_plan *milter = &letter->milter;
    const bool by_milter = (milter->act == ACT_REJECT || milter->act == ACT_REPLY_5) &&
                           (milter->at != STEP_RCPT || milter->recipient == index);

    return letter->virus || letter->spam || letter->wanted[index]->refused || letter->ghost ||
           by_milter;
}

/* What a filter would have refused is taken where it may be passed over. */
static bool may_be_taken(const struct letter *letter, unsigned index)
{
    if (letter->wanted[index]->refused || letter->ghost || letter->spam)
        return false;
    return letter->virus ? setting.scan_later : setting.milter_accepts;
}

static void check_refusals(const struct letter *letter)
{
    for (unsigned i = 0; i < letter->wanted_count; i++) {
        const bool refused = letter->fate[i] == WANTED_REFUSED;
        const bool right = right_to_refuse(letter, i);

        TELL(refused == right || (!refused && book.faults && may_be_taken(letter, i)),
             (int)letter->number, "letter %u to %s was %s", letter->number,
             letter->wanted[i]->address, refused ? "refused" : "taken");
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
    tls_begin(seed);
    furnish();
    house_begin();
    for (unsigned i = 0; i < troubled_lives; i++)
        run_life(troubled_main);
    trouble_end();
    run_life(healed_main);
    check_promise();
    tally->faults += book.faults_struck + sim_disk_struck() + sim_net_struck();
    tally->simulated_us += clock_now_us();
    plant_at_end();
    const uint64_t hash = sim_trace_hash();
    sim_close();
    tls_end();
    return hash;
}

/* The same once more takes no memory that does not come back: arenas, rows, connections. What a
 * process keeps for good (caches, names of metrics) it has by now. A few bytes are malloc's own:
 * what is too small to be split off a piece goes with it. */
void scenario_server_memory(uint64_t seed)
{
    struct scenario_tally ignored = {0};

    play(seed, &ignored, false);
    play(seed, &ignored, false);
    const size_t before = mallinfo2().uordblks;
    play(seed, &ignored, false);
    const size_t after = mallinfo2().uordblks;
    TELL(after < before + MEMORY_SLACK, TALE_ALL, "%zu bytes are left of a run", after - before);
}

uint64_t scenario_server(uint64_t seed, struct scenario_tally *tally)
{
    struct scenario_tally calm = {0};

    play(seed, &calm, false);
    TELL(calm.crashes == 0 && calm.faults == 0, TALE_ALL, "no fault without one");
    const uint64_t hash = play(seed, tally, true);
    tally->simulated_us += calm.simulated_us;
    return hash;
}
