/* Fibers, tokens, deadlines, cancellation, waitlists, loops and stacks, in the kernel world. */
#include "world_check.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/world.h"

/* ------------------------------------------------------------------ tokens */

struct token_test {
    struct fiber *main;
    int steps;
};

static void wake_main(void *argument)
{
    struct token_test *test = argument;

    test->steps++;
    fiber_wake(test->main);
    fiber_wake(test->main);
}

static int token_main(void *argument)
{
    struct token_test *test = argument;

    test->main = fiber_self();
    fiber_wake(test->main);
    fiber_wake(test->main);
    CHECK(fiber_park(DEADLINE_NEVER) == IO_OK);      /* the token was kept, */
    CHECK(fiber_park(clock_now_us()) == IO_TIMEOUT); /* once */
    CHECK(fiber_start("wake", wake_main, test) != NULL);
    CHECK(test->steps == 0); /* starts only when we sleep */
    CHECK(fiber_park(SOON_ENOUGH) == IO_OK);
    CHECK(test->steps == 1);
    fiber_wake(test->main);
    fiber_yield(); /* keeps the token */
    CHECK(fiber_park(DEADLINE_NEVER) == IO_OK);
    return 0;
}

static void park_once(void *argument)
{
    struct gate *gate = argument;

    CHECK(fiber_park(SOON_ENOUGH) == IO_OK);
    gate_pass(gate);
}

static int early_wake_main(void *argument UNUSED)
{
    struct gate gate = {.left = 1};
    struct fiber *fiber = fiber_start("parks", park_once, &gate);

    CHECK(fiber != NULL);
    fiber_wake(fiber); /* before its first step */
    CHECK(gate_wait(&gate, 0));
    fiber_yield(); /* it has ended */
    fiber_wake(fiber);
    return 0;
}

static void test_tokens(void **state UNUSED)
{
    in_world(token_main, &(struct token_test){0}, 1);
    in_world(early_wake_main, NULL, 1);
}

static int seven(void *argument UNUSED)
{
    return 7;
}

static void test_exit_code(void **state UNUSED)
{
    assert_int_equal(world_run(seven, NULL, 3), 7);
}

/* ------------------------------------------------------------------ deadlines */

enum { SLEEPERS = 200 };

struct deadlines_test {
    struct gate gate;
    uint64_t base_us;
    unsigned next;
    uint64_t woken_at[SLEEPERS];
};
struct sleeper {
    struct deadlines_test *test;
    uint64_t deadline_us;
};

static void sleeper_main(void *argument)
{
    struct sleeper *sleeper = argument;

    /* An early wake leaves an entry behind in the heap, then the deadline moves both ways. */
    CHECK(fiber_park(sleeper->deadline_us + 500) == IO_OK);
    CHECK(fiber_sleep_until(sleeper->deadline_us) == IO_OK);
    CHECK(clock_now_us() >= sleeper->deadline_us);
    sleeper->test->woken_at[sleeper->test->next++] = sleeper->deadline_us;
    gate_pass(&sleeper->test->gate);
}

static int deadlines_main(void *argument)
{
    struct deadlines_test *test = argument;
    static struct sleeper sleepers[SLEEPERS];

    test->base_us = deadline_in(5 * US_PER_MS);
    for (unsigned i = 0; i < SLEEPERS; i++) {
        sleepers[i] = (struct sleeper){test, test->base_us + (i * 7919U) % SLEEPERS * 50};
        struct fiber *fiber = fiber_start("sleeper", sleeper_main, &sleepers[i]);
        CHECK(fiber != NULL);
        fiber_wake(fiber);
    }
    CHECK(gate_wait(&test->gate, 0));
    for (unsigned i = 1; i < SLEEPERS; i++)
        CHECK(test->woken_at[i - 1] <= test->woken_at[i]);
    return 0;
}

static void test_deadlines(void **state UNUSED)
{
    static struct deadlines_test test;

    test = (struct deadlines_test){.gate = {.left = SLEEPERS}};
    in_world(deadlines_main, &test, 1);
}

/* ------------------------------------------------------------------ cancellation */

