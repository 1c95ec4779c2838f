/*
 * signing: DKIM-Signature for what our own clients send, with every key that the configuration has
 * for the author's domain or the nearest domain above it; and an ARC seal for what others sent and
 * is passed on. Keys are read once, when the server
 * opens, while it may still read them.
 */
#include <errno.h>
#include <string.h>

#include "policy/authenticate.h"

enum { KEY_FILE_MOST = 64 * 1024, WHY_ROOM = 256 };

struct signing_key {
    const struct config_sign *sign;
    struct private_key *key;
};

static bool read_key_file(const char *path, struct buffer *into)
{
    FILE *file = fopen(path, "rb");
    uint8_t piece[4096];
    size_t got = 0;

    if (!file)
        return false;
    while ((got = fread(piece, 1, sizeof piece, file)) > 0)
        buffer_add(into, bytes_of(piece, got));
    const bool whole = !ferror(file) && !into->failed;
    fclose(file);
    return whole;
}

static bool key_open_by(struct signing_key *key, struct key_service *keys, unsigned index,
                        char *why, size_t why_room)
{
    char words[WHY_ROOM] = "";

    key->key = private_key_open_by(keys, index, words, sizeof words);
    if (!key->key)
        snprintf(why, why_room, "sign \"%s\": %s", key->sign->name, words);
    return key->key != NULL;
}

static bool key_open(struct signing_key *key, char *why, size_t why_room)
{
    CLEANUP(buffer_free) struct buffer pem = BUFFER_WITH_LIMIT(KEY_FILE_MOST);
    const struct config_sign *sign = key->sign;
    char words[WHY_ROOM] = "";

    if (!read_key_file(sign->key, &pem)) {
        snprintf(why, why_room, "sign \"%s\": %s: %s", sign->name, sign->key,
                 pem.failed ? "too large" : strerror(errno));
        return false;
    }
    key->key = private_key_open_pem(buffer_view(&pem), words, sizeof words);
    if (!key->key)
        snprintf(why, why_room, "sign \"%s\": %s: %s", sign->name, sign->key, words);
    return key->key != NULL;
}

bool signing_open(struct policy *policy, char *why, size_t why_room)
{
    const struct config *config = policy->settings.config;
    struct key_service *keys = policy->settings.keys;

    if (config->sign_count == 0)
        return true;
    policy->signing_keys = calloc(config->sign_count, sizeof *policy->signing_keys);
    if (!policy->signing_keys) {
        snprintf(why, why_room, "policy: out of memory");
        return false;
    }
    for (unsigned i = 0; i < config->sign_count; i++) {
        struct signing_key *key = &policy->signing_keys[policy->signing_key_count++];

        key->sign = &config->signs[i];
        if (keys ? !key_open_by(key, keys, i, why, why_room) : !key_open(key, why, why_room))
            return false;
    }
    return true;
}

void signing_close(struct policy *policy)
{
    for (unsigned i = 0; i < policy->signing_key_count; i++)
        private_key_close(&policy->signing_keys[i].key);
    free(policy->signing_keys);
    policy->signing_keys = NULL;
    policy->signing_key_count = 0;
}

/* ------------------------------------------------------------------ one message */

static bool has_key(const struct policy *policy, struct bytes domain)
{
    for (unsigned i = 0; i < policy->signing_key_count; i++)
        if (bytes_equal_text_nocase(domain, policy->signing_keys[i].sign->domain))
            return true;
    return false;
}

/* The author's domain, or the nearest above it that has a key: relaxed alignment takes both. */
static struct bytes signing_domain(const struct policy *policy, struct bytes author)
{
    while (author.count > 0 && !has_key(policy, author)) {
        struct bytes label = BYTES_EMPTY;
        author = bytes_cut(author, '.', &label);
    }
    return author;
}

static bool sign_with(const struct signing_key *key, const struct policy_message *message,
                      struct buffer *into)
{
    const struct auth_source source = {message->source.read, message->source.argument,
                                       message->source.size_bytes};
    const struct dkim_signer signer = {.domain = key->sign->domain,
                                       .selector = key->sign->selector,
                                       .key = key->key,
                                       .wall_us = clock_wall_us()};
    char why[WHY_ROOM] = "";

    if (dkim_sign(&signer, &source, into, why, sizeof why))
        return true;
    observe_note(LOG_ERROR, "policy", "sign \"%s\": %s", key->sign->name, why);
    return false;
}

