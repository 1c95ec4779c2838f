/*
 * Tag lists (RFC 6376 3.2), the grammar of signatures and key records. A tag twice or an empty one
 * in the middle voids the list; unknown tags are the reader's business.
 */
#include "auth/dkim_inside.h"

static bool name_is_valid(struct bytes name)
{
    for (size_t i = 0; i < name.count; i++)
        if (!ascii_is_alnum(name.at[i]) && (i == 0 || name.at[i] != '_'))
            return false;
    return name.count > 0 && ascii_is_alpha(name.at[0]);
}

/* No control characters but those of folding. */
static bool value_is_valid(struct bytes value)
{
    for (;;) {
        const struct bytes rest = bytes_skip(value, bytes_find_control(value));

        if (rest.count == 0)
            return true;
        if (rest.at[0] != '\t' && rest.at[0] != '\r' && rest.at[0] != '\n')
            return false;
        value = bytes_skip(rest, 1);
    }
}

static bool add_tag(struct dkim_tags *tags, struct bytes spec)
{
    struct dkim_tag tag = {0};
    struct bytes name = BYTES_EMPTY;
    const size_t equals = bytes_find_byte(spec, '=');

    if (equals == spec.count || tags->count == DKIM_TAGS_MAX)
        return false;
    tag.raw = bytes_cut(spec, '=', &name);
    tag.name = bytes_trim(name);
    tag.value = bytes_trim(tag.raw);
    if (!name_is_valid(tag.name) || !value_is_valid(tag.value))
        return false;
    for (unsigned i = 0; i < tags->count; i++)
        if (bytes_equal(tags->tags[i].name, tag.name))
            return false;
    tags->tags[tags->count++] = tag;
    return true;
}

bool dkim_tags_parse(struct bytes text, struct dkim_tags *tags)
{
    tags->count = 0;
    while (text.count > 0) {
        struct bytes spec = BYTES_EMPTY;
        const bool last = bytes_find_byte(text, ';') == text.count;

        text = bytes_cut(text, ';', &spec);
        if (last && tags->count > 0 && bytes_trim(spec).count == 0)
            return true;
        if (!add_tag(tags, spec))
            return false;
    }
    return tags->count > 0;
}

const struct dkim_tag *dkim_tags_find(const struct dkim_tags *tags, const char *name)
{
    for (unsigned i = 0; i < tags->count; i++)
        if (bytes_equal_text(tags->tags[i].name, name))
            return &tags->tags[i];
    return NULL;
}

struct bytes dkim_tags_value(const struct dkim_tags *tags, const char *name)
{
    const struct dkim_tag *tag = dkim_tags_find(tags, name);

    return tag ? tag->value : BYTES_EMPTY;
}

bool dkim_list_has(struct bytes list, uint8_t separator, const char *wanted)
{
    while (list.count > 0) {
        struct bytes one = BYTES_EMPTY;
        list = bytes_cut(list, separator, &one);
        if (bytes_equal_text_nocase(bytes_trim(one), wanted))
            return true;
    }
    return false;
}

static bool label_is_valid(struct bytes label)
{
    for (size_t i = 0; i < label.count; i++)
        if (!ascii_is_alnum(label.at[i]) && label.at[i] != '-' && label.at[i] != '_')
            return false;
    return label.count > 0 && label.count <= 63;
}

bool dkim_domain_is_valid(struct bytes domain)
{
    if (domain.count == 0 || domain.count > 253 || domain.at[domain.count - 1] == '.')
        return false;
    while (domain.count > 0) {
        struct bytes label = BYTES_EMPTY;
        domain = bytes_cut(domain, '.', &label);
        if (!label_is_valid(label))
            return false;
    }
    return true;
}
