/*
 * ARC against ValiMail's arc_test_suite (validation and sealing) and rspamd's 321_arc_check. A null `cv` beside a chain that ends
 * in cv=fail is read as Fail (RFC 8617 5.2, step 2). Prints each difference; SKIP where the material is absent.
 */
#include <jansson.h>
#include <unistd.h>

#include "dkim_check.h"

static unsigned passed, failed;

static void judge(bool right, const char *name, const struct arc_facts *facts)
{
    if (right) {
        passed++;
        return;
    }
    failed++;
    printf("not ok %s: %s (%.*s), %u instances\n", name, auth_result_name(facts->result), BYTES_PRINT(facts->reason),
           facts->instances);
}

/* The lines of a value are joined. */
static void load_txt(const json_t *records)
{
    const char *name;
    json_t *value;

    fake_zone_clear();
    json_object_foreach ((json_t *)(uintptr_t)records, name, value) {
        CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(MIB);
        for (const char *at = json_string_value(value); *at; at++)
            if (*at != '\n')
                buffer_add_byte(&text, (uint8_t)*at);
        fake_zone_add(name, DNS_TXT, buffer_view(&text));
    }
}

static void message_of(const json_t *test, struct buffer *into)
{
    const json_t *text = json_object_get(test, "message");

    buffer_clear(into);
    add_crlf(into, bytes_of(json_string_value(text), json_string_length(text)));
}

static enum auth_result expected_of(const json_t *test, struct bytes message)
{
    const char *cv = json_string_value(json_object_get(test, "cv"));

    if (cv && strcasecmp(cv, "pass") == 0)
        return AUTH_PASS;
    if (cv && strcasecmp(cv, "none") == 0)
        return AUTH_NONE;
    return header_count(message, "ARC-Seal") > 0 || (cv && *cv) ? AUTH_FAIL : AUTH_NONE;
}

static void run_validation(const char *name, const json_t *test)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    CLEANUP(buffer_free) struct buffer message = BUFFER_WITH_LIMIT(8 * MIB);
    struct dkim_report report;
    struct arc_facts facts, slow;

    message_of(test, &message);
    verify_in_pieces(&arena, buffer_view(&message), 65536, &report, &facts);
    verify_in_pieces(&arena, buffer_view(&message), 1, &report, &slow);
    judge(facts.result == expected_of(test, buffer_view(&message)) && slow.result == facts.result, name, &facts);
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ sealing */

/* What the message's own Authentication-Results of this server say, joined (as the suite's ar_merged cases want). */
static void gather_results(struct bytes message, const char *server, struct buffer *into)
{
    struct header_walk walk = HEADER_WALK_OF(message);
    struct header_field field;

    while (header_next(&walk, &field)) {
        struct bytes id = BYTES_EMPTY;
        if (!bytes_equal_text_nocase(field.name, "authentication-results"))
            continue;
        const struct bytes results = bytes_trim(bytes_cut(field.value, ';', &id));
        if (!bytes_equal_text(bytes_trim(id), server))
            continue;
        if (into->count)
            buffer_add_text(into, "; ");
        buffer_add(into, results);
    }
}

/* The tags sorted, no white space: as the suite compares. */
static int compare_tags(const void *a, const void *b)
{
    return bytes_compare(*(const struct bytes *)a, *(const struct bytes *)b);
}

static void normal_form(struct bytes value, struct buffer *into)
{
    CLEANUP(buffer_free) struct buffer tight = BUFFER_WITH_LIMIT(MIB);
    struct bytes tags[32], rest;
    size_t count = 0;

    for (size_t i = 0; i < value.count; i++)
        if (value.at[i] > ' ')
            buffer_add_byte(&tight, value.at[i]);
    rest = buffer_view(&tight);
    while (rest.count > 0 && count < COUNT_OF(tags))
        rest = bytes_cut(rest, ';', &tags[count++]);
    qsort(tags, count, sizeof *tags, compare_tags);
    for (size_t i = 0; i < count; i++) {
        buffer_add(into, tags[i]);
        buffer_add_byte(into, ';');
    }
}

static bool field_matches(struct bytes fields, const char *name, const json_t *expected)
{
    CLEANUP(buffer_free) struct buffer ours = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(buffer_free) struct buffer theirs = BUFFER_WITH_LIMIT(MIB);
    struct header_field field;

    if (!header_find(fields, name, &field))
        return false;
    normal_form(field.value, &ours);
    normal_form(bytes_of(json_string_value(expected), json_string_length(expected)), &theirs);
    const bool right = bytes_equal(buffer_view(&ours), buffer_view(&theirs));
    if (!right)
        printf("%s\n ours   %.*s\n theirs %.*s\n", name, BYTES_PRINT(buffer_view(&ours)), BYTES_PRINT(buffer_view(&theirs)));
    return right;
}

