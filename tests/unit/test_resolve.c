/* resolve: the codec on hostile bytes, and real questions to a scripted server on loopback. */
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "resolve/codec.h"
#include "resolve/resolve.h"

/* ------------------------------------------------------------------ the scripted server */

enum { DROP = -1, TRUNCATED = -2 };

/* One row a question. `answer` is a list of records: "MX 10 a.example", "A 192.0.2.1", ... */
struct script_row {
    const char *name;
    unsigned type;
    int rcode; /* DROP: never answered; TRUNCATED: come by TCP, where nobody listens */
    const char *answers[6];
};

static const struct script_row SCRIPT[] = {
    {"one.example", DNS_MX, 0, {"MX 10 mx.one.example"}},
    {"mx.one.example", DNS_A, 0, {"A 192.0.2.1", "A 192.0.2.2"}},
    {"mx.one.example", DNS_AAAA, 0, {"AAAA 2001:db8::1"}},
    {"three.example",
     DNS_MX,
     0,
     {"MX 20 c.three.example", "MX 10 a.three.example", "MX 10 b.three.example"}},
    {"a.three.example", DNS_A, 0, {"A 192.0.2.10"}},
    {"b.three.example", DNS_A, 2, {NULL}},
    {"b.three.example", DNS_AAAA, 2, {NULL}},
    {"c.three.example", DNS_A, 0, {"A 192.0.2.12"}},
    {"null.example", DNS_MX, 0, {"MX 0 ."}},
    {"implicit.example", DNS_A, 0, {"A 192.0.2.20"}},
    {"nothing.example", DNS_TXT, 0, {"TXT there"}},
    {"gone.example", DNS_A, 3, {NULL}},
    {"gone.example", DNS_MX, 3, {NULL}},
    {"sick.example", DNS_MX, 2, {NULL}},
    {"silent.example", DNS_MX, DROP, {NULL}},
    {"half.example", DNS_MX, 0, {"MX 10 mx.half.example"}},
    {"mx.half.example", DNS_A, DROP, {NULL}},
    {"dead.example", DNS_MX, 0, {"MX 10 mx.dead.example"}},
    {"mx.dead.example", DNS_A, 3, {NULL}},
    {"mx.dead.example", DNS_AAAA, 3, {NULL}},
    {"text.example", DNS_TXT, 0, {"TXT v=spf1 -all"}},
    {"1.2.0.192.in-addr.arpa", DNS_PTR, 0, {"PTR liar.example", "PTR mx.one.example"}},
    {"liar.example", DNS_A, 0, {"A 192.0.2.99"}},
    {"3.2.0.192.in-addr.arpa", DNS_PTR, 0, {"PTR liar.example"}},
    {"4.2.0.192.in-addr.arpa", DNS_PTR, 0, {"PTR sicker.example"}},
    {"sicker.example", DNS_A, 2, {NULL}},
    {"5.2.0.192.in-addr.arpa", DNS_PTR, 3, {NULL}},
    {"1.0.0.127.in-addr.arpa", DNS_PTR, 0, {"PTR home.example"}},
    {"home.example", DNS_A, 0, {"A 127.0.0.1"}},
    {"alias.example", DNS_MX, 0, {"CNAME one.example"}},
    {"ring1.example", DNS_MX, 0, {"CNAME ring2.example"}},
    {"ring2.example", DNS_MX, 0, {"CNAME ring1.example"}},
    {"large.example", DNS_TXT, TRUNCATED, {NULL}},
    {"signed.example", DNS_MX, 0, {"MX 10 mx.signed.example"}},
};

static int server_socket;
static uint16_t server_port;

static size_t put_name(uint8_t *into, const char *name)
{
    size_t used = 0;

    while (*name && strcmp(name, ".") != 0) {
        const size_t label = strcspn(name, ".");

        into[used++] = (uint8_t)label;
        memcpy(into + used, name, label);
        used += label;
        name += label + (name[label] == '.');
    }
    into[used++] = 0;
    return used;
}