static void sleeps_until_cancelled(void *argument)
{
    CHECK(fiber_sleep_until(DEADLINE_NEVER) == IO_CANCELLED);
    CHECK(fiber_cancelled());
    CHECK(fiber_park(DEADLINE_NEVER) == IO_CANCELLED);
    CHECK(!fiber_mask_cancel(true));
    CHECK(!fiber_cancelled());
    CHECK(fiber_sleep_until(deadline_in(US_PER_MS)) == IO_OK); /* clean-up may sleep */
    CHECK(fiber_mask_cancel(false));
    CHECK(fiber_park(SOON_ENOUGH) == IO_CANCELLED);
    gate_pass(argument);
}

static int cancel_main(void *argument UNUSED)
{
    struct gate gate = {.left = 2};
    struct fiber *here = fiber_start("here", sleeps_until_cancelled, &gate);
    struct fiber *there = fiber_start_on(loop_session(1), "there", sleeps_until_cancelled, &gate);

    CHECK(here && there);
    fiber_yield();
    fiber_cancel(here);
    fiber_cancel(there);
    CHECK(gate_wait(&gate, 0));
    return 0;
}

static void test_cancel(void **state UNUSED)
{
    in_world(cancel_main, NULL, 2);
}

static void lingers(void *argument)
{
    int *ended = argument;

    CHECK(fiber_sleep_until(DEADLINE_NEVER) == IO_CANCELLED);
    __atomic_fetch_add(ended, 1, __ATOMIC_RELAXED);
}

static int leaves_fibers_main(void *argument)
{
    struct loop *blocking = loop_start("writer", LOOP_BLOCKING);

    CHECK(blocking != NULL);
    for (unsigned i = 0; i < 10; i++) {
        CHECK(fiber_start_on(loop_session(i % 2), "lingers", lingers, argument) != NULL);
        CHECK(fiber_start_on(blocking, "lingers", lingers, argument) != NULL);
    }
    return 0;
}

static void test_end_cancels(void **state UNUSED)
{
    int ended = 0;

    in_world(leaves_fibers_main, &ended, 2);
    assert_int_equal(ended, 20);
}

/* ------------------------------------------------------------------ waitlists, several loops */

struct tickets {
    struct waitlist waiting;
    struct gate gate;
    int free, taken; /* atomic */
};

static bool ticket_take(struct tickets *tickets)
{
    int free = __atomic_load_n(&tickets->free, __ATOMIC_ACQUIRE);

    while (free > 0)
        if (__atomic_compare_exchange_n(&tickets->free, &free, free - 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE))
            return true;
    return false;
}

static void takes_ticket(void *argument)
{
    struct tickets *tickets = argument;
    struct waiter waiter;
    bool taken = false;

    waitlist_join(&tickets->waiting, &waiter);
    while (!(taken = ticket_take(tickets)))
        if (fiber_park(SOON_ENOUGH) != IO_OK)
            break;
    waitlist_leave(&tickets->waiting, &waiter);
    CHECK(taken);
    __atomic_fetch_add(&tickets->taken, 1, __ATOMIC_RELAXED);
    gate_pass(&tickets->gate);
}

enum { TAKERS = 400 };

static int waitlist_main(void *argument)
{
    struct tickets *tickets = argument;

    tickets->gate.left = TAKERS;
    for (unsigned i = 0; i < TAKERS; i++)
        CHECK(fiber_start_on(loop_session(i % loop_session_count()), "taker", takes_ticket,
                             tickets) != NULL);
    for (unsigned i = 0; i < TAKERS; i++) {
        __atomic_fetch_add(&tickets->free, 1, __ATOMIC_ACQ_REL);
        waitlist_wake_one(&tickets->waiting);
        if (i % 7 == 0)
            fiber_yield();
    }
    CHECK(gate_wait(&tickets->gate, 0));
    CHECK(tickets->taken == TAKERS && tickets->waiting.first == NULL);
    return 0;
}

static void test_waitlists(void **state UNUSED)
{
    in_world(waitlist_main, &(struct tickets){0}, 1);
    for (int i = 0; i < 20; i++)
        in_world(waitlist_main, &(struct tickets){0}, 3);
}

/* Two wakes before anyone ran wake two fibers, the longest waiting first. */
struct order_test {
    struct waitlist waiting;
    struct gate gate;
    char order[8];
    int next, permits;
};
struct order_fiber {
    struct order_test *test;
    char name;
};

