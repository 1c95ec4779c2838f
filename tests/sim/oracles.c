/*
 * --oracles: each oracle is shown to be able to fail. For each line of oracles.def a process plays
 * seeds with that plant in the evidence, until an oracle stops it; it has to be the one that is
 * meant, in its own words. The server is not touched: bugs in it are the business of tests/mutants.
 */
#include "scenario.h"

#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oracles.h"

enum { SEEDS_MOST = 150, SAID_ROOM = 1 << 22 };

enum plant planted;

static const struct {
    const char *name, *words, *what;
    unsigned oracle;
} plants[] = {
#define PLANT(name, oracle, words, what) [PLANT_##name] = {#name, words, what, oracle},
#include "oracles.def"
#undef PLANT
};

bool plant_once(enum plant plant)
{
    static bool used;
    const bool now = planted == plant && !used;

    used |= now;
    return now;
}

_Noreturn static void play_until_noticed(enum plant plant, int into)
{
    struct scenario_tally ignored = {0};

    planted = plant;
    if (dup2(into, STDERR_FILENO) < 0)
        _exit(2);
    for (uint64_t seed = 1; seed <= SEEDS_MOST; seed++) {
        scenario_seed = seed;
        if (plant == PLANT_MEMORY)
            scenario_server_memory(seed);
        const uint64_t hash = scenario_server(seed, &ignored);
        if (plant == PLANT_TRACE)
            CHECK(scenario_server(seed, &ignored) == hash, "another trace the second time");
    }
    _exit(0);
}

/* What the process has said before it ended, or NULL when it was not stopped. */
static const char *hear_out(enum plant plant)
{
    static char said[SAID_ROOM];
    int ends[2], status = 0;
    size_t count = 0;

    if (pipe(ends) != 0)
        exit(2);
    fflush(NULL);
    const pid_t pid = fork();
    if (pid == 0)
        play_until_noticed(plant, ends[1]);
    close(ends[1]);
    for (ssize_t got; count < sizeof said - 1 &&
                      (got = read(ends[0], said + count, sizeof said - 1 - count)) > 0;)
        count += (size_t)got;
    close(ends[0]);
    said[count] = '\0';
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        exit(2);
    return WIFSIGNALED(status) ? said : NULL;
}

int oracles_prove(const char *only)
{
    unsigned failed = 0;

    for (size_t i = 1; i < COUNT_OF(plants); i++) {
        if (only && strcmp(only, plants[i].name) != 0)
            continue;
        const char *said = hear_out((enum plant)i);
        const char *last = said ? strstr(said, "not so: ") : NULL;
        const bool noticed = last && strstr(last, plants[i].words);
        uint64_t seed = 0;
        const char *at = said ? strstr(said, "seed ") : NULL;

        for (at = at ? at + 5 : ""; *at >= '0' && *at <= '9'; at++)
            seed = seed * 10 + (uint64_t)(*at - '0');
        failed += !noticed;
        printf("%s oracle %2u, %s: %s; seed %llu: \"%s\"\n", noticed ? "ok" : "not ok",
               plants[i].oracle, plants[i].name, plants[i].what, (unsigned long long)seed,
               noticed ? plants[i].words
               : last  ? last
                       : "nothing");
    }
    printf("%zu plants, %u were not noticed\n", COUNT_OF(plants) - 1, failed);
    return failed != 0;
}
