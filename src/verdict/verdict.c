#include "verdict/verdict.h"

enum { CLASS_DIGIT_DEFER = 4, CLASS_DIGIT_REFUSE = 5, CLASS_DIGIT_ACCEPT = 2 };

/* Octal-looking codes such as 00 and 01 are below 8, so their value is what they show. */
static const struct cause_row ROWS[CAUSE_COUNT] = {
#define CAUSE(symbol, cause_text, class, cause_side, last_digits, subject_detail, reply, what,     \
              next)                                                                                \
    CAUSE_OF_HOST(symbol, cause_text, class, cause_side, last_digits, subject_detail, reply, what, \
                  next, NULL)
#define CAUSE_OF_HOST(symbol, cause_text, class, cause_side, last_digits, subject_detail, reply,   \
                      what, next, meanwhile)                                                       \
    [CAUSE_##symbol] = {.name = (cause_text),                                                      \
                        .kind = VERDICT_##class,                                                   \
                        .side = SIDE_##cause_side,                                                 \
                        .code = CLASS_DIGIT_##class * 100 + (last_digits),                         \
                        .enhanced = (subject_detail),                                              \
                        .text = (reply),                                                           \
                        .meaning = (what),                                                         \
                        .advice = (next),                                                          \
                        .happening = (meanwhile)},
#include "verdict/causes.def"
#undef CAUSE
};

const struct cause_row *cause_row(enum cause cause)
{
    return (unsigned)cause < CAUSE_COUNT ? &ROWS[cause] : &ROWS[CAUSE_UNDECIDED];
}

const char *cause_name(enum cause cause)
{
    return cause_row(cause)->name;
}

const char *side_name(enum cause_side side)
{
    switch (side) {
    case SIDE_OURS:
        return "ours";
    case SIDE_THEIRS:
        return "theirs";
    case SIDE_POLICY:
        return "policy";
    }
    return "ours";
}

bool cause_parse(struct bytes name, enum cause *cause)
{
    for (unsigned i = 0; i < CAUSE_COUNT; i++) {
        if (bytes_equal_text(name, ROWS[i].name)) {
            *cause = (enum cause)i;
            return true;
        }
    }
    return false;
}

struct verdict verdict_with(enum cause cause, struct bytes detail)
{
    return (struct verdict){.kind = cause_row(cause)->kind, .cause = cause, .detail = detail};
}

struct verdict verdict_of(enum cause cause)
{
    return verdict_with(cause, BYTES_EMPTY);
}

struct verdict verdict_accept(void)
{
    return verdict_of(CAUSE_ACCEPTED);
}

bool verdict_accepts(const struct verdict *verdict)
{
    return verdict->kind == VERDICT_ACCEPT;
}

bool verdict_closes(const struct verdict *verdict)
{
    return cause_row(verdict->cause)->code == 421;
}

/* ------------------------------------------------------------------ replies in a milter's words */

/* Its own whole lines are in the detail, of the class that the row stands for. */
static bool has_own_reply(const struct verdict *verdict)
{
    const struct bytes words = verdict->detail;
    uint64_t code = 0;

    if (verdict->cause != CAUSE_FILTER_MILTER_REPLYCODE_4 &&
        verdict->cause != CAUSE_FILTER_MILTER_REPLYCODE_5 &&
        verdict->cause != CAUSE_FILTER_MILTER_SHUTDOWN)
        return false;
    if (words.count < 4 || !bytes_to_u64(bytes_slice(words, 0, 3), &code))
        return false;
    if (verdict->cause == CAUSE_FILTER_MILTER_SHUTDOWN)
        return code == 421;
    return code / 100 == cause_row(verdict->cause)->code / 100;
}

/* As many whole lines as there is room for; the last one ends the reply. */
static void print_own_reply(struct bytes words, char *into, size_t room)
{
    size_t used = 0, last = 0;

    into[0] = '\0';
    for (struct bytes line; words.count > 0;) {
        words = bytes_cut(words, '\n', &line);
        if (line.count < 4 || used + line.count + 3 > room)
            break;
        last = used > 0 ? used + 2 : 0;
        used += (size_t)snprintf(into + used, room - used, "%s%.*s", used > 0 ? "\r\n" : "",
                                 BYTES_PRINT(line));
    }
    if (used >= last + 4)
        into[last + 3] = ' ';
}

unsigned verdict_code(const struct verdict *verdict)
{
    uint64_t code = 0;

    if (has_own_reply(verdict) && bytes_to_u64(bytes_slice(verdict->detail, 0, 3), &code))
        return (unsigned)code;
    return cause_row(verdict->cause)->code;
}

char *verdict_print_reply(const struct verdict *verdict, char *into, size_t room)
{
    const struct cause_row *row = cause_row(verdict->cause);

    if (has_own_reply(verdict)) {
        print_own_reply(verdict->detail, into, room);
        return into;
    }
    snprintf(into, room, "%u %u.%s %s (%s)", row->code, row->code / 100, row->enhanced, row->text,
             row->name);
    return into;
}
