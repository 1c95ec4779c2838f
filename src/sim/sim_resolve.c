/*
 * The seam of `resolve` in the simulated world: resolver_open, resolver_close and resolve_ask over
 * a table of names instead of libunbound. Answers take seeded time; a name may time out, answer
 * SERVFAIL, be bogus or not exist, by order of the scenario.
 */
#include "sim/inside.h"
#include "resolve/resolve.h"

#include <string.h>

enum { CNAMES_MOST = 8, NAME_ROOM = 256, RECORDS_MOST = 4096, ZONE_TTL_S = 300 };

struct zone_record {
    char *name, *value;
    enum dns_type type;
};
struct zone_trouble {
    char *name; /* NULL: every name */
    enum sim_zone_fault fault;
    unsigned chance_ppm;
};

static struct {
    struct zone_record *records;
    struct zone_trouble *troubles;
    size_t record_count, trouble_count;
    bool secure;
    uint64_t questions;
} zone;

struct resolver {
    uint64_t timeout_us;
};

/* ------------------------------------------------------------------ the table */

/* Lower case without the final dot; false for what cannot be a name. */
static bool plain_name(struct bytes name, char into[static NAME_ROOM])
{
    if (name.count > 0 && name.at[name.count - 1] == '.')
        name.count--;
    if (name.count == 0 || name.count > 253 || bytes_find(name, BYTES_LITERAL("..")) < name.count ||
        name.at[0] == '.')
        return false;
    for (size_t i = 0; i < name.count; i++) {
        if (name.at[i] <= ' ' || name.at[i] == 0x7f || name.at[i] == '\\')
            return false;
        into[i] = (char)ascii_lower(name.at[i]);
    }
    into[name.count] = '\0';
    return true;
}

static char *plain_copy(const char *name)
{
    char text[NAME_ROOM];

    INVARIANT(plain_name(bytes_of_text(name), text));
    char *copy = strdup(text);
    INVARIANT(copy != NULL);
    return copy;
}

static enum dns_type type_of(const char *text)
{
    static const struct {
        const char *name;
        enum dns_type type;
    } types[] = {{"A", DNS_A},     {"NS", DNS_NS},     {"CNAME", DNS_CNAME},
                 {"SOA", DNS_SOA}, {"PTR", DNS_PTR},   {"MX", DNS_MX},
                 {"TXT", DNS_TXT}, {"AAAA", DNS_AAAA}, {"TLSA", DNS_TLSA}};

    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strcmp(types[i].name, text) == 0)
            return types[i].type;
    const bool zone_knows_the_type = false;
    INVARIANT(zone_knows_the_type);
    return DNS_A;
}

void sim_zone_add(const char *name, const char *type, const char *value)
{
    INVARIANT(zone.record_count < RECORDS_MOST);
    zone.records = sim_grow(zone.records, zone.record_count + 1, sizeof *zone.records);
    char *copy = strdup(value);
    INVARIANT(copy != NULL);
    zone.records[zone.record_count++] =
        (struct zone_record){.name = plain_copy(name), .value = copy, .type = type_of(type)};
}

void sim_zone_remove(const char *name)
{
    char *plain = plain_copy(name);
    size_t kept = 0;

    for (size_t i = 0; i < zone.record_count; i++) {
        if (strcmp(zone.records[i].name, plain) != 0) {
            zone.records[kept++] = zone.records[i];
            continue;
        }
        free(zone.records[i].name);
        free(zone.records[i].value);
    }
    zone.record_count = kept;
    free(plain);
}

/* The newest order about a name goes before older ones. */
void sim_zone_fault(const char *name, enum sim_zone_fault fault, unsigned chance_ppm)
{
    INVARIANT(zone.trouble_count < RECORDS_MOST);
    zone.troubles = sim_grow(zone.troubles, zone.trouble_count + 1, sizeof *zone.troubles);
    zone.troubles[zone.trouble_count++] =
        (struct zone_trouble){name ? plain_copy(name) : NULL, fault, chance_ppm};
}

void sim_zone_secure(bool secure)
{
    zone.secure = secure;
}

