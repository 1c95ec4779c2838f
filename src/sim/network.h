/* What the files of the simulated network share: connections and their faults. */
#ifndef SIM_NETWORK_H
#define SIM_NETWORK_H

#include "sim/inside.h"

/*
 * One way of a connection: a ring that holds what has arrived and behind it what is under way, so
 * that its size is the window. The bytes under way arrive in pieces, in order.
 */
struct pipe {
    uint8_t *ring;
    size_t room, at, ready, under_way;
    uint64_t last_arrival_us;
    uint64_t passed;               /* bytes that were let through */
    bool ended, reset;             /* arrived */
    bool swallowed;                /* nothing arrives any more, and nobody is told */
    struct fiber *reader, *writer; /* who waits for it */
};

struct sim_stream {
    struct stream stream; /* first: this is what the holder sees */
    struct connection *connection;
    struct pipe in; /* what comes to this side */
    bool open, write_failed;
};

/* A fault that is armed for one connection. */
struct armed {
    enum sim_net_kind kind; /* 0: none; RESET or HALF_OPEN */
    uint64_t after_bytes;
    const char *at_text;
};

struct connection {
    struct connection *next, *previous; /* all live ones */
    uint64_t number;
    struct sim_stream sides[2]; /* the dialer's, the acceptor's */
    struct armed armed[2];      /* by the way: to the server, to the client */
    uint64_t slow_us;
    unsigned fragment; /* how writes are cut: see stream.c */
    unsigned pending;  /* events that will still look at it */
};

struct connection *connection_new(const struct endpoint *dialer, const struct endpoint *acceptor);
void connections_close(void);
void connections_forget(void);
uint64_t draw_latency_us(void);
struct sim_net_weather *weather(void);

/* conditions.c: what the scenario set. Refuse, black hole, or 0; arms the rest. */
enum sim_net_kind conditions_at_dial(const struct endpoint *to, struct connection *arm);
bool endpoint_matches(const struct endpoint *wanted, const struct endpoint *got);

void datagrams_close(void);
void datagrams_forget(void);

#endif
