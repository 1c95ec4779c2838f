/* The walk through the entities of a message, line by line. */
#include "mail/mime7_inside.h"

#include <string.h>

/* ------------------------------------------------------------------ lines */

static bool is_high(uint8_t byte)
{
    return byte >= 0x80;
}

static bool has_high(struct bytes text)
{
    for (size_t i = 0; i < text.count; i++)
        if (is_high(text.at[i]))
            return true;
    return false;
}

/* Octets of its line end: 2, 1, or 0. */
static size_t end_length(struct bytes line)
{
    if (line.count == 0 || line.at[line.count - 1] != '\n')
        return 0;
    return line.count > 1 && line.at[line.count - 2] == '\r' ? 2 : 1;
}

static bool is_blank_line(struct bytes line)
{
    return line.count > 0 && end_length(line) == line.count;
}

/* Is it a delimiter of this multipart (RFC 2046 5.1.1)? *closes: of its end. */
static bool level_delimits(const struct mime7_level *level, struct bytes line, bool *closes)
{
    struct bytes rest = bytes_skip(line, 2);

    if (!bytes_starts_with(rest, bytes_of(level->boundary, level->count)))
        return false;
    rest = bytes_skip(rest, level->count);
    *closes = bytes_starts_with(rest, BYTES_LITERAL("--"));
    rest = bytes_skip(rest, *closes ? 2 : 0);
    rest = bytes_slice(rest, 0, rest.count - end_length(rest));
    while (rest.count > 0 && (rest.at[0] == ' ' || rest.at[0] == '\t'))
        rest = bytes_skip(rest, 1);
    return rest.count == 0;
}

/* The innermost multipart that the line delimits, counted from 1; 0: none. An outer one ends all
 * that is inside. */
static unsigned find_delimited(const struct mime7 *mime7, struct bytes line, bool *closes)
{
    if (!bytes_starts_with(line, BYTES_LITERAL("--")))
        return 0;
    for (unsigned i = mime7->depth; i > 0; i--)
        if (level_delimits(&mime7->levels[i - 1], line, closes))
            return i;
    return 0;
}

static void write_out(struct mime7 *mime7, struct buffer *into, struct bytes text)
{
    if (mime7->writes)
        buffer_add(into, text);
}

/* ------------------------------------------------------------------ leaves */

static void leaf_begin(struct mime7 *mime7)
{
    mime7->place = MIME7_IN_LEAF;
    mime7->octets = mime7->high = mime7->line_octets = 0;
    mime7->is_awkward = false;
    mime7->held_count = 0;
    mime7_encoder_begin(mime7);
}

static enum mime7_encoding leaf_decide(struct mime7 *mime7)
{
    const bool is_plain = mime7->declared == MIME7_CTE_PLAIN;
    const bool is_wide = mime7->declared == MIME7_CTE_8BIT || mime7->declared == MIME7_CTE_BINARY;

    if (mime7->is_signed || (!is_plain && !is_wide)) {
        if (mime7->high > 0 && mime7->fault == MIME7_FINE)
            mime7->fault = mime7->is_signed ? MIME7_SIGNED : MIME7_UNFIT;
        return MIME7_KEEP;
    }
    if (mime7->high == 0 && (is_plain || !mime7->is_awkward))
        return is_wide ? MIME7_RELABEL : MIME7_KEEP;
    if (mime7->is_opaque) {
        if (mime7->fault == MIME7_FINE)
            mime7->fault = MIME7_UNFIT;
        return MIME7_KEEP;
    }
    /* Quoted-printable stays readable, and is the shorter one up to a sixth. */
    return mime7->is_text && mime7->declared != MIME7_CTE_BINARY && mime7->high * 4 <= mime7->octets
               ? MIME7_QUOTED
               : MIME7_BASE64;
}

static void leaf_survey(struct mime7 *mime7, struct bytes text)
{
    for (size_t i = 0; i < text.count; i++) {
        const uint8_t byte = text.at[i];

        mime7->octets++;
        mime7->high += is_high(byte);
        mime7->line_octets = byte == '\n' ? 0 : mime7->line_octets + 1;
        if (byte == 0 || mime7->line_octets > 999)
            mime7->is_awkward = true;
        if (byte == '\n' && (i == 0 || text.at[i - 1] != '\r'))
            mime7->is_awkward = true;
        if (byte == '\r' && (i + 1 == text.count || text.at[i + 1] != '\n'))
            mime7->is_awkward = true;
    }
}

