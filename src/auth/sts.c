/*
 * MTA-STS and TLS-RPT records and policies (RFC 8461 3, RFC 8460 3): bounded, nothing guessed.
 */
#include "auth/auth.h"

#include <idn2.h>
#include <string.h>

enum { STS_MX_MAX = 100, STS_MAX_AGE_S = 31557600, STS_ID_MAX = 32 };

/* Takes "name=value" up to ';' from the front of *rest, both trimmed. False at the end. */
static bool next_tag(struct bytes *rest, struct bytes *name, struct bytes *value)
{
    struct bytes tag = BYTES_EMPTY;

    while (rest->count > 0) {
        *rest = bytes_cut(*rest, ';', &tag);
        if (bytes_trim(tag).count == 0)
            continue;
        *value = bytes_trim(bytes_cut(tag, '=', name));
        *name = bytes_trim(*name);
        return true;
    }
    return false;
}

static bool has_version(struct bytes *rest, const char *version)
{
    struct bytes name = BYTES_EMPTY, value = BYTES_EMPTY;

    return next_tag(rest, &name, &value) && bytes_equal_text(name, "v") &&
           bytes_equal_text(value, version);
}

bool sts_parse_record(struct bytes txt, struct bytes *id)
{
    struct bytes name = BYTES_EMPTY, value = BYTES_EMPTY;
    bool found = false;

    if (!has_version(&txt, "STSv1"))
        return false;
    while (next_tag(&txt, &name, &value)) {
        if (!bytes_equal_text(name, "id"))
            continue;
        if (found || value.count == 0 || value.count > STS_ID_MAX)
            return false;
        for (size_t i = 0; i < value.count; i++)
            if (!ascii_is_alnum(value.at[i]))
                return false;
        *id = value;
        found = true;
    }
    return found;
}

bool tlsrpt_parse_record(struct bytes txt, struct bytes *rua)
{
    struct bytes name = BYTES_EMPTY, value = BYTES_EMPTY;
    bool found = false;

    if (!has_version(&txt, "TLSRPTv1"))
        return false;
    while (next_tag(&txt, &name, &value)) {
        if (!bytes_equal_text(name, "rua") || found)
            continue;
        if (!bytes_starts_with_nocase(value, BYTES_LITERAL("mailto:")) &&
            !bytes_starts_with_nocase(value, BYTES_LITERAL("https:")))
            return false;
        *rua = value;
        found = true;
    }
    return found;
}

/* ------------------------------------------------------------------ names */

#define STS_NAME_ROOM 512

/* The name as it is compared: A-labels, lower case, no final dot. */
static bool plain_name(struct bytes name, char *into)
{
    char copy[STS_NAME_ROOM];
    char *ascii = NULL;

    if (name.count > 0 && name.at[name.count - 1] == '.')
        name.count--;
    if (name.count == 0 || name.count >= sizeof copy || memchr(name.at, 0, name.count))
        return false;
    memcpy(copy, name.at, name.count);
    copy[name.count] = 0;
    if (idn2_to_ascii_8z(copy, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) != IDN2_OK)
        return false;
    const int count = snprintf(into, STS_NAME_ROOM, "%s", ascii);
    idn2_free(ascii);
    for (char *at = into; *at; at++)
        *at = (char)ascii_lower((uint8_t)*at);
    return count > 0 && count < STS_NAME_ROOM;
}

bool sts_matches(struct bytes mx, struct bytes pattern)
{
    char host[STS_NAME_ROOM], wanted[STS_NAME_ROOM];
    const bool wildcard = bytes_starts_with(pattern, BYTES_LITERAL("*."));

    if (!plain_name(mx, host) || !plain_name(wildcard ? bytes_skip(pattern, 2) : pattern, wanted))
        return false;
    if (!wildcard)
        return strcmp(host, wanted) == 0;
    /* One label in the place of the star (RFC 8461 4.1, RFC 6125 6.4.3). */
    const char *dot = strchr(host, '.');
    return dot && dot != host && strcmp(dot + 1, wanted) == 0;
}

static bool is_pattern(struct bytes value)
{
    return domain_is_valid(bytes_starts_with(value, BYTES_LITERAL("*.")) ? bytes_skip(value, 2)
                                                                         : value) &&
           value.at[0] != '[';
}

/* ------------------------------------------------------------------ policies */

static bool parse_mode(struct bytes value, enum sts_mode *mode)
{
    static const char *const names[] = {
        [STS_NONE] = "none", [STS_TESTING] = "testing", [STS_ENFORCE] = "enforce"};

    for (size_t i = 0; i < COUNT_OF(names); i++) {
        if (bytes_equal_text(value, names[i])) {
            *mode = (enum sts_mode)i;
            return true;
        }
    }
    return false;
}

struct seen {
    bool version, mode, max_age;
};

static bool parse_line(struct bytes key, struct bytes value, struct sts_policy *policy,
                       struct seen *seen)
{
    if (bytes_equal_text(key, "version")) {
        seen->version = bytes_equal_text(value, "STSv1");
        return seen->version;
    }
    if (bytes_equal_text(key, "mode") && !seen->mode) {
        seen->mode = parse_mode(value, &policy->mode);
        return seen->mode;
    }
    if (bytes_equal_text(key, "max_age") && !seen->max_age) {
        seen->max_age =
            bytes_to_u64(value, &policy->max_age_s) && policy->max_age_s <= STS_MAX_AGE_S;
        return seen->max_age;
    }
    if (bytes_equal_text(key, "mx")) {
        if (!is_pattern(value) || policy->mx_count == STS_MX_MAX)
            return false;
        policy->mx[policy->mx_count++] = value;
    }
    return true; /* unknown keys and repeated ones are passed over */
}

bool sts_parse_policy(struct arena *arena, struct bytes text, struct sts_policy *policy)
{
    struct seen seen = {0};

    *policy = (struct sts_policy){.mx = ARENA_NEW_ARRAY(arena, STS_MX_MAX, struct bytes)};
    if (!policy->mx)
        return false;
    while (text.count > 0) {
        struct bytes line = BYTES_EMPTY, key = BYTES_EMPTY;
        text = bytes_cut(text, '\n', &line);
        line = bytes_trim(line);
        const struct bytes value = bytes_trim(bytes_cut(line, ':', &key));
        if (line.count > 0 && !parse_line(bytes_trim(key), value, policy, &seen))
            return false;
    }
    return seen.version && seen.mode && seen.max_age &&
           (policy->mode == STS_NONE || policy->mx_count > 0);
}
