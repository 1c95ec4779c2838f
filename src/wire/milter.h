/*
 * The parts of the milter client, and its numbers (libmilter's mfdef.h, protocol version 6).
 * Private to the room, and to its tests.
 */
#ifndef WIRE_MILTER_H
#define WIRE_MILTER_H

#include "wire/wire.h"

enum {
    MILTER_VERSION = 6,
    MILTER_VERSION_LEAST = 2,
    MILTER_CHUNK_BYTES = 65535,     /* of the body in a packet; we offer no more */
    MILTER_PACKET_MAX = 1 << 20,    /* what we take from a milter */
    MILTER_BODY_TALK_MAX = 1 << 30, /* a body that a milter sends never ends otherwise */
};

/* Actions that a milter may want (SMFIF_*). */
enum milter_action {
    MILTER_MAY_ADD_HEADERS = 0x1,
    MILTER_MAY_CHANGE_BODY = 0x2,
    MILTER_MAY_ADD_RECIPIENTS = 0x4,
    MILTER_MAY_DELETE_RECIPIENTS = 0x8,
    MILTER_MAY_CHANGE_HEADERS = 0x10,
    MILTER_MAY_QUARANTINE = 0x20,
    MILTER_MAY_CHANGE_SENDER = 0x40,
    MILTER_MAY_ADD_WITH_PARAMETERS = 0x80,
    MILTER_MAY_CHOOSE_MACROS = 0x100,
    MILTER_ACTIONS_ALL = 0x1ff,
};

/* Steps that a milter may leave out or not answer (SMFIP_*). RCPT_REJ and larger chunks are not
 * offered. */
enum milter_step {
    MILTER_NO_CONNECT = 0x1,
    MILTER_NO_HELO = 0x2,
    MILTER_NO_MAIL = 0x4,
    MILTER_NO_RCPT = 0x8,
    MILTER_NO_BODY = 0x10,
    MILTER_NO_HEADERS = 0x20,
    MILTER_NO_EOH = 0x40,
    MILTER_MUTE_HEADERS = 0x80,
    MILTER_NO_UNKNOWN = 0x100,
    MILTER_NO_DATA = 0x200,
    MILTER_MAY_SKIP = 0x400,
    MILTER_MUTE_CONNECT = 0x1000,
    MILTER_MUTE_HELO = 0x2000,
    MILTER_MUTE_MAIL = 0x4000,
    MILTER_MUTE_RCPT = 0x8000,
    MILTER_MUTE_DATA = 0x10000,
    MILTER_MUTE_UNKNOWN = 0x20000,
    MILTER_MUTE_EOH = 0x40000,
    MILTER_MUTE_BODY = 0x80000,
    MILTER_LEADING_SPACE = 0x100000,
    MILTER_STEPS_ALL = 0x1ff7ff,
};

/* Kinds of packets from a milter (SMFIR_*); those to it are letters where they are said. */
enum milter_says {
    MILTER_SAYS_ADD_RECIPIENT = '+',
    MILTER_SAYS_DELETE_RECIPIENT = '-',
    MILTER_SAYS_ADD_WITH_PARAMETERS = '2',
    MILTER_SAYS_SHUTDOWN = '4',
    MILTER_SAYS_ACCEPT = 'a',
    MILTER_SAYS_REPLACE_BODY = 'b',
    MILTER_SAYS_CONTINUE = 'c',
    MILTER_SAYS_DISCARD = 'd',
    MILTER_SAYS_CHANGE_SENDER = 'e',
    MILTER_SAYS_CONNECTION_FAILED = 'f',
    MILTER_SAYS_ADD_HEADER = 'h',
    MILTER_SAYS_INSERT_HEADER = 'i',
    MILTER_SAYS_CHANGE_HEADER = 'm',
    MILTER_SAYS_OPTIONS = 'O',
    MILTER_SAYS_PROGRESS = 'p',
    MILTER_SAYS_QUARANTINE = 'q',
    MILTER_SAYS_REJECT = 'r',
    MILTER_SAYS_SKIP = 's',
    MILTER_SAYS_TEMPFAIL = 't',
    MILTER_SAYS_REPLY = 'y',
};

