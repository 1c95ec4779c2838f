/* What an entity's header says of its body, and how it is written anew. */
#include "mail/mime7_inside.h"

#include <string.h>

#define TYPE_ROOM (16 * KIB)

/* ------------------------------------------------------------------ Content-Type (RFC 2045 5.1) */

struct type_reader {
    struct bytes rest;
};

static bool is_token(uint8_t byte)
{
    return byte > ' ' && byte < 0x7f && !memchr("()<>@,;:\\\"/[]?=", byte, 15);
}

/* Blanks, line ends and comments, which may be nested. */
static void skip_blank(struct type_reader *reader)
{
    unsigned depth = 0;

    for (; reader->rest.count > 0; reader->rest = bytes_skip(reader->rest, 1)) {
        const uint8_t byte = reader->rest.at[0];
        if (byte == '(')
            depth++;
        else if (depth > 0 && byte == '\\')
            reader->rest = bytes_skip(reader->rest, 1);
        else if (depth > 0 && byte == ')')
            depth--;
        else if (depth == 0 && byte != ' ' && byte != '\t' && byte != '\r' && byte != '\n')
            return;
    }
}

static struct bytes read_token(struct type_reader *reader)
{
    size_t count = 0;

    skip_blank(reader);
    while (count < reader->rest.count && is_token(reader->rest.at[count]))
        count++;
    const struct bytes token = bytes_slice(reader->rest, 0, count);
    reader->rest = bytes_skip(reader->rest, count);
    return token;
}

static bool read_mark(struct type_reader *reader, char mark)
{
    skip_blank(reader);
    if (reader->rest.count == 0 || reader->rest.at[0] != mark)
        return false;
    reader->rest = bytes_skip(reader->rest, 1);
    return true;
}

/* A token or a quoted string into `value`; its length, or more than `room` when it is too long.
 * What stands in a boundary without quotes though it should not is taken up to a blank or ';'. */
static size_t read_value(struct type_reader *reader, char *value, size_t room)
{
    size_t count = 0;
    const bool quoted = read_mark(reader, '"');

    while (reader->rest.count > 0) {
        uint8_t byte = reader->rest.at[0];
        if (quoted ? byte == '"' : (byte <= ' ' || byte == ';' || byte == '('))
            break;
        if (quoted && byte == '\\' && reader->rest.count > 1) {
            reader->rest = bytes_skip(reader->rest, 1);
            byte = reader->rest.at[0];
        }
        reader->rest = bytes_skip(reader->rest, 1);
        if (quoted && (byte == '\r' || byte == '\n'))
            continue; /* folding */
        if (count < room)
            value[count] = (char)byte;
        count++;
    }
    if (quoted)
        reader->rest = bytes_skip(reader->rest, 1);
    return count;
}

static void read_boundary(struct type_reader *reader, struct mime7_kind *kind)
{
    while (read_mark(reader, ';')) {
        char value[MIME7_BOUNDARY];
        const struct bytes name = read_token(reader);
        if (!read_mark(reader, '='))
            continue;
        size_t count = read_value(reader, value, sizeof value);
        if (!bytes_equal_text_nocase(name, "boundary") || kind->boundary_count > 0 ||
            count > sizeof value)
            continue;
        while (count > 0 && value[count - 1] == ' ') /* RFC 2046 5.1.1: none ends in a blank */
            count--;
        memcpy(kind->boundary, value, count);
        kind->boundary_count = count;
    }
}

static int declared_of(struct bytes header)
{
    struct header_field field;

    if (!header_find(header, "Content-Transfer-Encoding", &field))
        return MIME7_CTE_PLAIN;
    struct type_reader reader = {field.value};
    const struct bytes token = read_token(&reader);
    if (bytes_equal_text_nocase(token, "7bit") || token.count == 0)
        return MIME7_CTE_PLAIN;
    if (bytes_equal_text_nocase(token, "8bit"))
        return MIME7_CTE_8BIT;
    return bytes_equal_text_nocase(token, "binary") ? MIME7_CTE_BINARY : MIME7_CTE_ENCODED;
}

void mime7_kind_read(struct bytes header, bool in_digest, struct mime7_kind *kind)
{
    struct header_field field;
    struct bytes type = BYTES_EMPTY, subtype = BYTES_EMPTY;
    struct type_reader reader = {0};

    *kind = (struct mime7_kind){.declared = declared_of(header)};
    if (header_find(header, "Content-Type", &field)) {
        reader.rest = field.value;
        type = read_token(&reader);
        if (read_mark(&reader, '/'))
            subtype = read_token(&reader);
    }
    const bool encoded = kind->declared == MIME7_CTE_ENCODED;
    const bool message = bytes_equal_text_nocase(type, "message");
    if (bytes_equal_text_nocase(type, "multipart")) {
        read_boundary(&reader, kind);
        kind->is_multipart = kind->boundary_count > 0 && !encoded;
        kind->is_opaque = !kind->is_multipart;
        kind->is_signed = bytes_equal_text_nocase(subtype, "signed");
        kind->is_digest = bytes_equal_text_nocase(subtype, "digest");
    } else if (message || (in_digest && type.count == 0)) {
        kind->is_message = (!message || bytes_equal_text_nocase(subtype, "rfc822")) && !encoded;
        kind->is_opaque = !kind->is_message && !bytes_equal_text_nocase(subtype, "global");
    }
    kind->is_text = type.count == 0 || bytes_equal_text_nocase(type, "text");
}

/* ------------------------------------------------------------------ writing */

static bool field_goes(const struct mime7 *mime7, struct bytes name)
{
    return mime7->encoding != MIME7_KEEP &&
           bytes_equal_text_nocase(name, "Content-Transfer-Encoding");
}

/* RFC 1428: what came without a word of its set of characters is called unknown-8bit. */
static void print_new_fields(const struct mime7 *mime7, struct bytes header, struct buffer *into)
{
    struct header_field field;
    const bool encodes = mime7->encoding == MIME7_QUOTED || mime7->encoding == MIME7_BASE64;

    if (mime7->is_message && mime7->encoding != MIME7_KEEP &&
        !header_find(header, "MIME-Version", &field))
        buffer_add_text(into, "MIME-Version: 1.0\r\n");
    if (encodes && !header_find(header, "Content-Type", &field))
        buffer_add_text(into, "Content-Type: text/plain; charset=unknown-8bit\r\n");
    if (encodes)
        buffer_print(into, "Content-Transfer-Encoding: %s\r\n",
                     mime7->encoding == MIME7_QUOTED ? "quoted-printable" : "base64");
}

void mime7_header_print(const struct mime7 *mime7, struct bytes header, struct buffer *into)
{
    struct header_walk walk = HEADER_WALK_OF(header);
    struct header_field field;
    struct bytes rest = header;

    while (header_next(&walk, &field)) {
        if (!field_goes(mime7, field.name))
            continue;
        const size_t before = (size_t)(field.whole.at - rest.at);
        buffer_add(into, bytes_slice(rest, 0, before));
        rest = bytes_skip(rest, before + field.whole.count);
    }
    const size_t fields = (size_t)(walk.rest.at - rest.at);
    buffer_add(into, bytes_slice(rest, 0, fields));
    print_new_fields(mime7, header, into);
    buffer_add(into, bytes_skip(rest, fields));
}