uint64_t sim_zone_questions(void)
{
    return zone.questions;
}

void zone_forget(void)
{
    for (size_t i = 0; i < zone.record_count; i++) {
        free(zone.records[i].name);
        free(zone.records[i].value);
    }
    for (size_t i = 0; i < zone.trouble_count; i++)
        free(zone.troubles[i].name);
    free(zone.records);
    free(zone.troubles);
    memset(&zone, 0, sizeof zone);
}

/* ------------------------------------------------------------------ answers */

static enum sim_zone_fault trouble_of(const char *name)
{
    for (size_t i = zone.trouble_count; i-- > 0;) {
        const struct zone_trouble *trouble = &zone.troubles[i];

        if (trouble->name && strcmp(trouble->name, name) != 0)
            continue;
        if (trouble->chance_ppm == 0 || sim_chance(trouble->chance_ppm))
            return trouble->fault;
    }
    return SIM_ZONE_FINE;
}

static bool fill_name(struct arena *arena, struct bytes value, struct bytes *name)
{
    char text[NAME_ROOM];

    if (bytes_equal_text(value, ".")) {
        *name = BYTES_EMPTY;
        return true;
    }
    INVARIANT(plain_name(value, text));
    *name = arena_copy(arena, bytes_of_text(text));
    return !arena->failed;
}

static bool fill_mx(struct arena *arena, struct bytes value, struct dns_record *record)
{
    struct bytes preference;
    const struct bytes name = bytes_cut(value, ' ', &preference);
    uint64_t number = 0;

    INVARIANT(bytes_to_u64(preference, &number) && number <= UINT16_MAX);
    record->preference = (uint16_t)number;
    return fill_name(arena, bytes_trim(name), &record->name);
}

static unsigned hex_value(uint8_t digit)
{
    return (unsigned)(digit <= '9' ? digit - '0' : ascii_lower(digit) - 'a' + 10);
}

/* "3 1 1 2bb1..." as the record has it: three numbers of one digit, and octets. */
static bool fill_tlsa(struct arena *arena, struct bytes value, struct dns_record *record)
{
    const struct bytes digits = bytes_skip(value, 6);
    const size_t count = 3 + digits.count / 2;
    uint8_t *raw = arena_take(arena, count);

    INVARIANT(value.count > 6 && digits.count % 2 == 0);
    if (!raw)
        return false;
    for (size_t i = 0; i < 3; i++)
        raw[i] = (uint8_t)hex_value(value.at[2 * i]);
    for (size_t i = 0; i < digits.count; i += 2)
        raw[3 + i / 2] = (uint8_t)(hex_value(digits.at[i]) << 4 | hex_value(digits.at[i + 1]));
    record->raw = bytes_of(raw, count);
    return true;
}

static bool fill(struct arena *arena, const struct zone_record *from, struct dns_record *record)
{
    const struct bytes value = bytes_of_text(from->value);

    *record = (struct dns_record){.type = from->type, .raw = arena_copy(arena, value)};
    switch (from->type) {
    case DNS_A:
    case DNS_AAAA:
        INVARIANT(ip_parse(value, &record->ip));
        return true;
    case DNS_MX:
        return fill_mx(arena, value, record);
    case DNS_NS:
    case DNS_CNAME:
    case DNS_PTR:
        return fill_name(arena, value, &record->name);
    case DNS_TXT:
        record->text = record->raw;
        return true;
    case DNS_TLSA:
        return fill_tlsa(arena, value, record);
    case DNS_SOA:
        return true;
    }
    return true;
}

static bool name_exists(const char *name)
{
    for (size_t i = 0; i < zone.record_count; i++)
        if (strcmp(zone.records[i].name, name) == 0)
            return true;
    return false;
}

static const struct zone_record *find(const char *name, enum dns_type type)
{
    for (size_t i = 0; i < zone.record_count; i++)
        if (zone.records[i].type == type && strcmp(zone.records[i].name, name) == 0)
            return &zone.records[i];
    return NULL;
}

