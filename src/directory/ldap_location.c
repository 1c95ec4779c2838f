/*
 * ldap_location: the setting of an LDAP source, and its filter with an address put in. Pure.
 *
 * Everything of a stranger that goes into a filter is escaped byte by byte (RFC 4515 section 3), so
 * that no address can end an assertion or open another.
 */
#include <string.h>

#include "directory/remote.h"

/* ------------------------------------------------------------------ the filter */

/* What may stand as it is in an assertion value; the rest becomes \xx. */
static bool is_plain(uint8_t byte)
{
    return ascii_is_alnum(byte) || byte == '@' || byte == '.' || byte == '-' || byte == '_' ||
           byte == '+' || byte == '=';
}

static void add_escaped(struct buffer *into, struct bytes value)
{
    for (size_t i = 0; i < value.count; i++) {
        if (is_plain(value.at[i]))
            buffer_add_byte(into, value.at[i]);
        else
            buffer_print(into, "\\%02x", value.at[i]);
    }
}

void ldap_filter_fill(struct buffer *into, struct bytes filter,
                      const struct remote_question *question)
{
    const struct {
        struct bytes word, value;
    } fillers[] = {
        {BYTES_LITERAL("{address}"), remote_question_whole(question)},
        {BYTES_LITERAL("{local}"), remote_question_local(question)},
        {BYTES_LITERAL("{domain}"), remote_question_domain(question)},
    };

    while (filter.count > 0) {
        size_t at = 0;

        while (at < COUNT_OF(fillers) && !bytes_starts_with(filter, fillers[at].word))
            at++;
        if (at == COUNT_OF(fillers)) {
            buffer_add_byte(into, filter.at[0]);
            filter = bytes_skip(filter, 1);
            continue;
        }
        add_escaped(into, fillers[at].value);
        filter = bytes_skip(filter, fillers[at].word.count);
    }
}

static bool attribute_is_fine(struct bytes name)
{
    if (name.count == 0 || name.count > 64 ||
        (!ascii_is_alpha(name.at[0]) && !ascii_is_digit(name.at[0])))
        return false;
    for (size_t i = 0; i < name.count; i++)
        if (!ascii_is_alnum(name.at[i]) && name.at[i] != '-' && name.at[i] != '.' &&
            name.at[i] != ';')
            return false;
    return true;
}

static bool attribute_is_listed(const struct ldap_location *location, struct bytes name)
{
    for (unsigned i = 0; i < location->attribute_count; i++)
        if (bytes_equal_text_nocase(name, location->attributes[i]))
            return true;
    return false;
}

/* The attributes of a filter's assertions: what stands between a parenthesis and an operator. */
static const char *filter_list_attributes(struct arena *arena, struct ldap_location *location)
{
    const struct bytes filter = location->filter;

    for (size_t i = 0; i < filter.count; i++) {
        if (filter.at[i] != '(' || i + 1 == filter.count || strchr("&|!(", filter.at[i + 1]))
            continue;
        struct bytes name = bytes_skip(filter, i + 1);
        size_t end = 0;

        while (end < name.count && !strchr("=~<>:)", name.at[end]))
            end++;
        name = bytes_slice(name, 0, end);
        if (!attribute_is_fine(name))
            return "the filter names something that is no attribute";
        if (attribute_is_listed(location, name))
            continue;
        if (location->attribute_count == LDAP_ATTRIBUTES_MAX)
            return "the filter names too many attributes";
        location->attributes[location->attribute_count++] = arena_text(arena, name);
    }
    return location->attribute_count > 0 ? NULL : "the filter names no attribute";
}

static bool parentheses_match(struct bytes filter)
{
    size_t depth = 0;

    for (size_t i = 0; i < filter.count; i++) {
        if (filter.at[i] == '(')
            depth++;
        else if (filter.at[i] == ')' && depth-- == 0)
            return false;
        if (depth == 0 && i + 1 < filter.count)
            return false; /* all of it is one filter */
    }
    return depth == 0 && filter.count > 2;
}

/* ------------------------------------------------------------------ the parts of the URL */

static const char *read_server(struct arena *arena, struct bytes *text,
                               struct ldap_location *location)
{
    const size_t scheme = bytes_find(*text, BYTES_LITERAL("://"));
    const struct bytes name = bytes_slice(*text, 0, scheme);

    if (!bytes_equal_text(name, "ldap") && !bytes_equal_text(name, "ldaps") &&
        !bytes_equal_text(name, "ldapi"))
        return "the scheme is ldap, ldaps or ldapi";
    const struct bytes behind = bytes_skip(*text, scheme + 3);
    const size_t slash = bytes_find_byte(behind, '/');
    const struct bytes host = bytes_slice(behind, 0, slash);

    if (slash == behind.count || host.count == 0)
        return "it has to be ldap://HOST:PORT/BASE?ATTRIBUTE?SCOPE?FILTER?EXTENSIONS";
    for (size_t i = 0; i < host.count; i++)
        if (!ascii_is_print(host.at[i]) || strchr(" ,?@", host.at[i]))
            return "the host has a byte that does not belong there";
    location->server = arena_text(arena, bytes_slice(*text, 0, scheme + 3 + slash));
    *text = bytes_skip(behind, slash + 1);
    return location->server ? NULL : "out of memory";
}

