/*
 * One signature field read (RFC 6376 3.5 and 6.1.1, RFC 8301, RFC 8463; RFC 8617 4.1.2, 4.1.3).
 * Whatever rules a pass out without DNS is found here; each step gives NULL or what is wrong.
 */
#include "auth/dkim_inside.h"

#include <string.h>

struct parsing {
    struct arena *arena;
    const struct dkim_tags *tags;
    struct dkim_signature *signature;
};

enum { BASE64_MAX = 4096, IDENTITY_MAX = 1024 };

/* The most that a key of the largest size makes, with room for folding. */
static bool decode(const struct parsing *parsing, struct bytes text, struct bytes *octets)
{
    return text.count <= BASE64_MAX && base64_decode(parsing->arena, text, octets);
}

static const char *read_version(const struct parsing *parsing)
{
    const struct bytes version = dkim_tags_value(parsing->tags, "v");

    if (parsing->signature->form != DKIM_SIGNATURE || bytes_equal_text(version, "1"))
        return NULL;
    return version.count ? "the signature's version is not 1" : "the signature has no v=";
}

static const char *read_signer(const struct parsing *parsing)
{
    struct dkim_signature *signature = parsing->signature;

    const struct bytes domain = dkim_tags_value(parsing->tags, "d");
    const struct bytes selector = dkim_tags_value(parsing->tags, "s");

    if (dkim_domain_is_valid(domain))
        signature->domain = domain;
    if (dkim_domain_is_valid(selector))
        signature->selector = selector;
    if (signature->domain.count == 0)
        return "d= is missing or no domain";
    return signature->selector.count == 0 ? "s= is missing or no selector" : NULL;
}

static const char *read_algorithm(const struct parsing *parsing)
{
    struct dkim_signature *signature = parsing->signature;
    const struct bytes name = dkim_tags_value(parsing->tags, "a");

    signature->key = bytes_equal_text(name, "ed25519-sha256") ? KEY_ED25519 : KEY_RSA;
    if (bytes_equal_text(name, "rsa-sha1") || bytes_equal_text(name, "rsa-sha256") ||
        signature->key == KEY_ED25519)
        signature->algorithm = name;
    if (signature->algorithm.count == 0)
        return "a= is missing or unknown";
    if (!bytes_equal_text(name, "rsa-sha1"))
        return NULL;
    signature->result = AUTH_FAIL;
    return "rsa-sha1 is not acceptable (RFC 8301)";
}

/* Bits behind the last octet are zero: a signature has one spelling, so that no bit of it can be
 * changed unseen. */
static bool ends_in_zero_bits(struct bytes text)
{
    struct bytes digits = text;
    unsigned padding = 0;

    while (digits.count > 0 &&
           (digits.at[digits.count - 1] == '=' || digits.at[digits.count - 1] <= ' ')) {
        padding += digits.at[digits.count - 1] == '=';
        digits.count--;
    }
    const char *allowed = padding == 2 ? "AQgw" : "AEIMQUYcgkosw048";
    return padding == 0 || (digits.count > 0 && strchr(allowed, digits.at[digits.count - 1]));
}

static const char *read_signature(const struct parsing *parsing)
{
    struct dkim_signature *signature = parsing->signature;
    const struct dkim_tag *tag = dkim_tags_find(parsing->tags, "b");

    if (!tag)
        return "b= is missing";
    signature->raw_b = tag->raw;
    signature->b = tag->value;
    if (!decode(parsing, tag->value, &signature->signature) || signature->signature.count == 0 ||
        !ends_in_zero_bits(tag->value))
        return "b= is empty or not base 64";
    return NULL;
}

static const char *read_body_digest(const struct parsing *parsing)
{
    struct dkim_signature *signature = parsing->signature;

    if (!decode(parsing, dkim_tags_value(parsing->tags, "bh"), &signature->body_digest) ||
        signature->body_digest.count != DKIM_HASH_OCTETS)
        return "bh= is missing or no SHA-256 in base 64";
    return NULL;
}

static bool read_form(struct bytes word, bool *relaxed)
{
    *relaxed = bytes_equal_text(word, "relaxed");
    return *relaxed || bytes_equal_text(word, "simple");
}

static const char *read_canonicalization(const struct parsing *parsing)
{
    struct dkim_signature *signature = parsing->signature;
    const struct dkim_tag *tag = dkim_tags_find(parsing->tags, "c");
    struct bytes head = BYTES_EMPTY;

    if (!tag)
        return NULL;
    const struct bytes body = bytes_cut(tag->value, '/', &head);
    const bool alone = bytes_find_byte(tag->value, '/') == tag->value.count;
    if (!read_form(head, &signature->relaxed_head) ||
        (!alone && !read_form(body, &signature->relaxed_body)))
        return "c= is unknown";
    return NULL;
}

static unsigned count_names(struct bytes names)
{
    unsigned count = 1;

    for (size_t i = 0; i < names.count; i++)
        count += names.at[i] == ':';
    return count;
}

static const char *read_names(const struct parsing *parsing)
{
    struct dkim_signature *signature = parsing->signature;
    const struct dkim_tag *tag = dkim_tags_find(parsing->tags, "h");

    if (!tag)
        return "h= is missing";
    signature->names = tag->value;
    if (count_names(tag->value) > DKIM_NAMES_MAX)
        return "h= names too many fields";
    /* RFC 8617 4.1.2 asks a message signature of ARC only to leave the seals out. */
    if (signature->form == DKIM_ARC_MESSAGE)
        return dkim_list_has(tag->value, ':', "arc-seal") ? "h= names ARC-Seal" : NULL;
    return dkim_list_has(tag->value, ':', "from") ? NULL : "h= does not name From";
}

