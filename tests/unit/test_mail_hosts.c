/*
 * What is validated of a domain's mail hosts (RFC 7672 2.1): the name by its MX records, the host
 * only when each of its addresses came validated, too.
 */
#include "real_world.h"

#include "fake_resolver.h"

static struct zone {
    bool mx_secure, v6_secure, v4_secure;
    unsigned mx_count, v6_count, v4_count;
} zone;

struct lookup resolve_ask(struct resolver *resolver UNUSED, struct arena *arena UNUSED,
                          struct bytes name UNUSED, enum dns_type type, struct dns_answer *answer)
{
    static struct dns_record mx = {.type = DNS_MX, .preference = 10, .name = BYTES_LITERAL("mx")};
    static struct dns_record v6 = {.type = DNS_AAAA, .ip = {.family = ENDPOINT_IPV6}};
    static struct dns_record v4 = {.type = DNS_A, .ip = {.family = ENDPOINT_IPV4}};

    *answer = (struct dns_answer){0};
    if (type == DNS_MX)
        *answer = (struct dns_answer){&mx, zone.mx_count, .secure = zone.mx_secure};
    else if (type == DNS_AAAA)
        *answer = (struct dns_answer){&v6, zone.v6_count, .secure = zone.v6_secure};
    else if (type == DNS_A)
        *answer = (struct dns_answer){&v4, zone.v4_count, .secure = zone.v4_secure};
    return answer->count > 0 ? lookup_found() : lookup_absent();
}

WORLD(test_what_is_validated)
{
    static const struct {
        struct zone zone;
        bool named, whole;
    } rows[] = {
        {{true, true, true, 1, 1, 1}, true, true},
        {{true, false, true, 1, 1, 1}, true, false},
        {{true, true, false, 1, 1, 1}, true, false},
        {{true, false, true, 1, 0, 1}, true, true}, /* no address, so nothing to validate */
        {{true, true, false, 1, 1, 0}, true, true},
        {{true, false, false, 1, 0, 1}, true, false},
        {{false, true, true, 1, 1, 1}, false, false},
        {{true, true, true, 0, 1, 1}, true, true}, /* no MX, and that is signed */
        {{false, true, true, 0, 1, 1}, false, false},
    };

    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct arena arena = ARENA_WITH_LIMIT(MIB);
        struct mail_hosts hosts;
        zone = rows[i].zone;
        CHECK(resolve_mail_hosts(NULL, &arena, BYTES_LITERAL("d.test"), &hosts).status ==
              LOOKUP_FOUND);
        CHECK(hosts.count == 1);
        if (hosts.hosts[0].named_secure != rows[i].named || hosts.hosts[0].secure != rows[i].whole)
            fprintf(stderr, "row %zu\n", i);
        CHECK(hosts.hosts[0].named_secure == rows[i].named);
        CHECK(hosts.hosts[0].secure == rows[i].whole);
        arena_clear(&arena);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_is_validated)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
