/*
 * remote_text: questions and answers in plain memory, and what the settings of sources share as
 * text.
 */
#include <stdarg.h>
#include <string.h>

#include "directory/remote.h"

bool remote_question_fill(struct remote_question *question, struct address address)
{
    const size_t whole = address.local.count + 1 + address.domain.count;
    size_t at = 0;

    *question = (struct remote_question){.address = address};
    if (whole > MAIL_ADDRESS_MAX || address.local.count == 0)
        return false;
    for (size_t i = 0; i < address.local.count; i++)
        question->whole[at++] = (char)ascii_lower(address.local.at[i]);
    question->whole[at++] = '@';
    for (size_t i = 0; i < address.domain.count; i++)
        question->whole[at++] = (char)ascii_lower(address.domain.at[i]);
    question->whole_count = whole;
    question->local_count = address.local.count;
    return memchr(question->whole, 0, whole) == NULL &&
           bytes_is_utf8(bytes_of(question->whole, whole));
}

struct bytes remote_question_whole(const struct remote_question *question)
{
    return bytes_of(question->whole, question->whole_count);
}

struct bytes remote_question_local(const struct remote_question *question)
{
    return bytes_of(question->whole, question->local_count);
}

struct bytes remote_question_domain(const struct remote_question *question)
{
    return bytes_skip(remote_question_whole(question), question->local_count + 1);
}

void remote_answer_fail(struct remote_answer *answer, enum lookup_reason reason, const char *format,
                        ...)
{
    va_list arguments;

    answer->status = LOOKUP_FAILED;
    answer->reason = reason;
    va_start(arguments, format);
    vsnprintf(answer->words, sizeof answer->words, format, arguments);
    va_end(arguments);
    /* A library's words may be several lines; the journal gets the first. */
    answer->words[strcspn(answer->words, "\r\n")] = '\0';
}

void remote_answer_add_target(struct remote_answer *answer, struct bytes value)
{
    if (answer->targets.limit_bytes == 0)
        answer->targets = BUFFER_WITH_LIMIT(REMOTE_TARGETS_MAX);
    if (value.count == 0)
        return;
    buffer_add(&answer->targets, value);
    buffer_add_byte(&answer->targets, '\n');
    if (answer->targets.failed)
        remote_answer_fail(answer, LOOKUP_REASON_PARTIAL, "the alias has too many values");
}

/* ------------------------------------------------------------------ settings as text */

bool table_name_is_fine(struct bytes name)
{
    if (name.count == 0 || name.count > 64)
        return false;
    for (size_t i = 0; i < name.count; i++)
        if (!ascii_is_alnum(name.at[i]) && name.at[i] != '_')
            return false;
    return true;
}
