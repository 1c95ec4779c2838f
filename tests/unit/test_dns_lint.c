/*
 * What `dns check` and direct questions read: SPF term by term with the place of each fault, key records, and DNS messages
 * cut at every octet.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ldns/ldns.h>
#include <string.h>

#include "auth/auth.h"
#include "diagnose/dns_inside.h"
#include "resolve/direct.h"

static struct arena arena = ARENA_WITH_LIMIT(16 * MIB);

static int clear(void **state)
{
    (void)state;
    arena_clear(&arena);
    return 0;
}

/* ------------------------------------------------------------------ SPF */

static void test_spf_terms(void **state)
{
    struct spf_term_facts *terms = NULL;
    unsigned count = 0;
    (void)state;

    assert_true(spf_lint(&arena, BYTES_LITERAL("v=spf1  a:x.example/24 ~include:y.example ip6:2001:db8::/32 exists:%{i}.z.example x=y -all"),
                         &terms, &count));
    assert_int_equal(count, 6);
    assert_int_equal(terms[0].kind, SPF_TERM_A);
    assert_int_equal(terms[0].offset, 8);
    assert_true(bytes_equal_text(terms[0].domain, "x.example"));
    assert_int_equal(terms[1].kind, SPF_TERM_INCLUDE);
    assert_int_equal(terms[1].qualified, AUTH_SOFTFAIL);
    assert_int_equal(terms[2].kind, SPF_TERM_IP6);
    assert_int_equal(terms[2].prefix_bits, 32);
    assert_int_equal(terms[3].kind, SPF_TERM_EXISTS);
    assert_true(terms[3].has_macro);
    assert_int_equal(terms[4].kind, SPF_TERM_OTHER);
    assert_int_equal(terms[5].kind, SPF_TERM_ALL);
    assert_int_equal(terms[5].qualified, AUTH_FAIL);
}

static void test_spf_faults(void **state)
{
    static const struct {
        const char *record;
        size_t at; /* where the caret belongs */
    } cases[] = {
        {"v=spf1 foo:bar -all", 7},           {"v=spf1 -foo -all", 8},       {"v=spf1 ip4:1.2.3.400 -all", 11},
        {"v=spf1 a ip6:1.2.3.4 -all", 13},    {"v=spf1 include -all", 14},   {"v=spf1 include: -all", 15},
        {"v=spf1 exists:%{?}.x.example", 14}, {"v=spf1 a:x%y.example", 10},  {"v=spf1 a:x.example/33 -all", 9},
        {"v=spf1 all:x", 11},                 {"v=spf1 redirect=", 16},
        {"v=spf1 redirect=a.example redirect=b.example", 26},
    };
    struct spf_term_facts *terms = NULL;
    unsigned count = 0, broken;
    (void)state;

    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        broken = 0;
        assert_true(spf_lint(&arena, bytes_of_text(cases[i].record), &terms, &count));
        for (unsigned j = 0; j < count; j++) {
            if (terms[j].kind != SPF_TERM_BROKEN)
                continue;
            broken++;
            assert_true(terms[j].problem.count > 0);
            if (terms[j].fault_offset != cases[i].at)
                fail_msg("%s: caret at %zu, expected %zu", cases[i].record, terms[j].fault_offset, cases[i].at);
        }
        assert_int_equal(broken, 1);
    }
}

/* Every beginning of a record, and a NUL within, is read to the end and stays within the text. */
static void test_spf_truncated(void **state)
{
    static const char record[] = "v=spf1 a:%{ir}.%{v}.x.example//64 include:y.example ip4:192.0.2.0/24 redirect=%{d}.z.example\0q -all";
    (void)state;

    for (size_t length = 0; length < sizeof record; length++) {
        struct spf_term_facts *terms = NULL;
        unsigned count = 0;
        assert_true(spf_lint(&arena, bytes_of(record, length), &terms, &count));
        for (unsigned i = 0; i < count; i++) {
            assert_true(terms[i].offset + terms[i].text.count <= length);
            assert_true(terms[i].kind != SPF_TERM_BROKEN || terms[i].fault_offset <= length);
        }
        arena_clear(&arena);
    }
}

/* ------------------------------------------------------------------ keys */

