/*
 * auth's records and fields, each in full and cut at every place; what DMARC says when DNS does not
 * answer; and the parts of policy that need no server: fields in our name, patience.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "fake_zone.h"
#include "policy/authenticate.h"

static struct arena arena = ARENA_WITH_LIMIT(256 * MIB);

static struct auth_dns dns_of_test(void)
{
    return (struct auth_dns){.arena = &arena, .deadline_us = DEADLINE_NEVER};
}

/* ------------------------------------------------------------------ cut everywhere */

static void test_spf_cut(void **state UNUSED)
{
    static const char record[] =
        "v=spf1 a:%{d2}//64 mx/24//48 include:b.example exists:%{ir}.%{l1r-}.e.example "
        "ptr ip4:192.0.2.0/24 ip6:2001:db8::/32 ?all exp=%{h}.x.example redirect=r.example";
    const struct auth_dns dns = dns_of_test();
    const struct spf_request request = {.client = {ENDPOINT_IPV4, {192, 0, 2, 9}},
                                        .helo = BYTES_LITERAL("h.example"),
                                        .from = {BYTES_LITERAL("x-y"), BYTES_LITERAL("a.example")}};

    for (size_t cut = 0; cut < sizeof record; cut++) {
        struct spf_facts facts;
        fake_zone_clear();
        fake_zone_add("a.example", DNS_TXT, bytes_of(record, cut));
        fake_zone_add("b.example", DNS_TXT, BYTES_LITERAL("v=spf1 ?all"));
        spf_check(&dns, &request, &facts);
        assert_int_equal(facts.result == AUTH_NONE, cut < 6 || (cut > 6 && record[6] != ' '));
        assert_true(facts.result != AUTH_TEMPERROR);
        arena_clear(&arena);
    }
}

/* RFC 7208 4.6.4: ten terms that ask DNS and no more; 5: a failed one is a temporary error. */
static void test_spf_limits(void **state UNUSED)
{
    const struct auth_dns dns = dns_of_test();
    const struct spf_request request = {.client = {ENDPOINT_IPV4, {192, 0, 2, 9}},
                                        .helo = BYTES_LITERAL("h.example"),
                                        .from = {BYTES_LITERAL("x"), BYTES_LITERAL("a.example")}};
    struct spf_facts facts;
    char record[400] = "v=spf1";

    for (unsigned terms = 1; terms <= 11; terms++) {
        snprintf(record + strlen(record), 30, " include:i%u.example", terms % 10);
        char whole[440], name[20];
        snprintf(whole, sizeof whole, "%s +all", record);
        fake_zone_clear();
        fake_zone_add("a.example", DNS_TXT, bytes_of_text(whole));
        for (unsigned i = 0; i < 10; i++) {
            snprintf(name, sizeof name, "i%u.example", i);
            fake_zone_add(name, DNS_TXT, BYTES_LITERAL("v=spf1 -all"));
        }
        spf_check(&dns, &request, &facts);
        assert_int_equal(facts.result, terms <= 10 ? AUTH_PASS : AUTH_PERMERROR);
        arena_clear(&arena);
    }
    fake_zone_clear();
    fake_zone_add("a.example", DNS_TXT, BYTES_LITERAL("v=spf1 a:sick.example -all"));
    fake_zone_fault("sick.example", DNS_A, FAKE_SERVFAIL);
    spf_check(&dns, &request, &facts);
    assert_int_equal(facts.result, AUTH_TEMPERROR);
    arena_clear(&arena);
}

static void test_dmarc_cut(void **state UNUSED)
{
    static const char record[] = "v=DMARC1; p=reject; sp=quarantine; np=none; t=y; psd=n; adkim=s; "
                                 "aspf=s; rua=mailto:a@b.example; fo=1";
    struct dmarc_record parsed;

    for (size_t cut = 0; cut < sizeof record; cut++) {
        const enum auth_result result = dmarc_parse(bytes_of(record, cut), &parsed);
        const enum auth_result wanted = cut < 8 ? AUTH_NONE : cut < 18 ? AUTH_PERMERROR : AUTH_PASS;
        assert_int_equal(result, wanted);
    }
    assert_int_equal(parsed.p, DMARC_POLICY_REJECT);
    assert_true(parsed.testing && parsed.psd == 'n' && parsed.strict_dkim && parsed.strict_spf);
}

