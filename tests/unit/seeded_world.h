/* A test in the simulated world, played by a few seeds. */
#ifndef TESTS_SEEDED_WORLD_H
#define TESTS_SEEDED_WORLD_H

#include "observe/observe.h"
#include "sim/sim.h"
#include "world_check.h"

#define SEEDED_WORLD_SEEDS 5

/* WORLD(test_name) { ...; return 0; }: a test for cmocka's table. */
#define WORLD(name)                                                                                \
    static int name##_main(void *argument);                                                        \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        observe_configure(LOG_NONE, LOG_ERROR);                                                    \
        for (uint64_t seed = 1; seed <= SEEDED_WORLD_SEEDS; seed++) {                              \
            sim_open(seed);                                                                        \
            in_world(name##_main, NULL, 1);                                                        \
            sim_close();                                                                           \
        }                                                                                          \
    }                                                                                              \
    static int name##_main(void *argument UNUSED)

#endif
