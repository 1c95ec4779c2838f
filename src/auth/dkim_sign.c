/*
 * Signing (RFC 6376 5): relaxed/relaxed, SHA-256, the whole body. Fields that a reader is shown are
 * named once more than they occur, so that none can be added later (8.15).
 */
#include "auth/dkim_inside.h"

enum {
    PIECE_BYTES = 16 * 1024,
    FOLD_COLUMN = 72,
    LINE_MAX_OCTETS = 900,
    NAMES_WORD_MAX = 60,
    SIGNATURE_MAX = 2048
};

static const char *const OVERSIGNED[] = {
    "from",       "to",           "cc",           "subject",
    "date",       "message-id",   "reply-to",     "in-reply-to",
    "references", "mime-version", "content-type", "content-transfer-encoding"};
/* Others may rightly add these on the way. */
static const char *const SIGNED_WHERE_PRESENT[] = {"sender",
                                                   "content-disposition",
                                                   "content-description",
                                                   "content-id",
                                                   "resent-date",
                                                   "resent-from",
                                                   "resent-to",
                                                   "resent-cc",
                                                   "resent-sender",
                                                   "resent-message-id",
                                                   "list-id",
                                                   "list-help",
                                                   "list-unsubscribe",
                                                   "list-subscribe",
                                                   "list-post",
                                                   "list-owner",
                                                   "list-archive",
                                                   "list-unsubscribe-post"};

/* ------------------------------------------------------------------ reading the message */

static const char *read_piece(struct dkim_draft *draft, const struct auth_source *message,
                              struct span room, uint64_t *offset)
{
    const struct io_result got = message->read(message->argument, room, *offset);

    if (got.status != IO_OK || got.count == 0)
        return "the message could not be read";
    const struct bytes body =
        dkim_intake_head(&draft->intake, bytes_of(room.at, MIN_OF(got.count, room.count)));
    *offset += MIN_OF(got.count, room.count);
    dkim_bodies_add(&draft->intake.bodies, body);
    return draft->intake.too_big ? "the header is too large to be signed" : NULL;
}

static const char *read_message(struct dkim_draft *draft, const struct auth_source *message)
{
    CLEANUP(buffer_free) struct buffer piece = BUFFER_WITH_LIMIT(PIECE_BYTES);
    uint8_t *memory = buffer_reserve(&piece, PIECE_BYTES);
    const char *problem = memory ? NULL : "no memory";
    uint64_t offset = 0;

    while (!problem && offset < message->size_bytes) {
        const uint64_t rest = message->size_bytes - offset;
        const struct span room = {memory, (size_t)MIN_OF(rest, (uint64_t)PIECE_BYTES)};
        problem = read_piece(draft, message, room, &offset);
    }
    return problem;
}

static const char *index_head(struct dkim_draft *draft)
{
    const struct bytes head = buffer_view(&draft->intake.head);

    if (draft->intake.head.failed)
        return "no memory";
    /* In front of such a line our field would swallow it. */
    if (head.count > 0 && (head.at[0] == ' ' || head.at[0] == '\t'))
        return "the message begins with a folded line";
    switch (dkim_fields_index(draft->arena, head, &draft->fields)) {
    case DKIM_INDEX_NO_MEMORY:
        return "no memory";
    case DKIM_INDEX_TOO_MANY:
        return "the header has too many fields to be signed";
    case DKIM_INDEX_DONE:
        break;
    }
    return draft->fields.from_count == 1 ? NULL : "the message has not exactly one From field";
}

bool dkim_draft_read(struct dkim_draft *draft, const struct auth_source *message,
                     const char **problem)
{
    draft->intake.head = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    const struct dkim_body_hash *body =
        dkim_bodies_want(&draft->intake.bodies, draft->arena, true, DKIM_NO_LIMIT);

    *problem = body ? read_message(draft, message) : "no memory";
    if (!*problem)
        *problem = index_head(draft);
    if (*problem)
        return false;
    dkim_bodies_finish(&draft->intake.bodies);
    for (size_t i = 0; i < DKIM_HASH_OCTETS; i++)
        draft->body_digest[i] = body->value[i];
    if (!body->done)
        *problem = "the body could not be hashed";
    return body->done;
}

void dkim_draft_close(struct dkim_draft *draft)
{
    dkim_intake_close(&draft->intake);
    arena_clear(draft->arena);
}

/* ------------------------------------------------------------------ h= */

static unsigned count_named(const struct dkim_fields *fields, struct bytes name)
{
    unsigned count = 0;

    for (unsigned i = 0; i < fields->count; i++)
        count += bytes_equal_nocase(fields->fields[i].name, name);
    return count;
}

