/*
 * What the files of receive share: one client's session and the entry it has in the register.
 *
 * A session lives on the stack of its fiber. It is masked against cancellation but for three waits:
 * for a command, for a body, and inside policy_judge; so neither a draft nor a reply is cut by a
 * shutdown.
 */
#ifndef RECEIVE_SESSION_H
#define RECEIVE_SESSION_H

#include <pthread.h>
#include <stdatomic.h>

#include "receive/receive.h"
#include "wire/wire.h"

/* ------------------------------------------------------------------ the register of clients */

enum { GUEST_BUCKETS = 1024 };

/* A connection that was admitted, from accept to the end of its fiber. */
struct guest {
    struct receive *receive;
    const struct config_listen *listen;
    struct stream *stream; /* moves to the session */
    struct fiber *fiber;   /* set while the session runs; under receive->lock */
    atomic_bool idle;      /* it waits for a command */
    struct guest *next, *previous;
    unsigned bucket;
    uint8_t key[8], key_count; /* who it is, for the limit of one client */
};

enum door_state { DOOR_OPENING = 0, DOOR_OPEN, DOOR_FAILED, DOOR_CLOSED };

/* One listener on one loop, with its accept fiber. */
struct door {
    struct receive *receive;
    const struct config_listen *listen;
    struct endpoint at; /* asked for; then as bound */
    struct fiber *fiber;
    bool shared;
    atomic_int state; /* enum door_state */
    struct io_result fault;
};

struct pickup;
struct receive {
    struct receive_settings settings;
    struct door *doors;
    unsigned door_count;
    atomic_uint guests;
    atomic_bool stopping, retiring;
    struct waitlist changed; /* a door's state, or the count of guests */
    pthread_mutex_t lock;    /* the buckets; held around memory operations only */
    struct guest *buckets[GUEST_BUCKETS];
    struct rates *rates;
    bool tables_borrowed;  /* rates and repeats: another closes them */
    struct pickup *pickup; /* NULL: off */
    struct repeats *repeats;
    struct greylist *greylist;           /* NULL: off */
    uint8_t decoy_key[SECRET_KEY_BYTES]; /* what unknown users' SCRAM salts are made of */
};

/* Enters the client in the register, or says why not (421). The stream stays the caller's until
 * accepted. */
MUST_USE struct verdict receive_admit(struct receive *receive, const struct config_listen *listen,
                                      struct stream *stream, struct guest **guest);
void receive_leave(struct guest *guest); /* frees it */
void door_main(void *argument);          /* the accept fiber of a struct door */

/* ------------------------------------------------------------------ a session */

enum session_state {
    STATE_FRESH = 1,   /* no greeting yet */
    STATE_GREETED = 2, /* EHLO, HELO or LHLO; no transaction */
    STATE_MAIL = 4,    /* a sender, no recipient */
    STATE_RCPT = 8,    /* at least one recipient */
    STATE_CHUNKS = 16, /* in the middle of a message by BDAT */
    STATE_ANY = 31,
};

enum { BODIES_MAX = 8 };

/* A body while it comes in. The first objection stands; reading goes on to the true end, so that
 * the session stays in step. */
struct intake {
    struct spool_draft *draft; /* NULL: none open */
    struct digest *digest;     /* NULL: no filter asks for it */
    void *fingerprint;         /* of the whole message, for repeats; NULL: none */
    uint64_t begin_us;         /* of this DATA or BDAT */
    uint64_t begin_count;      /* octets before it */
    uint64_t count;            /* octets of the message so far, kept or not */
    uint64_t mail;             /* of its Message-ID; 0: none, or not seen yet */
    bool after_cr;             /* BDAT: the last octet was CR */
    bool objected;
    struct verdict objection;
    struct spool_draft *bodies[BODIES_MAX]; /* that filters sent in place of this one */
    unsigned body_count;
    bool body_open; /* the last of them is being written */
};

/* The message accepted last, while it is not known whether its 250 arrived. */
enum { REPEAT_KEY_BYTES = 16 };
struct repeat {
    uint8_t key[REPEAT_KEY_BYTES]; /* who sent what to whom */
    bool named;
    uint64_t message; /* 0: none */
};

