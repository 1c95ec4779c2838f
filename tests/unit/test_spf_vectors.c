/*
 * SPF against the test suite of RFC 7208 (vectors/spf-rfc7208), all scenarios. Prints each difference; SKIP where the
 * material is absent.
 */
#include <jansson.h>
#include <unistd.h>

#include "auth/auth.h"
#include "fake_zone.h"

static struct bytes latin1(const json_t *text, uint8_t *into, size_t room)
{
    const uint8_t *at = (const uint8_t *)json_string_value(text);
    const size_t length = json_string_length(text);
    size_t count = 0;

    for (size_t i = 0; i < length && count < room; i++) {
        if (at[i] < 0x80) {
            into[count++] = at[i];
        } else if ((at[i] & 0xe0) == 0xc0 && i + 1 < length) {
            into[count++] = (uint8_t)((at[i] << 6) | (at[i + 1] & 0x3f));
            i++;
        } else {
            into[count++] = '?';
        }
    }
    return bytes_of(into, count);
}

static void add_text(const char *name, const json_t *value)
{
    uint8_t text[4096];
    size_t count = 0;

    if (json_is_string(value))
        count = latin1(value, text, sizeof text).count;
    for (size_t i = 0; i < json_array_size(value); i++)
        count += latin1(json_array_get(value, i), text + count, sizeof text - count).count;
    fake_zone_add(name, DNS_TXT, bytes_of(text, count));
}

static enum dns_type type_of(const char *name)
{
    static const struct {
        const char *name;
        enum dns_type type;
    } types[] = {{"A", DNS_A}, {"AAAA", DNS_AAAA}, {"MX", DNS_MX}, {"PTR", DNS_PTR}, {"CNAME", DNS_CNAME}, {"TXT", DNS_TXT}, {"SPF", DNS_TXT}};

    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strcmp(name, types[i].name) == 0)
            return types[i].type;
    return (enum dns_type)0;
}

static void add_record(const char *name, const char *type, const json_t *value, bool has_txt)
{
    if (json_is_string(value) && strcmp(json_string_value(value), "TIMEOUT") == 0)
        fake_zone_fault(name, type_of(type), FAKE_TIMEOUT);
    else if (strcmp(type, "TXT") == 0 && json_is_string(value) && strcmp(json_string_value(value), "NONE") == 0)
        fake_zone_fault(name, DNS_TXT, FAKE_NOTHING);
    else if (strcmp(type, "TXT") == 0 || (strcmp(type, "SPF") == 0 && !has_txt))
        add_text(name, value);
    else if (strcmp(type, "MX") == 0)
        fake_zone_add(name, DNS_MX, bytes_of_text(json_string_value(json_array_get(value, 1))))->preference =
            (uint16_t)json_integer_value(json_array_get(value, 0));
    else if (strcmp(type, "SPF") != 0)
        fake_zone_add(name, type_of(type), bytes_of_text(json_string_value(value)));
}

static bool has_member(const json_t *records, const char *type)
{
    for (size_t i = 0; i < json_array_size(records); i++)
        if (json_object_get(json_array_get(records, i), type))
            return true;
    return false;
}

static void load_zone(const json_t *zonedata)
{
    const char *name, *type;
    json_t *records, *value;

    fake_zone_clear();
    json_object_foreach ((json_t *)(uintptr_t)zonedata, name, records) {
        const bool has_txt = has_member(records, "TXT");
        for (size_t i = 0; i < json_array_size(records); i++) {
            json_t *record = json_array_get(records, i);
            if (json_is_string(record))
                fake_zone_fault(name, (enum dns_type)0, FAKE_TIMEOUT);
            json_object_foreach (record, type, value)
                add_record(name, type, value, has_txt);
        }
    }
}

static bool result_is_right(const json_t *expected, const char *result)
{
    if (json_is_string(expected))
        return strcmp(json_string_value(expected), result) == 0;
    for (size_t i = 0; i < json_array_size(expected); i++)
        if (strcmp(json_string_value(json_array_get(expected, i)), result) == 0)
            return true;
    return false;
}

static bool explanation_is_right(const json_t *test, const struct spf_facts *facts)
{
    const char *expected = json_string_value(json_object_get(test, "explanation"));

    if (!expected || facts->result != AUTH_FAIL)
        return true;
    return strcmp(expected, "DEFAULT") == 0 ? facts->explanation.count == 0 : bytes_equal_text(facts->explanation, expected);
}

static bool run_test(const char *name, const json_t *test)
{
    uint8_t helo[512], from[1024];
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    const struct auth_dns dns = {.arena = &arena, .deadline_us = DEADLINE_NEVER};
    const struct bytes sender = latin1(json_object_get(test, "mailfrom"), from, sizeof from);
    const size_t at = bytes_find_last_byte(sender, '@');
    struct spf_request request = {.receiver = "receiver.example", .helo = latin1(json_object_get(test, "helo"), helo, sizeof helo)};
    struct spf_facts facts;

    if (at < sender.count)
        request.from = (struct address){bytes_slice(sender, 0, at), bytes_skip(sender, at + 1)};
    else
        request.from = (struct address){BYTES_EMPTY, sender};
    INVARIANT(ip_parse(bytes_of_text(json_string_value(json_object_get(test, "host"))), &request.client));
    spf_check(&dns, &request, &facts);
    const bool right = result_is_right(json_object_get(test, "result"), auth_result_name(facts.result)) && explanation_is_right(test, &facts);
    if (!right) {
        char *expected = json_dumps(json_object_get(test, "result"), JSON_ENCODE_ANY);
        printf("not ok %s: %s, expected %s; explanation \"%.*s\", expected \"%s\"; problem \"%.*s\"\n", name,
               auth_result_name(facts.result), expected, BYTES_PRINT(facts.explanation),
               json_string_value(json_object_get(test, "explanation")) ? json_string_value(json_object_get(test, "explanation")) : "",
               BYTES_PRINT(facts.problem));
        free(expected);
    }
    arena_clear(&arena);
    return right;
}

int main(void)
{
    char path[4096];
    json_error_t error;
    const char *shared = getenv("HOLDFAST_SHARED");
    unsigned passed = 0, failed = 0;

    snprintf(path, sizeof path, "%s/vectors/spf-rfc7208/rfc7208-tests.json", shared ? shared : "../shared");
    json_t *suite = json_load_file(path, JSON_ALLOW_NUL, &error);
    if (!suite && access(path, R_OK) == 0) {
        printf("%s:%d: %s\n0 passed, 1 failed\n", path, error.line, error.text);
        return 1;
    }
    if (!suite) {
        puts("SKIP ../shared is absent\n0 passed, 0 failed, 1 skipped");
        return 0;
    }
    for (size_t i = 0; i < json_array_size(suite); i++) {
        const json_t *scenario = json_array_get(suite, i);
        const char *name;
        json_t *test;
        load_zone(json_object_get(scenario, "zonedata"));
        json_object_foreach (json_object_get(scenario, "tests"), name, test) {
            if (run_test(name, test))
                passed++;
            else
                failed++;
        }
    }
    json_decref(suite);
    free(fake_records);
    printf("%u passed, %u failed\n", passed, failed);
    return failed > 0;
}
