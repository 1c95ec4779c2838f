/* What the files of sim share. Nothing here sleeps unless it says so. */
#ifndef SIM_INSIDE_H
#define SIM_INSIDE_H

#include "runtime/world.h"
#include "sim/sim.h"

/* ------------------------------------------------------------------ world.c */

struct sim_world {
    uint64_t seed;
    uint64_t chance[4]; /* state of xoshiro256** */
    uint64_t trace, trace_count;
    bool trace_print;

    uint64_t now_us;
    int64_t wall_offset_us; /* wall clock minus monotonic clock */
    uint64_t debt_us;       /* time that SQLite's calls took and that is still to pass */
    uint64_t limit_us;

    unsigned session_loops;
    bool running, crashed;
    uint64_t crash_step;
    enum sim_crash_kind crash_kind;
    uint64_t steps;
    uint64_t sync_us; /* typical time of a sync */
};

extern struct sim_world sim_world;

_Noreturn void sim_die(void);  /* parks the calling fiber for good, in a crashed world */
void sim_die_if_crashed(void); /* the first thing that every call which may sleep does */
void *sim_new(size_t size);    /* zeroed; memory of the test machine is taken for granted */
void *sim_grow(void *memory, size_t count, size_t size);
void sim_pause(uint64_t duration_us); /* Sleeps, whether the fiber is cancelled or not. */

/* ------------------------------------------------------------------ chance.c */

void chance_open(uint64_t seed);
uint64_t chance_next(void);
uint64_t chance_between(uint64_t least, uint64_t most);

/* Adds to the trace: what happened, a text and a number; `bytes` may be empty. */
void trace_add(const char *what, const char *text, uint64_t number);
void trace_bytes(const char *what, uint64_t number, struct bytes bytes);

/* ------------------------------------------------------------------ events.c */

struct sim_event {
    uint64_t at_us, order;
    uint32_t tie; /* seeded: the order of what happens at one time */
    void (*run)(void *argument);
    void *argument;
    bool owned;
};

void events_add(uint64_t at_us, void (*run)(void *argument), void *argument);
/* The same; what is left when the world ends is freed. */
void events_add_owned(uint64_t at_us, void (*run)(void *argument), void *argument);
uint64_t events_next_us(void); /* DEADLINE_NEVER when there is none */
void events_run_due(void);     /* all at or before now */
void events_close(void);

/* ------------------------------------------------------------------ what world.c closes */

void network_close(void);  /* streams, listeners, datagrams of the world that ended */
void network_forget(void); /* faults, weather, peers: sim_close */
void peers_close(void);
void signals_close(void);
void zone_forget(void);
void documents_forget(void);
void handles_close(void); /* files left open by the world that ended */
void faults_forget(void);
void vfs_open(void);  /* registers SQLite's VFS as the default one, seeds its chance */
void vfs_close(void); /* locks and shared memory of the world that ended */

/* ------------------------------------------------------------------ pages.c: one file's bytes */

enum { PAGE_BYTES = 4096, SECTOR_BYTES = 512, PAGE_SECTORS = 8 };

/*
 * A page in the cache and on the platter. A sector is dirty when the next sync will write it, and
 * stale when the platter differs and no sync will (it failed, or is under way). While neither is
 * set anywhere in the page, the platter holds what the cache does and costs nothing.
 */
struct page {
    uint8_t *cache, *platter; /* NULL: zeroes; platter counts only while dirty or stale */
    uint8_t dirty, stale;
    bool allocated;
};

struct entry {
    char *name;
    struct inode *inode;
};
struct entries {
    struct entry *at;
    size_t count, room;
};

struct inode {
    struct inode *next; /* all of the disk */
    uint64_t number;
    bool is_directory, reachable;
    uint32_t handles;
    const void *locked_by; /* file_lock */
    int64_t modified_wall_us;
    /* a file */
    struct page *pages;
    size_t page_count;
    uint64_t size, durable_size;
    struct vfs_shared *shared; /* SQLite's locks and shared memory */
    /* a directory */
    struct entries names, durable;
    struct inode *parent;
};

