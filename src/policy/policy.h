/*
 * policy: turns facts into verdicts: connection, HELO, sender, recipient, message.
 *
 * Flow:   receive asks at each step of the dialogue -> policy asks DNS, directory, filters -> a
 * verdict. Owns:   the breakers and the memory of filter verdicts by digest. Sleeps: policy_* that
 * take a transaction; all bounded by their deadlines. Fails:  by a verdict with a cause of our
 * side; never by accepting. Never:  answers 5yz while a look-up that could have changed the answer
 * has failed.
 */
#ifndef POLICY_POLICY_H
#define POLICY_POLICY_H

#include "base/base.h"
#include "config/config.h"
#include "directory/directory.h"
#include "mail/mail.h"
#include "observe/observe.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"
#include "verdict/verdict.h"
#include "wire/wire.h"

struct policy;

struct policy_settings {
    const struct config *config;
    struct directory *directory;
    struct resolver *resolver;
    struct key_service *keys;        /* of crypto; NULL: keys are read from their files */
    const char *directory_of_poison; /* what outlives a restart; NULL: nothing does */
};
MUST_USE struct policy *policy_open(const struct policy_settings *settings, char *why,
                                    size_t why_room);
void policy_close(struct policy *policy);

/* What is known of the client; lives as long as its connection. */
struct client_facts {
    uint64_t session;
    struct endpoint remote, local;
    enum listen_kind kind;
    struct bytes helo;
    struct bytes reverse_name; /* confirmed */
    struct lookup reverse;     /* how its look-up went */
    struct bytes user;         /* authenticated as */
    struct bytes tls;          /* "TLSv1.3 cipher X" or empty */
    unsigned tls_bits;         /* of its secret key */
    struct bytes mechanism;    /* of SASL, by which the user logged in; or empty */
    bool esmtp, may_relay;
    struct arena *arena;            /* of the connection */
    struct client_filters *filters; /* talks with milters, until policy_client_end; NULL: none */
};

/* The message that filters made of the one that came, to be stored in its place. */
struct message_rewrite {
    bool changed;                      /* else store what came */
    struct bytes above;                /* fields that go above our Received */
    struct bytes header;               /* all below it, with the empty line */
    const struct message_source *body; /* valid until policy_transaction_end */
};

/*
 * Recipients that the same filters judge are a class: those of a domain's `filters`, and of the
 * domains that an alias leads to. Where each recipient gets a reply of its own, a transaction may
 * have several, each judged and stored by itself. Where one reply speaks for all, the first
 * recipient's class is the only one; but a client of our own is not sent away for it: all the
 * filters that any of its recipients has judge the whole.
 */
enum { POLICY_CLASSES_MAX = 8 };
enum disposition { DISPOSITION_DELIVER = 0, DISPOSITION_HOLD, DISPOSITION_DISCARD };
enum policy_replies { REPLY_TO_ALL = 0, REPLY_TO_EACH };

/* A mail transaction: what the session collects and policy annotates. Cleared at RSET. */
struct transaction {
    struct client_facts *client;
    struct arena *arena;
    struct envelope envelope;        /* recipients: accepted ones, after aliases */
    uint32_t recipient_room;         /* policy_recipient makes room in the arena as it is needed */
    struct recipient_places *places; /* where to find an address among them, the same way */
    uint32_t accepted_commands;      /* RCPT commands accepted, counted by receive (an alias may add
                                       several recipients) */
    enum policy_replies replies;     /* how the dot is answered */
    uint64_t classes[POLICY_CLASSES_MAX]; /* the filters of each: config_filters_of */
    unsigned class_count;
    uint8_t *command_classes; /* of each accepted RCPT, in the arena; and of the one at hand */
    uint32_t command_room;
    uint8_t class_now; /* that is being judged, or of the RCPT at hand */
    bool judging;      /* the dot is over: who is added belongs to the class that is judged */
    enum disposition disposition;
    struct bytes hold_why;
    struct buffer *headers;                /* lines that policy adds in front of the message */
    struct bytes filter;                   /* name of the filter, or place of the directory, that
                                            * objected, for the journal */
    uint64_t message;                      /* id of the draft, once it has one */
    uint64_t declared_bytes;               /* SIZE of MAIL, or 0 */
    struct bytes mail_parameters;          /* ESMTP parameters of MAIL as given, for filters */
    struct message_rewrite rewrite;        /* set by policy_judge */
    struct authentication *authentication; /* begun by policy_sender; NULL: none */
    struct filtering *filtering;           /* begun by policy_judge; NULL: none */
};