/* A blank now and then is where the list may be folded; folding never changes the relaxed form. */
static void add_name(struct buffer *names, struct bytes name)
{
    const size_t word_start = bytes_find_last_byte(buffer_view(names), ' ');
    const size_t start = word_start == names->count ? 0 : word_start + 1;

    if (names->count > 0) {
        buffer_add_byte(names, ':');
        if (names->count - start + name.count > NAMES_WORD_MAX)
            buffer_add_byte(names, ' ');
    }
    buffer_add(names, name);
}

static void add_names(struct buffer *names, struct bytes name, unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        add_name(names, name);
}

static void add_default_names(struct buffer *names, const struct dkim_fields *fields,
                              enum dkim_form form)
{
    for (size_t i = 0; i < COUNT_OF(OVERSIGNED); i++) {
        const struct bytes name = bytes_of_text(OVERSIGNED[i]);
        add_names(names, name, count_named(fields, name) + 1);
    }
    for (size_t i = 0; i < COUNT_OF(SIGNED_WHERE_PRESENT); i++) {
        const struct bytes name = bytes_of_text(SIGNED_WHERE_PRESENT[i]);
        add_names(names, name, count_named(fields, name));
    }
    /* RFC 8617 4.1.2: a message signature of ARC should cover the signatures that it found. */
    if (form == DKIM_ARC_MESSAGE)
        add_names(names, BYTES_LITERAL("dkim-signature"),
                  count_named(fields, BYTES_LITERAL("dkim-signature")));
}

static bool name_is_valid(struct bytes name)
{
    for (size_t i = 0; i < name.count; i++)
        if (name.at[i] <= ' ' || name.at[i] >= 0x7f || name.at[i] == ';')
            return false;
    return name.count > 0;
}

static bool add_own_names(struct buffer *names, struct bytes list)
{
    bool good = true;

    while (list.count > 0) {
        struct bytes name = BYTES_EMPTY;
        list = bytes_cut(list, ':', &name);
        good = good && name_is_valid(bytes_trim(name));
        add_name(names, bytes_trim(name));
    }
    return good;
}

static unsigned count_byte(struct bytes text, uint8_t byte)
{
    unsigned count = 0;

    for (size_t i = 0; i < text.count; i++)
        count += text.at[i] == byte;
    return count;
}

bool dkim_draft_names(const struct dkim_draft *draft, const struct dkim_signer *signer,
                      enum dkim_form form, struct buffer *names)
{
    bool good = true;

    if (signer->headers.count > 0)
        good = add_own_names(names, signer->headers);
    else
        add_default_names(names, &draft->fields, form);
    const struct bytes list = buffer_view(names);
    return good && !names->failed && count_byte(list, ':') < DKIM_NAMES_MAX &&
           dkim_list_has(list, ':', "from") && !dkim_list_has(list, ':', "arc-seal");
}

/* ------------------------------------------------------------------ the field */

const char *dkim_signer_algorithm(const struct dkim_signer *signer)
{
    return private_key_kind(signer->key) == KEY_RSA ? "rsa-sha256" : "ed25519-sha256";
}

/* The next word, blanks before it gone; empty at the end. */
static struct bytes next_word(struct bytes *rest)
{
    size_t end = 0;

    while (rest->count > 0 && rest->at[0] <= ' ')
        *rest = bytes_skip(*rest, 1);
    while (end < rest->count && rest->at[end] > ' ')
        end++;
    const struct bytes word = bytes_slice(*rest, 0, end);
    *rest = bytes_skip(*rest, end);
    return word;
}

/* White space within b= means nothing (RFC 6376 3.5), so only there a word is cut. */
static size_t add_word(struct buffer *into, struct bytes word, size_t cut)
{
    const bool may_cut = bytes_starts_with(word, BYTES_LITERAL("b="));

    while (may_cut && word.count > cut) {
        buffer_add(into, bytes_slice(word, 0, cut));
        buffer_add_text(into, "\r\n ");
        word = bytes_skip(word, cut);
    }
    buffer_add(into, word);
    return word.count;
}

/* A seal covers the b= of the message signature with its folding; left whole there, it is the form
 * that the published cases of sealing expect. */
void dkim_text_fold(struct buffer *into, const char *name, struct bytes text)
{
    const bool arc = bytes_starts_with(bytes_of_text(name), BYTES_LITERAL("ARC-"));
    const size_t cut = arc ? LINE_MAX_OCTETS : FOLD_COLUMN;
    size_t column = bytes_of_text(name).count + 1;

    buffer_print(into, "%s:", name);
    for (struct bytes word = next_word(&text); word.count > 0; word = next_word(&text)) {
        const bool fits = column + 1 + word.count <= FOLD_COLUMN;
        buffer_add_text(into, fits ? " " : "\r\n ");
        column = fits ? column + 1 + add_word(into, word, cut) : add_word(into, word, cut);
    }
    buffer_add_text(into, "\r\n");
}