/* Steps that have macros (SMFIM_*). */
enum milter_stage {
    MILTER_AT_CONNECT = 0,
    MILTER_AT_HELO,
    MILTER_AT_MAIL,
    MILTER_AT_RCPT,
    MILTER_AT_DATA,
    MILTER_AT_END,
    MILTER_AT_EOH,
    MILTER_STAGES,
    MILTER_AT_NONE = MILTER_STAGES,
};

struct milter {
    struct stream *stream; /* owned */
    struct buffer out;     /* packets not yet sent */
    struct buffer in;      /* what came */
    size_t taken;          /* of it, by the packet given out last */
    struct arena arena;    /* lives as long as the connection */
    uint32_t version, actions, steps;
    bool chose_macros[MILTER_STAGES];
    struct bytes macros[MILTER_STAGES]; /* names, separated by blanks */
    bool in_message;                    /* MAIL was said, and neither its end nor ABORT */
    bool abort_due;
    bool awaited; /* the end was said, and neither a change nor an answer came */
    /* Answers that still stand; CONTINUE when there is none. */
    struct milter_verdict failed, session, greeting, message;
    char session_words[1024], greeting_words[1024], message_words[1024];
    uint64_t wait_until_us; /* for the packet awaited */
};

/* ---- milter_packet.c */

/* A packet: its kind and its data, a view until the next read. */
struct milter_packet {
    uint8_t kind;
    struct bytes data;
};
/* A packet goes to `out`; milter_send sends what is there. */
void milter_put(struct milter *milter, uint8_t kind, struct bytes data);
void milter_put_texts(struct milter *milter, uint8_t kind, const struct bytes *texts,
                      unsigned count); /* each ended by NUL; NULs within are left out */
/* CONTINUE or FAILED. Sleep. */
struct milter_verdict milter_send(struct milter *milter, const struct milter_call *call);
struct milter_verdict milter_receive(struct milter *milter, const struct milter_call *call,
                                     struct milter_packet *packet);
/* Something lies there that nobody asked for: the milter is out of step. */
bool milter_out_of_step(struct milter *milter);
/* Marks the connection as failed. */
struct milter_verdict milter_fail(struct milter *milter, enum filter_fault fault,
                                  struct bytes words);
struct milter_verdict milter_garbled(struct milter *milter, const struct milter_call *call,
                                     const char *what, const struct milter_packet *packet);

/* ---- milter_answer.c: pure */

struct milter_verdict milter_verdict_of(enum milter_answer answer);
/* CONTINUE, ACCEPT, REJECT... False: the packet is no answer, or a malformed one. */
MUST_USE bool milter_parse_answer(struct arena *arena, const struct milter_packet *packet,
                                  struct milter_verdict *verdict);
struct milter_verdict milter_parse_reply(struct arena *arena, struct bytes text);

/* ---- milter_change.c: pure */

enum milter_parsed { MILTER_PARSED_OTHER = 0, MILTER_PARSED_CHANGE, MILTER_PARSED_BAD };
/* A packet that changes the message. OTHER: it is none of those. BAD: malformed, not agreed upon,
 * or one too many; *why says which. REPLBODY is not done here. */
enum milter_parsed milter_parse_change(struct arena *arena, const struct milter *milter,
                                       const struct milter_packet *packet,
                                       struct milter_changes *changes, const char **why);

/* ---- milter_macro.c */

void milter_put_macros(struct milter *milter, const struct milter_call *call,
                       enum milter_stage stage, uint8_t command);

/* ---- milter_talk.c */

/* Over a stream that is open; owns it, and closes it when this fails. */
struct milter_verdict milter_open_stream(struct stream *stream, const struct milter_call *call,
                                         struct milter **milter);
/* What stands against going on, or CONTINUE. */
struct milter_verdict milter_standing(const struct milter *milter, const struct milter_call *call);
/* Sends what was put and reads the answer to it. May give `skip` when it is not NULL. */
struct milter_verdict milter_answer(struct milter *milter, const struct milter_call *call,
                                    bool *skip);
/* Keeps a copy of an answer other than CONTINUE for the rest of the message. */
void milter_keep_message(struct milter *milter, const struct milter_verdict *verdict);

#endif
