/*
 * Bounces: the walk through the parts, what kind of report it is, and the machine-readable groups
 * of RFC 3464. Depth, parts and bytes are bounded; the walk never looks at the same byte twice a
 * level.
 */
#include "mail/bounce_private.h"

#include <string.h>

bool bounce_has_word(struct bytes text, const char *words)
{
    struct bytes rest = bytes_of_text(words), word;

    while (rest.count > 0) {
        rest = bytes_cut(rest, '|', &word);
        if (bytes_find_nocase(text, word) < text.count)
            return true;
    }
    return false;
}

static struct bytes header_text(struct arena *arena, struct bytes part, const char *name)
{
    struct header_field field;

    return header_find(part, name, &field) ? header_unfold(arena, field.value) : BYTES_EMPTY;
}

/* boundary=x or boundary="x", anywhere behind a ';' or a blank. */
static struct bytes boundary_of(struct bytes type)
{
    const struct bytes name = BYTES_LITERAL("boundary=");
    const size_t at = bytes_find_nocase(type, name);
    struct bytes value = bytes_skip(type, at + name.count), head;

    if (at == type.count)
        return BYTES_EMPTY;
    if (value.count > 0 && value.at[0] == '"')
        return bytes_slice(value, 1, bytes_find_byte(bytes_skip(value, 1), '"'));
    value = bytes_slice(value, 0, bytes_find_byte(value, ';'));
    bytes_cut(value, ' ', &head);
    return bytes_trim(head);
}

static void keep_text(struct bounce_walk *walk, struct bytes *into, struct bytes text)
{
    text = bytes_slice(text, 0, BOUNCE_TEXT_MAX - MIN_OF(into->count, (size_t)BOUNCE_TEXT_MAX));
    if (text.count > 0)
        *into = arena_print(walk->arena, "%.*s\n%.*s", BYTES_PRINT(*into), BYTES_PRINT(text));
}

static void part_walk(struct bounce_walk *walk, struct bytes part, unsigned depth);

/* Each part lies between "--boundary" lines (RFC 2046 5.1.1); the first stretch is the preamble. */
static bool parts_walk(struct bounce_walk *walk, struct bytes body, struct bytes boundary,
                       unsigned depth)
{
    const struct bytes mark = arena_print(walk->arena, "--%.*s", BYTES_PRINT(boundary));
    bool inside = false, met = false;
    struct bytes part = {body.at, 0}, rest = body;

    while (rest.count > 0 && mark.count > 2) {
        const size_t line = MIN_OF(bytes_find_byte(rest, '\n') + 1, rest.count);
        const bool is_mark = bytes_starts_with(rest, mark);
        const bool is_last =
            is_mark && bytes_starts_with(bytes_skip(rest, mark.count), BYTES_LITERAL("--"));

        if (is_mark && inside)
            part_walk(walk, part, depth + 1);
        else if (is_mark && depth == 0)
            keep_text(walk, &walk->plain, bytes_trim(part));
        rest = bytes_skip(rest, line);
        if (is_mark) {
            inside = met = true;
            part = (struct bytes){rest.at, 0};
        } else {
            part.count += line;
        }
        if (is_last)
            return true;
    }
    if (inside)
        part_walk(walk, part, depth + 1);
    return met;
}

static struct bytes decoded(struct arena *arena, struct bytes part, struct bytes body)
{
    const struct bytes encoding = header_text(arena, part, "Content-Transfer-Encoding");

    if (bytes_equal_text_nocase(encoding, "base64"))
        return mime_decode_base64(arena, body);
    if (bytes_equal_text_nocase(encoding, "quoted-printable"))
        return mime_decode_quoted(arena, body);
    return body;
}

