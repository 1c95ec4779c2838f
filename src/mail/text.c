/* Safe text: every byte that leaves here is printable, or part of valid UTF-8 where that is
 * allowed. */
#include "mail/text.h"

#include <string.h>

void text_add_safe(struct buffer *into, struct bytes foreign, enum text_set set)
{
    const bool high = set == TEXT_UTF8 && bytes_is_utf8(foreign);
    uint8_t *memory = buffer_reserve(into, foreign.count);

    if (!memory)
        return;
    for (size_t i = 0; i < foreign.count; i++) {
        const uint8_t byte = foreign.at[i];
        const bool safe = ascii_is_print(byte) || (high && byte >= 0x80);

        memory[i] = safe ? byte : (byte == '\t' ? ' ' : '?');
    }
    buffer_claim(into, foreign.count);
}

void text_lines_break(struct text_lines *lines)
{
    buffer_add_text(lines->into, "\r\n");
    buffer_add_text(lines->into, lines->indent);
    lines->column = strlen(lines->indent);
}

static void text_lines_add_word(struct text_lines *lines, struct bytes word)
{
    const bool first = lines->column <= strlen(lines->indent);

    if (!first && lines->column + 1 + word.count > TEXT_LINE_MAX)
        text_lines_break(lines);
    else if (!first) {
        buffer_add_byte(lines->into, ' ');
        lines->column++;
    }
    text_add_safe(lines->into, word, lines->set);
    lines->column += word.count;
}

static void text_lines_add_line(struct text_lines *lines, struct bytes line)
{
    while (line.count > 0) {
        struct bytes word = BYTES_EMPTY;

        line = bytes_cut(line, ' ', &word);
        for (; word.count > TEXT_WORD_MAX; word = bytes_skip(word, TEXT_WORD_MAX))
            text_lines_add_word(lines, bytes_slice(word, 0, TEXT_WORD_MAX));
        if (word.count > 0)
            text_lines_add_word(lines, word);
    }
}

void text_lines_add(struct text_lines *lines, struct bytes foreign)
{
    for (bool first = true; foreign.count > 0; first = false) {
        struct bytes line = BYTES_EMPTY;

        foreign = bytes_cut(foreign, '\n', &line);
        line = bytes_trim(line);
        if (line.count == 0)
            continue; /* an empty continuation line would end the field */
        if (!first && lines->column > strlen(lines->indent))
            text_lines_break(lines);
        text_lines_add_line(lines, line);
    }
}
