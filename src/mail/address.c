/*
 * Addresses: paths of RFC 5321 4.1.2 with the letters of RFC 6531 read into their plain form, and
 * written back quoted where needed. What is read is copied into the arena, so it outlives the line.
 */
#include "mail/mail.h"

#include <string.h>

enum { LOCAL_ACCEPTED_MAX = MAIL_LOCAL_MAX * 4 };

static bool is_atext(uint8_t byte)
{
    return ascii_is_alnum(byte) || byte >= 0x80 ||
           (byte > ' ' && strchr("!#$%&'*+-/=?^_`{|}~", byte) != NULL);
}

static bool starts_with_byte(struct bytes text, uint8_t byte)
{
    return text.count > 0 && text.at[0] == byte;
}

/* Length of the dot-string at the front; 0 when there is none or a dot is out of place. */
static size_t dot_string_length(struct bytes text)
{
    size_t length = 0;
    bool dot_allowed = false;

    for (; length < text.count; length++) {
        const bool dot = text.at[length] == '.';

        if (!is_atext(text.at[length]) && !(dot && dot_allowed))
            break;
        dot_allowed = !dot;
    }
    return dot_allowed ? length : 0;
}

/* From behind the opening quote to behind the closing one; the local part is given without escapes.
 */
static bool take_quoted(struct arena *arena, struct bytes *text, struct bytes *local)
{
    uint8_t *plain = arena_take(arena, MIN_OF(text->count, (size_t)LOCAL_ACCEPTED_MAX) + 1);
    size_t count = 0;

    for (size_t i = 0; plain && i < text->count && count < LOCAL_ACCEPTED_MAX; i++) {
        if (text->at[i] == '"') {
            *text = bytes_skip(*text, i + 1);
            *local = bytes_of(plain, count);
            return true;
        }
        if (text->at[i] == '\\' && (++i == text->count || text->at[i] >= 0x80))
            return false;
        if (!ascii_is_print(text->at[i]) && text->at[i] < 0x80)
            return false;
        plain[count++] = text->at[i];
    }
    return false;
}

static bool take_local(struct arena *arena, struct bytes *text, struct bytes *local)
{
    if (starts_with_byte(*text, '"')) {
        *text = bytes_skip(*text, 1);
        return take_quoted(arena, text, local) && bytes_is_utf8(*local);
    }
    const size_t length = dot_string_length(*text);
    if (length == 0 || length > LOCAL_ACCEPTED_MAX)
        return false;
    *local = arena_copy(arena, bytes_slice(*text, 0, length));
    *text = bytes_skip(*text, length);
    return local->count == length && bytes_is_utf8(*local);
}

/* Lower case, without a final dot; a literal keeps the spelling that RFC 5321 gives its tag. */
static bool copy_domain(struct arena *arena, struct bytes text, struct bytes *domain)
{
    static const struct bytes tag = BYTES_LITERAL("[IPv6:");

    if (text.count > 1 && text.at[text.count - 1] == '.')
        text.count--;
    if (!domain_is_valid(text))
        return false;
    uint8_t *copy = arena_take(arena, text.count + 1);
    if (!copy)
        return false;
    for (size_t i = 0; i < text.count; i++)
        copy[i] = ascii_lower(text.at[i]);
    if (bytes_starts_with_nocase(text, tag))
        memcpy(copy, tag.at, tag.count);
    *domain = bytes_of(copy, text.count);
    return true;
}

/* "@one,@two:" is dropped (RFC 5321 appendix C); false when it is begun and does not end well. */
static bool drop_source_route(struct bytes *text)
{
    while (starts_with_byte(*text, '@')) {
        size_t end = 1;

        while (end < text->count && text->at[end] != ',' && text->at[end] != ':')
            end++;
        if (end == text->count || !domain_is_valid(bytes_slice(*text, 1, end - 1)))
            return false;
        const bool last = text->at[end] == ':';
        *text = bytes_skip(*text, end + 1);
        if (last)
            return !starts_with_byte(*text, '@');
        if (!starts_with_byte(*text, '@'))
            return false;
    }
    return true;
}

bool address_parse_path(struct arena *arena, struct bytes *rest, enum path_kind kind,
                        struct address *address)
{
    struct bytes text = bytes_skip(*rest, 1);

    *address = (struct address){0};
    if (!starts_with_byte(*rest, '<'))
        return false;
    if (kind == PATH_REVERSE && starts_with_byte(text, '>')) {
        *rest = bytes_skip(text, 1);
        return true;
    }
    const bool quoted = starts_with_byte(text, '"');
    if (!drop_source_route(&text) || !take_local(arena, &text, &address->local))
        return false;
    if (kind == PATH_FORWARD && starts_with_byte(text, '>') && !quoted &&
        bytes_equal_text_nocase(address->local, "postmaster")) {
        *rest = bytes_skip(text, 1);
        return true;
    }
    const size_t end = bytes_find_byte(text, '>');
    if (!starts_with_byte(text, '@') || end == text.count ||
        !copy_domain(arena, bytes_slice(text, 1, end - 1), &address->domain))
        return false;
    *rest = bytes_skip(text, end + 1);
    return true;
}

bool address_parse(struct arena *arena, struct bytes text, struct address *address)
{
    *address = (struct address){0};
    return text.count <= MAIL_ADDRESS_MAX && take_local(arena, &text, &address->local) &&
           starts_with_byte(text, '@') && copy_domain(arena, bytes_skip(text, 1), &address->domain);
}

static void print_quoted(struct buffer *into, struct bytes local)
{
    buffer_add_byte(into, '"');
    for (size_t i = 0; i < local.count; i++) {
        const uint8_t byte = local.at[i];

        if (byte == '"' || byte == '\\')
            buffer_add_byte(into, '\\');
        /* The parser lets no control through; should one come from a store, it must not end a line.
         */
        buffer_add_byte(into, ascii_is_print(byte) || byte >= 0x80 ? byte : '?');
    }
    buffer_add_byte(into, '"');
}

void address_print(struct buffer *into, struct address address)
{
    if (address_is_null(address))
        return;
    if (address.local.count > 0 && dot_string_length(address.local) == address.local.count)
        buffer_add(into, address.local);
    else
        print_quoted(into, address.local);
    if (address.domain.count == 0)
        return;
    buffer_add_byte(into, '@');
    buffer_add(into, address.domain);
}

struct bytes address_text(struct arena *arena, struct address address)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(2 * MAIL_ADDRESS_MAX);

    address_print(&text, address);
    if (text.failed) {
        arena->failed = true;
        return BYTES_EMPTY;
    }
    return arena_copy(arena, buffer_view(&text));
}

bool address_equal(struct address a, struct address b)
{
    return bytes_equal(a.local, b.local) && bytes_equal_nocase(a.domain, b.domain);
}

bool address_is_null(struct address address)
{
    return address.local.count == 0 && address.domain.count == 0;
}

static bool is_ascii(struct bytes text)
{
    for (size_t i = 0; i < text.count; i++)
        if (text.at[i] >= 0x80)
            return false;
    return true;
}

struct address envelope_return_path(const struct envelope *envelope,
                                    const struct recipient *recipient)
{
    const bool has_owner = !address_is_null(envelope->from) && !address_is_null(recipient->owner);

    return has_owner ? recipient->owner : envelope->from;
}

bool address_is_ascii(struct address address)
{
    return is_ascii(address.local) && is_ascii(address.domain);
}
