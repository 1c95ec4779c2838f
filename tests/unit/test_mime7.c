/*
 * Messages made fit for 7-bit hosts. Called with "convert SIZE" it converts standard input in
 * pieces of that size, for check_mime7.py: exit code 0 with the result, or 10 and the fault's
 * number.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "mail/mail.h"

static void pass(struct mime7 *mime7, struct buffer *into, struct bytes text, size_t size)
{
    for (struct bytes rest = text; rest.count > 0; rest = bytes_skip(rest, size))
        mime7_add(mime7, into, bytes_slice(rest, 0, size));
    mime7_end(mime7, into);
}

static enum mime7_fault convert(struct bytes text, size_t size, struct buffer *into)
{
    struct mime7 mime7 = {0};

    mime7_begin(&mime7, false);
    pass(&mime7, into, text, size);
    const bool changes = mime7_changes(&mime7);
    if (mime7.fault == MIME7_FINE) {
        mime7_begin(&mime7, true);
        pass(&mime7, into, text, size);
    }
    const enum mime7_fault fault = mime7.fault;
    mime7_free(&mime7);
    if (fault == MIME7_FINE && !changes) {
        const struct bytes made = buffer_view(into);
        assert_true(bytes_equal(made, text));
    }
    return fault;
}

/* Whatever the pieces are. */
static void check(const char *text, const char *expected)
{
    for (size_t size = 1; size <= strlen(text) + 1; size++) {
        CLEANUP(buffer_free) struct buffer made = BUFFER_WITH_LIMIT(MIB);
        assert_int_equal(convert(bytes_of_text(text), size, &made), MIME7_FINE);
        buffer_add_byte(&made, 0);
        assert_string_equal((const char *)made.at, expected);
    }
}

static void check_fault(const char *text, enum mime7_fault fault)
{
    CLEANUP(buffer_free) struct buffer made = BUFFER_WITH_LIMIT(MIB);

    assert_int_equal(convert(bytes_of_text(text), 7, &made), fault);
}

#define PLAIN "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"

static void test_text(void **state UNUSED)
{
    check(PLAIN "Content-Transfer-Encoding: 8bit\r\nSubject: x\r\n\r\nfa\xc3\xa7"
                "ade = 1 \r\n\t\r\nlast",
          PLAIN "Subject: x\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
                "fa=C3=A7"
                "ade =3D 1=20\r\n=09\r\nlast");
    check("Subject: no MIME\r\n\r\ncaf\xe9 au lait\r\n",
          "Subject: no MIME\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; "
          "charset=unknown-8bit\r\n"
          "Content-Transfer-Encoding: quoted-printable\r\n\r\ncaf=E9 au lait\r\n");
    check(PLAIN "\r\n\xd0\x9f\xd0\xb8\xd1\x81\xd1\x8c\r\n",
          PLAIN "Content-Transfer-Encoding: base64\r\n\r\n0J/QuNGB0YwNCg==");
    /* Nothing beyond ASCII: the word for it is all that goes. */
    check(PLAIN "Content-transfer-encoding: 8BIT (x)\r\nTo: a\r\n\r\nplain\r\n",
          PLAIN "To: a\r\n\r\nplain\r\n");
    check(PLAIN "Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n",
          PLAIN "Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n");
}

static void test_long_lines(void **state UNUSED)
{
    char text[2000], expected[4000];
    size_t count = 0;

    snprintf(text, sizeof text, PLAIN "\r\n\xc3\xa7%01500d\r\n", 7);
    count += (size_t)snprintf(expected, sizeof expected,
                              PLAIN "Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A7");
    for (unsigned column = 6, left = 1500; left > 0; left--, column++) {
        if (column == 75) {
            count += (size_t)snprintf(expected + count, sizeof expected - count, "=\r\n");
            column = 0;
        }
        expected[count++] = left == 1 ? '7' : '0';
    }
    snprintf(expected + count, sizeof expected - count, "\r\n");
    check(text, expected);
}

#define MIXED "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; (c)\r\n\tboundary=\"a \\b\"\r\n"

#define BINARY_TEXT "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"

