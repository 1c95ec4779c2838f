/*
 * MTA-STS (RFC 8461) from the sender's side: the record that says there is a policy, the policy's
 * fetch, and the memory of it, which holds until max_age is over whatever DNS or the policy's host
 * say meanwhile. So who can silence them gains nothing after the first contact.
 */
#include "deliver/inside.h"

#include <idn2.h>
#include <string.h>

#include "fetch/fetch.h"

enum {
    FETCH_PATIENCE_S = 30, /* RFC 8461 3.3: a minute at most */
    AGAIN_AFTER_S = 300,   /* a fetch that failed is not repeated sooner for the same id (5.1) */
    REFRESH_S = 86400,     /* a policy is fetched again after a day, or half its life */
    REFRESH_AGAIN_S = 3600,
    REFRESH_MOST = 16,
    USED_STEP_S = 86400,
    ADDRESSES_MAX = 16,
    POLICY_ARENA = 512 * 1024,
};

static int64_t now_s(void)
{
    return clock_wall_us() / (int64_t)US_PER_S;
}

/* ------------------------------------------------------------------ the record */

/* FOUND with its id; ABSENT also when there are several, or none that is right (RFC 8461 3.1). */
static enum lookup_status find_record(struct deliver *deliver, struct arena *arena,
                                      const char *domain, char id[static STS_ID_ROOM])
{
    struct dns_answer answer = {0};
    struct bytes value = BYTES_EMPTY;
    unsigned count = 0;
    const struct lookup lookup = resolve_ask(
        deliver->resolver, arena, arena_print(arena, "_mta-sts.%s", domain), DNS_TXT, &answer);

    if (lookup.status != LOOKUP_FOUND)
        return lookup.status;
    for (unsigned i = 0; i < answer.count; i++) {
        if (!bytes_starts_with(answer.records[i].text, BYTES_LITERAL("v=STSv1")))
            continue;
        if (count++ > 0 || !sts_parse_record(answer.records[i].text, &value))
            return LOOKUP_ABSENT;
    }
    snprintf(id, STS_ID_ROOM, "%.*s", BYTES_PRINT(value));
    return count == 1 ? LOOKUP_FOUND : LOOKUP_ABSENT;
}

/* ------------------------------------------------------------------ the fetch */

static unsigned find_addresses(struct deliver *deliver, struct arena *arena, const char *host,
                               struct ip_address into[static ADDRESSES_MAX])
{
    static const enum dns_type TYPES[] = {DNS_AAAA, DNS_A};
    unsigned count = 0;

    for (unsigned t = 0; t < COUNT_OF(TYPES); t++) {
        struct dns_answer answer = {0};
        const struct lookup lookup =
            resolve_ask(deliver->resolver, arena, bytes_of_text(host), TYPES[t], &answer);
        for (unsigned i = 0; lookup.status == LOOKUP_FOUND && i < answer.count; i++)
            if (count < ADDRESSES_MAX)
                into[count++] = answer.records[i].ip;
    }
    return count;
}

static bool fetch_fails(struct sts_finding *finding, const char *failure, const char *why)
{
    finding->failure = failure;
    snprintf(finding->why, sizeof finding->why, "%.150s", why);
    return false;
}

static bool judge_document(struct arena *arena, const struct fetch_answer *answer,
                           struct sts_finding *finding)
{
    char words[64];

    switch (answer->outcome) {
    case FETCH_UNTRUSTED:
        return fetch_fails(finding, "sts-webpki-invalid", answer->why);
    case FETCH_FAILED:
        return fetch_fails(finding, "sts-policy-fetch-error", answer->why);
    case FETCH_ANSWERED:
        break;
    }
    snprintf(words, sizeof words, "HTTP status %u", answer->status);
    if (answer->status != 200)
        return fetch_fails(finding, "sts-policy-fetch-error", words);
    if (!bytes_equal_text(answer->type, "text/plain"))
        return fetch_fails(finding, "sts-policy-fetch-error", "its media type is not text/plain");
    if (!sts_parse_policy(arena, answer->body, &finding->policy))
        return fetch_fails(finding, "sts-policy-invalid", "the policy cannot be understood");
    finding->text = answer->body;
    return true;
}

/* The policy as its host gives it now. */
static bool fetch_policy(struct deliver *deliver, struct arena *arena, const char *domain,
                         struct sts_finding *finding)
{
    struct ip_address addresses[ADDRESSES_MAX];
    struct fetch_answer answer;
    const char *const host = arena_text(arena, arena_print(arena, "mta-sts.%s", domain));

    if (!host)
        return fetch_fails(finding, "sts-policy-fetch-error", "out of memory");
    const struct fetch_request request = {.host = host,
                                          .path = "/.well-known/mta-sts.txt",
                                          .port = deliver->config->sts_port,
                                          .addresses = addresses,
                                          .address_count =
                                              find_addresses(deliver, arena, host, addresses),
                                          .authorities = deliver->config->tls_authorities,
                                          .deadline_us = deadline_in(FETCH_PATIENCE_S * US_PER_S)};

    if (request.address_count == 0)
        return fetch_fails(finding, "sts-policy-fetch-error", "the policy's host has no address");
    fetch_https(arena, &request, &answer);
    return judge_document(arena, &answer, finding);
}

/* Fetches, and remembers what came of it. True: `finding` holds a new policy. */
static bool renew(struct deliver *deliver, struct arena *arena, struct sts_row *row, const char *id,
                  struct sts_finding *finding)
{
    const bool fetched = fetch_policy(deliver, arena, row->domain, finding);
    const int64_t now = now_s();

