/*
 * mail: addresses, envelopes, header fields, delivery status notifications; pure, on bytes.
 *
 * Flow:   bytes in, views or text out.
 * Owns:   nothing; what it builds goes into the caller's arena or buffer.
 * Sleeps: never.
 * Fails:  by false, an empty view, or the arena's and buffer's sticky flags.
 * Never:  does I/O, decides a fate.
 */
#ifndef MAIL_MAIL_H
#define MAIL_MAIL_H

#include "base/base.h"
#include "mail/bounce.h"
#include "mail/mime7.h"

/* ------------------------------------------------------------------ addresses (RFC 5321 4.1.2,
 * 6531) */

#define MAIL_LOCAL_MAX                                                                             \
    64 /* octets; RFC 5321 4.5.3.1.1. We accept up to 4 times that, as others do. */
#define MAIL_DOMAIN_MAX 255
#define MAIL_ADDRESS_MAX 1024

/* Local part without quotes or escapes, domain in lower case without a final dot. Both empty: null
 * sender <>. */
struct address {
    struct bytes local, domain;
};

enum path_kind { PATH_REVERSE, PATH_FORWARD }; /* MAIL FROM; RCPT TO */

/*
 * Parses "<...>" at the front of *rest (a source route is dropped; quoted strings unquoted; <> only
 * as reverse path; <postmaster> without domain only as forward path), and moves *rest behind it.
 * Domains may be address literals, kept with their brackets. False on bad syntax.
 */
MUST_USE bool address_parse_path(struct arena *arena, struct bytes *rest, enum path_kind kind,
                                 struct address *address);
/* A bare addr-spec, as in a users file: "local@domain". */
MUST_USE bool address_parse(struct arena *arena, struct bytes text, struct address *address);
/* As it goes on the wire, quoted where needed: local@domain; nothing for the null sender. */
void address_print(struct buffer *into, struct address address);
struct bytes address_text(struct arena *arena, struct address address);
bool address_equal(struct address a, struct address b); /* local part exact, domain without case */
bool address_is_null(struct address address);
bool address_is_ascii(struct address address);
MUST_USE bool
domain_is_valid(struct bytes domain); /* LDH labels (or UTF-8), or an address literal */

/*
 * The addresses of To, Cc or Bcc, one after the other, as they stand: names, comments and blanks
 * gone, quoted strings whole; with or without a domain. False at the end. `malformed` (sticky):
 * something there was no address and was passed over. `spec` is cleared for each.
 */
struct address_list {
    struct bytes rest;
    bool malformed;
};
MUST_USE bool address_list_next(struct address_list *list, struct buffer *spec);

/* ------------------------------------------------------------------ envelope */

enum notify_flags {
    NOTIFY_DEFAULT = 0,
    NOTIFY_NEVER = 1,
    NOTIFY_SUCCESS = 2,
    NOTIFY_FAILURE = 4,
    NOTIFY_DELAY = 8
};
enum envelope_return { RETURN_DEFAULT = 0, RETURN_FULL, RETURN_HEADERS };
enum body_kind { BODY_7BIT = 0, BODY_8BITMIME, BODY_BINARYMIME };

struct recipient {
    struct address address;  /* where it goes (after aliases) */
    struct bytes original;   /* ORCPT as given ("rfc822;a@b", decoded from xtext) or empty */
    struct address asked;    /* what RCPT named, when an alias changed it; else empty */
    unsigned notify;         /* enum notify_flags */
    struct bytes parameters; /* ESMTP parameters of RCPT as given, for filters; never stored */
    /* The owner of the list that it was reached through: the sender on the wire, who is told of
     * failures (RFC 5321 3.9.2). Empty: the envelope's. */
    struct address owner;
    struct bytes deliver; /* the user's own way of delivery, as a setting has it; else empty */
    uint8_t policy_class; /* while it is received: those that are judged together; never stored */
};
/* `deliver` of one who stands for a list or an alias of several itself: there is nothing to
 * deliver, only to tell the sender who asked for it that it was reached (RFC
 * 3461 5.2.7.1, 5.2.7.3). */
#define RECIPIENT_IS_LIST "list:"
#define RECIPIENT_IS_ALIAS "alias:"