static void waits_in_order(void *argument)
{
    struct order_fiber *self = argument;
    struct waiter waiter;

    waitlist_join(&self->test->waiting, &waiter);
    while (self->test->permits == 0)
        if (fiber_park(SOON_ENOUGH) != IO_OK)
            break;
    CHECK(self->test->permits-- > 0);
    waitlist_leave(&self->test->waiting, &waiter);
    self->test->order[self->test->next++] = self->name;
    gate_pass(&self->test->gate);
}

static int wake_order_main(void *argument)
{
    struct order_test *test = argument;
    struct order_fiber fibers[4] = {{test, 'a'}, {test, 'b'}, {test, 'c'}, {test, 'd'}};

    test->gate.left = 4;
    for (int i = 0; i < 4; i++)
        CHECK(fiber_start("ordered", waits_in_order, &fibers[i]) != NULL);
    fiber_yield();
    test->permits = 2;
    waitlist_wake_one(&test->waiting);
    waitlist_wake_one(&test->waiting);
    CHECK(gate_wait(&test->gate, 2));
    CHECK(strcmp(test->order, "ab") == 0);
    fiber_yield(); /* c and d, to whom the wakes were passed on, found nothing and sleep again */
    test->permits = 2;
    waitlist_wake_all(&test->waiting);
    CHECK(gate_wait(&test->gate, 0));
    CHECK(strcmp(test->order, "abcd") == 0);
    return 0;
}

static void test_wake_order(void **state UNUSED)
{
    in_world(wake_order_main, &(struct order_test){0}, 1);
}

/* ------------------------------------------------------------------ loops under load */

enum { PAIRS = 8, ROUNDS = 3000, SHORT_LIVED = 3000 };

struct ball {
    int turn;                 /* atomic: whose turn, counting up */
    struct fiber *players[2]; /* atomic */
    struct gate *gate;
};
struct player {
    struct ball *ball;
    int side;
};

static void plays(void *argument)
{
    struct player *player = argument;
    struct ball *ball = player->ball;

    __atomic_store_n(&ball->players[player->side], fiber_self(), __ATOMIC_SEQ_CST);
    for (int round = player->side; round < ROUNDS; round += 2) {
        while (__atomic_load_n(&ball->turn, __ATOMIC_SEQ_CST) != round)
            if (fiber_park(SOON_ENOUGH) != IO_OK) {
                CHECK(round < 0); /* the ball did not come in time */
                break;
            }
        __atomic_store_n(&ball->turn, round + 1, __ATOMIC_SEQ_CST);
        struct fiber *other = __atomic_load_n(&ball->players[1 - player->side], __ATOMIC_SEQ_CST);
        if (other)
            fiber_wake(other);
    }
    gate_pass(ball->gate);
}

static void short_lived(void *argument)
{
    fiber_yield();
    gate_pass(argument);
}

static int load_main(void *argument UNUSED)
{
    static struct ball balls[PAIRS];
    static struct player players[PAIRS][2];
    struct gate gate = {.left = 2 * PAIRS + SHORT_LIVED};
    const unsigned loops = loop_session_count();

    for (unsigned i = 0; i < PAIRS; i++) {
        balls[i] = (struct ball){.gate = &gate};
        for (int side = 0; side < 2; side++) {
            players[i][side] = (struct player){&balls[i], side};
            CHECK(fiber_start_on(loop_session((i + (unsigned)side) % loops), "player", plays,
                                 &players[i][side]) != NULL);
        }
    }
    for (unsigned i = 0; i < SHORT_LIVED; i++) {
        CHECK(fiber_start_on(loop_session(i % loops), "short", short_lived, &gate) != NULL);
        if (i % 50 == 0)
            fiber_yield();
    }
    CHECK(gate_wait(&gate, 0));
    return 0;
}

static void test_load(void **state UNUSED)
{
    in_world(load_main, NULL, 3);
}

/* ------------------------------------------------------------------ the worker pool */

struct pool_test {
    struct gate gate;
    int running, ended; /* atomic */
};

static void works(void *argument)
{
    struct pool_test *test = argument;

    CHECK(fiber_self() == NULL); /* no fiber here */
    __atomic_fetch_add(&test->running, 1, __ATOMIC_RELAXED);
}

static void asks_pool(void *argument)
{
    struct pool_test *test = argument;

    for (int i = 0; i < 20; i++)
        CHECK(work_run(works, test) == IO_OK);
    gate_pass(&test->gate);
}