static size_t put_u16(uint8_t *into, unsigned value)
{
    into[0] = (uint8_t)(value >> 8);
    into[1] = (uint8_t)value;
    return 2;
}

static size_t put_data(uint8_t *into, const char *text)
{
    const char *value = strchr(text, ' ') + 1;
    struct ip_address ip;

    if (text[0] == 'M') {
        char *host = NULL;
        const size_t used = put_u16(into, (unsigned)strtoul(value, &host, 10));

        return used + put_name(into + used, host + 1);
    }
    if (text[0] == 'P' || text[0] == 'C')
        return put_name(into, value);
    if (text[0] == 'T') {
        into[0] = (uint8_t)strlen(value);
        memcpy(into + 1, value, strlen(value));
        return 1 + strlen(value);
    }
    assert_true(ip_parse(bytes_of_text(value), &ip));
    memcpy(into, ip.octets, ip_bytes(&ip));
    return ip_bytes(&ip);
}

/* The question's name as text; returns the offset behind the question. */
static size_t take_question(const uint8_t *packet, char *name, unsigned *type)
{
    size_t at = 12, used = 0;

    while (packet[at] != 0) {
        if (used > 0)
            name[used++] = '.';
        for (size_t i = 0; i < packet[at]; i++)
            name[used++] = (char)ascii_lower(packet[at + 1 + i]);
        at += 1u + packet[at];
    }
    name[used] = '\0';
    *type = (unsigned)(packet[at + 1] << 8 | packet[at + 2]);
    return at + 5;
}

static size_t build_answer(uint8_t *packet, const struct script_row *row, size_t used,
                           unsigned type)
{
    unsigned count = 0;

    for (; row && count < COUNT_OF(row->answers) && row->answers[count]; count++) {
        used += put_u16(packet + used, 0xc00c);
        used += put_u16(packet + used, row->answers[count][0] == 'C' ? DNS_CNAME : type);
        used += put_u16(packet + used, 1);
        used += put_u16(packet + used, 0);
        used += put_u16(packet + used, 0); /* never cached */
        const size_t length = put_data(packet + used + 2, row->answers[count]);

        put_u16(packet + used, (unsigned)length);
        used += 2 + length;
    }
    const bool truncated = row && row->rcode == TRUNCATED;

    packet[2] = truncated ? 0x83 : 0x81;
    packet[3] = (uint8_t)(0x80 | (row && !truncated ? row->rcode : 0));
    put_u16(packet + 6, count);
    put_u16(packet + 8, 0);
    put_u16(packet + 10, 0);
    return used;
}

static void *serve(void *nothing)
{
    uint8_t packet[4096] = {0};
    char name[512];

    for (;;) {
        struct sockaddr_in peer;
        socklen_t peer_size = sizeof peer;
        const ssize_t got =
            recvfrom(server_socket, packet, 1024, 0, (struct sockaddr *)&peer, &peer_size);
        const struct script_row *row = NULL;
        unsigned type = 0;

        if (got < 17)
            return nothing;
        const size_t used = take_question(packet, name, &type);

        for (size_t i = 0; i < COUNT_OF(SCRIPT); i++)
            if (strcmp(SCRIPT[i].name, name) == 0 && SCRIPT[i].type == type)
                row = &SCRIPT[i];
        if (row && row->rcode == DROP)
            continue;
        const size_t size = build_answer(packet, row, used, type);
        const ssize_t sent =
            sendto(server_socket, packet, size, 0, (struct sockaddr *)&peer, peer_size);

        if (sent < 0)
            return nothing;
    }
}