/* What a leaf's end is: a delimiter, to which the last line end belongs, or the message's. */
static void leaf_end(struct mime7 *mime7, struct buffer *into, bool delimited)
{
    if (!mime7->writes) {
        const enum mime7_encoding encoding = leaf_decide(mime7);
        buffer_add_byte(&mime7->encodings, (uint8_t)encoding);
        mime7->quoted += encoding == MIME7_QUOTED;
        mime7->base64 += encoding == MIME7_BASE64;
        mime7->relabelled += encoding == MIME7_RELABEL;
    } else if (mime7->encoding == MIME7_QUOTED || mime7->encoding == MIME7_BASE64) {
        const struct bytes held = bytes_of(mime7->held_end, mime7->held_count);
        if (!delimited)
            mime7_encode(mime7, into, held);
        mime7_encoder_end(mime7, into);
        if (delimited && held.count > 0)
            buffer_add_text(into, "\r\n");
    }
    mime7->held_count = 0;
}

static void leaf_line(struct mime7 *mime7, struct buffer *into, struct bytes line)
{
    if (!mime7->writes) {
        leaf_survey(mime7, line);
        return;
    }
    if (mime7->encoding != MIME7_QUOTED && mime7->encoding != MIME7_BASE64) {
        buffer_add(into, line);
        return;
    }
    const size_t end = end_length(line);
    mime7_encode(mime7, into, bytes_of(mime7->held_end, mime7->held_count));
    mime7_encode(mime7, into, bytes_slice(line, 0, line.count - end));
    mime7->held_count = end;
    if (end > 0)
        memcpy(mime7->held_end, line.at + line.count - end, end);
}

/* Nobody reads it, so what cannot go is marked, unless it is signed. */
static void between_line(struct mime7 *mime7, struct buffer *into, struct bytes line)
{
    if (!mime7->writes) {
        const bool high = has_high(line);
        if (high && mime7->is_signed && mime7->fault == MIME7_FINE)
            mime7->fault = MIME7_SIGNED;
        mime7->relabelled += high && !mime7->is_signed;
        return;
    }
    for (size_t i = 0; i < line.count; i++)
        buffer_add_byte(into, is_high(line.at[i]) ? '?' : line.at[i]);
}

/* ------------------------------------------------------------------ headers */

static void header_begin(struct mime7 *mime7, bool is_message)
{
    mime7->place = MIME7_IN_HEADER;
    mime7->is_message = is_message;
    buffer_clear(&mime7->header);
}

static void multipart_begin(struct mime7 *mime7, const struct mime7_kind *kind)
{
    if (mime7->depth == MIME7_DEPTH) {
        mime7->fault = mime7->fault == MIME7_FINE ? MIME7_LIMIT : mime7->fault;
        mime7->is_opaque = true;
        leaf_begin(mime7);
        return;
    }
    struct mime7_level *level = &mime7->levels[mime7->depth++];
    memcpy(level->boundary, kind->boundary, kind->boundary_count);
    level->count = kind->boundary_count;
    level->is_digest = kind->is_digest;
    level->is_signed = mime7->is_signed || kind->is_signed;
    mime7->is_signed = level->is_signed;
    mime7->place = MIME7_BETWEEN;
}

static enum mime7_encoding next_encoding(struct mime7 *mime7)
{
    const unsigned leaf = mime7->leaf++;

    if (leaf >= MIME7_PARTS_MOST && mime7->fault == MIME7_FINE)
        mime7->fault = MIME7_LIMIT;
    return mime7->writes && leaf < mime7->encodings.count
               ? (enum mime7_encoding)mime7->encodings.at[leaf]
               : MIME7_KEEP;
}

static void header_end_reached(struct mime7 *mime7, struct buffer *into)
{
    const struct bytes header = buffer_view(&mime7->header);
    struct mime7_kind kind;

    mime7_kind_read(header, mime7->in_digest, &kind);
    mime7->declared = kind.declared;
    mime7->is_text = kind.is_text;
    mime7->is_opaque = kind.is_opaque;
    if (!mime7->writes && has_high(header) && mime7->fault == MIME7_FINE)
        mime7->fault = mime7->is_signed ? MIME7_SIGNED : MIME7_HEADER;
    if (kind.is_multipart || kind.is_message) {
        const bool relabels =
            !mime7->is_signed && !kind.is_signed &&
            (kind.declared == MIME7_CTE_8BIT || kind.declared == MIME7_CTE_BINARY);
        mime7->encoding = relabels ? MIME7_RELABEL : MIME7_KEEP;
        mime7->relabelled += relabels && !mime7->writes;
    } else {
        mime7->encoding = next_encoding(mime7);
    }
    if (mime7->writes)
        mime7_header_print(mime7, header, into);
    mime7->in_digest = false;
    if (kind.is_multipart)
        multipart_begin(mime7, &kind);
    else if (kind.is_message)
        header_begin(mime7, true);
    else
        leaf_begin(mime7);
}

