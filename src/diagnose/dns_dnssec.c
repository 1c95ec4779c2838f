/*
 * The DNSSEC chain (RFC 4033 to 4035), zone by zone from the top: does the parent have a DS record,
 * does it name a key that the zone has, and how long do the signatures hold? A resolver is asked
 * for the records with validation switched off, so that a broken zone can be looked into; its own
 * word on the whole is asked first.
 */
#include <string.h>
#include <time.h>

#include "diagnose/dns_inside.h"

enum {
    RCODE_SERVFAIL = 2,
    TYPE_SOA = 6,
    TYPE_DS = 43,
    TYPE_RRSIG = 46,
    TYPE_DNSKEY = 48,
    DIGEST_TYPE_SHA1 = 1,
    DIGEST_TYPE_SHA256 = 2,
    LABELS_MAX = 32,
    KEY_WIRE_MAX = 4096,
    SOON_DAYS = 3,
};

static struct direct_question question_of(const struct dns_check *check, struct bytes name,
                                          unsigned type, bool unchecked)
{
    return (struct direct_question){.server = *check->request->validator,
                                    .name = name,
                                    .type = (uint16_t)type,
                                    .edns = true,
                                    .dnssec = true,
                                    .recursive = true,
                                    .unchecked = unchecked,
                                    .timeout_us = 5 * US_PER_S};
}

/* Over TCP when it does not fit UDP, as key sets often do not. */
static bool ask(const struct dns_check *check, struct bytes name, unsigned type, bool unchecked,
                struct direct_answer *answer)
{
    struct direct_question question = question_of(check, name, type, unchecked);

    *answer = (struct direct_answer){0};
    if (clock_now_us() >= check->request->deadline_us)
        return false;
    resolve_direct(check->arena, &question, answer);
    if (answer->outcome == DIRECT_ANSWERED && answer->truncated) {
        question.tcp = true;
        resolve_direct(check->arena, &question, answer);
    }
    return answer->outcome == DIRECT_ANSWERED;
}

bool dns_check_is_validated(struct dns_check *check, struct bytes name, enum dns_type type)
{
    struct direct_answer answer;

    return check->request->validator && ask(check, name, type, false, &answer) &&
           answer.authenticated;
}

/* ------------------------------------------------------------------ the resolver's word */

static bool resolver_speaks(struct dns_check *check)
{
    struct direct_answer answer, unchecked;
    char server[ENDPOINT_TEXT_MAX];

    if (!ask(check, check->request->domain, TYPE_SOA, false, &answer))
        return false; /* the other look-ups say so */
    enum dns_finding finding =
        answer.authenticated ? FINDING_DNSSEC_SECURE : FINDING_DNSSEC_INSECURE;
    if (answer.rcode == RCODE_SERVFAIL) {
        if (!ask(check, check->request->domain, TYPE_SOA, true, &unchecked) ||
            unchecked.rcode == RCODE_SERVFAIL)
            return false;
        finding = FINDING_DNSSEC_BOGUS;
    }
    endpoint_print(check->request->validator, server, sizeof server);
    dns_find(&check->findings, finding, check->request->domain, bytes_of_text(server));
    return true;
}

/* ------------------------------------------------------------------ records as text */

/* The numbers at the front of a record's text. */
static bool take_number(struct bytes *text, uint64_t *number)
{
    struct bytes word = BYTES_EMPTY;

    *text = bytes_trim(bytes_cut(bytes_trim(*text), ' ', &word));
    return bytes_to_u64(word, number);
}

struct ds {
    uint64_t tag, algorithm, digest_type;
    struct bytes digest; /* hexadecimal */
};

static bool read_ds(struct bytes text, struct ds *ds)
{
    if (!take_number(&text, &ds->tag) || !take_number(&text, &ds->algorithm) ||
        !take_number(&text, &ds->digest_type))
        return false;
    ds->digest = text;
    return text.count > 0;
}

struct key {
    uint8_t wire[KEY_WIRE_MAX];
    size_t count;
    unsigned tag, algorithm;
};

/* RFC 4034 appendix B. */
static unsigned key_tag(const uint8_t *at, size_t count)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += i & 1 ? at[i] : (uint32_t)at[i] << 8;
    return (sum + (sum >> 16 & 0xffff)) & 0xffff;
}

