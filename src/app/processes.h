/*
 * The processes of a server, and what they say to each other.
 *
 *   parent  (root, if it was started so): binds, opens, starts, restarts, reloads. No thread, no
 *           library, no byte from the network.
 *   keeper  (the user of the configuration, locked in): has the private keys, signs when asked.
 *   worker  (the same user, locked in): everything else.
 *   runner  (the same user, with three of root's powers; only where there are pipes): starts the
 *           commands that mail is delivered to, each as its own user.
 *
 * All others are started by the parent and end with it. ADR 0006 tells why.
 */
#ifndef APP_PROCESSES_H
#define APP_PROCESSES_H

#include "app/app.h"
#include "crypto/crypto.h"

/* ------------------------------------------------------------------ the channel */

/* Descriptors that a worker finds open when it begins. */
enum { WORKER_CHANNEL = 3, WORKER_BROKER = 4 };

/* One packet of a SOCK_SEQPACKET pair each. */
enum channel_kind {
    CHANNEL_NONE = 0,
    /* parent -> worker */
    CHANNEL_LISTENER, /* an address and its sockets, to be adopted */
    CHANNEL_BEGIN,    /* the configuration, the keeper: begin to serve */
    CHANNEL_RELOAD,   /* the same while serving */
    CHANNEL_DROP,     /* an address that is served no more */
    CHANNEL_SAID,     /* what came of a reload that was asked for, when nothing else tells */
    /* worker -> parent */
    CHANNEL_READY,    /* it serves */
    CHANNEL_RELOADED, /* by the new configuration from now on */
    CHANNEL_REFUSED,  /* by the old one still; `text` says why */
    CHANNEL_ASK,      /* somebody asks for a reload */
};

enum { CHANNEL_TEXT_ROOM = 4096, CHANNEL_DESCRIPTORS_MOST = 128, RUNNER_PATH_ROOM = 108 };
struct channel_packet {
    enum channel_kind kind;
    struct endpoint at;           /* LISTENER, DROP: as bound */
    char text[CHANNEL_TEXT_ROOM]; /* BEGIN, RELOAD: the configuration's name; REFUSED, SAID: why */
    /* BEGIN, RELOAD: where the runner listens, or ""; the descriptors that there are. */
    char runner[RUNNER_PATH_ROOM];
    bool has_keeper;
    unsigned descriptor_count;
    /* LISTENER: sockets; BEGIN, RELOAD: text, keeper, the runner's life */
    int descriptors[CHANNEL_DESCRIPTORS_MOST];
};
/* What a configuration's processes are reached by: -1 and "" where there is none. */
struct helpers {
    int keeper, runner_life;
    char runner[RUNNER_PATH_ROOM];
};
/* Of BEGIN and RELOAD. */
struct helpers channel_helpers(const struct channel_packet *packet);
/* A pair of ends, the parent's first; to send waits for the other at most CHANNEL_PATIENCE_S, so
 * that who does not read holds up nobody. False with errno. */
enum { CHANNEL_PATIENCE_S = 5 };
MUST_USE bool channel_pair(int ends[2]);
/* False at the end, or when it cannot be sent. Descriptors stay the sender's. To receive blocks. */
MUST_USE bool channel_send(int channel, const struct channel_packet *packet);
MUST_USE bool channel_receive(int channel, struct channel_packet *packet);
/*
 * One request for a file of the parent's: a descriptor, or -1 with errno. From any thread; waits at
 * most CHANNEL_PATIENCE_S once its turn has come. An answer bears its question's number: one that
 * never comes, or comes late, costs its own question and no other.
 */
int broker_ask(const char *path);
/* The parent's side: false at the end. `descriptor` -1: errno is sent. */
enum { BROKER_PATH_ROOM = 1024 };
struct broker_question {
    uint32_t number;
    char path[BROKER_PATH_ROOM];
};
MUST_USE bool broker_receive(int broker, struct broker_question *question);
MUST_USE bool broker_answer(int broker, uint32_t number, int descriptor, int error);

/* ------------------------------------------------------------------ the parent */

/* Serves until a signal; the exit code. */
int parent_run(const char *config_file, struct config *config);

/* What is bound: one row a listener, and the page. */
enum { PLACE_SOCKETS_MOST = 64 };
struct place_bound {
    char name[80]; /* "" for the page */
    struct endpoint asked, at;
    int sockets[PLACE_SOCKETS_MOST];
    unsigned count;
};
struct places {
    struct place_bound *rows;
    unsigned count;
};
/* Binds what `had` (may be empty) does not have yet, and takes over the rest of it: the sockets of
 * both are shared until one of them is closed by places_drop. The addresses of `config` become
 * those that were bound. False with `why`; then nothing new stays bound. */
MUST_USE bool places_open(const struct places *had, struct config *config, struct places *places,
                          char *why, size_t why_room);
/* Closes what `other` does not have, and frees the rows. */
void places_drop(struct places *places, const struct places *other);
const struct place_bound *places_find(const struct places *places, const struct endpoint *at);

/* May the worker have this file? It is one of users or aliases, or included by such a one. */
MUST_USE bool files_allow(const struct config *config, const char *path);
/* Where no resolver is named: those of resolv.conf(5), which the worker may not be able to read
 * when it was replaced since. */
void files_name_resolvers(struct config *config);
/* Folders that the worker writes in, made and given to its user where they are missing. */
MUST_USE bool files_prepare(const struct config *config, char *why, size_t why_room);

/* Starts a keeper of the configuration's keys: its process and the user's end; -1 and no process
 * where there are no keys. False with `why`. */
struct keeper {
    pid_t process;
    int service;
};
MUST_USE bool keeper_start(const struct config *config, struct keeper *keeper, char *why,
                           size_t why_room);

/* What systemd's Type=notify wants to know (sd_notify(3)). notify_open: the way to the manager that
 * $NOTIFY_SOCKET names, or -1 where there is none; then telling does nothing. Never waits. */
enum notify_state { NOTIFY_READY, NOTIFY_RELOADING, NOTIFY_RESTARTING, NOTIFY_STOPPING };
int notify_open(void);
void notify_tell(int manager, enum notify_state state);

/* A runner of the configuration's commands: its socket is open as long as its users are, so that a
 * new process can take the place of one that fell. */
struct runner_place {
    pid_t process; /* 0: none; it is to be started anew */
    int listener, life[2];
    char path[RUNNER_PATH_ROOM];
    uint64_t started_us;
};
#define RUNNER_PLACE_NONE ((struct runner_place){.listener = -1, .life = {-1, -1}})
MUST_USE bool runner_start(const struct config *config, struct runner_place *place, char *why,
                           size_t why_room);
MUST_USE bool runner_fork(const struct config *config, struct runner_place *place);
/* It ends with the last of its users. */
void runner_leave(struct runner_place *place);

/* ------------------------------------------------------------------ the worker */

/* main() of a process that the parent started. */
int worker_main(void);

#endif
