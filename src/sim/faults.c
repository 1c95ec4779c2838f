/*
 * A step of the disk: it is counted, takes seeded time, meets the faults of the scenario, and may
 * be the one at which the machine dies. All of the disk's and SQLite's operations come through
 * here.
 */
#include "sim/inside.h"

#include <errno.h>
#include <string.h>

enum { FAULTS_MOST = 32 };

static struct {
    struct sim_disk_fault faults[FAULTS_MOST];
    bool used[FAULTS_MOST];
    uint64_t budget_bytes, budget_inodes, struck;
    bool read_only;
} trouble;

/* ------------------------------------------------------------------ faults */

int sim_disk_fault_add(const struct sim_disk_fault *fault)
{
    for (int slot = 0; slot < FAULTS_MOST; slot++)
        if (!trouble.used[slot]) {
            trouble.used[slot] = true;
            trouble.faults[slot] = *fault;
            trouble.faults[slot].met = trouble.faults[slot].struck = 0;
            return slot;
        }
    return -1;
}

void sim_disk_fault_end(int slot)
{
    if (slot >= 0 && slot < FAULTS_MOST)
        trouble.used[slot] = false;
}

void sim_disk_fault_clear(void)
{
    memset(trouble.used, 0, sizeof trouble.used);
}

uint64_t sim_disk_fault_struck(int slot)
{
    return slot >= 0 && slot < FAULTS_MOST ? trouble.faults[slot].struck : 0;
}

uint64_t sim_disk_struck(void)
{
    return trouble.struck;
}

void faults_forget(void)
{
    memset(&trouble, 0, sizeof trouble);
}

static bool fault_strikes(struct sim_disk_fault *fault, enum sim_disk_operation operation,
                          const char *path)
{
    if (fault->on != 0 && (fault->on & operation) == 0)
        return false;
    if (fault->path_part && !strstr(path, fault->path_part))
        return false;
    if (fault->met++ < fault->skip || (fault->times != 0 && fault->struck >= fault->times))
        return false;
    if (fault->chance_ppm != 0 && !sim_chance(fault->chance_ppm))
        return false;
    fault->struck++;
    trouble.struck++;
    return true;
}

static void ask_faults(struct step *step, const char *path)
{
    for (size_t slot = 0; slot < FAULTS_MOST; slot++) {
        struct sim_disk_fault *fault = &trouble.faults[slot];

        if (!trouble.used[slot] || !fault_strikes(fault, step->operation, path))
            continue;
        step->takes_us += fault->stall_us;
        step->lie |= fault->lie;
        if (step->error == 0)
            step->error = fault->error;
    }
}

/* ------------------------------------------------------------------ room */

void sim_disk_budget(uint64_t bytes, uint64_t inodes)
{
    trouble.budget_bytes = bytes;
    trouble.budget_inodes = inodes;
}

void sim_disk_read_only(bool read_only)
{
    trouble.read_only = read_only;
}

bool disk_is_read_only(void)
{
    return trouble.read_only;
}

uint64_t budget_bytes(void)
{
    return trouble.budget_bytes ? trouble.budget_bytes : UINT64_C(1) << 40;
}

uint64_t budget_inodes(void)
{
    return trouble.budget_inodes ? trouble.budget_inodes : UINT64_C(1) << 24;
}

int budget_check(uint64_t new_bytes, uint64_t new_inodes)
{
    if (new_bytes > 0 && trouble.budget_bytes &&
        names_used_bytes() + new_bytes > trouble.budget_bytes)
        return ENOSPC;
    if (new_inodes > 0 && trouble.budget_inodes &&
        names_used_inodes() + new_inodes > trouble.budget_inodes)
        return ENOSPC;
    return 0;
}

void sim_disk_latency(uint64_t typical_us)
{
    sim_world.sync_us = typical_us;
}

/* ------------------------------------------------------------------ steps */

static uint64_t draw_time(enum sim_disk_operation operation, uint64_t size)
{
    const uint64_t sync_us = sim_world.sync_us;
    const bool slow = operation == SIM_DISK_SYNC || operation == SIM_DISK_SYNC_NAMES;
    const uint64_t typical_us = slow ? sync_us : sync_us / 10;

    return chance_between(typical_us / 2, typical_us * 2) + size / 2000;
}

struct step step_take(enum sim_disk_operation operation, const char *path, uint64_t size)
{
    struct step step = {.operation = operation};

    sim_world.steps++;
    step.takes_us = draw_time(operation, size);
    ask_faults(&step, path);
    if (sim_world.crash_step != 0 && sim_world.steps == sim_world.crash_step)
        step.strike = (enum strike)chance_between(STRIKE_BEFORE, STRIKE_AFTER);
    trace_bytes("disk", operation, bytes_of_text(path));
    trace_add("disk step", step.error ? "fails" : "", sim_world.steps ^ (size << 32));
    return step;
}

uint64_t sim_disk_steps(void)
{
    return sim_world.steps;
}

void step_wait(const struct step *step)
{
    sim_pause(step->takes_us);
    if (step->strike == STRIKE_BEFORE)
        sim_crash(sim_world.crash_kind);
}

void step_end(const struct step *step)
{
    if (step->strike != STRIKE_NONE)
        sim_crash(sim_world.crash_kind);
}

bool step_owe(const struct step *step)
{
    sim_world.debt_us += step->takes_us;
    if (step->strike == STRIKE_BEFORE)
        crash_now(sim_world.crash_kind);
    return !sim_world.crashed;
}

bool step_end_owed(const struct step *step)
{
    if (step->strike != STRIKE_NONE)
        crash_now(sim_world.crash_kind);
    return !sim_world.crashed;
}

/* ------------------------------------------------------------------ the end of the world */

/* What the disk holds is settled at once, since nothing reaches it any more. */
void crash_now(enum sim_crash_kind kind)
{
    if (sim_world.crashed)
        return;
    sim_world.crashed = true;
    trace_add("crash", kind == SIM_KILL ? "kill" : "power cut", sim_world.steps);
    if (kind == SIM_KILL) {
        sync_finish();
        return;
    }
    sync_power_cut();
    for (struct inode *inode = names_all(); inode; inode = inode->next)
        if (!inode->is_directory)
            pages_power_cut(inode);
    names_power_cut();
}

void sim_crash(enum sim_crash_kind kind)
{
    crash_now(kind);
    if (fiber_self())
        sim_die();
}

void sim_crash_at_step(uint64_t step, enum sim_crash_kind kind)
{
    sim_world.crash_step = step;
    sim_world.crash_kind = kind;
}