/* ------------------------------------------------------------------ what is passed on */

/* Mail of others that an alias leads to a domain that is not ours. */
static bool is_passed_on(const struct policy *policy, const struct transaction *transaction)
{
    const struct envelope *envelope = &transaction->envelope;

    for (uint32_t i = 0; i < envelope->recipient_count; i++)
        if (!config_find_domain(policy->settings.config, envelope->recipients[i].address.domain))
            return true;
    return false;
}

static const struct signing_key *sealing_key(const struct policy *policy)
{
    for (unsigned i = 0; i < policy->signing_key_count; i++)
        if (policy->signing_keys[i].sign->seal)
            return &policy->signing_keys[i];
    return NULL;
}

/* The chain on top of which the seal goes is the one that arrived; where its state is not known, as
 * when a key could not be fetched, there is no seal. The message goes on in any case. */
static void seal(const struct policy *policy, struct transaction *transaction,
                 const struct policy_message *message)
{
    const struct authentication *it = transaction->authentication;
    const struct signing_key *key = sealing_key(policy);
    CLEANUP(buffer_free) struct buffer results = BUFFER_WITH_LIMIT(64 * KIB);
    struct bytes id = BYTES_EMPTY;
    char why[WHY_ROOM] = "";

    if (!key || !it || !it->has_arc || !is_passed_on(policy, transaction))
        return;
    authenticate_results(it, transaction, &results);
    const struct arc_sealer sealer = {.signer = {.domain = key->sign->domain,
                                                 .selector = key->sign->selector,
                                                 .key = key->key,
                                                 .wall_us = clock_wall_us()},
                                      .authentication_results =
                                          bytes_cut(buffer_view(&results), ';', &id),
                                      .authserv_id = policy->settings.config->hostname,
                                      .chain = it->arc.result};
    const struct auth_source source = {message->source.read, message->source.argument,
                                       message->source.size_bytes};
    if (results.failed || !arc_seal(&sealer, &source, transaction->headers, why, sizeof why))
        observe_note(LOG_WARNING, "policy", "sign \"%s\": not sealed: %s", key->sign->name,
                     *why ? why : "no memory");
}

/* ------------------------------------------------------------------ the end of the judgement */

struct verdict signing_apply(struct policy *policy, struct transaction *transaction,
                             const struct policy_message *message)
{
    const struct client_facts *client = transaction->client;
    struct bytes author = BYTES_EMPTY;

    if (policy->signing_key_count > 0 && !client->may_relay && client->user.count == 0)
        seal(policy, transaction, message);
    if (policy->signing_key_count == 0 || (!client->may_relay && client->user.count == 0) ||
        !auth_author_domain(transaction->arena, message->head, &author))
        return verdict_accept();
    const struct bytes domain = signing_domain(policy, author);
    for (unsigned i = 0; domain.count > 0 && i < policy->signing_key_count; i++) {
        const struct signing_key *key = &policy->signing_keys[i];

        if (bytes_equal_text_nocase(domain, key->sign->domain) &&
            !sign_with(key, message, transaction->headers))
            return verdict_with(CAUSE_SERVER_BUSY, BYTES_LITERAL("could not sign"));
    }
    return verdict_accept();
}

/* ------------------------------------------------------------------ what was changed on its way
 * out */

/* Who sent it is what the envelope says; a signature that it bears proves nothing of that. */
static bool is_of_our_clients(const struct policy *policy, const struct envelope *envelope)
{
    struct endpoint client;

    return envelope->kind == ENVELOPE_DSN || envelope->user.count > 0 ||
           (endpoint_parse(envelope->client, &client) &&
            client_is_trusted(policy->settings.config, &client));
}

void policy_sign_changed(struct policy *policy, struct arena *arena,
                         const struct envelope *envelope, const struct policy_message *message,
                         struct buffer *into)
{
    struct bytes author = BYTES_EMPTY;

    if (policy->signing_key_count == 0 || !is_of_our_clients(policy, envelope) ||
        !auth_author_domain(arena, message->head, &author))
        return;
    const struct bytes domain = signing_domain(policy, author);
    for (unsigned i = 0; domain.count > 0 && i < policy->signing_key_count; i++) {
        const struct signing_key *key = &policy->signing_keys[i];

        if (bytes_equal_text_nocase(domain, key->sign->domain) && !sign_with(key, message, into))
            observe_note(LOG_WARNING, "policy", "sent without a signature after its conversion");
    }
}