struct session {
    struct guest *guest;
    struct receive *receive;
    const struct config *config;
    const struct config_listen *listen;
    struct stream *stream;
    struct wire_input input;
    struct buffer output; /* replies not yet sent; empty and without memory while idle */
    uint64_t opened_us, ends_us;
    enum session_state state;
    enum stage stage;     /* of the command at hand, for the journal */
    unsigned replies;     /* how many a verdict of this command gets: 1, or LMTP's per recipient */
    unsigned errors;      /* protocol errors since the last accepted message */
    struct address asked; /* the path of the command at hand, for the journal */
    unsigned auth_failures; /* failed logins of this connection */
    uint32_t transactions;  /* MAIL commands so far */
    uint32_t rate_told_in;  /* the transaction that first met a rate; with rate_refusals > 0 */
    uint32_t rate_refusals; /* answers 450 for a rate */
    bool answered;          /* the command at hand has a reply */
    bool lost;              /* the client is gone: nothing more can be said */
    bool closing;           /* close after what was said */
    bool objecting;    /* closing because of a fault: wait a little for the client to read it */
    bool prdr;         /* MAIL asked for a reply to each recipient */
    bool message_over; /* the transaction ends with this command's reply */
    bool has_standing; /* an objection to the client itself, told at each MAIL */
    struct verdict standing;
    struct arena connection_arena, transaction_arena;
    struct client_facts client;
    struct transaction transaction;
    struct buffer headers; /* lines that policy adds */
    struct intake intake;
    char client_text[ENDPOINT_TEXT_MAX];
    char helo[MAIL_DOMAIN_MAX + 1];
    char tls[96];
    struct dialogue dialogue; /* of this transaction; no memory while idle */
    bool dialogue_told;       /* the history has it up to an objection before the dot */
    struct repeat repeat;
    struct ip_address peer; /* who is really connected, whatever PROXY or XCLIENT say */
};

/* The next line, after what was said so far went out. Sleeps. */
enum wire_status session_next_line(struct session *session, struct bytes *line);
void session_run(struct guest *guest); /* the whole dialogue; ends with receive_leave. Sleeps. */
void session_main(void *guest);        /* the same as a fiber's main */
uint64_t session_deadline(const struct session *session, uint64_t duration_us);

/* ------------------------------------------------------------------ commands */

typedef struct verdict verb_handler(struct session *session, const struct smtp_command *command);

enum verb_service { SERVICE_SMTP = 1, SERVICE_LMTP = 2, SERVICE_EITHER = 3 };
enum verb_faults { FAULTS_CHECKED = 0, FAULTS_OWN };

struct verb_row {
    unsigned services; /* enum verb_service */
    unsigned states;   /* enum session_state */
    enum verb_faults faults;
    enum stage stage;
    verb_handler *handle;
};
const struct verb_row *verb_row(enum smtp_verb verb);
/* Is the command allowed now, and well formed? */
MUST_USE struct verdict verb_permits(const struct session *session,
                                     const struct smtp_command *command);
enum cause verb_fault_cause(enum smtp_fault fault);

/* A handler that accepts has said its reply; an objection is said by its caller. */
verb_handler verb_unknown, verb_foreign, verb_ehlo, verb_helo, verb_starttls, verb_auth,
    verb_xclient, verb_mail, verb_rcpt, verb_data, verb_bdat, verb_rset, verb_noop, verb_vrfy,
    verb_not_implemented, verb_help, verb_quit;

/* ------------------------------------------------------------------ replies and the journal */

/* A whole reply, CR LF added; collected until session_flush. */
void session_say(struct session *session, const char *format, ...) PRINTF_LIKE(2, 3);
/* Says an objection as reply and event, and counts errors; a 421 closes. */
void session_object(struct session *session, const struct verdict *objection);
void session_flush(struct session *session); /* one write; sets lost on failure. Sleeps. */
void session_event(const struct session *session, struct event *event); /* fills in who and what */

/* ------------------------------------------------------------------ limits and abuse */

enum rate_kind { RATE_MESSAGES, RATE_RECIPIENTS, RATE_FAILURES };
struct rates *rates_open(void); /* NULL on memory */
void rates_close(struct rates *rates);
/* Takes one from the budget of the user, or else of the client's network. */
MUST_USE struct verdict rates_take(struct session *session, enum rate_kind kind);
/* The same without taking: is there one left? */
MUST_USE struct verdict rates_look(struct session *session, enum rate_kind kind);

/* ---- repeat.c: a message that comes again because our 250 was lost */

/* With what a crash left behind, and what lies in `directory` (NULL: nothing does). NULL on memory.
 * Sleeps. */
struct repeats *repeats_open(const struct spool *spool, const char *directory);
void repeats_close(struct repeats *repeats);
void fingerprint_begin(struct session *session);
void fingerprint_add(struct intake *intake, struct bytes piece);
void fingerprint_close(struct intake *intake);
/* Names the message at hand: session->repeat. Before policy changes its envelope. */
void repeats_name(struct session *session);
/* The id under which it was accepted before, once; 0: it is new. */
uint64_t repeats_take(const struct session *session);
/* What the message at hand is stored with, so that a crash before its reply does not forget it. */
struct bytes repeats_mark(const struct session *session);
/* The client goes on, by this line. */
void repeats_heard(struct session *session, struct bytes line);
/* The session ends: remembers its last message when the reply did not arrive. Sleeps. */
void repeats_note(struct session *session);

