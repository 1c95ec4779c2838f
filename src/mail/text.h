/*
 * Foreign bytes made safe for a place that we write: header fields and the parts of a DSN. Private
 * to the room.
 */
#ifndef MAIL_TEXT_H
#define MAIL_TEXT_H

#include "mail/mail.h"

enum text_set { TEXT_ASCII = 0, TEXT_UTF8 };

#define TEXT_LINE_MAX 76  /* where folding begins: RFC 5322 2.1.1 asks for 78 at most */
#define TEXT_WORD_MAX 512 /* a longer word is cut, so that no line reaches 998 */

/* Controls become '?', and so do bytes beyond ASCII unless the set is UTF-8 and they are valid. */
void text_add_safe(struct buffer *into, struct bytes foreign, enum text_set set);

/* Words are written with one blank between them, and a new line begins where one gets too long. */
struct text_lines {
    struct buffer *into;
    const char *indent; /* written behind each line end; a literal */
    enum text_set set;
    size_t column;
};
void text_lines_add(struct text_lines *lines, struct bytes foreign); /* LF begins a new line */
void text_lines_break(struct text_lines *lines);                     /* CR LF and the indent */

#endif