static void server_start(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    pthread_t thread;

    server_socket = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(bind(server_socket, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(getsockname(server_socket, (struct sockaddr *)&at, &size), 0);
    server_port = ntohs(at.sin_port);
    assert_int_equal(pthread_create(&thread, NULL, serve, NULL), 0);
    pthread_detach(thread);
}

/* ------------------------------------------------------------------ the codec */

static void test_name_text(void **state)
{
    char text[DNS_NAME_MAX + 2], longest[300];
    (void)state;

    assert_true(dns_name_text(BYTES_LITERAL("Example.COM."), text, sizeof text));
    assert_string_equal(text, "example.com");
    assert_true(dns_name_text(BYTES_LITERAL("."), text, sizeof text));
    assert_string_equal(text, ".");
    assert_true(dns_name_text(BYTES_LITERAL("a b.example"), text, sizeof text)); /* SPF's %_ */
    assert_string_equal(text, "a b.example");
    static const char *const bad[] = {"", "a..b", ".a", "a\\.b", "a\"b", "..", "a\tb"};

    for (size_t i = 0; i < COUNT_OF(bad); i++)
        assert_false(dns_name_text(bytes_of_text(bad[i]), text, sizeof text));
    assert_false(dns_name_text(BYTES_LITERAL("a\0b"), text, sizeof text));
    assert_true(dns_name_text(BYTES_LITERAL("B\303\274cher.example"), text, sizeof text));
    assert_string_equal(text, "xn--bcher-kva.example");
    assert_false(dns_name_text(BYTES_LITERAL("b\374cher.example"), text, sizeof text));
    memset(longest, 'a', sizeof longest);
    assert_true(dns_name_text(bytes_of(longest, 63), text, sizeof text));
    assert_false(dns_name_text(bytes_of(longest, 64), text, sizeof text));
    for (size_t i = 50; i < sizeof longest; i += 50)
        longest[i] = '.';
    assert_true(dns_name_text(bytes_of(longest, 253), text, sizeof text));
    assert_false(dns_name_text(bytes_of(longest, 254), text, sizeof text));
}

static bool decodes(enum dns_type type, struct bytes data, struct dns_record *record)
{
    struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    const bool right = dns_record_decode(&arena, type, data, record);

    arena_clear(&arena);
    return right;
}

/* Every proper prefix and every surplus byte is refused; TXT may end behind any whole string. */
static void check_cuts(enum dns_type type, struct bytes whole)
{
    struct dns_record record;
    uint8_t longer[512];

    assert_true(decodes(type, whole, &record));
    for (size_t i = 0; i < whole.count; i++)
        assert_false(decodes(type, bytes_slice(whole, 0, i), &record));
    memcpy(longer, whole.at, whole.count);
    longer[whole.count] = 0;
    assert_false(decodes(type, bytes_of(longer, whole.count + 1), &record));
}

static void test_record_cuts(void **state)
{
    struct dns_record record;
    (void)state;

    check_cuts(DNS_MX, BYTES_LITERAL("\0\12\2mx\7example\0"));
    check_cuts(DNS_PTR, BYTES_LITERAL("\4host\7example\0"));
    check_cuts(DNS_A, BYTES_LITERAL("\300\0\2\1"));
    check_cuts(DNS_AAAA, BYTES_LITERAL("\40\1\15\270\0\0\0\0\0\0\0\0\0\0\0\1"));
    assert_false(decodes(DNS_TXT, BYTES_LITERAL("\5four"), &record));
    assert_false(decodes(DNS_PTR, BYTES_LITERAL("\300\14"), &record));  /* compression */
    assert_false(decodes(DNS_PTR, BYTES_LITERAL("\3a.b\0"), &record));  /* a dot in a label */
    assert_false(decodes(DNS_PTR, BYTES_LITERAL("\3a\nb\0"), &record)); /* a line end */
}

static void test_record_values(void **state)
{
    struct arena arena = ARENA_WITH_LIMIT(1 * MIB);
    struct dns_record record;
    (void)state;

    assert_true(dns_record_decode(&arena, DNS_MX, BYTES_LITERAL("\0\12\2MX\7example\0"), &record));
    assert_int_equal(record.preference, 10);
    assert_true(bytes_equal_text(record.name, "mx.example"));
    assert_true(dns_record_decode(&arena, DNS_MX, BYTES_LITERAL("\0\0\0"), &record));
    assert_int_equal(record.name.count, 0);
    assert_true(dns_record_decode(&arena, DNS_TXT, BYTES_LITERAL("\3v=s\4pf1 \0"), &record));
    assert_true(bytes_equal_text(record.text, "v=spf1 "));
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ questions */

struct asking {
    struct resolver *resolver;
    struct arena arena;
};

static int asking_begin(void **state)
{
    static struct asking asking;
    char why[200] = "";
    const struct endpoint forward = {
        .family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}}, .port = server_port};
    const struct resolver_settings settings = {
        .forward = &forward, .forward_count = 1, .timeout_us = 2 * US_PER_S};

    asking = (struct asking){.arena = ARENA_WITH_LIMIT(1 * MIB)};
    asking.resolver = resolver_open(&settings, why, sizeof why);
    *state = &asking;
    return asking.resolver ? 0 : -1;
}

static int asking_end(void **state)
{
    struct asking *asking = *state;

    resolver_close(asking->resolver);
    arena_clear(&asking->arena);
    return 0;
}

static struct lookup ask(struct asking *asking, const char *name, enum dns_type type,
                         struct dns_answer *answer)
{
    return resolve_ask(asking->resolver, &asking->arena, bytes_of_text(name), type, answer);
}

static void test_ask(void **state)
{
    struct asking *asking = *state;
    struct dns_answer answer;

    assert_int_equal(ask(asking, "One.Example.", DNS_MX, &answer).status, LOOKUP_FOUND);
    assert_int_equal(answer.count, 1);
    assert_true(bytes_equal_text(answer.records[0].name, "mx.one.example"));
    assert_false(answer.secure);
    assert_int_equal(ask(asking, "text.example", DNS_TXT, &answer).status, LOOKUP_FOUND);
    assert_true(bytes_equal_text(answer.records[0].text, "v=spf1 -all"));
    assert_int_equal(ask(asking, "gone.example", DNS_A, &answer).status, LOOKUP_ABSENT);
    assert_true(answer.nxdomain);
    assert_int_equal(ask(asking, "nothing.example", DNS_A, &answer).status, LOOKUP_ABSENT);
    assert_false(answer.nxdomain);
    assert_int_equal(ask(asking, "not a name", DNS_A, &answer).status, LOOKUP_ABSENT);
}

/* Neither a failure nor silence is ever "absent". */
static void test_ask_failures(void **state)
{
    struct asking *asking = *state;
    struct dns_answer answer;
    const struct lookup sick = ask(asking, "sick.example", DNS_MX, &answer);
    const struct lookup silent = ask(asking, "silent.example", DNS_MX, &answer);

    assert_int_equal(sick.status, LOOKUP_FAILED);
    assert_int_equal(sick.reason, LOOKUP_REASON_UNAVAILABLE);
    assert_true(bytes_equal_text(sick.detail, "SERVFAIL"));
    assert_int_equal(silent.status, LOOKUP_FAILED);
    assert_int_equal(silent.reason, LOOKUP_REASON_TIMEOUT);
}

static void test_ask_detours(void **state)
{
    struct asking *asking = *state;
    struct dns_answer answer;

    assert_int_equal(ask(asking, "alias.example", DNS_MX, &answer).status, LOOKUP_FOUND);
    assert_true(bytes_equal_text(answer.records[0].name, "mx.one.example"));
    assert_int_equal(ask(asking, "ring1.example", DNS_MX, &answer).status, LOOKUP_FAILED);
    assert_int_equal(ask(asking, "large.example", DNS_TXT, &answer).status, LOOKUP_FAILED);
}

/* A zone with a trust anchor whose answers carry no signature: found by nobody, absent to nobody.
 */
static void test_ask_bogus(void **state)
{
    char path[] = "/tmp/holdfast-anchor-XXXXXX", why[200] = "";
    const struct endpoint forward = {
        .family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}}, .port = server_port};
    const struct resolver_settings settings = {
        .forward = &forward, .forward_count = 1, .timeout_us = 10 * US_PER_S, .trust_anchor = path};
    FILE *file = fdopen(mkstemp(path), "w");
    struct asking *asking = *state;
    struct dns_answer answer;

    assert_non_null(file);
    fprintf(file, "signed.example. IN DS 4711 8 2 %064d\n", 7);
    assert_int_equal(fclose(file), 0);
    struct resolver *resolver = resolver_open(&settings, why, sizeof why);

    assert_non_null(resolver);
    const struct lookup lookup =
        resolve_ask(resolver, &asking->arena, BYTES_LITERAL("signed.example"), DNS_MX, &answer);

    assert_int_equal(lookup.status, LOOKUP_FAILED);
    assert_int_equal(lookup.reason, LOOKUP_REASON_BOGUS);
    assert_true(lookup.detail.count > 0);
    assert_int_equal(
        resolve_ask(resolver, &asking->arena, BYTES_LITERAL("one.example"), DNS_MX, &answer).status,
        LOOKUP_FOUND);
    resolver_close(resolver);
    unlink(path);
}

