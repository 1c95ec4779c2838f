/* directory: settings of LDAP and PostgreSQL sources, filters with hostile addresses; every prefix.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "directory/remote.h"

static const char LDAP[] =
    "ldap://h:389/ou=a%2cdc=b?cn?one?(&(mail={address})(|(cn={local})(!(x-y=1))))"
    "?!StartTLS,bindname=cn=a%2cdc=b,x-password-file=/p,x-ca-file=/c";

static void test_ldap(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * KIB);
    struct ldap_location at;
    (void)state;

    assert_null(ldap_location_read(&arena, bytes_of_text(LDAP), false, &at));
    assert_string_equal(at.server, "ldap://h:389");
    assert_string_equal(at.base, "ou=a,dc=b");
    assert_string_equal(at.attribute, "cn");
    assert_int_equal(at.scope, LDAP_SCOPE_OF_ONE);
    assert_int_equal(at.attribute_count, 3);
    assert_string_equal(at.attributes[2], "x-y");
    assert_true(at.start_tls);
    assert_string_equal(at.bind_name, "cn=a,dc=b");
    assert_string_equal(at.password_file, "/p");
    assert_null(ldap_location_read(&arena, BYTES_LITERAL("ldaps://h/dc=b"), true, &at));
    assert_string_equal(at.attribute, "rfc822MailMember");
    arena_clear(&arena);
}

static void test_ldap_wrong(void **state)
{
    static const char *const wrong[] = {
        "ldap://",
        "ldap:///dc=b",
        "ldap://h",
        "ldap://h/",
        "http://h/dc=b",
        "ldap://h/dc=b?a b",
        "ldap://h/dc=b??deep",
        "ldap://h/dc=b??sub?(mail=*)",
        "ldap://h/dc=b??sub?(mail={address}",
        "ldap://h/dc=b??sub?(mail={address}))",
        "ldap://h/dc=b??sub?(a={local})(b=1)",
        "ldap://h/dc=b????x-what=1",
        "ldap://h/dc=b????bindname=cn=a",
        "ldaps://h/dc=b????StartTLS",
        "ldap://h/dc=%4",
        "ldap://h/dc=%00",
    };
    struct arena arena = ARENA_WITH_LIMIT(256 * KIB);
    struct ldap_location at;
    (void)state;

    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_non_null(ldap_location_read(&arena, bytes_of_text(wrong[i]), false, &at));
    for (size_t i = 0; i < sizeof LDAP; i++)
        if (!ldap_location_read(&arena, bytes_of(LDAP, i), false, &at))
            assert_true(at.base[0] && at.attribute_count > 0);
    arena_clear(&arena);
}

static void expect_filter(const char *local, const char *filter)
{
    struct remote_question question;
    struct buffer into = BUFFER_WITH_LIMIT(KIB);

    assert_true(remote_question_fill(
        &question, (struct address){bytes_of_text(local), BYTES_LITERAL("B.Example")}));
    ldap_filter_fill(&into, BYTES_LITERAL("(&(m={address})(l={local})(d={domain}))"), &question);
    buffer_add_byte(&into, 0);
    assert_string_equal((const char *)into.at, filter);
    buffer_free(&into);
}

static void test_escapes(void **state)
{
    struct remote_question question;
    (void)state;

    expect_filter("Al", "(&(m=al@b.example)(l=al)(d=b.example))");
    expect_filter("*)(x=\\",
                  "(&(m=\\2a\\29\\28x=\\5c@b.example)(l=\\2a\\29\\28x=\\5c)(d=b.example))");
    expect_filter("{domain}", "(&(m=\\7bdomain\\7d@b.example)(l=\\7bdomain\\7d)(d=b.example))");
    assert_false(remote_question_fill(
        &question, (struct address){bytes_of("a\0b", 3), BYTES_LITERAL("b.example")}));
    assert_false(remote_question_fill(
        &question, (struct address){BYTES_LITERAL("\xff"), BYTES_LITERAL("b.example")}));
}

/* Whatever keeps a source from answering, half an answer too: it has failed, and nobody is absent.
 */
static void test_no_answer_is_a_failure(void **state)
{
    struct remote_answer answer = {.status = LOOKUP_FOUND};

    (void)state;
    for (int reason = LOOKUP_REASON_UNKNOWN; reason <= LOOKUP_REASON_CANCELLED; reason++) {
        answer.status = LOOKUP_ABSENT;
        remote_answer_fail(&answer, (enum lookup_reason)reason, "two\nlines");
        assert_int_equal(answer.status, LOOKUP_FAILED);
        assert_int_equal(answer.reason, reason);
        assert_string_equal(answer.words, "two");
    }
    answer.status = LOOKUP_FOUND;
    for (unsigned i = 0; i < REMOTE_TARGETS_MAX && answer.status == LOOKUP_FOUND; i++)
        remote_answer_add_target(&answer, BYTES_LITERAL("one of very many members"));
    assert_int_equal(answer.status, LOOKUP_FAILED);
    assert_int_equal(answer.reason, LOOKUP_REASON_PARTIAL);
    buffer_free(&answer.targets);
}

static const char POSTGRESQL[] =
    "postgresql://u@h:1/d?sslmode=disable&query=SELECT ':address', \"a:local\", x::text FROM t "
    "WHERE a = :address AND d = :domain AND y = ':x%27'&passfile=/p";

static void test_postgresql(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(256 * KIB);
    struct postgresql_location at;
    (void)state;

    assert_null(postgresql_location_read(&arena, bytes_of_text(POSTGRESQL), false, &at));
    assert_string_equal(at.uri, "postgresql://u@h:1/d?sslmode=disable&passfile=/p");
    assert_string_equal(at.query, "SELECT ':address', \"a:local\", x::text FROM t WHERE a = $1 AND "
                                  "d = $3 AND y = ':x''");
    assert_true(at.uses[0] && !at.uses[1] && at.uses[2]);
    assert_null(postgresql_location_read(&arena, BYTES_LITERAL("postgresql://h/d"), true, &at));
    assert_non_null(strstr(at.query, "FROM \"aliases\" WHERE lower(address) = $1"));
    assert_non_null(
        postgresql_location_read(&arena, BYTES_LITERAL("postgresql://h/d?table=a\"b"), true, &at));
    assert_non_null(postgresql_location_read(
        &arena, BYTES_LITERAL("postgresql://h/d?query=SELECT 1"), true, &at));
    for (size_t i = 0; i < sizeof POSTGRESQL; i++)
        if (!postgresql_location_read(&arena, bytes_of(POSTGRESQL, i), false, &at))
            assert_true(at.uses[0] || at.uses[1]);
    arena_clear(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ldap),       cmocka_unit_test(test_ldap_wrong),
        cmocka_unit_test(test_escapes),    cmocka_unit_test(test_no_answer_is_a_failure),
        cmocka_unit_test(test_postgresql),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
