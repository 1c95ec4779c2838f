/*
 * A domain of this server: is what is published what the server does? The key records against the
 * keys that it signs with, the MX against its name and addresses, its name against its addresses.
 * And, for any domain, the selectors that mail which passed through was signed with.
 */
#include <errno.h>
#include <string.h>

#include "diagnose/dns_inside.h"
#include "history/history.h"

enum { KEY_FILE_MOST = 64 * 1024, LEARN_DAYS = 14, SIGNATURE_ROOM = 1024 };

/* ------------------------------------------------------------------ selectors seen */

static bool is_known(const struct dns_check *check, struct bytes selector)
{
    for (unsigned i = 0; i < check->learned_count; i++)
        if (bytes_equal_text_nocase(selector, check->learned[i]))
            return true;
    return false;
}

static void learn(struct dns_check *check, struct bytes selector)
{
    if (selector.count == 0 || check->learned_count == DNS_LEARNED_MAX ||
        is_known(check, selector) || !domain_is_valid(selector))
        return;
    const char *kept = arena_text(check->arena, selector);
    if (kept)
        check->learned[check->learned_count++] = kept;
}

/* "... dkim=pass dkim_domain=D dkim_selector=S ...": of this domain, whatever came of it. */
static bool learn_from(void *argument, const struct history_row *row)
{
    struct dns_check *check = argument;
    struct bytes rest = row->text;
    bool ours = false;

    if (!bytes_equal_text(row->event, "message.authenticated"))
        return true;
    while (rest.count > 0) {
        struct bytes word = BYTES_EMPTY, name = BYTES_EMPTY;
        rest = bytes_cut(rest, ' ', &word);
        const struct bytes value = bytes_cut(word, '=', &name);
        if (bytes_equal_text(name, "dkim_domain"))
            ours = bytes_equal_nocase(value, check->request->domain);
        else if (bytes_equal_text(name, "dkim_selector") && ours)
            learn(check, value);
    }
    return check->learned_count < DNS_LEARNED_MAX;
}

void dns_check_learn(struct dns_check *check)
{
    const struct config *config = check->request->config;
    char why[256] = "";

    if (!config)
        return;
    for (unsigned i = 0; i < config->sign_count; i++)
        if (bytes_equal_text_nocase(check->request->domain, config->signs[i].domain))
            learn(check, bytes_of_text(config->signs[i].selector));
    const int64_t since = clock_wall_us() - (int64_t)(LEARN_DAYS * 86400 * US_PER_S);
    if (!history_since(config->history, since, learn_from, check, why, sizeof why))
        dns_find(&check->findings, FINDING_OWN_NO_HISTORY, check->request->domain,
                 arena_copy(check->arena, bytes_of_text(why)));
}

/* ------------------------------------------------------------------ keys */

static struct private_key *open_key(struct dns_check *check, const struct config_sign *sign)
{
    CLEANUP(buffer_free) struct buffer pem = BUFFER_WITH_LIMIT(KEY_FILE_MOST);
    char why[200] = "";
    uint8_t piece[4096];
    size_t got = 0;
    FILE *file = fopen(sign->key, "rbe");

    if (!file)
        snprintf(why, sizeof why, "%s: %s", sign->key, strerror(errno));
    while (file && (got = fread(piece, 1, sizeof piece, file)) > 0)
        buffer_add(&pem, bytes_of(piece, got));
    if (file)
        fclose(file);
    struct private_key *key =
        *why ? NULL : private_key_open_pem(buffer_view(&pem), why, sizeof why);
    if (!key)
        dns_find(&check->findings, FINDING_OWN_KEY_CLOSED, check->request->domain,
                 arena_copy(check->arena, bytes_of_text(why)));
    return key;
}

