/* History over the simulated disk: kills and power cuts at every step, and the same seed twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "history/history.h"
#include "sim/sim.h"

enum { EVENTS = 20 };

static struct history *history;
static unsigned flushed; /* messages whose flush has returned */
static char why[300];

static int life(void *argument UNUSED)
{
    const struct history_settings settings = {.directory = "/spool"};

    if (disk_make_directory("/spool").status != IO_OK)
        return 1;
    history = history_open(&settings, why, sizeof why);
    if (!history)
        return 2;
    for (unsigned i = 1; i <= EVENTS; i++) {
        observe_event(
            &(struct event){.kind = i % 2 ? EVENT_MESSAGE_ACCEPTED : EVENT_MESSAGE_DEFERRED,
                            .message = i,
                            .has_verdict = i % 2 == 0,
                            .verdict = verdict_of(CAUSE_FILTER_TIMEOUT),
                            .client = BYTES_LITERAL("192.0.2.1"),
                            .from = BYTES_LITERAL("a@b.example")});
        history_flush(history);
        flushed = i;
    }
    history_close(history);
    return 0;
}

static bool count_row(void *argument, const struct history_row *row UNUSED)
{
    ++*(unsigned *)argument;
    return true;
}

/* After the reboot: it opens, and gives the messages it still has. */
static int reboot(void *argument)
{
    const struct history_settings settings = {.directory = "/spool"};
    unsigned *kept = argument;

    if (disk_make_directory("/spool").status != IO_OK)
        return 1;
    history = history_open(&settings, why, sizeof why);
    if (!history)
        return 2;
    for (unsigned i = 1; i <= EVENTS; i++) {
        unsigned rows = 0;
        if (!history_of_message("/spool", i, count_row, &rows, why, sizeof why))
            return 3;
        *kept += rows;
    }
    history_close(history);
    return 0;
}

static void crash_at(uint64_t step, enum sim_crash_kind kind)
{
    unsigned kept = 0;

    sim_open(step);
    flushed = 0;
    sim_crash_at_step(step, kind);
    const int code = world_run(life, NULL, 1);
    sim_crash_at_step(0, kind);
    observe_remove_sinks(); /* they died with the process */
    assert_int_equal(code, SIM_CRASHED);
    const int again = world_run(reboot, &kept, 1);
    if (again != 0)
        print_message("step %u: %s\n", (unsigned)step, why);
    assert_int_equal(again, 0);
    /* A kill loses nothing that was flushed; a power cut may cost the newest. */
    if (kind == SIM_KILL)
        assert_true(kept >= flushed);
    sim_close();
}

static uint64_t whole_life(uint64_t seed, uint64_t *steps)
{
    sim_open(seed);
    assert_int_equal(world_run(life, NULL, 1), 0);
    const uint64_t hash = sim_trace_hash();
    *steps = sim_disk_steps();
    sim_close();
    return hash;
}

static void test_same_seed(void **state UNUSED)
{
    uint64_t steps = 0;

    assert_true(whole_life(5, &steps) == whole_life(5, &steps));
    assert_true(steps > 50);
}

static void test_crashes(void **state UNUSED)
{
    uint64_t steps = 0;

    whole_life(1, &steps);
    for (uint64_t step = 1; step < steps; step += 1 + steps / 150) {
        crash_at(step, SIM_KILL);
        crash_at(step, SIM_POWER_CUT);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_seed),
                                       cmocka_unit_test(test_crashes)};

    observe_configure(LOG_NONE, LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
