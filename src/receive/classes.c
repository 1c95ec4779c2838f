/*
 * A message for recipients of several classes (policy.h), where each of them gets a reply of his
 * own: LMTP (RFC 2033 4.2) and PRDR. What is about the sender is judged once; then each class is
 * judged by its own filters and stored as a message of its own, since filters change what they see.
 * Nothing is said before all are decided: replies come in the order of the RCPT commands.
 *
 * Sleeps: on DNS, filters and the disk; one deadline over all. Fails: by a verdict for each class.
 */
#include "receive/session.h"

struct class_fate {
    struct verdict verdict;
    struct spool_receipt receipt;
    struct envelope envelope; /* its recipients alone */
    struct bytes filter;
    uint64_t message, took_us;
    enum disposition disposition;
    bool decided; /* else none of its recipients was taken */
};

struct fates {
    struct session *session;
    struct shown_message shown;
    struct envelope whole;
    struct class_fate each[POLICY_CLASSES_MAX];
    uint64_t deadline_us, message; /* the draft that came */
    /* As policy left them when the sender was judged. */
    enum disposition disposition;
    struct bytes hold_why;
    size_t headers;
};

/* ------------------------------------------------------------------ judging and storing */

static uint32_t recipients_of(const struct envelope *whole, uint8_t which)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < whole->recipient_count; i++)
        count += whole->recipients[i].policy_class == which ? 1 : 0;
    return count;
}

/* False: no memory. */
MUST_USE static bool envelope_part(struct fates *fates, uint8_t which)
{
    const struct envelope *whole = &fates->whole;
    const uint32_t count = recipients_of(whole, which);
    struct envelope *part = &fates->each[which].envelope;

    *part = *whole;
    part->recipient_count = 0;
    part->recipients =
        ARENA_NEW_ARRAY(&fates->session->transaction_arena, MAX_OF(count, 1u), struct recipient);
    for (uint32_t i = 0; part->recipients && i < whole->recipient_count; i++)
        if (whole->recipients[i].policy_class == which)
            part->recipients[part->recipient_count++] = whole->recipients[i];
    return part->recipients != NULL;
}

/* The transaction after the sender was judged, with the recipients of one class. */
static void class_begin(struct fates *fates, uint8_t which)
{
    struct session *session = fates->session;
    struct transaction *transaction = &session->transaction;
    const struct class_fate *fate = &fates->each[which];

    rewrite_close(&session->intake);
    session->headers.count = fates->headers;
    transaction->envelope = fate->envelope;
    /* A filter may add some: as many fit as there are. */
    transaction->recipient_room = fate->envelope.recipient_count;
    transaction->disposition = fates->disposition;
    transaction->hold_why = fates->hold_why;
    transaction->message = fates->message;
}

MUST_USE static struct verdict class_store(struct fates *fates, struct spool_receipt *receipt)
{
    struct session *session = fates->session;
    struct spool_draft *came = NULL;

    REQUIRE(rewrite_copy(session, &came));
    const struct verdict stored = message_commit(session, fates->deadline_us, receipt);
    spool_draft_close(&session->intake.draft);
    session->intake.draft = came;
    return stored;
}

MUST_USE static struct verdict class_receive(struct fates *fates, uint8_t which)
{
    struct session *session = fates->session;

    const bool masked = fiber_mask_cancel(false);
    const struct verdict judged = policy_judge_class(
        session->receive->settings.policy, &session->transaction, &fates->shown.message, which);
    fiber_mask_cancel(masked);
    REQUIRE(judged);
    return class_store(fates, &fates->each[which].receipt);
}

static void class_decide(struct fates *fates, uint8_t which)
{
    const uint64_t start_us = clock_now_us();
    const struct transaction *transaction = &fates->session->transaction;
    struct class_fate *fate = &fates->each[which];
    const bool has_room = envelope_part(fates, which);

    if (has_room && fate->envelope.recipient_count == 0)
        return;
    if (has_room)
        class_begin(fates, which);
    const struct verdict verdict =
        has_room ? class_receive(fates, which) : verdict_of(CAUSE_SERVER_BUSY);
    if (verdict_accepts(&verdict))
        message_tell_kept_back(fates->session, fate->receipt.message);
    fate->decided = true;
    fate->verdict = verdict;
    fate->filter = transaction->filter;
    fate->message = transaction->message;
    fate->disposition = transaction->disposition;
    fate->envelope = transaction->envelope; /* as filters left it */
    fate->took_us = clock_now_us() - start_us;
}

/* ------------------------------------------------------------------ replies */

static const struct class_fate *fate_of(const struct fates *fates, uint32_t command)
{
    return &fates->each[fates->session->transaction.command_classes[command]];
}