static int pool_main(void *argument)
{
    struct pool_test *test = argument;

    test->gate.left = 40;
    for (unsigned i = 0; i < 40; i++)
        CHECK(fiber_start_on(loop_session(i % 2), "asks", asks_pool, test) != NULL);
    CHECK(gate_wait(&test->gate, 0));
    CHECK(test->running == 800);
    return 0;
}

static void test_pool(void **state UNUSED)
{
    in_world(pool_main, &(struct pool_test){0}, 2);
}

/* ------------------------------------------------------------------ stacks */

static int deep(volatile const char *above)
{
    volatile char here[512];

    here[0] = (char)(above[0] + 1);
    if (above == NULL)
        return 0;
    return deep(here) + here[0];
}

static void overflows(void *argument)
{
    volatile char start[8] = {0};
    int *sum = argument;

    *sum = deep(start);
}

static int overflow_main(void *argument UNUSED)
{
    int sum = 0;

    if (!fiber_start("deep", overflows, &sum))
        return 1;
    fiber_yield();
    return sum & 0;
}

static void test_stack_overflow(void **state UNUSED)
{
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (!freopen("/dev/null", "w", stderr))
            _exit(0);
        _exit(world_run(overflow_main, NULL, 1));
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    /* A sanitizer turns the signal into an exit code of its own. */
    assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGSEGV
                                    : WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

enum { IDLERS = 5000 };

static void idles(void *argument)
{
    struct gate *gate = argument;
    volatile char depth[20 * 1024]; /* deep once, as after a greeting with TLS */

    for (size_t i = 0; i < sizeof depth; i += 1024)
        depth[i] = 1;
    gate_pass(gate);
}

static void __attribute__((noinline)) idles_flat(void *argument)
{
    CHECK(fiber_sleep_until(DEADLINE_NEVER) == IO_CANCELLED);
    (void)argument;
}

static void idles_after_work(void *argument)
{
    idles(argument);
    idles_flat(argument);
}

static long resident_kib(void)
{
    char line[256];
    long kib = -1;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");

    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, "Rss:", 4) == 0)
            kib = strtol(line + 4, NULL, 10);
    if (file)
        fclose(file);
    return kib;
}

static int idle_main(void *argument UNUSED)
{
    struct gate gate = {.left = IDLERS};
    const long before_kib = resident_kib();
    struct scheduler *scheduler = scheduler_of_thread();

    for (int i = 0; i < IDLERS; i++)
        CHECK(fiber_start("idle", idles_after_work, &gate) != NULL);
    CHECK(gate_wait(&gate, 0));
    const long used_kib = resident_kib() - before_kib;
    while (scheduler_trim_stacks(scheduler))
        continue;
    const long idle_kib = resident_kib() - before_kib;
    printf("%d fibers: %.1f KiB each after work, %.1f KiB each when idle\n", IDLERS,
           (double)used_kib / IDLERS, (double)idle_kib / IDLERS);
#if !defined(UNDER_ADDRESS_SANITIZER) && !defined(UNDER_THREAD_SANITIZER)
    CHECK(before_kib > 0 && idle_kib < 5 * IDLERS);
#endif
    return 0;
}

static void test_idle_fibers(void **state UNUSED)
{
    in_world(idle_main, NULL, 1);
}

static int limit_main(void *argument UNUSED)
{
    struct gate gate = {.left = 1};
    int started = 0;

    while (started <= FIBER_LIMIT && fiber_start("one more", short_lived, &gate))
        started++;
    CHECK(started == FIBER_LIMIT - 1); /* main is one */
    return 0;
}

static void test_limit(void **state UNUSED)
{
#if defined(UNDER_ADDRESS_SANITIZER) || defined(UNDER_THREAD_SANITIZER)
    skip(); /* their own limits come first */
#endif
    in_world(limit_main, NULL, 1);
    in_world(load_main, NULL, 2); /* and all of it came back */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),      cmocka_unit_test(test_exit_code),
        cmocka_unit_test(test_deadlines),   cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_end_cancels), cmocka_unit_test(test_waitlists),
        cmocka_unit_test(test_wake_order),  cmocka_unit_test(test_load),
        cmocka_unit_test(test_pool),        cmocka_unit_test(test_stack_overflow),
        cmocka_unit_test(test_idle_fibers), cmocka_unit_test(test_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
