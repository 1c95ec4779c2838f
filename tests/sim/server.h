/*
 * What the files of the scenario "server" share: the whole server in the seeded world, its clients,
 * its peers, and the book in which everybody writes down what was said, so that in the end the
 * promise can be checked.
 *
 * All of it is static memory of one thread: it outlives the crashes of the world.
 */
#ifndef TESTS_SIM_SERVER_H
#define TESTS_SIM_SERVER_H

#include "oracles.h"
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
    PLACE_DORA, /* of a domain whose users are known to another machine */
    PLACE_LAST_MAILBOX = PLACE_DORA,
    PLACE_FAR, /* two MX hosts */
    PLACE_CAROL,
    PLACE_NEAR,   /* one */
    PLACE_STATIC, /* a route of the configuration */
    PLACE_DANE,   /* TLSA records say which key its host has (with TLS only, as the next) */
    PLACE_STS,    /* its MTA-STS policy says that its host proves its name */
    PLACE_NO,     /* its host refuses everybody */
    PLACE_GONE,   /* its domain does not exist */
    PLACE_DEAD,   /* its host never answers */
    PLACE_PIPE,   /* a command, by way of the runner */
    PLACE_COUNT,
};
extern const char *const place_addresses[PLACE_COUNT];
/* Tags are left out: the senders of letters have their number there. */
MUST_USE bool place_named(struct bytes address, enum place *place);

/* What a client asks for; an alias leads to several places, a bad one to none. */
struct wanted {
    const char *address;
    uint32_t places; /* a bit each */
    bool refused;    /* 5yz is the right answer */
    bool corp, tls;  /* only where setting.corp or setting.tls is */
};

/* ------------------------------------------------------------------ how a seed's server is set */

/* Drawn from the seed alone, so that both runs of a seed have the same. */
struct setting {
    bool milter, spamd, corp, submission, lmtp, tls;
    bool history;        /* history.db is on a disk of its own, as far as faults go */
    bool scan_later;     /* what clamd cannot judge is taken, and scanned before it is delivered */
    bool milter_accepts; /* what the milter cannot judge is taken, and marked */
    bool milter_reuse;
    bool milter_mutes; /* it answers neither fields nor body */
};
extern struct setting setting;

void setting_draw(void);
/* A configuration of that setting; variants differ in what no letter's fate hangs on. The last
 * ones cannot be used: VARIANT_MALFORMED is none, VARIANT_BROKEN does not open. */
enum { VARIANT_BROKEN = 3, VARIANT_MALFORMED, VARIANT_COUNT };
MUST_USE struct config *setting_config(unsigned variant); /* NULL: it cannot be read */
void furnish(void);                                       /* disk and names, of an empty world */
enum { STS_AGE_S = 7200 };
void furnish_policy(unsigned id); /* of STS_HOST, under that id */

/* ------------------------------------------------------------------ letters */

enum wanted_fate { WANTED_PENDING = 0, WANTED_REFUSED, WANTED_TAKEN };

/* What the milter says to a letter, and where. */
enum milter_act {
    ACT_PASS = 0,
    ACT_ACCEPT,
    ACT_REJECT,
    ACT_REPLY_5,
    ACT_DISCARD,
    ACT_QUARANTINE,
    ACT_CHANGE,
    ACT_FINAL = ACT_CHANGE, /* those behind are said a few times; then it passes */
    ACT_TEMPFAIL,
    ACT_REPLY_4,
    ACT_REPLY_BAD,
    ACT_SHUTDOWN,
    ACT_COUNT,
};
enum plan_step { STEP_MAIL = 0, STEP_RCPT, STEP_FIELD, STEP_HEADER_END, STEP_BODY, STEP_END };
enum milter_change_bit {
    CHANGE_ADD = 1,
    CHANGE_INSERT = 2,
    CHANGE_SUBJECT = 4,
    CHANGE_DELETE = 8,
    CHANGE_BODY = 16,
    CHANGE_ADD_ANN = 32,
    CHANGE_WITHOUT_FAR = 64,
    CHANGE_ALL = 127,
};
struct milter_plan {
    enum milter_act act;
    enum plan_step at;
    unsigned recipient; /* STEP_RCPT: index of the one that it is about */
    unsigned times, changes;
};