static void run_seal(const json_t *group, const char *name, const json_t *test)
{
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    CLEANUP(buffer_free) struct buffer message = BUFFER_WITH_LIMIT(8 * MIB);
    CLEANUP(buffer_free) struct buffer results = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(buffer_free) struct buffer set = BUFFER_WITH_LIMIT(MIB);
    const json_t *pem = json_object_get(group, "privatekey");
    char why[160] = "";
    CLEANUP(private_key_close)
    struct private_key *key =
        private_key_open_pem(bytes_of(json_string_value(pem), json_string_length(pem)), why, sizeof why);
    struct dkim_report report;
    struct arc_facts facts;

    message_of(test, &message);
    verify_in_pieces(&arena, buffer_view(&message), 65536, &report, &facts);
    const char *server = json_string_value(json_object_get(test, "srv-id"));
    gather_results(buffer_view(&message), server, &results);
    const struct arc_sealer sealer = {
        .signer = {.domain = json_string_value(json_object_get(group, "domain")),
                   .selector = json_string_value(json_object_get(group, "sel")),
                   .key = key,
                   .headers = bytes_of_text(json_string_value(json_object_get(test, "sig-headers"))),
                   .wall_us = json_integer_value(json_object_get(test, "t")) * 1000000},
        .authentication_results = buffer_view(&results),
        .authserv_id = server,
        .chain = facts.result,
    };
    struct memory_source memory = {buffer_view(&message)};
    const struct auth_source source = {memory_source_read, &memory, memory.message.count};
    bool right = key && arc_seal(&sealer, &source, &set, why, sizeof why);
    if (*why)
        printf("%s: %s\n", name, why);
    right = right && field_matches(buffer_view(&set), "ARC-Seal", json_object_get(test, "AS"));
    right = right && field_matches(buffer_view(&set), "ARC-Message-Signature", json_object_get(test, "AMS"));
    right = right && field_matches(buffer_view(&set), "ARC-Authentication-Results", json_object_get(test, "AAR"));
    judge(right, name, &facts);
    /* And what we sealed reads back: a chain that was fine passes. */
    buffer_add(&set, buffer_view(&message));
    verify_in_pieces(&arena, buffer_view(&set), 65536, &report, &facts);
    judge(facts.result == (sealer.chain == AUTH_FAIL ? AUTH_FAIL : AUTH_PASS), name, &facts);
    arena_clear(&arena);
}

/* ------------------------------------------------------------------ rspamd */

static void run_rspamd_message(const char *file, enum auth_result expected)
{
    char path[CHECK_PATH_MAX];
    struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
    CLEANUP(buffer_free) struct buffer message = BUFFER_WITH_LIMIT(8 * MIB);
    struct dkim_report report;
    struct arc_facts facts;

    INVARIANT(read_message(shared_path(file, path), &message));
    verify_in_pieces(&arena, buffer_view(&message), 1000, &report, &facts);
    judge(facts.result == expected, file, &facts);
    arena_clear(&arena);
}

static void run_rspamd(void)
{
    char path[CHECK_PATH_MAX];
    json_t *dns = json_load_file(shared_path("rspamd/dns.json", path), 0, NULL);
    const json_t *zone = json_object_get(dns, "merged-local.conf");

    fake_zone_clear();
    for (size_t i = 0; i < json_array_size(zone); i++) {
        const json_t *record = json_array_get(zone, i), *replies = json_object_get(record, "replies");
        if (strcmp(json_string_value(json_object_get(record, "type")), "txt") == 0 && json_array_size(replies) == 1)
            fake_zone_add(json_string_value(json_object_get(record, "name")), DNS_TXT,
                          bytes_of_text(json_string_value(json_array_get(replies, 0))));
    }
    /* The keys of arcallow are not in the material and no longer in DNS. With look-ups that fail the chain is temperror exactly
     * when its structure is right and the body hash of its newest signature matches; else it fails. */
    fake_zone_fault("arc-20160816._domainkey.google.com", DNS_TXT, FAKE_TIMEOUT);
    run_rspamd_message("rspamd/messages/arcallow.eml", AUTH_TEMPERROR);
    run_rspamd_message("rspamd/messages/arcbad.eml", AUTH_FAIL);
    json_decref(dns);
}

int main(void)
{
    char path[CHECK_PATH_MAX];
    json_t *validate = json_load_file(shared_path("arc/arc-draft-validation-tests.json", path), JSON_ALLOW_NUL, NULL);
    json_t *seal = json_load_file(shared_path("arc/arc-draft-sign-tests.json", path), JSON_ALLOW_NUL, NULL);
    const char *name;
    json_t *test;

    if (access(path, R_OK) != 0) {
        puts("SKIP ../shared is absent\n0 passed, 0 failed, 1 skipped");
        return 0;
    }
    INVARIANT(validate && seal);
    for (size_t i = 0; i < json_array_size(validate); i++) {
        const json_t *group = json_array_get(validate, i);
        load_txt(json_object_get(group, "txt-records"));
        json_object_foreach (json_object_get(group, "tests"), name, test)
            run_validation(name, test);
    }
    for (size_t i = 0; i < json_array_size(seal); i++) {
        const json_t *group = json_array_get(seal, i);
        load_txt(json_object_get(group, "txt-records"));
        json_object_foreach (json_object_get(group, "tests"), name, test)
            run_seal(group, name, test);
    }
    run_rspamd();
    json_decref(validate);
    json_decref(seal);
    free(fake_records);
    printf("%u passed, %u failed\n", passed, failed);
    return failed > 0;
}