/* A lone part: kept by what it says it is. */
static void leaf_read(struct bounce_walk *walk, struct bytes part, struct bytes body)
{
    const struct bytes type = header_text(walk->arena, part, "Content-Type");

    if (bounce_has_word(type, "message/delivery-status|message/global-delivery-status")) {
        walk->has_status = true;
        bounce_status_read(walk->arena, decoded(walk->arena, part, body), walk->bounce);
    } else if (bounce_has_word(type, "message/feedback-report")) {
        walk->has_feedback = true;
    } else if (bytes_starts_with_nocase(type, BYTES_LITERAL("message/"))) {
        if (walk->nested.count == 0)
            walk->nested = decoded(walk->arena, part, body);
    } else if (bytes_starts_with_nocase(type, BYTES_LITERAL("text/html"))) {
        keep_text(walk, &walk->html,
                  bounce_html_text(walk->arena, decoded(walk->arena, part, body)));
    } else if (type.count == 0 || (bytes_starts_with_nocase(type, BYTES_LITERAL("text/")) &&
                                   !bounce_has_word(type, "rfc822"))) {
        keep_text(walk, &walk->plain, decoded(walk->arena, part, body));
    }
}

static void part_walk(struct bounce_walk *walk, struct bytes part, unsigned depth)
{
    const struct bytes type = header_text(walk->arena, part, "Content-Type");
    const struct bytes body = bytes_skip(part, header_end(part));
    const struct bytes boundary = boundary_of(type);

    if (depth > BOUNCE_DEPTH_MAX || walk->parts++ >= BOUNCE_PARTS_MAX || walk->arena->failed)
        return;
    if (bytes_starts_with_nocase(type, BYTES_LITERAL("multipart/")) && boundary.count > 0 &&
        parts_walk(walk, body, boundary, depth))
        return;
    /* A multipart whose boundary is not there is read as plain text: better than not at all. */
    if (bytes_starts_with_nocase(type, BYTES_LITERAL("multipart/")))
        keep_text(walk, &walk->plain, body);
    else
        leaf_read(walk, part, body);
}

/* "rfc822; a@b" and "smtp; 550 ...": the type goes where it says nothing. */
static struct bytes without_type(struct bytes value)
{
    const size_t at = bytes_find_byte(value, ';');
    const struct bytes type = bytes_trim(bytes_slice(value, 0, at));

    if (at == value.count || !bounce_has_word(type, "smtp|rfc822|utf-8|dns|unknown"))
        return value;
    return bytes_trim(bytes_skip(value, at + 1));
}

static bool group_read(struct arena *arena, struct bytes group, struct bounce_recipient *found)
{
    struct header_walk walk = HEADER_WALK_OF(group);
    struct header_field field;
    struct bytes original = BYTES_EMPTY, rest;
    bool any = false;

    *found = (struct bounce_recipient){0};
    while (header_next(&walk, &field)) {
        const struct bytes value = header_unfold(arena, field.value);

        if (bytes_equal_text_nocase(field.name, "Final-Recipient"))
            found->address = bounce_address_find(value, &rest);
        else if (bytes_equal_text_nocase(field.name, "Original-Recipient"))
            original = bounce_address_find(value, &rest);
        else if (bytes_equal_text_nocase(field.name, "Action"))
            found->action = value;
        else if (bytes_equal_text_nocase(field.name, "Status"))
            found->status = value;
        else if (bytes_equal_text_nocase(field.name, "Remote-MTA"))
            found->remote_mta = without_type(value);
        else if (bytes_equal_text_nocase(field.name, "Diagnostic-Code"))
            found->diagnostic = without_type(value);
        else
            continue;
        any = true;
    }
    if (found->address.count == 0)
        found->address = original;
    return any && (found->address.count > 0 || found->action.count > 0);
}

void bounce_status_read(struct arena *arena, struct bytes status, struct bounce *bounce)
{
    while (status.count > 0 && bounce->recipient_count < BOUNCE_RECIPIENTS_MAX) {
        const size_t end = header_end(status);

        if (group_read(arena, bytes_slice(status, 0, end),
                       &bounce->recipients[bounce->recipient_count]))
            bounce->recipient_count++;
        status = bytes_skip(status, MAX_OF(end, (size_t)1));
    }
}

