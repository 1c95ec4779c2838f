/* What logins and proxies say, as bytes: SASL messages, SCRAM keys, PROXY headers, Dovecot's
 * answers; each cut at every byte. */
#include "memory_stream.h"
#include "world_check.h"

#include "directory/source.h"
#include "receive/proxy.h"
#include "receive/sasl.h"
#include "wire/dovecot_auth.h"

#define KEYS                                                                                       \
    "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$Xzcxp8pR/VYhs3ezUhZcbISS7I0/Hv7eOWWD9HJRjHU=:"    \
    "zjzgU+nj5Y2b5hJjS8gfESFZ/t6elbKdmaJaguOioHc="

static void test_command(void **unused UNUSED)
{
    struct sasl_command command = sasl_parse_command(BYTES_LITERAL("PLAIN"));

    assert_true(bytes_equal_text(command.mechanism, "PLAIN") && !command.has_initial);
    command = sasl_parse_command(BYTES_LITERAL("PLAIN ="));
    assert_true(command.has_initial && command.initial.count == 0);
    command = sasl_parse_command(BYTES_LITERAL("PLAIN  AGEAYg== "));
    assert_true(command.has_initial && bytes_equal_text(command.initial, "AGEAYg=="));
}

static void test_plain(void **unused UNUSED)
{
    static const char *const bad[] = {"", "a", "|", "a|b", "|b|", "||c", "|b|c|d", "|b|c|"};
    static const char good[] = "\0user\0pass";
    struct sasl_plain plain;

    assert_true(sasl_parse_plain(bytes_of(good, sizeof good - 1), &plain));
    assert_true(plain.act_as.count == 0 && bytes_equal_text(plain.name, "user") &&
                bytes_equal_text(plain.password, "pass"));
    for (size_t cut = 0; cut < sizeof good - 5; cut++)
        assert_false(sasl_parse_plain(bytes_of(good, cut), &plain));
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char text[16];
        const int count = snprintf(text, sizeof text, "%s", bad[i]);
        for (int k = 0; k < count; k++)
            text[k] = text[k] == '|' ? '\0' : text[k];
        assert_false(sasl_parse_plain(bytes_of(text, (size_t)count), &plain));
    }
}

static bool scram_user_is(struct arena *arena, const char *message, const char *right)
{
    struct bytes user;
    const bool found = sasl_scram_user(arena, bytes_of_text(message), &user);

    return right ? found && bytes_equal_text(user, right) : !found;
}

static void test_scram_user(void **unused UNUSED)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);

    assert_true(scram_user_is(&arena, "n,,n=user,r=nonce", "user"));
    assert_true(scram_user_is(&arena, "p=tls-exporter,a=x,n=a=2Cb=3Dc,r=n", "a,b=c"));
    assert_true(scram_user_is(&arena, "n,,n=a=2cb,r=n", NULL));
    assert_true(scram_user_is(&arena, "n,,n=a=,r=n", NULL));
    assert_true(scram_user_is(&arena, "n,,n=,r=n", NULL));
    assert_true(scram_user_is(&arena, "n,,m=ext,n=u,r=n", NULL));
    assert_true(scram_user_is(&arena, "", NULL));
    assert_true(sasl_scram_is_text(BYTES_LITERAL("c=biws,r=nonce,p=x")));
    assert_false(sasl_scram_is_text(BYTES_LITERAL("c=biws,r=nonce\0,p=x")));
    arena_clear(&arena);
}

static void test_scram_keys(void **unused UNUSED)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct directory_scram scram;

    assert_true(directory_parse_scram(&arena, BYTES_LITERAL(KEYS), &scram));
    assert_int_equal(scram.iterations, 4096);
    assert_true(bytes_equal_text(scram.salt, "0123456789abcdef"));
    for (size_t cut = 0; cut < sizeof KEYS - 1; cut++)
        assert_false(directory_parse_scram(&arena, bytes_of(KEYS, cut), &scram));
    arena_clear(&arena);
}

/* The fields of a line of a users file, and the two colons within keys. */
static void test_users_fields(void **unused UNUSED)
{
    struct snapshot snapshot = {.arena = ARENA_WITH_LIMIT(MIB), .state = lookup_found()};

    snapshot.files[0].path = "users";
    users_parse(&snapshot, BYTES_LITERAL("a:" KEYS ":disabled=yes\nb:scram=" KEYS
                                         ":senders=x@y.example, @z.example\nc:$6$salt$hash\n"));
    assert_int_equal(snapshot.state.status, LOOKUP_FOUND);
    const struct file_user *a = name_table_find(&snapshot.names, BYTES_LITERAL("a"));
    const struct file_user *b = name_table_find(&snapshot.names, BYTES_LITERAL("b"));
    assert_true(a && bytes_equal_text(a->password, KEYS) && a->flags == DIRECTORY_DISABLED);
    assert_true(b && bytes_equal_text(b->scram, KEYS) && b->password.count == 0);
    assert_true(bytes_equal_text(b->senders, "x@y.example, @z.example"));
    arena_clear(&snapshot.arena);
}

/* ------------------------------------------------------------------ PROXY */

