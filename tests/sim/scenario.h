/* A scenario plays one seed in the simulated world and checks what has to hold. */
#ifndef TESTS_SIM_SCENARIO_H
#define TESTS_SIM_SCENARIO_H

#include "sim/sim.h"

struct scenario_tally {
    uint64_t acknowledged, refused, crashes, faults, simulated_us;
    uint64_t found_unacknowledged, damaged_unacknowledged, extra_copies;
};

/* Ends the process with the seed and the reason: the parent goes on with other seeds. */
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "seed %llu: %s:%d: not so: %s: ", (unsigned long long)scenario_seed,   \
                    __FILE__, __LINE__, #condition);                                               \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fprintf(stderr, "\n");                                                                 \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

extern uint64_t scenario_seed;
extern bool scenario_trace; /* print every event */

/* Each opens and closes the world itself and returns its trace hash. */
uint64_t scenario_spool(uint64_t seed, struct scenario_tally *tally);
uint64_t scenario_server(uint64_t seed, struct scenario_tally *tally);
/* Two runs of "server" without faults, the second of which takes no memory that does not come back;
 * in a process that was started for it (main.c). */
void scenario_server_memory(uint64_t seed);
uint64_t scenario_outage(uint64_t seed, struct scenario_tally *tally);

#endif
