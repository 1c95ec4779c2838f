/* Shared by parent.c and reload.c. */
#ifndef APP_PARENT_H
#define APP_PARENT_H

#include "app/processes.h"

/* The runner of a former configuration, until its last user has left it. */
struct former_runner {
    pid_t process;
    char path[RUNNER_PATH_ROOM];
    struct former_runner *next;
};

struct parent {
    const char *config_file; /* as on the command line */
    struct config *config;
    struct places places;
    struct keeper keeper;
    struct runner_place runner;
    struct former_runner *former_runners;
    pid_t process, worker; /* worker 0: none */
    int self, signals;     /* our own program; signals as a descriptor */
    int channel, broker;   /* -1: none */
    int manager;           /* who wants to know how it goes; -1: nobody */
    bool ready;            /* this worker serves */
    bool served;           /* some worker did: from then on one is replaced */
    bool replacing;        /* the worker was asked to make room for the next */
    bool trial;            /* the worker that starts serves by next_config */
    bool reload_wanted;    /* a SIGHUP came; it is done as soon as it can be */
    bool stopping, over;
    int exit_code;
    uint64_t started_us, start_us, pause_us;
    uint64_t kill_us; /* when a worker that is to end, or to try a configuration, is killed */
    /* A reload under way; NULL: none. */
    struct config *next_config;
    struct places next_places;
    struct keeper next_keeper;
    struct runner_place next_runner;
};

/* It has to end; for how long that is waited. */
void parent_end_worker(struct parent *parent);
int parent_config_file(const struct config *config);
/* The present configuration with its helpers, or the next one with its. */
MUST_USE bool parent_send_config(const struct parent *parent, enum channel_kind kind, bool next);
MUST_USE bool parent_send_places(const struct parent *parent, const struct places *places,
                                 const struct places *had);

/* reload.c: begins a reload; hears what the worker says of it; forgets one that came to nothing. */
void parent_reload(struct parent *parent);
bool parent_may_reload(const struct parent *parent); /* not while it starts, stops or reloads */
void parent_heard(struct parent *parent, const struct channel_packet *packet);
void parent_commit(struct parent *parent);
void parent_abandon(struct parent *parent, const char *why);
/* The present runner serves those who have it, to their end; then its socket goes. */
void parent_retire_runner(struct parent *parent);
/* This process was a former runner's; 0: all of them are over. */
void parent_forget_runner(struct parent *parent, pid_t process);

#endif