static void test_parts(void **state UNUSED)
{
    check(
        MIXED
        "Content-Transfer-Encoding: 8bit\r\n\r\npre\xff\r\n--a b\r\n\r\n\xc3\xa7 one two three\r\n"
        "--a b \t\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n"
        "\xff\xfe\n\r\n--a b\r\nContent-Type: text/html\r\n\r\n--a bc\r\nno\r\n--a "
        "b--\r\nafter\xfe\r\n",
        MIXED
        "\r\npre?\r\n--a b\r\n"
        "Content-Type: text/plain; charset=unknown-8bit\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A7 one two three\r\n"
        "--a b \t\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        "//4K\r\n--a b\r\nContent-Type: text/html\r\n\r\n--a bc\r\nno\r\n--a b--\r\nafter?\r\n");
    /* Text that is declared binary has line ends of its own, which quoted-printable would change.
     */
    check(BINARY_TEXT "Content-Transfer-Encoding: binary\r\n\r\n"
                      "words, words \xc3\xa7 and more\n than one\r\n",
          BINARY_TEXT "Content-Transfer-Encoding: base64\r\n\r\n"
                      "d29yZHMsIHdvcmRzIMOnIGFuZCBtb3JlCiB0aGFuIG9uZQ0K");
    /* A message within, and a part without a body. */
    check(
        MIXED
        "\r\n--a b\r\nContent-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" PLAIN
        "\r\nt\xc3\xa9 and some more\r\n--a b\r\nX: y\r\n--a b--\r\n",
        MIXED "\r\n--a b\r\nContent-Type: message/rfc822\r\n\r\n" PLAIN
              "Content-Transfer-Encoding: quoted-printable\r\n\r\nt=C3=A9 and some more\r\n"
              "--a b\r\nX: y\r\n--a b--\r\n");
}

#define SIGNED "MIME-Version: 1.0\r\nContent-Type: multipart/signed; boundary=s\r\n"

static void test_faults(void **state UNUSED)
{
    check_fault("Subject: \xc3\xa7\r\n\r\nplain\r\n", MIME7_HEADER);
    check_fault(MIXED
                "\r\n--a b\r\nContent-Disposition: x; filename=\xc3\xa7\r\n\r\n\r\n--a b--\r\n",
                MIME7_HEADER);
    check_fault(SIGNED "\r\n--s\r\n" PLAIN "\r\n\xc3\xa7\r\n--s--\r\n", MIME7_SIGNED);
    check_fault(SIGNED "\r\n\xc3\xa7\r\n--s\r\n" PLAIN "\r\nx\r\n--s--\r\n", MIME7_SIGNED);
    check_fault(SIGNED "\r\n--s\r\nContent-Type: message/rfc822\r\n\r\n" PLAIN
                       "\r\n\xc3\xa7\r\n--s--\r\n",
                MIME7_SIGNED);
    check_fault(PLAIN "Content-Transfer-Encoding: quoted-printable\r\n\r\n\xc3\xa7\r\n",
                MIME7_UNFIT);
    check_fault("Content-Type: message/partial\r\n\r\n\xc3\xa7\r\n", MIME7_UNFIT);
    check_fault("Content-Type: multipart/mixed\r\n\r\n\xc3\xa7\r\n", MIME7_UNFIT);
    /* What is signed and plain goes, with all its words. */
    check(SIGNED "Content-Transfer-Encoding: 8bit\r\n\r\n--s\r\nContent-Transfer-Encoding: "
                 "8bit\r\n\r\nx\r\n--s--\r\n",
          SIGNED "Content-Transfer-Encoding: 8bit\r\n\r\n--s\r\nContent-Transfer-Encoding: "
                 "8bit\r\n\r\nx\r\n--s--\r\n");
    /* Beside what is signed, others change. */
    check("Content-Type: multipart/mixed; boundary=m\r\nMIME-Version: "
          "1.0\r\n\r\n--m\r\nContent-Type: "
          "multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s--\r\n--m\r\n\r\na b c d "
          "\xc3\xa7\r\n--m--\r\n",
          "Content-Type: multipart/mixed; boundary=m\r\nMIME-Version: "
          "1.0\r\n\r\n--m\r\nContent-Type: "
          "multipart/signed; boundary=s\r\n\r\n--s\r\n\r\nx\r\n--s--\r\n--m\r\nContent-Type: "
          "text/plain; "
          "charset=unknown-8bit\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\na b c d "
          "=C3=A7\r\n--m--\r\n");
}

static void test_deep(void **state UNUSED)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(buffer_free) struct buffer made = BUFFER_WITH_LIMIT(MIB);

    for (unsigned i = 0; i < MIME7_DEPTH + 1; i++)
        buffer_print(&text, "Content-Type: multipart/mixed; boundary=b%u\r\n\r\n--b%u\r\n", i, i);
    buffer_add_text(&text, "\r\n\xc3\xa7\r\n");
    assert_int_equal(convert(buffer_view(&text), 100, &made), MIME7_LIMIT);
}

static int convert_input(size_t size)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * MIB);
    CLEANUP(buffer_free) struct buffer made = BUFFER_WITH_LIMIT(256 * MIB);
    uint8_t piece[4096];
    size_t got = 0;

    while ((got = fread(piece, 1, sizeof piece, stdin)) > 0)
        buffer_add(&text, bytes_of(piece, got));
    const enum mime7_fault fault = convert(buffer_view(&text), size, &made);
    fwrite(made.at, 1, made.count, stdout);
    return fault == MIME7_FINE ? 0 : 10 + (int)fault;
}

int main(int count, char **words)
{
    uint64_t size = 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),  cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_parts), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_deep),
    };

    if (count == 3 && bytes_to_u64(bytes_of_text(words[2]), &size) && size > 0)
        return convert_input((size_t)size);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