static bool read_key(struct arena *arena, struct bytes text, struct key *key)
{
    uint64_t flags = 0, protocol = 0, algorithm = 0;
    struct bytes octets = BYTES_EMPTY;

    if (!take_number(&text, &flags) || !take_number(&text, &protocol) ||
        !take_number(&text, &algorithm) ||
        !base64_decode(arena, bytes_slice(text, 0, bytes_find_byte(text, ';')), &octets) ||
        octets.count + 4 > sizeof key->wire)
        return false;
    key->wire[0] = (uint8_t)(flags >> 8);
    key->wire[1] = (uint8_t)flags;
    key->wire[2] = (uint8_t)protocol;
    key->wire[3] = (uint8_t)algorithm;
    if (octets.count > 0)
        memcpy(key->wire + 4, octets.at, octets.count);
    key->count = 4 + octets.count;
    key->algorithm = (unsigned)algorithm;
    key->tag = key_tag(key->wire, key->count);
    return true;
}

static void hash_owner(struct digest *digest, struct bytes zone)
{
    while (zone.count > 0) {
        struct bytes label = BYTES_EMPTY;
        zone = bytes_cut(zone, '.', &label);
        const uint8_t length = (uint8_t)label.count;
        digest_add(digest, bytes_of(&length, 1));
        digest_add(digest, label);
    }
    digest_add(digest, bytes_of("", 1));
}

/* RFC 4034 5.1.4. A digest that we do not know is taken for right: tag and algorithm agree. */
static bool ds_names_key(struct bytes zone, const struct ds *ds, const struct key *key)
{
    uint8_t value[DIGEST_MAX];
    char hex[2 * DIGEST_MAX + 1];

    if (ds->tag != key->tag || ds->algorithm != key->algorithm)
        return false;
    if (ds->digest_type != DIGEST_TYPE_SHA1 && ds->digest_type != DIGEST_TYPE_SHA256)
        return true;
    struct digest *digest =
        digest_open(ds->digest_type == DIGEST_TYPE_SHA1 ? DIGEST_SHA1 : DIGEST_SHA256);
    if (!digest)
        return false;
    hash_owner(digest, zone);
    digest_add(digest, bytes_of(key->wire, key->count));
    const size_t count = digest_finish(digest, (struct span){value, sizeof value});
    digest_close(&digest);
    for (size_t i = 0; i < count; i++)
        snprintf(hex + 2 * i, 3, "%02x", value[i]);
    return count > 0 && bytes_equal_nocase(ds->digest, bytes_of_text(hex));
}

/* ------------------------------------------------------------------ one zone */

static unsigned count_of(const struct direct_answer *answer, unsigned type)
{
    unsigned count = 0;

    for (unsigned i = 0; i < answer->answer_count; i++)
        count += answer->answers[i].type == type;
    return count;
}

bool dnssec_ds_names_key(struct arena *arena, struct bytes zone, struct bytes ds_text,
                         struct bytes key_text)
{
    static _Thread_local struct key key; /* more than a fiber's stack should hold */
    struct ds ds = {0};

    return read_ds(ds_text, &ds) && read_key(arena, key_text, &key) &&
           ds_names_key(zone, &ds, &key);
}

static bool any_matches(struct dns_check *check, struct bytes zone, const struct direct_answer *all,
                        const struct direct_answer *keys)
{
    for (unsigned i = 0; i < all->answer_count; i++)
        for (unsigned j = 0; all->answers[i].type == TYPE_DS && j < keys->answer_count; j++)
            if (keys->answers[j].type == TYPE_DNSKEY &&
                dnssec_ds_names_key(check->arena, zone, all->answers[i].data,
                                    keys->answers[j].data))
                return true;
    return false;
}

/* "SOA 13 2 3600 20261231235959 20261201000000 1234 zone. signature": when it ends. */
int64_t dnssec_signature_end(struct bytes text)
{
    struct bytes word = BYTES_EMPTY;
    struct tm parts = {0};
    uint64_t number = 0;

    for (unsigned i = 0; i < 5; i++)
        text = bytes_trim(bytes_cut(bytes_trim(text), ' ', &word));
    if (!bytes_to_u64(word, &number))
        return 0;
    if (word.count != 14)
        return (int64_t)number;
    parts.tm_sec = (int)(number % 100);
    parts.tm_min = (int)(number / 100 % 100);
    parts.tm_hour = (int)(number / 10000 % 100);
    parts.tm_mday = (int)(number / 1000000 % 100);
    parts.tm_mon = (int)(number / 100000000 % 100) - 1;
    parts.tm_year = (int)(number / 10000000000) - 1900;
    return (int64_t)timegm(&parts);
}

