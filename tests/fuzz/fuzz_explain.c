/* Replies of other servers, at any stage: each gets one explanation, with words that an operator
 * can read, and temporary stays temporary. */
#include "diagnose/explain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first octet chooses the stage; lines: the host, then the status, then the reply. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const stages[] = {"", "connect", "helo", "mail", "rcpt", "data", "dot"};
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(MIB);
    struct explain_question question = {0};
    struct explanation explanation;

    if (size == 0)
        return 0;
    question.stage = bytes_of_text(stages[data[0] % COUNT_OF(stages)]);
    question.prose = data[0] >= 0x80;
    struct bytes rest = bytes_of(data + 1, MIN_OF(size - 1, (size_t)16384));
    rest = bytes_cut(rest, '\n', &question.host);
    question.reply = bytes_cut(rest, '\n', &question.status);
    explain_reply(&question, &explanation);
    INVARIANT(explanation.reason < EXPLAIN_REASON_COUNT && explanation.meaning &&
              explanation.advice && explanation.cause);
    INVARIANT(explanation.code == 0 || (explanation.code >= 200 && explanation.code <= 599));
    INVARIANT(!(explanation.code / 100 == 4 && explanation.permanent && explanation.hard));
    json_t *made = explain_json(&explanation, question.reply);
    INVARIANT(json_is_object(made));
    explain_print(&text, made);
    INVARIANT(!text.failed && bytes_is_utf8(buffer_view(&text)));
    json_decref(made);
    return 0;
}