/* NULL with `why` on failure. Sleeps. */
struct greylist *greylist_open(const struct config *config, char *why, size_t why_room);
void greylist_close(struct greylist *greylist);
/* greylisted, or ACCEPT: also while the list is off or cannot be read. Sleeps (worker pool). */
MUST_USE struct verdict greylist_judge(struct session *session, struct address to);

/* Reads the PROXY header of a listener that wants one; false: close without a word. Sleeps. */
MUST_USE bool session_meet_proxy(struct session *session);
bool xclient_is_trusted(const struct session *session);
void xclient_say_offer(struct session *session); /* the EHLO line */
/* May this client talk to us at all? */
MUST_USE struct verdict session_welcome(struct session *session);
/* The client is another one than the connection's peer: counted as that one from now on. */
MUST_USE struct verdict receive_rename(struct guest *guest, const struct endpoint *remote);

/* ------------------------------------------------------------------ transactions and bodies */

void transaction_reset(struct session *session); /* forgets sender, recipients and draft */

/* Makes ready for a body: the spool admits it and there is a draft. */
MUST_USE struct verdict intake_open(struct session *session);
void intake_resume(struct session *session); /* the clock of the next DATA or BDAT starts */
void intake_add(struct session *session, struct bytes piece);
void intake_end(struct session *session); /* after the last piece of the message */
void intake_object(struct session *session, enum cause cause);
MUST_USE struct verdict intake_verdict(const struct session *session);
bool intake_beyond_reason(const struct session *session, uint64_t more); /* not worth reading on */
void intake_close(struct session *session);
/* Reads the body after 354, or one chunk. ACCEPT: all of it was read, whatever stands against it.
 * Sleep. */
MUST_USE struct verdict intake_read_data(struct session *session);
MUST_USE struct verdict intake_read_chunk(struct session *session, uint64_t octets);

/* Room for bodies that filters send, and the message made of what they changed. Sleep. */
struct body_store rewrite_store(struct session *session);
MUST_USE struct verdict rewrite_apply(struct session *session);
void rewrite_close(struct intake *intake);

/* The same into a draft of its own, also when nothing was changed; *former: the one that came, the
 * caller's now. */
MUST_USE struct verdict rewrite_copy(struct session *session, struct spool_draft **former);

/* ---- message.c, classes.c: from the final dot to the reply */

/* The message as policy reads it. */
struct shown_message {
    struct policy_message message;
    struct body_store bodies;
    uint8_t digest[DIGEST_MAX];
};
void message_show(struct session *session, uint64_t deadline_us, struct shown_message *shown);
MUST_USE struct verdict message_check_header(struct session *session);
/* Stores what policy made of it. Sleeps. */
MUST_USE struct verdict message_commit(struct session *session, uint64_t deadline_us,
                                       struct spool_receipt *receipt);
/* To the journal: before the reply that it is held or discarded, if so; after it, that it was
 * taken. */
void message_tell_kept_back(struct session *session, uint64_t message);
void message_tell_accepted(struct session *session, const struct spool_receipt *receipt,
                           uint64_t took_us);
/* A message for recipients of several classes: says a reply to each. Sleeps. */
MUST_USE struct verdict classes_receive(struct session *session, uint64_t dot_us);

/* The handshake on the session's stream, STARTTLS or implicit. Sleeps. */
MUST_USE struct verdict session_handshake(struct session *session);
bool session_offers_tls(const struct session *session);

/* ------------------------------------------------------------------ logging in */

bool auth_is_offered(const struct session *session);
void auth_say_offer(struct session *session); /* the EHLO line */
/* One 334 and the client's answer, decoded into the transaction's arena. Sleeps. */
MUST_USE struct verdict auth_ask(struct session *session, struct bytes challenge,
                                 struct bytes *answer);
/* The decoded initial response, or the answer to an empty challenge. */
MUST_USE struct verdict auth_first(struct session *session, struct bytes initial,
                                   struct bytes *answer);

/* A login name and who can tell whether it is true. */
struct login {
    struct bytes name;
    struct address address;             /* null when the name is none */
    const struct config_domain *domain; /* NULL: not ours, so nobody */
};
struct login login_of(const struct session *session, struct bytes name);
/* The backend's answer as a verdict; on ACCEPT the session belongs to the user. Sleep. */
MUST_USE struct verdict login_by_password(struct session *session, const struct login *login,
                                          struct bytes password);
MUST_USE struct verdict login_through_dovecot(struct session *session, const struct login *login,
                                              const char *mechanism, struct bytes initial);
MUST_USE struct verdict login_by_scram(struct session *session, bool plus, struct bytes initial);
MUST_USE struct verdict login_refused(struct session *session, const struct login *login);
MUST_USE struct verdict login_finish(struct session *session, struct address user);

/* May the user who logged in send from this address? Sleeps on the directory. */
MUST_USE struct verdict sender_is_owned(struct session *session, struct address from);

#endif