/* The signature that ends last; 0: there is none. */
static int64_t signed_until(const struct direct_answer *answer)
{
    int64_t latest = 0;

    for (unsigned i = 0; i < answer->answer_count; i++)
        if (answer->answers[i].type == TYPE_RRSIG) {
            const int64_t until = dnssec_signature_end(answer->answers[i].data);
            latest = MAX_OF(latest, until);
        }
    return latest;
}

static void judge_signature(struct dns_check *check, struct bytes zone, int64_t until_s)
{
    const int64_t left_s = until_s - clock_wall_us() / 1000000;
    char text[TIME_TEXT_MAX];

    if (until_s == 0)
        dns_find(&check->findings, FINDING_DNSSEC_UNSIGNED, zone, zone);
    else if (left_s < 0)
        dns_find(&check->findings, FINDING_DNSSEC_EXPIRED, zone,
                 bytes_of_text(time_print_rfc3339(until_s * 1000000, text, sizeof text)));
    else if (left_s < SOON_DAYS * 86400)
        dns_find(&check->findings, FINDING_DNSSEC_ENDS_SOON, zone,
                 bytes_of_text(time_print_rfc3339(until_s * 1000000, text, sizeof text)));
}

/* One zone of the chain; false: what is below cannot be secure by it. */
static bool judge_zone(struct dns_check *check, struct bytes zone, const struct direct_answer *soa,
                       json_t *chain)
{
    struct direct_answer ds, keys;

    if (!ask(check, zone, TYPE_DS, true, &ds) || !ask(check, zone, TYPE_DNSKEY, true, &keys))
        return false;
    const unsigned ds_count = count_of(&ds, TYPE_DS), key_count = count_of(&keys, TYPE_DNSKEY);
    const bool linked = ds_count > 0 && any_matches(check, zone, &ds, &keys);
    const int64_t until_s = signed_until(soa);

    json_array_append_new(chain, json_pack("{s:o, s:i, s:i, s:b, s:I}", "zone", diagnose_text(zone),
                                           "ds", (int)ds_count, "keys", (int)key_count, "linked",
                                           linked, "signed_until", (json_int_t)until_s));
    if (ds_count == 0) {
        dns_find(&check->findings, key_count > 0 ? FINDING_DNSSEC_NO_DS : FINDING_DNSSEC_ENDS, zone,
                 zone);
        return false;
    }
    if (key_count == 0)
        dns_find(&check->findings, FINDING_DNSSEC_NO_KEYS, zone, zone);
    else if (!linked)
        dns_find(&check->findings, FINDING_DNSSEC_DS_STRANGE, zone, zone);
    judge_signature(check, zone, until_s);
    return linked;
}

/* The zones on the way down to the domain: names with an SOA of their own. */
static void walk(struct dns_check *check, json_t *chain)
{
    const struct bytes domain = check->request->domain;
    size_t starts[LABELS_MAX] = {0};
    unsigned count = 0;

    for (size_t i = 0; i < domain.count && count < LABELS_MAX; i++)
        if (i == 0 || domain.at[i - 1] == '.')
            starts[count++] = i;
    while (count-- > 0) {
        const struct bytes zone = bytes_skip(domain, starts[count]);
        struct direct_answer soa;
        if (!ask(check, zone, TYPE_SOA, true, &soa))
            return;
        if (count_of(&soa, TYPE_SOA) > 0 && bytes_equal_nocase(soa.answers[0].owner, zone) &&
            !judge_zone(check, zone, &soa, chain))
            return;
    }
}

void dns_check_dnssec(struct dns_check *check)
{
    json_t *chain = json_array();

    json_object_set_new(check->answer, "dnssec", json_pack("{s:o}", "chain", chain));
    if (check->request->validator && resolver_speaks(check))
        walk(check, chain);
}