static void test_open_refuses(void **state)
{
    const struct resolver_settings settings = {.trust_anchor = "/nonexistent/anchor"};
    char why[200] = "";
    (void)state;

    assert_null(resolver_open(&settings, why, sizeof why));
    assert_true(strlen(why) > 0);
}

static void test_mail_hosts(void **state)
{
    struct asking *asking = *state;
    struct mail_hosts hosts;
    const struct bytes one = BYTES_LITERAL("one.example");

    assert_int_equal(resolve_mail_hosts(asking->resolver, &asking->arena, one, &hosts).status,
                     LOOKUP_FOUND);
    assert_int_equal(hosts.count, 1);
    assert_int_equal(hosts.hosts[0].address_count, 3);
    assert_int_equal(hosts.hosts[0].addresses[0].family, ENDPOINT_IPV6);
    assert_int_equal(hosts.hosts[0].addresses[1].family, ENDPOINT_IPV4);
    assert_false(hosts.implicit);
}

static void test_mail_hosts_order(void **state)
{
    struct asking *asking = *state;
    struct mail_hosts hosts;
    const struct bytes three = BYTES_LITERAL("three.example");

    assert_int_equal(resolve_mail_hosts(asking->resolver, &asking->arena, three, &hosts).status,
                     LOOKUP_FOUND);
    assert_int_equal(hosts.count, 3);
    assert_true(bytes_equal_text(hosts.hosts[2].name, "c.three.example"));
    assert_int_equal(hosts.hosts[2].address_count, 1);
    for (unsigned i = 0; i < 2; i++) {
        const bool sick = bytes_equal_text(hosts.hosts[i].name, "b.three.example");

        assert_int_equal(hosts.hosts[i].lookup.status, sick ? LOOKUP_FAILED : LOOKUP_FOUND);
    }
}

