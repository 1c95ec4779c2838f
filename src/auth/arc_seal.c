/*
 * ARC sealing (RFC 8617 5.1): one new set on top of the chain that was found. A chain that already
 * ends in cv=fail is left alone (5.1, step 2); a failed one is sealed by a set that covers itself
 * only (5.1.2).
 */
#include "auth/dkim_inside.h"

struct sealing {
    const struct arc_sealer *sealer;
    struct dkim_draft draft;
    struct arc_chain chain;
    unsigned instance;
    const char *verdict;                  /* cv= */
    struct buffer results, message, seal; /* the new fields */
};

static void sealing_close(struct sealing *sealing)
{
    buffer_free(&sealing->results);
    buffer_free(&sealing->message);
    buffer_free(&sealing->seal);
    dkim_draft_close(&sealing->draft);
}

/* cv= of the new seal, or why there can be none. */
static const char *choose_verdict(struct sealing *sealing, bool any)
{
    switch (sealing->sealer->chain) {
    case AUTH_NONE:
        sealing->verdict = "none";
        return any ? "the message has a chain that was not seen before" : NULL;
    case AUTH_PASS:
        sealing->verdict = "pass";
        return !any || sealing->chain.problem ? "the chain is not whole" : NULL;
    case AUTH_FAIL:
        sealing->verdict = "fail";
        return any ? NULL : "the message has no chain";
    case AUTH_TEMPERROR:
    case AUTH_SOFTFAIL:
    case AUTH_NEUTRAL:
    case AUTH_PERMERROR:
    case AUTH_POLICY:
        break;
    }
    return "the state of the chain is not known";
}

static uint64_t now_s(const struct sealing *sealing)
{
    const int64_t wall_us = sealing->sealer->signer.wall_us;

    return wall_us > 0 ? (uint64_t)wall_us / 1000000 : 0;
}

static const char *write_results(struct sealing *sealing)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    const struct bytes results = bytes_trim(sealing->sealer->authentication_results);

    buffer_print(&text, "i=%u; %s; ", sealing->instance, sealing->sealer->authserv_id);
    buffer_add(&text, results.count ? results : BYTES_LITERAL("none"));
    dkim_text_fold(&sealing->results, "ARC-Authentication-Results", buffer_view(&text));
    return text.failed || sealing->results.failed ? "no memory" : NULL;
}

static void print_message_tags(struct sealing *sealing, struct bytes names, struct buffer *after)
{
    const struct dkim_signer *signer = &sealing->sealer->signer;

    buffer_add_text(after, "; bh=");
    base64_encode(after, bytes_of(sealing->draft.body_digest, DKIM_HASH_OCTETS));
    buffer_print(after, "; c=relaxed/relaxed; d=%s; h=%.*s; i=%u; s=%s; t=%llu", signer->domain,
                 BYTES_PRINT(names), sealing->instance, signer->selector,
                 (unsigned long long)now_s(sealing));
}

static const char *write_message(struct sealing *sealing, struct bytes before)
{
    CLEANUP(dkim_head_hash_close) struct dkim_head_hash hash = {0};
    CLEANUP(buffer_free) struct buffer names = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    CLEANUP(buffer_free) struct buffer after = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    const struct dkim_signer *signer = &sealing->sealer->signer;

    if (!dkim_head_hash_open(&hash, true))
        return "no memory";
    if (!dkim_draft_names(&sealing->draft, signer, DKIM_ARC_MESSAGE, &names))
        return "the list of fields cannot be signed";
    print_message_tags(sealing, buffer_view(&names), &after);
    const struct dkim_field_text text = {"ARC-Message-Signature", before, buffer_view(&after)};
    dkim_head_hash_add_named(&hash, &sealing->draft.fields, buffer_view(&names),
                             sealing->draft.fields.count);
    if (after.failed)
        return "no memory";
    return dkim_field_sign(&hash, signer, &text, &sealing->message)
               ? NULL
               : "the key cannot sign (an RSA key needs 1024 bits)";
}

static const char *write_seal(struct sealing *sealing, struct bytes before)
{
    CLEANUP(dkim_head_hash_close) struct dkim_head_hash hash = {0};
    CLEANUP(buffer_free) struct buffer after = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    const struct dkim_signer *signer = &sealing->sealer->signer;
    const struct header_field results = {.whole = buffer_view(&sealing->results)};
    const struct header_field message = {.whole = buffer_view(&sealing->message)};
    const bool failed = sealing->sealer->chain == AUTH_FAIL;

    if (!dkim_head_hash_open(&hash, true))
        return "no memory";
    buffer_print(&after, "; cv=%s; d=%s; i=%u; s=%s; t=%llu", sealing->verdict, signer->domain,
                 sealing->instance, signer->selector, (unsigned long long)now_s(sealing));
    sealing->chain.sets[sealing->instance] = (struct arc_set){&results, &message, NULL};
    arc_hash_sets(&hash, &sealing->chain, failed ? sealing->instance : 1, sealing->instance);
    const struct dkim_field_text text = {"ARC-Seal", before, buffer_view(&after)};
    if (after.failed)
        return "no memory";
    return dkim_field_sign(&hash, signer, &text, &sealing->seal)
               ? NULL
               : "the key cannot sign (an RSA key needs 1024 bits)";
}

static const char *write_set(struct sealing *sealing, struct buffer *into)
{
    const struct bytes before = arena_print(sealing->draft.arena, "a=%s; ",
                                            dkim_signer_algorithm(&sealing->sealer->signer));
    const char *problem = before.count ? write_results(sealing) : "no memory";

    if (!problem)
        problem = write_message(sealing, before);
    if (!problem)
        problem = write_seal(sealing, before);
    if (problem)
        return problem;
    buffer_add(into, buffer_view(&sealing->seal));
    buffer_add(into, buffer_view(&sealing->message));
    buffer_add(into, buffer_view(&sealing->results));
    return into->failed ? "no memory" : NULL;
}

static const char *seal(struct sealing *sealing, struct buffer *into)
{
    const bool any = arc_chain_collect(&sealing->draft.fields, &sealing->chain);
    const struct arc_set *newest = &sealing->chain.sets[sealing->chain.highest];

    if (any && bytes_equal_text(arc_seal_verdict(newest), "fail"))
        return NULL;
    if (sealing->chain.highest >= ARC_INSTANCES_MAX)
        return "the chain has 50 sets already";
    sealing->instance = sealing->chain.highest + 1;
    const char *problem = choose_verdict(sealing, any);
    return problem ? problem : write_set(sealing, into);
}

bool arc_seal(const struct arc_sealer *sealer, const struct auth_source *message,
              struct buffer *into, char *why, size_t why_room)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * DKIM_HEAD_MAX_BYTES);
    CLEANUP(sealing_close)
    struct sealing sealing = {
        .sealer = sealer,
        .draft.arena = &arena,
        .results = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES),
        .message = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES),
        .seal = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES),
    };
    const char *problem = NULL;

    if (!dkim_domain_is_valid(bytes_of_text(sealer->signer.domain)) ||
        !dkim_domain_is_valid(bytes_of_text(sealer->signer.selector)))
        problem = "the domain or the selector is none";
    else if (dkim_draft_read(&sealing.draft, message, &problem))
        problem = seal(&sealing, into);
    if (problem)
        snprintf(why, why_room, "%s", problem);
    return !problem;
}
