/* Names and record data: what the seam (unbound.c) and the simulator's answers have in common. */
#ifndef RESOLVE_CODEC_H
#define RESOLVE_CODEC_H

#include "resolve/resolve.h"

#define DNS_NAME_MAX 253
#define DNS_RECORDS_MAX 512

/*
 * The name as it is asked: lower case, without the final dot ("." for the root). `into` needs
 * DNS_NAME_MAX + 1; U-labels become A-labels. False when no such name can exist: empty or long
 * labels, escapes, blanks.
 */
MUST_USE bool dns_name_text(struct bytes name, char *into, size_t room);

/*
 * Decodes one record's data by its type (RFC 1035 3.3, 3.4; RFC 3596) into *record; everything it
 * refers to is copied into the arena. Names in the data must be without compression. False when the
 * data does not follow its type.
 */
MUST_USE bool dns_record_decode(struct arena *arena, enum dns_type type, struct bytes data,
                                struct dns_record *record);

#endif
