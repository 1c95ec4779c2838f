/*
 * DKIM key records read for people (`dns check`): by the parser that verification uses, and the key
 * itself opened to learn its length.
 */
#include "auth/dkim_inside.h"

static bool is_revoked(struct bytes text)
{
    struct dkim_tags tags;

    if (text.count > DKIM_KEY_TEXT_MAX || !dkim_tags_parse(text, &tags))
        return false;
    const struct dkim_tag *data = dkim_tags_find(&tags, "p");
    return data && data->value.count == 0;
}

const char *dkim_key_lint(struct arena *arena, struct bytes text, struct dkim_key_facts *facts)
{
    struct dkim_key key;
    struct bytes octets = BYTES_EMPTY;
    const char *problem = dkim_key_parse(text, &key);

    *facts = (struct dkim_key_facts){.revoked = is_revoked(text)};
    facts->kind = key.kind;
    facts->testing = key.testing;
    if (problem)
        return problem;
    if (!base64_decode(arena, key.data, &octets))
        return "the key is not base 64";
    CLEANUP(public_key_close) struct public_key *opened = public_key_open(key.kind, octets);
    if (!opened)
        return "p= holds no public key of this kind";
    facts->bits = public_key_bits(opened);
    return NULL;
}

struct bytes dkim_key_data(struct bytes text)
{
    struct dkim_key key;

    return dkim_key_parse(text, &key) ? BYTES_EMPTY : key.data;
}
