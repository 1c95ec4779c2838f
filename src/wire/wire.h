/*
 * wire: SMTP and LMTP from both sides, clamd, milter, spamd: speak, never decide.
 *
 * Flow:   a stream -> wire_input (lines, body pieces) -> parsed commands or replies; and back.
 * Owns:   its input buffer, taken from a pool and given back before every wait that may be long.
 * Sleeps: on the stream, until the deadline given.
 * Fails:  by wire_status or io_result, never by a verdict.
 * Never:  accepts anything but CR LF . CR LF as the end of DATA; keeps more than its limits.
 */
#ifndef WIRE_WIRE_H
#define WIRE_WIRE_H

#include "base/base.h"
#include "crypto/crypto.h"
#include "mail/mail.h"
#include "observe/observe.h"
#include "runtime/runtime.h"
#include "wire/pipe.h"

/* ------------------------------------------------------------------ buffered input */

#define WIRE_BUFFER_BYTES 16384
/* Longest command line we keep; a longer one is one error. RFC 4954 4 asks for AUTH lines of 12288.
 */
#define WIRE_COMMAND_MAX (12288 + 64)

struct wire_input {
    struct stream *stream; /* not owned */
    uint8_t *buffer;       /* WIRE_BUFFER_BYTES from the pool, or NULL while nothing is pending */
    size_t start, end;
    uint64_t bytes_read;
};
void wire_input_open(struct wire_input *input, struct stream *stream);
void wire_input_close(struct wire_input *input); /* gives the buffer back */
bool wire_input_pending(const struct wire_input *input);
void wire_input_discard(
    struct wire_input *input); /* drops what is pending: before a TLS handshake */

enum wire_status {
    WIRE_FAILED = 0,
    WIRE_OK,
    WIRE_END,
    WIRE_TIMEOUT,
    WIRE_CANCELLED,
    WIRE_TOO_LONG,
    WIRE_MALFORMED
};
enum wire_status wire_status_of(struct io_result result);

/*
 * A line up to CR LF, without it, valid until the next call. TOO_LONG: the line was eaten whole. A
 * bare LF or CR, or NUL, within: MALFORMED, the line was eaten whole up to CR LF. Never buffers
 * over the maximum; an endless line gives WIRE_END after `WIRE_ENDLESS_BYTES`. A TLS hello where a
 * line should begin never ends in CR LF: its first two bytes are given out, smtp_parse_command
 * names it FOREIGN, and nothing behind it is in step.
 */
#define WIRE_ENDLESS_BYTES (512 * 1024)
enum wire_status wire_read_line(struct wire_input *input, uint64_t deadline_us, struct bytes *line);
/* Exactly up to `most` raw bytes (BDAT), at least one; valid until the next call. */
enum wire_status wire_read_raw(struct wire_input *input, size_t most, uint64_t deadline_us,
                               struct bytes *piece);

/* DATA: dot-unstuffed pieces in order, views until the next call; `ended` when CR LF . CR LF was
 * met. Bare CR, LF or NUL sets `malformed` (sticky) and reading goes on to the true end, so the
 * session stays in step. */
struct wire_data {
    struct wire_input *input;
    int state;
    bool malformed, ended;
    uint64_t bytes;      /* given out */
    size_t longest_line; /* without its CR LF */
    size_t line_length;  /* of the line that is still open */
};
#define WIRE_DATA_OF(from) ((struct wire_data){.input = (from)})
/* OK with a piece, which may be empty when `ended` was set with it; END: the client left half-way.
 */
enum wire_status wire_read_data(struct wire_data *data, uint64_t deadline_us, struct bytes *piece);

/* ------------------------------------------------------------------ SMTP server side: commands
 * (RFC 5321 4.1) */

enum smtp_verb {
    SMTP_UNKNOWN = 0,
    SMTP_HELO,
    SMTP_EHLO,
    SMTP_LHLO,
    SMTP_MAIL,
    SMTP_RCPT,
    SMTP_DATA,
    SMTP_BDAT,
    SMTP_RSET,
    SMTP_NOOP,
    SMTP_VRFY,
    SMTP_EXPN,
    SMTP_HELP,
    SMTP_QUIT,
    SMTP_STARTTLS,
    SMTP_AUTH,
    SMTP_ETRN,
    SMTP_TURN, /* and SEND, SOML, SAML: known, never implemented */
    SMTP_XCLIENT,
    SMTP_FOREIGN, /* HTTP verbs, header lines, a TLS hello: another protocol */
};
enum smtp_fault {
    SMTP_FINE = 0,
    SMTP_FAULT_SYNTAX,
    SMTP_FAULT_ADDRESS,
    SMTP_FAULT_PARAMETER,
    SMTP_FAULT_UTF8,
    SMTP_FAULT_TOO_BIG
};

