/* verdict: the catalogue of causes and the fate idiom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "verdict/verdict.h"

static void test_zero_defers(void **state)
{
    const struct verdict forgotten = {0};
    char reply[VERDICT_REPLY_MAX];

    (void)state;
    assert_false(verdict_accepts(&forgotten));
    assert_int_equal(forgotten.kind, VERDICT_DEFER);
    verdict_print_reply(&forgotten, reply, sizeof reply);
    assert_memory_equal(reply, "451 4.3.0 ", 10);
}

static void test_codes_agree_with_class(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CAUSE_COUNT; i++) {
        const struct cause_row *row = cause_row((enum cause)i);
        const unsigned first = row->code / 100;
        assert_int_equal(first, row->kind == VERDICT_DEFER ? 4 : row->kind == VERDICT_REFUSE ? 5 : 2);
        assert_false(row->side == SIDE_OURS && row->kind == VERDICT_REFUSE);
        assert_true(row->name && *row->name && *row->text && *row->meaning && *row->advice);
        unsigned subject = 0, detail = 0;
        char rest = 0;
        assert_int_equal(sscanf(row->enhanced, "%u.%u%c", &subject, &detail, &rest), 2);
    }
}

static void test_names_are_unique_and_parse(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CAUSE_COUNT; i++) {
        enum cause back = CAUSE_COUNT;
        assert_true(cause_parse(bytes_of_text(cause_name((enum cause)i)), &back));
        assert_int_equal(back, i); /* a second row of the same name would be found first */
    }
    enum cause none;
    assert_false(cause_parse(BYTES_LITERAL("filter"), &none));
}

/* The answers that operators and scripts rely on, row by row. */
static void test_published_answers(void **state)
{
    static const struct {
        const char *name;
        unsigned code;
        const char *enhanced;
    } rows[] = {
        {"filter.timeout", 451, "3.0"},       {"filter.overloaded", 451, "3.2"},     {"filter.misconfigured", 451, "3.5"},
        {"filter.refused", 550, "7.1"},       {"dns.spf.temperror", 451, "7.24"},    {"spf.fail", 550, "7.23"},
        {"dns.dkim.temperror", 451, "7.5"},   {"dkim.none_passed", 550, "7.20"},     {"dns.dmarc.temperror", 451, "7.1"},
        {"dmarc.reject", 550, "7.1"},         {"dmarc.reject.multiple", 550, "7.26"}, {"arc.fail", 550, "7.29"},
        {"dns.reverse.temperror", 451, "7.25"}, {"reverse.absent", 550, "7.25"},     {"dns.sender.temperror", 451, "1.8"},
        {"sender.unresolvable", 550, "1.8"},  {"sender.null_mx", 550, "7.27"},       {"directory.unavailable", 451, "3.0"},
        {"directory.misconfigured", 451, "3.5"}, {"recipient.unknown", 550, "1.1"},  {"recipient.full", 452, "2.2"},
        {"recipient.full.final", 552, "2.2"}, {"recipient.too_many", 452, "5.3"},    {"relay.denied", 550, "7.1"},
        {"spool.full", 452, "3.1"},           {"spool.failed", 451, "3.0"},          {"server.busy", 421, "3.2"},
        {"server.stopping", 421, "3.2"},      {"client.idle", 421, "4.2"},           {"message.too_big", 552, "3.4"},
        {"message.loop", 554, "4.6"},         {"tls.required", 530, "7.0"},          {"tls.unavailable", 454, "7.0"},
        {"auth.failed", 535, "7.8"},          {"auth.unavailable", 454, "7.0"},      {"greylisted", 451, "7.1"},
        {"rate.limited", 450, "7.1"},         {"requiretls.unmet", 550, "7.30"},     {"destination.null_mx", 556, "1.10"},
        {"ambiguous.dot", 451, "4.2"},        {"recipient.disabled", 450, "2.1"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        enum cause cause;
        assert_true(cause_parse(bytes_of_text(rows[i].name), &cause));
        assert_int_equal(cause_row(cause)->code, rows[i].code);
        assert_string_equal(cause_row(cause)->enhanced, rows[i].enhanced);
    }
}

static struct verdict check_twice(enum cause first, enum cause second)
{
    REQUIRE(verdict_of(first));
    REQUIRE(verdict_of(second));
    return verdict_accept();
}

static void test_require_passes_the_first_objection(void **state)
{
    const struct verdict one = check_twice(CAUSE_SPOOL_FULL, CAUSE_FILTER_REFUSED);
    const struct verdict two = check_twice(CAUSE_ACCEPTED, CAUSE_FILTER_REFUSED);
    const struct verdict none = check_twice(CAUSE_ACCEPTED, CAUSE_ACCEPTED);

    (void)state;
    assert_int_equal(one.cause, CAUSE_SPOOL_FULL);
    assert_int_equal(two.cause, CAUSE_FILTER_REFUSED);
    assert_true(verdict_accepts(&none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_defers),
        cmocka_unit_test(test_codes_agree_with_class),
        cmocka_unit_test(test_names_are_unique_and_parse),
        cmocka_unit_test(test_published_answers),
        cmocka_unit_test(test_require_passes_the_first_objection),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
