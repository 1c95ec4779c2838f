/*
 * Replies explained: every registered enhanced code, the four codes that stand for "later", what
 * must not mislead, and replies in the words of many servers (all made up for this test).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "diagnose/diagnose.h"

static struct explanation explained(const char *reply)
{
    struct explanation it;
    const struct explain_question question = {.reply = bytes_of_text(reply)};

    explain_reply(&question, &it);
    return it;
}

struct sample {
    const char *reply, *reason, *cause;
    bool permanent;
};

static const struct sample SAMPLES[] = {
    {"451 4.7.1 Greylisted, come back in 300 seconds", "onhold", "greylisted", false},
    {"450 4.2.0 <a@b.example>: Recipient address rejected: Greylisted, see http://x.example/",
     "onhold", "greylisted", false},
    {"550 5.1.1 <spam@b.example>: Recipient address rejected: User unknown in local recipient "
     "table",
     "userunknown", "recipient.unknown", true},
    {"550 No such user here", "userunknown", "recipient.unknown", true},
    {"452 4.2.2 The email account is over quota", "mailboxfull", "recipient.full", false},
    {"552 5.2.2 Mailbox full", "mailboxfull", "recipient.full", true},
    {"452 4.3.1 Insufficient system storage", "systemfull", "remote.full", false},
    {"452 4.5.3 Too many recipients", "speeding", "recipient.too_many", false},
    {"421 4.7.0 Too many concurrent SMTP connections from your host", "toomanyconn", "client.busy",
     false},
    {"450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.9]", "requireptr",
     "reverse.absent", false},
    {"550 5.7.23 The message was rejected because of Sender Policy Framework violation",
     "authfailure", "spf.fail", true},
    {"451 4.7.24 SPF temporary error: DNS timeout", "authfailure", "dns.spf.temperror", false},
    {"550-5.7.26 Unauthenticated email from b.example is not accepted due to domain's\n"
     "550 5.7.26 DMARC policy. - gsmtp",
     "authfailure", "dmarc.reject", true},
    {"554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using zen.spamhaus.org",
     "blocked", "client.blocked", true},
    {"451 4.7.650 The mail server [192.0.2.9] has been temporarily rate limited due to IP "
     "reputation. S775",
     "badreputation", "client.reputation", false},
    {"554 5.7.1 <c@d.example>: Relay access denied", "norelaying", "relay.denied", true},
    {"554 5.4.6 Too many hops 31 (30 max)", "networkerror", "route.loop", true},
    {"550 5.7.1 Our virus scanner found Eicar-Test-Signature", "virusdetected", "message.infected",
     true},
    {"451 4.3.0 Virus scanner is not available", "systemerror", "remote.system", false},
    {"451 4.3.0 Content filter did not answer in time", "systemerror", "remote.system", false},
    {"552 5.3.4 Message size exceeds fixed limit", "mesgtoobig", "message.too_big", true},
    {"550 5.1.8 <x@gone.example>: Sender address rejected: Domain not found", "rejected",
     "sender.rejected", true},
    {"550 5.1.2 Host unknown", "hostunknown", "destination.unknown", true},
    {"556 5.1.10 Recipient address has null MX", "notaccept", "destination.null_mx", true},
    {"530 5.7.0 Must issue a STARTTLS command first", "securityerror", "tls.required", true},
    {"535 5.7.8 Error: authentication failed", "securityerror", "auth.failed", true},
    {"503 5.5.1 Bad sequence of commands", "syntaxerror", "protocol.syntax", true},
    {"550 5.2.1 The account has been suspended", "suspend", "recipient.disabled", true},
    {"connect to mx.b.example[192.0.2.1]:25: Connection refused", "expired", "connect.refused",
     false},
    {"250 2.0.0 Ok: queued as 12345", "delivered", "delivered", false},
    {"X-Unix; 78", "systemerror", "remote.system", false},
};

static void samples_are_understood(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(SAMPLES); i++) {
        const struct explanation it = explained(SAMPLES[i].reply);

        if (strcmp(explain_reason_name(it.reason), SAMPLES[i].reason) != 0 ||
            strcmp(it.cause, SAMPLES[i].cause) != 0)
            print_message("%s: %s %s\n", SAMPLES[i].reply, explain_reason_name(it.reason),
                          it.cause);
        assert_string_equal(explain_reason_name(it.reason), SAMPLES[i].reason);
        assert_string_equal(it.cause, SAMPLES[i].cause);
        assert_int_equal(it.permanent, SAMPLES[i].permanent);
        assert_true(strlen(it.meaning) > 10 && strlen(it.advice) > 10);
    }
}

/* All rows of the registry, and each of them is found by its digits. */
static void registry_is_whole(void **state)
{
    static const unsigned details[] = {0, 10, 4, 6, 7, 6, 10, 30};
    (void)state;
    for (unsigned subject = 0; subject < COUNT_OF(details); subject++)
        for (unsigned detail = 0; detail <= details[subject]; detail++) {
            char reply[32];
            snprintf(reply, sizeof reply, "451 4.%u.%u", subject, detail);
            const struct explanation it = explained(reply);
            json_t *made = explain_json(&it, BYTES_EMPTY);
            assert_non_null(json_object_get(made, "enhanced_meaning"));
            json_decref(made);
        }
}

