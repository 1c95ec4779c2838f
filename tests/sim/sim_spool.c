/*
 * The spool against a bad disk: fibers commit drafts and a taker settles some, while the disk fails
 * and the machine dies at seeded steps, again during recovery. After the last reboot, on a disk
 * that is well, every acknowledged message is there exactly once with its own bytes, none that was
 * settled is there, and none is there twice.
 */
#include <errno.h>
#include <string.h>

#include "scenario.h"
#include "spool/spool.h"

enum { LETTERS_MOST = 60, WRITERS_MOST = 8, LIVES_MOST = 4, BODY_MOST = 40000 };

enum letter_fate { NOT_SENT = 0, SENDING, REFUSED, ACKNOWLEDGED };
struct letter {
    enum letter_fate fate;
    bool settling, settled; /* asked for, and acknowledged */
    unsigned life;          /* in which it was sent */
    unsigned found;         /* in the last life */
    size_t size;
    uint64_t salt;
};

static struct {
    struct letter letters[LETTERS_MOST];
    unsigned letter_count, life, writers;
    struct spool *spool;
    struct fiber *main;
    bool taking;
    struct scenario_tally *tally;
} stage;

/* ------------------------------------------------------------------ letters */

static uint8_t letter_byte(const struct letter *letter, size_t at)
{
    return (uint8_t)((letter->salt >> (at % 57)) + at * 31);
}

static void letter_fill(const struct letter *letter, size_t from, struct span into)
{
    for (size_t i = 0; i < into.count; i++)
        into.at[i] = letter_byte(letter, from + i);
}

static struct letter *letter_new(void)
{
    struct letter *letter = &stage.letters[stage.letter_count++];

    *letter = (struct letter){.fate = SENDING, .life = stage.life, .salt = random_u64()};
    letter->size = sim_chance(700000) ? sim_below(3000) + 1 : sim_below(BODY_MOST) + 1;
    return letter;
}

static struct envelope letter_envelope(const struct letter *letter, char name[static 32],
                                       struct recipient *recipient)
{
    snprintf(name, 32, "letter-%u", (unsigned)(letter - stage.letters));
    *recipient =
        (struct recipient){.address = {BYTES_LITERAL("somebody"), BYTES_LITERAL("example.org")}};
    return (struct envelope){.from = {bytes_of_text(name), BYTES_LITERAL("example.com")},
                             .recipients = recipient,
                             .recipient_count = 1,
                             .accepted_wall_us = clock_wall_us()};
}

static struct letter *letter_of(const struct queued_message *message)
{
    const struct bytes name = message->envelope.from.local;
    uint64_t index = UINT64_MAX;

    CHECK(bytes_starts_with(name, BYTES_LITERAL("letter-")) &&
              bytes_to_u64(bytes_skip(name, 7), &index) && index < stage.letter_count,
          "nobody sent %.*s", BYTES_PRINT(name));
    return &stage.letters[index];
}

/* ------------------------------------------------------------------ sending */

static struct verdict write_body(struct spool_draft *draft, const struct letter *letter)
{
    static uint8_t room[BODY_MOST]; /* filled and handed over without a sleep in between */

    for (size_t done = 0; done < letter->size;) {
        const size_t drawn = (size_t)sim_below(9000) + 1;
        const size_t part = MIN_OF(letter->size - done, drawn);

        letter_fill(letter, done, (struct span){room, part});
        uint8_t *copy = malloc(part);
        CHECK(copy != NULL, "memory");
        memcpy(copy, room, part);
        const struct verdict verdict = spool_draft_write(draft, bytes_of(copy, part));
        free(copy);
        REQUIRE(verdict);
        done += part;
    }
    return verdict_accept();
}

static struct verdict send_letter(struct letter *letter)
{
    char name[32];
    struct recipient recipient;
    struct spool_receipt receipt = {0};
    const struct envelope envelope = letter_envelope(letter, name, &recipient);
    const struct spool_commit_options options = {.deadline_us = deadline_in(50 * US_PER_S)};

    REQUIRE(spool_admits(stage.spool, letter->size));
    CLEANUP(spool_draft_close) struct spool_draft *draft = spool_draft_open(stage.spool);
    if (!draft)
        return verdict_of(CAUSE_SERVER_BUSY);
    spool_session_sending(stage.spool, true);
    const struct verdict written = write_body(draft, letter);
    spool_session_sending(stage.spool, false);
    REQUIRE(written);
    REQUIRE(spool_commit(draft, &envelope, &options, &receipt));
    CHECK(receipt.durable, "an acknowledgement without a durable receipt");
    return verdict_accept();
}

static void writer_main(void *argument)
{
    for (uint64_t left = 1 + sim_below(8); left > 0 && stage.letter_count < LETTERS_MOST; left--) {
        struct letter *letter = letter_new();
        const struct verdict verdict = send_letter(letter);

        /* Whatever the machine of a dead world still says, nobody hears it. */
        if (sim_crashed())
            break;
        letter->fate = verdict_accepts(&verdict) ? ACKNOWLEDGED : REFUSED;
        sim_note(verdict_accepts(&verdict) ? "acknowledged" : cause_name(verdict.cause),
                 (uint64_t)(letter - stage.letters));
        if (verdict_accepts(&verdict))
            stage.tally->acknowledged++;
        else
            stage.tally->refused++;
        if (sim_chance(300000))
            fiber_sleep_until(deadline_in(sim_below(20000)));
    }
    stage.writers--;
    CHECK(argument == &stage, "an argument of our own");
    fiber_wake(stage.main);
}

