/*
 * What `dns check` and direct questions read: SPF term by term with the place of each fault, key records, and DNS messages
 * cut at every octet.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
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

/* The example of RFC 4034 5.4. */
static const char KEY[] = "256 3 5 AQOeiiR0GOMYkDshWoSKz9XzfwJr1AYtsmx3TGkJaNXVbfi/2pHm822aJ5iI9BMzNXxeYCmZDRD99WYwYqUSdjMm"
                          "mAphXdvxegXd/M5+X7OrzKBaMbCVdFLUUh6DhweJBjEVv5f2wwjM9XzcnOf+EPbtG9DMBmADjFDc2w/rljwvFw== ;{id = 60485}";
static const char DS[] = "60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118";

static bool names(const char *zone, const char *ds, const char *key)
{
    return dnssec_ds_names_key(&arena, bytes_of_text(zone), bytes_of_text(ds), bytes_of_text(key));
}

static void test_dnssec_links(void **state)
{
    (void)state;
    assert_true(names("dskey.example.com", DS, KEY));
    assert_false(names("other.example.com", DS, KEY));
    assert_false(names("dskey.example.com", "60486 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118", KEY));
    assert_false(names("dskey.example.com", "60485 8 1 2BB183AF5F22588179A53B0A98631FAD1A292118", KEY));
    assert_false(names("dskey.example.com", "60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292119", KEY));
    assert_true(names("dskey.example.com", "60485 5 4 00", KEY)); /* a digest that we do not know */
    for (size_t i = 0; i < sizeof DS - 1; i++)
        assert_false(dnssec_ds_names_key(&arena, BYTES_LITERAL("dskey.example.com"), bytes_of(DS, i), BYTES_LITERAL(KEY)));
    for (size_t i = 0; i < sizeof KEY - sizeof " ;{id = 60485}" - 1; i++)
        assert_false(dnssec_ds_names_key(&arena, BYTES_LITERAL("dskey.example.com"), BYTES_LITERAL(DS), bytes_of(KEY, i)));
}

static void test_dnssec_signature_end(void **state)
{
    static const char text[] = "SOA 13 2 3600 20261231235959 20261201000000 1234 example. AAAA";

    (void)state;
    assert_int_equal(dnssec_signature_end(BYTES_LITERAL(text)), 1798761599);
    assert_int_equal(dnssec_signature_end(BYTES_LITERAL("SOA 13 2 3600 1798761599 1 1 . AAAA")), 1798761599);
    assert_int_equal(dnssec_signature_end(BYTES_LITERAL("SOA 13 2 3600 soon")), 0);
    for (size_t i = 0; i < sizeof text; i++) {
        const int64_t end = dnssec_signature_end(bytes_of(text, i));
        assert_true(end >= 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_spf_terms, clear), cmocka_unit_test_teardown(test_spf_faults, clear),
        cmocka_unit_test_teardown(test_spf_truncated, clear), cmocka_unit_test_teardown(test_keys, clear),
        cmocka_unit_test_teardown(test_question, clear), cmocka_unit_test_teardown(test_answer, clear),
        cmocka_unit_test_teardown(test_answer_truncated, clear),
        cmocka_unit_test_teardown(test_dnssec_links, clear), cmocka_unit_test(test_dnssec_signature_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
