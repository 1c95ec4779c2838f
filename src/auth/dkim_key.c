/*
 * Keys in DNS (RFC 6376 3.6.1, 6.1.2; RFC 8301; RFC 8463): fetched, read, tried. Only "no such
 * record" said by a server is permanent; every failure to ask is a temporary error.
 */
#include "auth/dkim_inside.h"

static const char *read_kind(const struct dkim_tags *tags, struct dkim_key *key)
{
    const struct dkim_tag *tag = dkim_tags_find(tags, "k");

    key->kind = tag && bytes_equal_text(tag->value, "ed25519") ? KEY_ED25519 : KEY_RSA;
    if (!tag || key->kind == KEY_ED25519 || bytes_equal_text(tag->value, "rsa"))
        return NULL;
    return "the key's k= is unknown";
}

static const char *read_limits(const struct dkim_tags *tags, struct dkim_key *key)
{
    const struct dkim_tag *hashes = dkim_tags_find(tags, "h");
    const struct dkim_tag *services = dkim_tags_find(tags, "s");
    const struct bytes flags = dkim_tags_value(tags, "t");

    key->testing = dkim_list_has(flags, ':', "y");
    key->strict = dkim_list_has(flags, ':', "s");
    if (hashes && !dkim_list_has(hashes->value, ':', "sha256"))
        return "the key is not for sha256";
    if (services && !dkim_list_has(services->value, ':', "*") &&
        !dkim_list_has(services->value, ':', "email"))
        return "the key is not for mail";
    return NULL;
}

const char *dkim_key_parse(struct bytes text, struct dkim_key *key)
{
    struct dkim_tags tags;

    *key = (struct dkim_key){0};
    if (text.count > DKIM_KEY_TEXT_MAX)
        return "the key record is too long";
    if (!dkim_tags_parse(text, &tags))
        return "the key record is no list of tags";
    const struct dkim_tag *version = dkim_tags_find(&tags, "v");
    if (version && (version != tags.tags || !bytes_equal_text(version->value, "DKIM1")))
        return "the record at the key's name is none of DKIM1";
    const struct dkim_tag *data = dkim_tags_find(&tags, "p");
    if (!data)
        return "the key record has no p=";
    if (data->value.count == 0)
        return "the key is revoked";
    key->data = data->value;
    const char *problem = read_kind(&tags, key);
    return problem ? problem : read_limits(&tags, key);
}

/* With t=s the domain of i= is d= itself. */
static bool identity_is_strict(const struct dkim_signature *signature)
{
    const size_t at = bytes_find_last_byte(signature->identity, '@');

    return signature->identity.count == 0 ||
           bytes_equal_nocase(bytes_skip(signature->identity, at + 1), signature->domain);
}

static struct dkim_outcome outcome(enum auth_result result, const char *reason)
{
    return (struct dkim_outcome){.result = result, .reason = reason};
}

static struct dkim_outcome try_public_key(const struct dkim_signature *signature,
                                          struct bytes octets, struct bytes hash)
{
    CLEANUP(public_key_close) struct public_key *key = public_key_open(signature->key, octets);

    if (!key)
        return outcome(AUTH_PERMERROR, "the key cannot be used");
    if (signature->key == KEY_RSA && public_key_bits(key) < DKIM_RSA_BITS_MIN)
        return outcome(AUTH_FAIL, "the key is shorter than 1024 bits (RFC 8301)");
    if (signature->key == KEY_RSA && public_key_bits(key) > DKIM_RSA_BITS_MAX)
        return outcome(AUTH_PERMERROR, "the key is longer than 8192 bits");
    if (!public_key_verifies(key, hash, signature->signature))
        return outcome(AUTH_FAIL, "the signature did not verify");
    return outcome(AUTH_PASS, "");
}

static struct dkim_outcome try_record(const struct auth_dns *dns, struct bytes text,
                                      const struct dkim_signature *signature, struct bytes hash)
{
    struct dkim_key key;
    struct bytes octets = BYTES_EMPTY;
    const char *problem = dkim_key_parse(text, &key);

    if (problem)
        return outcome(AUTH_PERMERROR, problem);
    if (key.kind != signature->key)
        return outcome(AUTH_PERMERROR, "the key is of another kind than a=");
    if (key.strict && !identity_is_strict(signature))
        return outcome(AUTH_PERMERROR, "the key allows no i= below d=");
    if (!base64_decode(dns->arena, key.data, &octets))
        return dns->arena->failed ? outcome(AUTH_TEMPERROR, "no memory")
                                  : outcome(AUTH_PERMERROR, "the key is not base 64");
    struct dkim_outcome tried = try_public_key(signature, octets, hash);
    tried.testing = key.testing;
    return tried;
}

/* Of several records the first that passes counts; else the one that came furthest. RFC 6376
 * 3.6.2.2 leaves several records undefined: a rotation or two kinds of key at one name. */
static bool is_better(struct dkim_outcome tried, struct dkim_outcome best)
{
    if (tried.result == AUTH_PASS || !best.reason)
        return true;
    return best.result == AUTH_PERMERROR && tried.result != AUTH_PERMERROR;
}

static struct dkim_outcome try_records(const struct auth_dns *dns, const struct dns_answer *answer,
                                       const struct dkim_signature *signature, struct bytes hash)
{
    struct dkim_outcome best = {0};

    for (unsigned i = 0; i < MIN_OF(answer->count, (unsigned)DKIM_KEY_RECORDS_MAX); i++) {
        const struct dkim_outcome tried = try_record(dns, answer->records[i].text, signature, hash);
        if (is_better(tried, best))
            best = tried;
        if (best.result == AUTH_PASS)
            break;
    }
    return best.reason ? best : outcome(AUTH_PERMERROR, "no key for the signature");
}

struct dkim_outcome dkim_key_judge(const struct auth_dns *dns,
                                   const struct dkim_signature *signature, struct bytes hash)
{
    const struct bytes name =
        arena_print(dns->arena, "%.*s._domainkey.%.*s", BYTES_PRINT(signature->selector),
                    BYTES_PRINT(signature->domain));
    struct dns_answer answer = {0};

    if (name.count == 0)
        return outcome(AUTH_TEMPERROR, "no memory");
    if (name.count > 253)
        return outcome(AUTH_PERMERROR, "the key's name is too long");
    if (clock_now_us() >= dns->deadline_us)
        return outcome(AUTH_TEMPERROR, "the time for look-ups is over");
    const struct lookup lookup = resolve_ask(dns->resolver, dns->arena, name, DNS_TXT, &answer);
    switch (lookup.status) {
    case LOOKUP_FOUND:
        return try_records(dns, &answer, signature, hash);
    case LOOKUP_ABSENT:
        return outcome(AUTH_PERMERROR, "no key for the signature");
    case LOOKUP_FAILED:
        break;
    }
    return outcome(AUTH_TEMPERROR, "the key could not be fetched");
}