struct letter {
    unsigned number, client;
    char from[64];
    bool ghost; /* its sender's domain does not exist */
    bool virus, spam;
    struct milter_plan milter;
    const struct wanted *wanted[WANTED_MOST];
    enum wanted_fate fate[WANTED_MOST];
    unsigned wanted_count, tries;
    size_t size;
    uint64_t salt, due_us;
    /* All of it was read, and a complete answer given that lets it pass. */
    bool judged_clean, milter_passed, spamd_passed;
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
    bool discarded, held, released;
    bool waits;      /* in the end it still waits for a host that never answers, see years_back */
    uint32_t places; /* that it has to reach, when taken */
    uint32_t places_maybe; /* of which it need not reach these */
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
    bool faults;      /* this run has some */
    bool stalled;     /* in this life the disk hung for a while */
    bool forgetful;   /* in this life the disk failed or the clock jumped: a policy may be lost */
    bool years_back;  /* the clock went back by years: what came before is young until then */
    bool hop_refused; /* a next hop said 5yz for no better reason than the seed */
    uint64_t faults_struck;
    uint64_t set_back_us; /* by so much the wall clock went back: what it dates comes later */
    uint64_t life_began_us;
    struct scenario_tally *tally;
};
extern struct book book;

/* The letters follow from the seed alone, so that both runs of a seed send the same. */
void letters_plan(uint64_t seed);
/* The letters' own chance: a number below the limit, from the seed and nothing else. */
uint64_t plan_below(uint64_t limit);
/* All of it: header and body, CRLF, the end without a dot. Returns a static buffer. */
struct bytes letter_text(const struct letter *letter);
/* The same as the milter makes of it. */
struct bytes letter_text_changed(const struct letter *letter);
/* The one whose number is in an address: "<alice+7@home.example>"; or NULL. */
struct letter *letter_from(struct bytes path);
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

/* ------------------------------------------------------------------ the server itself */

struct house *house_now(void);
void house_begin(void);               /* of a seed's run */
MUST_USE bool house_begin_life(void); /* false: house_now()->why. Sleeps. */
void house_reload(bool certain);      /* certain: a good one has to be taken. Sleeps. */
void house_end_life(void);            /* and nothing may be left of it. Sleeps. */

/* ------------------------------------------------------------------ TLS */

struct tls_context;
void tls_begin(uint64_t seed); /* of a seed's run: all of OpenSSL's chance */
void tls_end(void);
/* Whose certificate a next hop shows: the key that TLSA records tell of, one that is trusted to be
 * that of STS_HOST, or one that nobody knows. */
enum tls_kind { TLS_BY_KEY = 0, TLS_BY_NAME, TLS_STRANGE, TLS_KINDS };
struct tls_context *tls_of_clients(void), *tls_of_hops(enum tls_kind kind); /* of the run */
/* "3 1 1 ...", of the first. */
void tls_print_tlsa(char *into, size_t room);
struct tls_context *tls_open(bool server); /* freed by tls_context_free */
/* The server's handshake; what it gives closes without closing `below`. NULL: it failed. Sleeps. */
struct stream *tls_serve(struct tls_context *context, struct stream *below);

/* ------------------------------------------------------------------ the others */

void journal_listen(void); /* before the house opens: it is a sink of observe */

void clients_start(struct fiber *main);
bool clients_are_done(void); /* every letter has its final answer */

enum peer { PEER_HOPS = 0, PEER_CLAMD, PEER_MILTER, PEER_SPAMD, PEER_DIRECTORY, PEER_KINDS };
void peers_start(void);
unsigned peers_listening(void);                     /* fibers that wait for connections */
void peers_behave(void);                            /* no trouble */
void peers_misbehave(enum peer peer, unsigned ppm); /* at each stage */
MUST_USE bool peer_strikes(enum peer peer);         /* drawn; counts as a fault */
void peer_struck(const char *format, ...) PRINTF_LIKE(1, 2);

/* Where the others listen. */
#define FAR6_AT "[2001:db8:7::1]:25" /* hosts with two families are raced (RFC 8305) */
#define MX26_AT "[2001:db8:7::2]:25"
#define DANE_AT "203.0.113.11:25"
#define STS_AT "203.0.113.12:25"
#define STS_HOST "mx.sts.example"
#define STS_POLICY_HOST "mta-sts.sts.example"
#define STATIC_AT "203.0.113.3:2525" /* with TLS it gets nothing in clear */
#define CLAMD_AT "203.0.113.4:3310"
#define MILTER_AT "203.0.113.5:8891"
#define SPAMD_AT "203.0.113.6:783"
#define DIRECTORY_AT "203.0.113.7:389"
#define RUNNER_AT "unix:/run/commands" /* of commands; in the mood of next hops */
sim_peer runner_serve, clamd_serve, milter_serve, spamd_serve, directory_serve;

/* What one of them has heard. */
enum { CONTENT_MOST = 256 * 1024 };
#define PEER_PATIENCE_US (1200 * US_PER_S)
struct ear {
    struct stream *stream;
    struct buffer heard;
};
MUST_USE bool ear_need(struct ear *ear, size_t count);    /* false: it went. Sleeps. */
bool peer_say(struct stream *stream, struct bytes words); /* Sleeps. */
bool peer_say_text(struct stream *stream, const char *words);

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