/* Room for bodies that filters send; what it gives lives as long as the transaction. */
struct body_store {
    bool (*begin)(void *argument, struct message_sink *sink); /* another body */
    struct message_source (*end)(void *argument);             /* what was written since */
    void *argument;
};

/* The message as filters read it. */
struct policy_message {
    struct message_source source;
    struct bytes head;               /* header and the first of the body */
    struct bytes digest;             /* SHA-256 of the whole message */
    uint64_t deadline_us;            /* over all work after the final dot */
    const struct body_store *bodies; /* NULL: no filter may change the body */
};

/* filter.down (421) while every instance of a required filter is: *filter is its name. Asked at
 * connect only: a session that is open goes on, and hears 451 at MAIL. */
MUST_USE struct verdict policy_welcome(struct policy *policy, struct arena *arena,
                                       struct bytes *filter);
MUST_USE struct verdict policy_connect(struct policy *policy, struct client_facts *client);
/* A command that nobody knows, told to the milters; it objects only to end the session. Sleeps. */
MUST_USE struct verdict policy_unknown(struct policy *policy, struct client_facts *client,
                                       struct arena *arena, struct bytes line);
MUST_USE struct verdict policy_sender(struct policy *policy, struct transaction *transaction,
                                      struct address from);
/* Adds the targets to transaction->envelope when it accepts. */
MUST_USE struct verdict policy_recipient(struct policy *policy, struct transaction *transaction,
                                         const struct recipient *recipient);
/* The body on its way to the draft: signatures are hashed as it passes, and Authentication-Results
 * that claim to be ours are left out. Without policy_sender before, all of it passes. Never sleep.
 */
MUST_USE struct verdict policy_body_begin(struct transaction *transaction);
/* *kept: what goes into the draft of this piece and of what was held back before; valid until the
 * next call. False: no memory. */
MUST_USE bool policy_body_add(struct transaction *transaction, struct bytes piece,
                              struct bytes *kept);
/* After the last piece: what was still held back. */
MUST_USE bool policy_body_end(struct transaction *transaction, struct bytes *kept);
void policy_transaction_end(struct transaction *transaction); /* frees what policy keeps of it */
MUST_USE struct verdict policy_judge(struct policy *policy, struct transaction *transaction,
                                     const struct policy_message *message);
/*
 * The same for recipients of several classes: first what is about the sender, then each class with
 * its recipients alone in the envelope. Between two classes the caller puts back message and
 * disposition as they were after the first of these, and has stored what policy made of the
 * message. Sleep.
 */
MUST_USE struct verdict policy_judge_sender(struct policy *policy, struct transaction *transaction,
                                            const struct policy_message *message);
MUST_USE struct verdict policy_judge_class(struct policy *policy, struct transaction *transaction,
                                           const struct policy_message *message, uint8_t which);
/* Mail that was taken unscanned: ACCEPT when every clamd and spamd of its recipients' domains lets
 * it pass; where those have none, of the configuration. Only the verdict counts, and whose it
 * was; the message stays as it is. Sleeps. */
struct unscanned_message {
    uint64_t id;
    const struct envelope *envelope;
    struct message_source source;
};
MUST_USE struct verdict policy_rescan(struct policy *policy, struct arena *arena,
                                      const struct unscanned_message *message,
                                      struct bytes *objector);
void policy_client_end(struct client_facts *client); /* the connection is over. Sleeps a little. */

/* Probe states for `status` and the metrics. */
struct breaker_row {
    const char *dependency;
    bool open;
    unsigned failures;
    int64_t last_failure_wall_us, last_probe_wall_us;
    char words[160];
};
unsigned policy_breakers(struct policy *policy, struct breaker_row *rows, unsigned room);
/* Sends the test pattern or a ping through one filter, for `filter test NAME`. Sleeps. */
MUST_USE struct verdict policy_test_filter(struct policy *policy, struct arena *arena,
                                           const char *name);

/* A message of our own clients that was changed on its way out, signed anew: fields are added, or
 * none where it was not theirs or there is no key. Sleeps. */
void policy_sign_changed(struct policy *policy, struct arena *arena,
                         const struct envelope *envelope, const struct policy_message *message,
                         struct buffer *into);

#endif
