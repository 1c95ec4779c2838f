/*
 * holdfast-sim [--only SCENARIO] SEED [N]: plays N seeds from SEED on; every tenth is played twice
 * and its trace hashes are compared. One seed alone prints its hashes. --trace SEED: one seed, with
 * every event on standard error. --soak [FILE]: 100,000 seeds in slices; after each the sums so far
 * are printed and kept in FILE, from which the next --soak goes on. --oracles [NAME]: shows that
 * each oracle can fail (oracles.c).
 *
 * Seeds run in child processes, as many at a time as there are cores, since what a crashed world
 * had allocated is never freed; a seed that fails ends its child, and another goes on behind it.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "observe/observe.h"
#include "oracles.h"
#include "scenario.h"

enum {
    SEEDS_A_CHILD = 20,
    SOAK_SEEDS = 100000,
    SOAK_SLICE = 500,
    TWICE_EVERY = 10,
    PATIENCE_S = 120,       /* of CPU, for one seed */
    PATIENCE_IDLE_S = 3600, /* by the clock on the wall, however busy the machine is */
    CHILDREN_MOST = 64,
    FAILED_SHOWN = 10,
};

#define TUNABLES "GLIBC_TUNABLES"

uint64_t scenario_seed;
bool scenario_trace;
static bool print_hashes;
static const char *only;

/* glibc counts what a thread keeps for its next allocation as in use: for a count of what was not
 * given back (sim_server.c) it has to keep nothing, and takes that word only when it starts. Other
 * seeds are played faster than it would let them. */
static uint64_t scenario_memory(uint64_t seed, struct scenario_tally *tally)
{
    char text[24];
    int status = -1;

    CHECK(tally != NULL, "it adds nothing");
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    const pid_t pid = fork();
    if (pid == 0) {
        setenv(TUNABLES, "glibc.malloc.tcache_count=0", 1);
        execl("/proc/self/exe", "holdfast-sim", "--memory", text, NULL);
        _exit(127);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "memory: status %d", status);
    return 0;
}

static const struct scenario {
    const char *name;
    uint64_t (*play)(uint64_t seed, struct scenario_tally *tally);
    unsigned every; /* played for the first of so many seeds, unless it is asked for */
} scenarios[] = {
    {"spool", scenario_spool, 1},
    {"server", scenario_server, 1},
    {"outage", scenario_outage, 20},
    {"memory", scenario_memory, 25},
};

/* One a child, in memory that both see: it survives the child. */
struct report {
    struct scenario_tally tally;
    uint64_t seed; /* under way */
};
struct child {
    pid_t pid;
    uint64_t next, end;
    struct report *report;
};

static struct {
    struct child children[CHILDREN_MOST];
    unsigned count;
    uint64_t next, end;
    uint64_t failed, failed_seeds[FAILED_SHOWN];
} run;

/* ------------------------------------------------------------------ a seed */

static void play_seed(uint64_t seed, struct scenario_tally *tally)
{
    scenario_seed = seed;
    for (size_t i = 0; i < COUNT_OF(scenarios); i++) {
        if (only ? strcmp(only, scenarios[i].name) != 0
                 : seed % scenarios[i].every != 1 % scenarios[i].every)
            continue;
        const uint64_t hash = scenarios[i].play(seed, tally);

        if (print_hashes)
            printf("%s seed %llu trace %016llx\n", scenarios[i].name, (unsigned long long)seed,
                   (unsigned long long)hash);
        if (seed % TWICE_EVERY == 0 || print_hashes) {
            struct scenario_tally again = {0};
            const uint64_t second = scenarios[i].play(seed, &again);

            if (print_hashes)
                printf("%s seed %llu again %016llx\n", scenarios[i].name, (unsigned long long)seed,
                       (unsigned long long)second);
            CHECK(second == hash, "%s: another trace the second time", scenarios[i].name);
        }
    }
}

/* ------------------------------------------------------------------ children */

static void child_main(const struct child *child)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t seed = child->next; seed < child->end; seed++) {
        /* One thread: a mutex held across a sleep would stop it for good. */
        alarm(PATIENCE_IDLE_S);
        setitimer(ITIMER_PROF, &(struct itimerval){.it_value.tv_sec = PATIENCE_S}, NULL);
        child->report->seed = seed;
        play_seed(seed, &child->report->tally);
    }
    fflush(NULL);
    _exit(0);
}

static bool child_start(struct child *child)
{
    if (child->next >= child->end) {
        child->next = run.next;
        run.next = MIN_OF(run.next + SEEDS_A_CHILD, run.end);
        child->end = run.next;
    }
    if (child->next >= child->end)
        return false;
    child->pid = fork();
    if (child->pid == 0)
        child_main(child);
    return child->pid > 0;
}

