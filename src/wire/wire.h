/*
 * wire: SMTP and LMTP from both sides, clamd: speak, never decide.
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
    struct bytes argument; /* trimmed rest of the line: a view of it */
    enum smtp_fault fault; /* the first one; what lies behind it may be unset */
    struct address path;   /* MAIL, RCPT; in the arena, as all parameters */
    bool path_bare; /* came without brackets: then the fault is ADDRESS, yet path is filled in */
    /* MAIL parameters */
    uint64_t size_bytes; /* 0: not given */
    enum body_kind body;
    bool smtputf8, requiretls;
    struct bytes envelope_id, auth;
    enum envelope_return dsn_return;
    /* RCPT parameters */
    struct bytes original_recipient;
    unsigned notify;
    /* BDAT */
    uint64_t chunk_bytes;
    bool chunk_last;
    unsigned parameter_count; /* ESMTP parameters present: refused after HELO */
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
struct clamd_verdict clamd_scan(struct arena *arena, const struct endpoint *at,
                                const struct message_source *message,
                                struct filter_deadlines deadlines);
struct clamd_verdict clamd_ping(struct arena *arena, const struct endpoint *at,
                                struct filter_deadlines deadlines);

#endif
