/*
 * DKIM: canonical forms, the rules of signatures and keys, every cut, every changed byte, bodies of any size in the same memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dkim_keys.h"

static const char MESSAGE[] = "From: Joe SixPack <joe@football.example.com>\r\n"
                              "To: Suzie Q <suzie@shopping.example.net>\r\n"
                              "Subject: Is dinner\r\n  ready?\r\n"
                              "Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
                              "Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
                              "\r\n"
                              "Hi.\r\n\r\nWe lost the game.  Are you hungry\tyet? \r\n\r\nJoe.\r\n\r\n\r\n";
#define GOOD_TAGS "v=1; a=ed25519-sha256; c=relaxed/relaxed; d=football.example.com; s=ed; "
#define FROM_TO BYTES_LITERAL("from:to:subject:date:from")

static struct buffer message; /* under construction; set_message begins anew */

static void set_message(const char *text)
{
    buffer_free(&message);
    message = BUFFER_WITH_LIMIT(128 * MIB);
    buffer_add_text(&message, text);
    test_zone();
}

static struct dkim_report verify_bytes(struct bytes text, size_t piece)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct dkim_report report;
    struct arc_facts arc;

    verify_in_pieces(&arena, text, piece, &report, &arc);
    assert_false(arena.failed);
    arena_clear(&arena); /* only results and reasons (static text) are looked at */
    return report;
}

static void check(enum auth_result expected, const char *reason)
{
    const struct dkim_report report = verify_bytes(buffer_view(&message), 1 << 20);

    if (report.count == 0 || report.facts[0].result != expected || !bytes_equal_text(report.facts[0].reason, reason))
        fail_msg("%u signatures: %s (%.*s), expected %s (%s)", report.count, auth_result_name(report.facts[0].result),
                 BYTES_PRINT(report.facts[0].reason), auth_result_name(expected), reason);
}

/* ------------------------------------------------------------------ canonical forms */

static void check_body(const char *body, bool relaxed, const char *canonical)
{
    const size_t length = strlen(body);

    for (size_t piece = 1; piece <= length + 1; piece++) {
        struct arena arena = ARENA_WITH_LIMIT(MIB);
        struct dkim_bodies bodies = {0};
        uint8_t expected[DKIM_HASH_OCTETS];
        struct digest *digest = digest_open(DIGEST_SHA256);
        const struct dkim_body_hash *hash = dkim_bodies_want(&bodies, &arena, relaxed, DKIM_NO_LIMIT);

        for (size_t i = 0; i < length; i += piece)
            dkim_bodies_add(&bodies, bytes_slice(bytes_of_text(body), i, piece));
        dkim_bodies_finish(&bodies);
        digest_add(digest, bytes_of_text(canonical));
        assert_int_equal(digest_finish(digest, (struct span){expected, sizeof expected}), sizeof expected);
        assert_int_equal(dkim_bodies_total(&bodies, relaxed), strlen(canonical));
        assert_true(hash->done);
        assert_memory_equal(hash->value, expected, sizeof expected);
        digest_close(&digest);
        dkim_bodies_close(&bodies);
        arena_clear(&arena);
    }
}

static void test_body_forms(void **state)
{
    (void)state;
    /* RFC 6376 3.4.5 */
    check_body(" C \r\nD \t E\r\n\r\n\r\n", true, " C\r\nD E\r\n");
    check_body(" C \r\nD \t E\r\n\r\n\r\n", false, " C \r\nD \t E\r\n");
    /* 3.4.3, 3.4.4: no body at all, only empty lines, no line end at the end */
    check_body("", false, "\r\n");
    check_body("", true, "");
    check_body("\r\n\r\n", false, "\r\n");
    check_body("\r\n\r\n", true, "");
    check_body(" \t\r\n \r\n", true, "");
    check_body(" \r\n", false, " \r\n");
    check_body("a", false, "a\r\n");
    check_body("a", true, "a\r\n");
    check_body("a \t", true, "a\r\n");
    check_body("a\r\n\r\n\r\nb", true, "a\r\n\r\n\r\nb\r\n");
    check_body("a\r\n \r\nb", true, "a\r\n\r\nb\r\n");
    check_body("a\r\n  b  c", true, "a\r\n b c\r\n");
    /* bare CR and LF are bytes like any other */
    check_body("a\rb\nc\r\r\n", false, "a\rb\nc\r\r\n");
    check_body("a \rb \nc\r", true, "a \rb \nc\r\r\n");
}

static void check_field(const char *field, bool relaxed, const char *canonical)
{
    CLEANUP(buffer_free) struct buffer into = BUFFER_WITH_LIMIT(MIB);

    dkim_field_canonical(&into, bytes_of_text(field), relaxed);
    assert_int_equal(into.count, strlen(canonical));
    assert_memory_equal(into.at, canonical, into.count);
}

