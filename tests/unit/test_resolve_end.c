/* libunbound's end of a context may wait for ever: it is closed all the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "hard_asserts.h"

#include "resolve/resolve.h"
#include "runtime/runtime.h"

struct ub_ctx;
void ub_ctx_delete(struct ub_ctx *context);

/* In place of the library's: as when the thread it waits for was never started. */
void ub_ctx_delete(struct ub_ctx *context UNUSED)
{
    for (;;)
        pause();
}

static int closes(void *argument UNUSED)
{
    char why[256] = "";
    const uint64_t began_us = clock_now_us();
    struct resolver *resolver =
        resolver_open(&(struct resolver_settings){.timeout_us = US_PER_S}, why, sizeof why);

    assert_non_null(resolver);
    resolver_close(resolver);
    assert_true(clock_now_us() - began_us >= US_PER_S); /* it was given its time */
    return 0;
}

static void test_end(void **state UNUSED)
{
    assert_int_equal(0, world_run(closes, NULL, 1)); /* without the mend: never */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_end)};

    const int failed = cmocka_run_group_tests(tests, NULL, NULL);

    fflush(stdout);
    _exit(failed); /* what is kept is kept on purpose, and one thread goes on */
}
