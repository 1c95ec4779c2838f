/*
 * The grammar of DMARC records (RFC 9989 4.7, 4.8): a list of tags. Unknown tags and bad values of
 * known ones are passed over; only `v` has to come first and `p` or `rua` has to be usable.
 */
#include "auth/auth.h"

const char *dmarc_policy_name(enum dmarc_policy policy)
{
    switch (policy) {
    case DMARC_POLICY_NONE:
        return "none";
    case DMARC_POLICY_QUARANTINE:
        return "quarantine";
    case DMARC_POLICY_REJECT:
        return "reject";
    }
    return "none";
}

static bool parse_policy(struct bytes value, enum dmarc_policy *policy)
{
    for (int i = DMARC_POLICY_NONE; i <= DMARC_POLICY_REJECT; i++) {
        if (bytes_equal_text_nocase(value, dmarc_policy_name((enum dmarc_policy)i))) {
            *policy = (enum dmarc_policy)i;
            return true;
        }
    }
    return false;
}

static void parse_tag(struct bytes name, struct bytes value, struct dmarc_record *record)
{
    if (bytes_equal_text_nocase(name, "p") && !record->has_p)
        record->has_p = parse_policy(value, &record->p);
    else if (bytes_equal_text_nocase(name, "sp") && !record->has_sp)
        record->has_sp = parse_policy(value, &record->sp);
    else if (bytes_equal_text_nocase(name, "np") && !record->has_np)
        record->has_np = parse_policy(value, &record->np);
    else if (bytes_equal_text_nocase(name, "t"))
        record->testing = bytes_equal_text_nocase(value, "y");
    else if (bytes_equal_text_nocase(name, "psd") && value.count == 1)
        record->psd = (char)ascii_lower(value.at[0]);
    else if (bytes_equal_text_nocase(name, "adkim"))
        record->strict_dkim = bytes_equal_text_nocase(value, "s");
    else if (bytes_equal_text_nocase(name, "aspf"))
        record->strict_spf = bytes_equal_text_nocase(value, "s");
    else if (bytes_equal_text_nocase(name, "rua"))
        record->rua = value;
    else if (bytes_equal_text_nocase(name, "ruf"))
        record->ruf = value;
    else if (bytes_equal_text_nocase(name, "fo"))
        record->fo = value;
}

/* "v" "=" "DMARC1", blanks allowed around; the value is case-sensitive. */
static bool is_version(struct bytes tag)
{
    struct bytes name = BYTES_EMPTY;
    const struct bytes value = bytes_cut(tag, '=', &name);

    return bytes_equal_text_nocase(bytes_trim(name), "v") &&
           bytes_equal_text(bytes_trim(value), "DMARC1");
}

/* At least one URI with a scheme: enough to tell a record that wants reports from a broken one. */
static bool rua_is_usable(struct bytes rua)
{
    while (rua.count > 0) {
        struct bytes uri = BYTES_EMPTY;
        rua = bytes_cut(rua, ',', &uri);
        if (bytes_starts_with_nocase(bytes_trim(uri), BYTES_LITERAL("mailto:")) &&
            bytes_find_byte(uri, '@') < uri.count)
            return true;
    }
    return false;
}

enum auth_result dmarc_parse(struct bytes text, struct dmarc_record *record)
{
    struct bytes tag = BYTES_EMPTY;
    struct bytes rest = bytes_cut(text, ';', &tag);

    *record = (struct dmarc_record){.psd = 'u'};
    if (!is_version(tag))
        return AUTH_NONE;
    while (rest.count > 0) {
        struct bytes name = BYTES_EMPTY;
        rest = bytes_cut(rest, ';', &tag);
        const struct bytes value = bytes_cut(tag, '=', &name);
        parse_tag(bytes_trim(name), bytes_trim(value), record);
    }
    if (!record->has_p && !rua_is_usable(record->rua))
        return AUTH_PERMERROR;
    return AUTH_PASS;
}
