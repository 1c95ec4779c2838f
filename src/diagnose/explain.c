/*
 * A reply explained: dialects first, then phrases, then the enhanced code, the stage, the code. All
 * knowledge is in the tables (.def); this file only walks them.
 */
#include "diagnose/explain.h"

#include <string.h>

#include "diagnose/diagnose_private.h"
#include "diagnose/explain_text.h"

struct reason_row {
    const char *name, *cause;
    enum explain_side side;
    bool hard;
    const char *meaning, *advice;
};
static const struct reason_row REASONS[] = {
#define REASON(symbol, name, cause, side, hard, meaning, advice)                                   \
    {name, cause, EXPLAIN_##side, hard, meaning, advice},
#include "diagnose/explain_reasons.def"
#undef REASON
};

struct provider_row {
    const char *name, *marks;
};
static const struct provider_row PROVIDERS[] = {
#define PROVIDER(name, marks) {name, marks},
#include "diagnose/explain_dialects.def"
#undef PROVIDER
};

struct rule {
    const char *provider, *codes;
    enum explain_reason reason;
    const char *patterns, *note;
};
static const struct rule DIALECTS[] = {
#define DIALECT(provider, codes, reason, patterns, note)                                           \
    {provider, codes, EXPLAIN_##reason, patterns, note},
#include "diagnose/explain_dialects.def"
#undef DIALECT
};
static const struct rule PHRASES[] = {
#define PHRASE(codes, reason, patterns) {"", codes, EXPLAIN_##reason, patterns, NULL},
#include "diagnose/explain_phrases.def"
#undef PHRASE
};
static const struct rule GUESSES[] = {
#define GUESS(codes, reason, patterns) {"", codes, EXPLAIN_##reason, patterns, NULL},
#include "diagnose/explain_phrases.def"
#undef GUESS
};

struct status_row {
    unsigned subject, detail;
    enum explain_reason reason;
    const char *title, *meaning;
};
static const struct status_row STATUSES[] = {
#define STATUS(subject, detail, reason, title, meaning)                                            \
    {subject, detail, EXPLAIN_##reason, title, meaning},
#include "diagnose/explain_status.def"
#undef STATUS
};

struct code_row {
    unsigned code;
    enum explain_reason reason;
    const char *meaning, *sender, *receiver;
};
static const struct code_row CODES[] = {
#define CODE(code, reason, meaning, sender, receiver)                                              \
    {code, EXPLAIN_##reason, meaning, sender, receiver},
#include "diagnose/explain_codes.def"
#undef CODE
};

struct refine_row {
    enum explain_reason reason;
    const char *codes, *patterns, *cause;
    enum explain_side side;
    const char *meaning, *advice;
};
static const struct refine_row REFINES[] = {
#define REFINE(reason, codes, patterns, cause, side, meaning, advice)                              \
    {EXPLAIN_##reason, codes, patterns, cause, EXPLAIN_##side, meaning, advice},
#include "diagnose/explain_refine.def"
#undef REFINE
};

/* What a refusal without words is about, by where it came. */
static const struct {
    const char *stage;
    enum explain_reason reason;
} STAGES[] = {{"connect", EXPLAIN_BLOCKED},  {"helo", EXPLAIN_BLOCKED},
              {"ehlo", EXPLAIN_BLOCKED},     {"mail", EXPLAIN_REJECTED},
              {"rcpt", EXPLAIN_USERUNKNOWN}, {"data", EXPLAIN_FILTERED},
              {"dot", EXPLAIN_FILTERED}};

const char *explain_reason_name(enum explain_reason reason)
{
    return REASONS[reason].name;
}

static const struct status_row *status_row(const unsigned status[3])
{
    for (size_t i = 0; status[0] && i < COUNT_OF(STATUSES); i++)
        if (STATUSES[i].subject == status[1] && STATUSES[i].detail == status[2])
            return &STATUSES[i];
    return NULL;
}

static const struct code_row *code_row(unsigned code)
{
    for (size_t i = 0; i < COUNT_OF(CODES); i++)
        if (CODES[i].code == code)
            return &CODES[i];
    return NULL;
}

static const char *provider_of(const struct explain_text *text, struct bytes host)
{
    struct explain_text named;
    struct bytes matched;

    explain_text_make(&named, host);
    for (size_t i = 0; i < COUNT_OF(PROVIDERS); i++)
        if (explain_text_fits(text, PROVIDERS[i].marks, &matched) ||
            (host.count > 0 && explain_text_fits(&named, PROVIDERS[i].marks, &matched)))
            return PROVIDERS[i].name;
    return "";
}

static bool rule_decides(struct explanation *it, const struct explain_text *text,
                         const struct rule *rule)
{
    struct bytes matched;

    if (*rule->provider && strcmp(rule->provider, it->provider) != 0)
        return false;
    if (!explain_code_fits(it->code, it->status, rule->codes) ||
        !explain_text_fits(text, rule->patterns, &matched))
        return false;
    it->reason = rule->reason;
    it->note = rule->note;
    it->matched = (const char *)matched.at;
    it->matched_count = matched.count;
    it->confidence = EXPLAIN_MEDIUM;
    return true;
}

static bool by_words(struct explanation *it, const struct explain_text *text)
{
    for (size_t i = 0; i < COUNT_OF(DIALECTS); i++)
        if (rule_decides(it, text, &DIALECTS[i])) {
            it->confidence = EXPLAIN_HIGH;
            return true;
        }
    for (size_t i = 0; i < COUNT_OF(PHRASES); i++)
        if (rule_decides(it, text, &PHRASES[i])) {
            const struct status_row *row = status_row(it->status);
            if (row && row->reason == it->reason)
                it->confidence = EXPLAIN_HIGH;
            return true;
        }
    return false;
}

/* X.Y.Z that says something by itself: not X.Y.0, and not X.7.1, which is said of everything. */
static bool by_status(struct explanation *it)
{
    const struct status_row *row = status_row(it->status);

    if (!row || row->detail == 0 || (row->subject == 7 && row->detail == 1))
        return false;
    it->reason = row->reason;
    it->confidence = EXPLAIN_MEDIUM;
    return true;
}

static bool by_guess(struct explanation *it, const struct explain_text *text)
{
    for (size_t i = 0; i < COUNT_OF(GUESSES); i++)
        if (rule_decides(it, text, &GUESSES[i])) {
            it->confidence = EXPLAIN_LOW;
            return true;
        }
    return false;
}

/* The digits that say little: the stage, then the code, then the subject of the enhanced code. */
static void by_codes(struct explanation *it, struct bytes stage)
{
    const struct status_row *status = status_row(it->status);
    const struct code_row *code = code_row(it->code);

    it->confidence = EXPLAIN_LOW;
    for (size_t i = 0; it->permanent && i < COUNT_OF(STAGES); i++)
        if (bytes_equal_text_nocase(stage, STAGES[i].stage))
            it->reason = STAGES[i].reason;
    if (it->reason == EXPLAIN_UNDEFINED && code)
        it->reason = code->reason;
    if (it->reason == EXPLAIN_UNDEFINED && status)
        it->reason = status->reason;
}

static bool reason_is_passing(enum explain_reason reason)
{
    return reason == EXPLAIN_EXPIRED || reason == EXPLAIN_MAILBOXFULL ||
           reason == EXPLAIN_NETWORKERROR || reason == EXPLAIN_SYSTEMERROR ||
           reason == EXPLAIN_SYSTEMFULL || reason == EXPLAIN_SPEEDING ||
           reason == EXPLAIN_TOOMANYCONN || reason == EXPLAIN_ONHOLD ||
           reason == EXPLAIN_BADREPUTATION || reason == EXPLAIN_UNDEFINED ||
           reason == EXPLAIN_VACATION || reason == EXPLAIN_DELIVERED;
}

/* RFC 5321 4.2.1: the first digit of the reply code binds; then the enhanced code's class. */
static bool is_permanent(const struct explanation *it, struct bytes action)
{
    const unsigned first = it->code ? it->code / 100 : it->status[0];

    if (first > 0)
        return first == 5;
    if (bytes_equal_text_nocase(action, "delayed"))
        return false;
    return bytes_equal_text_nocase(action, "failed") || !reason_is_passing(it->reason);
}

static void put_in_words(struct explanation *it, const struct explain_text *text)
{
    const struct reason_row *row = &REASONS[it->reason];
    const struct code_row *code = code_row(it->code);
    struct bytes matched;

    it->cause = row->cause;
    it->side = row->side;
    it->hard = row->hard;
    it->meaning = row->meaning;
    it->advice = row->advice;
    if (it->reason == EXPLAIN_UNDEFINED) {
        it->cause = it->permanent ? "remote.refused" : "remote.deferred";
        it->meaning = code ? code->meaning : row->meaning;
        it->advice = code ? code->sender : row->advice;
        return;
    }
    if (code && it->matched_count == 0 && !it->status[0]) {
        it->meaning = code->meaning;
        it->advice = code->sender;
        return;
    }
    for (size_t i = 0; i < COUNT_OF(REFINES); i++) {
        if (REFINES[i].reason != it->reason ||
            !explain_code_fits(it->code, it->status, REFINES[i].codes) ||
            !explain_text_fits(text, REFINES[i].patterns, &matched))
            continue;
        it->cause = REFINES[i].cause;
        it->side = REFINES[i].side;
        it->meaning = REFINES[i].meaning;
        it->advice = REFINES[i].advice;
        return;
    }
}

void explain_reply(const struct explain_question *question, struct explanation *it)
{
    struct explain_text text;

    *it = (struct explanation){0};
    explain_text_make(&text, question->reply);
    it->code = text.code;
    memcpy(it->status, text.status, sizeof it->status);
    if (!it->status[0] && !explain_status_parse(question->status, it->status))
        it->status[0] = 0;
    it->provider = provider_of(&text, question->host);
    it->permanent = is_permanent(it, question->action);
    if (!by_words(it, &text) && !by_status(it) && (question->prose || !by_guess(it, &text)))
        by_codes(it, question->stage);
    it->permanent = is_permanent(it, question->action);
    put_in_words(it, &text);
}

void explain_as(struct explanation *it, enum explain_reason reason)
{
    struct explain_text nothing = {.count = 0};

    it->reason = reason;
    it->confidence = EXPLAIN_HIGH;
    it->note = NULL;
    it->matched_count = 0;
    it->permanent = is_permanent(it, BYTES_EMPTY);
    put_in_words(it, &nothing);
}

/* What the tables say of the digits themselves. */
static void add_digits(json_t *into, const struct explanation *it)
{
    const struct code_row *code = code_row(it->code);
    const struct status_row *status = status_row(it->status);
    char digits[40];

    if (it->code)
        json_object_set_new(into, "code", json_integer(it->code));
    if (it->status[0]) {
        snprintf(digits, sizeof digits, "%u.%u.%u", it->status[0], it->status[1], it->status[2]);
        json_object_set_new(into, "enhanced", json_string(digits));
    }
    if (status)
        json_object_set_new(into, "enhanced_meaning",
                            json_sprintf("%s: %s", status->title, status->meaning));
    if (!code)
        return;
    json_object_set_new(into, "code_meaning", json_string(code->meaning));
    json_object_set_new(into, "sender_does", json_string(code->sender));
    json_object_set_new(into, "receiver_does", json_string(code->receiver));
}

json_t *explain_json(const struct explanation *it, struct bytes reply)
{
    static const char *const sides[] = {"theirs", "ours", "network", "sender"};
    static const char *const sure[] = {"low", "medium", "high"};
    json_t *made =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "cause", it->cause, "side",
                  sides[it->side], "kind", it->permanent ? "permanent" : "temporary", "confidence",
                  sure[it->confidence], "reason", explain_reason_name(it->reason), "bounce",
                  it->hard ? "hard" : "soft", "meaning", it->meaning, "advice", it->advice);

    if (*it->provider)
        json_object_set_new(made, "provider", json_string(it->provider));
    if (it->note)
        json_object_set_new(made, "note", json_string(it->note));
    if (it->matched_count > 0)
        json_object_set_new(made, "matched", json_stringn(it->matched, it->matched_count));
    add_digits(made, it);
    if (reply.count > 0)
        json_object_set_new(made, "reply", diagnose_text(reply));
    return made;
}

json_t *explain_cause(enum cause cause)
{
    const struct cause_row *row = cause_row(cause);
    struct explanation it;
    char reply[512];

    snprintf(reply, sizeof reply, "%u %u.%s %s", row->code, row->code / 100, row->enhanced,
             row->text);
    const struct explain_question question = {.reply = bytes_of_text(reply)};
    explain_reply(&question, &it);
    if (row->side == SIDE_OURS && it.reason != EXPLAIN_SYSTEMFULL)
        it.reason = EXPLAIN_SYSTEMERROR; /* a fault of ours is never about the message */
    json_t *made = diagnose_cause(cause);
    json_object_set_new(made, "reason", json_string(explain_reason_name(it.reason)));
    return made;
}