/* ------------------------------------------------------------------ taking and settling */

static void settle(struct queued_message *message, struct letter *letter, bool delivered)
{
    const struct settlement settlement = {
        .state = delivered ? RECIPIENT_DELIVERED : RECIPIENT_WAITING,
        .next_wall_us = delivered ? 0 : clock_wall_us() + (int64_t)sim_below(2000000),
        .cause = delivered ? CAUSE_UNDECIDED : CAUSE_CONNECT_REFUSED,
        .reply = BYTES_LITERAL("as the other side said"),
        .attempts = message->recipients[0].attempts + 1,
        .attempt_wall_us = clock_wall_us()};
    const struct settlement_group group = {.settlements = &settlement, .count = 1};

    letter->settling |= delivered;
    const struct verdict verdict = spool_settle(stage.spool, message, &group);
    if (!sim_crashed() && delivered && verdict_accepts(&verdict)) {
        letter->settled = true;
        sim_note("settled", (uint64_t)(letter - stage.letters));
    }
}

static void take_one(struct queued_message *message)
{
    struct letter *letter = letter_of(message);

    CHECK(!letter->settled, "letter %zu came back after it was settled", letter - stage.letters);
    CHECK(letter->fate != REFUSED || letter->life != stage.life,
          "letter %zu was refused, and yet it is delivered", letter - stage.letters);
    if (sim_chance(800000))
        settle(message, letter, sim_chance(500000));
    spool_release(stage.spool, message);
}

static void taker_main(void *argument)
{
    CHECK(argument == &stage, "an argument of our own");
    while (stage.taking) {
        struct queued_message *list = NULL;

        if (spool_take(stage.spool, 4, deadline_in(50 * US_PER_MS), &list) == IO_CANCELLED)
            break;
        while (list) {
            struct queued_message *next = list->next;

            take_one(list);
            list = next;
        }
    }
    stage.writers--;
    fiber_wake(stage.main);
}

/* ------------------------------------------------------------------ one life */

static bool open_spool(char *why, size_t why_room)
{
    const struct spool_settings settings = {.directory = "/var/spool",
                                            .segment_bytes = 256 * KIB,
                                            .inline_body_bytes = 8 * KIB,
                                            .reserve_bytes = 64 * KIB};

    stage.spool = NULL;
    return spool_open(&settings, &stage.spool, why, why_room);
}

static void start(const char *name, fiber_main *main)
{
    stage.writers++;
    CHECK(fiber_start_on(loop_session((unsigned)sim_below(loop_session_count())), name, main,
                         &stage) != NULL,
          "a fiber");
}

static int life_main(void *argument)
{
    char why[512];
    const unsigned writers = 1 + (unsigned)sim_below(WRITERS_MOST);

    CHECK(argument == &stage, "an argument of our own");
    stage.main = fiber_self();
    stage.writers = 0;
    if (!open_spool(why, sizeof why)) {
        sim_note("did not open", 0);
        return 1;
    }
    for (unsigned i = 0; i < writers; i++)
        start("writer", writer_main);
    stage.taking = sim_chance(700000);
    if (stage.taking)
        start("taker", taker_main);
    while (stage.writers > (stage.taking ? 1U : 0U))
        if (fiber_park(DEADLINE_NEVER) == IO_CANCELLED)
            break;
    stage.taking = false;
    while (stage.writers > 0)
        if (fiber_park(DEADLINE_NEVER) == IO_CANCELLED)
            break;
    if (sim_chance(500000))
        spool_close(stage.spool);
    else
        sim_crash(sim_chance(500000) ? SIM_KILL : SIM_POWER_CUT);
    return 0;
}

/* ------------------------------------------------------------------ after it all */

static void check_body(const struct queued_message *message, const struct letter *letter)
{
    static uint8_t got[BODY_MOST + 1], wanted[BODY_MOST + 1];
    CLEANUP(spool_body_close) struct spool_body *body = NULL;
    const struct verdict verdict = spool_body_open(stage.spool, message->id, &body);
    size_t count = 0;

    /* Half of what was refused may be on the disk: whoever reads it must be told. */
    if (verdict.cause == CAUSE_BODY_DAMAGED && letter->fate != ACKNOWLEDGED) {
        stage.tally->damaged_unacknowledged++;
        return;
    }
    CHECK(verdict_accepts(&verdict),
          "letter %zu of %zu bytes in life %u, %s: its body does not open: %s %.*s",
          letter - stage.letters, letter->size, letter->life,
          letter->fate == ACKNOWLEDGED ? "acknowledged" : "not acknowledged",
          cause_name(verdict.cause), BYTES_PRINT(verdict.detail));
    CHECK(spool_body_size(body) == letter->size, "letter %zu: %llu bytes of %zu",
          letter - stage.letters, (unsigned long long)spool_body_size(body), letter->size);
    while (count < letter->size) {
        const struct io_result read =
            spool_body_read(body, (struct span){got + count, letter->size - count}, count);

        CHECK(read.status == IO_OK && read.count > 0, "letter %zu: %s", letter - stage.letters,
              io_result_text(read));
        count += read.count;
    }
    letter_fill(letter, 0, (struct span){wanted, letter->size});
    CHECK(memcmp(got, wanted, letter->size) == 0, "letter %zu has other bytes",
          letter - stage.letters);
}