static bool is_automatic_answer(struct arena *arena, struct bytes message, struct bounce *bounce)
{
    const struct bytes submitted = header_text(arena, message, "Auto-Submitted");
    const struct bytes precedence = header_text(arena, message, "Precedence");

    if (bounce_has_word(bounce->from, "mailer-daemon|postmaster|mail delivery|delivery sub") ||
        header_count(message, "X-Failed-Recipients") > 0)
        return false;
    return bounce_has_word(submitted, "auto-replied|auto-notified") ||
           bounce_has_word(precedence, "auto_reply") || header_count(message, "X-Autoreply") > 0 ||
           header_count(message, "X-Autorespond") > 0 ||
           header_count(message, "X-Auto-Reply") > 0 ||
           bounce_has_word(bounce->subject,
                           "auto reply|auto-reply|autoreply|auto:|auto response|automatic reply|"
                           "automated reply|out of office|out of the office|out-of-office|"
                           "vacation|abwesenheit|on holiday|away from|autosvar|resposta auto|"
                           "automatische antwort|respuesta auto|absence|automatic response");
}

static enum bounce_form form_of(const struct bounce_walk *walk, struct bytes message)
{
    struct bounce *bounce = walk->bounce;

    if (walk->has_feedback ||
        bounce_has_word(bounce->text, "\"notificationType\":\"Complaint\"|"
                                      "\"notificationType\": \"Complaint\"|Feedback-Type: abuse"))
        return BOUNCE_COMPLAINT;
    if (walk->has_status && bounce->recipient_count > 0)
        return BOUNCE_DSN;
    if (is_automatic_answer(walk->arena, message, bounce))
        return BOUNCE_VACATION;
    if (bounce_has_word(bounce->from, "mailer|daemon|postmaster|mail delivery|deliver|admin") ||
        bounce_has_word(bounce->subject,
                        "undeliver|deliver|returned|failure|failed|bounce|notif|error") ||
        header_count(message, "X-Failed-Recipients") > 0)
        return BOUNCE_FREE_TEXT;
    return BOUNCE_NONE;
}

static void message_read(struct bounce_walk *walk, struct bytes message)
{
    struct bounce *bounce = walk->bounce;

    bounce->subject = header_text(walk->arena, message, "Subject");
    bounce->from = header_text(walk->arena, message, "From");
    part_walk(walk, message, 0);
    bounce->text = bytes_trim(walk->plain.count > 0 ? walk->plain : walk->html);
    /* Some write the groups into a part of another type, or forget to say that there are parts. */
    const struct bytes group = BYTES_LITERAL("\nFinal-Recipient:");
    const size_t at = bytes_find_nocase(bounce->text, group);
    if (!walk->has_status && at < bounce->text.count) {
        walk->has_status = true;
        bounce_status_read(walk->arena, bytes_skip(bounce->text, at + 1), bounce);
    }
    bounce->form = form_of(walk, message);
}

/* Somebody forwarded a bounce as an attachment; one level is enough. The message that counts. */
static struct bytes nested_read(struct arena *arena, struct bytes message, struct bytes nested,
                                struct bounce *bounce)
{
    struct bounce *const inner = ARENA_NEW(arena, struct bounce);
    struct bounce_walk walk = {.arena = arena, .bounce = inner};

    if (!inner)
        return message;
    message_read(&walk, nested);
    if (inner->form == BOUNCE_NONE)
        return message;
    *bounce = *inner;
    return nested;
}

bool bounce_parse(struct arena *arena, struct bytes message, struct bounce *bounce)
{
    struct bounce_walk walk = {.arena = arena, .bounce = bounce};

    *bounce = (struct bounce){0};
    /* An mbox file's separator is no field. */
    if (bytes_starts_with(message, BYTES_LITERAL("From ")))
        message = bytes_skip(message, bytes_find_byte(message, '\n') + 1);
    message_read(&walk, message);
    if (bounce->form == BOUNCE_NONE && walk.nested.count > 0)
        message = nested_read(arena, message, walk.nested, bounce);
    bounce_text_read(arena, bytes_slice(message, 0, header_end(message)), bounce);
    return !arena->failed;
}