static void header_line(struct mime7 *mime7, struct buffer *into, struct bytes line)
{
    buffer_add(&mime7->header, line);
    if (mime7->header.failed) {
        mime7->fault = mime7->fault == MIME7_FINE ? MIME7_LIMIT : mime7->fault;
        buffer_clear(&mime7->header);
    }
    if (!mime7->line_goes_on && is_blank_line(line))
        header_end_reached(mime7, into);
}

/* ------------------------------------------------------------------ the walk */

static void end_entity(struct mime7 *mime7, struct buffer *into, bool delimited)
{
    if (mime7->place == MIME7_IN_HEADER) /* it has no body */
        header_end_reached(mime7, into);
    /* A nested message's header begins where the one around it ended, so there may be one more. */
    if (mime7->place == MIME7_IN_HEADER)
        write_out(mime7, into, buffer_view(&mime7->header));
    if (mime7->place == MIME7_IN_LEAF)
        leaf_end(mime7, into, delimited);
}

static void delimiter_met(struct mime7 *mime7, struct buffer *into, unsigned number, bool closes)
{
    const struct mime7_level *level = &mime7->levels[number - 1];

    end_entity(mime7, into, true);
    mime7->is_signed = level->is_signed;
    mime7->in_digest = level->is_digest;
    mime7->depth = closes ? number - 1 : number;
    if (closes)
        mime7->place = MIME7_BETWEEN;
    else
        header_begin(mime7, false);
}

static void take_line(struct mime7 *mime7, struct buffer *into, struct bytes line)
{
    bool closes = false;
    const unsigned number = mime7->line_goes_on ? 0 : find_delimited(mime7, line, &closes);

    if (number > 0) {
        delimiter_met(mime7, into, number, closes);
        write_out(mime7, into, line);
    } else if (mime7->place == MIME7_IN_HEADER) {
        header_line(mime7, into, line);
    } else if (mime7->place == MIME7_IN_LEAF) {
        leaf_line(mime7, into, line);
    } else {
        between_line(mime7, into, line);
    }
    mime7->line_goes_on = line.count == 0 || line.at[line.count - 1] != '\n';
}

/* What has gathered of a line. A CR at its end may be half of a line end, and is kept back. */
static void take_gathered(struct mime7 *mime7, struct buffer *into, bool is_last)
{
    const bool keeps =
        !is_last && mime7->line_count == MIME7_LINE && mime7->line[mime7->line_count - 1] == '\r';

    if (mime7->line_count - keeps > 0)
        take_line(mime7, into, bytes_of(mime7->line, mime7->line_count - keeps));
    mime7->line[0] = '\r';
    mime7->line_count = keeps;
}

void mime7_begin(struct mime7 *mime7, bool writes)
{
    struct buffer encodings = writes ? mime7->encodings : BUFFER_WITH_LIMIT(MIME7_PARTS_MOST + 1);
    struct buffer header = writes ? mime7->header : BUFFER_WITH_LIMIT(MIME7_HEADER_MOST);

    *mime7 = (struct mime7){.writes = writes,
                            .fault = mime7->fault,
                            .quoted = mime7->quoted,
                            .base64 = mime7->base64,
                            .relabelled = mime7->relabelled,
                            .encodings = encodings,
                            .header = header};
    header_begin(mime7, true);
}

void mime7_add(struct mime7 *mime7, struct buffer *into, struct bytes piece)
{
    while (piece.count > 0 && mime7->fault == MIME7_FINE) {
        const size_t room = MIME7_LINE - mime7->line_count;
        const struct bytes near = bytes_slice(piece, 0, room);
        const size_t end = bytes_find_byte(near, '\n');
        const size_t taken = end < near.count ? end + 1 : near.count;

        memcpy(mime7->line + mime7->line_count, near.at, taken);
        mime7->line_count += taken;
        piece = bytes_skip(piece, taken);
        if (end < near.count || mime7->line_count == MIME7_LINE)
            take_gathered(mime7, into, end < near.count);
    }
}

void mime7_end(struct mime7 *mime7, struct buffer *into)
{
    if (mime7->line_count > 0)
        take_gathered(mime7, into, true);
    end_entity(mime7, into, false);
    if (mime7->encodings.failed && mime7->fault == MIME7_FINE)
        mime7->fault = MIME7_LIMIT;
}

void mime7_free(struct mime7 *mime7)
{
    buffer_free(&mime7->encodings);
    buffer_free(&mime7->header);
}

bool mime7_changes(const struct mime7 *mime7)
{
    return mime7->quoted + mime7->base64 + mime7->relabelled > 0;
}