static void test_keys(void **state)
{
    static const char good[] = "v=DKIM1; k=ed25519; t=y; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    struct dkim_key_facts facts;
    (void)state;

    assert_null(dkim_key_lint(&arena, BYTES_LITERAL(good), &facts));
    assert_int_equal(facts.kind, KEY_ED25519);
    assert_true(facts.testing && !facts.revoked);
    assert_non_null(dkim_key_lint(&arena, BYTES_LITERAL("v=DKIM1; p="), &facts));
    assert_true(facts.revoked);
    assert_non_null(dkim_key_lint(&arena, BYTES_LITERAL("v=DKIM1; p=!!"), &facts));
    assert_non_null(dkim_key_lint(&arena, BYTES_LITERAL("v=DKIM1; p=AAAA"), &facts));
    assert_false(facts.revoked);
    for (size_t length = 0; length < sizeof good - 1; length++)
        if (dkim_key_lint(&arena, bytes_of(good, length), &facts) == NULL)
            assert_int_not_equal(facts.bits, 0);
}

/* ------------------------------------------------------------------ messages */

static const struct direct_question QUESTION = {
    .name = {(const uint8_t *)"Mail.Example", 12}, .type = DNS_MX, .edns = true, .dnssec = true, .recursive = true};

static void test_question(void **state)
{
    CLEANUP(buffer_free) struct buffer packed = BUFFER_WITH_LIMIT(4096);
    struct direct_answer answer;
    (void)state;

    assert_true(direct_encode(&QUESTION, 0x1234, &packed));
    const struct bytes message = buffer_view(&packed);
    assert_int_equal(direct_id(message), 0x1234);
    assert_int_equal(message.at[2], 0x01); /* RD, nothing else */
    assert_int_equal(message.at[11], 1);   /* OPT */
    assert_false(direct_decode(&arena, &QUESTION, message, &answer)); /* a question is no answer */
    const struct direct_question bad = {.name = BYTES_LITERAL("a..b")};
    assert_false(direct_encode(&bad, 1, &packed));
}

static const uint8_t ANSWER[] = "\x12\x34\x84\x00\x00\x01\x00\x02\x00\x00\x00\x00"
                                "\x04mail\x07"
                                "example\x00\x00\x0f\x00\x01"
                                "\xc0\x0c\x00\x0f\x00\x01\x00\x00\x02\x58\x00\x07\x00\x0a\x02MX\xc0\x0c"
                                "\xc0\x0c\x00\x0f\x00\x01\x00\x00\x02\x58\x00\x04\x00\x14\xc0\x11";

static void test_answer(void **state)
{
    const struct bytes message = bytes_of(ANSWER, sizeof ANSWER - 1);
    struct direct_answer answer = {0};
    (void)state;

    assert_true(direct_decode(&arena, &QUESTION, message, &answer));
    assert_true(answer.authoritative && !answer.truncated && !answer.edns);
    assert_int_equal(answer.answer_count, 2);
    assert_int_equal(answer.answers[0].ttl_s, 600);
    assert_true(bytes_equal_text(answer.answers[0].owner, "mail.example"));
    assert_true(bytes_equal_text(answer.answers[0].data, "10 mx.mail.example"));
    assert_true(bytes_equal_text(answer.answers[1].data, "20 example"));
    const struct direct_question other = {.name = BYTES_LITERAL("other.example"), .type = DNS_MX};
    assert_false(direct_decode(&arena, &other, message, &answer)); /* not asked */
}

static void test_answer_truncated(void **state)
{
    struct direct_answer answer;
    (void)state;

    for (size_t length = 0; length < sizeof ANSWER - 1; length++) {
        answer = (struct direct_answer){0};
        assert_false(direct_decode(&arena, &QUESTION, bytes_of(ANSWER, length), &answer));
    }
}

/* ------------------------------------------------------------------ DNSSEC */

/* The example of RFC 6605 6.1. */
#define ZONE_KEY                                                                                                                     \
    "example.net. 3600 IN DNSKEY 257 3 13 GojIhhXUN/u4v54ZQqGSnyhWJwaubCvTmeexv7bR6edbkrSqQpF64cYbcB7wNcP+e+MAnLr+Wi9xMWyQLc8NAA=="