void pages_write(struct inode *inode, uint64_t offset, struct bytes bytes);
void pages_zero(struct inode *inode, uint64_t from, uint64_t to); /* allocates them */
size_t pages_read(const struct inode *inode, uint64_t offset, struct span into);
void pages_truncate(struct inode *inode, uint64_t size);
void pages_free(struct inode *inode);
uint64_t pages_allocated(const struct inode *inode);
/* How many of the bytes at offset would need new room on the disk. */
uint64_t pages_missing(const struct inode *inode, uint64_t offset, uint64_t count);
void pages_flip(struct inode *inode, uint64_t offset, unsigned bit);
void pages_write_back(struct inode *inode); /* a page, perhaps, without being asked */
void pages_settle(struct inode *inode);     /* all is durable */
void pages_power_cut(struct inode *inode);

/* A sync between its begin and its end: what was dirty at the begin. */
struct sync_job {
    struct sync_job *next;
    struct inode *inode;
    struct synced_page {
        size_t index;
        uint8_t mask;
        uint8_t bytes[PAGE_BYTES];
    } * pages;
    size_t count;
    uint64_t size;
};
struct sync_job *sync_begin(struct inode *inode);
enum sync_end { SYNC_DONE, SYNC_FAILED, SYNC_LIED };
bool sync_running(const struct inode *inode); /* one at a time a file; others wait */
void sync_end(struct sync_job *job, enum sync_end end);
void sync_finish(void);    /* the machine lives on: all under way is done */
void sync_power_cut(void); /* the jobs under way reached the platter in part */
void sync_forget(void);

/* ------------------------------------------------------------------ names.c: directories */

struct inode *names_root(void);
enum { PATH_MAX_BYTES = 1024 };
struct place {
    struct inode *directory;
    char name[256];
    struct inode *inode; /* NULL: absent */
};
/* 0 or an errno; finds the directory of the last component, and what is there. */
int names_find(const char *path, struct place *place);
int names_create(const struct place *place, bool is_directory, struct inode **inode);
int names_link(const struct place *from, const struct place *to);
int names_rename(const struct place *from, const struct place *to);
int names_remove(const struct place *place);
void names_sync(struct inode *directory);
void names_sync_failed(struct inode *directory);
void names_power_cut(void);
void names_settle(void);  /* every name is durable */
void names_collect(void); /* frees what nobody can reach any more */
void names_forget(void);
struct entry *entries_find(const struct entries *entries, const char *name);
void names_usage_changed(void); /* what a file takes, or who can be reached */
uint64_t names_used_bytes(void);
uint64_t names_used_inodes(void);
struct inode *names_all(void);

/* ------------------------------------------------------------------ faults.c: a step of the disk
 */

enum strike { STRIKE_NONE = 0, STRIKE_BEFORE, STRIKE_MIDDLE, STRIKE_AFTER };

struct step {
    enum sim_disk_operation operation;
    int error;
    bool lie;
    uint64_t takes_us;
    enum strike strike;
};
/* Counts the step, asks the faults, draws the time it takes. */
struct step step_take(enum sim_disk_operation operation, const char *path, uint64_t size);
/* For fibers: lets the time pass, or dies. Sleeps. */
void step_wait(const struct step *step);
void step_end(const struct step *step); /* strikes after the deed, or in the middle of it */
/* For SQLite: the time is owed. False: the world ended before the deed. */
bool step_owe(const struct step *step);
bool step_end_owed(const struct step *step); /* false: it ended after or in the middle */
int budget_check(uint64_t new_bytes, uint64_t new_inodes); /* 0 or ENOSPC */
void crash_now(enum sim_crash_kind kind);
bool disk_is_read_only(void);
uint64_t budget_bytes(void); /* in all */
uint64_t budget_inodes(void);

/* ------------------------------------------------------------------ disk.c: files in the order of
 * the kernel's checks */

struct file {
    struct file *next, *previous; /* all open ones */
    struct inode *inode;
    bool writable;
    char *path;
};
int disk_open_now(const char *path, unsigned flags, struct file **file); /* 0 or an errno */
int disk_open_nameless(struct file **file); /* SQLite's temporary files */
/* The deeds themselves, for fibers and for SQLite alike: 0 or an errno. A failed write, and one
 * that a crash strikes in its middle, may have written the beginning; *done says how much. */
int disk_write_now(struct file *file, const struct step *step, uint64_t offset, struct bytes bytes,
                   size_t *done);
int disk_truncate_now(struct file *file, const struct step *step, uint64_t size);
int disk_remove_now(const char *path, const struct step *step);
int disk_sync_names_now(const char *path, const struct step *step);
enum sync_end sync_end_of(const struct step *step);

#endif
