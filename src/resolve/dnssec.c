/*
 * dnssec: one link of the chain of trust looked into, as a validator would compute it (RFC 4034,
 * 4035, 5155), but with the fault named. ldns does the arithmetic.
 *
 * Owns: nothing. Sleeps: never; it computes at most some dozens of signatures. Never: decides
 * whether mail is secure. That is the validating resolver's word (unbound.c).
 */
#include <ldns/ldns.h>

#include "resolve/codec.h"
#include "resolve/resolve.h"

enum {
    SIGNATURES_MAX = 16,       /* of one set; more are passed over */
    DENIALS_MAX = 16,          /* NSEC and NSEC3 records of one answer */
    HASH_ITERATIONS_MAX = 500, /* RFC 9276 wants 0; a foreign server must not make us compute */
    KEY_OF_ZONE = 0x0100,
    KEY_REVOKED = 0x0080,
};

static void free_packet(ldns_pkt **packet)
{
    if (*packet)
        ldns_pkt_free(*packet);
}

/* Of records that belong to a packet. */
static void free_view(ldns_rr_list **records)
{
    if (*records)
        ldns_rr_list_free(*records);
}

static void free_name(ldns_rdf **name)
{
    if (*name)
        ldns_rdf_deep_free(*name);
}

static ldns_pkt *packet_of(const struct direct_answer *answer)
{
    ldns_pkt *packet = NULL;

    if (!answer || answer->message.count == 0 ||
        ldns_wire2pkt(&packet, answer->message.at, answer->message.count) != LDNS_STATUS_OK)
        return NULL;
    return packet;
}

static ldns_rdf *name_of(struct bytes name)
{
    char text[DNS_NAME_MAX + 2];

    return dns_name_text(name, text, sizeof text) ? ldns_dname_new_frm_str(text) : NULL;
}

/* ------------------------------------------------------------------ keys */

static bool algorithm_is_known(unsigned algorithm)
{
    return algorithm == LDNS_RSASHA1 || algorithm == LDNS_RSASHA1_NSEC3 ||
           algorithm == LDNS_RSASHA256 || algorithm == LDNS_RSASHA512 ||
           algorithm == LDNS_ECDSAP256SHA256 || algorithm == LDNS_ECDSAP384SHA384 ||
           algorithm == LDNS_ED25519 || algorithm == LDNS_ED448;
}

/* False: a validator passes over this DS record (RFC 4035 5.2). */
static bool ds_is_known(const ldns_rr *ds)
{
    if (ldns_rr_get_type(ds) != LDNS_RR_TYPE_DS || ldns_rr_rd_count(ds) < 4)
        return false;
    const unsigned digest = ldns_rdf2native_int8(ldns_rr_rdf(ds, 2));

    return algorithm_is_known(ldns_rdf2native_int8(ldns_rr_rdf(ds, 1))) &&
           (digest == LDNS_SHA1 || digest == LDNS_SHA256 || digest == LDNS_SHA384);
}

static bool key_signs_zones(const ldns_rr *key)
{
    if (ldns_rr_get_type(key) != LDNS_RR_TYPE_DNSKEY || ldns_rr_rd_count(key) < 4)
        return false;
    const unsigned flags = ldns_rdf2native_int16(ldns_rr_dnskey_flags(key));

    return (flags & KEY_OF_ZONE) && !(flags & KEY_REVOKED);
}

static bool is_named(const ldns_rr_list *all, const ldns_rr *key)
{
    for (size_t i = 0; i < ldns_rr_list_rr_count(all); i++)
        if (ds_is_known(ldns_rr_list_rr(all, i)) &&
            ldns_rr_compare_ds(ldns_rr_list_rr(all, i), key))
            return true;
    return false;
}

/* The zone keys of a packet; with `ds`, those alone that one of its records names. */
static ldns_rr_list *keys_of(const ldns_pkt *packet, const ldns_pkt *ds)
{
    ldns_rr_list *keys = ldns_rr_list_new();
    const ldns_rr_list *all = ldns_pkt_answer(packet);

    for (size_t i = 0; keys && i < ldns_rr_list_rr_count(all); i++) {
        ldns_rr *key = ldns_rr_list_rr(all, i);
        if (key_signs_zones(key) && (!ds || is_named(ldns_pkt_answer(ds), key)))
            ldns_rr_list_push_rr(keys, key);
    }
    return keys;
}

enum dnssec_link dnssec_link_of(const struct direct_answer *ds, const struct direct_answer *keys)
{
    CLEANUP(free_packet) ldns_pkt *ds_packet = packet_of(ds);
    CLEANUP(free_packet) ldns_pkt *key_packet = packet_of(keys);
    CLEANUP(free_view) ldns_rr_list *named = NULL;
    size_t there = 0, known = 0;

