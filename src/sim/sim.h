/*
 * sim: the runtime's interface over a seeded world: virtual time, network, disk, DNS, signals,
 * chance.
 *
 * Flow:   sim_open(seed) -> set faults -> world_run(main) -> sim_trace_hash(). All loops are names
 * on one thread; when no fiber is ready, time jumps to the next event. The same seed and the same
 * program give the same trace hash, to the byte.
 * Owns:   everything in the world. The disk outlives world_run, so that a second world_run is the
 * reboot after sim_crash(); connections, listeners and fibers do not.
 * Sleeps: as runtime.h says; no function of this header sleeps but sim_crash, which never returns
 * to a fiber.
 * Fails:  by what the scenario asked for. Running out of the test machine's memory ends the
 * process. Never:  reads a real clock, real randomness, addresses, or the real disk and network.
 *
 * Linked by tests and `holdfast-sim` instead of `kernel`; included by nobody else.
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include "base/base.h"
#include "runtime/runtime.h"

/* ------------------------------------------------------------------ the world */

/* Exit codes of world_run beside main's own. */
enum {
    SIM_CRASHED = -1001, /* sim_crash struck; the next world_run is the reboot */
    SIM_STUCK = -1002,   /* every fiber waits and nothing will ever happen */
    SIM_OVERDUE = -1003, /* the limit of virtual time was passed */
};

void sim_open(uint64_t seed); /* an empty disk, quiet network, Tue, 24 Nov 2026 00:00:00 UTC */
void sim_close(void);         /* frees the world */
void sim_limit_time(
    uint64_t duration_us); /* from now on; world_run gives SIM_OVERDUE beyond. Default: 30 days */
void sim_session_loops(unsigned count); /* default 2; world_run's own argument wins unless 0 */

uint64_t sim_trace_hash(void);    /* over everything that happened since sim_open */
uint64_t sim_trace_count(void);   /* how many things that were */
void sim_trace_print(bool print); /* one line each on standard error, to read a failing seed */
void sim_note(const char *what, uint64_t value); /* the scenario's own word into the trace */

uint64_t sim_below(uint64_t limit); /* from the seed: 0 .. limit-1; 0 when limit is 0 */
bool sim_chance(unsigned parts_per_million);

/* Calls `each` with the name of every fiber that has not ended, the caller's too. */
void sim_fibers_each(void (*each)(void *argument, const char *name), void *argument);

void sim_wall_jump(int64_t by_us);  /* the wall clock jumps; the monotonic one does not */
void sim_signal(int signal_number); /* to process_wait_signal */
/* Calls `run` at that time, outside any fiber: it must not sleep. */
void sim_at(uint64_t at_us, void (*run)(void *argument), void *argument);

/* ------------------------------------------------------------------ crashes */

enum sim_crash_kind {
    SIM_POWER_CUT = 0, /* a seeded part of what was not synced is gone */
    SIM_KILL,          /* kill -9: the page cache lives on, everything of the process is gone */
};

/* Ends this world now: no fiber runs again. From a fiber it does not return. */
void sim_crash(enum sim_crash_kind kind);
/* Every operation on the disk, SQLite's too, is a step. Before, in the middle of or after the step
 * of that number (counted from 1 at sim_open) the crash strikes; 0: never. */
void sim_crash_at_step(uint64_t step, enum sim_crash_kind kind);
uint64_t sim_disk_steps(void); /* taken so far */
bool sim_crashed(void);        /* since the last world_run began */

/* ------------------------------------------------------------------ disk */

enum sim_disk_operation {
    SIM_DISK_OPEN = 1,
    SIM_DISK_READ = 2,
    SIM_DISK_WRITE = 4, /* also truncate and reserve */
    SIM_DISK_SYNC = 8,
    SIM_DISK_NAMES = 16, /* create, rename, link, remove, make directory */
    SIM_DISK_SYNC_NAMES = 32,
    SIM_DISK_LOOK = 64, /* facts, list, space, lock */
    SIM_DISK_ALL = 127,
};

struct sim_disk_fault {
    unsigned on;           /* of sim_disk_operation; 0: all */
    const char *path_part; /* a literal that the path contains; NULL: any */
    int error;             /* errno; 0: only the stall */
    unsigned chance_ppm;   /* 0: always */
    uint64_t skip;         /* the first so many that match pass */
    uint64_t times;        /* then so many fail; 0: for ever */
    uint64_t stall_us;     /* the operation takes that much longer */
    bool lie;              /* a sync answers well and did nothing (a lost write) */
    uint64_t met, struck;  /* counted by the world */
};

/* Returns the fault's slot, or -1 when 32 are set. A failed sync marks the pages clean; what they
 * held may be lost, as on Linux. A failed write may have written its beginning. */
int sim_disk_fault_add(const struct sim_disk_fault *fault);
void sim_disk_fault_end(int slot);
void sim_disk_fault_clear(void);
uint64_t sim_disk_fault_struck(int slot);
uint64_t sim_disk_struck(void); /* by all of them, since sim_open */

void sim_disk_budget(uint64_t bytes, uint64_t inodes); /* 0: ample. Beyond: ENOSPC */
void sim_disk_read_only(bool read_only);               /* EROFS */
void sim_disk_latency(uint64_t typical_us); /* of a sync; others take a part of it. 100 */