static void say_fate(struct session *session, const struct class_fate *fate)
{
    char reply[VERDICT_REPLY_MAX], id[ID_TEXT_MAX];

    if (session->lost)
        return;
    if (verdict_accepts(&fate->verdict)) {
        INVARIANT(fate->receipt.durable);
        session_say(session, "250 2.0.0 Accepted as %s",
                    id_print(fate->receipt.message, id, sizeof id));
        return;
    }
    verdict_print_reply(&fate->verdict, reply, sizeof reply);
    session_say(session, "%s", reply);
}

/* Of those that were not accepted the reversible one. */
static const struct class_fate *fate_for_all(const struct fates *fates, uint32_t count)
{
    const struct class_fate *found = fate_of(fates, 0);

    for (uint32_t i = 1; i < count && found->verdict.kind != VERDICT_DEFER; i++)
        if (fate_of(fates, i)->verdict.kind == VERDICT_DEFER)
            found = fate_of(fates, i);
    return found;
}

/* PRDR has one more reply, for the whole: good when anybody gets it. */
static void say_whole(const struct fates *fates, uint32_t accepted, uint32_t count)
{
    struct session *session = fates->session;

    if (session->listen->kind == LISTEN_LMTP || session->lost)
        return;
    if (accepted > 0)
        session_say(session, "250 2.0.0 Accepted for %u of %u recipients", accepted, count);
    else
        say_fate(session, fate_for_all(fates, count));
}

static uint32_t say_fates(const struct fates *fates)
{
    struct session *session = fates->session;
    const uint32_t count = session->transaction.accepted_commands;
    uint32_t accepted = 0;

    for (uint32_t i = 0; i < count; i++) {
        say_fate(session, fate_of(fates, i));
        accepted += verdict_accepts(&fate_of(fates, i)->verdict) ? 1 : 0;
    }
    say_whole(fates, accepted, count);
    session->answered = true;
    return accepted;
}

/* ------------------------------------------------------------------ the journal */

static void tell_fate(struct fates *fates, struct class_fate *fate)
{
    struct session *session = fates->session;
    struct transaction *transaction = &session->transaction;

    transaction->envelope = fate->envelope;
    transaction->filter = fate->filter;
    transaction->message = fate->message;
    transaction->disposition = fate->disposition;
    session->replies = 0; /* they are said */
    if (verdict_accepts(&fate->verdict))
        message_tell_accepted(session, &fate->receipt, fate->took_us);
    else
        session_object(session, &fate->verdict);
}

/* ------------------------------------------------------------------ the whole */

/* What filters did before the dot is done anew for each class, with all their objections. */
static void fates_open(struct fates *fates, struct session *session, uint64_t dot_us)
{
    struct transaction *transaction = &session->transaction;

    *fates = (struct fates){.session = session,
                            .whole = transaction->envelope,
                            .message = transaction->message,
                            .deadline_us = dot_us + session->config->limits.after_dot_us};
    buffer_clear(&session->headers);
    transaction->disposition = DISPOSITION_DELIVER;
    transaction->hold_why = BYTES_EMPTY;
    message_show(session, fates->deadline_us, &fates->shown);
}

MUST_USE static struct verdict fates_judge_sender(struct fates *fates)
{
    struct session *session = fates->session;

    REQUIRE(message_check_header(session));
    const bool masked = fiber_mask_cancel(false);
    const struct verdict judged = policy_judge_sender(session->receive->settings.policy,
                                                      &session->transaction, &fates->shown.message);
    fiber_mask_cancel(masked);
    fates->disposition = session->transaction.disposition;
    fates->hold_why = session->transaction.hold_why;
    fates->headers = session->headers.count;
    return judged;
}

struct verdict classes_receive(struct session *session, uint64_t dot_us)
{
    struct fates *fates = ARENA_NEW(&session->transaction_arena, struct fates);
    struct transaction *transaction = &session->transaction;

    if (!fates)
        return verdict_of(CAUSE_SERVER_BUSY);
    fates_open(fates, session, dot_us);
    REQUIRE(fates_judge_sender(fates));
    for (unsigned i = 0; i < transaction->class_count; i++)
        class_decide(fates, (uint8_t)i);
    const uint32_t accepted = say_fates(fates);
    if (accepted == transaction->accepted_commands)
        session->repeat.message = fate_of(fates, 0)->receipt.message;
    session->errors = accepted > 0 ? 0 : session->errors;
    if (!wire_input_pending(&session->input))
        session_flush(session);
    for (unsigned i = 0; i < transaction->class_count; i++)
        if (fates->each[i].decided)
            tell_fate(fates, &fates->each[i]);
    return verdict_accept();
}