/* The relaxed form, octet by octet, of a whole body: what the streaming one is compared with. */
static size_t relaxed_form(const uint8_t *body, size_t count, uint8_t *into)
{
    size_t made = 0, kept = 0; /* kept: without empty lines at the end */
    bool blank = false;

    for (size_t i = 0; i < count; i++) {
        if (body[i] == ' ' || body[i] == '\t') {
            blank = true;
            continue;
        }
        const bool line_end = body[i] == '\r' && i + 1 < count && body[i + 1] == '\n';
        if (blank && !line_end)
            into[made++] = ' ';
        blank = false;
        into[made++] = body[i];
        if (!line_end) {
            kept = made;
            continue;
        }
        into[made++] = body[++i];
    }
    if (kept > 0) {
        into[kept++] = '\r';
        into[kept++] = '\n';
    }
    return kept;
}

/* Text of long plain stretches with everything between them that the form changes, in any pieces. */
static void test_body_forms_of_any_text(void **state)
{
    static const char marks[] = "  \t\r\n\r\n\r\nab";
    uint8_t body[900], expected[1000];
    uint32_t chance = 1;

    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        size_t count = 0;
        const size_t most = (chance = chance * 1664525 + 1013904223) >> 8 & 511;
        while (count < most) {
            chance = chance * 1664525 + 1013904223;
            const size_t plain = (chance >> 24 & 3) ? chance >> 16 & 3 : chance >> 16 & 63;
            for (size_t k = 0; k < plain; k++)
                body[count++] = (uint8_t)("x\xc3!~"[k & 3]);
            body[count++] = (uint8_t)marks[(chance >> 8 & 255) % (sizeof marks - 1)];
            if (body[count - 1] == '\r' && (chance & 64))
                body[count++] = '\n';
        }
        const size_t made = relaxed_form(body, count, expected);
        struct arena arena = ARENA_WITH_LIMIT(64 * KIB);
        struct dkim_bodies bodies = {0};
        uint8_t value[DIGEST_MAX];
        const struct dkim_body_hash *hash = dkim_bodies_want(&bodies, &arena, true, DKIM_NO_LIMIT);
        const size_t piece = 1 + (chance >> 20) % (round % 2 ? 40 : 600);
        for (size_t i = 0; i < count; i += piece)
            dkim_bodies_add(&bodies, bytes_slice(bytes_of(body, count), i, piece));
        dkim_bodies_finish(&bodies);
        struct digest *digest = digest_open(DIGEST_SHA256);
        digest_add(digest, bytes_of(expected, made));
        assert_int_equal(digest_finish(digest, (struct span){value, sizeof value}), 32);
        digest_close(&digest);
        assert_int_equal(dkim_bodies_total(&bodies, true), made);
        assert_memory_equal(hash->value, value, 32);
        dkim_bodies_close(&bodies);
        arena_clear(&arena);
    }
}

static void test_field_forms(void **state)
{
    (void)state;
    check_field("A: X\r\n", true, "a:X\r\n");
    check_field("B : Y\t\r\n\tZ  \r\n", true, "b:Y Z\r\n");
    check_field("B : Y\t\r\n\tZ  \r\n", false, "B : Y\t\r\n\tZ  \r\n");
    check_field("A:\r\n", true, "a:\r\n");
    check_field("A: x", false, "A: x\r\n");
    check_field("A: x: y\n", true, "a:x: y\r\n");
}

/* ------------------------------------------------------------------ RFC 8463, appendix A */