static void child_ended(struct child *child, int status)
{
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        child->next = child->end;
        return;
    }
    const uint64_t seed = child->report->seed;
    printf("not ok: seed %llu, ended by signal %d; again: ./run sim %llu\n",
           (unsigned long long)seed, WIFSIGNALED(status) ? WTERMSIG(status) : 0,
           (unsigned long long)seed);
    if (run.failed < FAILED_SHOWN)
        run.failed_seeds[run.failed] = seed;
    run.failed++;
    child->next = seed + 1;
}

static void children_run(void)
{
    unsigned running = 0;

    for (unsigned i = 0; i < run.count; i++)
        running += child_start(&run.children[i]);
    while (running > 0) {
        int status = 0;
        const pid_t pid = waitpid(-1, &status, 0);

        for (unsigned i = 0; i < run.count; i++) {
            if (run.children[i].pid != pid || pid <= 0)
                continue;
            child_ended(&run.children[i], status);
            running -= !child_start(&run.children[i]);
        }
    }
}

/* ------------------------------------------------------------------ totals */

static void tally_add(struct scenario_tally *into, const struct scenario_tally *from)
{
    into->acknowledged += from->acknowledged;
    into->refused += from->refused;
    into->crashes += from->crashes;
    into->faults += from->faults;
    into->simulated_us += from->simulated_us;
    into->found_unacknowledged += from->found_unacknowledged;
    into->damaged_unacknowledged += from->damaged_unacknowledged;
    into->extra_copies += from->extra_copies;
}

/* Nothing bad in n independent tries: with 95 % confidence it is rarer than 3/n. */
static void print_totals(const struct scenario_tally *tally, uint64_t count)
{
    const uint64_t hours = tally->simulated_us / (3600 * US_PER_S);

    printf("%llu seeds, %llu hours simulated; %llu messages acknowledged, %llu recipients refused; "
           "%llu crashes, %llu faults struck\n",
           (unsigned long long)count, (unsigned long long)hours,
           (unsigned long long)tally->acknowledged, (unsigned long long)tally->refused,
           (unsigned long long)tally->crashes, (unsigned long long)tally->faults);
    printf("not acknowledged and yet found: %llu, %llu of them damaged; copies beyond the first: "
           "%llu, each after an ambiguous event\n",
           (unsigned long long)tally->found_unacknowledged,
           (unsigned long long)tally->damaged_unacknowledged,
           (unsigned long long)tally->extra_copies);
    if (run.failed == 0 && tally->acknowledged > 0)
        printf("no acknowledged message was lost: with 95 %% confidence fewer than 3/%llu = %.2g "
               "are\n",
               (unsigned long long)tally->acknowledged, 3.0 / (double)tally->acknowledged);
    for (uint64_t i = 0; i < MIN_OF(run.failed, (uint64_t)FAILED_SHOWN); i++)
        printf("failed: seed %llu\n", (unsigned long long)run.failed_seeds[i]);
    printf("%llu seeds are fine, %llu failed\n", (unsigned long long)(count - run.failed),
           (unsigned long long)run.failed);
}

static void play_some(uint64_t first, uint64_t count, struct scenario_tally *total)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    struct report *reports = mmap(NULL, CHILDREN_MOST * sizeof *reports, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (reports == MAP_FAILED)
        exit(2);
    run.next = first;
    run.end = first + count;
    run.count = cores > 0 ? (unsigned)MIN_OF(cores, (long)CHILDREN_MOST) : 1;
    for (unsigned i = 0; i < run.count; i++)
        run.children[i] = (struct child){.report = &reports[i]};
    fflush(NULL);
    children_run();
    for (unsigned i = 0; i < run.count; i++)
        tally_add(total, &reports[i].tally);
    munmap(reports, CHILDREN_MOST * sizeof *reports);
}

static int play_all(uint64_t first, uint64_t count)
{
    struct scenario_tally total = {0};

    play_some(first, count, &total);
    print_totals(&total, count);
    /* A run in which nothing happened proves nothing; what another process does is not counted. */
    const bool counts = !only || strcmp(only, "memory") != 0;
    return run.failed == 0 && (total.acknowledged > 0 || !counts) ? 0 : 1;
}

/* ------------------------------------------------------------------ soaking */

#define SOAK_LINE                                                                                  \
    "seeds %llu failed %llu acknowledged %llu refused %llu crashes %llu faults %llu simulated_us " \
    "%llu found %llu damaged %llu copies %llu\n"