static struct lookup gather(struct arena *arena, const char *name, enum dns_type type,
                            struct dns_answer *answer)
{
    answer->records = ARENA_NEW_ARRAY(arena, zone.record_count + 1, struct dns_record);
    if (!answer->records)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    for (size_t i = 0; i < zone.record_count; i++)
        if (zone.records[i].type == type && strcmp(zone.records[i].name, name) == 0)
            if (!fill(arena, &zone.records[i], &answer->records[answer->count++]))
                return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    answer->ttl_s = ZONE_TTL_S;
    answer->secure = zone.secure;
    return lookup_found();
}

static struct lookup answer_from_zone(struct arena *arena, char name[static NAME_ROOM],
                                      enum dns_type type, struct dns_answer *answer)
{
    for (unsigned followed = 0; followed < CNAMES_MOST; followed++) {
        if (find(name, type)) {
            if (followed > 0)
                answer->canonical = arena_copy(arena, bytes_of_text(name));
            return gather(arena, name, type, answer);
        }
        const struct zone_record *alias = find(name, DNS_CNAME);
        if (!alias) {
            answer->nxdomain = !name_exists(name);
            answer->secure = zone.secure;
            return lookup_absent();
        }
        INVARIANT(plain_name(bytes_of_text(alias->value), name));
    }
    return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("too many aliases"));
}

static struct lookup time_out(const struct resolver *resolver)
{
    if (fiber_sleep_until(deadline_in(resolver->timeout_us)) != IO_OK)
        return lookup_failed(LOOKUP_REASON_CANCELLED, BYTES_EMPTY);
    return lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_LITERAL("no answer in time"));
}

struct lookup resolve_ask(struct resolver *resolver, struct arena *arena, struct bytes name,
                          enum dns_type type, struct dns_answer *answer)
{
    char text[NAME_ROOM];

    *answer = (struct dns_answer){0};
    sim_die_if_crashed();
    zone.questions++;
    trace_bytes("question", type, name);
    if (!plain_name(name, text)) {
        answer->nxdomain = true;
        return lookup_absent();
    }
    const enum sim_zone_fault fault = trouble_of(text);
    if (fault == SIM_ZONE_TIMEOUT)
        return time_out(resolver);
    if (fiber_sleep_until(deadline_in(chance_between(50, 30000))) != IO_OK)
        return lookup_failed(LOOKUP_REASON_CANCELLED, BYTES_EMPTY);
    switch (fault) {
    case SIM_ZONE_FINE:
    case SIM_ZONE_TIMEOUT:
        break;
    case SIM_ZONE_SERVFAIL:
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("SERVFAIL"));
    case SIM_ZONE_BOGUS:
        return lookup_failed(LOOKUP_REASON_BOGUS, BYTES_LITERAL("DNSSEC validation failed"));
    case SIM_ZONE_NXDOMAIN:
        answer->nxdomain = true;
        return lookup_absent();
    }
    return answer_from_zone(arena, text, type, answer);
}

/* The zone keeps no memory of answers, so nothing is stale and every question is asked. */
struct lookup resolve_ask_by(struct resolver *resolver, struct arena *arena,
                             const struct resolve_question *question, struct dns_answer *answer)
{
    return resolve_ask(resolver, arena, question->name, question->type, answer);
}

struct lookup resolve_recall(struct resolver *resolver UNUSED, struct arena *arena UNUSED,
                             struct bytes name UNUSED, enum dns_type type UNUSED,
                             struct dns_answer *answer)
{
    *answer = (struct dns_answer){0};
    return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_EMPTY);
}

uint64_t resolver_patience_end(const struct resolver *resolver)
{
    return deadline_in(2 * resolver->timeout_us);
}

struct resolver *resolver_open(const struct resolver_settings *settings, char *why, size_t why_room)
{
    struct resolver *resolver = sim_new(sizeof *resolver);

    if (why_room > 0)
        why[0] = '\0';
    resolver->timeout_us = settings->timeout_us ? settings->timeout_us : 5 * US_PER_S;
    return resolver;
}

void resolver_close(struct resolver *resolver)
{
    free(resolver);
}