static void test_published_example(void **state)
{
    static const char SIGNED[] =
        "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
        " d=football.example.com; i=@football.example.com;\r\n"
        " q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
        " subject : date : message-id : from : subject : date;\r\n"
        " bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        " b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
        " Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
        "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n"
        " d=football.example.com; i=@football.example.com;\r\n"
        " q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n"
        " date : message-id : from : subject : date;\r\n"
        " bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
        " b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n"
        " DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n"
        " dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\n"
        "From: Joe SixPack <joe@football.example.com>\r\n"
        "To: Suzie Q <suzie@shopping.example.net>\r\n"
        "Subject: Is dinner ready?\r\n"
        "Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
        "Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n"
        "\r\nHi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n\r\n";
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct dkim_report report;
    struct arc_facts arc;

    (void)state;
    test_zone();
    fake_zone_add("brisbane._domainkey.football.example.com", DNS_TXT, bytes_of_text(ED25519_RECORD));
    fake_zone_add("test._domainkey.football.example.com", DNS_TXT, bytes_of_text(RSA_RECORD));
    verify_in_pieces(&arena, BYTES_LITERAL(SIGNED), 7, &report, &arc);
    assert_int_equal(report.count, 2);
    assert_int_equal(report.facts[0].result, AUTH_PASS);
    assert_int_equal(report.facts[1].result, AUTH_PASS);
    assert_true(bytes_equal_text(report.facts[0].domain, "football.example.com"));
    assert_true(bytes_equal_text(report.facts[0].selector, "brisbane"));
    assert_true(bytes_equal_text(report.facts[0].identity, "@football.example.com"));
    assert_true(bytes_equal_text(report.facts[1].algorithm, "rsa-sha256"));
    assert_true(bytes_equal_text(report.facts[1].signature_start, "F45dVWDf"));
    assert_int_equal(arc.result, AUTH_NONE);
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ rules of signatures */

static void check_tags(const char *tags, enum auth_result expected, const char *reason)
{
    set_message(MESSAGE);
    sign_with_tags(&message, tags, FROM_TO, NULL);
    check(expected, reason);
}

static void test_signature_rules(void **state)
{
    (void)state;
    check_tags(GOOD_TAGS, AUTH_PASS, "");
    check_tags(GOOD_TAGS "x-unknown=; ", AUTH_PERMERROR, "the signature is no list of tags"); /* '-' is not in a tag's name */
    check_tags(GOOD_TAGS "unknown_1=a b; ", AUTH_PASS, "");
    check_tags(GOOD_TAGS "; ", AUTH_PERMERROR, "the signature is no list of tags");
    check_tags(GOOD_TAGS "d=other.example; ", AUTH_PERMERROR, "the signature is no list of tags");
    check_tags("v=2; a=ed25519-sha256; c=relaxed/relaxed; d=football.example.com; s=ed; ", AUTH_PERMERROR,
               "the signature's version is not 1");
    check_tags("a=ed25519-sha256; c=relaxed/relaxed; d=football.example.com; s=ed; ", AUTH_PERMERROR, "the signature has no v=");
    check_tags("v=1; a=rsa-sha1; c=relaxed/relaxed; d=football.example.com; s=ed; ", AUTH_FAIL,
               "rsa-sha1 is not acceptable (RFC 8301)");
    check_tags("v=1; a=rsa-md5; c=relaxed/relaxed; d=football.example.com; s=ed; ", AUTH_PERMERROR, "a= is missing or unknown");
    check_tags("v=1; a=ed25519-sha256; c=nofws; d=football.example.com; s=ed; ", AUTH_PERMERROR, "c= is unknown");
    check_tags("v=1; a=ed25519-sha256; c=relaxed/relaxed; d=football..com; s=ed; ", AUTH_PERMERROR, "d= is missing or no domain");
    check_tags("v=1; a=ed25519-sha256; c=relaxed/relaxed; d=football.example.com; ", AUTH_PERMERROR,
               "s= is missing or no selector");
    check_tags(GOOD_TAGS "i=joe@football.example.com; ", AUTH_PASS, "");
    check_tags(GOOD_TAGS "i=joe@eng.football.example.com; ", AUTH_PASS, "");
    check_tags(GOOD_TAGS "i=joe @ eng.football.example.com; ", AUTH_PASS, "");
    check_tags(GOOD_TAGS "i=joe@notfootball.example.com; ", AUTH_PERMERROR, "i= is not within d=");
    check_tags(GOOD_TAGS "i=joe@example.com; ", AUTH_PERMERROR, "i= is not within d=");
    check_tags(GOOD_TAGS "i=football.example.com; ", AUTH_PERMERROR, "i= is not within d=");
    check_tags(GOOD_TAGS "q=dns/txt; ", AUTH_PASS, "");
    check_tags(GOOD_TAGS "q=pigeon:dns/txt; ", AUTH_PASS, "");
    check_tags(GOOD_TAGS "q=pigeon; ", AUTH_PERMERROR, "q= names no known method");
    check_tags(GOOD_TAGS "t=100; x=4102444800; ", AUTH_PASS, "");
    check_tags(GOOD_TAGS "t=100; x=200; ", AUTH_FAIL, "the signature has expired");
    check_tags(GOOD_TAGS "t=4102444800; x=4102444700; ", AUTH_PERMERROR, "x= is not after t=");
    check_tags(GOOD_TAGS "t=soon; ", AUTH_PERMERROR, "t= or x= is no time");
    check_tags(GOOD_TAGS "l=x; ", AUTH_PERMERROR, "l= is no length");
}

static void test_names_rules(void **state)
{
    CLEANUP(buffer_free) struct buffer names = BUFFER_WITH_LIMIT(MIB);

    (void)state;
    set_message(MESSAGE);
    sign_with_tags(&message, GOOD_TAGS, BYTES_LITERAL("to:subject"), NULL);
    check(AUTH_PERMERROR, "h= does not name From");
    set_message(MESSAGE);
    sign_with_tags(&message, GOOD_TAGS, BYTES_LITERAL("To : FROM:nonsense:from"), NULL);
    check(AUTH_PASS, "");
    for (int i = 0; i < DKIM_NAMES_MAX + 1; i++)
        buffer_add_text(&names, "from:");
    set_message(MESSAGE);
    sign_with_tags(&message, GOOD_TAGS, buffer_view(&names), NULL);
    check(AUTH_PERMERROR, "h= names too many fields");
}

/* Fields are taken from the bottom up: one added on top is not the signed one (RFC 6376 5.4.2). */
static void test_bottom_up(void **state)
{
    CLEANUP(buffer_free) struct buffer twice = BUFFER_WITH_LIMIT(MIB);

    (void)state;
    set_message(MESSAGE);
    sign_with_tags(&message, GOOD_TAGS, BYTES_LITERAL("from:subject"), NULL);
    buffer_add_text(&twice, "Subject: added\r\n");
    buffer_add(&twice, buffer_view(&message));
    assert_int_equal(verify_bytes(buffer_view(&twice), 100).facts[0].result, AUTH_PASS);
    set_message(MESSAGE);
    sign_message(&message, ED25519_PEM, BYTES_EMPTY); /* oversigned: nothing can be added */
    buffer_clear(&twice);
    buffer_add_text(&twice, "Subject: added\r\n");
    buffer_add(&twice, buffer_view(&message));
    assert_int_equal(verify_bytes(buffer_view(&twice), 100).facts[0].result, AUTH_FAIL);
}

static void test_from_once(void **state)
{
    CLEANUP(buffer_free) struct buffer twice = BUFFER_WITH_LIMIT(MIB);

    (void)state;
    set_message("To: a@b.example\r\n\r\nx\r\n");
    sign_with_tags(&message, GOOD_TAGS, FROM_TO, NULL);
    check(AUTH_PERMERROR, "the message has no From field");
    set_message(MESSAGE);
    sign_with_tags(&message, GOOD_TAGS, BYTES_LITERAL("from:to"), NULL);
    check(AUTH_PASS, "");
    buffer_add_text(&twice, "fRoM : evil@example.net\r\n");
    buffer_add(&twice, buffer_view(&message));
    assert_int_equal(verify_bytes(buffer_view(&twice), 100).facts[0].result, AUTH_PERMERROR);
    /* Not even when both are signed. */
    set_message("From: a@b.example\r\nFrom: c@d.example\r\n\r\n");
    sign_with_tags(&message, GOOD_TAGS, BYTES_LITERAL("from:from"), NULL);
    check(AUTH_PERMERROR, "the message has several From fields");
}

/* Digest of the first `count` octets of the relaxed body. */
static void limited_digest(const char *body, uint64_t limit, uint8_t value[DKIM_HASH_OCTETS])
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct dkim_bodies bodies = {0};
    const struct dkim_body_hash *hash = dkim_bodies_want(&bodies, &arena, true, limit);

    dkim_bodies_add(&bodies, bytes_of_text(body));
    dkim_bodies_finish(&bodies);
    memcpy(value, hash->value, DKIM_HASH_OCTETS);
    dkim_bodies_close(&bodies);
    arena_clear(&arena);
}