static void test_proxy_1(void **unused UNUSED)
{
    static const char *const bad[] = {
        "PROXY",
        "PROXY ",
        "PROXY TCP4",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2",
        "proxy TCP4 1.2.3.4 5.6.7.8 1 2",
    };
    struct proxy_facts facts;

    assert_true(proxy_parse_1(BYTES_LITERAL("PROXY TCP4 1.2.3.4 5.6.7.8 11 25\r\n"), &facts));
    assert_true(!facts.local && facts.from.port == 11 && facts.to.port == 25 &&
                facts.from.ip.octets[3] == 4 && facts.to.ip.octets[0] == 5);
    assert_true(proxy_parse_1(BYTES_LITERAL("PROXY TCP6 2001:db8::1 ::1 11 25\r\n"), &facts));
    assert_int_equal(facts.from.family, ENDPOINT_IPV6);
    assert_true(proxy_parse_1(BYTES_LITERAL("PROXY UNKNOWN whatever\r\n"), &facts) && facts.local);
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        assert_false(proxy_parse_1(bytes_of_text(bad[i]), &facts));
}

static void test_proxy_2(void **unused UNUSED)
{
    static const uint8_t head[] = "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    static const uint8_t body[] = {1, 2, 3, 4, 5, 6, 7, 8, 0, 11, 0, 25};
    const struct bytes whole = bytes_of(head, PROXY_V2_HEAD), rest = bytes_of(body, sizeof body);
    struct proxy_facts facts;
    size_t follow = 0;

    assert_true(proxy_parse_2_head(whole, &follow) && follow == sizeof body);
    assert_true(proxy_parse_2(whole, rest, &facts) && !facts.local);
    assert_true(facts.from.ip.octets[0] == 1 && facts.from.port == 11 && facts.to.port == 25);
    for (size_t cut = 0; cut < PROXY_V2_HEAD; cut++)
        assert_false(proxy_parse_2_head(bytes_slice(whole, 0, cut), &follow));
    for (size_t cut = 0; cut < sizeof body; cut++)
        assert_false(proxy_parse_2(whole, bytes_slice(rest, 0, cut), &facts));
}

/* ------------------------------------------------------------------ Dovecot */

#define HELLO "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\tx\nDONE\n"

static struct dovecot_answer ask(struct arena *arena, struct bytes said)
{
    const struct dovecot_request request = {
        .mechanism = "PLAIN", .initial = BYTES_LITERAL("\0u\0p"), .has_initial = true};
    struct memory_stream memory = memory_stream_of(said);
    struct dovecot_auth *auth = NULL;
    const struct dovecot_answer answer = dovecot_auth_talk(arena, &memory.stream, &request, &auth);
    const struct bytes sent = buffer_view(&memory.written);

    assert_true(answer.result == DOVECOT_FAILED ||
                bytes_find(sent, BYTES_LITERAL("\tresp=AHUAcA==\n")) < sent.count);
    dovecot_auth_close(&auth);
    buffer_free(&memory.written);
    return answer;
}

static void test_dovecot(void **unused UNUSED)
{
    static const struct {
        const char *said;
        enum dovecot_result right;
    } rows[] = {
        {HELLO "OK\t1\tuser=u@d.example\n", DOVECOT_OK},
        {HELLO "FAIL\t1\tuser=u\n", DOVECOT_DENIED},
        {HELLO "FAIL\t1\tuser=u\ttemp\n", DOVECOT_FAILED},
        {HELLO "FAIL\t1\tuser=u\tcode=temp_fail\n", DOVECOT_FAILED},
        {HELLO "FAIL\t1\ttemp\treason\n", DOVECOT_FAILED},
        {HELLO "FAIL\t1\treason=\n", DOVECOT_DENIED},
        {HELLO "OK\t1\n", DOVECOT_FAILED},
        {HELLO "FAIL\t2\tuser=u\nOK\t1\tuser=u\n", DOVECOT_OK},
        {HELLO "OK\t2\tuser=u\n", DOVECOT_FAILED},
        {HELLO "CONT\t1\tAGE=\n", DOVECOT_CONTINUE},
        {HELLO "CONT\t1\t!\n", DOVECOT_FAILED},
        {"VERSION\t2\t0\nDONE\nOK\t1\tuser=u\n", DOVECOT_FAILED},
        {"DONE\nOK\t1\tuser=u\n", DOVECOT_FAILED},
    };
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const struct dovecot_answer answer = ask(&arena, bytes_of_text(rows[i].said));

        assert_int_equal(answer.result, rows[i].right);
        if (answer.result == DOVECOT_FAILED || answer.result == DOVECOT_DENIED)
            assert_true(answer.words.count > 0); /* an operator reads them */
    }
    /* Half an answer is none: neither a login nor a refusal. */
    for (size_t i = 0; i < 2; i++)
        for (size_t cut = 0; rows[i].said[cut + 1]; cut++)
            assert_int_equal(ask(&arena, bytes_slice(bytes_of_text(rows[i].said), 0, cut)).result,
                             DOVECOT_FAILED);
    arena_clear(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command),      cmocka_unit_test(test_plain),
        cmocka_unit_test(test_scram_user),   cmocka_unit_test(test_scram_keys),
        cmocka_unit_test(test_users_fields), cmocka_unit_test(test_proxy_1),
        cmocka_unit_test(test_proxy_2),      cmocka_unit_test(test_dovecot),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