static void test_dmarc_grammar(void **state UNUSED)
{
    static const struct {
        const char *text;
        enum auth_result result;
        enum dmarc_policy p;
    } rows[] = {
        {"v=DMARC1", AUTH_PERMERROR, DMARC_POLICY_NONE},
        {"v=DMARC1;p=REJECT", AUTH_PASS, DMARC_POLICY_REJECT},
        {" v = DMARC1 ; p = reject ", AUTH_PASS, DMARC_POLICY_REJECT},
        {"v=DMARC1; sp=none; p=reject", AUTH_PASS, DMARC_POLICY_REJECT},
        {"v=DMARC1; p=nonsense; rua=mailto:a@b.example", AUTH_PASS, DMARC_POLICY_NONE},
        {"v=DMARC1; rua=mailto:a@b.example", AUTH_PASS, DMARC_POLICY_NONE},
        {"v=DMARC1; p=nonsense", AUTH_PERMERROR, DMARC_POLICY_NONE},
        {"v=DMARC1; p=reject; p=none", AUTH_PASS, DMARC_POLICY_REJECT},
        {"v=DMARC1; p=reject; pct=0; x=y", AUTH_PASS, DMARC_POLICY_REJECT},
        {"v=dmarc1; p=reject", AUTH_NONE, DMARC_POLICY_NONE},
        {"v=DMARC11; p=reject", AUTH_NONE, DMARC_POLICY_NONE},
        {"p=reject; v=DMARC1", AUTH_NONE, DMARC_POLICY_NONE},
        {"", AUTH_NONE, DMARC_POLICY_NONE},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct dmarc_record record;
        assert_int_equal(dmarc_parse(bytes_of_text(rows[i].text), &record), rows[i].result);
        if (rows[i].result == AUTH_PASS)
            assert_int_equal(record.p, rows[i].p);
    }
}

static void test_authres_cut(void **state UNUSED)
{
    static const char value[] = "mx.example 1; dkim=pass (2048 \\) bit) header.d=\"a;b\" "
                                "reason=\"x\"; spf=fail\r\n\tsmtp.mailfrom=a@b.example";

    for (size_t cut = 0; cut < sizeof value; cut++) {
        struct authres_item items[4];
        unsigned count = COUNT_OF(items);
        struct bytes id = BYTES_EMPTY;
        const bool understood = authres_parse(&arena, bytes_of(value, cut), &id, items, &count);
        assert_true(count <= 2);
        if (understood && cut == sizeof value - 1)
            assert_int_equal(count, 2);
        arena_clear(&arena);
    }
}