static void check_length(const char *tags, uint64_t limit, enum auth_result expected, const char *reason)
{
    uint8_t digest[DKIM_HASH_OCTETS];

    set_message("From: joe@football.example.com\r\n\r\nsigned\r\nand not\r\n");
    limited_digest("signed\r\nand not\r\n", limit, digest);
    sign_with_tags(&message, tags, FROM_TO, digest);
    check(expected, reason);
}

static void test_length_never_hides_bytes(void **state)
{
    (void)state;
    check_length(GOOD_TAGS "l=17; ", 17, AUTH_PASS, "");
    check_length(GOOD_TAGS "l=8; ", 8, AUTH_POLICY, "l= leaves a part of the body unsigned");
    check_length(GOOD_TAGS "l=0; ", 0, AUTH_POLICY, "l= leaves a part of the body unsigned");
    check_length(GOOD_TAGS "l=16; ", 16, AUTH_POLICY, "l= leaves a part of the body unsigned");
    check_length(GOOD_TAGS "l=18; ", 18, AUTH_FAIL, "l= is longer than the body");
    check_length(GOOD_TAGS "l=8; ", 9, AUTH_FAIL, "body hash did not verify");
    check_length(GOOD_TAGS "l=99999999999999999999999; ", 17, AUTH_PERMERROR, "l= is no length");
}

static void test_signature_limit(void **state)
{
    (void)state;
    set_message(MESSAGE);
    for (int i = 0; i < DKIM_SIGNATURES_MAX + 2; i++)
        sign_message(&message, i % 2 ? RSA_PEM : ED25519_PEM, BYTES_EMPTY);
    const struct dkim_report report = verify_bytes(buffer_view(&message), 1000);
    assert_int_equal(report.count, DKIM_SIGNATURES_MAX);
    assert_int_equal(report.ignored, 2);
    for (unsigned i = 0; i < report.count; i++)
        assert_int_equal(report.facts[i].result, AUTH_PASS);
}

/* ------------------------------------------------------------------ rules of keys */

static void check_key(const char *record, enum auth_result expected, const char *reason)
{
    set_message(MESSAGE);
    sign_with_tags(&message, GOOD_TAGS "i=joe@eng.football.example.com; ", FROM_TO, NULL);
    fake_zone_clear();
    if (record)
        fake_zone_add("ed._domainkey.football.example.com", DNS_TXT, bytes_of_text(record));
    check(expected, reason);
}