static void expect_hosts(struct asking *asking, const char *domain, enum lookup_status status,
                         struct mail_hosts *hosts)
{
    const struct lookup lookup =
        resolve_mail_hosts(asking->resolver, &asking->arena, bytes_of_text(domain), hosts);

    assert_int_equal(lookup.status, status);
}

static void test_mail_hosts_special(void **state)
{
    struct mail_hosts hosts;

    expect_hosts(*state, "null.example", LOOKUP_FOUND, &hosts);
    assert_true(hosts.null_mx);
    assert_int_equal(hosts.count, 0);
    expect_hosts(*state, "implicit.example", LOOKUP_FOUND, &hosts);
    assert_true(hosts.implicit);
    assert_true(bytes_equal_text(hosts.hosts[0].name, "implicit.example"));
    expect_hosts(*state, "nothing.example", LOOKUP_ABSENT, &hosts);
    assert_false(hosts.nxdomain);
    expect_hosts(*state, "gone.example", LOOKUP_ABSENT, &hosts);
    assert_true(hosts.nxdomain);
    expect_hosts(*state, "dead.example", LOOKUP_ABSENT, &hosts);
    expect_hosts(*state, "sick.example", LOOKUP_FAILED, &hosts);
    expect_hosts(*state, "half.example", LOOKUP_FAILED, &hosts);
}