    if (!ds_packet || !key_packet)
        return DNSSEC_LINK_ABSENT;
    const ldns_rr_list *all = ldns_pkt_answer(ds_packet);
    for (size_t i = 0; i < ldns_rr_list_rr_count(all); i++) {
        if (ldns_rr_get_type(ldns_rr_list_rr(all, i)) == LDNS_RR_TYPE_DS)
            there++;
        if (ds_is_known(ldns_rr_list_rr(all, i)))
            known++;
    }
    if (known == 0)
        return there > 0 ? DNSSEC_LINK_UNKNOWN : DNSSEC_LINK_ABSENT;
    named = keys_of(key_packet, ds_packet);
    return named && ldns_rr_list_rr_count(named) > 0 ? DNSSEC_LINK_NAMED : DNSSEC_LINK_STRANGE;
}

unsigned dnssec_key_tags(const struct direct_answer *keys, uint16_t *tags, unsigned room)
{
    CLEANUP(free_packet) ldns_pkt *packet = packet_of(keys);
    CLEANUP(free_view) ldns_rr_list *all = packet ? keys_of(packet, NULL) : NULL;
    unsigned count = 0;

    for (size_t i = 0; all && i < ldns_rr_list_rr_count(all) && count < room; i++)
        tags[count++] = ldns_calc_keytag(ldns_rr_list_rr(all, i));
    return count;
}

const char *dnssec_algorithm_name(unsigned algorithm)
{
    const ldns_lookup_table *row = ldns_lookup_by_id(ldns_algorithms, (int)algorithm);

    return row ? row->name : "an unknown algorithm";
}

/* ------------------------------------------------------------------ a set and its signatures */

static enum dnssec_state state_of(ldns_status status)
{
    if (status == LDNS_STATUS_OK)
        return DNSSEC_RIGHT;
    if (status == LDNS_STATUS_CRYPTO_SIG_EXPIRED)
        return DNSSEC_EXPIRED;
    if (status == LDNS_STATUS_CRYPTO_SIG_NOT_INCEPTED)
        return DNSSEC_EARLY;
    if (status == LDNS_STATUS_CRYPTO_NO_MATCHING_KEYTAG_DNSKEY)
        return DNSSEC_KEY_MISSING;
    return DNSSEC_WRONG;
}

/* RRSIG times count 32 bits and go round (RFC 4034 3.1.5): the one nearest to now. */
static int64_t time_near(uint32_t stamp, int64_t now_s)
{
    return now_s + (int32_t)(stamp - (uint32_t)now_s);
}

struct examination {
    const ldns_rr_list *keys;
    const ldns_rdf *zone;
    int64_t now_s;
};

/* Judges one signature; the better one of the two stays in *look. */
static void examine(const struct examination *by, const ldns_rr_list *set, const ldns_rr *signature,
                    struct dnssec_look *look)
{
    struct dnssec_look now = {
        .key_tag = ldns_rdf2native_int16(ldns_rr_rrsig_keytag(signature)),
        .algorithm = ldns_rdf2native_int8(ldns_rr_rrsig_algorithm(signature)),
        .from_s = time_near(ldns_rdf2native_int32(ldns_rr_rrsig_inception(signature)), by->now_s),
        .until_s = time_near(ldns_rdf2native_int32(ldns_rr_rrsig_expiration(signature)), by->now_s),
    };
    CLEANUP(free_view) ldns_rr_list *good = ldns_rr_list_new();

    if (!good)
        return;
    if (!algorithm_is_known(now.algorithm))
        now.state = DNSSEC_ALGORITHM;
    else
        now.state = state_of(
            ldns_verify_rrsig_keylist_time(set, signature, by->keys, (time_t)by->now_s, good));
    if (now.state > look->state || (now.state == look->state && now.until_s > look->until_s))
        *look = now;
}

static bool signs(const struct examination *by, const ldns_rr *signature, const ldns_rdf *owner,
                  ldns_rr_type type)
{
    return ldns_rr_get_type(signature) == LDNS_RR_TYPE_RRSIG && ldns_rr_rd_count(signature) >= 9 &&
           ldns_rdf2rr_type(ldns_rr_rrsig_typecovered(signature)) == type &&
           ldns_dname_compare(ldns_rr_owner(signature), owner) == 0 &&
           ldns_dname_compare(ldns_rr_rrsig_signame(signature), by->zone) == 0;
}

/* The set of this owner and type in a section, by its signatures there. */
static void examine_set(const struct examination *by, const ldns_rr_list *section,
                        const ldns_rdf *owner, ldns_rr_type type, struct dnssec_look *look)
{
    CLEANUP(free_view) ldns_rr_list *set = ldns_rr_list_new();
    unsigned judged = 0;

    *look = (struct dnssec_look){.state = DNSSEC_UNSIGNED};
    for (size_t i = 0; set && i < ldns_rr_list_rr_count(section); i++) {
        ldns_rr *record = ldns_rr_list_rr(section, i);
        if (ldns_rr_get_type(record) == type &&
            ldns_dname_compare(ldns_rr_owner(record), owner) == 0)
            ldns_rr_list_push_rr(set, record);
    }
    for (size_t i = 0; set && i < ldns_rr_list_rr_count(section); i++) {
        const ldns_rr *record = ldns_rr_list_rr(section, i);
        if (judged < SIGNATURES_MAX && signs(by, record, owner, type)) {
            examine(by, set, record, look);
            judged++;
        }
    }
}