static void four_codes_are_explained_in_full(void **state)
{
    static const char *const codes[] = {"421", "450", "451", "452"};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(codes); i++) {
        const struct explanation it = explained(codes[i]);
        json_t *made = explain_json(&it, BYTES_EMPTY);

        assert_false(it.permanent);
        assert_true(strlen(it.meaning) > 200);
        assert_true(strlen(json_string_value(json_object_get(made, "sender_does"))) > 100);
        assert_true(strlen(json_string_value(json_object_get(made, "receiver_does"))) > 100);
        json_decref(made);
    }
}

/* An address, an exit code, a version or an IP address is neither a code nor a word of the reply.
 */
static void names_and_numbers_do_not_mislead(void **state)
{
    (void)state;
    assert_int_equal(explained("<spam-virus@mailbox-full.example> hello 192.0.2.5").code, 0);
    assert_int_equal(explained("<spam-virus@mailbox-full.example> hello").reason,
                     EXPLAIN_UNDEFINED);
    assert_int_equal(explained("peer 5.1.1.1 said nothing").status[0], 0);
    assert_int_equal(explained("").reason, EXPLAIN_UNDEFINED);
    assert_false(explained("").permanent);
}

static void stage_decides_when_words_are_missing(void **state)
{
    struct explanation it;
    struct explain_question question = {.reply = BYTES_LITERAL("550 5.0.0 No"),
                                        .stage = BYTES_LITERAL("rcpt")};
    (void)state;
    explain_reply(&question, &it);
    assert_string_equal(explain_reason_name(it.reason), "userunknown");
    question.stage = BYTES_LITERAL("connect");
    explain_reply(&question, &it);
    assert_string_equal(explain_reason_name(it.reason), "blocked");
}

static void every_prefix_is_explained(void **state)
{
    static char reply[20000];
    struct explanation it;
    (void)state;
    for (size_t i = 0; i < sizeof reply; i++)
        reply[i] = "550-5.1.1 <a@b> \x00\xff'*|"[i % 22];
    for (size_t i = 0; i < sizeof reply; i += 97) {
        const struct explain_question question = {.reply = bytes_of(reply, i),
                                                  .host = bytes_of(reply, i)};
        explain_reply(&question, &it);
        json_t *made = explain_json(&it, question.reply);
        assert_non_null(made);
        json_decref(made);
    }
}

static void causes_of_ours_have_a_reason(void **state)
{
    (void)state;
    for (unsigned cause = 0; cause < CAUSE_COUNT; cause++) {
        json_t *made = explain_cause((enum cause)cause);
        assert_non_null(json_string_value(json_object_get(made, "reason")));
        json_decref(made);
    }
    json_t *made = explain_cause(CAUSE_FILTER_TIMEOUT);
    assert_string_equal(json_string_value(json_object_get(made, "reason")), "systemerror");
    assert_string_equal(json_string_value(json_object_get(made, "side")), "ours");
    json_decref(made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_are_understood),
        cmocka_unit_test(registry_is_whole),
        cmocka_unit_test(four_codes_are_explained_in_full),
        cmocka_unit_test(names_and_numbers_do_not_mislead),
        cmocka_unit_test(stage_decides_when_words_are_missing),
        cmocka_unit_test(every_prefix_is_explained),
        cmocka_unit_test(causes_of_ours_have_a_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