static void test_sts_cut(void **state UNUSED)
{
    static const char policy[] = "version: STSv1\r\nmode: enforce\r\nmx: *.a.example\r\nmx: "
                                 "mx.example\r\nmax_age: 86400\r\n";
    static const char record[] = "v=STSv1; id=20261124; x=y";
    static const char report[] = "v=TLSRPTv1; rua=mailto:a@b.example";
    struct sts_policy parsed;
    struct bytes part = BYTES_EMPTY;

    for (size_t cut = 0; cut < sizeof policy - 1; cut++) {
        const bool whole = sts_parse_policy(&arena, bytes_of(policy, cut), &parsed);
        assert_true(!whole || cut >= sizeof policy - 1 - 7); /* "max_age: 8" is one already */
    }
    assert_true(sts_parse_policy(&arena, BYTES_LITERAL(policy), &parsed));
    assert_int_equal(parsed.mx_count, 2);
    for (size_t cut = 0; cut <= sizeof record - 1; cut++)
        assert_int_equal(sts_parse_record(bytes_of(record, cut), &part), cut > 12);
    for (size_t cut = 0; cut <= sizeof report - 1; cut++)
        assert_int_equal(tlsrpt_parse_record(bytes_of(report, cut), &part), cut >= 23);
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ From */

static void test_from(void **state UNUSED)
{
    static const struct {
        const char *head, *domain; /* NULL: none, or several */
    } rows[] = {
        {"From: a@b.example\r\n\r\n", "b.example"},
        {"FROM : \"x@evil.example\" <a@B.Example>\r\n\r\n", "b.example"},
        {"From: (x@evil.example (y@z.example)) a@b.example\r\n\r\n", "b.example"},
        {"From: a@b(x)\r\n .example\r\n\r\n", "b.example"},
        {"From: \"a \\\" @evil.example\" <a@b.example.>\r\n\r\n", "b.example"},
        {"From: g: a@b.example;\r\n\r\n", "b.example"},
        {"From: a@b.example, c@b.example\r\n\r\n", "b.example"},
        {"From: a@b.example, c@d.example\r\n\r\n", NULL},
        {"From: <@r.example:a@b.example>\r\n\r\n", NULL},
        {"From: a@b.example\r\nFrom: a@b.example\r\n\r\n", NULL},
        {"From: \"a@b.example\r\n\r\n", NULL},
        {"From: (a@b.example\r\n\r\n", NULL},
        {"From: a@\r\n\r\n", NULL},
        {"From: a@[192.0.2.1]\r\n\r\n", NULL},
        {"From: nobody\r\n\r\n", NULL},
        {"To: a@b.example\r\n\r\n", NULL},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct bytes domain = BYTES_EMPTY;
        const bool one = auth_author_domain(&arena, bytes_of_text(rows[i].head), &domain);
        if (one != (rows[i].domain != NULL))
            fail_msg("row %zu: %s", i, rows[i].head);
        if (one && !bytes_equal_text(domain, rows[i].domain))
            fail_msg("row %zu: %.*s", i, BYTES_PRINT(domain));
        for (size_t cut = 0; rows[i].head[cut]; cut++)
            (void)!auth_author_domain(&arena, bytes_of(rows[i].head, cut), &domain);
        arena_clear(&arena);
    }
}

/* ------------------------------------------------------------------ DMARC when DNS is ill */

struct dmarc_row {
    const char *sick;       /* this name fails */
    const char *spf, *dkim; /* domains that pass; "!d": temperror; NULL: none */
    enum auth_result result;
    bool record_failed;
};

static struct dmarc_facts dmarc_of(const struct dmarc_row *row, const char *from)
{
    const struct auth_dns dns = dns_of_test();
    struct dkim_report dkim = {0};
    struct spf_facts spf = {.result = AUTH_NONE};
    struct dmarc_facts facts;
    const bool spf_sick = row->spf && row->spf[0] == '!',
               dkim_sick = row->dkim && row->dkim[0] == '!';

    fake_zone_clear();
    if (row->sick)
        fake_zone_fault(row->sick, DNS_TXT, FAKE_SERVFAIL);
    fake_zone_add("_dmarc.a.example", DNS_TXT, BYTES_LITERAL("v=DMARC1; p=reject"));
    fake_zone_add("_dmarc.own.a.example", DNS_TXT, BYTES_LITERAL("v=DMARC1; p=reject"));
    if (row->spf)
        spf = (struct spf_facts){.result = spf_sick ? AUTH_TEMPERROR : AUTH_PASS,
                                 .domain = bytes_of_text(row->spf + spf_sick)};
    if (row->dkim)
        dkim.facts[dkim.count++] =
            (struct dkim_facts){.result = dkim_sick ? AUTH_TEMPERROR : AUTH_PASS,
                                .domain = bytes_of_text(row->dkim + dkim_sick)};
    dmarc_check(&dns, arena_print(&arena, "From: x@%s\r\n\r\n", from), &spf, &dkim, &facts);
    return facts;
}

static void check_rows(const struct dmarc_row *rows, size_t count, const char *from)
{
    for (size_t i = 0; i < count; i++) {
        const struct dmarc_facts facts = dmarc_of(&rows[i], from);
        if (facts.result != rows[i].result || facts.record_failed != rows[i].record_failed)
            fail_msg("%s, row %zu: %s", from, i, auth_result_name(facts.result));
        arena_clear(&arena);
    }
}

/* A name without a record of its own hangs on all steps of the walk; one with its own only for
 * relaxed alignment. */
static void test_dmarc_ill(void **state UNUSED)
{
    static const struct dmarc_row inherited[] = {
        {NULL, NULL, NULL, AUTH_FAIL, false},
        {NULL, "a.example", NULL, AUTH_PASS, false},
        {NULL, "!a.example", NULL, AUTH_TEMPERROR, false},
        {NULL, "!b.example", NULL, AUTH_FAIL, false},
        {NULL, "!b.example", "a.example", AUTH_PASS, false},
        {NULL, NULL, "!b.a.example", AUTH_TEMPERROR, false},
        {"_dmarc.b.a.example", NULL, NULL, AUTH_TEMPERROR, true},
        {"_dmarc.example", NULL, NULL, AUTH_TEMPERROR, true},
        {"_dmarc.c.example", "c.example", NULL, AUTH_TEMPERROR, false},
    };
    static const struct dmarc_row own[] = {
        {"_dmarc.example", NULL, NULL, AUTH_FAIL, false},
        {"_dmarc.example", "own.a.example", NULL, AUTH_PASS, false},
        {"_dmarc.example", "a.example", NULL, AUTH_TEMPERROR, false},
        {"_dmarc.own.a.example", NULL, NULL, AUTH_TEMPERROR, true},
    };

    check_rows(inherited, COUNT_OF(inherited), "b.a.example");
    /* A zone that has both a record and a fault at one name answers with the record: leave the
     * fault alone there. */
    check_rows(own, COUNT_OF(own) - 1, "own.a.example");
}

static void test_tree_walk(void **state UNUSED)
{
    const struct auth_dns dns = dns_of_test();
    enum auth_result result = AUTH_NONE;

    fake_zone_clear();
    fake_zone_add("_dmarc.example", DNS_TXT, BYTES_LITERAL("v=DMARC1; p=none; psd=y"));
    fake_zone_add("_dmarc.team.corp.example", DNS_TXT, BYTES_LITERAL("v=DMARC1; p=none; psd=n"));
    static const char *const rows[][2] = {
        {"a.b.corp.example", "corp.example"},
        {"corp.example", "corp.example"},
        {"x.team.corp.example", "team.corp.example"},
        {"team.corp.example", "team.corp.example"},
        {"other.test", "other.test"},
        {"a.b.c.d.e.f.g.h.i.corp.example", "corp.example"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct bytes found =
            dmarc_organizational_domain(&dns, bytes_of_text(rows[i][0]), &result);
        assert_int_equal(result, AUTH_PASS);
        if (!bytes_equal_text(found, rows[i][1]))
            fail_msg("%s: %.*s", rows[i][0], BYTES_PRINT(found));
    }
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ fields in our name */

static struct bytes pass_through(struct bytes message, size_t piece)
{
    static struct policy policy;
    CLEANUP(buffer_free) struct buffer kept = BUFFER_WITH_LIMIT(8 * MIB);
    struct transaction transaction = {.authentication = calloc(1, sizeof(struct authentication))};
    struct bytes part = BYTES_EMPTY;

    transaction.authentication->policy = &policy;
    transaction.authentication->exempt = true;
    transaction.authentication->strip.authserv_id = "mx.example";
    assert_true(
        verdict_accepts(&(const struct verdict){VERDICT_ACCEPT, CAUSE_ACCEPTED, BYTES_EMPTY}));
    const struct verdict begun = policy_body_begin(&transaction);
    assert_true(verdict_accepts(&begun));
    for (size_t at = 0; at < message.count; at += piece) {
        assert_true(policy_body_add(&transaction, bytes_slice(message, at, piece), &part));
        buffer_add(&kept, part);
    }
    assert_true(policy_body_end(&transaction, &part));
    buffer_add(&kept, part);
    policy_transaction_end(&transaction);
    assert_null(transaction.authentication);
    return arena_copy(&arena, buffer_view(&kept));
}

#define OTHER "Authentication-Results: elsewhere.example;\r\n dkim=pass\r\n"
#define REST                                                                                       \
    "From: a@b.example\r\nX-Authentication-Results: mx.example; "                                  \
    "none\r\n\r\nAuthentication-Results: mx.example; body\r\n"

static void test_strip(void **state UNUSED)
{
    static const char *const forged[] = {
        "Authentication-Results: mx.example; dkim=pass\r\n",
        "authentication-RESULTS:MX.Example;\r\n\tdkim=pass\r\n",
        "Authentication-Results \t: (c) \"mx.\\example\" 1; none\r\n",
        "Authentication-Results:\r\n \r\n mx.example.; none\r\n",
        "Authentication-Results: (never ends mx.example\r\n",
    };

    for (size_t i = 0; i < COUNT_OF(forged); i++) {
        const struct bytes messages[] = {
            arena_print(&arena, "%s%s%s", forged[i], OTHER, REST),
            arena_print(&arena, "%s%s%s", OTHER, forged[i], REST),
        };
        for (size_t k = 0; k < COUNT_OF(messages); k++)
            for (size_t piece = 1; piece <= messages[k].count; piece += piece < 40 ? 1 : 17)
                assert_true(bytes_equal_text(pass_through(messages[k], piece), OTHER REST));
        /* Nothing is ever lost when the message ends anywhere. */
        for (size_t cut = 0; cut <= messages[0].count; cut++)
            assert_true(bytes_ends_with_nocase(BYTES_LITERAL(OTHER REST), BYTES_EMPTY) &&
                        pass_through(bytes_slice(messages[0], 0, cut), 7).count <= cut);
        arena_clear(&arena);
    }
}

static void test_strip_nothing(void **state UNUSED)
{
    static const char *const plain[] = {"",
                                        "\r\n",
                                        "\r\nbody\r\n",
                                        "Subject: x",
                                        "Subject: x\r\n",
                                        OTHER,
                                        "no header at all\r\n",
                                        OTHER REST};

    for (size_t i = 0; i < COUNT_OF(plain); i++)
        for (size_t piece = 1; piece < 30; piece++)
            assert_true(bytes_equal_text(pass_through(bytes_of_text(plain[i]), piece), plain[i]));
    arena_clear(&arena);
}

/* Lines far beyond what is looked at, in and out of a suspect. */
static void test_strip_long(void **state UNUSED)
{
    enum { LONG = 300 * 1024 };
    CLEANUP(buffer_free) struct buffer message = BUFFER_WITH_LIMIT(4 * MIB);

    buffer_add_text(&message, "X-Long: ");
    for (int i = 0; i < LONG; i++)
        buffer_add_byte(&message, 'x');
    buffer_add_text(&message, "\r\n");
    const size_t honest = message.count;
    buffer_add_text(&message, "Authentication-Results: mx.example; dkim=pass ");
    for (int i = 0; i < LONG; i++)
        buffer_add_byte(&message, 'x');
    buffer_add_text(&message, "\r\n\r\nbody\r\n");
    const struct bytes kept = pass_through(buffer_view(&message), 1000);
    assert_int_equal(kept.count, honest + 8);
    assert_true(
        bytes_equal(bytes_slice(kept, 0, honest), bytes_slice(buffer_view(&message), 0, honest)));
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ patience */

static void test_patience(void **state UNUSED)
{
    const uint64_t hour = 3600 * US_PER_S;
    struct patience *patience = patience_open(6 * hour);
    const struct ip_address here = {ENDPOINT_IPV4, {192, 0, 2, 1}},
                            near = {ENDPOINT_IPV4, {192, 0, 2, 200}},
                            far = {ENDPOINT_IPV4, {198, 51, 100, 1}};
    const struct address from = {BYTES_LITERAL("a"), BYTES_LITERAL("a.example")},
                         to = {BYTES_LITERAL("b"), BYTES_LITERAL("b.example")};

    assert_non_null(patience);
    const uint64_t key = patience_key(patience, &here, from, to);
    assert_true(key == patience_key(patience, &near, from, to));
    assert_true(key != patience_key(patience, &far, from, to));
    assert_true(key != patience_key(patience, &here, to, to));
    assert_true(key != patience_key(patience, &here, from, from));
    assert_true(patience_holds(patience, key, hour));
    assert_true(patience_holds(patience, key, 6 * hour));
    assert_false(patience_holds(patience, key, 7 * hour));
    assert_false(patience_holds(patience, key, 20 * hour));
    assert_true(patience_holds(patience, key, 50 * hour)); /* long forgotten */
    patience_forget(patience, key);
    assert_true(patience_holds(patience, key, 57 * hour));
    /* However many there are, nothing grows and nothing is taken for granted. */
    for (uint64_t i = 1; i < 200000; i++)
        assert_true(patience_holds(patience, i * UINT64_C(0x9e3779b97f4a7c15), 60 * hour));
    patience_close(patience);
    struct patience *none = patience_open(0);
    assert_false(patience_holds(none, 1, hour));
    patience_close(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spf_cut),       cmocka_unit_test(test_spf_limits),
        cmocka_unit_test(test_dmarc_cut),     cmocka_unit_test(test_dmarc_grammar),
        cmocka_unit_test(test_authres_cut),   cmocka_unit_test(test_sts_cut),
        cmocka_unit_test(test_from),          cmocka_unit_test(test_dmarc_ill),
        cmocka_unit_test(test_tree_walk),     cmocka_unit_test(test_strip),
        cmocka_unit_test(test_strip_nothing), cmocka_unit_test(test_strip_long),
        cmocka_unit_test(test_patience),
    };

    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(fake_records);
    return failed;
}
