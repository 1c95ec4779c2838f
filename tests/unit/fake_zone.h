/*
 * A table of DNS answers for tests: it stands in for the part of `resolve` that talks to servers, so that conformance material
 * with zones of its own can be run without a server. A program that includes it links resolver_open and resolve_ask from here.
 */
#ifndef FAKE_ZONE_H
#define FAKE_ZONE_H

#include <string.h>

#include "fake_resolver.h"
#include "resolve/resolve.h"

enum fake_fault { FAKE_FINE = 0, FAKE_TIMEOUT, FAKE_SERVFAIL, FAKE_NOTHING /* the name exists, the type does not */ };

struct fake_record {
    char name[320];
    enum dns_type type; /* 0: any type that has no record of its own (faults only) */
    enum fake_fault fault;
    uint16_t preference;
    uint8_t data[4096]; /* TXT bytes, host name, or address in text */
    size_t count;
};

enum { FAKE_RECORDS_MAX = 2048 };
static struct fake_record *fake_records;
static size_t fake_count;

static inline void fake_zone_clear(void)
{
    if (!fake_records)
        fake_records = calloc(FAKE_RECORDS_MAX, sizeof *fake_records);
    INVARIANT(fake_records != NULL);
    fake_count = 0;
}

static inline struct fake_record *fake_zone_add(const char *name, enum dns_type type, struct bytes data)
{
    INVARIANT(fake_count < FAKE_RECORDS_MAX && data.count <= sizeof fake_records->data);
    struct fake_record *record = &fake_records[fake_count++];

    *record = (struct fake_record){.type = type, .count = data.count};
    snprintf(record->name, sizeof record->name, "%s", name);
    const size_t length = strlen(record->name);
    if (length > 0 && record->name[length - 1] == '.')
        record->name[length - 1] = 0;
    if (data.count)
        memcpy(record->data, data.at, data.count);
    return record;
}

static inline void fake_zone_fault(const char *name, enum dns_type type, enum fake_fault fault)
{
    fake_zone_add(name, type, BYTES_EMPTY)->fault = fault;
}

static inline bool fake_is(const struct fake_record *record, struct bytes name)
{
    return bytes_equal_text_nocase(name, record->name);
}

static inline void fake_fill(struct arena *arena, const struct fake_record *from, struct dns_record *record)
{
    const struct bytes data = bytes_of(from->data, from->count);

    *record = (struct dns_record){.type = from->type, .preference = from->preference, .raw = data};
    if (from->type == DNS_TXT)
        record->text = arena_copy(arena, data);
    else if (from->type == DNS_A || from->type == DNS_AAAA)
        INVARIANT(ip_parse(data, &record->ip));
    else
        record->name = arena_copy(arena, data);
}

static inline struct lookup fake_ask(struct arena *arena, struct bytes name, enum dns_type type, struct dns_answer *answer, int depth)
{
    const struct fake_record *alias = NULL, *fault = NULL;
    bool exists = false;

    for (size_t i = 0; i < fake_count; i++) {
        const struct fake_record *record = &fake_records[i];
        if (!fake_is(record, name))
            continue;
        exists = true;
        if (record->fault != FAKE_FINE && (record->type == 0 || record->type == type))
            fault = record;
        else if (record->type == DNS_CNAME && type != DNS_CNAME)
            alias = record;
        else if (record->fault == FAKE_FINE && record->type == type)
            fake_fill(arena, record, &answer->records[answer->count++]);
    }
    if (answer->count > 0)
        return lookup_found();
    if (alias && depth < 8)
        return fake_ask(arena, bytes_of(alias->data, alias->count), type, answer, depth + 1);
    if (fault && fault->fault != FAKE_NOTHING)
        return lookup_failed(fault->fault == FAKE_TIMEOUT ? LOOKUP_REASON_TIMEOUT : LOOKUP_REASON_UNAVAILABLE, BYTES_EMPTY);
    answer->nxdomain = !exists;
    return lookup_absent();
}

struct lookup resolve_ask(struct resolver *resolver, struct arena *arena, struct bytes name, enum dns_type type, struct dns_answer *answer)
{
    (void)resolver;
    *answer = (struct dns_answer){.records = ARENA_NEW_ARRAY(arena, 512, struct dns_record)};
    if (!answer->records)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("memory"));
    if (name.count > 0 && name.at[name.count - 1] == '.')
        name.count--;
    return fake_ask(arena, name, type, answer, 0);
}

struct resolver *resolver_open(const struct resolver_settings *settings, char *why, size_t why_room)
{
    (void)settings;
    snprintf(why, why_room, "the table of a test needs no resolver");
    return NULL;
}

void resolver_close(struct resolver *resolver)
{
    (void)resolver;
}

#endif
