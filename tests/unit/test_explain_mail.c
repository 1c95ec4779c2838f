/*
 * Bounces parsed and explained: RFC 3464, free text of several servers, complaints, automatic
 * answers, encodings, forwarded ones, and what is made to hurt a parser. All messages are made up.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "diagnose/diagnose.h"
#include "mail/mail.h"

static const char DSN[] =
    "From: MAILER-DAEMON@mx.a.example\r\nTo: <me@a.example>\r\nSubject: Undelivered\r\n"
    "MIME-Version: 1.0\r\n"
    "Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"b 1\"\r\n\r\n"
    "preamble\r\n--b 1\r\nContent-Type: text/plain\r\n\r\nIt failed.\r\n"
    "--b 1\r\nContent-Type: message/delivery-status\r\n\r\n"
    "Reporting-MTA: dns; mx.a.example\r\n\r\n"
    "Final-Recipient: rfc822; one@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n"
    "Remote-MTA: dns; mx.b.example\r\n"
    "Diagnostic-Code: smtp; 550-5.1.1 No such\r\n    550 5.1.1 user here\r\n\r\n"
    "Original-Recipient: rfc822;two@b.example\r\nFinal-Recipient: rfc822;two@b.example\r\n"
    "Action: delayed\r\nStatus: 4.2.2\r\nDiagnostic-Code: smtp; 452 4.2.2 Over quota\r\n\r\n"
    "--b 1\r\nContent-Type: message/rfc822\r\n\r\nSubject: user unknown spam virus\r\n\r\nx\r\n--b "
    "1--\r\n";

static json_t *explained(const char *message, size_t count)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    struct bounce *bounce = ARENA_NEW(&arena, struct bounce);
    json_t *made = NULL;

    assert_non_null(bounce);
    if (bounce_parse(&arena, bytes_of(message, count), bounce))
        made = explain_bounce(bounce);
    arena_clear(&arena);
    return made;
}

static const char *word(const json_t *row, const char *member)
{
    const char *text = json_string_value(json_object_get(row, member));

    return text ? text : "";
}

static void expect(const char *message, const char *form, const char *recipient, const char *reason)
{
    json_t *made = explained(message, strlen(message));

    assert_string_equal(word(made, "form"), form);
    assert_string_equal(word(made, "recipient"), recipient);
    assert_string_equal(word(made, "reason"), reason);
    json_decref(made);
}

static void status_groups_are_read(void **state)
{
    (void)state;
    json_t *made = explained(DSN, sizeof DSN - 1);
    const json_t *rows = json_object_get(made, "recipients");
    const json_t *second = json_array_get(rows, 1);

    assert_int_equal(json_array_size(rows), 2);
    assert_string_equal(word(made, "form"), "dsn");
    assert_string_equal(word(made, "recipient"), "one@b.example");
    assert_string_equal(word(made, "reason"), "userunknown");
    assert_string_equal(word(made, "kind"), "permanent");
    assert_string_equal(word(made, "host"), "mx.b.example");
    assert_string_equal(word(second, "recipient"), "two@b.example");
    assert_string_equal(word(second, "reason"), "mailboxfull");
    assert_string_equal(word(second, "kind"), "temporary");
    json_decref(made);
}

static void free_text_is_read(void **state)
{
    (void)state;
    expect("From: Mail Delivery System <Mailer-Daemon@a.example>\nTo: me@a.example\n"
           "X-Failed-Recipients: you@b.example\nSubject: Mail delivery failed\n\n"
           "A message that you sent could not be delivered.\n\n  you@b.example\n"
           "    SMTP error from remote mail server after RCPT TO:<you@b.example>:\n"
           "    host mx.b.example [192.0.2.1]: 550 5.2.1 account is disabled\n\n"
           "------ This is a copy of the message, including all the headers. ------\n\n"
           "Received: from x\nSubject: no such user\n",
           "text", "you@b.example", "suspend");
    expect("From: MAILER-DAEMON@a.example\nTo: me@a.example\nSubject: failure notice\n\n"
           "Hi. This is the qmail-send program at a.example.\n\n<you@b.example>:\n"
           "192.0.2.1 does not like recipient.\n"
           "Remote host said: 550 Mailbox quota exceeded\nGiving up on 192.0.2.1.\n\n"
           "--- Below this line is a copy of the message.\n\nReturn-Path: <me@a.example>\n",
           "text", "you@b.example", "mailboxfull");
    expect("From: Mail Delivery Subsystem <MAILER-DAEMON@a.example>\nTo: <me@a.example>\n"
           "Subject: Returned mail\n\n   ----- Transcript of session follows -----\n"
           "... while talking to mx.b.example.:\n>>> RCPT To:<you@b.example>\n"
           "<<< 550 5.1.1 User unknown\n550 <you@b.example>... User unknown\n\n"
           "   ----- Original message follows -----\nx\n",
           "text", "you@b.example", "userunknown");
}

static void complaints_and_answers_are_known(void **state)
{
    (void)state;
    expect("From: fbl@p.example\nSubject: complaint\n"
           "Content-Type: multipart/report; report-type=feedback-report; boundary=x\n\n"
           "--x\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\n\n--x--\n",
           "complaint", "", "feedback");
    expect("From: you@b.example\nSubject: Re: hello\nAuto-Submitted: auto-replied\n\n"
           "I am away; my mailbox is full of sand.\n",
           "vacation", "", "vacation");
}

static void encodings_are_undone(void **state)
{
    (void)state;
    /* "<you@b.example>: 550 5.7.1 Relaying denied" */
    expect("From: MAILER-DAEMON@a.example\nSubject: failed\nContent-Type: text/plain\n"
           "Content-Transfer-Encoding: base64\n\n"
           "PHlvdUBiLmV4YW1wbGU+OiA1NTAgNS43LjEgUmVsYXlpbmcg\nZGVuaWVk\n",
           "text", "you@b.example", "norelaying");
    expect("From: MAILER-DAEMON@a.example\nSubject: failed\nContent-Type: text/plain\n"
           "Content-Transfer-Encoding: quoted-printable\n\n"
           "<you=40b.example>: 550 5.7.1 Relay=\ning denied=\n",
           "text", "you@b.example", "norelaying");
}