#define P "p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
static void test_key_rules(void **state)
{
    (void)state;
    check_key(NULL, AUTH_PERMERROR, "no key for the signature");
    check_key("k=ed25519; " P, AUTH_PASS, "");
    check_key(" v = DKIM1 ;k= ed25519; n=some; g=*; p=11qYAYKxCrfVS/7TyWQH\r\n Og7hcvPapiMlrwIaaPcHURo= ;", AUTH_PASS, "");
    check_key("k=ed25519; v=DKIM1; " P, AUTH_PERMERROR, "the record at the key's name is none of DKIM1");
    check_key("v=DKIM2; k=ed25519; " P, AUTH_PERMERROR, "the record at the key's name is none of DKIM1");
    check_key("v=spf1 -all", AUTH_PERMERROR, "the record at the key's name is none of DKIM1");
    check_key("hello", AUTH_PERMERROR, "the key record is no list of tags");
    check_key("v=DKIM1; k=ed25519; p=", AUTH_PERMERROR, "the key is revoked");
    check_key("v=DKIM1; k=ed25519", AUTH_PERMERROR, "the key record has no p=");
    check_key("v=DKIM1; k=ed448; " P, AUTH_PERMERROR, "the key's k= is unknown");
    check_key("v=DKIM1; " P, AUTH_PERMERROR, "the key is of another kind than a=");
    check_key("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo", AUTH_PERMERROR, "the key is not base 64");
    check_key("v=DKIM1; k=ed25519; p=11qYAYKxCrfV", AUTH_PERMERROR, "the key cannot be used");
    check_key("v=DKIM1; k=ed25519; h=sha1; " P, AUTH_PERMERROR, "the key is not for sha256");
    check_key("v=DKIM1; k=ed25519; h=sha1 : sha256; " P, AUTH_PASS, "");
    check_key("v=DKIM1; k=ed25519; s=tlsrpt; " P, AUTH_PERMERROR, "the key is not for mail");
    check_key("v=DKIM1; k=ed25519; s=tlsrpt:email; " P, AUTH_PASS, "");
    check_key("v=DKIM1; k=ed25519; s=*; " P, AUTH_PASS, "");
    check_key("v=DKIM1; k=ed25519; t=s; " P, AUTH_PERMERROR, "the key allows no i= below d=");
    check_key("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUR0=", AUTH_FAIL, "the signature did not verify");
}

static void test_key_testing_flag(void **state)
{
    (void)state;
    check_key("v=DKIM1; k=ed25519; t=y; " P, AUTH_PASS, "");
    assert_true(verify_bytes(buffer_view(&message), 99).facts[0].testing);
    check_key(ED25519_RECORD, AUTH_PASS, "");
    assert_false(verify_bytes(buffer_view(&message), 99).facts[0].testing);
}

static void test_deadline(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    const struct auth_dns dns = {.arena = &arena, .deadline_us = 1};
    struct dkim_report report;
    struct dkim *dkim = dkim_open(&arena);

    (void)state;
    set_message(MESSAGE);
    sign_message(&message, ED25519_PEM, BYTES_EMPTY);
    dkim_add(dkim, buffer_view(&message));
    dkim_finish(dkim, &dns, &report);
    assert_int_equal(report.facts[0].result, AUTH_TEMPERROR);
    assert_true(bytes_equal_text(report.facts[0].reason, "the time for look-ups is over"));
    dkim_close(&dkim);
    arena_clear(&arena);
}

/* What we repeat in fields of our own holds nothing but what belongs there. */
static void test_facts_are_clean(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct dkim_report report;
    struct arc_facts arc;

    (void)state;
    set_message("DKIM-Signature: v=1; a=evil\r\n (; d=a b; s=\"; i=joe\r\n x@a; b=(\"a\r\n b)\r\nFrom: a@b.example\r\n\r\n");
    verify_in_pieces(&arena, buffer_view(&message), 9, &report, &arc);
    assert_int_equal(report.count, 1);
    assert_int_equal(report.facts[0].result, AUTH_PERMERROR);
    assert_int_equal(report.facts[0].domain.count + report.facts[0].selector.count + report.facts[0].identity.count, 0);
    assert_int_equal(report.facts[0].algorithm.count, 0);
    assert_true(bytes_equal_text(report.facts[0].signature_start, "ab"));
    arena_clear(&arena);
}

static void test_key_faults(void **state)
{
    (void)state;
    set_message(MESSAGE);
    sign_message(&message, ED25519_PEM, BYTES_EMPTY);
    for (int fault = FAKE_TIMEOUT; fault <= FAKE_NOTHING; fault++) {
        fake_zone_clear();
        fake_zone_fault("ed._domainkey.football.example.com", DNS_TXT, (enum fake_fault)fault);
        if (fault == FAKE_NOTHING)
            check(AUTH_PERMERROR, "no key for the signature");
        else
            check(AUTH_TEMPERROR, "the key could not be fetched");
    }
    /* A body that differs fails whatever DNS would say: nothing to wait for. */
    fake_zone_clear();
    fake_zone_fault("ed._domainkey.football.example.com", DNS_TXT, FAKE_TIMEOUT);
    buffer_add_text(&message, "added\r\n");
    check(AUTH_FAIL, "body hash did not verify");
}

