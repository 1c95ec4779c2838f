/* A test in the real world, that of the kernel, on one loop; seeded_world.h has the other. */
#ifndef TESTS_REAL_WORLD_H
#define TESTS_REAL_WORLD_H

#include "observe/observe.h"
#include "world_check.h"

/* WORLD(test_name) { ...; return 0; }: a test for cmocka's table. */
#define WORLD(name)                                                                                \
    static int name##_main(void *argument);                                                        \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        observe_configure(LOG_NONE, LOG_ERROR);                                                    \
        in_world(name##_main, NULL, 1);                                                            \
    }                                                                                              \
    static int name##_main(void *argument UNUSED)

#endif