struct smtp_command {
    enum smtp_verb verb;
    struct bytes line;     /* all of it */
    struct bytes argument; /* trimmed rest of the line: a view of it */
    enum smtp_fault fault; /* the first one; what lies behind it may be unset */
    struct address path;   /* MAIL, RCPT; in the arena, as all parameters */
    bool path_bare; /* came without brackets: then the fault is ADDRESS, yet path is filled in */
    /* MAIL parameters */
    uint64_t size_bytes; /* 0: not given */
    enum body_kind body;
    bool smtputf8, requiretls, prdr;
    struct bytes envelope_id, auth;
    enum envelope_return dsn_return;
    /* RCPT parameters */
    struct bytes original_recipient;
    unsigned notify;
    /* BDAT */
    uint64_t chunk_bytes;
    bool chunk_last;
    unsigned parameter_count; /* ESMTP parameters present: refused after HELO */
    struct bytes parameters;  /* all of them as given, a view of the line */
};
/*
 * MAIL with letters beyond ASCII but without SMTPUTF8 has the fault UTF8; RCPT does not know the
 * transaction, so its caller asks address_is_ascii. MAIL or RCPT without "FROM:<", "TO:<" at all is
 * UNKNOWN. BODY=BINARYMIME and every parameter are parsed whether offered or not. With
 * arena->failed the fault means nothing: it is ours.
 */
void smtp_parse_command(struct arena *arena, struct bytes line, struct smtp_command *command);

/* ------------------------------------------------------------------ SMTP and LMTP client side */

#define SMTP_REPLY_LINES_MAX 100
#define SMTP_REPLY_BYTES_MAX 8192
struct smtp_reply {
    unsigned code;         /* 0: unparsable */
    struct bytes enhanced; /* "4.7.1" when the text starts with one of the right class */
    struct bytes text;     /* all lines, with codes, joined by LF */
    unsigned line_count;
};
/*
 * Reads one reply, every line, bounded. The text lives in the arena. MALFORMED, with code 0 and
 * what was read so far: no code, one outside 200..599, or lines that disagree; TOO_LONG: over a
 * limit. After either the connection is out of step and good for nothing. Sleeps.
 */
enum wire_status smtp_read_reply(struct wire_input *input, struct arena *arena,
                                 uint64_t deadline_us, struct smtp_reply *reply);

enum smtp_extension {
    EXTENSION_PIPELINING = 1,
    EXTENSION_SIZE = 2,
    EXTENSION_8BITMIME = 4,
    EXTENSION_SMTPUTF8 = 8,
    EXTENSION_DSN = 16,
    EXTENSION_STARTTLS = 32,
    EXTENSION_CHUNKING = 64,
    EXTENSION_ENHANCEDSTATUSCODES = 128,
    EXTENSION_AUTH = 256,
    EXTENSION_REQUIRETLS = 512,
    EXTENSION_BINARYMIME = 1024,
};
/* From the lines of an EHLO reply, all but the first. *size_limit is 0 when none is declared. */
unsigned smtp_parse_extensions(struct bytes reply_text, uint64_t *size_limit);

/* Writes a body as DATA: CRLF lines, dots stuffed, bare CR and LF made CR LF, NUL dropped, and at
 * the end ".". */
struct wire_stuffer {
    int state;
};
void wire_stuff(struct wire_stuffer *stuffer, struct buffer *into, struct bytes piece);
void wire_stuff_end(struct wire_stuffer *stuffer, struct buffer *into);

/* ------------------------------------------------------------------ clamd (INSTREAM) */

enum clamd_result { CLAMD_FAILED = 0, CLAMD_CLEAN, CLAMD_FOUND, CLAMD_TOO_LARGE, CLAMD_ERROR };
enum filter_fault { /* how a filter failed, for policy to name */
                    FILTER_FAULT_NONE = 0,
                    FILTER_FAULT_UNREACHABLE,
                    FILTER_FAULT_TIMEOUT,
                    FILTER_FAULT_CRASHED,
                    FILTER_FAULT_GARBLED,
                    FILTER_FAULT_OVERLOADED,
                    FILTER_FAULT_MISCONFIGURED,
                    FILTER_FAULT_LOCAL,
};
struct clamd_verdict {
    enum clamd_result result;
    enum filter_fault fault; /* when CLAMD_FAILED */
    struct bytes words;      /* signature name, or clamd's error, or ours */
    bool awaited;            /* TIMEOUT, yet it has the whole message and may still answer */
};
/* Where a filter reads the message from: a piece at `offset`, short only at the end. Sleeps. */
struct message_source {
    struct io_result (*read)(void *argument, struct span into, uint64_t offset);
    void *argument;
    uint64_t size_bytes;
};
struct filter_deadlines {
    uint64_t connect_us, done_us; /* absolute */
};
/* *late, unless it is NULL, gets the connection of an answer that is still awaited. */
struct clamd_verdict clamd_scan(struct arena *arena, const struct endpoint *at,
                                const struct message_source *message,
                                struct filter_deadlines deadlines, struct stream **late);