#define ZONE_DS "example.net. 3600 IN DS 55648 13 2 b4c8c1fe2e7477127b27115656ad6256f424625bf5c1e2770ce6d6e37df61d17"
#define ZONE_SET "www.example.net. 3600 IN A 192.0.2.1"
#define ZONE_SIGNATURE                                                                                                               \
    "www.example.net. 3600 IN RRSIG A 13 3 3600 20100909100439 20100812100439 55648 example.net. "                                    \
    "qx6wLYqmh+l9oCKTN6qIc+bw6ya+KJ8oMz0YP107epXAyGmt+3SNruPFKG7tZoLBLlUzGGus7ZwmwWep666VCw=="
/* RFC 5702 6.1: another zone's key. */
#define OTHER_KEY                                                                                                                    \
    "example.net. 3600 IN DNSKEY 256 3 8 AwEAAcFcGsaxxdgiuuGmCkVImy4h99CqT7jwY3pexPGcnUFtR2Fh36BponcwtkZ4cAgtvd4Qs8PkxUdp6p/DlUmObdk="
enum { SIGNED_FROM = 1281607479, SIGNED_UNTIL = 1284026679 };

/* A message with these records in its answer. */
static struct direct_answer message_of(const char *const *rows, unsigned count)
{
    ldns_pkt *packet = ldns_pkt_new();
    uint8_t *wire = NULL;
    size_t octets = 0;

    ldns_pkt_set_qr(packet, true);
    for (unsigned i = 0; i < count; i++) {
        ldns_rr *record = NULL;
        assert_int_equal(ldns_rr_new_frm_str(&record, rows[i], 0, NULL, NULL), LDNS_STATUS_OK);
        ldns_pkt_push_rr(packet, LDNS_SECTION_ANSWER, record);
    }
    assert_int_equal(ldns_pkt2wire(&wire, packet, &octets), LDNS_STATUS_OK);
    const struct direct_answer answer = {.message = arena_copy(&arena, bytes_of(wire, octets))};
    free(wire);
    ldns_pkt_free(packet);
    return answer;
}
#define MESSAGE(...)                                                                                                                 \
    message_of((const char *const[]){__VA_ARGS__}, COUNT_OF(((const char *const[]){__VA_ARGS__})))

static enum dnssec_state state_at(const struct direct_answer *answer, const struct direct_answer *keys, const struct direct_answer *ds,
                                  int64_t now_s)
{
    struct dnssec_look look;

    dnssec_look_at(&(struct dnssec_question){.answer = answer, .keys = keys, .ds = ds, .zone = BYTES_LITERAL("example.net"),
                                             .name = BYTES_LITERAL("www.example.net"), .type = DNS_A, .now_s = now_s},
                   &look);
    assert_true(look.state < DNSSEC_ALGORITHM || (look.key_tag == 55648 && look.until_s == SIGNED_UNTIL && look.from_s == SIGNED_FROM));
    return look.state;
}

static void test_dnssec_states(void **state)
{
    const struct direct_answer right = MESSAGE(ZONE_SET, ZONE_SIGNATURE), keys = MESSAGE(ZONE_KEY), ds = MESSAGE(ZONE_DS);
    const struct direct_answer changed = MESSAGE("www.example.net. 3600 IN A 192.0.2.2", ZONE_SIGNATURE);
    const struct direct_answer stripped = MESSAGE(ZONE_SET), absent = MESSAGE(ZONE_KEY), other = MESSAGE(OTHER_KEY);
    const struct direct_answer nothing = message_of(NULL, 0), unread = {.message = BYTES_LITERAL("x")};
    (void)state;

    assert_int_equal(state_at(&right, &keys, NULL, SIGNED_FROM), DNSSEC_RIGHT);
    assert_int_equal(state_at(&right, &keys, &ds, SIGNED_UNTIL - 1), DNSSEC_RIGHT);
    assert_int_equal(state_at(&right, &keys, NULL, SIGNED_FROM - 1), DNSSEC_EARLY);
    assert_int_equal(state_at(&right, &keys, NULL, SIGNED_UNTIL + 1), DNSSEC_EXPIRED);
    assert_int_equal(state_at(&changed, &keys, NULL, SIGNED_FROM), DNSSEC_WRONG);
    assert_int_equal(state_at(&right, &other, NULL, SIGNED_FROM), DNSSEC_KEY_MISSING);
    assert_int_equal(state_at(&right, &keys, &other, SIGNED_FROM), DNSSEC_KEY_MISSING); /* no DS among those */
    assert_int_equal(state_at(&stripped, &keys, NULL, SIGNED_FROM), DNSSEC_UNSIGNED);
    assert_int_equal(state_at(&nothing, &keys, NULL, SIGNED_FROM), DNSSEC_ABSENT);
    assert_int_equal(state_at(&absent, &keys, NULL, SIGNED_FROM), DNSSEC_UNDECIDED);
    assert_int_equal(state_at(&unread, &keys, NULL, SIGNED_FROM), DNSSEC_UNDECIDED);
    assert_int_equal(state_at(&right, &unread, NULL, SIGNED_FROM), DNSSEC_UNDECIDED);
    assert_int_equal(state_at(&right, &keys, &unread, SIGNED_FROM), DNSSEC_UNDECIDED);
}