/* Does a signature of our key verify by the record? That is all a receiver will ask. */
static bool record_fits(struct dns_check *check, struct bytes text, const struct private_key *key)
{
    static const uint8_t hash[32] = "what is signed does not matter.";
    uint8_t signature[SIGNATURE_ROOM];
    struct bytes octets = BYTES_EMPTY;
    const struct bytes data = dkim_key_data(text);

    const size_t count = private_key_sign(key, bytes_of(hash, sizeof hash),
                                          (struct span){signature, sizeof signature});
    if (count == 0 || !base64_decode(check->arena, data, &octets))
        return false;
    CLEANUP(public_key_close)
    struct public_key *public = public_key_open(private_key_kind(key), octets);
    return public &&
           public_key_verifies(public, bytes_of(hash, sizeof hash), bytes_of(signature, count));
}

static void check_key(struct dns_check *check, const struct config_sign *sign)
{
    const struct bytes name =
        arena_print(check->arena, "%s._domainkey.%s", sign->selector, sign->domain);
    struct private_key *key = open_key(check, sign);
    struct dns_answer answer;
    bool fits = false;

    if (key && dns_check_ask(check, name, DNS_TXT, &answer) == LOOKUP_FOUND) {
        for (unsigned i = 0; i < answer.count; i++)
            fits = fits || record_fits(check, answer.records[i].text, key);
        dns_find(&check->findings, fits ? FINDING_OWN_KEY_FITS : FINDING_OWN_KEY_DIFFERS, name,
                 bytes_of_text(sign->name));
    }
    private_key_close(&key);
}

/* ------------------------------------------------------------------ names and addresses */

static bool is_own_address(const struct dns_check *check, const char *text)
{
    char own[ENDPOINT_TEXT_MAX];

    for (unsigned i = 0; i < check->request->ip_count; i++)
        if (strcmp(ip_print(&check->request->ips[i], own, sizeof own), text) == 0)
            return true;
    return false;
}

/* Behind address translation the addresses are not ours to see, so this is no error. */
static void check_hosts(struct dns_check *check)
{
    const json_t *hosts = json_object_get(check->answer, "mx");
    bool here = json_array_size(hosts) == 0;

    for (size_t i = 0; i < json_array_size(hosts) && !here; i++) {
        const json_t *host = json_array_get(hosts, i);
        const json_t *addresses = json_object_get(host, "addresses");
        here = strcasecmp(diagnose_word(host, "host"), check->request->config->hostname) == 0;
        for (size_t k = 0; k < json_array_size(addresses) && !here; k++)
            here = is_own_address(check, json_string_value(json_array_get(addresses, k)));
    }
    if (!here)
        dns_find(&check->findings, FINDING_OWN_MX_ELSEWHERE, check->request->domain,
                 bytes_of_text(check->request->config->hostname));
}

static void check_hostname(struct dns_check *check)
{
    const struct bytes name = bytes_of_text(check->request->config->hostname);
    struct dns_answer ipv4, ipv6;

    const enum lookup_status first = dns_check_ask(check, name, DNS_A, &ipv4);
    const enum lookup_status second = dns_check_ask(check, name, DNS_AAAA, &ipv6);
    if (first == LOOKUP_ABSENT && second == LOOKUP_ABSENT)
        dns_find(&check->findings, FINDING_OWN_HELO_NO_ADDRESS, name, name);
}

void dns_check_own(struct dns_check *check)
{
    const struct config *config = check->request->config;
    const struct bytes domain = check->request->domain;
    unsigned signs = 0;

    if (!config)
        return;
    const bool receives = config_find_domain(config, domain) != NULL;
    for (unsigned i = 0; i < config->sign_count; i++) {
        if (!bytes_equal_text_nocase(domain, config->signs[i].domain))
            continue;
        check_key(check, &config->signs[i]);
        signs++;
    }
    if (!receives && signs == 0)
        return;
    if (signs == 0)
        dns_find(&check->findings, FINDING_OWN_UNSIGNED, domain, BYTES_EMPTY);
    if (receives)
        check_hosts(check);
    check_hostname(check);
    if (check->request->connect)
        dns_check_submission(check);
}
