/*
 * ARC: chains that we sealed read back, every change of them fails, failed chains are sealed once and for themselves only, and
 * nothing grows beyond 50 sets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dkim_keys.h"

static const char MESSAGE[] = "From: Joe SixPack <joe@football.example.com>\r\n"
                              "To: list@lists.example.net\r\n"
                              "Subject: Is dinner ready?\r\n"
                              "\r\n"
                              "Hi.\r\n\r\nJoe.\r\n";

static struct buffer message; /* under construction */

static void set_message(void)
{
    buffer_free(&message);
    message = BUFFER_WITH_LIMIT(16 * MIB);
    buffer_add_text(&message, MESSAGE);
    test_zone();
}

static struct arc_facts look(struct bytes text, size_t piece)
{
    static char sealer[256];
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct dkim_report report;
    struct arc_facts facts;

    verify_in_pieces(&arena, text, piece, &report, &facts);
    snprintf(sealer, sizeof sealer, "%.*s", BYTES_PRINT(facts.sealer));
    facts.sealer = bytes_of_text(sealer);
    arena_clear(&arena);
    return facts;
}

static void check(enum auth_result expected, unsigned instances, const char *reason)
{
    const struct arc_facts facts = look(buffer_view(&message), 1 << 20);

    if (facts.result != expected || facts.instances != instances || !bytes_equal_text(facts.reason, reason))
        fail_msg("%s (%.*s), %u sets; expected %s (%s), %u", auth_result_name(facts.result), BYTES_PRINT(facts.reason),
                 facts.instances, auth_result_name(expected), reason, instances);
}

/* Seals with what `chain` says of the message; what is added goes on top. */
static bool seal_as(enum auth_result chain, const char *pem, char *why, size_t why_room)
{
    CLEANUP(buffer_free) struct buffer set = BUFFER_WITH_LIMIT(16 * MIB);
    CLEANUP(private_key_close) struct private_key *key = test_key(pem);
    struct memory_source memory = {buffer_view(&message)};
    const struct auth_source source = {memory_source_read, &memory, memory.message.count};
    const struct arc_sealer sealer = {
        .signer = {.domain = "football.example.com", .selector = pem == RSA_PEM ? "rsa" : "ed", .key = key, .wall_us = 1700000000000000},
        .authentication_results = BYTES_LITERAL("spf=pass smtp.mailfrom=football.example.com;\r\n dkim=none"),
        .authserv_id = "mx.example.net",
        .chain = chain};

    *why = 0;
    if (!arc_seal(&sealer, &source, &set, why, why_room))
        return false;
    buffer_add(&set, buffer_view(&message));
    buffer_clear(&message);
    buffer_add(&message, buffer_view(&set));
    return true;
}

static void seal(const char *pem)
{
    char why[160];

    if (!seal_as(look(buffer_view(&message), 1 << 20).result, pem, why, sizeof why))
        fail_msg("%s", why);
}

static void test_chain_passes(void **state)
{
    (void)state;
    set_message();
    check(AUTH_NONE, 0, "");
    seal(ED25519_PEM);
    check(AUTH_PASS, 1, "");
    seal(RSA_PEM);
    check(AUTH_PASS, 2, "");
    seal(ED25519_PEM);
    check(AUTH_PASS, 3, "");
    const struct arc_facts facts = look(buffer_view(&message), 1);
    assert_int_equal(facts.result, AUTH_PASS);
    assert_true(bytes_equal_text(facts.sealer, "football.example.com"));
    /* AS, AMS, AAR in this order */
    assert_true(bytes_starts_with(buffer_view(&message), BYTES_LITERAL("ARC-Seal: a=ed25519-sha256;")));
    assert_int_equal(header_count(buffer_view(&message), "ARC-Authentication-Results"), 3);
}

/* A relay that changed the message and sealed it again leaves a chain that passes: only the newest message signature counts. */
static void test_changed_and_sealed(void **state)
{
    (void)state;
    set_message();
    seal(ED25519_PEM);
    const enum auth_result before = look(buffer_view(&message), 100).result;
    buffer_add_text(&message, "-- \r\nlist footer\r\n");
    check(AUTH_FAIL, 1, "body hash did not verify");
    char why[160];
    assert_true(seal_as(before, RSA_PEM, why, sizeof why));
    check(AUTH_PASS, 2, "");
}