/* Two keys at one name: any of them may be the right one, in any order. */
static void test_several_records(void **state)
{
    static const char *const OTHERS[] = {"v=spf1 -all", RSA_RECORD, "v=DKIM1; k=ed25519; p=",
                                         "v=DKIM1; k=ed25519; p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="};

    (void)state;
    for (size_t i = 0; i < COUNT_OF(OTHERS); i++) {
        for (int order = 0; order < 2; order++) {
            set_message(MESSAGE);
            sign_message(&message, ED25519_PEM, BYTES_EMPTY);
            fake_zone_clear();
            fake_zone_add("ed._domainkey.football.example.com", DNS_TXT, bytes_of_text(order ? OTHERS[i] : ED25519_RECORD));
            fake_zone_add("ed._domainkey.football.example.com", DNS_TXT, bytes_of_text(order ? ED25519_RECORD : OTHERS[i]));
            check(AUTH_PASS, "");
        }
    }
}

static void test_short_rsa_key(void **state)
{
    (void)state;
    set_message(MESSAGE);
    sign_message(&message, RSA_PEM, BYTES_EMPTY);
    check(AUTH_PASS, "");
    fake_zone_clear();
    fake_zone_add("rsa._domainkey.football.example.com", DNS_TXT, bytes_of_text(RSA_512_RECORD));
    check(AUTH_FAIL, "the key is shorter than 1024 bits (RFC 8301)");
}

/* ------------------------------------------------------------------ every cut, every byte */

static void canonical_message(struct bytes text, struct buffer *into)
{
    struct header_walk walk = HEADER_WALK_OF(text);
    struct header_field field;

    buffer_clear(into);
    while (header_next(&walk, &field))
        dkim_field_canonical(into, field.whole, true);
    add_crlf(into, BYTES_LITERAL("\n"));
    /* The body's form: line by line as a field's, then no empty lines at the end. */
    struct bytes body = bytes_skip(text, header_end(text));
    while (body.count > 0) {
        const size_t end = bytes_find(body, BYTES_LITERAL("\r\n"));
        bool blank = false;
        for (size_t i = 0; i < end; i++) {
            if (body.at[i] == ' ' || body.at[i] == '\t') {
                blank = true;
                continue;
            }
            if (blank)
                buffer_add_byte(into, ' ');
            blank = false;
            buffer_add_byte(into, body.at[i]);
        }
        buffer_add_text(into, "\r\n");
        body = bytes_skip(body, end + 2);
    }
    while (bytes_ends_with_nocase(buffer_view(into), BYTES_LITERAL("\r\n\r\n")))
        into->count -= 2;
}

static bool same_form(struct bytes a, struct bytes b)
{
    CLEANUP(buffer_free) struct buffer one = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(buffer_free) struct buffer two = BUFFER_WITH_LIMIT(MIB);

    canonical_message(a, &one);
    canonical_message(b, &two);
    return bytes_equal(buffer_view(&one), buffer_view(&two));
}

static void check_mutation(struct bytes original, struct buffer *changed, size_t at)
{
    const struct dkim_report report = verify_bytes(buffer_view(changed), 1 << 20);
    const bool pass = report.count > 0 && report.facts[0].result == AUTH_PASS;
    const bool same = same_form(original, buffer_view(changed));

    if (pass && !same)
        fail_msg("byte %zu: 0x%02x may become 0x%02x", at, original.at[at], changed->at[at]);
}

static void check_mutations(const char *pem)
{
    static const uint8_t FLIPS[] = {0x01, 0x20, 0x80, 0x04};
    CLEANUP(buffer_free) struct buffer changed = BUFFER_WITH_LIMIT(MIB);

    set_message(MESSAGE);
    sign_message(&message, pem, BYTES_EMPTY);
    for (size_t i = 0; i < message.count; i++) {
        for (size_t k = 0; k < COUNT_OF(FLIPS); k++) {
            buffer_clear(&changed);
            buffer_add(&changed, buffer_view(&message));
            changed.at[i] ^= FLIPS[k];
            check_mutation(buffer_view(&message), &changed, i);
        }
    }
}

static void test_mutations(void **state)
{
    (void)state;
    check_mutations(ED25519_PEM);
    check_mutations(RSA_PEM);
}

/* Every prefix of the message: none passes unless it has the same form. */
static void test_prefixes(void **state)
{
    (void)state;
    set_message(MESSAGE);
    sign_message(&message, ED25519_PEM, BYTES_EMPTY);
    for (size_t i = 0; i <= message.count; i++) {
        const struct bytes prefix = bytes_slice(buffer_view(&message), 0, i);
        const struct dkim_report report = verify_bytes(prefix, 64);
        const bool pass = report.count > 0 && report.facts[0].result == AUTH_PASS;
        assert_true(!pass || same_form(prefix, buffer_view(&message)));
    }
    assert_int_equal(verify_bytes(buffer_view(&message), 1).facts[0].result, AUTH_PASS);
}

/* Every prefix of a signature field before the whole rest of the message. */
static void test_signature_prefixes(void **state)
{
    CLEANUP(buffer_free) struct buffer cut = BUFFER_WITH_LIMIT(MIB);
    unsigned passes = 0;

    (void)state;
    set_message(MESSAGE);
    sign_with_tags(&message, GOOD_TAGS, FROM_TO, NULL);
    const size_t end = message.count - strlen(MESSAGE) - 2;
    for (size_t i = 0; i < end; i++) {
        buffer_clear(&cut);
        buffer_add(&cut, bytes_slice(buffer_view(&message), 0, i));
        buffer_add_text(&cut, "\r\n");
        buffer_add_text(&cut, MESSAGE);
        const struct dkim_report report = verify_bytes(buffer_view(&cut), 1 << 20);
        passes += report.count > 0 && report.facts[0].result == AUTH_PASS;
    }
    assert_int_equal(passes, 0);
}