static enum lookup_status reverse(struct asking *asking, const char *text, struct bytes *name)
{
    struct ip_address ip;

    assert_true(ip_parse(bytes_of_text(text), &ip));
    return resolve_reverse(asking->resolver, &asking->arena, &ip, name).status;
}

static void test_reverse(void **state)
{
    struct bytes name;

    assert_int_equal(reverse(*state, "192.0.2.1", &name), LOOKUP_FOUND);
    assert_true(bytes_equal_text(name, "mx.one.example"));
    assert_int_equal(reverse(*state, "192.0.2.3", &name), LOOKUP_ABSENT); /* does not lead back */
    assert_int_equal(reverse(*state, "192.0.2.4", &name), LOOKUP_FAILED); /* it might */
    assert_int_equal(reverse(*state, "192.0.2.5", &name), LOOKUP_ABSENT);
    assert_int_equal(reverse(*state, "127.0.0.1", &name), LOOKUP_FOUND); /* nothing built in */
    assert_true(bytes_equal_text(name, "home.example"));
}

/* A session's fiber has a small stack; and a cancelled one comes back at once, as a failure. */
struct cancelled {
    struct asking *asking;
    struct fiber *parent;
    struct lookup lookup;
    bool done;
};

static void cancelled_main(void *argument)
{
    struct cancelled *cancelled = argument;
    struct dns_answer answer;

    cancelled->lookup = ask(cancelled->asking, "silent.example", DNS_MX, &answer);
    cancelled->done = true;
    fiber_wake(cancelled->parent);
}

static void test_cancel(void **state)
{
    struct cancelled cancelled = {.asking = *state, .parent = fiber_self()};
    struct fiber *fiber = fiber_start("test.cancelled", cancelled_main, &cancelled);

    assert_non_null(fiber);
    fiber_yield();
    fiber_cancel(fiber);
    while (!cancelled.done)
        assert_int_equal(fiber_park(deadline_in(30 * US_PER_S)), IO_OK);
    assert_int_equal(cancelled.lookup.status, LOOKUP_FAILED);
    assert_int_equal(cancelled.lookup.reason, LOOKUP_REASON_CANCELLED);
}

static int run(void *nothing)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_name_text),
        cmocka_unit_test(test_record_cuts),
        cmocka_unit_test(test_record_values),
        cmocka_unit_test_setup_teardown(test_ask, asking_begin, asking_end),
        cmocka_unit_test_setup_teardown(test_ask_failures, asking_begin, asking_end),
        cmocka_unit_test_setup_teardown(test_ask_detours, asking_begin, asking_end),
        cmocka_unit_test_setup_teardown(test_ask_bogus, asking_begin, asking_end),
        cmocka_unit_test(test_open_refuses),
        cmocka_unit_test_setup_teardown(test_mail_hosts, asking_begin, asking_end),
        cmocka_unit_test_setup_teardown(test_mail_hosts_order, asking_begin, asking_end),
        cmocka_unit_test_setup_teardown(test_mail_hosts_special, asking_begin, asking_end),
        cmocka_unit_test_setup_teardown(test_reverse, asking_begin, asking_end),
        cmocka_unit_test_setup_teardown(test_cancel, asking_begin, asking_end),
    };
    (void)nothing;

    server_start();
    return cmocka_run_group_tests_name("resolve", tests, NULL, NULL);
}

int main(void)
{
    return world_run(run, NULL, 1);
}