static void find_all(void)
{
    const uint64_t until_us = deadline_in(600 * US_PER_S);

    /* Deferred ones are due within two seconds; leases are kept, so that nothing comes twice. */
    while (clock_now_us() < until_us) {
        struct queued_message *list = NULL;

        if (spool_take(stage.spool, 10, deadline_in(30 * US_PER_S), &list) != IO_OK && !list)
            break;
        for (struct queued_message *message = list; message; message = message->next) {
            struct letter *letter = letter_of(message);

            letter->found++;
            check_body(message, letter);
        }
    }
}

static int last_main(void *argument)
{
    char why[512] = "";
    struct spool_counts counts;

    CHECK(argument == &stage, "an argument of our own");
    CHECK(open_spool(why, sizeof why), "%s", why);
    find_all();
    spool_counts(stage.spool, &counts);
    CHECK(counts.held == 0, "nothing was held");
    return 0;
}

static void check_letters(void)
{
    for (unsigned i = 0; i < stage.letter_count; i++) {
        const struct letter *letter = &stage.letters[i];

        CHECK(letter->found <= 1, "letter %u is there %u times", i, letter->found);
        CHECK(!letter->settled || letter->found == 0, "letter %u was settled and is there", i);
        if (letter->fate == ACKNOWLEDGED && !letter->settling)
            CHECK(letter->found == 1, "letter %u of life %u was acknowledged and is lost", i,
                  letter->life);
        if (letter->fate != ACKNOWLEDGED)
            stage.tally->found_unacknowledged += letter->found;
    }
}

/* ------------------------------------------------------------------ trouble */

static void add_trouble(void)
{
    static const int errors[] = {EIO, EIO, ENOSPC, EACCES, EROFS};
    static const unsigned places[] = {SIM_DISK_WRITE, SIM_DISK_SYNC,       SIM_DISK_SYNC,
                                      SIM_DISK_NAMES, SIM_DISK_SYNC_NAMES, SIM_DISK_OPEN,
                                      SIM_DISK_READ};
    const struct sim_disk_fault fault = {.on = places[sim_below(COUNT_OF(places))],
                                         .error = errors[sim_below(COUNT_OF(errors))],
                                         .skip = sim_below(80),
                                         .times = sim_chance(500000) ? 1 : 0,
                                         .chance_ppm = sim_chance(500000) ? 50000 : 0};

    CHECK(sim_disk_fault_add(&fault) >= 0, "room for a fault");
}

static void arrange_trouble(void)
{
    sim_disk_fault_clear();
    sim_disk_budget(0, 0);
    sim_crash_at_step(0, SIM_KILL);
    if (sim_chance(700000))
        sim_crash_at_step(sim_disk_steps() + 1 + sim_below(sim_chance(300000) ? 40 : 500),
                          sim_chance(300000) ? SIM_KILL : SIM_POWER_CUT);
    if (sim_chance(300000))
        add_trouble();
    if (sim_chance(250000)) {
        const struct sim_disk_fault stall = {.on =
                                                 sim_chance(500000) ? SIM_DISK_SYNC : SIM_DISK_ALL,
                                             .skip = sim_below(20),
                                             .times = 1,
                                             .stall_us = sim_below(80 * US_PER_S)};
        CHECK(sim_disk_fault_add(&stall) >= 0, "room for a fault");
    }
    if (sim_chance(50000))
        sim_disk_budget(MIB + sim_below(2 * MIB), 0);
}

uint64_t scenario_spool(uint64_t seed, struct scenario_tally *tally)
{
    const unsigned lives = 1 + (unsigned)(seed % LIVES_MOST);

    memset(&stage, 0, sizeof stage);
    stage.tally = tally;
    sim_open(seed);
    sim_trace_print(scenario_trace);
    sim_disk_make_directory("/var");
    for (stage.life = 0; stage.life < lives; stage.life++) {
        arrange_trouble();
        const int code = world_run(life_main, &stage, 0);
        CHECK(code != SIM_STUCK && code != SIM_OVERDUE, "the world stood still: %d", code);
        tally->crashes += code == SIM_CRASHED;
    }
    sim_disk_fault_clear();
    sim_disk_budget(0, 0);
    sim_crash_at_step(0, SIM_KILL);
    const int code = world_run(last_main, &stage, 0);
    CHECK(code == 0, "the last life ended with %d", code);
    check_letters();
    const uint64_t hash = sim_trace_hash();
    sim_close();
    return hash;
}
