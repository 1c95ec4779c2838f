/*
 * holdfast-sim SEED [N]: plays N seeds from SEED on, each twice where the trace hash is compared.
 * holdfast-sim --trace SEED: one seed, with every event on standard error.
 * holdfast-sim --soak: 100,000 seeds. Seeds run in child processes, a few at a time, since what a
 * crashed world had allocated is never freed.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "observe/observe.h"
#include "scenario.h"

enum { SEEDS_A_CHILD = 20, SOAK_SEEDS = 100000, TWICE_EVERY = 10, PATIENCE_S = 300 };

uint64_t scenario_seed;
bool scenario_trace;
static bool print_hashes;

static const struct scenario {
    const char *name;
    uint64_t (*play)(uint64_t seed, struct scenario_tally *tally);
} scenarios[] = {
    {"spool", scenario_spool},
};

static void play_seed(uint64_t seed, struct scenario_tally *tally)
{
    scenario_seed = seed;
    for (size_t i = 0; i < COUNT_OF(scenarios); i++) {
        const uint64_t hash = scenarios[i].play(seed, tally);

        if (print_hashes)
            printf("%s seed %llu trace %016llx\n", scenarios[i].name, (unsigned long long)seed,
                   (unsigned long long)hash);
        if (seed % TWICE_EVERY == 0) {
            struct scenario_tally again = {0};

            CHECK(scenarios[i].play(seed, &again) == hash, "%s: another trace the second time",
                  scenarios[i].name);
        }
    }
}

/* In a child, so that an abort costs only its seeds. */
static bool play_batch(uint64_t first, uint64_t count, struct scenario_tally *tally)
{
    int status = 0;
    const pid_t child = fork();

    if (child == 0) {
        /* One thread: a mutex held across a sleep would stop it for good. */
        alarm(PATIENCE_S);
        for (uint64_t i = 0; i < count; i++)
            play_seed(first + i, tally);
        fflush(NULL);
        _exit(0);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    printf("not ok: in seeds %llu to %llu\n", (unsigned long long)first,
           (unsigned long long)(first + count - 1));
    return false;
}

static uint64_t number(const char *text)
{
    uint64_t value = 0;

    if (!text || !bytes_to_u64(bytes_of_text(text), &value)) {
        fprintf(stderr, "usage: holdfast-sim SEED [N] | --trace SEED | --soak\n");
        exit(2);
    }
    return value;
}

static int play_all(uint64_t first, uint64_t count)
{
    struct scenario_tally *tally =
        mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t failed = 0;

    if (tally == MAP_FAILED)
        return 2;
    for (uint64_t done = 0; done < count; done += SEEDS_A_CHILD)
        failed += !play_batch(first + done, MIN_OF(count - done, (uint64_t)SEEDS_A_CHILD), tally);
    printf("%llu seeds from %llu: %llu acknowledged, %llu refused, %llu crashes; not acknowledged "
           "but found: %llu, %llu of them damaged; %llu batches failed\n",
           (unsigned long long)count, (unsigned long long)first,
           (unsigned long long)tally->acknowledged, (unsigned long long)tally->refused,
           (unsigned long long)tally->crashes, (unsigned long long)tally->found_unacknowledged,
           (unsigned long long)tally->damaged_unacknowledged, (unsigned long long)failed);
    /* A run in which nothing happened proves nothing. */
    return failed == 0 && tally->acknowledged > 0 ? 0 : 1;
}

int main(int count, char **words)
{
    struct scenario_tally tally = {0};

    setvbuf(stdout, NULL, _IOLBF, 0);
    observe_configure(LOG_NONE, LOG_ERROR);
    if (count == 2 && strcmp(words[1], "--soak") == 0)
        return play_all(1, SOAK_SEEDS);
    print_hashes = count == 2 || (count == 3 && strcmp(words[1], "--trace") == 0);
    if (count == 3 && strcmp(words[1], "--trace") == 0) {
        scenario_seed = number(words[2]);
        scenario_trace = true;
        play_seed(scenario_seed, &tally);
        return 0;
    }
    if (count < 2 || count > 3)
        number(NULL);
    return play_all(number(words[1]), count == 3 ? number(words[2]) : 1);
}