static void write_field(struct buffer *into, const struct dkim_field_text *text,
                        struct bytes signature)
{
    CLEANUP(buffer_free) struct buffer line = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);

    buffer_add(&line, text->before);
    buffer_add_text(&line, "b=");
    base64_encode(&line, signature);
    buffer_add(&line, text->after);
    dkim_text_fold(into, text->name, buffer_view(&line));
    into->failed |= line.failed;
}

/* What the verifier will hash: the field with an empty b=. */
static void hash_field(struct dkim_head_hash *hash, const struct dkim_field_text *text)
{
    CLEANUP(buffer_free) struct buffer line = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);

    write_field(&line, text, BYTES_EMPTY);
    hash->failed |= line.failed;
    dkim_head_hash_add_last(hash, buffer_view(&line), bytes_slice(buffer_view(&line), 0, 0));
}

bool dkim_field_sign(struct dkim_head_hash *hash, const struct dkim_signer *signer,
                     const struct dkim_field_text *text, struct buffer *into)
{
    uint8_t value[DKIM_HASH_OCTETS], signature[SIGNATURE_MAX];

    hash_field(hash, text);
    if (!dkim_head_hash_finish(hash, value))
        return false;
    const size_t count = private_key_sign(signer->key, bytes_of(value, sizeof value),
                                          (struct span){signature, sizeof signature});
    const bool strong = private_key_kind(signer->key) != KEY_RSA || count >= DKIM_RSA_BITS_MIN / 8;
    if (count > 0 && strong)
        write_field(into, text, bytes_of(signature, count));
    return count > 0 && strong && !into->failed;
}

/* ------------------------------------------------------------------ DKIM-Signature */

static void print_after(struct buffer *after, const struct dkim_signer *signer,
                        struct bytes body_digest, struct bytes names)
{
    const uint64_t now_s = signer->wall_us > 0 ? (uint64_t)signer->wall_us / 1000000 : 0;

    buffer_add_text(after, "; bh=");
    base64_encode(after, body_digest);
    buffer_print(after, "; c=relaxed/relaxed; d=%s; h=%.*s; s=%s; t=%llu", signer->domain,
                 BYTES_PRINT(names), signer->selector, (unsigned long long)now_s);
    if (signer->expires_after_s > 0)
        buffer_print(
            after, "; x=%llu",
            (unsigned long long)(now_s + MIN_OF(signer->expires_after_s, UINT64_MAX - now_s)));
}

static const char *sign_draft(const struct dkim_draft *draft, const struct dkim_signer *signer,
                              struct buffer *into)
{
    CLEANUP(dkim_head_hash_close) struct dkim_head_hash hash = {0};
    CLEANUP(buffer_free) struct buffer names = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    CLEANUP(buffer_free) struct buffer after = BUFFER_WITH_LIMIT(DKIM_HEAD_MAX_BYTES);
    const struct bytes before =
        arena_print(draft->arena, "v=1; a=%s; ", dkim_signer_algorithm(signer));

    if (!dkim_head_hash_open(&hash, true))
        return "no memory";
    if (!dkim_draft_names(draft, signer, DKIM_SIGNATURE, &names))
        return "the list of fields cannot be signed";
    print_after(&after, signer, bytes_of(draft->body_digest, DKIM_HASH_OCTETS),
                buffer_view(&names));
    const struct dkim_field_text text = {"DKIM-Signature", before, buffer_view(&after)};
    dkim_head_hash_add_named(&hash, &draft->fields, buffer_view(&names), draft->fields.count);
    if (after.failed || before.count == 0)
        return "no memory";
    return dkim_field_sign(&hash, signer, &text, into)
               ? NULL
               : "the key cannot sign (an RSA key needs 1024 bits)";
}

bool dkim_sign(const struct dkim_signer *signer, const struct auth_source *message,
               struct buffer *into, char *why, size_t why_room)
{
    struct arena arena = ARENA_WITH_LIMIT(4 * DKIM_HEAD_MAX_BYTES);
    CLEANUP(dkim_draft_close) struct dkim_draft draft = {.arena = &arena};
    const char *problem = NULL;

    if (!dkim_domain_is_valid(bytes_of_text(signer->domain)) ||
        !dkim_domain_is_valid(bytes_of_text(signer->selector)))
        problem = "the domain or the selector is none";
    else if (dkim_draft_read(&draft, message, &problem))
        problem = sign_draft(&draft, signer, into);
    if (problem)
        snprintf(why, why_room, "%s", problem);
    return !problem;
}