/* Folding within i= means nothing (RFC 6376 2.11), and must not get into our own fields. */
static struct bytes without_blanks(struct arena *arena, struct bytes text)
{
    uint8_t *plain = arena_take(arena, text.count + 1);
    size_t count = 0;

    for (size_t i = 0; plain && i < text.count; i++)
        if (text.at[i] > ' ')
            plain[count++] = text.at[i];
    return bytes_of(plain, count);
}

/* The part of i= behind the last '@' has to be d= or below it. */
static const char *read_identity(const struct parsing *parsing)
{
    struct dkim_signature *signature = parsing->signature;
    const struct dkim_tag *tag = dkim_tags_find(parsing->tags, "i");

    if (signature->form != DKIM_SIGNATURE || !tag)
        return NULL;
    if (tag->value.count > IDENTITY_MAX)
        return "i= is too long";
    const struct bytes identity = without_blanks(parsing->arena, tag->value);
    const size_t at = bytes_find_last_byte(identity, '@');
    const struct bytes domain = bytes_skip(identity, at + 1);
    const size_t extra = domain.count - MIN_OF(domain.count, signature->domain.count);
    if (at == identity.count || !dkim_domain_is_valid(domain) ||
        !bytes_ends_with_nocase(domain, signature->domain) ||
        (extra > 0 && domain.at[extra - 1] != '.'))
        return "i= is not within d=";
    signature->identity = identity;
    return NULL;
}

static const char *read_query(const struct parsing *parsing)
{
    const struct dkim_tag *tag = dkim_tags_find(parsing->tags, "q");

    return !tag || dkim_list_has(tag->value, ':', "dns/txt") ? NULL : "q= names no known method";
}

static const char *read_length(const struct parsing *parsing)
{
    const struct dkim_tag *tag = dkim_tags_find(parsing->tags, "l");

    parsing->signature->length = DKIM_NO_LIMIT;
    if (tag && (!bytes_to_u64(tag->value, &parsing->signature->length) ||
                parsing->signature->length == DKIM_NO_LIMIT))
        return "l= is no length";
    return NULL;
}

/* Absent is fine; RFC 6376 3.5 lets numbers be long, ours end at 64 bits. */
static bool read_time(const struct dkim_tag *tag, uint64_t *seconds)
{
    return !tag || bytes_to_u64(tag->value, seconds);
}

static const char *read_times(const struct parsing *parsing)
{
    const struct dkim_tag *signed_at = dkim_tags_find(parsing->tags, "t");
    const struct dkim_tag *expires = dkim_tags_find(parsing->tags, "x");
    const int64_t now_s = clock_wall_us() / 1000000;
    uint64_t from = 0, until = UINT64_MAX;

    if (!read_time(signed_at, &from) || !read_time(expires, &until))
        return "t= or x= is no time";
    if (signed_at && expires && until <= from)
        return "x= is not after t=";
    if (now_s < 0 || until >= (uint64_t)now_s)
        return NULL;
    parsing->signature->result = AUTH_FAIL;
    return "the signature has expired";
}

/* A seal covers ARC's own fields only; h= in one is an error (RFC 8617 4.1.3). */
static const char *read_no_names(const struct parsing *parsing)
{
    parsing->signature->relaxed_head = true;
    return dkim_tags_find(parsing->tags, "h") ? "a seal has h=" : NULL;
}

typedef const char *(*step)(const struct parsing *);
static const step MESSAGE_STEPS[] = {read_version,   read_signer,      read_algorithm,
                                     read_signature, read_body_digest, read_canonicalization,
                                     read_names,     read_identity,    read_query,
                                     read_length,    read_times};
static const step SEAL_STEPS[] = {read_signer, read_algorithm, read_signature, read_no_names,
                                  read_times};

static const char *run_steps(const struct parsing *parsing)
{
    const bool seal = parsing->signature->form == DKIM_ARC_SEAL;
    const step *steps = seal ? SEAL_STEPS : MESSAGE_STEPS;
    const size_t count = seal ? COUNT_OF(SEAL_STEPS) : COUNT_OF(MESSAGE_STEPS);
    const char *problem = NULL, *first = NULL;

    /* All steps run, so that the facts hold as much as can be read; the first problem counts. */
    for (size_t i = 0; i < count; i++) {
        const enum auth_result before = parsing->signature->result;
        problem = steps[i](parsing);
        if (first)
            parsing->signature->result = before;
        else
            first = problem;
    }
    return first;
}

void dkim_signature_parse(struct arena *arena, struct header_field field, enum dkim_form form,
                          struct dkim_signature *signature)
{
    struct dkim_tags tags;
    const struct parsing parsing = {arena, &tags, signature};

    *signature = (struct dkim_signature){
        .form = form, .field = field, .result = AUTH_PERMERROR, .length = DKIM_NO_LIMIT};
    if (!dkim_tags_parse(field.value, &tags)) {
        signature->problem = "the signature is no list of tags";
        return;
    }
    signature->problem = run_steps(&parsing);
}
