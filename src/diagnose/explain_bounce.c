/*
 * A bounce explained, recipient by recipient, and any explanation as text for a terminal.
 */
#include <string.h>

#include "diagnose/diagnose_private.h"
#include "diagnose/explain.h"

static const char *const FORMS[] = {"none", "dsn", "text", "complaint", "vacation"};

/* How much an explanation knows; the more of two wins. */
static unsigned weight(const struct explanation *it)
{
    return it->reason == EXPLAIN_UNDEFINED && it->matched_count == 0 ? 0
                                                                     : 1 + (unsigned)it->confidence;
}

/* The reply first; when it says little, what the report says around it, with the reply's digits. */
static void recipient_explain(const struct bounce *bounce, const struct bounce_recipient *one,
                              struct explanation *it)
{
    struct explain_question question = {one->diagnostic, one->remote_mta, one->status,
                                        one->action,     BYTES_EMPTY,     false};
    struct explanation wider;

    explain_reply(&question, it);
    if (weight(it) > 1)
        return;
    const struct bytes around[] = {one->status, one->text, bounce->text, bounce->subject};
    question.prose = true;
    for (size_t i = 0; i < COUNT_OF(around); i++) {
        question.reply = around[i];
        explain_reply(&question, &wider);
        if (weight(&wider) <= weight(it) || (i > 0 && weight(&wider) == 1))
            continue;
        if (it->code)
            wider.permanent = it->permanent;
        *it = wider;
        return;
    }
}

static void settled(struct explanation *it, enum explain_reason reason)
{
    const struct explain_question nothing = {0};

    explain_reply(&nothing, it);
    explain_as(it, reason);
}

static json_t *recipient_json(const struct bounce *bounce, const struct bounce_recipient *one)
{
    struct explanation it;

    if (bounce->form == BOUNCE_COMPLAINT)
        settled(&it, EXPLAIN_FEEDBACK);
    else if (bounce->form == BOUNCE_VACATION)
        settled(&it, EXPLAIN_VACATION);
    else if (bytes_equal_text_nocase(one->action, "delivered") ||
             bytes_equal_text_nocase(one->action, "relayed") ||
             bytes_equal_text_nocase(one->action, "expanded") ||
             bytes_equal_text_nocase(one->action, "deliverable"))
        settled(&it, EXPLAIN_DELIVERED);
    else
        recipient_explain(bounce, one, &it);
    json_t *made = explain_json(&it, one->diagnostic);
    json_object_set_new(made, "recipient", diagnose_text(one->address));
    if (one->action.count > 0)
        json_object_set_new(made, "action", diagnose_text(one->action));
    if (one->status.count > 0)
        json_object_set_new(made, "status", diagnose_text(one->status));
    if (one->remote_mta.count > 0)
        json_object_set_new(made, "host", diagnose_text(one->remote_mta));
    return made;
}

json_t *explain_bounce(const struct bounce *bounce)
{
    static const struct bounce_recipient nobody;
    json_t *rows = json_array();

    for (uint32_t i = 0; i < MAX_OF(bounce->recipient_count, 1u); i++)
        json_array_append_new(
            rows,
            recipient_json(bounce, bounce->recipient_count > 0 ? &bounce->recipients[i] : &nobody));
    json_t *made = json_copy(json_array_get(rows, 0));
    json_object_set_new(made, "form", json_string(FORMS[bounce->form]));
    json_object_set_new(made, "recipients", rows);
    return made;
}

static void print_line(struct buffer *into, const json_t *row, const char *member,
                       const char *title)
{
    const char *text = diagnose_word(row, member);

    if (!*text)
        return;
    buffer_print(into, "  %-14s", title);
    diagnose_add_safe(into, text, "                ");
    buffer_add_text(into, "\n");
}

static void print_one(struct buffer *into, const json_t *row)
{
    print_line(into, row, "recipient", "recipient:");
    print_line(into, row, "reply", "reply:");
    buffer_print(into, "  %-14s%s (reason %s), side: %s, %s, confidence %s\n",
                 "cause:", diagnose_word(row, "cause"), diagnose_word(row, "reason"),
                 diagnose_word(row, "side"), diagnose_word(row, "kind"),
                 diagnose_word(row, "confidence"));
    print_line(into, row, "provider", "provider:");
    print_line(into, row, "matched", "decided by:");
    print_line(into, row, "meaning", "means:");
    if (strcmp(diagnose_word(row, "code_meaning"), diagnose_word(row, "meaning")) != 0)
        print_line(into, row, "code_meaning", "code:");
    print_line(into, row, "enhanced_meaning", "enhanced:");
    print_line(into, row, "note", "note:");
    print_line(into, row, "advice", "do:");
    if (strcmp(diagnose_word(row, "sender_does"), diagnose_word(row, "advice")) != 0)
        print_line(into, row, "sender_does", "a sender:");
    print_line(into, row, "receiver_does", "a receiver:");
}

void explain_print(struct buffer *into, const json_t *explained)
{
    const json_t *rows = json_object_get(explained, "recipients");

    if (!rows)
        print_one(into, explained);
    for (size_t i = 0; i < json_array_size(rows); i++) {
        if (i > 0)
            buffer_add_text(into, "\n");
        print_one(into, json_array_get(rows, i));
    }
}