/* That answer. Sleeps. */
struct clamd_verdict clamd_listen(struct arena *arena, struct stream *late, uint64_t deadline_us);
struct clamd_verdict clamd_ping(struct arena *arena, const struct endpoint *at,
                                struct filter_deadlines deadlines);

/* ------------------------------------------------------------------ milter: the MTA's side of
 * protocol 2 to 6 */

/*
 * One connection to a milter, used by one session after the other. The functions are called in the
 * order of the dialogue: open, connect, helo, then for each message mail, rcpt..., data, message;
 * `abort` forgets a message. What the milter does not want to see is skipped in silence. After an
 * answer other than CONTINUE its scope is over and the same answer is given to all that falls into
 * it: the session for an answer to connect, up to the next HELO for one to HELO, else the message;
 * an objection to RCPT is about that recipient alone. After FAILED only milter_close is left.
 */
struct milter;

enum milter_answer {
    MILTER_FAILED = 0, /* see fault and words */
    MILTER_CONTINUE,
    MILTER_ACCEPT, /* without another look */
    MILTER_REJECT,
    MILTER_TEMPFAIL,
    MILTER_DISCARD,
    MILTER_REPLY_4, /* its own reply; words: whole lines, "451-4.7.1 text", joined by LF */
    MILTER_REPLY_5,
    MILTER_REPLY_INVALID, /* of no class 4 or 5, or codes that disagree: what it said */
    MILTER_SHUTDOWN,      /* 421, and the session ends */
};
struct milter_verdict {
    enum milter_answer answer;
    enum filter_fault fault; /* when MILTER_FAILED */
    struct bytes words;      /* in the arena of the call */
};

struct milter_macro {
    const char *name; /* as on the wire: "j", "{mail_addr}" */
    struct bytes value;
};
/* What goes with every command. Of the macros known, those are sent that the milter asked for at
 * that step, or else the usual ones. */
struct milter_call {
    struct arena *arena;
    uint64_t deadline_us; /* over all of it */
    uint64_t reply_us;    /* longest wait for a packet, 0: none but the deadline; "progress" begins
                             it anew */
    const struct milter_macro *macros;
    unsigned macro_count;
};

struct milter_client {
    const struct endpoint *remote;
    struct bytes name; /* confirmed reverse name or empty */
};
/* A path and its ESMTP parameters, one piece each. */
struct milter_path {
    struct bytes path; /* "<a@b.example>" */
    const struct bytes *parameters;
    unsigned parameter_count;
};

/* Dials and negotiates. CONTINUE: *milter is open; otherwise it is NULL. Sleeps, as all below. */
struct milter_verdict milter_open(const struct endpoint *at, uint64_t connect_us,
                                  const struct milter_call *call, struct milter **milter);
struct milter_verdict milter_connect(struct milter *milter, const struct milter_call *call,
                                     const struct milter_client *client);
struct milter_verdict milter_helo(struct milter *milter, const struct milter_call *call,
                                  struct bytes name);
struct milter_verdict milter_mail(struct milter *milter, const struct milter_call *call,
                                  const struct milter_path *from);
struct milter_verdict milter_rcpt(struct milter *milter, const struct milter_call *call,
                                  const struct milter_path *to);
struct milter_verdict milter_data(struct milter *milter, const struct milter_call *call);
/* A command that the server does not know. */
struct milter_verdict milter_unknown(struct milter *milter, const struct milter_call *call,
                                     struct bytes line);
void milter_abort(struct milter *milter); /* the message is over; said with the next command */
/* Ends the session, not the connection. False: it cannot serve another one and has to be closed. */
MUST_USE bool milter_end_session(struct milter *milter);
void milter_close(struct milter **milter); /* says so when all went well; fits CLEANUP */

/* ---- the message, and what the milter changes */

/*
 * A header that milters may change: what stands above our own Received field, which they do not
 * see, and what stands below it. Whole fields with CR LF, without the empty line.
 */
