/*
 * The messages of direct questions, by ldns. What it unpacks is copied into the caller's arena as
 * text, so that no other file knows ldns.
 */
#include <ldns/ldns.h>
#include <string.h>

#include "resolve/codec.h"
#include "resolve/direct.h"

static void free_packet(ldns_pkt **packet)
{
    if (*packet)
        ldns_pkt_free(*packet);
}

/* ------------------------------------------------------------------ out */

static ldns_pkt *make_packet(const struct direct_question *question)
{
    char name[DNS_NAME_MAX + 2];

    if (!dns_name_text(question->name, name, sizeof name))
        return NULL;
    ldns_rdf *owner = ldns_dname_new_frm_str(name);
    if (!owner)
        return NULL;
    ldns_pkt *packet = ldns_pkt_query_new(owner, (ldns_rr_type)question->type, LDNS_RR_CLASS_IN,
                                          (uint16_t)(question->recursive ? LDNS_RD : 0));
    if (!packet)
        ldns_rdf_deep_free(owner);
    return packet;
}

bool direct_encode(const struct direct_question *question, uint16_t id, struct buffer *into)
{
    CLEANUP(free_packet) ldns_pkt *packet = make_packet(question);
    uint8_t *wire = NULL;
    size_t count = 0;

    if (!packet)
        return false;
    ldns_pkt_set_id(packet, id);
    ldns_pkt_set_cd(packet, question->unchecked);
    if (question->edns)
        ldns_pkt_set_edns_udp_size(packet, DIRECT_UDP_OCTETS);
    if (question->edns && question->dnssec)
        ldns_pkt_set_edns_do(packet, true);
    if (ldns_pkt2wire(&wire, packet, &count) != LDNS_STATUS_OK)
        return false;
    buffer_add(into, bytes_of(wire, count));
    free(wire);
    return !into->failed;
}

/* ------------------------------------------------------------------ in */

uint16_t direct_id(struct bytes message)
{
    struct reader reader = READER_OF(message);

    return reader_u16(&reader);
}

static struct bytes take_text(struct arena *arena, ldns_buffer *text, bool lower)
{
    const struct bytes seen = bytes_of(ldns_buffer_begin(text), ldns_buffer_position(text));
    char *copy = arena_text(arena, bytes_trim(seen));

    for (char *at = copy; lower && at && *at; at++)
        *at = (char)ascii_lower((uint8_t)*at);
    struct bytes view = bytes_of_text(copy);
    if (lower && view.count > 1 && view.at[view.count - 1] == '.')
        view.count--;
    return view;
}

static bool type_is_of_names(ldns_rr_type type)
{
    return type == LDNS_RR_TYPE_NS || type == LDNS_RR_TYPE_CNAME || type == LDNS_RR_TYPE_PTR ||
           type == LDNS_RR_TYPE_MX || type == LDNS_RR_TYPE_SOA || type == LDNS_RR_TYPE_DNAME;
}

static bool take_record(struct arena *arena, const ldns_rr *from, struct direct_record *record)
{
    ldns_buffer *text = ldns_buffer_new(512);
    bool whole = text != NULL;

    record->type = (uint16_t)ldns_rr_get_type(from);
    record->ttl_s = ldns_rr_ttl(from);
    whole = whole && ldns_rdf2buffer_str(text, ldns_rr_owner(from)) == LDNS_STATUS_OK;
    if (whole) {
        record->owner = take_text(arena, text, true);
        ldns_buffer_clear(text);
    }
    for (size_t i = 0; whole && i < ldns_rr_rd_count(from); i++)
        whole = (i == 0 || ldns_buffer_printf(text, " ") >= 0) &&
                ldns_rdf2buffer_str(text, ldns_rr_rdf(from, i)) == LDNS_STATUS_OK;
    if (whole)
        record->data = take_text(arena, text, type_is_of_names(ldns_rr_get_type(from)));
    if (text)
        ldns_buffer_free(text);
    return whole && !arena->failed;
}

static bool take_section(struct arena *arena, const ldns_rr_list *from,
                         struct direct_record **records, unsigned *count)
{
    const size_t there = MIN_OF(ldns_rr_list_rr_count(from), (size_t)DIRECT_RECORDS_MAX);

    *count = 0;
    *records = ARENA_NEW_ARRAY(arena, there + 1, struct direct_record);
    if (!*records)
        return false;
    for (size_t i = 0; i < there; i++)
        if (!take_record(arena, ldns_rr_list_rr(from, i), &(*records)[(*count)++]))
            return false;
    return true;
}

/* A server that understood nothing may leave the question out, with an error only. */
static bool answers_question(const ldns_pkt *packet, const struct direct_question *question)
{
    const ldns_rr_list *asked = ldns_pkt_question(packet);
    char name[DNS_NAME_MAX + 2];
    bool same = false;

    if (!ldns_pkt_qr(packet))
        return false;
    if (ldns_rr_list_rr_count(asked) == 0)
        return ldns_pkt_get_rcode(packet) != LDNS_RCODE_NOERROR;
    const ldns_rr *first = ldns_rr_list_rr(asked, 0);
    if (!dns_name_text(question->name, name, sizeof name))
        return false;
    ldns_rdf *wanted = ldns_dname_new_frm_str(name);
    if (wanted) {
        same = ldns_dname_compare(wanted, ldns_rr_owner(first)) == 0 &&
               ldns_rr_get_type(first) == (ldns_rr_type)question->type;
        ldns_rdf_deep_free(wanted);
    }
    return same;
}

bool direct_decode(struct arena *arena, const struct direct_question *question,
                   struct bytes message, struct direct_answer *answer)
{
    CLEANUP(free_packet) ldns_pkt *packet = NULL;

    if (message.count < 12 || message.count > DIRECT_MESSAGE_MAX ||
        ldns_wire2pkt(&packet, message.at, message.count) != LDNS_STATUS_OK || !packet)
        return false;
    if (!answers_question(packet, question))
        return false;
    answer->octets = message.count;
    if (question->dnssec)
        answer->message = arena_copy(arena, message);
    answer->rcode =
        (unsigned)ldns_pkt_get_rcode(packet) | (unsigned)ldns_pkt_edns_extended_rcode(packet) << 4;
    answer->authoritative = ldns_pkt_aa(packet);
    answer->truncated = ldns_pkt_tc(packet);
    answer->recursion_available = ldns_pkt_ra(packet);
    answer->authenticated = ldns_pkt_ad(packet);
    answer->edns = ldns_pkt_edns(packet);
    return take_section(arena, ldns_pkt_answer(packet), &answer->answers, &answer->answer_count) &&
           take_section(arena, ldns_pkt_authority(packet), &answer->authorities,
                        &answer->authority_count);
}

const char *direct_rcode_name(unsigned rcode)
{
    static const char *const names[] = {"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN",
                                        "NOTIMP",  "REFUSED", "YXDOMAIN", "YXRRSET",
                                        "NXRRSET", "NOTAUTH", "NOTZONE"};

    if (rcode < COUNT_OF(names))
        return names[rcode];
    return rcode == 16 ? "BADVERS" : "an unknown RCODE";
}