static void test_key_prefixes(void **state)
{
    struct dkim_key key;
    char *copy = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof ED25519_RECORD - 1; i++) {
        /* A copy of exactly that size, so that a read past its end is seen. */
        copy = malloc(i + 1);
        assert_non_null(copy);
        memcpy(copy, ED25519_RECORD, i);
        const char *problem = dkim_key_parse(bytes_of(copy, i), &key);
        assert_true(problem != NULL || i > strlen("v=DKIM1; k=ed25519; p="));
        free(copy);
    }
}

/* ------------------------------------------------------------------ bounds */

/* 50 MiB through every kind of canonical form: what is kept does not grow. */
static void test_constant_memory(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    const struct auth_dns dns = {.arena = &arena, .deadline_us = DEADLINE_NEVER};
    CLEANUP(buffer_free) struct buffer piece = BUFFER_WITH_LIMIT(MIB);
    struct dkim_report report;

    (void)state;
    set_message("From: a@b.example\r\n\r\n");
    sign_with_tags(&message, "v=1; a=ed25519-sha256; c=simple/simple; d=football.example.com; s=ed; ", FROM_TO, NULL);
    sign_with_tags(&message, GOOD_TAGS "l=1000; ", FROM_TO, NULL);
    sign_with_tags(&message, GOOD_TAGS, FROM_TO, NULL);
    for (int i = 0; i < 1024; i++)
        buffer_add_text(&piece, i % 64 == 0 ? "\r\n\r\n   \t\r\n  " : "Forty octets of text, with blanks  at  \t ");
    struct dkim *dkim = dkim_open(&arena);
    dkim_add(dkim, buffer_view(&message));
    dkim_add(dkim, buffer_view(&piece));
    const size_t used = arena.used_bytes;
    for (size_t sent = 0; sent < 50 * MIB; sent += piece.count)
        dkim_add(dkim, buffer_view(&piece));
    assert_int_equal(arena.used_bytes, used);
    assert_true(used < 24 * KIB);
    dkim_finish(dkim, &dns, &report);
    assert_int_equal(report.count, 3);
    dkim_close(&dkim);
    arena_clear(&arena);
}

/* A large body signed from a source and read back in odd pieces. */
static void test_large_body(void **state)
{
    (void)state;
    set_message(MESSAGE);
    for (int i = 0; i < 30000; i++)
        buffer_add_text(&message, i % 100 == 7 ? "\r\n \r\n" : "line with  some words and\ttabs \r\n");
    sign_message(&message, RSA_PEM, BYTES_EMPTY);
    assert_int_equal(verify_bytes(buffer_view(&message), 4099).facts[0].result, AUTH_PASS);
    assert_int_equal(verify_bytes(buffer_view(&message), 1 << 30).facts[0].result, AUTH_PASS);
}

/* Mail without signatures costs no hash. */
static void test_unsigned_is_idle(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    const struct auth_dns dns = {.arena = &arena, .deadline_us = DEADLINE_NEVER};
    struct dkim_report report;
    struct dkim *dkim = dkim_open(&arena);

    (void)state;
    dkim_add(dkim, BYTES_LITERAL(MESSAGE));
    assert_true(dkim->idle);
    assert_null(dkim->intake.bodies.simple);
    assert_null(dkim->intake.bodies.relaxed);
    dkim_finish(dkim, &dns, &report);
    assert_int_equal(report.count, 0);
    dkim_close(&dkim);
    assert_null(dkim);
    dkim_close(&dkim);
    arena_clear(&arena);
}

static void test_head_bounds(void **state)
{
    (void)state;
    set_message(MESSAGE);
    sign_message(&message, ED25519_PEM, BYTES_EMPTY);
    CLEANUP(buffer_free) struct buffer big = BUFFER_WITH_LIMIT(8 * MIB);
    const size_t signature_end = message.count - strlen(MESSAGE);
    buffer_add(&big, bytes_slice(buffer_view(&message), 0, signature_end));
    for (int i = 0; i < 20000; i++)
        buffer_add_text(&big, "X-Filler: a field that makes the header too large\r\n");
    buffer_add_text(&big, MESSAGE);
    const struct dkim_report report = verify_bytes(buffer_view(&big), 1000);
    assert_int_equal(report.count, 1);
    assert_int_equal(report.facts[0].result, AUTH_POLICY);
}