/* For tests, at once and durable, without a step. Parents are made too. */
void sim_disk_put(const char *path, struct bytes content);
void sim_disk_make_directory(const char *path);
bool sim_disk_exists(const char *path);
/* What a reader would see, as a view that lives until the next call; empty when absent. */
struct bytes sim_disk_get(const char *path);
/* Turns one bit over, in the cache and on the platter. False: no such byte. */
bool sim_disk_flip(const char *path, uint64_t offset, unsigned bit);
/* Calls `each` for every name of a directory, in the order of creation; none when it is absent. */
void sim_disk_each(const char *directory, void (*each)(void *argument, const char *name),
                   void *argument);
unsigned sim_disk_handles(void); /* files that are open now */
/* The first name that contains the part, in the order of creation, or NULL. */
const char *sim_disk_find(const char *directory, const char *name_part);

/* ------------------------------------------------------------------ network */

enum sim_net_kind {
    SIM_NET_REFUSE = 1, /* connection refused */
    SIM_NET_BLACK_HOLE, /* the dial waits until its deadline */
    SIM_NET_RESET,      /* both sides see a reset after so many bytes */
    SIM_NET_HALF_OPEN,  /* from then on nothing passes either way, and nobody is told */
    SIM_NET_SLOW,       /* each piece takes delay_us longer */
};
enum sim_net_way { SIM_NET_TO_SERVER = 0, SIM_NET_TO_CLIENT };

struct sim_net_fault {
    enum sim_net_kind kind;
    const struct endpoint *at; /* copied; NULL: any. Port 0: any port of that address */
    unsigned chance_ppm;       /* 0: always */
    uint64_t connection;       /* only the so-many-th that matches, from 1; 0: each */
    uint64_t times;            /* so many; 0: for ever */
    enum sim_net_way way;      /* RESET, HALF_OPEN: which way is counted */
    uint64_t after_bytes;      /* delivered that way before it strikes */
    uint64_t after_random;     /* plus a seeded number below this */
    const char *at_text; /* RESET, HALF_OPEN: strikes before a write that has this in it instead */
    uint64_t delay_us;   /* SLOW */
};
int sim_net_fault_add(const struct sim_net_fault *fault); /* slot, or -1 when 64 are set */
void sim_net_fault_end(int slot);
void sim_net_fault_clear(void);

struct sim_net_weather {
    uint64_t latency_us, jitter_us; /* one way; default 100 and 200 */
    unsigned loss_ppm; /* a stream's loss is a delay of loss_delay_us; a datagram's is a loss */
    uint64_t loss_delay_us; /* default 200 ms */
    size_t buffer_bytes;    /* under way or unread, each way; default 64 KiB */
    bool fragment;          /* cut what is written at seeded places; default true */
};
void sim_net_weather(const struct sim_net_weather *weather);
uint64_t sim_net_connections(void); /* made since sim_open */
unsigned sim_net_open(void);        /* of which a side is open now */
uint64_t sim_net_struck(void);      /* how often a fault has met a connection, since sim_open */

/* A peer behind datagrams: writes its answer into `reply` and returns its length; 0: no answer. */
typedef size_t sim_datagram_peer(void *argument, struct bytes packet, struct span reply);
void sim_datagram_serve(const struct endpoint *at, sim_datagram_peer *peer, void *argument);

/* ------------------------------------------------------------------ scripted peers */

/* A fiber that listens there and runs `serve` in a fiber of its own for each connection, which owns
 * the stream only while it runs. Sleeps not; false when the address is taken. */
typedef void sim_peer(void *argument, struct stream *stream);
bool sim_serve(const struct endpoint *at, sim_peer *serve, void *argument);
/* As text: lines "< prefix" (expects a line that starts so), "<~ text" (reads lines until one is
 * exactly text), "> line" (says line and CRLF), "close", "reset", "hang", "wait MS"; several
 * sessions in a row are parted by a line "--", the last one repeats. The script must outlive the
 * world. */
bool sim_serve_script(const struct endpoint *at, const char *script);
/* Plays a script on an open stream; false: the other side said something else or went. Sleeps. */
bool sim_play(struct stream *stream, struct bytes script, uint64_t deadline_us);

/* ------------------------------------------------------------------ names (DNS) */

enum sim_zone_fault {
    SIM_ZONE_FINE = 0,
    SIM_ZONE_TIMEOUT,
    SIM_ZONE_SERVFAIL,
    SIM_ZONE_NXDOMAIN,
    SIM_ZONE_BOGUS
};

/* type: "A", "AAAA", "MX", "TXT", "PTR", "CNAME", "NS"; value as in a zone file: "10 mx.example",
 * "192.0.2.1", "3 1 1 2bb1...". */
void sim_zone_add(const char *name, const char *type, const char *value);
void sim_zone_remove(const char *name); /* all its records */
/* name NULL: every name. chance_ppm 0: always. SIM_ZONE_FINE ends it. */
void sim_zone_fault(const char *name, enum sim_zone_fault fault, unsigned chance_ppm);
void sim_zone_secure(bool secure); /* answers count as validated */
uint64_t sim_zone_questions(void);

/* ------------------------------------------------------------------ documents (HTTPS) */

/* What a host gives to who fetches from it, whatever the path. */
struct sim_document {
    unsigned status;  /* of HTTP; 0: the connection is refused */
    const char *body; /* outlives the world */
    bool untrusted;   /* its certificate does not prove the name */
    bool hangs;       /* nothing comes until the deadline */
    bool spoilt;      /* what comes is of no use: it does not count as given */
};
void sim_document_put(const char *host, const struct sim_document *document); /* or in its place */
uint64_t sim_documents_fetched(void);
/* When that host last gave its document, whole and trusted; 0: never. */
uint64_t sim_document_given_us(const char *host);

#endif
