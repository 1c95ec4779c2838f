/*
 * mime7: a message made fit for hosts that take 7-bit mail only (RFC 6152 3): each leaf with octets
 * beyond ASCII becomes quoted-printable or base64; all else stays as it is. In two passes over the
 * same bytes, in pieces of any size, with memory for one header and a byte a part: the first finds
 * out what each part needs, the second writes.
 *
 * Multiparts keep their structure, message/rfc822 is gone into. multipart/signed is never touched:
 * with octets beyond ASCII inside, the message does not fit. Nor does a header with such octets, or
 * a part that claims to be encoded and is not.
 */
#ifndef MAIL_MIME7_H
#define MAIL_MIME7_H

#include "base/base.h"

enum mime7_fault {
    MIME7_FINE = 0,
    MIME7_HEADER, /* octets beyond ASCII in a header */
    MIME7_SIGNED, /* inside of multipart/signed */
    MIME7_UNFIT,  /* in a part that cannot be encoded */
    MIME7_LIMIT,  /* nested too deep, too many parts, a header too long */
    MIME7_MEMORY,
};

enum { MIME7_DEPTH = 24, MIME7_BOUNDARY = 200, MIME7_LINE = 1024 };
#define MIME7_HEADER_MOST (256 * KIB)
#define MIME7_PARTS_MOST 20000

enum mime7_place {
    MIME7_IN_HEADER = 0,
    MIME7_IN_LEAF,
    MIME7_BETWEEN, /* a preamble or epilogue, which nobody reads */
};
enum mime7_encoding { MIME7_KEEP = 0, MIME7_RELABEL, MIME7_QUOTED, MIME7_BASE64 };

struct mime7 {
    bool writes; /* the second pass */
    enum mime7_fault fault;
    unsigned quoted, base64, relabelled; /* parts that change */
    struct buffer encodings;             /* one octet a leaf, in their order */
    unsigned leaf;                       /* the next one's number */

    struct mime7_level {
        char boundary[MIME7_BOUNDARY + 1];
        size_t count;
        bool is_digest, is_signed;
    } levels[MIME7_DEPTH]; /* the multiparts that are open */
    unsigned depth;

    enum mime7_place place;
    struct buffer header;         /* of the entity at hand */
    bool is_message;              /* it is a message's, not a part's */
    bool is_signed, in_digest;    /* inside of such a multipart */
    bool is_text, is_opaque;      /* of the leaf at hand */
    enum mime7_encoding encoding; /* of the leaf at hand; in the second pass */
    int declared;                 /* what its header says */
    uint64_t octets, high;        /* of the leaf; in the first pass */
    bool is_awkward;              /* it has NUL, a bare CR or LF, or a long line */
    uint64_t line_octets;

    uint8_t line[MIME7_LINE]; /* one that is not whole yet */
    size_t line_count;
    bool line_goes_on; /* its beginning was seen to already */

    uint8_t held_end[2]; /* a line end that belongs to a boundary, if one follows */
    size_t held_count;
    unsigned column, bits, bit_count; /* of the encoder */
    uint8_t held_blank;
    bool held_cr;
};

/* To the first pass (writes false), or from it to the second. */
void mime7_begin(struct mime7 *mime7, bool writes);
/* The next piece; what it becomes is added to `into`, which the first pass leaves alone. */
void mime7_add(struct mime7 *mime7, struct buffer *into, struct bytes piece);
void mime7_end(struct mime7 *mime7, struct buffer *into);
void mime7_free(struct mime7 *mime7);
/* After the first pass: does anything change? */
bool mime7_changes(const struct mime7 *mime7);

#endif
