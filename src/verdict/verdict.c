#include "verdict/verdict.h"

enum { CLASS_DIGIT_DEFER = 4, CLASS_DIGIT_REFUSE = 5, CLASS_DIGIT_ACCEPT = 2 };

/* Octal-looking codes such as 00 and 01 are below 8, so their value is what they show. */
static const struct cause_row ROWS[CAUSE_COUNT] = {
#define CAUSE(symbol, cause_text, class, cause_side, last_digits, subject_detail, reply, what,     \
              next)                                                                                \
    [CAUSE_##symbol] = {.name = (cause_text),                                                      \
                        .kind = VERDICT_##class,                                                   \
                        .side = SIDE_##cause_side,                                                 \
                        .code = CLASS_DIGIT_##class * 100 + (last_digits),                         \
                        .enhanced = (subject_detail),                                              \
                        .text = (reply),                                                           \
                        .meaning = (what),                                                         \
                        .advice = (next)},
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

char *verdict_print_reply(const struct verdict *verdict, char *into, size_t room)
{
    const struct cause_row *row = cause_row(verdict->cause);

    snprintf(into, room, "%u %u.%s %s (%s)", row->code, row->code / 100, row->enhanced, row->text,
             row->name);
    return into;
}
