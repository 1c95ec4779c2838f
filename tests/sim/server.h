/*
 * What the files of the scenario "server" share: the whole server in the seeded world, its clients,
 * its peers, and the book in which everybody writes down what was said, so that in the end the
 * promise can be checked.
 *
 * All of it is static memory of one thread: it outlives the crashes of the world.
 */
#ifndef TESTS_SIM_SERVER_H
#define TESTS_SIM_SERVER_H

#include "scenario.h"

#include "observe/observe.h"
#include "spool/spool.h"

enum {
    LETTERS_MOST = 16,
    WANTED_MOST = 4, /* RCPT commands of a letter */
    LETTER_BYTES_MOST = 24000,
    CLIENTS_MOST = 4,
    ATTEMPTS_MOST = 4096,
    MESSAGES_MOST = 2048, /* ids that the server gave */
};

/* ------------------------------------------------------------------ who can be written to */

/* Where mail ends: a mailbox here, or somebody behind a next hop. */
enum place {
    PLACE_BOB = 0, /* Maildirs */
    PLACE_ANN,
    PLACE_ALICE,
    PLACE_FAR, /* two MX hosts */
    PLACE_CAROL,
    PLACE_NEAR,   /* one */
    PLACE_STATIC, /* a route of the configuration */
    PLACE_NO,     /* its host refuses everybody */
    PLACE_GONE,   /* its domain does not exist */
    PLACE_DEAD,   /* its host never answers */
    PLACE_PIPE,   /* a command, by way of the runner */
    PLACE_COUNT,
};
extern const char *const place_addresses[PLACE_COUNT];
MUST_USE bool place_named(struct bytes address, enum place *place);

/* What a client asks for; an alias leads to several places, a bad one to none. */
struct wanted {
    const char *address;
    uint32_t places; /* a bit each */
    bool refused;    /* 5yz is the right answer */
};

/* ------------------------------------------------------------------ letters */

enum wanted_fate { WANTED_PENDING = 0, WANTED_REFUSED, WANTED_TAKEN };

struct letter {
    unsigned number, client;
    const char *from;
    bool virus;
    const struct wanted *wanted[WANTED_MOST];
    enum wanted_fate fate[WANTED_MOST];
    unsigned wanted_count, tries;
    size_t size;
    uint64_t salt, due_us;
    bool judged_clean; /* by the filter, all of it, with a complete answer */
};

/* From the 354 on the message may have been taken unless the last reply says otherwise. */
enum attempt_end {
    ATTEMPT_OPEN = 0,
    ATTEMPT_DOT,
    ATTEMPT_TAKEN,
    ATTEMPT_DEFERRED,
    ATTEMPT_REFUSED
};
struct attempt_note {
    unsigned letter, life;
    enum attempt_end end;
    bool stored_maybe; /* deferred for the spool's own fault, after which a restart may find it */
    uint64_t message;  /* when taken */
    uint32_t places;   /* of the recipients that were part of it */
};

/* What is known of one message of the server. */
struct message_note {
    uint64_t id;
    unsigned letter;
    bool has_letter, taken; /* 250 was heard */
    uint32_t places;        /* that it has to reach, when taken */
    unsigned ambiguous[PLACE_COUNT];
    unsigned copies[PLACE_COUNT];
    uint32_t lives_with_copy[PLACE_COUNT], lives_settled[PLACE_COUNT];
    bool settled[PLACE_COUNT];    /* "delivered" is durable */
    uint64_t bounce[PLACE_COUNT]; /* the notification's own id */
};

struct book {
    struct letter letters[LETTERS_MOST];
    struct attempt_note attempts[ATTEMPTS_MOST];
    struct message_note messages[MESSAGES_MOST];
    unsigned letter_count, attempt_count, message_count, client_count, life;
    uint32_t crashed_lives;
    bool faults;  /* this run has some */
    bool stalled; /* in this life the disk hung for a while */
    uint64_t faults_struck;
    uint64_t set_back_us; /* by so much the wall clock went back: what it dates comes later */
    struct scenario_tally *tally;
};
extern struct book book;

/* The letters follow from the seed alone, so that both runs of a seed send the same. */
void letters_plan(uint64_t seed);
/* All of it: header and body, CRLF, the end without a dot. Returns a static buffer. */
struct bytes letter_text(const struct letter *letter);
bool letter_is_open(const struct letter *letter);
/* Finds the letter in what was prepended to it; *rest begins where the letter begins. */
struct letter *letter_in(struct bytes content, struct bytes *rest);

struct message_note *message_note(uint64_t id);
/* What came out at a mailbox or next hop, CRLF: notes a copy, or what a notification tells. */
void parcel_arrived(struct bytes content, enum place place, bool local);

/* ------------------------------------------------------------------ the tale of a seed */

void tale_add(uint64_t message, int letter, const char *format, ...) PRINTF_LIKE(3, 4);
void tale_tell(int letter); /* what concerns that letter, and the faults; -1: all */
void tale_clear(void);
enum { TALE_ALL = -1 };

#define TELL(condition, letter, ...)                                                               \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            tale_tell(letter);                                                                     \
            CHECK(condition, __VA_ARGS__);                                                         \
        }                                                                                          \
    } while (0)

/* ------------------------------------------------------------------ the others */

void journal_listen(void); /* before the house opens: it is a sink of observe */

void clients_start(struct fiber *main);
bool clients_are_done(void); /* every letter has its final answer */

enum { PEER_LISTENERS = 5 };
void peers_start(void);
void peers_behave(void); /* no trouble */
void peers_misbehave_hops(unsigned ppm);
void peers_misbehave_clamd(unsigned ppm);

bool peers_hop_strikes(const char *what);                      /* now, by the mood of next hops */
void runner_serve_peer(void *argument, struct stream *stream); /* the runner of commands */

/* A line without its CR LF; false when none came in time. Sleeps. */
struct line_reader {
    struct stream *stream;
    struct buffer heard;
    size_t used; /* of `heard`, by the line given last */
};
MUST_USE bool line_read(struct line_reader *reader, uint64_t deadline_us, struct bytes *line);

void trouble_start(void); /* a fiber that brings faults, one after the other */
void trouble_end(void);   /* all is well from now on */

#endif