/* ------------------------------------------------------------------ proofs of absence */

static bool denies(const ldns_rr *record)
{
    return ldns_rr_get_type(record) == LDNS_RR_TYPE_NSEC ||
           (ldns_rr_get_type(record) == LDNS_RR_TYPE_NSEC3 && ldns_rr_rd_count(record) >= 6 &&
            ldns_nsec3_iterations(record) <= HASH_ITERATIONS_MAX);
}

/* NSEC and NSEC3 records that stand on the keys; the worst state of the others goes into *look. */
static ldns_rr_list *denials_of(const struct examination *by, const ldns_rr_list *section,
                                struct dnssec_look *look)
{
    ldns_rr_list *right = ldns_rr_list_new();
    struct dnssec_look one;

    for (size_t i = 0, seen = 0; right && i < ldns_rr_list_rr_count(section) && seen < DENIALS_MAX;
         i++) {
        ldns_rr *record = ldns_rr_list_rr(section, i);
        if (!denies(record))
            continue;
        seen++;
        examine_set(by, section, ldns_rr_owner(record), ldns_rr_get_type(record), &one);
        if (one.state == DNSSEC_RIGHT)
            ldns_rr_list_push_rr(right, record);
        else if (look->state == DNSSEC_ABSENT)
            *look = one;
    }
    return right;
}

static bool is_denied(const ldns_pkt *packet, ldns_rr_list *denials, const ldns_rdf *name,
                      ldns_rr_type type)
{
    CLEANUP(free_view) ldns_rr_list *signatures = ldns_rr_list_new();
    ldns_rr *wanted = ldns_rr_new();
    ldns_status status = LDNS_STATUS_ERR;
    const ldns_rr_list *section = ldns_pkt_authority(packet);

    for (size_t i = 0; signatures && i < ldns_rr_list_rr_count(section); i++)
        if (ldns_rr_get_type(ldns_rr_list_rr(section, i)) == LDNS_RR_TYPE_RRSIG)
            ldns_rr_list_push_rr(signatures, ldns_rr_list_rr(section, i));
    if (wanted && signatures && ldns_rr_list_rr_count(denials) > 0) {
        ldns_rr_set_owner(wanted, ldns_rdf_clone(name));
        ldns_rr_set_type(wanted, type);
        status = ldns_rr_get_type(ldns_rr_list_rr(denials, 0)) == LDNS_RR_TYPE_NSEC3
                     ? ldns_dnssec_verify_denial_nsec3(
                           wanted, denials, signatures, ldns_pkt_get_rcode(packet), type,
                           ldns_pkt_get_rcode(packet) == LDNS_RCODE_NOERROR)
                     : ldns_dnssec_verify_denial(wanted, denials, signatures);
    }
    if (wanted)
        ldns_rr_free(wanted);
    return status == LDNS_STATUS_OK;
}

/* ------------------------------------------------------------------ from outside */

static bool is_there(const ldns_pkt *packet, const ldns_rdf *name, ldns_rr_type type)
{
    const ldns_rr_list *section = ldns_pkt_answer(packet);

    for (size_t i = 0; i < ldns_rr_list_rr_count(section); i++)
        if (ldns_rr_get_type(ldns_rr_list_rr(section, i)) == type &&
            ldns_dname_compare(ldns_rr_owner(ldns_rr_list_rr(section, i)), name) == 0)
            return true;
    return false;
}

void dnssec_look_at(const struct dnssec_question *question, struct dnssec_look *look)
{
    CLEANUP(free_packet) ldns_pkt *packet = packet_of(question->answer);
    CLEANUP(free_packet) ldns_pkt *key_packet = packet_of(question->keys);
    CLEANUP(free_packet) ldns_pkt *ds_packet = packet_of(question->ds);
    CLEANUP(free_name) ldns_rdf *zone = name_of(question->zone);
    CLEANUP(free_name) ldns_rdf *name = name_of(question->name);
    CLEANUP(free_view) ldns_rr_list *keys = key_packet ? keys_of(key_packet, ds_packet) : NULL;
    CLEANUP(free_view) ldns_rr_list *denials = NULL;
    const struct examination by = {.keys = keys, .zone = zone, .now_s = question->now_s};
    const ldns_rr_type type = (ldns_rr_type)question->type;

    *look = (struct dnssec_look){0};
    if (!packet || !zone || !name || !keys || (question->ds && !ds_packet))
        return;
    if (is_there(packet, name, type)) {
        examine_set(&by, ldns_pkt_answer(packet), name, type, look);
        return;
    }
    if (ldns_rr_list_rr_count(ldns_pkt_answer(packet)) > 0)
        return; /* an alias leads elsewhere */
    look->state = DNSSEC_ABSENT;
    denials = denials_of(&by, ldns_pkt_authority(packet), look);
    if (denials && is_denied(packet, denials, name, type))
        *look = (struct dnssec_look){.state = DNSSEC_RIGHT, .denied = true};
    else
        look->denied = true;
}