    if (fiber_cancelled())
        return false;
    if (fetched) {
        const int64_t life = (int64_t)finding->policy.max_age_s;
        buffer_clear(&row->text);
        buffer_add(&row->text, finding->text);
        snprintf(row->id, sizeof row->id, "%s", id);
        row->fetched_s = now;
        row->expires_s = now + life;
        row->refresh_s = now + MIN_OF(life / 2, (int64_t)REFRESH_S);
        row->tried_s = 0;
        row->tried_id[0] = 0;
    } else {
        observe_note(LOG_WARNING, "deliver", "MTA-STS policy of %s: %s: %s", row->domain,
                     finding->failure, finding->why);
        snprintf(row->tried_id, sizeof row->tried_id, "%s", id);
        row->tried_s = now;
        row->refresh_s = now + REFRESH_AGAIN_S;
    }
    tls_store_write(deliver->store, row);
    return fetched;
}

/* ------------------------------------------------------------------ a domain's policy */

/* What is remembered and still holds. */
static bool recall(struct arena *arena, const struct sts_row *row, struct sts_finding *finding)
{
    const struct bytes text = arena_copy(arena, buffer_view(&row->text));

    if (text.count == 0 || row->expires_s <= now_s() ||
        !sts_parse_policy(arena, text, &finding->policy))
        return false;
    finding->text = text;
    return true;
}

static bool is_worth_a_fetch(const struct sts_row *row, bool held, const char *id)
{
    if (held && strcmp(row->id, id) == 0)
        return false;
    return strcmp(row->tried_id, id) != 0 || now_s() - row->tried_s >= AGAIN_AFTER_S ||
           now_s() < row->tried_s;
}

static void note_use(struct deliver *deliver, struct sts_row *row)
{
    const int64_t now = now_s();

    if (now - row->used_s < USED_STEP_S && now >= row->used_s)
        return;
    row->used_s = now;
    tls_store_write(deliver->store, row);
}

static void find_row(struct deliver *deliver, struct arena *arena, struct sts_row *row,
                     struct sts_finding *finding)
{
    char id[STS_ID_ROOM] = "";
    const enum lookup_status record = find_record(deliver, arena, row->domain, id);
    struct sts_finding fresh = {0};

    tls_store_read(deliver->store, row);
    const bool held = recall(arena, row, finding);
    if (record == LOOKUP_FOUND && is_worth_a_fetch(row, held, id)) {
        row->used_s = now_s();
        if (renew(deliver, arena, row, id, &fresh)) {
            *finding = fresh;
            finding->applies = true;
            return;
        }
        finding->failure = fresh.failure;
        snprintf(finding->why, sizeof finding->why, "%s", fresh.why);
    } else if (held) {
        note_use(deliver, row);
    }
    finding->applies = held;
}

/* As it stands in DNS and in URLs: A-labels in lower case. */
static bool plain_domain(struct arena *arena, struct bytes domain,
                         char into[static STS_DOMAIN_ROOM])
{
    char *const text = arena_text(arena, domain);
    char *ascii = NULL;

    if (!text || idn2_to_ascii_8z(text, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) != IDN2_OK)
        return false;
    const int count = snprintf(into, STS_DOMAIN_ROOM, "%s", ascii);
    idn2_free(ascii);
    for (char *at = into; *at; at++)
        *at = (char)ascii_lower((uint8_t)*at);
    return count > 0 && count < STS_DOMAIN_ROOM;
}

void sts_find(struct deliver *deliver, struct arena *arena, struct bytes domain,
              struct sts_finding *finding)
{
    struct sts_row *row = calloc(1, sizeof *row);

    *finding = (struct sts_finding){0};
    if (row && plain_domain(arena, domain, row->domain)) {
        row->text = BUFFER_WITH_LIMIT(STS_TEXT_ROOM);
        find_row(deliver, arena, row, finding);
        buffer_free(&row->text);
    }
    free(row);
}

/* ------------------------------------------------------------------ ahead of the end */

static void refresh_one(struct deliver *deliver, struct sts_row *row)
{
    struct arena arena = ARENA_WITH_LIMIT(POLICY_ARENA);
    struct sts_finding finding = {0};
    char id[STS_ID_ROOM] = "";

    if (tls_store_read(deliver->store, row)) {
        const enum lookup_status record = find_record(deliver, &arena, row->domain, id);
        const bool renewed =
            renew(deliver, &arena, row, record == LOOKUP_FOUND ? id : row->id, &finding);
        observe_note(LOG_DEBUG, "deliver", "MTA-STS policy of %s: %s", row->domain,
                     renewed ? "fetched again" : "kept");
    }
    buffer_free(&row->text);
    arena_clear(&arena);
}

void sts_refresh(struct deliver *deliver)
{
    char(*domains)[STS_DOMAIN_ROOM] = calloc(REFRESH_MOST, sizeof *domains);
    struct sts_row *row = calloc(1, sizeof *row);
    const unsigned count =
        domains && row ? tls_store_due(deliver->store, now_s(), domains, REFRESH_MOST) : 0;

    for (unsigned i = 0; i < count && !fiber_cancelled(); i++) {
        *row = (struct sts_row){0};
        snprintf(row->domain, sizeof row->domain, "%s", domains[i]);
        refresh_one(deliver, row);
    }
    free(row);
    free(domains);
}