struct milter_headers {
    struct bytes above, below;
};
struct milter_message {
    struct milter_headers headers;
    const struct message_source *body; /* behind the empty line */
};

enum milter_change_kind {
    MILTER_HEADER_ADD = 0, /* at the end */
    MILTER_HEADER_INSERT,  /* at `index`: 0 above our Received, 1 right below it, ... */
    MILTER_HEADER_CHANGE,  /* the field `index` (from 1) of that name; empty value: deletes it */
    MILTER_RECIPIENT_ADD,
    MILTER_RECIPIENT_DELETE,
    MILTER_SENDER_CHANGE,
};
struct milter_change {
    struct milter_change *next; /* in the order given, which matters */
    enum milter_change_kind kind;
    uint32_t index;
    struct bytes name;  /* of a field; or a path, "<a@b.example>", as the milter wrote it */
    struct bytes value; /* all between the colon and the last CR LF; or ESMTP parameters */
};
/* Takes a new body piece by piece, CR LF line ends. */
struct message_sink {
    struct io_result (*write)(void *argument, struct bytes piece);
    void *argument;
};
#define MILTER_CHANGES_MAX 4096
struct milter_changes {
    struct message_sink body; /* set by the caller */
    struct milter_change *first, *last;
    unsigned count;
    bool body_replaced; /* by what the sink took, which may be nothing */
    bool quarantined;
    struct bytes quarantine_why;
};
/* Header, body and end of message. The changes count only with CONTINUE or ACCEPT. */
struct milter_verdict milter_message(struct milter *milter, const struct milter_call *call,
                                     const struct milter_message *message,
                                     struct milter_changes *changes);
/* After TIMEOUT of milter_message: it has the whole message, has changed nothing, and may still
 * answer. */
bool milter_is_awaited(const struct milter *milter);
/* That answer, with its changes; one that sends a body FAILED. Then only milter_close is left. */
struct milter_verdict milter_listen(struct milter *milter, const struct milter_call *call,
                                    struct milter_changes *changes);
/*
 * The header after the changes, into two empty buffers. Pure. False when memory or a limit of a
 * buffer is reached; then the buffers mean nothing.
 */
MUST_USE bool milter_headers_apply(const struct milter_headers *before,
                                   const struct milter_changes *changes, struct buffer *above,
                                   struct buffer *below);

/* ------------------------------------------------------------------ spamd (SPAMC/1.5) */

enum spamd_result { SPAMD_FAILED = 0, SPAMD_JUDGED };
struct spamd_verdict {
    enum spamd_result result;
    enum filter_fault fault; /* when SPAMD_FAILED */
    struct bytes words;      /* what it said, or ours */
    bool is_spam;            /* by its own threshold */
    double score, threshold;
    struct bytes headers; /* its X-Spam-* fields, whole, with CR LF */
    bool awaited;         /* TIMEOUT, yet it has the whole message and may still answer */
};
/* JUDGED only by a whole answer about the whole message. *late: as for clamd_scan. Sleep. */
struct spamd_verdict spamd_scan(struct arena *arena, const struct endpoint *at,
                                const struct message_source *message,
                                struct filter_deadlines deadlines, struct stream **late);
struct spamd_verdict spamd_listen(struct arena *arena, struct stream *late, uint64_t deadline_us);
struct spamd_verdict spamd_ping(struct arena *arena, const struct endpoint *at,
                                struct filter_deadlines deadlines);

/* ------------------------------------------------------------------ Dovecot's auth socket */

enum dovecot_result { DOVECOT_FAILED = 0, DOVECOT_OK, DOVECOT_DENIED, DOVECOT_CONTINUE };
struct dovecot_answer {
    enum dovecot_result result;
    struct bytes user;      /* OK: the name as Dovecot has it */
    struct bytes challenge; /* CONTINUE: decoded */
    struct bytes words;     /* FAILED, DENIED: its or ours; never a secret */
};
struct dovecot_request {
    const char *mechanism;
    struct bytes initial; /* decoded */
    bool has_initial, secured;
    struct endpoint local, remote;
    uint64_t deadline_us; /* over the whole exchange */
};
struct dovecot_auth;
/* One attempt to log in. *auth has to be closed whatever the answer. Sleep. */
struct dovecot_answer dovecot_auth_begin(struct arena *arena, const struct endpoint *at,
                                         const struct dovecot_request *request,
                                         struct dovecot_auth **auth);
struct dovecot_answer dovecot_auth_continue(struct dovecot_auth *auth, struct arena *arena,
                                            struct bytes response);
void dovecot_auth_close(struct dovecot_auth **auth); /* fits CLEANUP */

#endif
