/*
 * codec: DNS names and record data. Everything comes from foreign servers, so all of it goes
 * through the bounded reader; a name that has no plain text form is refused rather than escaped.
 */
#include <idn2.h>
#include <string.h>

#include "resolve/codec.h"

enum { LABEL_MAX = 63, WIRE_NAME_MAX = 255 };

/* Bytes that a label may hold in text without escapes. */
static bool label_byte_is_plain(uint8_t byte)
{
    return byte > 0x20 && byte < 0x7f && byte != '.' && byte != '\\' && byte != '"';
}

static bool label_is_plain(struct bytes label)
{
    if (label.count == 0 || label.count > LABEL_MAX)
        return false;
    for (size_t i = 0; i < label.count; i++)
        if (!label_byte_is_plain(label.at[i]))
            return false;
    return true;
}

/* A name that somebody asks for may hold blanks: SPF macros make such ones (RFC 7208 7.1). In an
 * answer they would be a way into header fields. */
static bool label_can_be_asked(struct bytes label)
{
    if (label.count == 0 || label.count > LABEL_MAX)
        return false;
    for (size_t i = 0; i < label.count; i++)
        if (label.at[i] != ' ' && !label_byte_is_plain(label.at[i]))
            return false;
    return true;
}

static bool ascii_name_text(struct bytes name, char *into, size_t room)
{
    size_t length = 0;

    if (name.count > 0 && name.at[name.count - 1] == '.')
        name.count--;
    if (name.count == 0 || name.count > DNS_NAME_MAX || name.count >= room)
        return false;
    while (length < name.count) {
        const struct bytes rest = bytes_skip(name, length);
        const struct bytes label = bytes_slice(rest, 0, bytes_find_byte(rest, '.'));
        const bool dot_follows = label.count < rest.count;

        if (!label_can_be_asked(label) || (dot_follows && label.count + 1 == rest.count))
            return false;
        for (size_t i = 0; i < label.count; i++)
            into[length + i] = (char)ascii_lower(label.at[i]);
        length += label.count;
        if (dot_follows)
            into[length++] = '.';
    }
    into[length] = '\0';
    return true;
}

static bool name_is_ascii(struct bytes name)
{
    for (size_t i = 0; i < name.count; i++)
        if (name.at[i] >= 0x80)
            return false;
    return true;
}

/* U-labels are asked as A-labels (RFC 5891 5); asked as they stand, they would seem not to exist.
 */
static bool utf8_name_text(struct bytes name, char *into, size_t room)
{
    char text[4 * DNS_NAME_MAX + 1], *ascii = NULL;

    if (name.count >= sizeof text || !bytes_is_utf8(name) ||
        bytes_find_byte(name, '\0') < name.count)
        return false;
    snprintf(text, sizeof text, "%.*s", BYTES_PRINT(name));
    const bool converted =
        idn2_to_ascii_8z(text, &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL) == IDN2_OK &&
        ascii_name_text(bytes_of_text(ascii), into, room);

    idn2_free(ascii);
    return converted;
}

bool dns_name_text(struct bytes name, char *into, size_t room)
{
    if (bytes_equal_text(name, ".")) {
        snprintf(into, room, ".");
        return true;
    }
    return name_is_ascii(name) ? ascii_name_text(name, into, room)
                               : utf8_name_text(name, into, room);
}

/* An uncompressed name (RFC 1035 3.1) as text; the root is empty. */
static bool read_name(struct reader *reader, struct arena *arena, struct bytes *name)
{
    char text[WIRE_NAME_MAX + 1];
    size_t length = 0;

    for (;;) {
        const uint8_t size = reader_u8(reader);
        const struct bytes label = reader_bytes(reader, size);

        if (reader->failed)
            return false;
        if (size == 0)
            break;
        if (!label_is_plain(label) || length + size + 1 > DNS_NAME_MAX + 1)
            return false;
        if (length > 0)
            text[length++] = '.';
        for (size_t i = 0; i < size; i++)
            text[length++] = (char)ascii_lower(label.at[i]);
    }
    *name = arena_copy(arena, bytes_of(text, length));
    return !arena->failed;
}

/* The strings of a TXT record glued together (RFC 1035 3.3.14; RFC 7208 3.3: with no space). */
static bool read_strings(struct reader *reader, struct arena *arena, struct bytes *text)
{
    const size_t most = reader->rest.count;
    uint8_t *into = arena_take(arena, most + 1);
    size_t length = 0;

    if (!into)
        return false;
    while (!reader_at_end(reader)) {
        const uint8_t size = reader_u8(reader);
        const struct bytes string = reader_bytes(reader, size);

        if (reader->failed)
            return false;
        if (string.count > 0)
            memcpy(into + length, string.at, string.count);
        length += string.count;
    }
    *text = bytes_of(into, length);
    return true;
}

static bool read_address(struct reader *reader, enum endpoint_family family, struct ip_address *ip)
{
    const struct bytes octets = reader_bytes(reader, family == ENDPOINT_IPV4 ? 4 : 16);

    if (reader->failed)
        return false;
    ip->family = family;
    memcpy(ip->octets, octets.at, octets.count);
    return true;
}

/* Types without a case here stay raw; the type asked is ours, never the network's. */
static bool read_by_type(struct reader *reader, struct arena *arena, struct dns_record *record)
{
    switch (record->type) {
    case DNS_A:
        return read_address(reader, ENDPOINT_IPV4, &record->ip);
    case DNS_AAAA:
        return read_address(reader, ENDPOINT_IPV6, &record->ip);
    case DNS_MX:
        record->preference = reader_u16(reader);
        return read_name(reader, arena, &record->name);
    case DNS_NS:
    case DNS_CNAME:
    case DNS_PTR:
        return read_name(reader, arena, &record->name);
    case DNS_TXT:
        return read_strings(reader, arena, &record->text);
    case DNS_SOA:
    case DNS_TLSA:
        reader->rest = BYTES_EMPTY;
        return true;
    }
    reader->rest = BYTES_EMPTY;
    return true;
}

bool dns_record_decode(struct arena *arena, enum dns_type type, struct bytes data,
                       struct dns_record *record)
{
    struct reader reader = READER_OF(data);

    *record = (struct dns_record){.type = type, .raw = arena_copy(arena, data)};
    return !arena->failed && read_by_type(&reader, arena, record) && reader_at_end(&reader) &&
           !reader.failed;
}