enum { SOAK_NUMBERS = 10 };

/* False: there is none yet. */
static bool soak_read(const char *path, unsigned long long at[SOAK_NUMBERS])
{
    FILE *file = fopen(path, "r");
    const bool read = file && fscanf(file, SOAK_LINE, &at[0], &at[1], &at[2], &at[3], &at[4],
                                     &at[5], &at[6], &at[7], &at[8], &at[9]) == SOAK_NUMBERS;

    if (file)
        fclose(file);
    return read;
}

/* Whole or not at all: the old one stands until the new one is complete. */
static bool soak_write(const char *path, uint64_t seeds, const struct scenario_tally *tally)
{
    char beside[4096];
    const int length = snprintf(beside, sizeof beside, "%s.new", path);
    FILE *file = length > 0 && (size_t)length < sizeof beside ? fopen(beside, "w") : NULL;
    const unsigned long long at[SOAK_NUMBERS] = {seeds,
                                                 run.failed,
                                                 tally->acknowledged,
                                                 tally->refused,
                                                 tally->crashes,
                                                 tally->faults,
                                                 tally->simulated_us,
                                                 tally->found_unacknowledged,
                                                 tally->damaged_unacknowledged,
                                                 tally->extra_copies};

    if (!file)
        return false;
    const bool written = fprintf(file, SOAK_LINE, at[0], at[1], at[2], at[3], at[4], at[5], at[6],
                                 at[7], at[8], at[9]) > 0;
    return fclose(file) == 0 && written && rename(beside, path) == 0;
}

static int soak(const char *path)
{
    unsigned long long at[SOAK_NUMBERS] = {0};
    struct scenario_tally total = {0};
    uint64_t seeds = 0;

    if (soak_read(path, at)) {
        seeds = at[0];
        run.failed = at[1];
        total = (struct scenario_tally){.acknowledged = at[2],
                                        .refused = at[3],
                                        .crashes = at[4],
                                        .faults = at[5],
                                        .simulated_us = at[6],
                                        .found_unacknowledged = at[7],
                                        .damaged_unacknowledged = at[8],
                                        .extra_copies = at[9]};
        printf("%s: goes on behind seed %llu\n", path, (unsigned long long)seeds);
    }
    for (uint64_t slice; seeds < SOAK_SEEDS; seeds += slice) {
        slice = MIN_OF((uint64_t)SOAK_SLICE, SOAK_SEEDS - seeds);
        play_some(seeds + 1, slice, &total);
        print_totals(&total, seeds + slice);
        if (!soak_write(path, seeds + slice, &total)) {
            fprintf(stderr, "%s: %s\n", path, strerror(errno));
            return 2;
        }
    }
    return run.failed == 0 ? 0 : 1;
}

/* ------------------------------------------------------------------ the command line */

static uint64_t number(const char *text)
{
    uint64_t value = 0;

    if (!text || !bytes_to_u64(bytes_of_text(text), &value)) {
        fprintf(stderr,
                "usage: holdfast-sim [--only spool|server|outage] SEED [N] | --trace SEED | --soak "
                "[FILE] | --oracles [NAME]\n");
        exit(2);
    }
    return value;
}

static int play_memory(uint64_t seed)
{
    scenario_seed = seed;
    scenario_server_memory(seed);
    return 0;
}

int main(int count, char **words)
{
    struct scenario_tally tally = {0};

    /* To read the system's takes longer than a seed; server_tls.c names one instead. */
    setenv("SSL_CERT_FILE", "/dev/null", 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
    observe_configure(LOG_NONE, LOG_ERROR);
    if (count > 2 && strcmp(words[1], "--only") == 0) {
        only = words[2];
        words += 2;
        count -= 2;
    }
    if (count >= 2 && count <= 3 && strcmp(words[1], "--soak") == 0)
        return soak(count == 3 ? words[2] : "holdfast-sim.soak");
    if (count >= 2 && count <= 3 && strcmp(words[1], "--oracles") == 0)
        return oracles_prove(count == 3 ? words[2] : NULL);
    if (count == 3 && strcmp(words[1], "--memory") == 0)
        return play_memory(number(words[2]));
    if (count == 3 && strcmp(words[1], "--trace") == 0) {
        scenario_seed = number(words[2]);
        scenario_trace = true;
        play_seed(scenario_seed, &tally);
        return 0;
    }
    if (count < 2 || count > 3)
        number(NULL);
    print_hashes = count == 2;
    return play_all(number(words[1]), count == 3 ? number(words[2]) : 1);
}