static void test_failed_chain(void **state)
{
    char why[160];

    (void)state;
    set_message();
    seal(ED25519_PEM);
    buffer_add_text(&message, "changed\r\n");
    seal(RSA_PEM); /* with cv=fail */
    check(AUTH_FAIL, 2, "the newest seal says fail");
    const size_t before = message.count;
    assert_true(seal_as(AUTH_FAIL, RSA_PEM, why, sizeof why)); /* nothing to add (RFC 8617 5.1, step 2) */
    assert_int_equal(message.count, before);
}

static void test_seal_refusals(void **state)
{
    char why[160];

    (void)state;
    set_message();
    assert_false(seal_as(AUTH_TEMPERROR, RSA_PEM, why, sizeof why));
    assert_string_equal(why, "the state of the chain is not known");
    assert_false(seal_as(AUTH_PASS, RSA_PEM, why, sizeof why));
    assert_string_equal(why, "the chain is not whole");
    assert_false(seal_as(AUTH_FAIL, RSA_PEM, why, sizeof why));
    seal(RSA_PEM);
    assert_false(seal_as(AUTH_NONE, RSA_PEM, why, sizeof why));
    assert_string_equal(why, "the message has a chain that was not seen before");
}

static void test_fifty_sets(void **state)
{
    char why[160];

    (void)state;
    set_message();
    for (int i = 0; i < 50; i++)
        seal(ED25519_PEM);
    check(AUTH_PASS, 50, "");
    assert_false(seal_as(AUTH_PASS, ED25519_PEM, why, sizeof why));
    assert_string_equal(why, "the chain has 50 sets already");
}

static void test_dns_fault(void **state)
{
    (void)state;
    set_message();
    seal(ED25519_PEM);
    seal(RSA_PEM);
    fake_zone_clear();
    fake_zone_add("rsa._domainkey.football.example.com", DNS_TXT, bytes_of_text(RSA_RECORD));
    fake_zone_fault("ed._domainkey.football.example.com", DNS_TXT, FAKE_SERVFAIL);
    check(AUTH_TEMPERROR, 2, "the key could not be fetched");
    fake_zone_clear();
    fake_zone_add("rsa._domainkey.football.example.com", DNS_TXT, bytes_of_text(RSA_RECORD));
    check(AUTH_FAIL, 2, "no key for the signature");
}

static void replace(const char *what, const char *by)
{
    const size_t at = bytes_find(buffer_view(&message), bytes_of_text(what));
    CLEANUP(buffer_free) struct buffer changed = BUFFER_WITH_LIMIT(16 * MIB);

    assert_true(at < message.count);
    buffer_add(&changed, bytes_slice(buffer_view(&message), 0, at));
    buffer_add_text(&changed, by);
    buffer_add(&changed, bytes_skip(buffer_view(&message), at + strlen(what)));
    buffer_clear(&message);
    buffer_add(&message, buffer_view(&changed));
}

static void check_replaced(const char *what, const char *by, enum auth_result expected, unsigned instances, const char *reason)
{
    set_message();
    seal(ED25519_PEM);
    seal(ED25519_PEM);
    replace(what, by);
    check(expected, instances, reason);
}