struct envelope {
    struct address from;
    struct recipient *recipients;
    uint32_t recipient_count;
    struct bytes envelope_id; /* ENVID, decoded */
    enum envelope_return dsn_return;
    enum body_kind body;
    bool smtputf8, requiretls;
    /* Where it came from, for Received, the journal and `why`. */
    struct bytes client; /* "192.0.2.1:4711" or empty for our own mail */
    struct bytes helo;
    struct bytes user; /* authenticated as, or empty */
    bool via_submission;
    int64_t accepted_wall_us;
    bool unscanned; /* not delivered before a filter has seen it */
    bool held;      /* not delivered until released */
    struct bytes held_why;
    enum { ENVELOPE_MAIL = 0, ENVELOPE_DSN } kind; /* a DSN never makes another */
};

/* Who is told what became of this recipient; null when nobody is. */
struct address envelope_return_path(const struct envelope *envelope,
                                    const struct recipient *recipient);

/* xtext (RFC 3461 4): decode refuses bad hex, and CR, LF and NUL as results. */
MUST_USE bool xtext_decode(struct arena *arena, struct bytes text, struct bytes *decoded);
void xtext_encode(struct buffer *into, struct bytes plain);

/* ------------------------------------------------------------------ header fields (RFC 5322 2.2)
 */

struct header_field {
    struct bytes name;  /* without the colon or blanks before it */
    struct bytes value; /* behind the colon, folded as it stands, without the final CRLF */
    struct bytes whole; /* name, colon, value and the final CRLF */
};

/* Walks the fields of a message from its first byte; false at the empty line or the end. */
struct header_walk {
    struct bytes rest;
    bool malformed; /* a line that is no field was met */
};
#define HEADER_WALK_OF(message) ((struct header_walk){.rest = (message)})
MUST_USE bool header_next(struct header_walk *walk, struct header_field *field);
/* First field of that name; false when none. */
MUST_USE bool header_find(struct bytes message, const char *name, struct header_field *field);
uint32_t header_count(struct bytes message, const char *name);
struct bytes header_unfold(struct arena *arena,
                           struct bytes value); /* one line, outer blanks gone */
size_t
header_end(struct bytes message); /* offset of the body (behind the empty line), or message.count */

/* ------------------------------------------------------------------ Received (RFC 5321 4.4) */

struct received_facts {
    const char *hostname; /* ours */
    struct bytes helo;    /* what the client said; bytes outside a safe set are replaced */
    struct endpoint client;
    struct bytes client_name; /* confirmed reverse name or empty */
    const char
        *protocol;    /* "SMTP", "ESMTP", "ESMTPS", "ESMTPSA", "UTF8SMTP", "LMTP", ... (RFC 3848) */
    struct bytes tls; /* "TLSv1.3 cipher X" or empty */
    uint64_t message; /* id */
    struct address only_recipient; /* for FOR; empty when several */
    int64_t wall_us;
};
void received_print(struct buffer *into, const struct received_facts *facts);

/* ------------------------------------------------------------------ delivery status notifications
 * (RFC 3464) */

enum dsn_action { DSN_FAILED, DSN_DELAYED, DSN_DELIVERED, DSN_RELAYED, DSN_EXPANDED };

struct dsn_recipient {
    struct address final;
    struct bytes original; /* ORCPT or empty */
    enum dsn_action action;
    struct bytes status;      /* "5.1.1" */
    struct bytes remote_mta;  /* host name or empty */
    struct bytes diagnostic;  /* the full reply, lines joined by LF; or empty */
    struct bytes cause_name;  /* "remote.refused" */
    struct bytes explanation; /* a sentence: what the cause means, from the catalogue */
    struct bytes side;        /* a sentence: where the cause lies; or empty */
    struct bytes advice;      /* for a postmaster, from the catalogue; or empty */
    int64_t last_attempt_wall_us;
    int64_t retry_until_wall_us; /* for DSN_DELAYED; 0 otherwise */
};

struct dsn {
    const char *hostname;
    uint64_t message;     /* id of the message it is about */
    uint64_t own_message; /* id of the DSN itself */
    struct address to;    /* the original sender */
    struct bytes envelope_id;
    int64_t arrival_wall_us, now_wall_us;
    const struct dsn_recipient *recipients;
    uint32_t recipient_count;
    struct bytes original; /* what is given back: whole message or header only */
    bool original_is_whole;
    bool smtputf8;
};
/* The whole message, header and body, CRLF line ends. Every foreign byte is made safe for its
 * place. */
void dsn_print(struct buffer *into, const struct dsn *dsn);

#endif