static void test_dnssec_links(void **state)
{
    const struct direct_answer keys = MESSAGE(ZONE_KEY, OTHER_KEY), ds = MESSAGE(ZONE_DS), nothing = message_of(NULL, 0);
    const struct direct_answer strange = MESSAGE("example.net. 60 IN DS 55648 13 2 " "00000000000000000000000000000000" "00000000000000000000000000000000");
    const struct direct_answer unknown = MESSAGE("example.net. 60 IN DS 55648 200 2 ab", "example.net. 60 IN DS 55648 13 99 ab");
    uint16_t tags[2];
    (void)state;

    assert_int_equal(dnssec_link_of(&ds, &keys), DNSSEC_LINK_NAMED);
    assert_int_equal(dnssec_link_of(&strange, &keys), DNSSEC_LINK_STRANGE);
    assert_int_equal(dnssec_link_of(&ds, &nothing), DNSSEC_LINK_STRANGE);
    assert_int_equal(dnssec_link_of(&unknown, &keys), DNSSEC_LINK_UNKNOWN);
    assert_int_equal(dnssec_link_of(&nothing, &keys), DNSSEC_LINK_ABSENT);
    assert_int_equal(dnssec_key_tags(&keys, tags, 2), 2);
    assert_int_equal(tags[0], 55648);
    assert_int_equal(tags[1], 9033);
    assert_int_equal(dnssec_key_tags(&keys, tags, 1), 1);
}

/* Cut at every octet, no message makes a signature hold or a key be named. */
static void test_dnssec_truncated(void **state)
{
    const struct direct_answer right = MESSAGE(ZONE_SET, ZONE_SIGNATURE), keys = MESSAGE(ZONE_KEY), ds = MESSAGE(ZONE_DS);
    (void)state;

    for (size_t i = 0; i < right.message.count; i++) {
        const struct direct_answer cut = {.message = bytes_of(right.message.at, i)};
        assert_int_not_equal(state_at(&cut, &keys, NULL, SIGNED_FROM), DNSSEC_RIGHT);
    }
    for (size_t i = 0; i < keys.message.count; i++) {
        const struct direct_answer cut = {.message = bytes_of(keys.message.at, i)};
        assert_int_not_equal(state_at(&right, &cut, NULL, SIGNED_FROM), DNSSEC_RIGHT);
        assert_int_not_equal(dnssec_link_of(&ds, &cut), DNSSEC_LINK_NAMED);
    }
    for (size_t i = 0; i < ds.message.count; i++) {
        const struct direct_answer cut = {.message = bytes_of(ds.message.at, i)};
        assert_int_not_equal(dnssec_link_of(&cut, &keys), DNSSEC_LINK_NAMED);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_spf_terms, clear), cmocka_unit_test_teardown(test_spf_faults, clear),
        cmocka_unit_test_teardown(test_spf_truncated, clear), cmocka_unit_test_teardown(test_keys, clear),
        cmocka_unit_test_teardown(test_question, clear), cmocka_unit_test_teardown(test_answer, clear),
        cmocka_unit_test_teardown(test_answer_truncated, clear),
        cmocka_unit_test_teardown(test_dnssec_states, clear), cmocka_unit_test_teardown(test_dnssec_links, clear),
        cmocka_unit_test_teardown(test_dnssec_truncated, clear),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