/* As an attachment of a mail that is no bounce itself. */
static void forwarded_bounce_is_found(void **state)
{
    char message[4096];

    (void)state;
    snprintf(
        message, sizeof message,
        "From: me@a.example\nSubject: what is this?\nContent-Type: multipart/mixed; boundary=o\n\n"
        "--o\nContent-Type: text/plain\n\nsee below\n--o\nContent-Type: "
        "message/rfc822\n\n%s\n--o--\n",
        DSN);
    json_t *made = explained(message, strlen(message));
    assert_string_equal(word(made, "form"), "dsn");
    assert_string_equal(word(made, "recipient"), "one@b.example");
    json_decref(made);
}

static void every_prefix_ends_well(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof DSN; i++) {
        json_t *made = explained(DSN, i);
        assert_non_null(made);
        assert_true(*word(made, "reason"));
        json_decref(made);
    }
}

/* Parts in parts, and a hundred thousand recipients: bounded, and still an answer. */
static void hostile_ones_are_bounded(void **state)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(16 * MIB);

    (void)state;
    buffer_add_text(&text, "From: MAILER-DAEMON@a.example\n");
    for (unsigned i = 0; i < 2000; i++)
        buffer_print(&text, "Content-Type: multipart/mixed; boundary=b%u\n\n--b%u\n", i, i);
    json_t *made = explained((const char *)text.at, text.count);
    assert_non_null(made);
    json_decref(made);

    buffer_clear(&text);
    buffer_add_text(&text, "From: MAILER-DAEMON@a.example\n"
                           "Content-Type: message/delivery-status\n\n");
    for (unsigned i = 0; i < 100000; i++)
        buffer_print(&text, "Final-Recipient: rfc822; u%u@b.example\nAction: failed\n\n", i);
    made = explained((const char *)text.at, text.count);
    assert_int_equal(json_array_size(json_object_get(made, "recipients")), BOUNCE_RECIPIENTS_MAX);
    json_decref(made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_groups_are_read),
        cmocka_unit_test(free_text_is_read),
        cmocka_unit_test(complaints_and_answers_are_known),
        cmocka_unit_test(encodings_are_undone),
        cmocka_unit_test(forwarded_bounce_is_found),
        cmocka_unit_test(every_prefix_ends_well),
        cmocka_unit_test(hostile_ones_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