/* Memory that ends anywhere gives a temporary error, never a pass on half a look, never anything final but the truth. */
static void test_no_memory(void **state)
{
    unsigned passes = 0;

    (void)state;
    set_message(MESSAGE);
    sign_message(&message, RSA_PEM, BYTES_EMPTY);
    for (size_t limit = 0; limit < 200 * KIB; limit += 48) {
        struct arena arena = ARENA_WITH_LIMIT(limit);
        struct arena answers = ARENA_WITH_LIMIT(MIB);
        const struct auth_dns dns = {.arena = &answers, .deadline_us = DEADLINE_NEVER};
        struct dkim_report report;
        struct dkim *dkim = dkim_open(&arena);
        if (dkim) {
            dkim_add(dkim, buffer_view(&message));
            dkim_finish(dkim, &dns, &report);
            assert_int_equal(report.count, 1);
            assert_true(report.facts[0].result == AUTH_TEMPERROR || report.facts[0].result == AUTH_PASS);
            assert_true(report.facts[0].result != AUTH_PASS || report.facts[0].domain.count > 0);
            passes += report.facts[0].result == AUTH_PASS;
        }
        dkim_close(&dkim);
        arena_clear(&arena);
        arena_clear(&answers);
    }
    assert_true(passes > 0);
}

/* ------------------------------------------------------------------ signing */

static void test_signature_text(void **state)
{
    struct header_field field;
    size_t start = 0;

    (void)state;
    set_message(MESSAGE);
    sign_message(&message, RSA_PEM, BYTES_EMPTY);
    assert_true(header_find(buffer_view(&message), "DKIM-Signature", &field));
    for (size_t i = 0; i < field.whole.count; i++) {
        if (field.whole.at[i] != '\n')
            continue;
        assert_true(i - start <= 78);
        start = i + 1;
    }
    struct dkim_tags tags;
    assert_true(dkim_tags_parse(field.value, &tags));
    const struct bytes names = dkim_tags_value(&tags, "h");
    assert_true(dkim_list_has(names, ':', "from") && dkim_list_has(names, ':', "reply-to") && dkim_list_has(names, ':', "cc"));
    assert_true(bytes_equal_text(dkim_tags_value(&tags, "c"), "relaxed/relaxed"));
    assert_true(bytes_equal_text(dkim_tags_value(&tags, "t"), "1700000000"));
}

static void check_refusal(const char *text, const struct dkim_signer *wish, const char *expected)
{
    CLEANUP(buffer_free) struct buffer into = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(private_key_close) struct private_key *key = test_key(ED25519_PEM);
    struct memory_source memory = {bytes_of_text(text)};
    const struct auth_source source = {memory_source_read, &memory, memory.message.count + (text == MESSAGE ? 1 : 0)};
    struct dkim_signer signer = *wish;
    char why[160] = "";

    signer.key = key;
    assert_false(dkim_sign(&signer, &source, &into, why, sizeof why));
    assert_string_equal(why, expected);
    assert_int_equal(into.count, 0);
}

static void test_signing_refusals(void **state)
{
    const struct dkim_signer good = {.domain = "football.example.com", .selector = "ed"};
    const struct dkim_signer no_domain = {.domain = "foot ball", .selector = "ed"};
    const struct dkim_signer no_from = {.domain = "football.example.com", .selector = "ed", .headers = BYTES_LITERAL("to:subject")};
    const struct dkim_signer bad_name = {.domain = "football.example.com", .selector = "ed", .headers = BYTES_LITERAL("from:a;b")};

    (void)state;
    check_refusal("From: a@b.example\r\n\r\n", &no_domain, "the domain or the selector is none");
    check_refusal("From: a@b.example\r\n\r\n", &no_from, "the list of fields cannot be signed");
    check_refusal("From: a@b.example\r\n\r\n", &bad_name, "the list of fields cannot be signed");
    check_refusal("To: a@b.example\r\n\r\n", &good, "the message has not exactly one From field");
    check_refusal("From: a@b.example\r\nFrom: a@b.example\r\n\r\n", &good, "the message has not exactly one From field");
    check_refusal(MESSAGE, &good, "the message could not be read"); /* it ends a byte early */
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
        cmocka_unit_test(test_body_forms),        cmocka_unit_test(test_body_forms_of_any_text),
        cmocka_unit_test(test_field_forms),
        cmocka_unit_test(test_published_example), cmocka_unit_test(test_signature_rules),
        cmocka_unit_test(test_names_rules),       cmocka_unit_test(test_bottom_up),
        cmocka_unit_test(test_from_once),         cmocka_unit_test(test_length_never_hides_bytes),
        cmocka_unit_test(test_signature_limit),   cmocka_unit_test(test_key_rules),
        cmocka_unit_test(test_deadline),          cmocka_unit_test(test_facts_are_clean),
        cmocka_unit_test(test_key_testing_flag),  cmocka_unit_test(test_key_faults),
        cmocka_unit_test(test_several_records),   cmocka_unit_test(test_short_rsa_key),
        cmocka_unit_test(test_mutations),         cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_signature_prefixes), cmocka_unit_test(test_key_prefixes),
        cmocka_unit_test(test_constant_memory),   cmocka_unit_test(test_large_body),
        cmocka_unit_test(test_unsigned_is_idle),  cmocka_unit_test(test_head_bounds),
        cmocka_unit_test(test_no_memory),         cmocka_unit_test(test_signature_text),
        cmocka_unit_test(test_signing_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, end_group);
}