static const char *read_attribute(struct arena *arena, struct bytes part, const char *fallback,
                                  struct ldap_location *location)
{
    if (part.count == 0)
        part = bytes_of_text(fallback);
    if (!attribute_is_fine(part))
        return "the attribute is one name of letters, digits, - and .";
    location->attribute = arena_text(arena, part);
    return location->attribute ? NULL : "out of memory";
}

static const char *read_scope(struct bytes part, struct ldap_location *location)
{
    if (part.count == 0 || bytes_equal_text_nocase(part, "sub"))
        location->scope = LDAP_SCOPE_OF_SUB;
    else if (bytes_equal_text_nocase(part, "one"))
        location->scope = LDAP_SCOPE_OF_ONE;
    else if (bytes_equal_text_nocase(part, "base"))
        location->scope = LDAP_SCOPE_OF_BASE;
    else
        return "the scope is sub, one or base";
    return NULL;
}

static const char *read_filter(struct arena *arena, struct bytes part, const char *fallback,
                               struct ldap_location *location)
{
    location->filter = arena_copy(arena, part.count ? part : bytes_of_text(fallback));
    if (location->filter.count > REMOTE_QUERY_MAX || !parentheses_match(location->filter))
        return "the filter has to be one (...) with matching parentheses";
    if (bytes_find(location->filter, BYTES_LITERAL("{address}")) == location->filter.count &&
        bytes_find(location->filter, BYTES_LITERAL("{local}")) == location->filter.count)
        return "the filter needs {address} or {local}";
    return filter_list_attributes(arena, location);
}

static const char *read_extension(struct arena *arena, struct bytes part,
                                  struct ldap_location *location)
{
    struct bytes name, plain;
    const struct bytes value = bytes_cut(part, '=', &name);

    if (name.count > 0 && name.at[0] == '!')
        name = bytes_skip(name, 1);
    if (!percent_decode(arena, value, &plain))
        return "a percent sign is followed by two hexadecimal digits";
    const char *text = arena_text(arena, plain);

    if (!text)
        return "out of memory";
    if (bytes_equal_text_nocase(name, "StartTLS") ||
        bytes_equal_text(name, "1.3.6.1.4.1.1466.20037"))
        location->start_tls = true;
    else if (bytes_equal_text_nocase(name, "bindname"))
        location->bind_name = text;
    else if (bytes_equal_text_nocase(name, "x-password-file"))
        location->password_file = text;
    else if (bytes_equal_text_nocase(name, "x-ca-file"))
        location->ca_file = text;
    else if (bytes_equal_text_nocase(name, "x-deliver") && attribute_is_fine(plain))
        location->deliver = text;
    else
        return "extensions are StartTLS, bindname=DN, x-password-file=FILE, x-ca-file=FILE and "
               "x-deliver=ATTRIBUTE";
    return NULL;
}

static const char *read_extensions(struct arena *arena, struct bytes text,
                                   struct ldap_location *location)
{
    const char *wrong = NULL;

    while (text.count > 0 && !wrong) {
        struct bytes part;

        text = bytes_cut(text, ',', &part);
        wrong = read_extension(arena, part, location);
    }
    if (!wrong && location->start_tls &&
        !bytes_starts_with(bytes_of_text(location->server), BYTES_LITERAL("ldap://")))
        wrong = "StartTLS is for ldap:// only";
    if (!wrong && location->bind_name[0] && !location->password_file[0])
        wrong = "bindname needs x-password-file";
    return wrong;
}

const char *ldap_location_read(struct arena *arena, struct bytes text, bool of_aliases,
                               struct ldap_location *location)
{
    const char *const filter =
        of_aliases ? "(&(objectClass=nisMailAlias)(cn={local}))" : "(mail={address})";
    struct bytes parts[4], plain[4];

    *location =
        (struct ldap_location){.bind_name = "", .password_file = "", .ca_file = "", .deliver = ""};
    const char *wrong = read_server(arena, &text, location);

    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        text = bytes_cut(text, '?', &parts[i]);
        if (!percent_decode(arena, parts[i], &plain[i]))
            return "a percent sign is followed by two hexadecimal digits";
    }
    location->base = arena_text(arena, plain[0]);
    if (!wrong)
        wrong = read_attribute(arena, plain[1], of_aliases ? "rfc822MailMember" : "mail", location);
    if (!wrong)
        wrong = read_scope(plain[2], location);
    if (!wrong)
        wrong = read_filter(arena, plain[3], filter, location);
    if (!wrong)
        wrong = read_extensions(arena, text, location);
    if (!wrong && location->base && location->base[0] == '\0')
        wrong = "the base is missing";
    if (!wrong && of_aliases && location->deliver[0])
        wrong = "x-deliver is for users";
    return arena->failed ? "out of memory" : wrong;
}