static void test_structure(void **state)
{
    static const char NO_INSTANCE[] = "a field of the chain has no usable i=";

    (void)state;
    check_replaced("ARC-Authentication-Results: i=2;", "ARC-Authentication-Results: ( a (b\\)) ) i = (c) 02 (d) ;", AUTH_FAIL, 2,
                   "the signature did not verify"); /* read well, but signed otherwise */
    check_replaced("ARC-Authentication-Results: i=2;", "ARC-Authentication-Results: mx; i=2;", AUTH_FAIL, 2, NO_INSTANCE);
    check_replaced("ARC-Authentication-Results: i=2;", "ARC-Authentication-Results: i=51;", AUTH_FAIL, 2, NO_INSTANCE);
    check_replaced("ARC-Authentication-Results: i=2;", "ARC-Authentication-Results: i=0;", AUTH_FAIL, 2, NO_INSTANCE);
    check_replaced("ARC-Authentication-Results: i=2;", "ARC-Authentication-Results: i=1;", AUTH_FAIL, 2,
                   "a field of the chain is there twice");
    check_replaced("ARC-Authentication-Results: i=2;", "ARC-Authentication-Results: i=4;", AUTH_FAIL, 4,
                   "a set of the chain is not whole");
    check_replaced("ARC-Authentication-Results: i=2;", "X-Other: i=2;", AUTH_FAIL, 2, "a set of the chain is not whole");
    check_replaced("cv=pass", "cv=none", AUTH_FAIL, 2, "a seal's cv= does not fit its place in the chain");
    check_replaced("cv=none", "cv=pass", AUTH_FAIL, 2, "a seal's cv= does not fit its place in the chain");
    check_replaced("cv=pass", "cv=fail", AUTH_FAIL, 2, "the newest seal says fail");
    check_replaced("cv=pass", "h=from; cv=pass", AUTH_FAIL, 2, "a seal has h=");
    check_replaced("Subject: Is", "Subject: is", AUTH_FAIL, 2, "the signature did not verify");
}

static bool relaxed_equal(struct bytes a, struct bytes b)
{
    CLEANUP(buffer_free) struct buffer one = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(buffer_free) struct buffer two = BUFFER_WITH_LIMIT(MIB);
    struct header_walk walk_a = HEADER_WALK_OF(a), walk_b = HEADER_WALK_OF(b);
    struct header_field field;

    while (header_next(&walk_a, &field))
        dkim_field_canonical(&one, field.whole, true);
    while (header_next(&walk_b, &field))
        dkim_field_canonical(&two, field.whole, true);
    return bytes_equal(buffer_view(&one), buffer_view(&two)) && header_end(a) == header_end(b);
}

/* Any changed byte of the header with its two sets ends the pass, unless the canonical form is the same. */
static void test_mutations(void **state)
{
    static const uint8_t FLIPS[] = {0x01, 0x20, 0x04};
    CLEANUP(buffer_free) struct buffer changed = BUFFER_WITH_LIMIT(MIB);

    (void)state;
    set_message();
    seal(ED25519_PEM);
    seal(RSA_PEM);
    const size_t end = header_end(buffer_view(&message)) - 2;
    for (size_t i = 0; i < end; i++) {
        for (size_t k = 0; k < COUNT_OF(FLIPS); k++) {
            buffer_clear(&changed);
            buffer_add(&changed, buffer_view(&message));
            changed.at[i] ^= FLIPS[k];
            const struct arc_facts facts = look(buffer_view(&changed), 1 << 20);
            if (facts.result != AUTH_FAIL && !relaxed_equal(buffer_view(&message), buffer_view(&changed)))
                fail_msg("byte %zu: 0x%02x may become 0x%02x: %s", i, message.at[i], changed.at[i], auth_result_name(facts.result));
        }
    }
}

static void test_prefixes(void **state)
{
    (void)state;
    set_message();
    seal(RSA_PEM);
    for (size_t i = 0; i < message.count - 2; i++)
        assert_int_not_equal(look(bytes_slice(buffer_view(&message), 0, i), 50).result, AUTH_PASS);
    check(AUTH_PASS, 1, "");
}

static int end_group(void **state)
{
    (void)state;
    buffer_free(&message);
    free(fake_records);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain_passes),  cmocka_unit_test(test_changed_and_sealed), cmocka_unit_test(test_failed_chain),
        cmocka_unit_test(test_seal_refusals), cmocka_unit_test(test_fifty_sets),         cmocka_unit_test(test_dns_fault),
        cmocka_unit_test(test_structure),     cmocka_unit_test(test_mutations),          cmocka_unit_test(test_prefixes),
    };

    return cmocka_run_group_tests(tests, NULL, end_group);
}
